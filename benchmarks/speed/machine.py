"""The machine that a benchmark runs on, one GPU where there is one: what it can do, and the memory that it has left."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def on_gpu() -> bool:
    """Whether programs compute there."""
    return torch.cuda.is_available()


def _device() -> str:
    return "cuda" if on_gpu() else "cpu"


def available_memory() -> float:
    """GB of the machine's that programs may still take."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


def limits() -> dict[str, float]:
    """What it can do: bfloat16 matrix products, and copying memory."""
    found = {"matmul_gflops": round(_operations() / 1e9), "memory_gb_a_second": round(_copied() / 1e9, 1)}
    if on_gpu():
        torch.cuda.empty_cache()  # the programs' memory
    return found


def _operations() -> float:
    """A second, in products."""
    size = 8192 if on_gpu() else 2048
    square = torch.randn(size, size, device=_device(), dtype=torch.bfloat16)
    return 2 * size**3 / _best(lambda: square @ square, 10)


def _copied() -> float:
    """Bytes a second, read and written."""
    source = torch.randn(1 << (28 if on_gpu() else 26), device=_device())
    target = torch.empty_like(source)
    return 2 * 4 * len(source) / _best(lambda: target.copy_(source), 6)


def _best(work: Callable[[], object], times: int) -> float:
    """Seconds."""
    work()
    seconds = []
    for _ in range(times):
        finish()
        start = time.perf_counter()
        work()
        finish()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def finish() -> None:
    """Wait for what a GPU has been told to do."""
    if on_gpu():
        torch.cuda.synchronize()


def share_of_limit(
    job: str, tokens_a_second: float, machine: dict[str, float], body: float, head: float
) -> float | None:
    """Useful operations a second over the matmul peak; in decoding over the tighter of that and reading the weights.

    body, head  weights. Every token goes through the body, and in training through the head too (which counts a little
                more than is needed: only answers' tokens are). None where a step mixes kinds of work.
    """
    peak = machine["matmul_gflops"] * 1e9
    kind, _, variant = job.partition(":")
    if kind == "generate":
        compute = peak / (2 * (body + head))
        memory = int(variant) * machine["memory_gb_a_second"] * 1e9 / (2 * (body + head))
        return tokens_a_second / min(compute, memory)
    if kind in ("rloo", "ppo"):
        return None
    passes = 4 if variant == "lora" else 6  # a frozen weight has no gradient of its own
    return tokens_a_second * passes * (body + (0 if kind == "reward" else head)) / peak
