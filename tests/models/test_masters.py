"""Weights computed with in bfloat16 and optimised in float32."""

import pytest
import torch
from conftest import make_model
from torch import nn
from transformers import AutoModelForCausalLM

from plaudit.config import ModelSettings, OptimiserSettings
from plaudit.models import masters
from plaudit.models.loading import load_causal, load_reward, reward_from_causal
from plaudit.models.masters import Masters, to_bfloat16
from plaudit.models.network import Network, load_trainable_state, make_trainable, trainable_state
from plaudit.models.saving import save_causal, save_reward
from plaudit.models.score_facts import ScoreFacts
from plaudit.text.batches import collate
from plaudit.text.chat import TokenSequence
from plaudit.training.steps.optimiser import Optimiser

FULL = ModelSettings(dtype="bfloat16", lora=None)
BATCH = collate([TokenSequence([1, 30, 9], [44, 55, 66, 2]), TokenSequence([1, 50], [80, 2])])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_share_of_weights_rounded_up_is_how_far_they_are_from_the_lower_neighbour(share, sign):
    """0.5 and its next neighbour in bfloat16, 0.5 + 2^-8; over more weights than the thresholds' period."""
    weights = torch.full((3, masters.PERIOD // 2 + 7), sign * (0.5 + share / 256))
    rounded = to_bfloat16(weights)
    assert rounded.dtype == torch.bfloat16
    assert set(rounded.abs().float().unique().tolist()) == {0.5, 0.5 + 1 / 256}
    assert (rounded.float().mean() / sign - 0.5) * 256 == pytest.approx(share, abs=0.005)
    assert rounded.equal(to_bfloat16(weights))


def test_what_bfloat16_holds_stays_as_it_is_and_so_do_numbers_that_are_none():
    held = torch.randn(1000).bfloat16()
    assert to_bfloat16(held.float()).equal(held)
    odd = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0] * 50)
    assert to_bfloat16(odd).view(torch.int16).equal(odd.bfloat16().view(torch.int16))
    assert to_bfloat16(torch.full((100,), torch.nan)).isnan().all()


def test_gradients_of_micro_batches_are_summed_in_float32():
    """2^-9 added to 1 five hundred times: in bfloat16 the sum would stay at 1."""
    weight = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    held = Masters([weight])
    weight.sum().backward()
    for _ in range(512):
        (weight.sum() * 2**-9).backward()
    assert weight.grad is None
    assert held.of(weight).grad.tolist() == [2.0] * 3


@pytest.mark.parametrize("scored", [True, False])
def test_embeddings_that_are_the_output_layer_too_get_both_gradients(scored, tiny_model):
    """Also where the output layer has no part in what is gone back from."""
    found = []
    for sparse in (True, False):
        policy = make_trainable(load_causal(str(tiny_model), FULL).network, None, role="policy", seed=0)
        embedding = policy.body.get_input_embeddings()
        assert embedding.weight is policy.head.weight
        assert embedding.sparse
        embedding.sparse = sparse
        result = policy.log_probs(BATCH)[0] if scored else policy.states(BATCH).float()
        result.square().sum().backward()
        found.append(policy.gradient_of(policy.masters.of(embedding.weight)))
        assert found[-1].layout == torch.strided
    torch.testing.assert_close(*found, rtol=2**-7, atol=2**-7 * float(found[1].abs().max()))
    assert found[0][44].abs().sum() > 0
    assert bool(found[0][99].abs().sum() > 0) == scored


def test_embeddings_apart_from_the_output_layer_have_dense_gradients(tiny_model, tmp_path):
    untied = load_causal(str(make_model(tmp_path / "untied", tie_word_embeddings=False)), FULL)
    scorer = reward_from_causal(load_causal(str(tiny_model), FULL), seed=0)
    for network in (untied.network, scorer.network):
        assert not make_trainable(network, None, role="a", seed=0).body.get_input_embeddings().sparse


def test_a_single_gradient_stays_as_it_is_until_somebody_looks_for_the_masters_own():
    weight = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    held = Masters([weight])
    master = held.of(weight)
    assert held.gradient_of(master) is None
    (weight.sum() * 2**-9).backward()
    assert weight.grad is master.grad is None
    assert held.gradient_of(master).dtype == torch.bfloat16
    held.widen_gradients()
    assert held.gradient_of(master) is master.grad
    assert master.grad.dtype == torch.float32
    (weight.sum()).backward()
    assert held.gradient_of(master).tolist() == [1 + 2**-9] * 3


@pytest.mark.parametrize("passes", [1, 2])
def test_gradients_are_cleared_with_every_step(passes):
    weight = nn.Linear(3, 1, bias=False, dtype=torch.bfloat16)
    network = Network(weight, nn.Identity(), masters=Masters(weight.parameters()))
    optimiser = Optimiser(network, OptimiserSettings(learning_rate=0.1), 10)
    for leave in (optimiser.step, optimiser.discard, optimiser.step):
        for _ in range(passes):
            weight(torch.ones(1, 3, dtype=torch.bfloat16)).sum().backward()
        [gradient] = optimiser.gradients()
        assert gradient.tolist() == [[float(passes)] * 3]
        assert gradient.dtype == (torch.bfloat16 if passes == 1 else torch.float32)
        leave()
        assert optimiser.gradients() == [None]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_those_of_float32_however_the_total_lies_in_memory(dtype, turned):
    x = torch.randn(37, 129).to(dtype)
    total = torch.randn(129, 37).T if turned else torch.randn(37, 129)
    expected = total + x.float()
    masters.add_to(total, x)
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-6)


def test_a_total_that_the_kernel_does_not_know_is_added_to_as_well():
    for total in (torch.ones(3, 4, dtype=torch.bfloat16), torch.ones(3, 4, dtype=torch.float64)):
        masters.add_to(total, torch.full((4,), 2.0))
        assert total.tolist() == [[3.0] * 4] * 3


@pytest.mark.parametrize(("gradient", "norm", "kept"), [(3.0, 6.0, 0.5), (0.25, 0.5, 0.25), (None, 0.0, None)])
def test_gradients_are_clipped_to_the_largest_norm_and_else_left(gradient, norm, kept):
    network = Network(nn.Linear(4, 1, bias=False), nn.Identity())
    optimiser = Optimiser(network, OptimiserSettings(learning_rate=0.1, max_gradient_norm=1.0), 10)
    network.body.weight.grad = None if gradient is None else torch.full((1, 4), gradient)
    found = optimiser.step()
    assert found == pytest.approx(norm)
    state = optimiser._adam.state[network.body.weight]
    assert state == {} if kept is None else state["exp_avg"].tolist() == [[pytest.approx(0.1 * kept, rel=1e-5)] * 4]


def test_an_update_finer_than_bfloat16_is_kept_and_counts(tiny_model):
    """A hundred steps each far below half a unit in the last place lower the loss, and masters hold their sum."""
    model = load_causal(str(tiny_model), FULL)
    policy = make_trainable(model.network, None, role="policy", seed=0)
    optimiser = Optimiser(policy, OptimiserSettings(learning_rate=2e-6, schedule="constant", warmup_share=0), 100)

    def loss():
        return -policy.log_probs(BATCH)[0].sum()

    before = float(loss().detach())
    for _ in range(100):
        loss().backward()
        optimiser.step()
    assert float(loss().detach()) < before - 0.02
    weight = policy.body.layers[0].mlp.up_proj.weight
    master = policy.masters.of(weight).detach()
    start = model.network.body.layers[0].mlp.up_proj.weight.float()
    moved = master - start
    assert moved.abs().median() == pytest.approx(2e-4, rel=0.3)  # Adam moves a weight by the rate each step
    kept = ((weight.detach().float() - start) * moved.sign()).mean() / moved.abs().mean()
    assert kept == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("role", ["causal", "reward"])
def test_a_saved_model_is_loaded_as_it_was_trained(role, tiny_model, tmp_path):
    model = load_causal(str(tiny_model), FULL)
    if role == "reward":
        model = reward_from_causal(model, seed=0)
    trained = make_trainable(model.network, None, role=role, seed=0, train_head=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained.trainable_parameters():
            parameter += 1e-3 * torch.randn_like(parameter)
    trained.publish()
    if role == "causal":
        save_causal(trained, model, tmp_path / "m")
        loaded = load_causal(str(tmp_path / "m"), FULL).network
    else:
        save_reward(trained, model, tmp_path / "m", ScoreFacts())
        loaded = load_reward(str(tmp_path / "m"), FULL).network

    def measure(network):
        with torch.no_grad():
            return network.log_probs(BATCH)[0] if role == "causal" else network.scores(BATCH)

    torch.testing.assert_close(measure(loaded), measure(trained), atol=1e-6, rtol=0)  # a last bit by memory's alignment
    assert (measure(loaded) - measure(model.network)).abs().max() > 1e-4


def test_a_checkpoint_brings_masters_and_weights_back(tiny_model):
    first, second = (make_trainable(load_causal(str(tiny_model), FULL).network, None, role="x", seed=0) for _ in "ab")
    with torch.no_grad():
        for parameter in first.trainable_parameters():
            parameter += 1e-3
    first.publish()
    load_trainable_state(second, trainable_state(first))
    assert first.log_probs(BATCH)[0].equal(second.log_probs(BATCH)[0])
    pairs = zip(first.trainable_parameters(), second.trainable_parameters(), strict=True)
    assert all(one.equal(other) for one, other in pairs)


def test_positions_keep_their_float32_frequencies_when_weights_are_rounded(tiny_model):
    """The folder holds float32. A frequency in bfloat16 is off by up to 0.4 %: a quarter turn after 400 tokens."""
    loaded = dict(load_causal(str(tiny_model), FULL).network.body.named_buffers())
    theirs = dict(AutoModelForCausalLM.from_pretrained(tiny_model).base_model.named_buffers())
    assert loaded.keys() == theirs.keys() != set()
    for name, value in theirs.items():
        assert loaded[name].equal(value), name
