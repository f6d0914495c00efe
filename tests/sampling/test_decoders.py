"""Rows that are filled, left and filled again give what each prompt gives alone."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from small_networks import FAMILIES, OPTIONS, PROMPTS, load, trained_log_probs

from plaudit import cpu
from plaudit.config import LoraSettings
from plaudit.models import attention
from plaudit.models.network import make_trainable
from plaudit.sampling import decoders, in_process
from plaudit.sampling.in_process import draw, sample
from plaudit.text.batches import collate
from plaudit.text.chat import TokenSequence


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_the_same_however_many_rows_and_their_log_probs_the_trainers(family, tmp_path, monkeypatch):
    """With rows that are filled again at once, and a cache so short that it moves to the front over and over."""
    monkeypatch.setattr(decoders, "SPARE_COLUMNS", 1)
    monkeypatch.setattr(in_process, "JOIN_FROM", 0.0)
    network = load(family, tmp_path / family)
    assert network.packs == (family != "mpt")
    whole = sample(network, PROMPTS, **OPTIONS)
    lengths = {len(c.token_ids) for group in whole for c in group}
    assert len(lengths) > 3
    for rows in (1, 2, 3, 5):
        few = sample(network, PROMPTS, **OPTIONS, sequences_per_batch=rows)
        for group, others in zip(whole, few, strict=True):
            for one, other in zip(group, others, strict=True):
                assert (one.token_ids, one.finished) == (other.token_ids, other.finished)
                assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    trained = trained_log_probs(network, whole)
    for row, completion in enumerate(c for group in whole for c in group):
        length = len(completion.token_ids)
        assert completion.log_probs == pytest.approx(trained[row, :length].tolist(), abs=1e-4)


def test_the_padded_way_draws_the_same_samples(tmp_path):
    network = load("llama", tmp_path / "llama")
    fast = sample(network, PROMPTS, **OPTIONS)
    network.body.config._attn_implementation = "sdpa"
    padded = sample(replace(network, packs=False), PROMPTS, **OPTIONS)
    assert [[c.token_ids for c in group] for group in fast] == [[c.token_ids for c in group] for group in padded]


def test_a_prompts_samples_depend_on_no_other_prompt(tmp_path):
    network = load("llama", tmp_path / "llama")
    together = sample(network, PROMPTS, **OPTIONS)
    for index in (0, 3, 6):
        (alone,) = sample(network, [PROMPTS[index]], **OPTIONS)
        assert [c.token_ids for c in alone] == [c.token_ids for c in together[index]]
    twice = sample(network, [PROMPTS[1], PROMPTS[1]], **OPTIONS)
    assert [c.token_ids for c in twice[0]] == [c.token_ids for c in together[1]] != [c.token_ids for c in twice[1]]


def test_prompts_do_not_wait_for_the_slowest_row(tmp_path, monkeypatch):
    """Steps of the body: far fewer than batch after batch would take."""
    network = load("llama", tmp_path / "llama")
    prompts = [[5, i] for i in range(40)]
    options = {**OPTIONS, "samples_per_prompt": 1, "max_new_tokens": 40, "sequences_per_batch": 4}
    steps = []
    plain = decoders.SlotDecoder.step
    monkeypatch.setattr(
        decoders.SlotDecoder, "step", lambda self, *given: steps.append(len(given[0])) or plain(self, *given)
    )
    lengths = [len(group[0].token_ids) for group in sample(network, prompts, **options)]
    in_batches = sum(max(lengths[i : i + 4]) for i in range(0, 40, 4))
    assert len(steps) < 0.8 * in_batches
    assert sum(steps) >= sum(lengths) - 40


@pytest.mark.parametrize("targets", ["all", "attention", None])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gpt2"])
def test_weights_packed_for_sampling_compute_what_the_plain_ones_do(family, targets, tmp_path):
    """In bfloat16, with biases (qwen2, gpt_neox), adapters, siblings of unlike width, and afterwards as before."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 products")
    network = load(family, tmp_path / family, dtype="bfloat16")
    if targets is not None:
        network = make_trainable(network, LoraSettings(rank=4, targets=targets), role="policy", seed=0)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in network.trainable_parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    batch = collate([TokenSequence(p, [5, 6, 7]) for p in PROMPTS])
    own = [module for module in network.body.modules() if "forward" in vars(module)]
    with torch.no_grad():
        before = network.log_probs(batch)[0]
        with network.active(), cpu.packed_weights(network, 8):
            packed = network.logits(batch)
        plain = network.logits(batch)
        assert network.log_probs(batch)[0].equal(before)
    assert (packed - plain).abs().mean() < 0.02 * plain.abs().mean()
    assert [module for module in network.body.modules() if "forward" in vars(module)] == own
    drawn = sample(network, PROMPTS, **OPTIONS)
    trained = trained_log_probs(network, drawn)
    for row, completion in enumerate(c for group in drawn for c in group):
        length = len(completion.token_ids)
        gaps = torch.tensor(completion.log_probs) - trained[row, :length]
        assert gaps.abs().mean() < 0.1


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_a_draw_inverts_the_cumulative_distribution(size):
    torch.manual_seed(size)
    logits = 3 * torch.randn(300, size)
    logits[:, ::7] = -torch.inf
    if size == 1:
        logits = torch.zeros(300, 1)
    uniforms = torch.rand(300)
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-24])
    token, log_prob = draw(logits, uniforms)
    chances = logits.double().softmax(-1)
    ends = chances.cumsum(-1)
    expected = (ends <= uniforms.double()[:, None] * ends[:, -1:]).sum(dim=-1).clamp(max=size - 1)
    near = (ends.gather(1, expected[:, None]).squeeze(1) - uniforms.double()).abs() < 1e-6
    assert ((token == expected) | near).all()
    assert (token == expected).float().mean() > 0.98
    assert log_prob.isfinite().all()
    torch.testing.assert_close(log_prob, chances.gather(1, token[:, None]).squeeze(1).log().float())


def test_the_cache_goes_with_the_sampler(tmp_path, monkeypatch):
    """At once, not when circles of objects are collected."""
    network = load("llama", tmp_path)
    sample(network, PROMPTS, **OPTIONS)  # what compiles kernels for the first time leaves circles that hold its callers
    kept = []
    make = decoders.make_decoder

    def watched(*arguments):
        decoder = make(*arguments)
        kept.append(weakref.ref(decoder))
        return decoder

    monkeypatch.setattr(in_process, "make_decoder", watched)
    gc.disable()
    try:
        sample(network, PROMPTS, **OPTIONS)
        assert [reference() for reference in kept] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_how_many_rows_look_at_their_keys_at_a_time_changes_nothing(tmp_path, rows, monkeypatch):
    network = load("gemma2", tmp_path)  # with a window and a soft cap
    together = sample(network, PROMPTS, **OPTIONS)
    monkeypatch.setattr(attention, "KEYS_AT_ONCE", rows * 2 * 8 * 24)  # of two key heads of width 8 and 24 columns
    apart = sample(network, PROMPTS, **OPTIONS)
    for one, other in zip(together, apart, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.token_ids == b.token_ids
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-5)
