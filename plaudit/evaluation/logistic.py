"""Logistic regression by Newton's method, with Wald intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from plaudit.evaluation.statistics import LEVEL, Interval

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
