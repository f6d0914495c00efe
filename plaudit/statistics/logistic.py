"""Logistic regression by Newton's method, with Wald's intervals and such as allow for clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from plaudit.statistics.intervals import LEVEL, Interval, student

Numbers = NDArray[np.float64]
STEPS = 40
LARGEST = 30.0
"""Log-odds, root mean square over rows, beyond which the outcomes are taken to be separable."""


def logistic_fit(design: Numbers, outcomes: Numbers) -> tuple[Numbers, Numbers]:
    """Maximum likelihood of P(outcome) = sigmoid(design @ coefficients), without a penalty.

    design    [n, d], a column of ones included where an intercept is wanted
    outcomes  [n] in [0, 1]

    Returns the coefficients [d] and their asymptotic covariance [d, d], the inverse of the observed information.
    Raises ValueError where there is no finite maximum: too few rows, columns that depend on each other, or outcomes
    that a line separates.
    """
    found = np.zeros(design.shape[1])
    for _ in range(STEPS):
        expected = expit(design @ found)
        information = (design * (expected * (1 - expected))[:, None]).T @ design
        if len(design) <= design.shape[1] or np.linalg.cond(information) > 1e12:
            break
        step = np.linalg.solve(information, design.T @ (outcomes - expected))
        found = found + step
        if np.sqrt(np.mean((design @ found) ** 2)) > LARGEST:
            break
        if np.abs(step).max() < 1e-9:
            return found, np.linalg.inv(information)
    raise ValueError("there is no finite maximum of the likelihood")


def wald(value: float, deviation: float, n: int) -> Interval:
    """value +- 1.96 standard errors."""
    half = float(stats.norm.ppf(0.5 + LEVEL / 2)) * deviation
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def by_clusters(
    design: Numbers, outcomes: Numbers, found: Numbers, covariance: Numbers, clusters: NDArray[np.int64]
) -> list[Interval]:
    """Intervals of the coefficients that `logistic_fit` found where rows of one cluster are alike.

    clusters  [n] the cluster's number of each row, 0 to C - 1

    The covariance is Liang and Zeger's 1986 (Biometrika 73, 13-22) times C / (C - 1): covariance @ sum over clusters of
    s s^T @ covariance with s the cluster's sum of design * (outcome - expected); the quantile is Student's of C - 1.
    n of the results is C; of a single cluster they have no ends.
    """
    count = int(clusters.max()) + 1
    if count == 1:
        return [{"value": float(value), "low": None, "high": None, "n": 1} for value in found]
    scores = np.zeros((count, len(found)))
    np.add.at(scores, clusters, design * (outcomes - expit(design @ found))[:, None])
    robust = covariance @ (scores.T @ scores) @ covariance * count / (count - 1)
    halves = student(count - 1) * np.sqrt(np.diag(robust))
    return [
        {"value": value, "low": value - half, "high": value + half, "n": count}
        for value, half in zip(found.tolist(), halves.tolist(), strict=True)
    ]
