"""Libraries' code that a process gives back after it has started."""

import ctypes
import subprocess
import sys

import pytest

from plaudit.models import code_pages

WITHOUT_ITS_CODE = """
import sys
import numpy as np
import torch
from plaudit.kernels import machine_code
from plaudit.models import code_pages

def held():
    "MB of each library's file in this process' memory."
    found, name = {}, ""
    for line in open("/proc/self/smaps"):
        words = line.split()
        if not words[0].endswith(":"):
            name = words[-1].rpartition("/")[2]
        elif words[0] == "Rss:":
            found[name] = found.get(name, 0) + int(words[1]) / 1024
    return found["libllvmlite.so"], found["libtorch_cpu.so"]

if sys.argv[1] == "traced":
    code_pages._is_traced = lambda: True
before = held()
code_pages.give_back()
after = held()
numbers = np.arange(5)

@machine_code.called
def doubled(x):
    return 2 * x

assert doubled(numbers).tolist() == [0, 2, 4, 6, 8]
assert torch.arange(9.0).view(3, 3).square().sum() == 204
print(*before, *after)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("how", "most_left"), [("plain", 0.3), ("traced", 1.0)])
def test_code_is_given_back_and_works_all_the_same(how, most_left):
    command = [sys.executable, "-c", WITHOUT_ITS_CODE, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    of_llvm, of_torch, llvm_left, torch_left = map(float, done.stdout.split())
    assert of_llvm > 20
    assert of_torch > 20
    for left, before in ((llvm_left, of_llvm), (torch_left, of_torch)):
        assert left <= most_left * before
        assert left > 0.9 * before or how == "plain"


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ([5, 1, 0, 0, 22, 0], False),
        ([5, 1, 22, 0, 0, 0], True),
        ([30, 8, 0, 0], False),
        ([30, 12, 0, 0], True),
        ([], False),
    ],
)
def test_a_library_whose_code_was_changed_is_known_by_what_it_says(words, changes):
    memory = (ctypes.c_uint64 * (len(words) + 1))(0, *words)
    header = code_pages._Header(kind=2, place=8, size=8 * len(words))
    assert code_pages._changes_code(ctypes.addressof(memory), header) is changes
    header.kind = 1
    assert not code_pages._changes_code(ctypes.addressof(memory), header)
