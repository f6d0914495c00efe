"""From rewards and values to advantages."""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.objectives.reductions import check_shapes

STANDARD_DEVIATION_EPSILON = 1e-4


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float = 1.0, gae_lambda: float = 0.95
) -> Tensor:
    """Generalised advantage estimation over each response; the value after its last token is 0.

        delta_t = r_t + discount * V_{t+1} - V_t
        A_t     = delta_t + discount * gae_lambda * A_{t+1}

    Schulman et al. 2016 (arXiv:1506.02438) eq. 16. The return target of the value model is A + V. With values
    of 0 and gae_lambda 1 this is the reward-to-go. Where the mask has gaps (the user's turns of an episode),
    t + 1 is the next true slot: advantages are carried across a gap, not damped by it.

    rewards  [B, T]  reward of emitting token t
    values   [B, T]  value of the state before token t is emitted
    mask     [B, T]  bool, true on the policy's tokens

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
        following = torch.where(mask[:, t], delta + discount * gae_lambda * following, following)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        advantages[:, t] = following
    return advantages.masked_fill(~mask, 0.0)


def leave_one_out_advantages(returns: Tensor) -> Tensor:
    """Each response's return minus the mean of the other responses to its prompt.

        A_i = R_i - mean over j != i of R_j = (K R_i - sum_j R_j) / (K - 1)

    Ahmadian et al. 2024 (arXiv:2402.14740) section 3.1; Kool et al. 2019. Unbiased: the baseline does not
    depend on the response it is taken from.

    returns  [P, K]  P prompts, K responses each

    Returns [P, K]. Raises ValueError for K < 2, where there is no other response.
    """
    check_shapes("P K", returns)
    count = returns.shape[1]
    if count < 2:
        raise ValueError("a response has no others to be compared with: K must be 2 or more")
    return (count * returns - returns.sum(dim=1, keepdim=True)) / (count - 1)


def group_relative_advantages(returns: Tensor, *, standardise: bool) -> Tensor:
    """Each response's return minus the mean of all responses to its prompt, in their standard deviations if asked.

        A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-4)

    Shao et al. 2024 (arXiv:2402.03300) section 4.1, sample standard deviation (K - 1). Dividing by it turns the
    gradient towards prompts that are nearly always or nearly never answered well; Liu et al. 2025
    (arXiv:2503.20783) leave it out. The mean includes the response itself, which shrinks A by (K - 1) / K.

    returns  [P, K]

    Returns [P, K]. Raises ValueError for K < 2.
    """
    check_shapes("P K", returns)
    if returns.shape[1] < 2:
        raise ValueError("a response has no others to be compared with: K must be 2 or more")
    centred = returns - returns.mean(dim=1, keepdim=True)
    if not standardise:
        return centred
    return centred / (returns.std(dim=1, keepdim=True) + STANDARD_DEVIATION_EPSILON)
