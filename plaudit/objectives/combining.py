"""One reward from several models of it."""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.objectives.reductions import check_shapes, whiten


def worst_case(scores: Tensor) -> Tensor:
    """[B] the least of each response's scores, by models of one reward that differ in their seeds.

    Coste et al. 2023 (arXiv:2310.02743) eq. 3: what no model of the ensemble likes cannot be exploited.

    scores  [k, B]
    """
    check_shapes("k B", scores)
    return scores.amin(dim=0)


def mean_minus_deviation(scores: Tensor, *, coefficient: float = 1.0) -> Tensor:
    """[B] mean - coefficient * standard deviation over models of one reward: a price on their disagreement.

    In the spirit of Coste et al. 2023 (arXiv:2310.02743) eq. 4, which takes the variance; the deviation has the
    units of the score. Biased, so that a single model has a deviation of 0.

    scores  [k, B]
    """
    check_shapes("k B", scores)
    return scores.mean(dim=0) - coefficient * scores.std(dim=0, correction=0)


def safety_gated_scores(helpfulness: Tensor, safety: Tensor, tagged: Tensor, *, threshold: float = 0.15) -> Tensor:
    """Safety where the prompt asks for it or the answer lacks it, helpfulness elsewhere, as log-odds.

        R_c = R_s if tagged or R_s < threshold else R_h,   result = logit(R_c)

    Touvron et al. 2023 (arXiv:2307.09288) section 3.2.3, R the sigmoid of a reward model's score; threshold 0.15
    had precision 0.89 and recall 0.55 there.

    helpfulness  [B]  scores before the sigmoid, nats
    safety       [B]  likewise
    tagged       [B]  bool: prompts that are known to be about safety

    Returns [B].
    """
    check_shapes("B", helpfulness, safety, tagged)
    return torch.where(tagged | (safety.sigmoid() < threshold), safety, helpfulness)


def whitened_safety_gated_scores(
    helpfulness: Tensor, safety: Tensor, tagged: Tensor, *, threshold: float = 0.15
) -> Tensor:
    """`safety_gated_scores` with mean 0 and biased variance 1 over the rollout batch: the final reward of the paper.

    Arguments as there. Not comparable between batches.
    """
    return whiten(safety_gated_scores(helpfulness, safety, tagged, threshold=threshold), torch.ones_like(tagged))
