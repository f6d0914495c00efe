"""REINFORCE leave-one-out: the other responses to the same prompt are the baseline.

Ahmadian et al. 2024 (arXiv:2402.14740); Kool et al. 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.algorithms.base import Advantages, Algorithm, Piece, Rollouts
from plaudit.objectives import clipped_surrogate, leave_one_out_advantages, policy_gradient


class Rloo(Algorithm):
    """A whole response is one action: its return, KL price included, minus the mean of the others'."""

    reduction = "response_sum"

    def advantages(self, rollouts: Rollouts) -> Advantages:
        """The same number at each of a response's tokens."""
        return Advantages(rollouts.at_each_token(leave_one_out_advantages(rollouts.grouped_returns)))

    def loss(self, log_probs: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Per token; with `clip_ratio` per response, its ratio clipped as one."""
        if self.settings.rloo.clip_ratio:
            log_ratio = piece.log_ratio(log_probs)
            advantages = piece.advantages.masked_fill(~piece.mask, 0.0).sum(dim=1)
            advantages = advantages / piece.mask.sum(dim=1)  # [b] the number that is at each token
            return clipped_surrogate(log_ratio, torch.zeros_like(log_ratio), advantages, **self.bounds)
        return policy_gradient(log_probs, piece.advantages), torch.zeros_like(piece.mask)
