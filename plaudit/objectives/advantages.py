"""From rewards and values to advantages."""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.objectives.reductions import check_shapes


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float = 1.0, gae_lambda: float = 0.95
) -> Tensor:
    """Generalised advantage estimation over each response; the value after its last token is 0.

        delta_t = r_t + discount * V_{t+1} - V_t
        A_t     = delta_t + discount * gae_lambda * A_{t+1}

    Schulman et al. 2016 (arXiv:1506.02438) eq. 16. The return target of the value model is A + V.

    rewards  [B, T]  reward of emitting token t
    values   [B, T]  value of the state before token t is emitted
    mask     [B, T]  bool, true on response tokens (one run from the left)

    Returns [B, T], zero outside the mask, without gradient.
    """
    check_shapes("B T", rewards, values, mask)
    # Zero before the recursion, not after: else padding leaks into every earlier token.
    rewards = rewards.detach().masked_fill(~mask, 0.0)
    values = values.detach().masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(values)
    following = values.new_zeros(len(values))  # A_{t+1}
    next_value = values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + discount * next_value - values[:, t]
        following = delta + discount * gae_lambda * following
        advantages[:, t] = following
        next_value = values[:, t]
    return advantages
