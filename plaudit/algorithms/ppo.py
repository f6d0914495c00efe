"""Proximal policy optimisation with a value model, or a value head on the policy.

Schulman et al. 2017 (arXiv:1707.06347), as applied to language models by Ziegler et al. 2019
(arXiv:1909.08593), Stiennon et al. 2020 (arXiv:2009.01325) and Ouyang et al. 2022 (arXiv:2203.02155).
"""

from __future__ import annotations

from torch import Tensor

from plaudit.algorithms.base import Advantages, Algorithm, Piece, Rollouts
from plaudit.objectives import clipped_surrogate, generalised_advantages, rescale, whiten


class PPO(Algorithm):
    """Clipped surrogate on generalised advantages."""

    def advantages(self, rollouts: Rollouts) -> Advantages:
        """Targets come from the advantages before whitening; whitening is over the whole rollout batch."""
        settings = self.settings
        rewards = rescale(rollouts.rewards, rollouts.mask) if settings.whiten_rewards else rollouts.rewards
        advantages = generalised_advantages(
            rewards,
            rollouts.values["reward"],
            rollouts.mask,
            discount=settings.discount,
            gae_lambda=settings.gae_lambda,
        )
        targets = {"reward": advantages + rollouts.values["reward"]}
        return Advantages(whiten(advantages, rollouts.mask) if settings.whiten_advantages else advantages, targets)

    def loss(self, log_probs: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Per token."""
        return clipped_surrogate(
            log_probs,
            piece.old_log_probs,
            piece.advantages,
            **self.bounds,
            dual_clip=self.settings.dual_clip,
        )
