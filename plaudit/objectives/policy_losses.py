"""Losses of policies and of value models, per token."""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.objectives.reductions import check_shapes

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this before the exponential, far beyond any clip range, so that none overflows."""


def clipped_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, clip: float = 0.2
) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic surrogate, as a loss.

        ratio = exp(log_probs - old_log_probs)
        loss  = max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip))

    Schulman et al. 2017 (arXiv:1707.06347) eq. 7.

    log_probs      [B, T]  of the sampled tokens under the policy being trained, nats
    old_log_probs  [B, T]  under the policy that sampled them, nats
    advantages     [B, T]
    clip                   change of the ratio past which further gain is ignored

    Returns ([B, T] loss, [B, T] bool: where the clipped term is the larger, so that no gradient flows).
    """
    check_shapes("B T", log_probs, old_log_probs, advantages)
    ratio = (log_probs - old_log_probs.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    free = -advantages.detach() * ratio
    bounded = -advantages.detach() * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(free, bounded), bounded > free


def clipped_value_error(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Squared error of the value model, pessimistic about moves away from the old values.

        loss = 0.5 max((V - G)^2, (clip(V, V_old - clip, V_old + clip) - G)^2)

    Released code of Schulman et al. 2017 and Ziegler et al. 2019.

    values      [B, T]  under the value model being trained
    old_values  [B, T]  at the time of the rollout
    returns     [B, T]  G = advantage (before whitening) + old value
    clip                in units of reward

    Returns ([B, T] loss, [B, T] bool: where the clipped term is the larger).
    """
    check_shapes("B T", values, old_values, returns)
    old_values, returns = old_values.detach(), returns.detach()
    bounded = torch.maximum(torch.minimum(values, old_values + clip), old_values - clip)
    free_error, bounded_error = (values - returns).square(), (bounded - returns).square()
    return 0.5 * torch.maximum(free_error, bounded_error), bounded_error > free_error
