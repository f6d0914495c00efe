"""Group sequence policy optimisation: the ratio is that of a whole response, by the geometric mean of its tokens'.

Zheng et al. 2025 (arXiv:2507.18071). As first published: `grpo.scale_by_std=true`, on top of the bounds that it has by
itself (`clip` 0.0003, `clip_high` 0.0004: a mean over tokens moves far less than a token does).
"""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.algorithms.base import Piece
from plaudit.algorithms.grpo import Grpo
from plaudit.objectives import clipped_surrogate


class GSPO(Grpo):
    """GRPO's advantages; a response is kept or clipped as one."""

    def loss(self, log_probs: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Per response: s = (pi(y) / pi_old(y))^(1 / |y|), eq. 5 to 7."""
        lengths = piece.mask.sum(dim=1).clamp(min=1)  # [b] tokens
        log_ratio = piece.log_ratio(log_probs) / lengths  # [b] nats a token
        advantages = (
            piece.advantages.masked_fill(~piece.mask, 0.0).sum(dim=1) / lengths
        )  # [b] the number that is at each token
        return clipped_surrogate(log_ratio, torch.zeros_like(log_ratio), advantages, **self.bounds)
