"""Packed batches: equal to each sequence alone for every family, whatever stands beside, with shared prompts."""

from dataclasses import replace

import pytest
import torch
from conftest import make_tokenizer
from devices import META, OneDevice, without_values
from transformers import AutoConfig, AutoModelForCausalLM

from plaudit import cpu
from plaudit.config import LoraSettings, ModelSettings
from plaudit.models import attention
from plaudit.models.loading import _say_padded, load_causal, reward_from_causal
from plaudit.models.log_probs import chunked_log_probs
from plaudit.models.network import make_trainable
from plaudit.text import rows
from plaudit.text.batches import collate
from plaudit.text.chat import TokenSequence

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SIZES, "num_key_value_heads": 2}
FAMILIES = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "smollm3": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 5},
    "gemma": {**GROUPED, "head_dim": 8},
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**GROUPED, "head_dim": 8, "sliding_window": 5},
    "phi3": {**GROUPED, "sliding_window": None},
    "olmo2": GROUPED,
    "gpt_neox": SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}
PROMPT = [1, 50, 60, 70]
SEQUENCES = [
    TokenSequence([1, 33, 9], [44, 55, 66, 77, 2, 12, 13]),
    TokenSequence(PROMPT, [80, 90, 2]),
    TokenSequence([9], [2]),
    TokenSequence(PROMPT, [81, 5, 6, 7, 8, 9, 10, 2]),
    TokenSequence(PROMPT, [82]),
]
APART = [
    TokenSequence([1, 33, 9], [44, 55, 66, 77, 2, 12, 13]),
    TokenSequence([3, 4], [80, 90, 2]),
    TokenSequence([9], [2]),
]


def load(family, folder, **changes):
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    sizes = {**FAMILIES[family], "vocab_size": len(tokenizer), "initializer_range": 0.2}
    config = AutoConfig.for_model(family, **sizes)
    config.eos_token_id, config.bos_token_id, config.pad_token_id = 2, 1, 0
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_causal(str(folder), ModelSettings(dtype="float32", **changes))


WAYS = {"ours": (1 << 30, 1 << 30), "PyTorch's, in one block": (0, 1 << 30), "PyTorch's, in many": (0, 0)}


SEEN_APART = ["llama", "mistral", "gemma2", "gpt2"]
"""Of each kind of attention one: plain, in a window, with bounded scores, and with positions that are learnt."""
CASES = [
    pytest.param(
        family, way, sequences, id=f"{family}-{way}-{name}",
        marks=[] if way == "ours" or (name == "shared" and way == "PyTorch's, in many") or family in SEEN_APART
        else pytest.mark.slow,
    )
    for family in FAMILIES for way in WAYS for name, sequences in (("shared", SEQUENCES), ("apart", APART))
]  # fmt: skip


@pytest.mark.parametrize(("family", "way", "sequences"), CASES)
def test_packed_equals_alone_in_log_probs_scores_and_gradients(family, way, sequences, tmp_path, monkeypatch):
    """The family's own attention on each sequence alone against all of ours on all of them packed."""
    longest, cost = WAYS[way]
    monkeypatch.setattr(attention, "LONGEST", longest)
    monkeypatch.setattr(rows, "COST_OF_A_BLOCK", cost)
    rows_of_attention = 7 if sequences is SEQUENCES else 3  # "1" begins two prompts, of which one has three responses
    assert len(collate(sequences).rows.blocks) == (1 if cost else rows_of_attention)
    assert collate(sequences).rows.shared == (sequences is SEQUENCES)
    model = load(family, tmp_path / family)
    assert model.network.packs
    start = reward_from_causal(model, seed=0).network
    scorer = make_trainable(start, LoraSettings(rank=4), role="reward", seed=0, train_head=True)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in scorer.trainable_parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    policy = replace(scorer, head=model.network.head, softcap=model.network.softcap)
    weights = torch.randn(len(sequences), 20)

    def measure(network, batches):
        found = []
        for numbers in batches:
            batch = collate([sequences[i] for i in numbers])
            log_probs = replace(policy, packs=network.packs).log_probs(batch)[0]
            scores = network.scores(batch)
            loss = (log_probs * weights[numbers, : log_probs.shape[1]]).sum() + (scores * weights[numbers, 19]).sum()
            loss.backward()
            found += [(log_probs[k].detach(), scores[k].detach()) for k in range(len(numbers))]
        gradients = [p.grad.clone() for p in network.trainable_parameters()]
        for parameter in network.trainable_parameters():
            parameter.grad = None
        return found, gradients

    packed, packed_gradients = measure(scorer, [list(range(len(sequences)))])
    scorer.body.config._attn_implementation = "eager"
    alone, gradients = measure(replace(scorer, packs=False), [[i] for i in range(len(sequences))])
    for (log_probs, score), (own_log_probs, own_score) in zip(packed, alone, strict=True):
        torch.testing.assert_close(log_probs[: len(own_log_probs)], own_log_probs, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(score, own_score, atol=2e-5, rtol=1e-4)
    for found, expected in zip(packed_gradients, gradients, strict=True):
        tolerance = 1e-4 + 1e-5 * float(expected.abs().max())  # sums of products as large as the largest
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_and_its_gradients_stay_on_the_device_and_wait_for_nothing(family):
    network = make_trainable(without_values(family, FAMILIES[family]), LoraSettings(rank=4), role="policy", seed=0)
    batch = collate(SEQUENCES, device=META)
    places = torch.zeros(9, dtype=torch.long, device=META)
    with OneDevice():
        states = network._states_at(batch, places, places)
        chunked_log_probs(states, places, network.head)[0].sum().backward()
    assert all(p.grad.shape == p.shape for p in network.trainable_parameters())


def test_gradients_of_a_key_that_many_rows_share_are_added_up_in_float32(monkeypatch):
    """By PyTorch's attention in bfloat16, where a sum of many would stop growing."""
    monkeypatch.setattr(attention, "LONGEST", 0)
    monkeypatch.setattr(cpu, "row_attention", lambda *_, **__: None)
    batch = collate([TokenSequence([1, 20 + i], [2]) for i in range(200)])
    assert len(batch.token_ids) == 1 + 200 * 2
    torch.manual_seed(0)
    found = {}
    exact = [torch.randn(401, 8) for _ in range(3)]
    for dtype in (torch.float32, torch.bfloat16):
        query, key, value = (x.bfloat16().to(dtype).requires_grad_() for x in exact)
        mixed = attention.PackedRows(batch.rows).attend_tokens([query, key, value], 1, scale=0.3, window=None)
        (found[dtype],) = torch.autograd.grad(mixed.sum(), value)
    torch.testing.assert_close(found[torch.bfloat16][0].float(), found[torch.float32][0], rtol=0.005, atol=0)


def test_no_token_leaks_into_another_sequence(tmp_path):
    network = load("llama", tmp_path / "llama").network
    with torch.no_grad():
        before = network.log_probs(collate(SEQUENCES))[0]
        for changed in range(len(SEQUENCES)):
            others = list(SEQUENCES)
            response = SEQUENCES[changed].response_ids
            others[changed] = TokenSequence(SEQUENCES[changed].prompt_ids, [200 + i for i in range(len(response))])
            after = network.log_probs(collate(others))[0]
            same = [row for row in range(len(SEQUENCES)) if row != changed]
            assert after[same].equal(before[same])
            assert not after[changed].equal(before[changed])


def test_a_family_that_keeps_the_layout_from_its_attention_runs_on_padded_batches(tmp_path, capsys):
    """MPT has positions in its attention, and an attention of its own."""
    _say_padded.cache_clear()  # it is said once a process
    FAMILIES["mpt"] = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}
    try:
        network, again = (load("mpt", tmp_path / folder).network for folder in ("mpt", "again"))
    finally:
        del FAMILIES["mpt"]
    assert not network.packs
    assert not again.packs
    assert capsys.readouterr().err.count("mpt models cannot take packed batches") == 1
    with torch.no_grad():
        together = network.log_probs(collate(SEQUENCES))[0]
        for row, sequence in enumerate(SEQUENCES):
            alone = network.log_probs(collate([sequence]))[0][0]
            torch.testing.assert_close(together[row, : len(alone)], alone, atol=2e-5, rtol=1e-4)
