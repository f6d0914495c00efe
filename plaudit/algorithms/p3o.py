"""Pairwise proximal policy optimisation (P3O).

Wu et al. 2023 (arXiv:2310.00212), not to be mistaken for three other algorithms of that name. It learns from
differences of return between responses to one prompt, so nothing changes when a reward model shifts all scores
of a prompt; it needs no value model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.algorithms.base import Advantages, Algorithm, Piece, Rollouts
from plaudit.objectives import pairwise_surrogate_joint, pairwise_surrogate_separate

SURROGATES = {"separate": pairwise_surrogate_separate, "joint": pairwise_surrogate_joint}


class P3O(Algorithm):
    """A response's loss is the mean over the others to its prompt, so that the batch's mean is that over all pairs."""

    reduction = "response_sum"

    def advantages(self, rollouts: Rollouts) -> Advantages:
        """None: the loss compares returns itself."""
        return Advantages(torch.zeros_like(rollouts.rewards))

    def loss(self, log_probs: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Per response."""
        size = piece.group_size
        log_ratio = piece.log_ratio(log_probs).view(-1, size)  # [P, K]
        returns = piece.returns.view(-1, size)
        bound, _ = self.settings.clip_range
        assert bound is not None  # as its entry has it
        first, second = (~torch.eye(size, dtype=torch.bool, device=returns.device)).nonzero(as_tuple=True)
        losses, clipped = SURROGATES[self.settings.p3o.clipping](
            log_ratio[:, first].flatten(),
            log_ratio[:, second].flatten(),
            (returns[:, first] - returns[:, second]).flatten(),
            clip=bound,
        )  # [P K (K - 1)], the partners of one response side by side
        by_response = (-1, size - 1)
        return losses.view(by_response).mean(dim=1), clipped.view(by_response).any(dim=1)
