import math

import pytest
import torch

from plaudit.objectives import (
    bradley_terry,
    clipped_surrogate,
    clipped_value_error,
    clipped_weight_gradient,
    pairwise_surrogate_joint,
    pairwise_surrogate_separate,
)


def grid(*values):
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize(
    ("difference", "preference", "expected"), [(0.8, 1.0, 0.371101), (0.8, 0.7, 0.611101), (0.0, 1.0, math.log(2))]
)
def test_bradley_terry_matches_the_closed_form(difference, preference, expected):
    scores = torch.tensor([difference + 0.3], dtype=torch.float64)
    other = torch.tensor([0.3], dtype=torch.float64)
    assert bradley_terry(scores, other, torch.tensor([preference])).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("difference", [-40.0, -2.0, 0.0, 1.3, 40.0])
@pytest.mark.parametrize("preference", [0.0, 0.3, 1.0])
def test_bradley_terry_gradient_is_probability_minus_preference(difference, preference):
    first = torch.tensor([difference], dtype=torch.float64, requires_grad=True)
    second = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    bradley_terry(first, second, torch.tensor([preference], dtype=torch.float64)).sum().backward()
    expected = 1 / (1 + math.exp(-difference)) - preference
    assert first.grad.item() == pytest.approx(expected)
    assert second.grad.item() == pytest.approx(-expected)


def test_swapping_the_sides_mirrors_the_loss():
    first, second, preference = torch.randn(3, 5, dtype=torch.float64).unbind()
    preference = preference.sigmoid()
    swapped = bradley_terry(second, first, 1 - preference)
    torch.testing.assert_close(bradley_terry(first, second, preference), swapped)


CLIP_TABLE = [  # advantage, ratio, surrogate, its slope in the ratio; clip 0.2
    (1, 1.1, 1.1, 1),
    (1, 1.5, 1.2, 0),
    (1, 0.5, 0.5, 1),
    (-1, 1.5, -1.5, -1),
    (-1, 0.5, -0.8, 0),
    (-1, 0.9, -0.9, -1),
    (-1, 4.0, -4.0, -1),
]


@pytest.mark.parametrize(("advantage", "ratio", "surrogate", "slope"), CLIP_TABLE)
def test_clipped_surrogate_matches_its_truth_table(advantage, ratio, surrogate, slope):
    log_ratio = grid(math.log(ratio)).requires_grad_()
    loss, clipped = clipped_surrogate(log_ratio, grid(0.0), grid(advantage), clip=0.2)
    loss.sum().backward()
    assert -loss.item() == pytest.approx(surrogate)
    assert -log_ratio.grad.item() == pytest.approx(slope * ratio)
    assert clipped.item() == (slope == 0)


@pytest.mark.parametrize(
    ("advantage", "ratio", "surrogate"),
    [(1, 1.25, 1.25), (1, 1.4, 1.28), (1, 0.5, 0.5), (-1, 0.5, -0.8), (-1, 2.0, -2.0)],
)
def test_the_upper_bound_of_a_ratio_may_be_its_own(advantage, ratio, surrogate):
    loss, _ = clipped_surrogate(grid(math.log(ratio)), grid(0.0), grid(advantage), clip=0.2, clip_high=0.28)
    assert -loss.item() == pytest.approx(surrogate)


@pytest.mark.parametrize(
    ("ratio", "clip", "high", "weight"),
    [
        (3.0, None, 4.0, 3.0),
        (7.0, None, 4.0, 5.0),
        (0.01, None, 4.0, 0.01),
        (0.01, 0.2, 4.0, 0.8),
        (7.0, 0.2, None, 1.2),
        (7.0, None, None, 7.0),
    ],
)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo_clips_the_weight_and_never_the_gradient(advantage, ratio, clip, high, weight):
    """loss = -sg(w) A log pi, so its slope in log pi is -w A, on either side of either bound."""
    log_probs = grid(math.log(ratio) - 3.0).requires_grad_()
    loss, clipped = clipped_weight_gradient(log_probs, grid(-3.0), grid(advantage), clip=clip, clip_high=high)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-weight * advantage * (math.log(ratio) - 3.0))
    assert log_probs.grad.item() == pytest.approx(-weight * advantage)
    assert clipped.item() == (weight != ratio)


VALUE_TABLE = [  # value, old value, return, loss, gradient; clip 0.2
    (1.0, 0.5, 0.6, 0.08, 0.4),
    (1.0, 0.5, 2.0, 0.845, 0.0),
    (0.6, 0.5, 2.0, 0.98, -1.4),
    (0.0, 0.5, 0.6, 0.18, -0.6),
    (0.0, 0.5, 0.0, 0.045, 0.0),
    (0.2, 0.5, -1.0, 0.845, 0.0),
    (0.4, 0.5, -1.0, 0.98, 1.4),
]


@pytest.mark.parametrize(("value", "old", "target", "loss", "gradient"), VALUE_TABLE)
def test_clipped_value_error_matches_its_table(value, old, target, loss, gradient):
    values = grid(value).requires_grad_()
    found, _ = clipped_value_error(values, grid(old), grid(target), clip=0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(gradient)


def test_an_absurd_log_ratio_gives_a_finite_loss():
    loss, _ = clipped_surrogate(grid(500.0), grid(0.0), grid(-1.0))
    assert torch.isfinite(loss).all()


DUAL = [(1, 1.1, 1.1), (-1, 1.5, -1.5), (-1, 4.0, -3.0), (1, 4.0, 1.2)]  # advantage, ratio, surrogate; dual clip 3


@pytest.mark.parametrize(("advantage", "ratio", "surrogate"), DUAL)
def test_a_dual_clip_bounds_the_loss_of_a_token_that_became_likely(advantage, ratio, surrogate):
    log_ratio = grid(math.log(ratio)).requires_grad_()
    loss, clipped = clipped_surrogate(log_ratio, grid(0.0), grid(advantage), clip=0.2, dual_clip=3.0)
    loss.sum().backward()
    assert -loss.item() == pytest.approx(surrogate)
    assert clipped.item() == (log_ratio.grad.item() == 0)


def pair(first, second):
    """Log-ratios of a pair in both orders, as rows."""
    ratios = torch.tensor([first, second], dtype=torch.float64).log().requires_grad_()
    return ratios, ratios.flip(0), torch.tensor([1.0, -1.0], dtype=torch.float64)  # returns differ by 1


@pytest.mark.parametrize(
    ("first", "second", "separate", "separate_free", "joint", "joint_free"),
    [(1.1, 0.9, [0.99, -0.99], True, 0.0990, False), (1.5, 0.7, [0.84, -1.2], False, 0.105, False)],
)
def test_pairwise_clipping_matches_its_table(first, second, separate, separate_free, joint, joint_free):
    """Surrogates of both orders, and whether any gradient flows; the joint one is .5 C min(u, clip)."""
    for surrogate, expected, free in (
        (pairwise_surrogate_separate, separate, separate_free),
        (pairwise_surrogate_joint, [joint, joint], joint_free),
    ):
        own, other, gap = pair(first, second)
        loss, clipped = surrogate(own, other, gap, clip=0.2)
        (gradient,) = torch.autograd.grad(loss.sum(), own)
        assert (-loss).tolist() == pytest.approx(expected, abs=1e-3)
        assert clipped.tolist() == [not free] * 2
        assert bool(gradient.abs().sum() > 0) == free


def test_both_pairwise_surrogates_have_the_pairwise_gradient_at_the_sampling_policy():
    """(R1 - R2) grad(log pi(y1) - log pi(y2)) / 2 for the mean of both orders."""
    for surrogate in (pairwise_surrogate_separate, pairwise_surrogate_joint):
        ratios = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        loss, _ = surrogate(ratios, ratios.flip(0), torch.tensor([3.0, -3.0], dtype=torch.float64))
        (gradient,) = torch.autograd.grad(-loss.mean(), ratios)
        assert gradient.tolist() == pytest.approx([1.5, -1.5])


def test_the_value_error_without_a_clip_is_half_the_square():
    loss, clipped = clipped_value_error(grid(3.0), grid(0.0), grid(1.0), clip=None)
    assert loss.item() == 2.0
    assert not clipped.any()
