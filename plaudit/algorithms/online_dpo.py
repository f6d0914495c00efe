"""Online direct preference optimisation: label fresh pairs of the policy's own, and take a DPO step on them.

Guo et al. 2024 (arXiv:2402.04792). The reference stays the policy that the run began with.

With the DPO loss and soft labels, sigmoid(score difference), the optimum is that of the KL-regularised reward,
pi_ref exp(R / beta) / Z with R the score and beta = `rl.online_dpo.beta`; IPO and hinge end elsewhere. Hard labels (the
higher score always wins), as published, give the DPO loss no finite optimum: what holds the policy back then is that it
soon samples few pairs that differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from plaudit.algorithms.base import Advantages, Algorithm, Piece, Rollouts
from plaudit.objectives import dpo, hinge, ipo


class OnlineDPO(Algorithm):
    """The best against the worst of a prompt's responses by score."""

    reduction = "response_sum"

    def advantages(self, rollouts: Rollouts) -> Advantages:
        """None: the loss compares scores itself."""
        return Advantages(torch.zeros_like(rollouts.rewards))

    def loss(self, log_probs: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Per response: each carries its prompt's loss, so that the mean over responses is that over prompts."""
        assert piece.reference_log_probs is not None
        groups = (-1, piece.group_size)
        scores = piece.scores.view(groups)  # [P, K]
        best, worst = scores.argmax(dim=1, keepdim=True), scores.argmin(dim=1, keepdim=True)

        def gap(values: Tensor) -> Tensor:
            totals = values.masked_fill(~piece.mask, 0.0).sum(dim=1).view(groups)
            return (totals.gather(1, best) - totals.gather(1, worst)).squeeze(1)

        settings = self.settings.online_dpo
        loss: Callable[[Tensor, Tensor], Tensor] = {
            "dpo": partial(dpo, beta=settings.beta),
            "hinge": partial(hinge, beta=settings.beta),
            "ipo": partial(ipo, tau=settings.beta),
        }[settings.loss]
        policy_gap, reference_gap = gap(log_probs), gap(piece.reference_log_probs)
        lead = (scores.gather(1, best) - scores.gather(1, worst)).squeeze(1)  # [P] not negative
        if settings.labels == "soft":
            right = lead.sigmoid()
            losses = right * loss(policy_gap, reference_gap) + (1 - right) * loss(-policy_gap, -reference_gap)
        else:
            losses = loss(policy_gap, reference_gap).masked_fill(lead == 0, 0.0)
        spread = losses[:, None].expand(-1, piece.group_size).reshape(-1)
        return spread, torch.zeros_like(spread, dtype=torch.bool)
