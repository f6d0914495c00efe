"""Expectations over every draw of a policy with a handful of outcomes, for algorithms that usually see samples.

A outcomes, K draws a prompt, G = A^K groups of draws; B = G K rows, those of a group side by side.
"""

from itertools import product

import torch

from plaudit.algorithms import make
from plaudit.algorithms.base import Piece, Rollouts
from plaudit.config import RlSettings
from plaudit.methods import ALGORITHMS
from plaudit.objectives import kl_penalised_rewards, scores_at_the_end

REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, 2.0, -1.0], dtype=torch.float64)
BETA = 0.5
OPTIMUM = [0.208307, 0.021143, 0.769596, 0.000954]  # REFERENCE * exp(REWARD / BETA) / 14.188786

ONLINE = [name for name, entry in ALGORITHMS.items() if entry.algorithm]
"""Those that learn from rollouts."""


def group(name):
    """Draws that the algorithm needs to compare, or one."""
    return 2 if ALGORITHMS[name].compares else 1


def algorithm(name, **settings):
    """One algorithm, without whitening, which would keep the steps from shrinking near the optimum."""
    defaults = {"algorithm": name, "samples_per_prompt": 2, "whiten_advantages": False}
    if ALGORITHMS[name].constrained:
        defaults["lagrangian"] = {"cost": "reward-001", "multiplier": 1.0, "clipping": "separate"}
    return make(RlSettings(**(defaults | settings)))


class Draws:
    """All groups of K draws from a softmax policy, with the probability of each."""

    def __init__(self, logits, reward=REWARD, *, size=1, coefficient=BETA, reference=REFERENCE, cost=None, values=None):
        self.old = logits.detach().log_softmax(0)
        self.groups = torch.tensor(list(product(range(len(logits)), repeat=size)))  # [G, K]
        self.outcomes = self.groups.flatten()  # [B]
        self.weights = self.old[self.groups].sum(dim=1).exp()  # [G]
        log_probs, reference_log_probs = self.old[self.outcomes][:, None], reference.log()[self.outcomes][:, None]
        mask = torch.ones_like(log_probs, dtype=torch.bool)
        task = scores_at_the_end(reward[self.outcomes], mask)
        priced = kl_penalised_rewards(task, log_probs, reference_log_probs, mask, coefficient=coefficient)
        expected = (self.old.exp() * (reward - coefficient * (self.old - reference.log()))).sum()
        baselines = {"reward": expected.expand(len(mask), 1).clone()}
        costs = None
        if cost is not None:
            costs = scores_at_the_end(cost[self.outcomes], mask)
            costs = kl_penalised_rewards(costs, log_probs, reference_log_probs, mask, coefficient=-coefficient)
            mean = (self.old.exp() * (cost + coefficient * (self.old - reference.log()))).sum()
            baselines["cost"] = mean.expand(len(mask), 1).clone()
        self.rollouts = Rollouts(
            sequences=[],
            group_size=size,
            mask=mask,
            scores=reward[self.outcomes],
            rewards=priced,
            log_probs=log_probs,
            reference_log_probs=reference_log_probs,
            costs=costs,
            episode_costs=None if cost is None else cost[self.outcomes],
            values=baselines,
        )

    def advantages(self, algorithm):
        return algorithm.advantages(self.rollouts)

    def loss(self, algorithm, advantages, logits, *, kl_loss=None):
        """([] expected loss of the policy `logits` on these draws, [] share that is clipped)."""
        log_probs = logits.log_softmax(0)[self.outcomes][:, None]
        rollouts = self.rollouts
        piece = Piece(
            group_size=rollouts.group_size,
            mask=rollouts.mask,
            old_log_probs=rollouts.log_probs,
            advantages=advantages.policy,
            returns=rollouts.returns,
            scores=rollouts.scores,
            reference_log_probs=rollouts.reference_log_probs,
            cost_advantages=advantages.cost,
        )
        loss, clipped = algorithm.loss(log_probs, piece)
        if kl_loss is not None:
            loss = loss + BETA * kl_loss(log_probs, rollouts.reference_log_probs)
        by_group = loss.reshape(len(self.groups), -1).mean(dim=1)
        share = clipped.reshape(len(self.groups), -1).double().mean(dim=1)
        return (self.weights * by_group).sum(), float((self.weights * share).sum())

    def gradient(self, algorithm, logits, *, kl_loss=None):
        """Gradient of the objective (minus the loss) at the policy that drew."""
        logits = logits.detach().clone().requires_grad_()
        loss, _ = self.loss(algorithm, self.advantages(algorithm), logits, kl_loss=kl_loss)
        return -torch.autograd.grad(loss, logits)[0]


def climb(algorithm, *, iterations, rate, epochs=1, decay=False, start=REFERENCE, kl_loss=None, **draws):
    """Gradient steps on the expected loss, the draws renewed each iteration; (probabilities, clipped share a step)."""
    logits, share = start.log().clone(), 0.0
    for iteration in range(iterations):
        drawn = Draws(logits, **draws)
        advantages = drawn.advantages(algorithm)
        step = rate * (1 - iteration / iterations if decay else 1)
        for _ in range(epochs):
            logits.requires_grad_()
            loss, clipped = drawn.loss(algorithm, advantages, logits, kl_loss=kl_loss)
            (gradient,) = torch.autograd.grad(loss, logits)
            logits = logits.detach() - step * gradient
            share += clipped / (iterations * epochs)
    return logits.softmax(0), share
