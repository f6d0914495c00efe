"""How much noise makes annotators agree as often as is wanted.

n pairs of responses, of which the better one is better by `gaps` [n], nats of utility. An annotator with Bradley-Terry
noise s and flip rate f chooses the better one with probability

    q = f + (1 - 2 f) sigmoid(gap / s)

and two who choose independently agree on a share of

    a = mean(q q' + (1 - q)(1 - q')),    of two alike    a = mean(q^2 + (1 - q)^2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from plaudit.errors import ConfigError

Numbers = NDArray[np.float64]
QUICKSTART_GAPS: tuple[float, ...] = (
    0.0, 0.034, 0.09, 0.147, 0.2, 0.25, 0.296, 0.357, 0.41, 0.466, 0.5, 0.583, 0.632, 0.689, 0.756, 0.824, 0.895,
    0.982, 1.073, 1.173, 1.25, 1.343, 1.407, 1.5, 1.608, 1.742, 1.816, 1.968, 2.089, 2.2, 2.346, 2.48, 2.64, 2.795,
    2.944, 3.179, 3.399, 3.714, 4.081, 4.733,
)  # fmt: skip
"""Gaps of utility in the quickstart (seed 0, 1,536 pairs), nats: the middles of forty equal shares of them."""
LEAST_NOISE, MOST_NOISE = 1e-6, 1e6


def share_right(gaps: ArrayLike, noise: float, *, flip_rate: float = 0.0) -> Numbers:
    """[n] probability with which an annotator chooses the better one of each pair.

    gaps  [n] nats of utility; only their size counts
    """
    return flip_rate + (1 - 2 * flip_rate) * expit(np.abs(np.asarray(gaps, dtype=np.float64)) / noise)


def majority_of_three(right: Numbers) -> Numbers:
    """[n] probability that most of three alike choose the better one: 3 q^2 - 2 q^3."""
    return right**2 * (3 - 2 * right)


def expected_agreement(right: Numbers, other: Numbers) -> float:
    """Mean over pairs of the probability that two choose the same: each [n] as `share_right` gives it."""
    return float(np.mean(right * other + (1 - right) * (1 - other)))


def accuracy_of_agreement(agreement: float) -> float:
    """(1 + sqrt(2 a - 1)) / 2: how often each of two is right who agree on a share a, were all pairs equally hard.

    Raises ConfigError below 1/2, which is what coins agree on.
    """
    if not 0.5 <= agreement <= 1:
        raise ConfigError(f"an agreement of {agreement:g} is not between 1/2, that of coins, and 1.")
    return float((1 + np.sqrt(2 * agreement - 1)) / 2)


def calibrated_noise(
    gaps: ArrayLike, agreement: float, *, flip_rate: float = 0.0, against: Numbers | None = None
) -> float:
    """The Bradley-Terry noise at which annotators agree on a given share of pairs.

    gaps       [n] nats of utility between the two of each pair
    agreement  the share wanted
    flip_rate  of the annotators
    against    [n] probability with which the other side chooses the better one; None for another one alike

    Raises ConfigError where no noise gives it: below what coins agree on, or above what flips and equals allow.
    """

    def agreement_at(noise: float) -> float:
        right = share_right(gaps, noise, flip_rate=flip_rate)
        return expected_agreement(right, right if against is None else against)

    return _solved(agreement_at, agreement)


def noise_factor(
    signed_gaps: Sequence[ArrayLike], noises: Sequence[float], flip_rates: Sequence[float], agreement: float
) -> float:
    """What to multiply everybody's noise by, so that two annotators agree on a given share of pairs, mean over couples.

    signed_gaps  of each annotator [n], nats: the first response of a pair less the second, by their own opinion
    flip_rates   of each annotator; lapses that are a coin count as half of their share

    A single annotator is taken with another one alike. Raises ConfigError as `calibrated_noise`.
    """
    gaps = [np.asarray(gap, dtype=np.float64) for gap in signed_gaps]

    def agreement_at(factor: float) -> float:
        firsts = [
            flip + (1 - 2 * flip) * expit(gap / (noise * factor))
            for gap, noise, flip in zip(gaps, noises, flip_rates, strict=True)
        ]
        couples = list(combinations(firsts, 2)) or [(firsts[0], firsts[0])]
        return float(np.mean([expected_agreement(one, other) for one, other in couples]))

    return _solved(agreement_at, agreement)


def _solved(agreement_at: Callable[[float], float], agreement: float) -> float:
    low, high = np.log(LEAST_NOISE), np.log(MOST_NOISE)
    most, least = agreement_at(LEAST_NOISE), agreement_at(MOST_NOISE)
    if not least <= agreement <= most:
        raise ConfigError(
            f"no noise gives an agreement of {agreement:g} here: it is between {least:.3f} and {most:.3f}, whatever "
            "the noise. Ask for less; or lower flip_rate, lazy_share and own_opinion; or judge pairs that differ more."
        )
    return float(np.exp(brentq(lambda log: agreement_at(float(np.exp(log))) - agreement, low, high, xtol=1e-10)))
