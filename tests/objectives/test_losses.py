import math

import pytest
import torch

from plaudit.objectives import bradley_terry, clipped_surrogate, clipped_value_error


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


VALUE_TABLE = [  # value, old value, return, loss, gradient; clip 0.2
    (1.0, 0.5, 0.6, 0.08, 0.4),
    (1.0, 0.5, 2.0, 0.845, 0.0),
    (0.6, 0.5, 2.0, 0.98, -1.4),
    (0.0, 0.5, 0.6, 0.18, -0.6),
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
