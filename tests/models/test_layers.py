"""Layers compiled, or with activations computed again: the same numbers as plain ones."""

import shutil

import pytest
import torch
from conftest import make_model
from small_networks import SEQUENCES, measure

from plaudit.config import LoraSettings, ModelSettings
from plaudit.errors import ModelError
from plaudit.models.loading import load_causal
from plaudit.models.network import make_trainable
from plaudit.text.batches import collate
from plaudit.text.chat import TokenSequence


def trained(folder, lora, **changes):
    """A policy with an adapter that does something, or all of whose weights are trained."""
    model = load_causal(str(folder), ModelSettings(dtype="float32", **changes))
    policy = make_trainable(model.network, lora, role="policy", seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return policy


@pytest.mark.parametrize("lora", [LoraSettings(rank=4), None])
@pytest.mark.parametrize("cost", [0, 20_000])
def test_activations_computed_again_change_no_number_and_are_not_kept(lora, cost, tmp_path, monkeypatch):
    """Of a layer nothing is kept but what goes into it."""
    monkeypatch.setattr("plaudit.text.rows.COST_OF_A_BLOCK", cost)
    assert (len(collate(SEQUENCES).rows.blocks) > 1) == (cost == 0)
    plain, again = {}, {}
    for layers in (1, 3):
        model = make_model(tmp_path / str(layers), num_hidden_layers=layers)
        log_probs, gradients, plain[layers] = measure(trained(model, lora))
        found, its_gradients, again[layers] = measure(trained(model, lora, activation_checkpointing=True))
        assert log_probs.equal(found)
        for one, other in zip(gradients, its_gradients, strict=True):
            torch.testing.assert_close(one, other)
    of_inputs = len(collate(SEQUENCES).token_ids) * 32 * 4  # bytes: tokens of a width of 32, float32
    assert again[3] - again[1] == 2 * of_inputs < (plain[3] - plain[1]) / 5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("lora", [LoraSettings(rank=4), None])
def test_compiled_layers_give_the_same_and_are_compiled_once_for_all_layers_and_sizes(tiny_model, lora):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = trained(tiny_model, lora), trained(tiny_model, lora, compile=True)
    for sequences in (SEQUENCES, SEQUENCES[:2], [*SEQUENCES, TokenSequence([7] * 9, [8] * 7)]):
        log_probs, gradients, _ = measure(plain, sequences)
        other_log_probs, other_gradients, _ = measure(compiled, sequences)
        torch.testing.assert_close(log_probs, other_log_probs, atol=1e-5, rtol=1e-4)
        for one, other in zip(gradients, other_gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8


def test_without_a_compiler_compiling_is_refused_with_what_to_do(tiny_model, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ModelError, match=r"needs a C\+\+ compiler"):
        load_causal(str(tiny_model), ModelSettings(device="cpu", compile=True))
