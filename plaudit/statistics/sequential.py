"""Intervals that one may look at after every observation, and stop when they have said enough."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np


@dataclass
class ConfidenceSequence:
    """Interval of the mean of numbers in [0, 1] that come one by one: true at all times together with probability 1 -
    alpha.

    The predictable plug-in empirical-Bernstein confidence sequence of Waudby-Smith and Ramdas 2024 (Estimating means of
    bounded random variables by betting, theorem 2), with its running intersection. For observations X_1, X_2, ... whose
    mean given the past is always the same,

        centre_t = sum(lambda_i X_i) / sum(lambda_i)
        width_t  = (log(2 / alpha) + sum(4 (X_i - mean_{i-1})^2 psi(lambda_i))) / sum(lambda_i)
        psi(l) = (-log(1 - l) - l) / 4,  lambda_t = min(sqrt(2 log(2 / alpha) / (variance_{t-1} t log(1 + t))), 1/2)

    An interval at a fixed number, such as Wilson's, is narrower, and is wrong far more often than it says when somebody
    stops as soon as it excludes 1/2.
    """

    alpha: float = 0.05
    n: int = 0
    low: float = 0.0
    high: float = 1.0
    _sum: float = 0.0
    _squares: float = 0.0
    _bets: float = field(default=0.0, repr=False)
    _weighted: float = field(default=0.0, repr=False)
    _variation: float = field(default=0.0, repr=False)

    def add(self, value: float) -> None:
        """The next observation. Raises ValueError outside of [0, 1]."""
        self.extend([value])

    def extend(self, values: Iterable[float]) -> ConfidenceSequence:
        """Several, in order. Raises ValueError outside of [0, 1]."""
        x = np.fromiter(values, dtype=np.float64)
        if not len(x):
            return self
        if not ((x >= 0) & (x <= 1)).all():
            raise ValueError(f"{x[~((x >= 0) & (x <= 1))][0]} is not between 0 and 1")
        n = self.n + np.arange(1, len(x) + 1)
        sums = self._sum + np.cumsum(x)
        before = sums - x
        mean = (0.5 + before) / n  # of what came before, with half an observation at 1/2 ahead of it
        added = (x - (0.5 + sums) / (n + 1)) ** 2
        squares = self._squares + np.cumsum(added)
        spread = (0.25 + squares - added) * np.log1p(n)  # variance times n log(1 + n)
        bet = np.minimum(np.sqrt(2 * math.log(2 / self.alpha) / spread), 0.5)
        bets = self._bets + np.cumsum(bet)
        weighted = self._weighted + np.cumsum(bet * x)
        variation = self._variation + np.cumsum((x - mean) ** 2 * (-np.log1p(-bet) - bet))
        centre, width = weighted / bets, (math.log(2 / self.alpha) + variation) / bets
        self.low = max(self.low, float((centre - width).max()))
        self.high = min(self.high, float((centre + width).min()))
        self.n, self._sum, self._squares = int(n[-1]), float(sums[-1]), float(squares[-1])
        self._bets, self._weighted, self._variation = float(bets[-1]), float(weighted[-1]), float(variation[-1])
        return self

    @property
    def decides(self) -> bool:
        """Whether 1/2 is outside: one may stop."""
        return self.low > 0.5 or self.high < 0.5
