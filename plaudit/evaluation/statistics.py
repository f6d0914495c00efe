"""Intervals. All are 95 %."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypedDict

import numpy as np
from scipy import stats

LEVEL = 0.95
MOST_DRAWN = 2_000
"""Clusters that are drawn one by one; of more, only how often each kind of cluster is drawn."""


class Interval(TypedDict):
    """A value with its 95 % interval and the number of independent items behind it.

    low, high   None where one item is all there is: nothing says then how far another's would be from it
    """

    value: float
    low: float | None
    high: float | None
    n: int


def ends(interval: Interval) -> tuple[float, float]:
    """Of an interval that has them. Raises ValueError for one of a single item."""
    if interval["low"] is None or interval["high"] is None:
        raise ValueError("one item has no interval")
    return interval["low"], interval["high"]


def wilson(successes: float, n: float) -> Interval:
    """Wilson's score interval of a proportion, in [0, 1] even at 0 or n successes.

    Wilson 1927. Fractional successes (ties as halves, means over repeats) are allowed: a mean of values in
    [0, 1] varies no more than a coin of the same mean, so the interval is then conservative.

    n may be an effective sample size; the result's own is rounded. Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError("a proportion of nothing has no value")
    z = float(stats.norm.ppf(0.5 + LEVEL / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return {"value": p, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "n": round(n)}


def cluster_bootstrap(
    values: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0, resamples: int = 4000
) -> Interval:
    """Percentile interval of a mean whose values come in clusters, by drawing whole clusters with replacement.

    values    any number per item
    clusters  the cluster (for example the prompt) of each value

    The interval of a single cluster has no ends. Raises ValueError for no values.
    """
    if not values:
        raise ValueError("the mean of nothing has no value")
    sums: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster][0] += value
        sums[cluster][1] += 1
    table = np.array(list(sums.values()))  # [clusters, (sum, count)]
    if len(table) == 1:
        return {"value": float(table[0, 0] / table[0, 1]), "low": None, "high": None, "n": 1}
    random = np.random.default_rng(seed)
    if len(table) <= MOST_DRAWN:
        totals = table[random.integers(len(table), size=(resamples, len(table)))].sum(axis=1)  # [resamples, 2]
    else:  # the same by how many clusters are equal, which are few kinds where values are votes
        kinds, number = np.unique(table.round(9), axis=0, return_counts=True)
        share = number / len(table)
        totals = np.stack([random.multinomial(len(table), share) @ kinds for _ in range(resamples)])
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    mean = float(table[:, 0].sum() / table[:, 1].sum())
    return {"value": mean, "low": float(low), "high": float(high), "n": len(table)}


def newcombe(successes: float, n: float, other_successes: float, other_n: float) -> Interval:
    """The difference of two independent proportions, the first less the other, by Newcombe's hybrid of Wilson's scores.

    Newcombe 1998 (Statistics in Medicine 17, 873-890), method 10: with Wilson's limits l, u of p and l', u' of p',
        low  = p - p' - sqrt((p - l)^2 + (u' - p')^2)
        high = p - p' + sqrt((u - p)^2 + (p' - l')^2)
    n of the result is that of both together. Raises ValueError for no items on either side.
    """
    one, other = wilson(successes, n), wilson(other_successes, other_n)
    difference = one["value"] - other["value"]
    (low, high), (other_low, other_high) = ends(one), ends(other)
    down = math.hypot(one["value"] - low, other_high - other["value"])
    up = math.hypot(high - one["value"], other["value"] - other_low)
    return {"value": difference, "low": difference - down, "high": difference + up, "n": one["n"] + other["n"]}
