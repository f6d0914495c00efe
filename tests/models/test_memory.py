"""What a process that trains on a CPU keeps of its memory."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

TAKE_AND_GIVE_BACK = """
import sys
import torch
from plaudit.models import memory

def of(line, lines):
    return sum(int(found.split()[1]) for found in lines if found.startswith(line)) >> 10  # MB

if sys.argv[1] == "kept":
    assert memory.keep() and memory.keep()
pieces = [torch.ones(1 << 20) for _ in range(100)]  # of 4 MB
large = of("AnonHugePages", open("/proc/self/smaps"))
del pieces
print(of("VmRSS", open("/proc/self/status")), large)
"""


def held(how: str) -> tuple[int, int]:
    """MB that a process holds after giving 400 MB back, and how much was in large pages before."""
    done = subprocess.run([sys.executable, "-c", TAKE_AND_GIVE_BACK, how], capture_output=True, text=True, check=True)
    left, large = map(int, done.stdout.split())
    return left, large


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_what_was_freed_is_kept_in_large_pages():
    (plain, _), (kept, large) = held("plain"), held("kept")
    assert kept > plain + 300
    if "[never]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        assert large > 300
