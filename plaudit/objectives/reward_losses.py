"""Losses of reward models, per comparison."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.reductions import check_shapes


def bradley_terry(score_first: Tensor, score_second: Tensor, preference_first: Tensor) -> Tensor:
    """Negative log-likelihood of a judgment, with P(first preferred) = sigmoid(score_first - score_second).

        loss = -p log sigmoid(D) - (1 - p) log sigmoid(-D),   D = score_first - score_second

    Bradley & Terry 1952; as a reward-model loss Christiano et al. 2017 (arXiv:1706.03741) eq. 1.

    score_first       [B]  nats
    score_second      [B]  nats
    preference_first  [B]  p: 1 where the first was preferred, 0 where the second was, between for ties or
                           for several annotators who differ

    Returns [B], nats. Its gradient with respect to D is sigmoid(D) - p.
    """
    check_shapes("B", score_first, score_second, preference_first)
    difference = score_first - score_second
    return -preference_first * logsigmoid(difference) - (1 - preference_first) * logsigmoid(-difference)
