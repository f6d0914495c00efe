"""A worker's side of the conversation: warm up, then one repetition each time it is told to.

Standard library alone, but for what a program on a GPU has imported itself. The conductor writes "go", the worker
answers with one JSON line a repetition.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

WARM_UP, WARM_UP_SECONDS = 8, 20.0
"""Repetitions before the first that counts: so many, or as many as begin in this time. The first ones take memory that
later ones have, of batches that grow."""


class Turns:
    """Called between repetitions: `turns.next()` returns when it is this program's turn again."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what libraries print goes to the error stream
        self.done = 0
        self.ready = False
        self.started = time.perf_counter()
        self.begun: float | None = None

    def next(self) -> None:
        """End the repetition at hand, if there is one, and wait for the next; ends the program when there is none."""
        gpu = _gpu()
        if gpu is not None:
            gpu.synchronize()  # what it was told to do is part of the repetition
        now = time.perf_counter()
        if self.begun is None:
            self.started = now
        elif self.ready:
            self._answer(seconds=now - self.begun)
        else:
            self.done += 1
            if self.done == WARM_UP or now - self.started > WARM_UP_SECONDS:
                self.ready = True
                self._answer(ready=True, device="CPU" if gpu is None else gpu.get_device_name())
        if self.ready and sys.stdin.readline().strip() != "go":
            retries = 0 if gpu is None else gpu.memory_stats().get("num_alloc_retries", 0)
            self._answer(peak_memory_gb=_peak(), memory_was_short=retries > 0)
            os._exit(0)
        self.begun = time.perf_counter()

    def say(self, **facts: object) -> None:
        """Something for the table: how many tokens the repetition at hand has."""
        self._answer(**facts)

    def _answer(self, **content: object) -> None:
        self.answers.write(json.dumps(content) + "\n")


def _gpu() -> Any:
    """PyTorch's, if the program computes there."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _peak() -> float:
    """GB that the program has held, of the GPU's memory where it computes there."""
    gpu = _gpu()
    if gpu is not None:
        return float(gpu.max_memory_reserved()) / 2**30
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
