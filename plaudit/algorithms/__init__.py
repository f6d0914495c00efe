"""One file per online algorithm: its advantages, its loss. The loop does the rest; `plaudit.methods` lists them."""

from __future__ import annotations

from plaudit.algorithms.base import Algorithm
from plaudit.config import RlSettings
from plaudit.methods import ALGORITHMS


def make(settings: RlSettings) -> Algorithm:
    """The algorithm that the settings name, one of those that learn from rollouts."""
    made: Algorithm = ALGORITHMS[settings.algorithm].load()(settings)
    return made
