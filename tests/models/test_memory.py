"""What a process that trains on a CPU keeps of its memory."""

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plaudit.models import memory

TAKE_AND_GIVE_BACK = """
import sys
import torch
from plaudit.models import memory

def of(line, lines):
    return sum(int(found.split()[1]) for found in lines if found.startswith(line)) >> 10  # MB

if sys.argv[1] == "kept":
    assert memory.keep() and memory.keep()
pieces = [torch.ones(1 << 20) for _ in range(75)] + [torch.ones(25 << 20)]  # of 4 and of 100 MB
large = of("AnonHugePages", open("/proc/self/smaps"))
del pieces
print(of("VmRSS", open("/proc/self/status")), large)
"""


def held(how: str) -> tuple[int, int]:
    """MB that a process holds after giving 400 MB back, and how much was in large pages before."""
    done = subprocess.run([sys.executable, "-c", TAKE_AND_GIVE_BACK, how], capture_output=True, text=True, check=True)
    left, large = map(int, done.stdout.split())
    return left, large


OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not OVERCOMMIT.exists() or OVERCOMMIT.read_text().strip() == "2",
    reason="of glibc's allocator, where what is reserved is not counted as used",
)
def test_what_was_freed_is_kept_in_large_pages():
    (plain, _), (kept, large) = held("plain"), held("kept")
    assert kept > plain + 300
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if pages.exists() and "[madvise]" in pages.read_text():
        assert large > 300


def test_nothing_changes_outside_of_the_main_thread():
    with ThreadPoolExecutor() as pool:
        assert not pool.submit(memory.keep).result()
