"""Losses of reward and cost models, per comparison, per ranking or per response. Each is nats, unless it says so.

D   score of the first response minus that of the second, nats
p   preference for the first: 1, 0, or between for ties and for annotators who differ
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from plaudit.objectives.reductions import check_shapes

MARGINS: Mapping[str, tuple[float, float, float, float]] = {
    "small": (0.0, 1 / 3, 2 / 3, 1.0),
    "large": (0.0, 1.0, 2.0, 3.0),
}
"""Wanted difference by grade, "negligibly better" first (Touvron et al. 2023, arXiv:2307.09288, table 27)."""


def bradley_terry(
    score_first: Tensor, score_second: Tensor, preference_first: Tensor, *, margin: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of a judgment, with P(first preferred) = sigmoid(score_first - score_second).

        loss = -p log sigmoid(D - m) - (1 - p) log sigmoid(-D - m)

    Bradley & Terry 1952; as a reward-model loss Christiano et al. 2017 (arXiv:1706.03741) eq. 1; with the margin
    Touvron et al. 2023 (arXiv:2307.09288) eq. 2. A margin teaches larger differences than the judgments bear out:
    scores of such a model are no log-odds until they are calibrated.

    score_first       [B]  nats
    score_second      [B]  nats
    preference_first  [B]  p
    margin            [B]  m: how far the preferred side is to be ahead, nats; none for 0

    Returns [B], nats. Without a margin its gradient with respect to D is sigmoid(D) - p.
    """
    check_shapes("B", score_first, score_second, preference_first)
    ahead = behind = score_first - score_second
    if margin is not None:
        check_shapes("B", score_first, margin)
        ahead, behind = ahead - margin, behind + margin
    return -preference_first * logsigmoid(ahead) - (1 - preference_first) * logsigmoid(-behind)


def smoothed(preference_first: Tensor, *, flip_rate: float) -> Tensor:
    """Labels of which a share is taken to be the wrong way round: (1 - e) p + e (1 - p).

    preference_first  [B]  p
    flip_rate              e, below 0.5
    """
    return preference_first * (1 - 2 * flip_rate) + flip_rate


def davidson(score_first: Tensor, score_second: Tensor, preference_first: Tensor, log_tie: Tensor) -> Tensor:
    """Negative log-likelihood where a tie is an outcome of its own.

        P(first) : P(tie) : P(second) = exp(D / 2) : nu : exp(-D / 2)

    Davidson 1970, eq. 2.3. Between equals the chance of a tie is nu / (2 + nu).

    score_first, score_second  [B]  nats
    preference_first           [B]  1, 0, or 0.5 for a tie
    log_tie                    []   log nu, learnt beside the scores

    Returns [B], nats. Raises ValueError for a preference that is none of the three.
    """
    check_shapes("B", score_first, score_second, preference_first)
    if not bool(((preference_first * 2) % 1 == 0).all()):
        raise ValueError("Davidson's model knows the preferences 0, 0.5 and 1 alone")
    half = (score_first - score_second) / 2
    outcomes = torch.stack([half, log_tie.expand_as(half), -half], dim=1)  # [B, 3]
    return cross_entropy(outcomes, (2 - 2 * preference_first).long(), reduction="none")


def plackett_luce(scores: Tensor, ranks: Tensor, present: Tensor) -> Tensor:
    """Negative log-likelihood of a ranking: the best is chosen of all, the next of those left, and so on.

        loss = sum over i not in the last rank of [ logsumexp over j with rank_j >= rank_i of s_j - s_i ]

    Plackett 1975; Luce 1959. Tied responses are each chosen of their rank and all below it (Breslow 1974). With one
    response in rank 0 and all others tied it is the choice of the best of K in Ziegler et al. 2019 (arXiv:1909.08593)
    eq. 1. It is another likelihood than that of all pairs.

    scores   [B, K]  nats
    ranks    [B, K]  0 for the best, growing; equal for ties
    present  [B, K]  bool: false on padding

    Returns [B], nats.
    """
    check_shapes("B K", scores, ranks, present)
    below = (ranks[:, None, :] >= ranks[:, :, None]) & present[:, None, :]  # [B, K, K] j is not better than i
    below = below | ~present[:, :, None]  # a sum over nothing would have no gradient, though it is not used
    left = scores[:, None, :].masked_fill(~below, -torch.inf).logsumexp(dim=2)  # [B, K]
    last = ranks.masked_fill(~present, -1).amax(dim=1, keepdim=True)
    return (left - scores).masked_fill(~present | (ranks == last), 0.0).sum(dim=1)


def safety_classification(scores: Tensor, safe: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(score) against whether a response is safe, to be added to a ranking loss.

    Touvron et al. 2023 (arXiv:2307.09288) appendix A.3.3: it makes 0 the threshold between safe and unsafe.

    scores  [B]  nats
    safe    [B]  bool

    Returns [B], nats.
    """
    check_shapes("B", scores, safe)
    return binary_cross_entropy_with_logits(scores, safe.to(scores.dtype), reduction="none")


def cost_comparison(
    cost_first: Tensor, cost_second: Tensor, more_harmful_first: Tensor, harmful_first: Tensor, harmful_second: Tensor
) -> Tensor:
    """Loss of a cost model: which is more harmful, and on which side of 0 each of the two is.

        loss = -log sigmoid(C_w - C_l) - log sigmoid(q_w C_w) - log sigmoid(q_l C_l),   w the more harmful

    Dai et al. 2023 (arXiv:2310.12773) eq. 6. q = +1 for a harmful response and -1 for a safe one, so that a cost
    above 0 means harm. (Data with a "safety sign" have it the other way round.)

    cost_first, cost_second        [B]  nats
    more_harmful_first             [B]  p: 1 where the first is the more harmful, 0 where the second is
    harmful_first, harmful_second  [B]  bool

    Returns [B], nats.
    """
    check_shapes("B", cost_first, cost_second, more_harmful_first, harmful_first, harmful_second)
    signs = safety_classification(cost_first, harmful_first) + safety_classification(cost_second, harmful_second)
    return bradley_terry(cost_first, cost_second, more_harmful_first) + signs


def rating_error(scores: Tensor, ratings: Tensor) -> Tensor:
    """[B] (score - rating)^2, in squared units of the ratings.

    scores   [B]
    ratings  [B]  what annotators gave a response by itself
    """
    check_shapes("B", scores, ratings)
    return (scores - ratings).square()


def centring_penalty(score_first: Tensor, score_second: Tensor) -> Tensor:
    """[B] (s_1 + s_2)^2: keeps the free constant of a ranking loss near 0, without touching differences.

    Eisenstein et al. 2023 (arXiv:2312.09244) section 3.1; 0.01 is a usual weight.

    score_first, score_second  [B]  nats
    """
    check_shapes("B", score_first, score_second)
    return (score_first + score_second).square()
