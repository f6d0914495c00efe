"""Proximal policy optimisation with a separate value model.

Schulman et al. 2017 (arXiv:1707.06347), as applied to language models by Ziegler et al. 2019
(arXiv:1909.08593), Stiennon et al. 2020 (arXiv:2009.01325) and Ouyang et al. 2022 (arXiv:2203.02155).
"""

from __future__ import annotations

from torch import Tensor

from plaudit.algorithms.rollouts import Needs, Rollouts
from plaudit.config import RlSettings
from plaudit.objectives import clipped_surrogate, clipped_value_error, generalised_advantages, whiten


class PPO:
    """Clipped surrogate on generalised advantages."""

    needs = Needs(critic=True)

    def __init__(self, settings: RlSettings):
        self.settings = settings

    def advantages(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """([B, T] advantages for the policy, [B, T] return targets for the value model).

        The targets come from the advantages before whitening; whitening is over the whole rollout batch.
        """
        settings = self.settings
        advantages = generalised_advantages(
            rollouts.rewards,
            rollouts.values,
            rollouts.mask,
            discount=settings.discount,
            gae_lambda=settings.gae_lambda,
        )
        returns = advantages + rollouts.values
        return whiten(advantages, rollouts.mask) if settings.whiten_advantages else advantages, returns

    def loss(self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """([B, T] loss per token, [B, T] bool: where it is clipped)."""
        return clipped_surrogate(log_probs, old_log_probs, advantages, clip=self.settings.clip)

    def value_loss(self, values: Tensor, old_values: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """([B, T] loss per token, [B, T] bool: where it is clipped)."""
        return clipped_value_error(values, old_values, returns, clip=self.settings.value_clip)
