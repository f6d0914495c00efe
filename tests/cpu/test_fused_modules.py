"""Norms, gates and attention in one pass each: the numbers and gradients of the modules' own."""

import pytest
import torch
from small_networks import PROMPTS, load, measure
from torch.autograd import gradcheck
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from plaudit.config import LoraSettings
from plaudit.cpu import fused_modules, fusing
from plaudit.cpu.fused_modules import _Attention, _Gated, _Norm, _RmsNorm, _Rotated
from plaudit.models.network import make_trainable
from plaudit.text.chat import TokenSequence

SEQUENCES = [TokenSequence(p, [44, 55, 66, 70 + i][: 1 + i % 4]) for i, p in enumerate(PROMPTS)]
SEQUENCES.append(TokenSequence(PROMPTS[1], [90, 91, 92]))  # a prompt that two share


def policy(family, folder, lora, dtype="float32"):
    network = make_trainable(load(family, folder, dtype=dtype), lora, role="policy", seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.trainable_parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    network.publish()
    return network


def fused(network):
    return [m for m in network.body.modules() if isinstance(vars(m).get("forward"), _Norm | _Attention)]


@pytest.mark.parametrize("lora", [LoraSettings(rank=4, targets="all"), None])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_log_probs_and_gradients_are_the_modules_own(family, lora, tmp_path, monkeypatch):
    ours = policy(family, tmp_path, lora)
    assert len(fused(ours)) == (11 if family == "qwen3" else 7)
    log_probs, gradients, kept = measure(ours, SEQUENCES)
    monkeypatch.setattr(fusing, "fuse_modules", lambda body: None)
    plain = policy(family, tmp_path, lora)
    assert not fused(plain)
    plain_log_probs, plain_gradients, plain_kept = measure(plain, SEQUENCES)
    torch.testing.assert_close(log_probs, plain_log_probs, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    assert kept < 0.9 * plain_kept


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_in_bfloat16_gradients_are_as_far_from_float32_as_the_modules_are(family, tmp_path, monkeypatch):
    lora = LoraSettings(rank=4, targets="all")
    exact = torch.cat([g.flatten() for g in measure(policy(family, tmp_path / "exact", lora), SEQUENCES)[1]])
    ours = torch.cat([g.flatten() for g in measure(policy(family, tmp_path / "ours", lora, "bfloat16"), SEQUENCES)[1]])
    monkeypatch.setattr(fusing, "fuse_modules", lambda body: None)
    plain = torch.cat([g.flatten() for g in measure(policy(family, tmp_path / "p", lora, "bfloat16"), SEQUENCES)[1]])
    assert (ours - exact).norm() < 1.2 * (plain - exact).norm()


def test_a_copy_of_a_body_computes_with_its_own_weights(tmp_path):
    """Without an adapter the trained role is a copy."""
    network = load("llama", tmp_path)
    copied = make_trainable(network, None, role="policy", seed=0)
    assert {id(m) for m in fused(copied)}.isdisjoint({id(m) for m in fused(network)})
    assert len(fused(copied)) == len(fused(network)) > 0
    for module in fused(copied):
        assert vars(module)["forward"].module is module


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox"])
def test_other_families_stay_as_they_are(family, tmp_path):
    assert not fused(load(family, tmp_path))


@pytest.mark.filterwarnings("ignore:Input .* requires gradient and is not a double precision")
def test_backward_passes_are_the_derivatives():
    torch.manual_seed(0)
    options = {"eps": 1e-2, "atol": 3e-3, "rtol": 3e-2, "nondet_tol": 1e-6}  # differences of float32
    x, weight = torch.randn(4, 8, requires_grad=True), torch.rand(8, requires_grad=True)
    more = torch.randn(4, 8, requires_grad=True)
    angles = torch.rand(4, 2).repeat(1, 2)
    assert gradcheck(lambda a, b: _RmsNorm.apply(a, None, b, 1e-5), (x, weight), **options)
    assert gradcheck(lambda a, b: _RmsNorm.apply(a, None, b, 1e-5)[1], (x, weight), **options)
    assert gradcheck(lambda a, b, c: _RmsNorm.apply(a, b, c, 1e-5), (x, more, weight), **options)
    assert gradcheck(lambda a, b, c: _RmsNorm.apply(a, b, c, 1e-5)[0], (x, more, weight), **options)
    assert gradcheck(_Gated.apply, (x,), **options)
    states = torch.randn(4, 16, requires_grad=True)  # two heads of 4 over one of keys and one of values
    assert gradcheck(lambda a: _Rotated.apply(a, angles.cos(), angles.sin(), 8, 4), (states,), **options)


def test_a_rotation_leaves_values_as_they_are_and_turns_heads_by_their_tokens():
    torch.manual_seed(0)
    angles = 6 * torch.rand(3, 2).repeat(1, 2)
    states = torch.randn(3, 16)
    cos, sin = angles.cos(), angles.sin()
    query, key, value = _Rotated.apply(states, cos, sin, 8, 4)
    by_head = states.view(3, 4, 4)[None].transpose(1, 2)  # [1, heads, N, d]
    turned, turned_key = apply_rotary_pos_emb(by_head[:, :2], by_head[:, 2:3], cos[None], sin[None])
    torch.testing.assert_close(query, turned[0].transpose(0, 1).reshape(3, 8))
    torch.testing.assert_close(key, turned_key[0, 0])
    assert value.equal(states[:, 12:])


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_gradient_of_a_norms_weight_takes_every_row_in_whatever_parts(rows, monkeypatch):
    torch.manual_seed(0)
    x, weight, given = torch.randn(rows, 8), torch.rand(8, requires_grad=True), torch.randn(rows, 8)
    _RmsNorm.apply(x, None, weight, 1e-5)[1].backward(given)
    expected = (given * torch.nn.functional.rms_norm(x, (8,), eps=1e-5)).sum(dim=0)
    torch.testing.assert_close(weight.grad, expected)
    weight.grad = None
    monkeypatch.setattr(fused_modules, "PARTS", 1)
    _RmsNorm.apply(x, None, weight, 1e-5)[1].backward(given)
    torch.testing.assert_close(weight.grad, expected)
