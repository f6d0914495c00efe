"""The engine's border: what is behind it, what runs with it off, and what it does with a wrong kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_networks import OPTIONS, PROMPTS, load, measure
from test_structure import FILES, imported, module_name

from plaudit import cpu
from plaudit.config import LoraSettings, ModelSettings, resolve
from plaudit.cpu import fused_decode, fused_modules, fusing
from plaudit.cpu.kernels import machine_code
from plaudit.errors import ConfigError
from plaudit.models.network import make_trainable
from plaudit.sampling.in_process import sample

ALONE = """
import sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
from small_networks import OPTIONS, PROMPTS, SEQUENCES, load
from plaudit.text.batches import collate
from plaudit.config import LoraSettings, OptimiserSettings
from plaudit.models.network import make_trainable
from plaudit.sampling.in_process import sample
from plaudit.training.steps.optimiser import Optimiser
network = load("llama", Path({folder!r}), dtype="bfloat16")
sample(network, PROMPTS, **OPTIONS)
policy = make_trainable(network, None, role="policy", seed=0)
policy.log_probs(collate(SEQUENCES))[0].sum().backward()
optimiser = Optimiser(policy, OptimiserSettings(learning_rate=0.1), 1)
optimiser.step()
assert not [name for name in sys.modules if name.split(".")[0] in ("numba", "llvmlite")]
assert not [name for name in sys.modules if name.startswith("plaudit.cpu.kernels")]
"""


def test_nothing_outside_imports_more_than_the_face():
    for path in FILES:
        if not module_name(path).startswith("cpu"):
            behind = {name for name in imported(path) if name.startswith("cpu.")}
            own = {name for name in behind if hasattr(cpu, name.removeprefix("cpu."))}
            assert behind <= own, path


def test_the_face_itself_imports_nothing_compiled():
    code = "import sys, plaudit.cpu; print([n for n in sys.modules if n.split('.')[0] in ('numba', 'llvmlite')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_off_samples_and_trains_without_anything_of_numba(tmp_path):
    code = ALONE.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, cpu.VARIABLE: "off"}
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("by", ["setting", "variable"])
def test_off_computes_the_same_by_pytorch_alone(by, tmp_path, monkeypatch):
    ours = make_trainable(load("llama", tmp_path / "a"), LoraSettings(rank=4), role="policy", seed=0)
    log_probs, gradients, _ = measure(ours)
    drawn = sample(ours, PROMPTS, **OPTIONS)
    if by == "setting":
        cpu.use("off")
        monkeypatch.setattr(cpu.switch, "use", lambda setting: None)
        monkeypatch.setattr("plaudit.models.loading.cpu.use", lambda setting: None)
    else:
        monkeypatch.setenv(cpu.VARIABLE, "off")

    def fail():
        raise AssertionError("a kernel ran")

    monkeypatch.setattr(machine_code, "in_use", fail)
    plain = make_trainable(load("llama", tmp_path / "b"), LoraSettings(rank=4), role="policy", seed=0)
    plain_log_probs, plain_gradients, _ = measure(plain)
    torch.testing.assert_close(log_probs, plain_log_probs, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * max(1e-3, float(other.abs().max())))
    assert [[c.token_ids for c in group] for group in drawn] == [
        [c.token_ids for c in group] for group in sample(plain, PROMPTS, **OPTIONS)
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_that_give_other_numbers_are_left_out_with_one_warning(dtype, tmp_path, monkeypatch, capsys):
    right = load("llama", tmp_path / "right", dtype=dtype)
    assert not fusing.is_wrong(right.body)
    assert "CPU kernels" not in capsys.readouterr().err
    norm = fused_modules._Norm.__call__
    monkeypatch.setattr(fused_modules._Norm, "__call__", lambda self, *given: 1.1 * norm(self, *given))
    normed = fused_modules._normed

    def wrong(*given):
        states, found = normed(*given)
        return states, 1.1 * found

    monkeypatch.setattr(fused_modules, "_normed", wrong)
    network = load("llama", tmp_path / "wrong", dtype=dtype)
    assert capsys.readouterr().err.count("are left out and it runs on PyTorch alone") == 1
    assert fusing.is_wrong(network.body)
    assert not any("forward" in vars(module) for module in network.body.modules())
    with cpu.packed_weights(network, 2) as products:
        assert cpu.decode_step(network, products) is None
    monkeypatch.undo()
    ids = torch.tensor([[1, 50, 60, 70]])
    with torch.no_grad():
        expected = right.body(input_ids=ids).last_hidden_state
        torch.testing.assert_close(network.body(input_ids=ids).last_hidden_state, expected, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("family", fused_modules.KINDS)
def test_rounding_alone_is_far_below_what_is_allowed(family, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fusing, "MOST_OFF", {dtype: most / 4 for dtype, most in fusing.MOST_OFF.items()})
    for dtype in ("float32", "bfloat16"):
        network = load(family.lower(), tmp_path / dtype, dtype=dtype)
        assert not fusing.is_wrong(network.body)
        assert any("forward" in vars(module) for module in network.body.modules())


def test_the_setting_is_auto_or_off_and_a_plain_off_of_yaml_is_off(monkeypatch):
    assert resolve(overrides=["model.cpu_kernels=off"]).model.cpu_kernels == "off"
    assert ModelSettings().cpu_kernels == "auto"
    with pytest.raises(ConfigError, match="Known: auto, off"):
        resolve(overrides=["model.cpu_kernels=on"])
    monkeypatch.setenv(cpu.VARIABLE, "no")
    with pytest.raises(ConfigError, match="PLAUDIT_CPU_KERNELS=no: it is auto or off"):
        cpu.use("auto")


def test_the_variable_goes_before_the_setting(monkeypatch):
    cpu.use("off")
    assert not cpu.is_on()
    monkeypatch.setenv(cpu.VARIABLE, "auto")
    assert cpu.is_on()
    monkeypatch.setenv(cpu.VARIABLE, "off")
    cpu.use("auto")
    assert not cpu.is_on()
    assert not cpu.serves(torch.zeros(1))


def test_a_body_that_was_checked_is_the_one_that_decodes_by_kernels(tmp_path):
    network = load("llama", tmp_path)
    with torch.no_grad(), network.active(), cpu.packed_weights(network, 2) as products:
        assert isinstance(cpu.decode_step(network, products), fused_decode.FusedStep)
