"""A constraint on expected cost, by a multiplier that learns its own size."""

from __future__ import annotations

import math

from torch import Tensor

from plaudit.objectives.reductions import check_shapes


def next_log_multiplier(log_multiplier: float, cost: float, *, threshold: float, rate: float, maximum: float) -> float:
    """One ascent step on the multiplier's logarithm: it grows while the cost is over its threshold.

        log lambda <- min(log lambda + rate * lambda * (cost - threshold), log maximum)

    Dai et al. 2023 (arXiv:2310.12773) appendix B.3. The factor lambda makes the controller slow near 0 and
    explosive when large, hence the cap.

    cost       mean cost of recent episodes, without any KL price
    threshold  the most that the expected cost may be
    """
    step = rate * math.exp(log_multiplier) * (cost - threshold)
    return min(log_multiplier + step, math.log(maximum))


def lagrangian_advantages(
    advantages: Tensor, cost_advantages: Tensor, *, multiplier: float, rescale: bool = True
) -> Tensor:
    """Advantage of the Lagrangian, (A_R - lambda A_C) / (1 + lambda).

    Dai et al. 2023 (arXiv:2310.12773) eq. 11. The division keeps the size of a policy step while lambda grows.
    It also changes what a KL price weighs: put -beta k1 in the rewards and +beta k1 in the costs and its weight
    is beta for every lambda. Without `rescale` (plain A_R - lambda A_C) put it in the rewards alone.

    advantages       [B, T]  of the reward
    cost_advantages  [B, T]  of the cost

    Returns [B, T].
    """
    check_shapes("B T", advantages, cost_advantages)
    combined = advantages - multiplier * cost_advantages
    return combined / (1 + multiplier) if rescale else combined
