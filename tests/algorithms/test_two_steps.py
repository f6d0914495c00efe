"""Convergence on a task of two tokens: credit over steps, not only over arms.

The policy draws a first token, then a second one that may depend on it. Over whole paths the optimum is again
reference * exp(R / beta) / Z.
"""

from itertools import product

import pytest
import torch
from exact import algorithm

from plaudit.algorithms.base import Piece, Rollouts
from plaudit.objectives import kl_penalised_rewards, scores_at_the_end

PATHS = [(0, 0), (0, 1), (1, 0), (1, 1)]
REWARD = torch.tensor([1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
REFERENCE = torch.tensor([[0.7, 0.6], [0.7, 0.4], [0.3, 0.2], [0.3, 0.8]], dtype=torch.float64).log()  # [4, 2]
BETA = 0.8
OPTIMUM = (REFERENCE.sum(1).exp() * (REWARD / BETA).exp()).div((REFERENCE.sum(1).exp() * (REWARD / BETA).exp()).sum())


def path_log_probs(leaves):
    """[4, 2] log-prob of each token along each path."""
    first, second = leaves
    return torch.stack([torch.stack([first.log_softmax(0)[a], second[a].log_softmax(0)[b]]) for a, b in PATHS])


def true_values(log_probs, rewards):
    """[4, 2] expected reward-to-go before each token, under the policy that draws."""
    probabilities = log_probs.exp()
    after_first = torch.zeros(4, dtype=torch.float64)
    for i, (a, _) in enumerate(PATHS):
        after_first[i] = sum(probabilities[j, 1] * rewards[j, 1] for j, (other, _) in enumerate(PATHS) if other == a)
    start = (log_probs.sum(1).exp() * rewards.sum(1)).sum()
    return torch.stack([start.expand(4), after_first], dim=1)


@pytest.mark.parametrize(
    ("name", "settings", "size", "rate"),
    [
        ("reinforce", {"reinforce": {"baseline": "none"}}, 1, 3.0),
        ("reinforce", {"reinforce": {"baseline": "value"}}, 1, 3.0),
        ("ppo", {"gae_lambda": 1.0}, 1, 3.0),
        ("ppo", {"gae_lambda": 0.95}, 1, 3.0),
        ("rloo", {}, 2, 3.0),
        ("grpo", {"grpo": {"reduction": "response_sum"}}, 2, 6.0),
        ("cispo", {"grpo": {"reduction": "response_sum"}}, 2, 6.0),
        ("gspo", {}, 2, 12.0),
        ("p3o", {}, 2, 3.0),
        ("p3o", {"p3o": {"clipping": "joint"}}, 2, 3.0),
        ("online-dpo", {"online_dpo": {"beta": BETA}}, 2, 15.0),
    ],
)
def test_it_reaches_the_optimum_over_paths(name, settings, size, rate):
    """PPO with true values gets there for any lambda."""
    made = algorithm(name, **settings)
    leaves = [torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)]
    groups = torch.tensor(list(product(range(4), repeat=size)))  # [G, K]
    rows = groups.flatten()
    mask = torch.ones(len(rows), 2, dtype=torch.bool)
    for _ in range(1500 if name == "online-dpo" else 500):
        old = path_log_probs(leaves).detach()
        task = scores_at_the_end(REWARD, torch.ones(4, 2, dtype=torch.bool))
        by_path = kl_penalised_rewards(task, old, REFERENCE, torch.ones(4, 2, dtype=torch.bool), coefficient=BETA)
        values = true_values(old, by_path)
        rollouts = Rollouts(
            [], size, mask, REWARD[rows], by_path[rows], old[rows], REFERENCE[rows], values={"reward": values[rows]}
        )
        advantages = made.advantages(rollouts)
        piece = Piece(size, mask, old[rows], advantages.policy, rollouts.returns, rollouts.scores, REFERENCE[rows])
        for leaf in leaves:
            leaf.requires_grad_()
        loss, _ = made.loss(path_log_probs(leaves)[rows], piece)
        per_response = loss if loss.dim() == 1 else loss.sum(dim=1)
        weights = old.sum(1)[groups].sum(dim=1).exp()  # [G]
        total = (weights * per_response.view(len(groups), size).mean(dim=1)).sum()
        gradients = torch.autograd.grad(total, leaves)
        leaves = [leaf.detach() - rate * gradient for leaf, gradient in zip(leaves, gradients, strict=True)]
    found = path_log_probs(leaves).sum(1).exp()
    assert found.tolist() == pytest.approx(OPTIMUM.tolist(), abs=1e-4)
