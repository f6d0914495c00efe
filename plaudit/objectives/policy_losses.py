"""Losses of policies and of value models, per token, per response or per pair."""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.objectives.reductions import check_shapes

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this before the exponential, far beyond any clip range, so that none overflows."""


def policy_gradient(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """The loss whose gradient is minus the policy gradient, -A log pi.

    Williams 1992. Unbiased when the samples are of the very policy that is differentiated.

    log_probs   [B, T]  of the sampled tokens under the policy being trained, nats
    advantages  [B, T]

    Returns [B, T].
    """
    check_shapes("B T", log_probs, advantages)
    return -advantages.detach() * log_probs


def clipped_surrogate(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    clip: float | None = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic surrogate, as a loss.

        ratio = exp(log_probs - old_log_probs)
        loss  = max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip_high))

    Schulman et al. 2017 (arXiv:1707.06347) eq. 7, where both bounds are one; apart in Yu et al. 2025
    (arXiv:2503.14476), where the wider upper bound lets rare tokens grow. With `dual_clip` c, the loss at negative
    advantages is at most -c A (Ye et al. 2020, arXiv:1912.09729): a token that became likely by accident is not pushed
    without bound.
    Per token [B, T], or with log-probs summed over responses per response [B].

    log_probs      of the sampled tokens under the policy being trained, nats
    old_log_probs  under the policy that sampled them, nats
    advantages     the same shape
    clip           fall of the ratio past which further gain is ignored; None for no bound
    clip_high      rise of the ratio past which further gain is ignored; None for `clip`
    dual_clip      ratio past which a loss is ignored, over 1; None for no bound

    Returns (loss, bool: where a bound is the binding term, so that no gradient flows).
    """
    check_shapes(" ".join("x" * log_probs.dim()), log_probs, old_log_probs, advantages)
    advantages = advantages.detach()
    ratio = (log_probs - old_log_probs.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    free = -advantages * ratio
    bounded = -advantages * _bounded(ratio, clip, clip_high)
    loss, clipped = torch.maximum(free, bounded), bounded > free
    if dual_clip is not None:
        most = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
        loss, clipped = torch.minimum(loss, most), clipped | (loss > most)
    return loss, clipped


def clipped_weight_gradient(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    clip: float | None = None,
    clip_high: float | None = 4.0,
) -> tuple[Tensor, Tensor]:
    """CISPO's loss: the policy gradient, each token weighed by its clipped ratio. No token's gradient is dropped.

        weight = stop_gradient(clip(ratio, 1 - clip, 1 + clip_high)),  ratio = exp(log_probs - old_log_probs)
        loss   = -weight A log_probs

    MiniMax 2025 (arXiv:2506.13585) eq. 4 and 5. Where no weight is clipped its gradient is that of -A ratio, which is
    unbiased off the policy that sampled.

    log_probs      [B, T]  of the sampled tokens under the policy being trained, nats
    old_log_probs  [B, T]  under the policy that sampled them, nats
    advantages     [B, T]
    clip                   fall of the ratio past which it weighs no less; None for no bound, as published
    clip_high              rise of the ratio past which it weighs no more; None for `clip`

    Returns ([B, T] loss, [B, T] bool: where the weight is clipped).
    """
    check_shapes("B T", log_probs, old_log_probs, advantages)
    ratio = (log_probs - old_log_probs).detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    weight = _bounded(ratio, clip, clip_high)
    return -weight * advantages.detach() * log_probs, weight != ratio


def _bounded(ratio: Tensor, low: float | None, high: float | None) -> Tensor:
    """Within 1 - low and 1 + high."""
    high = low if high is None else high
    return ratio.clamp(-torch.inf if low is None else 1 - low, torch.inf if high is None else 1 + high)


def pairwise_surrogate_separate(
    log_ratio: Tensor, log_ratio_other: Tensor, gap: Tensor, *, clip: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Pairwise PPO, each response of a pair clipped by itself (P3O-V1), as a loss of the first of the pair.

        C    = stop_gradient((R - R_other) * ratio_other)
        loss = -min(C ratio, C clip(ratio, 1 - clip, 1 + clip))

    Wu et al. 2023 (arXiv:2310.00212), algorithm 1. Half the sum of a pair's two losses (once in each order) has
    the pairwise policy gradient (R1 - R2) grad(log pi(y1) - log pi(y2)) / 2 at the sampling policy; it does not
    change when both rewards of a prompt are shifted.

    log_ratio        [N]  log pi(y) - log pi_old(y), summed over the response, nats
    log_ratio_other  [N]  of the response it is compared with
    gap              [N]  R - R_other, KL price included
    clip                  change of the response's ratio past which further gain is ignored

    Returns ([N] loss, [N] bool: where it is clipped).
    """
    check_shapes("N", log_ratio, log_ratio_other, gap)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    other = log_ratio_other.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    weight = (gap * other).detach()
    free, bounded = -weight * ratio, -weight * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(free, bounded), bounded > free


def pairwise_surrogate_joint(
    log_ratio: Tensor, log_ratio_other: Tensor, gap: Tensor, *, clip: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Pairwise PPO, the pair clipped as one (P3O-V2), as a loss; the same for both orders of a pair.

        C    = stop_gradient((R - R_other) * ratio * ratio_other)
        u    = log_ratio - log_ratio_other
        loss = -min(C u, C clip(u, -clip, clip)) / 2

    Wu et al. 2023 (arXiv:2310.00212), algorithm 2. Arguments and result as `pairwise_surrogate_separate`; `clip`
    bounds the pair's joint log-ratio, nats.
    """
    check_shapes("N", log_ratio, log_ratio_other, gap)
    both = (log_ratio + log_ratio_other).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    weight = (gap * both).detach()
    joint = log_ratio - log_ratio_other
    free, bounded = -weight * joint / 2, -weight * joint.clamp(-clip, clip) / 2
    return torch.maximum(free, bounded), bounded > free


def clipped_value_error(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None = 0.2
) -> tuple[Tensor, Tensor]:
    """Squared error of the value model, pessimistic about moves away from the old values.

        loss = 0.5 max((V - G)^2, (clip(V, V_old - clip, V_old + clip) - G)^2)

    Released code of Schulman et al. 2017 and Ziegler et al. 2019.

    values      [B, T]  under the value model being trained
    old_values  [B, T]  at the time of the rollout
    returns     [B, T]  G = advantage (before whitening) + old value
    clip                in units of reward; None for the plain squared error

    Returns ([B, T] loss, [B, T] bool: where the clipped term is the larger).
    """
    check_shapes("B T", values, old_values, returns)
    old_values, returns = old_values.detach(), returns.detach()
    free_error = (values - returns).square()
    if clip is None:
        return 0.5 * free_error, torch.zeros_like(values, dtype=torch.bool)
    bounded = torch.maximum(torch.minimum(values, old_values + clip), old_values - clip)
    bounded_error = (bounded - returns).square()
    return 0.5 * torch.maximum(free_error, bounded_error), bounded_error > free_error
