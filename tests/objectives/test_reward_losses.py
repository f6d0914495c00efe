"""Losses of reward and cost models: published fixtures, closed forms, and `choix` as the judge of the optima."""

import math

import choix
import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plaudit.objectives import (
    MARGINS,
    bradley_terry,
    centring_penalty,
    cost_comparison,
    davidson,
    plackett_luce,
    rating_error,
    safety_classification,
    smoothed,
)

RANKED = [1.2, 0.7, 0.3, -0.5]
RANKINGS = [(0, 1, 2, 3)] * 4 + [(1, 0, 2, 3)] * 3 + [(0, 2, 1, 3)] * 2 + [(3, 0, 1, 2)] + [(2, 1, 0, 3)] * 2
WINS = [[0, 7, 8, 9], [3, 0, 6, 7], [2, 4, 0, 6], [1, 3, 4, 0]]


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


def optimum(loss, count):
    """Centred scores that minimise a loss of them, by Newton's method."""
    scores = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scores], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)

    def closure():
        optimiser.zero_grad()
        value = loss(scores)
        value.backward()
        return value

    optimiser.step(closure)
    return (scores - scores.mean()).detach(), float(loss(scores).detach())


def all_pairs(scores, order):
    better, worse = zip(*[(a, b) for i, a in enumerate(order) for b in order[i + 1 :]], strict=True)
    ones = torch.ones(len(better), dtype=scores.dtype)
    return bradley_terry(scores[list(better)], scores[list(worse)], ones)


def ranking_loss(scores, order):
    ranks = torch.tensor([order.index(i) for i in range(len(scores))])
    return plackett_luce(scores[None], ranks[None], torch.ones(1, len(scores), dtype=torch.bool))[0]


def test_pairs_of_a_ranking_give_the_published_mean_and_gradient():
    scores = row(*RANKED).requires_grad_()
    losses = all_pairs(scores, (0, 1, 2, 3))
    losses.mean().backward()
    assert losses.sum().item() == pytest.approx(2.130415, abs=1e-6)
    assert losses.mean().item() == pytest.approx(0.355069, abs=1e-6)
    assert scores.grad.tolist() == pytest.approx([-0.136843, -0.042541, 0.063390, 0.115994], abs=1e-6)


def test_a_ranking_and_a_choice_of_the_best_give_the_published_likelihoods():
    scores, present = row(*RANKED)[None], torch.ones(1, 4, dtype=torch.bool)
    assert plackett_luce(scores, torch.tensor([[0, 1, 2, 3]]), present).item() == pytest.approx(1.836442, abs=1e-6)
    best_of_4 = plackett_luce(scores, torch.tensor([[0, 1, 1, 1]]), present).item()
    assert best_of_4 == pytest.approx(0.786539, abs=1e-6)
    assert best_of_4 == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.tensor([0])).item())


@pytest.mark.parametrize(("margin", "expected"), [(0, 0.371101), (1 / 3, 0.486793), (1, 0.798139), (3, 2.305083)])
def test_margins_give_the_published_losses_from_either_side(margin, expected):
    loss = bradley_terry(row(0.8), row(0.0), row(1.0), margin=row(margin))
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert bradley_terry(row(0.0), row(0.8), row(0.0), margin=row(margin)).item() == pytest.approx(expected, abs=1e-6)
    assert {round(m, 3) for m in MARGINS["small"]} == {0, 0.333, 0.667, 1}
    assert MARGINS["large"] == (0, 1, 2, 3)


@pytest.mark.parametrize(("margin", "difference"), [(0, 0.8473), (1 / 3, 1.0003), (1, 1.4309), (3, 3.2909)])
def test_a_margin_teaches_more_than_the_judgments_bear_out(margin, difference):
    """The optimum of D where 70 % of annotators prefer the first."""
    found, _ = optimum(lambda s: bradley_terry(s[:1], s[1:], row(0.7), margin=row(margin)).sum(), 2)
    assert (found[0] - found[1]).item() == pytest.approx(difference, abs=1e-4)


def test_bradley_terry_finds_the_scores_that_choix_finds():
    def loss(scores):
        return sum(
            WINS[a][b] * bradley_terry(scores[a : a + 1], scores[b : b + 1], row(1.0)).sum()
            for a in range(4)
            for b in range(4)
            if a != b
        )

    found, value = optimum(loss, 4)
    data = [(a, b) for a in range(4) for b in range(4) for _ in range(WINS[a][b])]
    assert found.tolist() == pytest.approx(choix.ilsr_pairwise(4, data).tolist(), abs=1e-6)
    assert found.tolist() == pytest.approx([1.071294, 0.099351, -0.349436, -0.821209], abs=1e-6)
    assert value == pytest.approx(34.007757, abs=1e-6)


def test_plackett_luce_finds_the_scores_that_choix_finds_and_all_pairs_find_others():
    found, value = optimum(lambda scores: sum(ranking_loss(scores, order) for order in RANKINGS), 4)
    assert found.tolist() == pytest.approx(choix.ilsr_rankings(4, RANKINGS).tolist(), abs=1e-6)
    assert found.tolist() == pytest.approx([1.356768, 0.963920, 0.092615, -2.413303], abs=1e-5)
    assert value == pytest.approx(23.988317, abs=1e-6)
    pairs, _ = optimum(lambda scores: sum(all_pairs(scores, order).sum() for order in RANKINGS), 4)
    assert pairs.tolist() == pytest.approx([1.174262, 0.725928, -0.024538, -1.875652], abs=1e-5)


def test_a_ranking_of_two_is_a_comparison():
    scores = torch.randn(6, 2, dtype=torch.float64)
    ranks = torch.tensor([[0, 1], [1, 0]] * 3)
    expected = bradley_terry(scores[:, 0], scores[:, 1], (ranks[:, 0] == 0).double())
    torch.testing.assert_close(plackett_luce(scores, ranks, torch.ones(6, 2, dtype=torch.bool)), expected)


@given(st.permutations(range(5)), st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_a_ranking_is_indifferent_to_order_padding_and_what_its_ranks_are_called(order, ranks):
    scores = torch.linspace(-1, 1.5, 5, dtype=torch.float64).requires_grad_()
    levels, present = torch.tensor(ranks), torch.ones(1, 5, dtype=torch.bool)
    plain = plackett_luce(scores[None], levels[None], present)
    shuffled = plackett_luce(scores[list(order)][None], 2 * levels[list(order)][None] + 3, present)
    torch.testing.assert_close(plain, shuffled)
    padded = plackett_luce(
        torch.cat([scores, row(9.0, -7.0)])[None], torch.cat([levels, torch.tensor([0, 9])])[None],
        torch.tensor([[True] * 5 + [False] * 2]),
    )  # fmt: skip
    torch.testing.assert_close(plain, padded)
    (gradient,) = torch.autograd.grad(padded.sum(), scores)
    assert gradient.isfinite().all()
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)  # nothing pulls all scores up or down
    assert plackett_luce(scores[None], torch.zeros(1, 5), present).item() == 0  # all tied: nothing was said


def test_a_tie_is_an_outcome_of_its_own_under_davidson():
    first, second, log_tie = row(0.9, 0.9, 0.9), row(0.2, 0.2, 0.2), torch.tensor(0.3, dtype=torch.float64)
    chances = (-davidson(first, second, row(1.0, 0.5, 0.0), log_tie)).exp()
    assert chances.sum().item() == pytest.approx(1)
    assert (chances[0] / chances[2]).item() == pytest.approx(math.exp(0.7))
    assert (chances[1] ** 2 / (chances[0] * chances[2])).item() == pytest.approx(math.exp(0.6))  # nu squared
    equal = (-davidson(row(0.4), row(0.4), row(0.5), log_tie)).exp().item()
    assert equal == pytest.approx(math.exp(0.3) / (2 + math.exp(0.3)))
    never = davidson(first, second, row(1.0, 1.0, 0.0), torch.tensor(-60.0, dtype=torch.float64))
    torch.testing.assert_close(never, bradley_terry(first, second, row(1.0, 1.0, 0.0)))
    with pytest.raises(ValueError, match=r"0, 0\.5 and 1"):
        davidson(first, second, row(1.0, 0.7, 0.0), log_tie)


def test_smoothed_labels_stop_at_the_flip_rate():
    found, _ = optimum(lambda s: bradley_terry(s[:1], s[1:], smoothed(row(1.0), flip_rate=0.1)).sum(), 2)
    assert (found[0] - found[1]).item() == pytest.approx(math.log(9), abs=1e-5)
    assert smoothed(row(0.0, 0.5, 1.0), flip_rate=0.1).tolist() == pytest.approx([0.1, 0.5, 0.9])


COSTS = [  # costs of the more and the less harmful, whether each is harmful, the loss
    (1.5, -0.4, True, False, 0.139387 + 0.201413 + 0.513015),
    (1.5, 0.4, True, True, 0.287335 + 0.201413 + 0.513015),
    (-0.4, -1.2, False, False, 0.371101 + 0.513015 + 0.263282),
]


@pytest.mark.parametrize(("worse", "better", "worse_harmful", "better_harmful", "expected"), COSTS)
def test_costs_match_the_published_losses_from_either_side(worse, better, worse_harmful, better_harmful, expected):
    harmful = torch.tensor([worse_harmful]), torch.tensor([better_harmful])
    assert cost_comparison(row(worse), row(better), row(1.0), *harmful).item() == pytest.approx(expected, abs=1e-5)
    assert cost_comparison(row(better), row(worse), row(0.0), *harmful[::-1]).item() == pytest.approx(
        expected, abs=1e-5
    )


def test_safety_has_its_threshold_at_zero():
    scores = row(2.0, 2.0, -1.0).requires_grad_()
    losses = safety_classification(scores, torch.tensor([True, False, False]))
    assert losses.tolist() == pytest.approx(
        [math.log1p(math.exp(-2)), math.log1p(math.exp(2)), math.log1p(math.exp(-1))]
    )
    losses.sum().backward()
    assert (scores.grad.sign() == row(-1, 1, 1)).all()


def test_ratings_and_centring_are_squares():
    assert rating_error(row(1.0, 3.0), row(2.0, 0.0)).tolist() == [1.0, 9.0]
    assert centring_penalty(row(1.0, -2.0), row(3.0, 2.0)).tolist() == [16.0, 0.0]


def test_a_linear_reward_is_recovered_and_is_calibrated():
    """4,000 judgments of responses with three features: weights within their error, confidence equal to accuracy."""
    draw = torch.Generator().manual_seed(0)
    weights = row(1.0, -0.7, 0.3)
    first, second = (torch.randn(4000, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    chance = ((first - second) @ weights).sigmoid()
    chosen = (torch.rand(4000, generator=draw, dtype=torch.float64) < chance).double()

    def loss(guess):
        return bradley_terry(first @ guess, second @ guess, chosen).sum()

    guess = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([guess], max_iter=100, tolerance_grad=1e-9)

    def closure():
        optimiser.zero_grad()
        value = loss(guess)
        value.backward()
        return value

    optimiser.step(closure)
    errors = torch.linalg.inv(torch.autograd.functional.hessian(loss, guess.detach())).diagonal().sqrt()
    assert ((guess.detach() - weights).abs() < 3 * errors).all()
    confidence = ((first - second) @ guess.detach()).sigmoid().numpy()
    for part in numpy.array_split(confidence.argsort(), 10):
        error = (confidence[part] * (1 - confidence[part])).mean() ** 0.5 / len(part) ** 0.5
        assert abs(confidence[part].mean() - chosen[part].mean().item()) < 3.5 * error
