"""One file per online algorithm: what it needs, its advantages, its loss. The loop does the rest."""

from __future__ import annotations

from plaudit.algorithms.grpo import Grpo
from plaudit.algorithms.lagrangian import PPOLagrangian
from plaudit.algorithms.online_dpo import OnlineDPO
from plaudit.algorithms.p3o import P3O
from plaudit.algorithms.ppo import PPO
from plaudit.algorithms.reinforce import Reinforce
from plaudit.algorithms.rloo import Rloo
from plaudit.algorithms.base import Algorithm

ALGORITHMS: dict[str, type[Algorithm]] = {
    "reinforce": Reinforce,
    "rloo": Rloo,
    "grpo": Grpo,
    "ppo": PPO,
    "p3o": P3O,
    "ppo-lagrangian": PPOLagrangian,
    "online-dpo": OnlineDPO,
}
