"""What best-of-n does to a distribution of responses, and how to estimate it from fewer draws.

M outcomes or samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from plaudit.objectives.reductions import check_shapes


def best_of_n_distribution(probabilities: Tensor, scores: Tensor, *, n: int) -> Tensor:
    """[M] probability of each outcome as the best of n independent draws; ties are split as the base splits them.

        P(y) = F(y)^n - F_below(y)^n,   F, F_below: base probability of a score <= and < that of y

    Stiennon et al. 2020 (arXiv:2009.01325) appendix G for its KL. Imitating it perfectly and repeating k times is
    best of n^k.

    probabilities  [M]  of the base policy, summing to 1
    scores         [M]
    """
    check_shapes("M", probabilities, scores)
    tied = scores[:, None] == scores[None, :]
    level = (probabilities * tied).sum(dim=1)
    below = (probabilities * (scores[None, :] < scores[:, None])).sum(dim=1)
    return ((below + level).pow(n) - below.pow(n)) * probabilities / level


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1) / n, nats: an upper bound of KL(best of n, base), reached only for continuous scores.

    Stiennon et al. 2020; Hilton 2022, Beirami et al. 2024 (arXiv:2401.01879) for its being a bound.
    """
    if n < 1:
        raise ValueError(f"best of {n} does not exist")
    return math.log(n) - (n - 1) / n


def best_of_n_estimate(ranking: Tensor, values: Tensor, *, n: int) -> float:
    """Unbiased estimate of the mean value of the best of n draws by `ranking`, from M >= n draws.

        sum over i (ranked ascending, from 1) of C(i - 1, n - 1) / C(M, n) * value_i

    Nakano et al. 2021 (arXiv:2112.09332) appendix I. It is the mean over all C(M, n) subsets.

    ranking  [M]  what the best is chosen by, without ties
    values   [M]  what is wanted of it: the same, or a gold score

    Raises ValueError for n outside 1..M.
    """
    check_shapes("M", ranking, values)
    count = len(ranking)
    if not 1 <= n <= count:
        raise ValueError(f"the best of {n} cannot be estimated from {count} draws")
    ordered = values[ranking.argsort()].double()
    log_all = math.lgamma(count + 1) - math.lgamma(n + 1) - math.lgamma(count - n + 1)
    weights = torch.tensor(
        [
            math.exp(math.lgamma(i) - math.lgamma(n) - math.lgamma(i - n + 1) - log_all) if i >= n else 0.0
            for i in range(1, count + 1)
        ],
        dtype=torch.float64,
    )
    return float((weights.to(ordered.device) * ordered).sum())
