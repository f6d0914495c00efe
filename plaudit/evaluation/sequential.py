"""Intervals that one may look at after every observation, and stop when they have said enough."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class ConfidenceSequence:
    """Of the mean of numbers in [0, 1] that come one by one: true at all times together with probability 1 - alpha.

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
        if not 0 <= value <= 1:
            raise ValueError(f"{value} is not between 0 and 1")
        self.n += 1
        mean = (0.5 + self._sum) / self.n  # of what came before, with half an observation at 1/2 ahead of it
        variance = (0.25 + self._squares) / self.n
        spread = variance * self.n * math.log(1 + self.n)
        bet = min(math.sqrt(2 * math.log(2 / self.alpha) / spread), 0.5)
        self._bets += bet
        self._weighted += bet * value
        self._variation += 4 * (value - mean) ** 2 * (-math.log(1 - bet) - bet) / 4
        self._sum += value
        self._squares += (value - (0.5 + self._sum) / (self.n + 1)) ** 2
        centre = self._weighted / self._bets
        width = (math.log(2 / self.alpha) + self._variation) / self._bets
        self.low, self.high = max(self.low, centre - width), min(self.high, centre + width)

    def extend(self, values: Iterable[float]) -> ConfidenceSequence:
        """Several, in order."""
        for value in values:
            self.add(value)
        return self

    @property
    def decides(self) -> bool:
        """Whether 1/2 is outside: one may stop."""
        return self.low > 0.5 or self.high < 0.5
