"""The price of departing from the reference policy."""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.objectives.reductions import check_shapes


def kl_penalised_rewards(
    scores: Tensor, log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, *, coefficient: float
) -> Tensor:
    """Per-token reward: minus the KL price at each token, plus the score at the last one.

        r_t = -coefficient * (log pi(y_t) - log pi_ref(y_t)) + [t is the last token] * score

    Ziegler et al. 2019 (arXiv:1909.08593) eq. 2; Ouyang et al. 2022 (arXiv:2203.02155) eq. 2. The sum of the
    log-ratios over a response is the unbiased estimate k1 of the sequence KL, nats. It enters the reward
    detached: there it has the gradient of the KL, while differentiated as a loss it would have none.

    scores               [B]     reward of the whole response
    log_probs            [B, T]  of the sampled tokens under the policy that sampled them, nats
    reference_log_probs  [B, T]  under the reference at the same temperature, nats
    mask                 [B, T]  bool, true up to and including the last response token
    coefficient                  reward per nat

    Returns [B, T], zero outside the mask, without gradient.
    """
    check_shapes("B T", log_probs, reference_log_probs, mask)
    check_shapes("B", scores, mask[:, 0])
    rewards = -coefficient * (log_probs - reference_log_probs).detach()
    rewards = rewards.masked_fill(~mask, 0.0)
    last = mask.sum(dim=1) - 1  # [B]
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last] += scores.detach()
    return rewards
