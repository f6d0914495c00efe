"""Libraries' code that a process gives back after it has started."""

import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from plaudit.config import ModelSettings
from plaudit.models import code_pages, loading
from plaudit.models.layers import set_layers
from plaudit.models.network import Network
from plaudit.sampling import in_process
from plaudit.text.chat import Stops

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BEGIN = """
import ctypes
import mmap
import threading
import numpy as np
import torch
from plaudit.kernels import machine_code
from plaudit.models import code_pages, memory

def held(library):
    "MB of its file in this process' memory."
    areas = memory.areas_of_files("smaps")
    return sum(int(facts["Rss:"]) for _, name, facts in areas if name.endswith(library)) / 1024

LIBRARIES = "libllvmlite.so", "libtorch_cpu.so"
"""

GIVE_BACK = """
before = [held(library) for library in LIBRARIES]
code_pages.give_back()
after = [held(library) for library in LIBRARIES]
numbers = np.arange(5)

@machine_code.called
def doubled(x):
    return 2 * x

assert doubled(numbers).tolist() == [0, 2, 4, 6, 8]
assert torch.arange(9.0).view(3, 3).square().sum() == 204
assert all(left < 0.3 * had for left, had in zip(after, before)), (before, after)
"""

CHANGED = """
areas = [area for area in memory.areas_of_files("smaps") if area[1].endswith(LIBRARIES[0])]
area = max((place for place, _, facts in areas if "x" in facts["access"]), key=len)
own = ctypes.CDLL(None)
own.mprotect.argtypes = own.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
last = area.stop - mmap.PAGESIZE  # its end is filled with what is never run
assert own.mprotect(last, mmap.PAGESIZE, 7) == 0
ctypes.memmove(area.stop - 8, b"changed!", 8)
assert own.mprotect(last, mmap.PAGESIZE, 5) == 0
code_pages.give_back()
assert ctypes.string_at(area.stop - 8, 8) == b"changed!"
"""

SIDE_BY_SIDE = """
def often():
    for _ in range(10):
        code_pages.give_back()

threads = [threading.Thread(target=often) for _ in range(3)]
for thread in threads:
    thread.start()
import scipy.spatial, scipy.stats  # libraries that are loaded meanwhile
for thread in threads:
    thread.join()
"""


@on_linux
@pytest.mark.parametrize("what", [GIVE_BACK, CHANGED, SIDE_BY_SIDE], ids=["works", "changed", "side by side"])
def test_code_is_given_back_and_works_all_the_same(what):
    subprocess.run([sys.executable, "-c", BEGIN + what], check=True, timeout=120)


@pytest.mark.parametrize(
    ("facts", "unwritten"),
    [
        ({"access": "r-xp", "Anonymous:": "0", "Swap:": "0"}, True),
        ({"access": "rw-p", "Anonymous:": "0", "Swap:": "0"}, False),
        ({"access": "r--p", "Anonymous:": "4", "Swap:": "0"}, False),
        ({"access": "r--p", "Anonymous:": "0", "Swap:": "4"}, False),
        ({"access": "r--p"}, False),
    ],
)
def test_what_a_process_has_written_to_is_known_by_what_the_system_says(facts, unwritten):
    assert code_pages._unwritten(facts) is unwritten


def small():
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    )


def test_code_is_given_back_before_weights_are_loaded_and_after_the_first_step(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(code_pages, "give_back", lambda: done.append(len(done)))
    small().save_pretrained(tmp_path)
    loading._from_pretrained(LlamaForCausalLM, str(tmp_path), "small", torch.device("cpu"), torch.float32)
    assert len(done) == 1
    model = small().eval().requires_grad_(False)
    set_layers(model.base_model, ModelSettings())
    network = Network(body=model.base_model, head=model.get_output_embeddings(), packs=True)
    in_process._give_back_code.cache_clear()
    for _ in range(2):
        in_process.sample(network, [[1, 2]], stops=Stops(frozenset()), max_new_tokens=3, seed=0)
    assert len(done) == 2
