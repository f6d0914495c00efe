"""The saddle of a constrained problem of two actions: reward (1, 0), cost (1, -1), reference (.8, .2), beta 0.5."""

import math

import pytest
import torch
from exact import Draws

from plaudit.algorithms import make
from plaudit.config import RlSettings
from plaudit.objectives import lagrangian_advantages, next_log_multiplier

REWARD = torch.tensor([1.0, 0.0], dtype=torch.float64)
COST = torch.tensor([1.0, -1.0], dtype=torch.float64)
REFERENCE = torch.tensor([0.8, 0.2], dtype=torch.float64)
LOG_ODDS = math.log(4)
PLAIN, RESCALED = (1 + 0.5 * LOG_ODDS) / 2, (1 + 0.5 * LOG_ODDS) / (2 - 0.5 * LOG_ODDS)


def settings(**lagrangian):
    return RlSettings(algorithm="ppo-lagrangian", lagrangian={"cost": "function:none:none"} | lagrangian)


def best_response(multiplier, *, rescale):
    """Probability of the first action that maximises the Lagrangian for a multiplier: a logit linear in it."""
    scale = 1 + multiplier if rescale else 1
    return 1 / (1 + math.exp(-(LOG_ODDS + (1 - 2 * multiplier) / (0.5 * scale))))


@pytest.mark.parametrize(
    ("rescale", "threshold", "multiplier", "probability"),
    [(False, -0.5, 1.121227, 0.25), (False, 0.0, PLAIN, 0.5), (False, 0.5, 0.571921, 0.75), (True, 0.0, RESCALED, 0.5)],
)
def test_the_multiplier_finds_the_saddle_of_either_form(rescale, threshold, multiplier, probability):
    log_multiplier = 0.0
    for _ in range(6000):
        p = best_response(math.exp(log_multiplier), rescale=rescale)
        log_multiplier = next_log_multiplier(log_multiplier, 2 * p - 1, threshold=threshold, rate=0.1, maximum=50)
    assert math.exp(log_multiplier) == pytest.approx(multiplier, abs=1e-6)
    assert best_response(math.exp(log_multiplier), rescale=rescale) == pytest.approx(probability, abs=1e-6)


def test_published_saddles():
    assert pytest.approx(0.846574, abs=1e-6) == PLAIN
    assert pytest.approx(1.295591, abs=1e-6) == RESCALED


@pytest.mark.parametrize(("rescale", "expected"), [(False, PLAIN), (True, RESCALED)])
@pytest.mark.parametrize("clipping", ["joint", "separate"])
def test_the_algorithm_descends_to_the_saddle(rescale, expected, clipping):
    """Policy and multiplier move together, from exact expectations; the KL weighs beta for every lambda."""
    made = make(settings(rescale=rescale, clipping=clipping, rate=0.05, window=1, maximum=50.0))
    made.settings = made.settings.model_copy(update={"gae_lambda": 1.0})
    logits = REFERENCE.log().clone()
    for _ in range(2500):
        drawn = Draws(logits, REWARD, reference=REFERENCE, cost=COST)
        if not rescale:  # the price is in the reward alone
            drawn.rollouts.costs.copy_(COST[drawn.outcomes][:, None])
            drawn.rollouts.values["cost"].copy_((drawn.old.exp() * COST).sum().expand(2, 1))
        mean_cost = (drawn.old.exp() * COST).sum()
        drawn.rollouts.episode_costs.fill_(mean_cost)
        made.observe(drawn.rollouts)
        logits.requires_grad_()
        loss, _ = drawn.loss(made, drawn.advantages(made), logits)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = logits.detach() - 0.25 * gradient
    assert made.multiplier == pytest.approx(expected, abs=1e-3)
    assert logits.softmax(0)[0].item() == pytest.approx(0.5, abs=1e-3)


def test_a_slack_constraint_lets_the_multiplier_go_and_an_impossible_one_meets_the_cap():
    slack = impossible = 0.0
    for _ in range(20000):
        slack = next_log_multiplier(slack, -1.0, threshold=0.5, rate=0.1, maximum=5)
        impossible = next_log_multiplier(impossible, 1.0, threshold=-2.0, rate=0.1, maximum=5)
    assert math.exp(slack) < 1e-2
    assert math.exp(impossible) == pytest.approx(5)


def test_the_window_of_episodes_and_the_multiplier_survive_a_checkpoint():
    made = make(settings(window=3))
    drawn = Draws(REFERENCE.log(), REWARD, reference=REFERENCE, cost=COST)
    for _ in range(3):
        figures = made.observe(drawn.rollouts)
    assert made.recent_costs == [-1.0, 1.0, -1.0]
    assert figures["recent_cost"] == pytest.approx(-1 / 3)
    other = make(settings(window=3))
    other.load_state(made.state())
    assert other.multiplier == made.multiplier
    assert other.recent_costs == made.recent_costs


def test_separate_clipping_equals_joint_where_nothing_is_clipped():
    logits = torch.tensor([0.1, -0.3], dtype=torch.float64)
    found = [
        Draws(logits, REWARD, reference=REFERENCE, cost=COST).gradient(make(settings(clipping=clipping)), logits)
        for clipping in ("joint", "separate")
    ]
    torch.testing.assert_close(found[0], found[1], atol=1e-14, rtol=0)


def test_advantages_combine_as_written():
    a, c = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]])
    assert lagrangian_advantages(a, c, multiplier=3.0)[0].tolist() == pytest.approx([-0.125, 1.25])
    assert lagrangian_advantages(a, c, multiplier=3.0, rescale=False)[0].tolist() == pytest.approx([-0.5, 5.0])


def test_one_step_of_the_multiplier_by_hand():
    """ln 2 + 0.1 * 2 * (0.7 - 0.2): twice as large, it moves twice as fast."""
    found = next_log_multiplier(math.log(2), 0.7, threshold=0.2, rate=0.1, maximum=5)
    assert found == pytest.approx(math.log(2) + 0.1)


@pytest.mark.parametrize("maximum", [0.5, 1.0, 5.0])
def test_the_multiplier_itself_is_at_most_the_maximum(maximum):
    found = next_log_multiplier(math.log(maximum), 1000.0, threshold=0.0, rate=1.0, maximum=maximum)
    assert math.exp(found) == pytest.approx(maximum)
    made = make(settings(multiplier=maximum, maximum=5.0))
    assert made.multiplier == pytest.approx(maximum)
