"""Gradients against the true one, by enumerating every draw."""

import math
from itertools import product

import pytest
import torch
from exact import BETA, REFERENCE, REWARD, Draws, algorithm

from plaudit.algorithms.base import Piece, Rollouts
from plaudit.objectives import kl_penalised_rewards, scores_at_the_end

LOGITS = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
PRICED = REWARD - BETA * (LOGITS.log_softmax(0) - REFERENCE.log())
"""Rewards of the four outcomes, the KL price of this policy included."""


def true_gradient():
    """p_i (R_i - mean R): the gradient of E[R] - beta KL."""
    p = LOGITS.softmax(0)
    return p * (PRICED - (p * PRICED).sum())


def test_the_true_gradient_is_that_of_the_regularised_reward():
    logits = LOGITS.clone().requires_grad_()
    p = logits.softmax(0)
    objective = (p * (REWARD - BETA * (p.log() - REFERENCE.log()))).sum()
    (gradient,) = torch.autograd.grad(objective, logits)
    torch.testing.assert_close(true_gradient(), gradient)
    assert gradient.tolist() == pytest.approx([0.149590, -0.057937, 0.368073, -0.459726], abs=1e-6)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("reinforce", {"reinforce": {"baseline": "none"}}),
        ("rloo", {}),
        ("p3o", {}),
        ("p3o", {"p3o": {"clipping": "joint"}}),
    ],
)
def test_unbiased_over_all_groups(name, settings, size):
    found = Draws(LOGITS, size=size).gradient(algorithm(name, **settings), LOGITS)
    torch.testing.assert_close(found, true_gradient(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo"])
def test_the_groups_own_mean_shrinks_the_gradient_without_turning_it(name, size):
    found = Draws(LOGITS, size=size).gradient(algorithm(name), LOGITS)
    torch.testing.assert_close(found, true_gradient() * (size - 1) / size, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("size", "cosine"), [(2, 0.94839), (3, 0.96759), (4, 0.98080)])
def test_dividing_by_the_deviation_turns_the_gradient(size, cosine):
    made = algorithm("grpo", grpo={"scale_by_std": True})
    found = Draws(LOGITS, size=size).gradient(made, LOGITS)
    assert torch.cosine_similarity(found, true_gradient(), dim=0).item() == pytest.approx(cosine, abs=2e-4)


def test_a_baseline_of_the_batchs_other_responses_is_unbiased():
    """Batches of three, one response to each of three prompts that happen to be alike."""
    made = algorithm("reinforce", samples_per_prompt=1)
    p, total = LOGITS.softmax(0), torch.zeros(4, dtype=torch.float64)
    for outcomes in product(range(4), repeat=3):
        rows = torch.tensor(outcomes)
        logits = LOGITS.clone().requires_grad_()
        log_probs = logits.log_softmax(0)[rows][:, None]
        mask = torch.ones(3, 1, dtype=torch.bool)
        rollouts = Rollouts([], 1, mask, REWARD[rows], PRICED[rows][:, None], log_probs.detach())
        advantages = made.advantages(rollouts)
        piece = Piece(1, mask, log_probs.detach(), advantages.policy, rollouts.returns, rollouts.scores)
        loss, _ = made.loss(log_probs, piece)
        total += p[rows].prod() * -torch.autograd.grad(loss.mean(), logits)[0]
    torch.testing.assert_close(total, true_gradient(), atol=1e-12, rtol=0)


def variance_trace(name, size, shift, **settings):
    """Trace of the covariance of one group's gradient."""
    made = algorithm(name, **settings)
    mean, square = torch.zeros(4, dtype=torch.float64), 0.0
    p = LOGITS.softmax(0)
    for outcomes in product(range(4), repeat=size):
        rows = torch.tensor(outcomes)
        logits = LOGITS.clone().requires_grad_()
        log_probs = logits.log_softmax(0)[rows][:, None]
        mask = torch.ones(size, 1, dtype=torch.bool)
        reward = (PRICED + shift)[rows]
        rollouts = Rollouts([], size, mask, reward, reward[:, None], log_probs.detach())
        piece = Piece(
            size, mask, log_probs.detach(), made.advantages(rollouts).policy, rollouts.returns, rollouts.scores
        )
        loss, _ = made.loss(log_probs, piece)
        (gradient,) = torch.autograd.grad(loss.mean(), logits)
        mean, square = mean + p[rows].prod() * gradient, square + float(p[rows].prod() * gradient.square().sum())
    return square - float(mean.square().sum())


def test_a_shift_of_the_reward_costs_reinforce_its_precision_and_leave_one_out_nothing():
    assert variance_trace("rloo", 2, 0.0) == pytest.approx(1.075066, abs=1e-5)
    assert variance_trace("rloo", 2, 10.0) == pytest.approx(1.075066, abs=1e-5)
    assert variance_trace("rloo", 4, 10.0) == pytest.approx(0.298214, abs=1e-5)
    none = {"reinforce": {"baseline": "none"}}
    assert variance_trace("reinforce", 2, 0.0, **none) == pytest.approx(0.443, abs=1e-3)
    assert variance_trace("reinforce", 2, 10.0, **none) == pytest.approx(40.866, abs=1e-2)


FIRST, SECOND = [0.2, -0.1], [[0.3, 0.0], [-0.4, 0.5]]
PATHS = [(a, b) for a in (0, 1) for b in (0, 1)]
PATH_REWARD = torch.tensor([1.0, 0.0, 0.5, 2.0], dtype=torch.float64)


def two_tokens():
    """Logits of a policy of two tokens with gradient, and its [4, 2] log-probs along the four paths."""
    first = torch.tensor(FIRST, dtype=torch.float64, requires_grad=True)
    second = torch.tensor(SECOND, dtype=torch.float64, requires_grad=True)
    rows = [torch.stack([first.log_softmax(0)[a], second[a].log_softmax(0)[b]]) for a, b in PATHS]
    return (first, second), torch.stack(rows)


def path_gradient(made, values):
    """Expected gradient of an algorithm on the two-token policy, reward at the end, beta 0.1, uniform reference."""
    leaves, log_probs = two_tokens()
    uniform = torch.full((4, 2), 0.5, dtype=torch.float64).log()
    mask = torch.ones(4, 2, dtype=torch.bool)
    task = scores_at_the_end(PATH_REWARD, mask)
    rewards = kl_penalised_rewards(task, log_probs.detach(), uniform, mask, coefficient=0.1)
    rollouts = Rollouts(
        [], 1, mask, PATH_REWARD, rewards, log_probs.detach(), uniform, values={"reward": values, "cost": values}
    )
    advantages = made.advantages(rollouts)
    loss, _ = made.loss(
        log_probs, Piece(1, mask, log_probs.detach(), advantages.policy, rollouts.returns, rollouts.scores)
    )
    weights = log_probs.detach().sum(dim=1).exp()
    return torch.autograd.grad(-(weights[:, None] * loss).sum(), leaves), advantages


def objective_gradient():
    """E[R] - beta KL, differentiated."""
    leaves, log_probs = two_tokens()
    uniform = torch.full((4, 2), 0.5, dtype=torch.float64).log()
    probabilities = log_probs.sum(1).exp()
    objective = (probabilities * (PATH_REWARD - 0.1 * (log_probs - uniform).sum(1))).sum()
    assert objective.item() == pytest.approx(0.990928, abs=1e-6)
    return torch.autograd.grad(objective, leaves)


WRONG_VALUES = torch.tensor([[0.7, (0.3, 0.9)[a]] for a, _ in PATHS], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ppo", {"gae_lambda": 1.0}),
        ("reinforce", {"reinforce": {"baseline": "none"}}),
        ("reinforce", {"reinforce": {"baseline": "value"}}),
    ],
)
def test_gradient_of_a_two_token_policy_is_that_of_its_objective(name, settings):
    """For any value function, right or wrong, as long as lambda is 1."""
    expected = objective_gradient()
    assert expected[0].tolist() == pytest.approx([-0.247859, 0.247859], abs=1e-6)
    assert expected[1].flatten().tolist() == pytest.approx([0.136214, -0.136214, -0.123308, 0.123308], abs=1e-6)
    found, _ = path_gradient(algorithm(name, **settings), WRONG_VALUES)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_a_lambda_below_1_lets_a_wrong_value_function_in():
    found, advantages = path_gradient(algorithm("ppo", gae_lambda=0.95), WRONG_VALUES)
    assert found[0].tolist() == pytest.approx([-0.243166, 0.243166], abs=1e-6)
    assert advantages.targets["reward"].equal(advantages.policy + WRONG_VALUES)


def test_reinforce_with_the_true_values_is_generalised_advantages_at_lambda_1():
    by_values, _ = path_gradient(algorithm("reinforce", reinforce={"baseline": "value"}), WRONG_VALUES)
    by_gae, _ = path_gradient(algorithm("ppo", gae_lambda=1.0), WRONG_VALUES)
    for one, other in zip(by_values, by_gae, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_whitened_rewards_keep_their_mean_and_change_the_targets_scale():
    plain, with_whitening = (
        path_gradient(algorithm("ppo", gae_lambda=1.0, whiten_rewards=w), 0 * WRONG_VALUES)[1].targets["reward"]
        for w in (False, True)
    )
    assert not torch.allclose(plain, with_whitening)


def test_zero_advantages_give_no_gradient():
    flat = torch.zeros(4, dtype=torch.float64)
    for name in ("reinforce", "rloo", "grpo", "p3o"):
        size = 1 if name == "reinforce" else 2
        drawn = Draws(LOGITS, flat, size=size, coefficient=0.0, reference=REFERENCE)
        assert drawn.gradient(algorithm(name), LOGITS).abs().max() < 1e-15


def test_rloos_clipped_ratio_is_of_the_whole_response_with_its_one_advantage():
    """Two responses, of two tokens and of one, ratios e^.1 and e^.5; the second, the worse one, is not clipped."""
    made = algorithm("rloo", rloo={"clip_ratio": True})
    mask = torch.tensor([[True, True], [True, False]])
    advantages = torch.tensor([[2.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)
    log_probs = torch.tensor([[0.06, 0.04], [0.5, 9.0]], dtype=torch.float64)
    piece = Piece(2, mask, torch.zeros(2, 2, dtype=torch.float64), advantages, torch.zeros(2), torch.zeros(2))
    loss, clipped = made.loss(log_probs, piece)
    assert loss.tolist() == pytest.approx([-2 * math.exp(0.1), 2 * math.exp(0.5)])
    assert clipped.tolist() == [False, False]
