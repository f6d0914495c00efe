"""REINFORCE: the policy gradient itself, with a baseline or without.

Williams 1992. With a value model as the baseline it is what Lee et al. 2023 (arXiv:2309.00267) used for RLAIF.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.algorithms.base import Advantages, Algorithm, Piece, Rollouts
from plaudit.objectives import clipped_surrogate, generalised_advantages, leave_one_out_advantages, policy_gradient


class Reinforce(Algorithm):
    """Reward-to-go minus a baseline, summed over a response's tokens."""

    reduction = "response_sum"

    def advantages(self, rollouts: Rollouts) -> Advantages:
        """[none] the reward-to-go; [batch] minus the mean return of the other responses; [value] minus V."""
        zero = torch.zeros_like(rollouts.rewards)
        to_go = generalised_advantages(
            rollouts.rewards, zero, rollouts.mask, discount=self.settings.discount, gae_lambda=1.0
        )
        if self.settings.reinforce.baseline == "value":
            return Advantages((to_go - rollouts.values["reward"]).masked_fill(~rollouts.mask, 0.0), {"reward": to_go})
        if self.settings.reinforce.baseline == "batch" and len(rollouts.returns) > 1:
            # R_b - mean of the others = return minus a baseline that this response has no part in.
            baseline = rollouts.returns - leave_one_out_advantages(rollouts.returns[None])[0]  # [B]
            return Advantages(to_go - rollouts.at_each_token(baseline))
        return Advantages(to_go)

    def loss(self, log_probs: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Per token; with `clip_ratio` the clipped surrogate, whose gradient at ratio 1 is the same."""
        if self.settings.reinforce.clip_ratio:
            return clipped_surrogate(log_probs, piece.old_log_probs, piece.advantages, **self.bounds)
        return policy_gradient(log_probs, piece.advantages), torch.zeros_like(piece.mask)
