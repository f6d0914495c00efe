"""How many threads compute: what the machine, or a container on it, lends to this process, and fewer for small models.

Threads of one product wait for each other many times a step. Where there are more of them than free processors, or
where their share of the work is a few microseconds, most of the time is waiting: a model of 0.26 million weights takes
5 to 30 times as long on two threads as on one while others use both processors.
"""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from plaudit.progress import say

WEIGHTS_A_THREAD = 2_000_000
"""Weights per thread of the largest model in memory: with fewer, another thread saves less than its waiting costs."""
VARIABLE = "OMP_NUM_THREADS"
"""Environment variables: what somebody has set there is what `auto` takes."""
_largest = 0


def use(setting: int | Literal["auto"], weights: int) -> int:
    """Set PyTorch's threads, which the kernels follow, for a model that is being loaded; says so once. Returns them.

    setting   `model.threads`
    weights   of the model; with several the largest counts
    """
    global _largest
    _largest = max(_largest, weights)
    if setting != "auto":
        number, why = setting, "as model.threads says"
    elif os.environ.get(VARIABLE):
        return torch.get_num_threads()
    else:
        usable = usable_processors()
        number = min(usable, wanted(_largest))
        why = f"of {usable} that may be used"
        if number < usable:
            why += f": a model of {_largest / 1e6:.2g} million weights is no faster on more (model.threads)"
    if number != torch.get_num_threads():
        torch.set_num_threads(number)
        _say_once(f"Computing on {number} thread{'s' if number > 1 else ''}, {why}.")
    return number


def wanted(weights: int) -> int:
    """At least one, and one for every two million weights."""
    return max(1, weights // WEIGHTS_A_THREAD)


def usable_processors(root: Path = Path("/sys/fs/cgroup"), of_process: Path = Path("/proc/self/cgroup")) -> int:
    """Processors that this process may run on, or less where the container's share of processor time is less; at least
    one.

    root, of_process   where Linux says so
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min((share for folder in _groups(root, of_process) if (share := _share(folder)) is not None), default=None)
    return affinity if quota is None else max(1, min(affinity, math.floor(quota)))


def _groups(root: Path, of_process: Path) -> list[Path]:
    """The folders of the process' control group and of all around it, of both kinds that Linux has."""
    found = [root, root / "cpu"]
    try:
        lines = of_process.read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = (root / "cpu" if controllers else root) / path.lstrip("/")
        found += [folder, *(parent for parent in folder.parents if root in parent.parents)]
    return found


def _share(folder: Path) -> float | None:
    """Processors' worth of time; None where there is no limit."""
    try:
        if (new := folder / "cpu.max").exists():
            quota, period = new.read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # `max`, or nothing there
        return None
    return share if share > 0 else None


@cache
def _say_once(text: str) -> None:
    say(text)
