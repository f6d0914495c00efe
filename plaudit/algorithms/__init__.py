"""One file per online algorithm: what it needs, its advantages, its loss. The loop does the rest."""

from __future__ import annotations

from plaudit.algorithms.ppo import PPO

ALGORITHMS = {"ppo": PPO}
