"""Group-relative policy optimisation, and its corrected form Dr. GRPO.

Shao et al. 2024 (arXiv:2402.03300); Liu et al. 2025 (arXiv:2503.20783).

As first published: `grpo.scale_by_std=true grpo.reduction=response_mean kl_term=k3`.
Dr. GRPO: `grpo.scale_by_std=false grpo.reduction=constant_length`.
"""

from __future__ import annotations

from torch import Tensor

from plaudit.algorithms.base import Advantages, Algorithm, Piece, Rollouts
from plaudit.config import RlSettings
from plaudit.objectives import clipped_surrogate, group_relative_advantages


class Grpo(Algorithm):
    """PPO's surrogate on returns compared within the group; no value model."""

    def __init__(self, settings: RlSettings):
        super().__init__(settings)
        self.reduction = settings.grpo.reduction

    def advantages(self, rollouts: Rollouts) -> Advantages:
        """The same number at each of a response's tokens."""
        standardise = self.settings.grpo.scale_by_std
        return Advantages(
            rollouts.at_each_token(group_relative_advantages(rollouts.grouped_returns, standardise=standardise))
        )

    def loss(self, log_probs: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Per token."""
        return clipped_surrogate(
            log_probs,
            piece.old_log_probs,
            piece.advantages,
            **self.bounds,
            dual_clip=self.settings.dual_clip,
        )
