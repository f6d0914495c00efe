"""Clipped importance sampling: the weight of a token is clipped, never its gradient dropped.

MiniMax 2025 (arXiv:2506.13585). As first published: `grpo.scale_by_std=true kl_coefficient=0`. The paper has no
lower bound and names no figure for the upper one; weights of at most 5, as here, are in common use.
"""

from __future__ import annotations

from torch import Tensor

from plaudit.algorithms.base import Piece
from plaudit.algorithms.grpo import Grpo
from plaudit.objectives import clipped_weight_gradient


class CISPO(Grpo):
    """GRPO's advantages; the policy gradient, weighed by clipped ratios."""

    def loss(self, log_probs: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Per token."""
        return clipped_weight_gradient(log_probs, piece.old_log_probs, piece.advantages, **self.bounds)
