"""PPO under a constraint on expected cost: the optimiser of Safe RLHF.

Dai et al. 2023 (arXiv:2310.12773). Two value models, one of the reward and one of the cost; a multiplier lambda
grows while the cost of recent episodes is over its threshold and shrinks while it is under.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from plaudit.algorithms.base import Advantages, Algorithm, Piece, Rollouts
from plaudit.config import RlSettings
from plaudit.objectives import (
    clipped_surrogate,
    generalised_advantages,
    lagrangian_advantages,
    next_log_multiplier,
    rescale,
)


class PPOLagrangian(Algorithm):
    """PPO on (A_reward - lambda A_cost) / (1 + lambda). No whitening: it would undo the balance of the two."""

    def __init__(self, settings: RlSettings):
        super().__init__(settings)
        self.log_multiplier = math.log(settings.lagrangian.multiplier)
        self.recent_costs: list[float] = []

    @property
    def multiplier(self) -> float:
        """lambda."""
        return math.exp(self.log_multiplier)

    def observe(self, rollouts: Rollouts) -> dict[str, float]:
        """Move lambda by the mean cost of the last episodes, before the policy learns from them."""
        assert rollouts.episode_costs is not None
        settings = self.settings.lagrangian
        self.recent_costs = [*self.recent_costs, *rollouts.episode_costs.tolist()][-settings.window :]
        recent = sum(self.recent_costs) / len(self.recent_costs)
        self.log_multiplier = next_log_multiplier(
            self.log_multiplier, recent, threshold=settings.threshold, rate=settings.rate, maximum=settings.maximum
        )
        return {
            "cost": float(rollouts.episode_costs.mean()),
            "recent_cost": recent,
            "multiplier": self.multiplier,
        }

    def advantages(self, rollouts: Rollouts) -> Advantages:
        """Two recursions, one advantage."""
        assert rollouts.costs is not None
        settings = self.settings
        streams = {"reward": rollouts.rewards, "cost": rollouts.costs}
        if settings.whiten_rewards:
            streams = {name: rescale(stream, rollouts.mask) for name, stream in streams.items()}
        found = {
            name: generalised_advantages(
                stream,
                rollouts.values[name],
                rollouts.mask,
                discount=settings.discount,
                gae_lambda=settings.gae_lambda,
            )
            for name, stream in streams.items()
        }
        targets = {name: found[name] + rollouts.values[name] for name in found}
        if settings.lagrangian.clipping == "separate":
            return Advantages(found["reward"], targets, cost=found["cost"])
        combined = lagrangian_advantages(
            found["reward"], found["cost"], multiplier=self.multiplier, rescale=settings.lagrangian.rescale
        )
        return Advantages(combined, targets)

    def loss(self, log_probs: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Per token: one surrogate of the combined advantage, or one each, combined after clipping as in the paper."""
        loss, clipped = clipped_surrogate(log_probs, piece.old_log_probs, piece.advantages, **self.bounds)
        if piece.cost_advantages is None:
            return loss, clipped
        of_cost, cost_clipped = clipped_surrogate(log_probs, piece.old_log_probs, -piece.cost_advantages, **self.bounds)
        # The cost's loss already has its sign: pushing the cost down is gaining by -A_C.
        combined = lagrangian_advantages(
            loss, -of_cost, multiplier=self.multiplier, rescale=self.settings.lagrangian.rescale
        )
        return combined, clipped | cost_clipped

    def state(self) -> dict[str, Any]:
        """lambda's logarithm and the costs it is moved by."""
        return {"log_multiplier": self.log_multiplier, "recent_costs": self.recent_costs}

    def load_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.log_multiplier, self.recent_costs = state["log_multiplier"], state["recent_costs"]
