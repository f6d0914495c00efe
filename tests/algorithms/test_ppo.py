"""PPO on problems small enough to enumerate, in float64, without a language model."""

import pytest
import torch

from plaudit.algorithms.ppo import PPO
from plaudit.algorithms.rollouts import Rollouts
from plaudit.config import RlSettings
from plaudit.objectives import kl_penalised_rewards

REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, 2.0, -1.0], dtype=torch.float64)
OPTIMUM = [0.208307, 0.021143, 0.769596, 0.000954]  # reference * exp(reward / 0.5) / 14.188786


def rollouts_of(log_probs, reference, scores, values, *, coefficient):
    mask = torch.ones_like(log_probs, dtype=torch.bool)
    rewards = kl_penalised_rewards(scores, log_probs, reference, mask, coefficient=coefficient)
    return Rollouts([], mask, scores, rewards, log_probs, reference, values)


@pytest.mark.parametrize(("rate", "decay", "clipping"), [(0.3, False, False), (2.0, True, True)])
def test_ppo_reaches_the_kl_regularised_optimum_of_a_bandit(rate, decay, clipping):
    """Exact expectations over four arms: the fixed point is reference * exp(R / beta) / Z. The aggressive run clips."""
    algorithm = PPO(RlSettings(whiten_advantages=False))
    logits = REFERENCE.log().clone().requires_grad_()
    iterations, clipped_share = 2500, 0.0
    for iteration in range(iterations):
        old = logits.detach().log_softmax(0)
        baseline = (old.exp() * (REWARD - 0.5 * (old - REFERENCE.log()))).sum()
        batch = rollouts_of(
            old[:, None], REFERENCE.log()[:, None], REWARD, baseline.expand(4, 1).clone(), coefficient=0.5
        )
        advantages, _ = algorithm.advantages(batch)
        step = rate * (1 - iteration / iterations if decay else 1)
        for _ in range(20 if clipping else 4):
            loss, clipped = algorithm.loss(logits.log_softmax(0)[:, None], old[:, None], advantages)
            (gradient,) = torch.autograd.grad((old.exp()[:, None] * loss).sum(), logits)
            with torch.no_grad():
                logits -= step * gradient
            clipped_share += float((old.exp()[:, None] * clipped).sum()) / iterations
    assert logits.softmax(0).tolist() == pytest.approx(OPTIMUM, abs=2e-4)
    assert (clipped_share > 0.5) == clipping


def test_gradient_of_a_two_token_policy_is_that_of_its_objective():
    """E[R] - beta KL of a two-token policy, differentiated: GAE with lambda 1 gives it for any value function."""
    first = torch.tensor([0.2, -0.1], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[0.3, 0.0], [-0.4, 0.5]], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
    paths = [(a, b) for a in (0, 1) for b in (0, 1)]

    def path_log_probs():
        return torch.stack(
            [torch.stack([first.log_softmax(0)[a], second[a].log_softmax(0)[b]]) for a, b in paths]
        )  # [4, 2]

    log_probs = path_log_probs()
    probabilities = log_probs.sum(1).exp()
    uniform = torch.full((4, 2), 0.5, dtype=torch.float64).log()
    scores = torch.stack([reward[a, b] for a, b in paths])
    objective = (probabilities * (scores - 0.1 * (log_probs - uniform).sum(1))).sum()
    expected = torch.autograd.grad(objective, (first, second))
    assert objective.item() == pytest.approx(0.990928, abs=1e-6)
    assert expected[0].tolist() == pytest.approx([-0.247859, 0.247859], abs=1e-6)

    values = torch.tensor([[0.7, (0.3, 0.9)[a]] for a, _ in paths], dtype=torch.float64)
    for gae_lambda, exact in ((1.0, True), (0.95, False)):
        algorithm = PPO(RlSettings(whiten_advantages=False, gae_lambda=gae_lambda))
        batch = rollouts_of(log_probs.detach(), uniform, scores, values, coefficient=0.1)
        advantages, returns = algorithm.advantages(batch)
        assert returns.equal(advantages + values)
        loss, _ = algorithm.loss(path_log_probs(), log_probs.detach(), advantages)
        found = torch.autograd.grad(-(probabilities.detach()[:, None] * loss).sum(), (first, second))
        close = torch.allclose(found[0], expected[0], atol=1e-12) and torch.allclose(found[1], expected[1], atol=1e-12)
        assert close == exact
    assert found[0].tolist() == pytest.approx([-0.243166, 0.243166], abs=1e-6)  # lambda .95 with wrong values
