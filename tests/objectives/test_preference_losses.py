"""Every preference loss on one pair worked by hand, its limits, and where it ends on a bandit."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from plaudit.objectives import (
    apo_down,
    apo_zero,
    conservative_dpo,
    cpo,
    dpo,
    hinge,
    ipo,
    kto,
    kto_reference_point,
    orpo_odds,
    robust_dpo,
    simpo,
)


def one(value) -> Tensor:
    return torch.tensor([float(value)], dtype=torch.float64)


CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED = one(-10), one(-12), one(-11), one(-11.5)
POLICY_GAP, REFERENCE_GAP = CHOSEN - REJECTED, REFERENCE_CHOSEN - REFERENCE_REJECTED  # h = 1.5
LENGTHS = one(5), one(8)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (dpo, 0.620957),
        (hinge, 0.85),
        (conservative_dpo, 0.635957),
        (robust_dpo, 0.602207),
        (ipo, 12.25),
    ],
)
def test_the_pair_worked_by_hand(loss, expected):
    assert loss(POLICY_GAP, REFERENCE_GAP).item() == pytest.approx(expected, abs=1e-6)


def test_ipo_on_means_of_tokens():
    policy, reference = (c / 5 - r / 8 for c, r in ((CHOSEN, REJECTED), (REFERENCE_CHOSEN, REFERENCE_REJECTED)))
    assert ipo(policy, reference, tau=0.1).item() == pytest.approx(22.443906, abs=1e-6)


def test_simpo_orpo_cpo_and_kto_worked_by_hand():
    assert simpo(CHOSEN, REJECTED, *LENGTHS, beta=2.0, gamma_over_beta=0.5).item() == pytest.approx(2.126928, abs=1e-6)
    assert orpo_odds(CHOSEN, REJECTED, *LENGTHS).item() == pytest.approx(1.042058, abs=1e-6)
    assert cpo(POLICY_GAP, beta=0.1).item() == pytest.approx(math.log1p(math.exp(-0.2)))
    z0 = torch.tensor(0.2, dtype=torch.float64)
    liked = kto(CHOSEN - REFERENCE_CHOSEN, torch.tensor([True]), z0)
    disliked = kto(REJECTED - REFERENCE_REJECTED, torch.tensor([False]), z0)
    assert (liked.item(), disliked.item()) == pytest.approx((0.480011, 0.482507), abs=1e-6)
    weighted = kto(CHOSEN - REFERENCE_CHOSEN, torch.tensor([True]), z0, desirable_weight=2.0)
    assert weighted.item() == pytest.approx(2 * liked.item())


def test_apo_moves_both_responses_up_and_down_or_both_down():
    """The pair worked by hand has r_w = 1 and r_l = -1/2. Gradients at 0 are -beta / 4, beta / 4 and 0, beta / 4."""
    ratios = CHOSEN - REFERENCE_CHOSEN, REJECTED - REFERENCE_REJECTED
    assert apo_zero(*ratios).item() == pytest.approx(1 / (1 + math.exp(0.1)) + 1 / (1 + math.exp(0.05)))
    assert apo_down(*ratios).item() == pytest.approx(1 / (1 + math.exp(-0.1)) + 1 / (1 + math.exp(0.15)))
    for loss, chosen, rejected in ((apo_zero, -0.1, 0.1), (apo_down, 0.0, 0.1)):
        sides = one(0).requires_grad_(), one(0).requires_grad_()
        loss(*sides, beta=0.4).backward()
        assert [side.grad.item() for side in sides] == pytest.approx([chosen, rejected])
    ahead = one(3).requires_grad_()
    apo_down(ahead, one(-3), beta=0.4).backward()
    assert ahead.grad.item() > 0  # far enough ahead, the chosen response is made less likely too


@pytest.mark.parametrize("gap", [-3.0, 0.0, 2.5])
def test_dpo_value_and_slope_match_the_derivation(gap):
    """loss = log(1 + exp(-beta h)); slope = -beta / (1 + exp(beta h))."""
    policy = (REFERENCE_GAP + gap).requires_grad_()
    loss = dpo(policy, REFERENCE_GAP, beta=0.3)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.3 * gap)))
    assert policy.grad.item() == pytest.approx(-0.3 / (1 + math.exp(0.3 * gap)))


@pytest.mark.parametrize("loss", [dpo, hinge, ipo, conservative_dpo, robust_dpo])
def test_no_gradient_reaches_the_reference(loss):
    reference = REFERENCE_GAP.clone().requires_grad_()
    loss(POLICY_GAP.clone().requires_grad_(), reference).sum().backward()
    assert reference.grad is None


@pytest.mark.parametrize("h", [-2.0, 0.7])
def test_smoothing_of_one_half_forgets_the_label_and_of_nothing_is_dpo(h):
    gap, other = one(h), one(0)
    assert conservative_dpo(gap, other, flip_rate=0.0).item() == pytest.approx(dpo(gap, other).item())
    assert robust_dpo(gap, other, flip_rate=0.0).item() == pytest.approx(dpo(gap, other).item())
    half = partial(conservative_dpo, flip_rate=0.5)
    assert half(gap, other).item() == pytest.approx(half(-gap, other).item())


def test_robust_dpo_is_the_clean_loss_on_average_over_flips():
    clean = dpo(one(1.5), one(0)).item()
    right, wrong = (robust_dpo(one(h), one(0), flip_rate=0.2).item() for h in (1.5, -1.5))
    assert 0.8 * right + 0.2 * wrong == pytest.approx(clean)


def test_the_odds_of_sure_and_of_unlikely_responses_are_finite_and_ordered():
    sure, unlikely = one(-1e-9), one(-700.0)
    values = orpo_odds(torch.cat([sure, unlikely]), torch.cat([unlikely, sure]), one(1).expand(2), one(1).expand(2))
    assert torch.isfinite(values).all()
    assert values[0] < 1e-6 < values[1]


@pytest.mark.parametrize("p", [1e-9, 0.2, 0.4999, 0.5001, 0.9, 0.999999])
def test_the_odds_are_p_over_1_minus_p_on_both_branches_of_their_logarithm(p):
    """The difference of two log-odds, log(p / (1 - p)) - log(q / (1 - q)), to the last digits on either side of 1/2."""
    q = 0.3
    log_p, log_q = one(math.log(p)), one(math.log(q))
    found = orpo_odds(log_p * 3, log_q * 5, one(3), one(5)).item()
    gap = math.log(p) - math.log1p(-p) - math.log(q) + math.log1p(-q)
    assert found == pytest.approx(math.log1p(math.exp(-gap)), rel=1e-9)


def test_the_odds_of_an_unlikely_response_in_single_precision_keep_their_digits():
    """log(1 - p) is -p to first order for p = 1e-6, and is lost where 1 - p is rounded first."""
    tiny = torch.tensor([math.log(1e-6)], requires_grad=True)
    other = torch.tensor([math.log(0.5)])
    orpo_odds(tiny, other, torch.ones(1), torch.ones(1)).sum().backward()
    odds = 1e-6 / (1 - 1e-6)
    assert tiny.grad.item() == pytest.approx(-(1 / (1 + odds)) * (1 + odds), rel=1e-6)
    near = torch.tensor([-1e-6], requires_grad=True)  # p = 1 - 1e-6: d log-odds / d log p = 1 / (1 - p) = 1e6
    orpo_odds(other, near, torch.ones(1), torch.ones(1)).sum().backward()
    assert near.grad.item() == pytest.approx(1e6, rel=1e-3)


def test_no_gradient_reaches_ktos_reference_point():
    point = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    ratio = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    kto(ratio, torch.tensor([True, False]), point, beta=0.5, undesirable_weight=3.0).sum().backward()
    assert point.grad is None
    slope = 0.5 * (1 / (1 + math.exp(-0.4))) * (1 / (1 + math.exp(0.4)))
    assert ratio.grad.tolist() == pytest.approx([-slope, 3 * slope])


def test_the_reference_point_is_never_negative_and_carries_no_gradient():
    ratios = torch.tensor([-3.0, 1.0], requires_grad=True)
    assert kto_reference_point(ratios).item() == 0.0
    assert kto_reference_point(-ratios).item() == 1.0
    assert not kto_reference_point(-ratios).requires_grad


REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, 2.0, -1.0], dtype=torch.float64)
UNIFORM = torch.full((4,), 0.25, dtype=torch.float64)


def population_optimum(loss, pairs_from, *, flip=0.0):
    """Policy that minimises the expected loss over pairs drawn from a distribution, preferred as Bradley-Terry says."""
    logits = REFERENCE.log().clone().requires_grad_()
    first, second = torch.triu_indices(4, 4, 1)
    weight = 2 * pairs_from[first] * pairs_from[second]
    wins = torch.sigmoid(REWARD[first] - REWARD[second])
    wins = (1 - flip) * wins + flip * (1 - wins)
    reference = (REFERENCE.log()[first] - REFERENCE.log()[second]).detach()
    optimiser = torch.optim.LBFGS([logits], max_iter=3000, tolerance_grad=1e-13, tolerance_change=1e-16,
                                  history_size=20, line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimiser.zero_grad()
        log_probs = logits.log_softmax(0)
        gap = log_probs[first] - log_probs[second]
        total = (weight * (wins * loss(gap, reference) + (1 - wins) * loss(-gap, -reference))).sum()
        total.backward()
        return total

    optimiser.step(closure)
    return logits.detach().softmax(0).tolist()


OPTIMUM = [0.208307, 0.021143, 0.769596, 0.000954]


@pytest.mark.parametrize(
    ("loss", "pairs_from", "flip", "expected"),
    [
        (partial(dpo, beta=0.5), REFERENCE, 0.0, OPTIMUM),
        (partial(dpo, beta=0.5), UNIFORM, 0.0, OPTIMUM),
        (partial(robust_dpo, beta=0.5, flip_rate=0.2), REFERENCE, 0.2, OPTIMUM),
        (partial(dpo, beta=0.5), REFERENCE, 0.2, [0.376505, 0.098861, 0.511373, 0.013262]),
        (partial(conservative_dpo, beta=0.5, flip_rate=0.1), REFERENCE, 0.0, [0.304070, 0.052199, 0.639252, 0.004479]),
        (partial(conservative_dpo, beta=0.5, flip_rate=0.2), REFERENCE, 0.2, [0.421537, 0.172357, 0.371330, 0.034775]),
        (partial(ipo, tau=0.5), REFERENCE, 0.0, [0.426114, 0.211389, 0.312008, 0.050488]),
        (partial(ipo, tau=0.5), UNIFORM, 0.0, [0.427788, 0.219236, 0.301056, 0.051921]),
    ],
)
def test_where_each_loss_ends(loss, pairs_from, flip, expected):
    """DPO ends at the KL-regularised optimum from any pairs, robust DPO also from labels flipped at the known rate;
    smoothed labels and IPO end elsewhere."""
    assert population_optimum(loss, pairs_from, flip=flip) == pytest.approx(expected, abs=2e-5)


def test_moving_the_reference_along_halves_beta_at_each_round():
    """Two rounds of DPO, the second from the first's policy: reference * exp(2 R / beta)."""
    tilted = REFERENCE * (REWARD / 0.5).exp()
    first = tilted / tilted.sum()
    tilted = first * (REWARD / 0.5).exp()
    second = tilted / tilted.sum()
    assert second.tolist() == pytest.approx([0.035320, 0.000485, 0.964192, 0.000003], abs=1e-6)
    gap = second.log()[0] - second.log()[2] - (first.log()[0] - first.log()[2])
    h = one(gap)
    h.requires_grad_()
    wins = torch.sigmoid(REWARD[0] - REWARD[2])
    (wins * dpo(h, one(0), beta=0.5) + (1 - wins) * dpo(-h, one(0), beta=0.5)).sum().backward()
    assert h.grad.item() == pytest.approx(0.0, abs=1e-12)
