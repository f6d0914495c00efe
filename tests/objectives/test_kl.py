"""Estimators of KL(pi, pi_ref): values and gradients by enumeration of four outcomes."""

import pytest
import torch

from plaudit.objectives import k1, k2, k3, kl_penalised_rewards, next_kl_coefficient

POLICY = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.2, 0.2, 0.3, 0.3], dtype=torch.float64)
REVERSE = [0.194081, 0.059256, -0.122682, -0.130656]  # gradient of KL(pi, ref) with respect to the logits
FORWARD = [0.2, 0.1, -0.1, -0.2]  # of KL(ref, pi)


@pytest.mark.parametrize(
    ("estimate", "mean", "deviation"), [(k1, 0.207944, 0.593158), (k2, 0.197539, 0.154463), (k3, 0.207944, 0.237234)]
)
def test_means_and_deviations(estimate, mean, deviation):
    values = estimate(POLICY.log(), REFERENCE.log())
    found = (POLICY * values).sum()
    assert found.item() == pytest.approx(mean, abs=1e-6)
    assert (POLICY * (values - found).square()).sum().sqrt().item() == pytest.approx(deviation, abs=1e-6)


@pytest.mark.parametrize(("estimate", "expected"), [(k1, [0.0] * 4), (k2, REVERSE), (k3, FORWARD)])
def test_gradients_as_a_loss(estimate, expected):
    """Samples are of the policy itself and carry no gradient: only the estimate is differentiated."""
    logits = POLICY.log().requires_grad_()
    (gradient,) = torch.autograd.grad((POLICY * estimate(logits.log_softmax(0), REFERENCE.log())).sum(), logits)
    assert gradient.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (k1, REVERSE),
        (k2, [0.017075, -0.034601, -0.023068, 0.040594]),
        (k3, [-0.005919, -0.040744, -0.022682, 0.069344]),
    ],
)
def test_gradients_in_the_reward(estimate, expected):
    """The estimate is a number that the log-prob's gradient is weighed by."""
    logits = POLICY.log().requires_grad_()
    weight = estimate(POLICY.log(), REFERENCE.log()).detach()
    (gradient,) = torch.autograd.grad((POLICY * weight * logits.log_softmax(0)).sum(), logits)
    assert gradient.tolist() == pytest.approx(expected, abs=1e-6)


def test_k3_is_of_the_right_direction():
    """For a peaked policy the wrong direction would give chi2 - KL = .3213 for a KL of .6353."""
    policy = torch.tensor([0.989, 0.01, 0.001], dtype=torch.float64)
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert (policy * k3(policy.log(), reference.log())).sum().item() == pytest.approx(0.6353, abs=1e-4)
    deviations = []
    for estimate in (k1, k3):
        values = estimate(policy.log(), reference.log())
        mean = (policy * values).sum()
        deviations.append((policy * (values - mean).square()).sum().sqrt().item())
    assert deviations == pytest.approx([0.448, 6.61], rel=1e-2)  # its low variance is local


def test_references_carry_no_gradient():
    reference = REFERENCE.log().requires_grad_()
    for estimate in (k1, k2, k3):
        assert not estimate(POLICY.log(), reference).requires_grad


@pytest.mark.parametrize(
    ("before", "kl", "episodes", "after"),
    [(0.2, 10.0, 256, 0.201024), (0.2, 6.3, 256, 0.200256), (0.15, 3.0, 512, 0.148464)],
)
def test_the_adaptive_controller_matches_the_released_code(before, kl, episodes, after):
    assert next_kl_coefficient(before, kl, target=6.0, episodes=episodes, horizon=10_000) == pytest.approx(after)


def test_a_hundred_saturated_steps_of_the_controller():
    coefficient = 0.15
    for _ in range(100):
        coefficient = next_kl_coefficient(coefficient, 100.0, target=6.0, episodes=512, horizon=10_000)
    assert coefficient == pytest.approx(0.415477, abs=1e-6)


def test_what_stands_behind_the_mask_is_not_priced():
    """Padding may hold anything, also what is no number."""
    nan = float("nan")
    rewards, log_probs = torch.tensor([[0.0, 1.0, nan]]), torch.tensor([[-1.0, -2.0, nan]])
    mask = torch.tensor([[True, True, False]])
    found = kl_penalised_rewards(rewards, log_probs, torch.tensor([[-1.5, -1.0, 5.0]]), mask, coefficient=0.1)
    assert found[0].tolist() == pytest.approx([-0.05, 1.1, 0.0])


def test_the_price_carries_no_gradient_and_takes_its_sign_from_the_coefficient():
    log_probs = torch.tensor([[-1.0]], requires_grad=True)
    for coefficient in (0.2, -0.2):
        found = kl_penalised_rewards(
            torch.zeros(1, 1), log_probs, torch.tensor([[-3.0]]), torch.ones(1, 1).bool(), coefficient=coefficient
        )
        assert found.item() == pytest.approx(-2 * coefficient)
        assert not found.requires_grad


@pytest.mark.parametrize(("kl", "factor"), [(6.0, 1.0), (7.2, 1.2), (60.0, 1.2), (4.8, 0.8), (0.0, 0.8), (6.6, 1.1)])
def test_the_controllers_error_is_clipped_at_a_fifth(kl, factor):
    """With as many episodes as the horizon has, the coefficient changes by the whole error."""
    assert next_kl_coefficient(1.0, kl, target=6.0, episodes=7, horizon=7) == pytest.approx(factor)
