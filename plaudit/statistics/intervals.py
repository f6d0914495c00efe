"""Intervals. All are 95 %, and none is given for a single cluster: nothing is known of how others would differ.

Values come in clusters, for example the answers to one prompt, which are alike: K clusters, each independent of the
others. A value near the end of its range needs an interval made for it, so there are three kinds: `share` for values
in [0, 1], `difference` for differences of two of these, and `mean` for any other number.
`benchmarks/intervals.py` measures how often each holds the truth.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Numbers = NDArray[np.float64]

LEVEL = 0.95
PSEUDO_VALUES = 4.0
"""Values that vary as much as a coin's, by which few values that vary less are held to be more than luck."""
RESAMPLES = 2_000
FEWEST_DRAWN, MOST_DRAWN = 5, 2_000
"""Clusters from which and up to which resamples widen the interval of a mean; it needs none where there are more."""
WIDEST = 2.0
"""Times Student's quantile: what a resample with hardly any spread may ask for at most."""


class Interval(TypedDict):
    """A value with its 95 % interval and the number of independent items behind it.

    low and high are None where there is a single item, or cluster of items, so that no interval is known.
    """

    value: float
    low: float | None
    high: float | None
    n: int


def excludes(interval: Interval, value: float) -> bool:
    """Whether the value is outside of the interval; it never is where none is known."""
    low, high = interval["low"], interval["high"]
    return low is not None and high is not None and not low <= value <= high


def student(freedom: float) -> float:
    """The quantile of Student's t by which an interval of so many degrees of freedom is wide."""
    return float(stats.t.ppf(0.5 + LEVEL / 2, freedom))


def agresti_coull(p: float, n: float, quantile: float) -> tuple[float, float]:
    """Ends of the interval of a proportion p of n trials: Wald's after q^2 / 2 successes and failures are added.

    Agresti and Coull 1998 (The American Statistician 52, 119-126): with N = n + q^2, P = (p n + q^2 / 2) / N,
        P -+ q sqrt(P (1 - P) / N),    cut to [0, 1].
    It holds Wilson's interval, and unlike that covers .99 of ten trials. n may be an effective number of trials.
    """
    trials = n + quantile**2
    centre = (p * n + quantile**2 / 2) / trials
    half = quantile * math.sqrt(max(centre * (1 - centre), 0.0) / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def rate(successes: float, n: int) -> Interval:
    """A proportion of n independent trials, with the exact interval of Clopper and Pearson.

    Clopper and Pearson 1934 (Biometrika 26, 404-413). Its ends are quantiles of Beta(x, n - x + 1) and Beta(x + 1,
    n - x); fractional successes x (ties as halves) are
    allowed: a mean of values in [0, 1] varies no more than a coin of the same mean, so that the interval is then wider
    than it need be. Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError("a proportion of nothing has no value")
    value, failures, tail = successes / n, n - successes, 0.5 - LEVEL / 2
    if n == 1:
        return {"value": value, "low": None, "high": None, "n": 1}
    low = float(stats.beta.ppf(tail, successes, failures + 1)) if successes > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, failures)) if failures > 0 else 1.0
    return {"value": value, "low": low, "high": high, "n": n}


def share(values: Sequence[float], clusters: Sequence[Hashable], *, clusters_alike: bool = False) -> Interval:
    """The mean of values in [0, 1] that come in clusters, with `agresti_coull` at the effective number of values.

    values          of each item: 1 and 0, ties as halves, or anything between
    clusters        the cluster (for example the prompt) of each value
    clusters_alike  whether the mean is that of the clusters' means; else every value counts alike

    With p the mean, w_i the weights of the values, which sum to 1, and W_c those of the clusters,
        n = p (1 - p) / V,    V = K / (K - 1) sum over c of (sum over i in c of w_i (x_i - p))^2,
    the variance by linearisation; at least 1 / sum(W_c^2), as if all values of a cluster were equal, and at most
    (1 / sum(w_i^2)) / f, as if they were independent. f <= 1 is their variance over that of coins, p (1 - p), with
    PSEUDO_VALUES coins added. The quantile is Student's of K - 1, for V is known no better than that.

    Of one 0 or 1 a cluster it is the `rate`. Intervals of proportions at an effective sample size: Miao and Gastwirth
    2004 (The American Statistician 58, 124-130); that few clusters need Student's quantile: Korn and Graubard 1998
    (Survey Methodology 24, 193-201).

    Raises ValueError for no values, and for one outside of [0, 1].
    """
    x, cluster = _columns(values, clusters)
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"a share is a mean of values from 0 to 1; {x.min():g} to {x.max():g} were given")
    sizes = np.bincount(cluster)
    count = len(sizes)
    if count == len(x) and np.isin(x, (0.0, 1.0)).all():
        return rate(float(x.sum()), count)
    weights = 1 / (count * sizes[cluster]) if clusters_alike else np.full(len(x), 1 / len(x))
    of_clusters = np.bincount(cluster, x) / sizes
    value = float(of_clusters.mean() if clusters_alike else x.mean())  # of ones exactly 1, which `weights @ x` is not
    if count == 1:
        return {"value": value, "low": None, "high": None, "n": 1}
    gaps = weights * (x - value)
    variance = count / (count - 1) * float((np.bincount(cluster, gaps) ** 2).sum())
    fewest = 1 / float((np.bincount(cluster, weights) ** 2).sum())
    most = 1 / float((weights**2).sum())
    n = effective_number(value, variance, float(gaps @ (x - value)), fewest=fewest, most=most)
    low, high = agresti_coull(value, n, student(count - 1))
    return {"value": value, "low": low, "high": high, "n": count}


def effective_number(p: float, variance: float, spread: float, *, fewest: float, most: float) -> float:
    """How many independent coins of mean p have a mean of this variance; see `share`.

    spread   mean square distance of the values from p
    fewest   where nothing is known, because p is 0 or 1; and at least so many
    most     at most so many, times what `spread` allows
    """
    coin = p * (1 - p)
    if coin <= 0:
        return fewest
    limit = most * (most + PSEUDO_VALUES) * coin / (most * spread + PSEUDO_VALUES * coin)
    return max(fewest, min(coin / variance, limit) if variance > 0 else limit)


def difference(values: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """The mean of differences in [-1, 1] of two shares of the same items, from the `share` of each sign.

    values    of each item: what one says of it less what the other says
    clusters  the cluster (for example the prompt) of each value

    The value is a - b, where a is the mean of max(x, 0) and b that of max(-x, 0). With the ends l, u and l', u' of
    their shares and r the correlation of a and b over clusters,
        low  = a - b - sqrt((a - l)^2 - 2 r (a - l) (u' - b) + (u' - b)^2)
        high = a - b + sqrt((u - a)^2 - 2 r (u - a) (b - l') + (b - l')^2)
    as Newcombe 1998 (Statistics in Medicine 17, 2635-2650), method 10, has it for pairs, and Zou and Donner 2008
    (Statistics in Medicine 27, 1693-1702) for any two estimates. Where all differences are 0 the interval still says
    how far apart the two may be. Raises ValueError for no values, and for one outside of [-1, 1].
    """
    x, cluster = _columns(values, clusters)
    if np.abs(x).max() > 1:
        raise ValueError(f"a difference of shares is from -1 to 1; {x.min():g} to {x.max():g} were given")
    ahead, behind = np.maximum(x, 0.0), np.maximum(-x, 0.0)
    one, other = (share(side.tolist(), cluster.tolist()) for side in (ahead, behind))
    value, n = one["value"] - other["value"], one["n"]
    if one["low"] is None or one["high"] is None or other["low"] is None or other["high"] is None:
        return {"value": value, "low": None, "high": None, "n": n}
    gaps = np.stack([np.bincount(cluster, side - side.mean()) for side in (ahead, behind)])  # [2, clusters]
    scale = math.sqrt(float((gaps[0] ** 2).sum() * (gaps[1] ** 2).sum()))
    correlation = float(gaps[0] @ gaps[1]) / scale if scale > 0 else 0.0
    down = _together(one["value"] - one["low"], other["high"] - other["value"], correlation)
    up = _together(one["high"] - one["value"], other["value"] - other["low"], correlation)
    return {"value": value, "low": max(-1.0, value - down), "high": min(1.0, value + up), "n": n}


def _together(one: float, other: float, correlation: float) -> float:
    """How far the difference of two estimates may be off where each may be off by so much."""
    return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))


def mean(values: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0) -> Interval:
    """The mean of numbers of any size that come in clusters: Student's interval, widened where they are skewed.

    values    any number per item
    clusters  the cluster (for example the prompt) of each value

    value -+ t s with the jackknife's standard error s over clusters (Efron and Stein 1981) and Student's quantile t of
    K - 1; an end is further out where the studentised bootstrap has it so (Efron and Tibshirani 1993, section 12.5;
    Hall 1992), which draws whole clusters: with ten prompts, exponential lengths have Student's interval hold .91,
    this one .95. Values that are all equal have an interval without width.

    Raises ValueError for no values.
    """
    x, cluster = _columns(values, clusters)
    sizes: Numbers = np.asarray(np.bincount(cluster), dtype=np.float64)
    sums: Numbers = np.asarray(np.bincount(cluster, x), dtype=np.float64)
    count, value = len(sizes), float(sums.sum() / sizes.sum())
    if count == 1:
        return {"value": value, "low": None, "high": None, "n": 1}
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    error = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    quantile = student(count - 1)
    down = up = quantile
    if FEWEST_DRAWN <= count <= MOST_DRAWN and error > 0:
        low, high = _studentised(sums, sizes, seed)
        down, up = max(quantile, min(high, WIDEST * quantile)), max(quantile, min(-low, WIDEST * quantile))
    return {"value": value, "low": value - down * error, "high": value + up * error, "n": count}


def _studentised(sums: Numbers, sizes: Numbers, seed: int) -> tuple[float, float]:
    """Quantiles of (a resample's mean - the mean) / the resample's standard error."""
    rows = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    drawn, number = sums[rows], sizes[rows]
    means = drawn.sum(axis=1) / number.sum(axis=1)
    squares = ((drawn - means[:, None] * number) ** 2).sum(axis=1)
    errors = np.sqrt(len(sums) / (len(sums) - 1) * squares) / number.sum(axis=1)
    gaps = means - sums.sum() / sizes.sum()
    ratios = np.divide(gaps, errors, out=np.copysign(np.inf, gaps), where=errors > 0)
    ratios[gaps == 0] = 0
    low, high = np.quantile(ratios, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], method="nearest")
    return float(low), float(high)


def difference_of_rates(successes: float, n: int, other_successes: float, other_n: int) -> Interval:
    """The difference of two independent proportions, the first less the other, from the interval of each.

    Newcombe 1998 (Statistics in Medicine 17, 873-890), method 10, and Zou and Donner 2008, with `agresti_coull`'s
    limits l, u of p and l', u' of p' in the place of Wilson's:
        low  = p - p' - sqrt((p - l)^2 + (u' - p')^2)
        high = p - p' + sqrt((u - p)^2 + (p' - l')^2)
    n of the result is that of both together. Raises ValueError for no items on either side.
    """
    if min(n, other_n) < 1:
        raise ValueError("a proportion of nothing has no value")
    one, other = successes / n, other_successes / other_n
    quantile = float(stats.norm.ppf(0.5 + LEVEL / 2))
    low, high = agresti_coull(one, n, quantile)
    other_low, other_high = agresti_coull(other, other_n, quantile)
    down = math.hypot(one - low, other_high - other)
    up = math.hypot(high - one, other - other_low)
    return {"value": one - other, "low": one - other - down, "high": one - other + up, "n": n + other_n}


def _columns(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[Numbers, NDArray[np.int64]]:
    """[n] values, and the number of each one's cluster."""
    if not len(values):
        raise ValueError("the mean of nothing has no value")
    numbers: dict[Hashable, int] = {}
    places = [numbers.setdefault(cluster, len(numbers)) for _, cluster in zip(values, clusters, strict=True)]
    return np.asarray(values, dtype=np.float64), np.array(places, dtype=np.int64)
