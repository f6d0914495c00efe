"""What a process that trains on a CPU keeps of its memory."""

import platform
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from plaudit.cpu import memory
from plaudit.cpu.fused_projections import beside_each_other, weights_in_groups

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TAKE_AND_GIVE_BACK = """
import sys
import torch
from plaudit.cpu import memory

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


def resident():
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@on_linux
def test_zeros_take_memory_only_where_they_were_written():
    before = resident()
    pages = memory.Pages(96 << 20)
    first, second = pages.take((64 << 20) + 1), pages.take(32 << 20)
    assert first.data_ptr() % 64 == second.data_ptr() % 64 == 0
    assert resident() - before < 16e6
    assert not second.any()
    first[:8] = 1
    second[:8] = 2
    assert (int(first.sum()), int(second.sum()), len(first), len(second)) == (8, 16, (64 << 20) + 1, 32 << 20)
    more = pages.take(80 << 20)  # than was asked for in the beginning
    assert len(more) == 80 << 20
    assert not more[:64].any()


@on_linux
def test_a_file_s_pages_are_given_back_one_weight_after_the_other(tmp_path, monkeypatch):
    held = nn.Module()
    held.large, held.small, held.own = (nn.Parameter(torch.randn(n, 1000)) for n in (16_000, 8_000, 10))
    save_file({"large": held.large.data, "small": held.small.data}, tmp_path / "weights.safetensors")
    expected = {name: weight.detach().clone() for name, weight in held.named_parameters()}
    own = held.own.data_ptr()
    mapped = load_file(tmp_path / "weights.safetensors")
    for name, weight in mapped.items():
        getattr(held, name).data = weight
    place, before = held.large.data_ptr(), resident()
    float(held.large.detach().sum() + held.small.detach().sum())
    assert resident() - before > 90e6  # all pages have been read
    before = resident()
    memory.replace([[held.large]], lambda old: old[::2].clone())
    assert resident() - before < -20e6  # the half that is new, less the pages that went, though `mapped` holds them
    assert held.large.data_ptr() != place
    assert held.large.equal(expected["large"][::2])
    assert mapped["large"].equal(expected["large"])  # read from the file once more
    monkeypatch.setattr(memory, "keep", lambda: True)
    place = held.small.data_ptr()
    memory.take_from_files([[held.small], [held.own]])
    assert held.small.data_ptr() != place
    assert held.own.data_ptr() == own
    assert held.small.equal(expected["small"])


def test_weights_of_a_group_lie_beside_each_other():
    weights = [nn.Parameter(torch.randn(n, 3)) for n in (4, 2, 5)]
    expected = [weight.detach().bfloat16() for weight in weights]
    memory.replace([weights[:2], weights[2:]], Tensor.bfloat16)
    assert all(weight.equal(its) for weight, its in zip(weights, expected, strict=True))
    assert weights[1].data_ptr() == weights[0].data_ptr() + 2 * 4 * 3
    assert beside_each_other(weights[:2]).data_ptr() == weights[0].data_ptr()  # and so need not be moved


def test_every_weight_is_in_one_group():
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    groups = weights_in_groups(model)
    assert sorted(id(weight) for group in groups for weight in group) == sorted(map(id, model.parameters()))
    assert sorted(map(len, groups), reverse=True)[:5] == [3, 3, 2, 2, 1]
    states = model.model.layers[1].self_attn
    assert any(group[1] is states.k_proj.weight and group[2] is states.v_proj.weight for group in groups if group[2:])


@on_linux
@pytest.mark.parametrize("why", ["it keeps nothing", "the model is too large"])
def test_weights_stay_in_their_file(tmp_path, monkeypatch, why):
    layer = nn.Linear(300, 400)
    save_file({"weight": layer.weight.data}, tmp_path / "weights.safetensors")
    layer.weight.data = load_file(tmp_path / "weights.safetensors")["weight"]
    place = layer.weight.data_ptr()
    monkeypatch.setattr(memory, "keep", lambda: why != "it keeps nothing")
    monkeypatch.setattr(memory, "_of_machine", lambda: 3 * 4 * 300 * 400)
    memory.take_from_files([[layer.weight]])
    assert layer.weight.data_ptr() == place
    monkeypatch.setattr(memory, "keep", lambda: True)
    monkeypatch.setattr(memory, "_of_machine", lambda: 4 * 4 * 300 * 400)
    memory.take_from_files([[layer.weight]])
    assert layer.weight.data_ptr() != place
