"""One reward from several models of it."""

from __future__ import annotations

import torch
from torch import Tensor

from plaudit.objectives.reductions import check_shapes, whiten


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
