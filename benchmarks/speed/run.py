"""Plaudit against a peer, job by job, turn by turn on one machine; and against what the machine can do.

    make bench        (or: python benchmarks/speed/run.py --only JOB ...)

Both programs of a job are started and warmed up, and then take turns: one repetition each, while the other waits, and
where it is a single step one before it that does not count. Where memory is too short for both, they run one after the
other. What is compared is the median. A job that fails is told at the end, and
keeps no other from being measured. Run nothing beside it.

On a CPU a model of 135 million weights and one of 10 million are measured, and speed.json, speed.md and speed.png
written beside this file's parent; where there is a GPU, a model of 1.5 billion weights on one of them, and
speed-gpu.json and so on. Memory is then that of the GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import machine
import torch
from models import Models, make_models

HERE = Path(__file__).parent
JOBS = {
    "sft": "SFT, all weights",
    "sft:lora": "SFT, LoRA",
    "reward": "Reward model, all weights",
    "reward:lora": "Reward model, LoRA",
    "dpo": "DPO, all weights",
    "dpo:lora": "DPO, LoRA",
    "rloo": "RLOO step, LoRA, 32 samples",
    "ppo": "PPO step, all weights, 32 samples",
    "generate:1": "Sampling, 1 row",
    "generate:32": "Sampling, 32 rows",
    "generate:128": "Sampling, 128 rows",
}
ON_CPU = list(JOBS) + [f"10M/{job}" for job in JOBS if ":lora" not in job]
ON_GPU = [f"1.5B/{job}" for job in JOBS]
"""What is measured where nothing is asked for."""
JOBS |= {f"{size}/{job}": f"{name} ({size})" for size in ("10M", "1.5B") for job, name in JOBS.items()}
PEERS = {"ppo": "ppo"}
"""Environments under peers/ by kind of job; "trl" for the others."""
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": "68719476736",
    "MALLOC_TRIM_THRESHOLD_": "68719476736",
    "MALLOC_TOP_PAD_": "268435456",
}
"""By these a peer's C library keeps what it has freed, as Plaudit tells its own to; few know to ask for it. On a GPU
PyTorch keeps that memory in both programs."""
SHORT = ("sft", "reward", "dpo")
"""Kinds of job whose repetition is a single step: of those of a turn the first does not count, for which caches are
filled again that the other program has had."""
TOO_LARGE = ("ppo",)
"""Jobs whose peer returns a CPU's memory all the same: with what it keeps, 15 GB, the two do not fit in 24 GiB."""
LEAST_MEMORY = 1.0
"""GB that must be free: with less, both programs are ended before the system ends one, and run one after the other."""
WATCHED = 0.1
"""Seconds between two looks at that."""


class Program(NamedTuple):
    """What to start: a script of this folder at one job."""

    python: str
    script: str
    job: str
    environment: dict[str, str] | None = None


class JobFailedError(Exception):
    """A worker stopped."""


class MemoryShortError(JobFailedError):
    """And the reason was found."""


class Worker:
    """One program at one job."""

    def __init__(self, program: Program, models: Models):
        self.process = subprocess.Popen(
            [program.python, str(HERE / program.script), program.job, models.causal, models.reward],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | (program.environment or {}),
        )  # fmt: skip
        self.seconds: list[float] = []
        self.tokens: list[float] = []
        self.peak_memory_gb = 0.0
        self.device = ""
        self.memory_was_short = False

    def read_until(self, wanted: str) -> None:
        """Take in what it says until that comes."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            facts = json.loads(line)
            if "seconds" in facts:
                self.seconds.append(facts["seconds"])
            if "tokens" in facts:
                self.tokens.append(facts["tokens"])
            self.peak_memory_gb = facts.get("peak_memory_gb", self.peak_memory_gb)
            self.device = facts.get("device", self.device)
            self.memory_was_short |= facts.get("memory_was_short", False)
            if wanted in facts:
                return
        raise JobFailedError(f"a worker stopped; run it by hand: {' '.join(map(str, self.process.args))}")

    def tell(self, word: str) -> None:
        """Its turn, or its end."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # what has stopped is found when its answer is read
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()

    def repeat(self, *, counts: bool) -> None:
        """One repetition."""
        self.tell("go")
        self.read_until("seconds")
        if not counts:
            self.seconds.pop()
            self.tokens.pop()

    def result(self) -> dict[str, Any]:
        """Medians. Tokens were told once a repetition, warm-up included."""
        rates = [
            tokens / seconds for tokens, seconds in zip(self.tokens[-len(self.seconds) :], self.seconds, strict=True)
        ]
        return {
            "tokens_a_second": round(statistics.median(rates), 1),
            "seconds": round(statistics.median(self.seconds), 3),
            "repetitions": len(self.seconds),
            "spread": round(max(self.seconds) / min(self.seconds), 2),
            "peak_memory_gb": round(self.peak_memory_gb, 2),
            "device": self.device,
        }


@contextmanager
def watched(workers: list[Worker]) -> Iterator[None]:
    """Within, workers are ended when memory runs short. Raises MemoryShortError then; leaves none running."""
    short, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(WATCHED):
            if machine.available_memory() < LEAST_MEMORY:
                short.set()
                for worker in workers:
                    worker.process.kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    except JobFailedError as error:
        raise (MemoryShortError(f"less than {LEAST_MEMORY} GB was free") if short.is_set() else error) from None
    finally:
        over.set()
        watcher.join()
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def take_turns(
    programs: list[Program], models: Models, repetitions: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """What each program gives, alternating; and the machine's limits, medians of measurements between.

    Raises JobFailedError when one stops, MemoryShortError when they do not fit.
    """
    workers: list[Worker] = []
    with watched(workers):
        for program in programs:
            workers.append(Worker(program, models))
            workers[-1].read_until("ready")  # one after the other, so that neither warms up beside the other
        measured = [limits()]
        short = programs[0].job.partition(":")[0] in SHORT
        for _ in range(repetitions):
            for worker in workers:
                if short:
                    worker.repeat(counts=False)
                worker.repeat(counts=True)
            measured.append(limits())
        for worker in workers:
            worker.tell("stop")
            worker.read_until("peak_memory_gb")
            worker.process.wait()
            if worker.memory_was_short and len(workers) > 1:
                raise MemoryShortError("a program had to give memory back on the GPU to go on")
    medians = {kind: statistics.median(one[kind] for one in measured) for kind in measured[0]}
    return [worker.result() for worker in workers], medians


def limits() -> dict[str, float]:
    """The machine's. Raises MemoryShortError where the programs leave a GPU no room to measure them."""
    try:
        return machine.limits()
    except torch.OutOfMemoryError:
        raise MemoryShortError("no room was left on the GPU") from None


def compare(job: str, peers: Path, models: Models, repetitions: int, kept: bool) -> dict[str, Any]:
    """Both programs, in turn."""
    peer = peers / PEERS.get(job.partition(":")[0], "trl") / "bin" / "python"
    environment = KEPT if kept and not machine.on_gpu() else {}
    programs = [Program(sys.executable, "ours.py", job), Program(str(peer), "peer.py", job, environment)]
    together = True
    try:
        (ours, theirs), limits = take_turns(programs, models, repetitions)
    except JobFailedError as error:
        if not isinstance(error, MemoryShortError) and not machine.on_gpu():  # where a program stops that gets none
            raise
        print(f"{job}: {error}, so the programs run one after the other.", flush=True)
        together = False
        ((ours,), limits), ((theirs,), _) = (take_turns([program], models, repetitions) for program in programs)
    if ours["device"] != theirs["device"]:
        raise JobFailedError(f"ours ran on {ours['device']}, the peer on {theirs['device']}: no comparison")
    ratio = round(ours["tokens_a_second"] / theirs["tokens_a_second"], 2)
    return {"ours": ours, "peer": theirs, "ratio": ratio, "machine": limits, "together": together}


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| | ours, tokens/s | TRL, tokens/s | ratio | ours, share of the limit | ours, memory GB | TRL, memory GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for job, row in results["jobs"].items():
        ours, theirs, share = row["ours"], row["peer"], row["share_of_limit"]
        mark = ("" if row["peer_keeps_memory"] else " *") + ("" if row["together"] else " †")
        lines.append(
            f"| {JOBS[job]}{mark} | {ours['tokens_a_second']:.0f} | {theirs['tokens_a_second']:.0f} | "
            f"**{row['ratio']:.2f}** | "
            + (f"{100 * share:.0f} %" if share else "")
            + f" | {ours['peak_memory_gb']:.2f} | {theirs['peak_memory_gb']:.2f} |"
        )
    if not all(row["peer_keeps_memory"] for row in results["jobs"].values()):
        lines += ["", "\\* TRL returned its memory to the system."]
    if not all(row["together"] for row in results["jobs"].values()):
        lines += ["", "† One program after the other: both did not fit in memory."]
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Ratios as bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    jobs = list(results["jobs"])[::-1]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(jobs) + 1.2), layout="constrained")
    ratios = [results["jobs"][job]["ratio"] for job in jobs]
    bars = axes.barh([JOBS[job] for job in jobs], ratios, color="#1f6f8b")
    axes.bar_label(bars, [f"{ratio:.1f} x" for ratio in ratios], padding=4)
    axes.axvline(1, color="#888", linestyle="--", linewidth=1)
    axes.set_xlabel("tokens a second, in units of TRL's")
    axes.set_xlim(0, max(ratios) * 1.15)
    axes.set_ylim(-0.7, len(jobs) - 0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the jobs asked for; results of the others are kept."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # a trainer would take them all
    usual = ON_GPU if machine.on_gpu() else ON_CPU
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=Path, default=HERE.parent / "peers", help="where the peers' environments are")
    parser.add_argument("--only", nargs="*", default=usual, choices=list(JOBS), metavar="JOB")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--peers-return-memory", action="store_true", help="as they do where nobody tells them to keep it"
    )
    arguments = parser.parse_args()

    target = HERE.parent / ("speed-gpu.json" if machine.on_gpu() else "speed.json")
    results = json.loads(target.read_text()) if target.exists() else {"jobs": {}}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            size, _, job = name.rpartition("/")
            models = make_models(size, Path(folder))
            kept = machine.on_gpu() or not (arguments.peers_return_memory or name in TOO_LARGE)
            try:
                row = compare(job, arguments.peers, models, arguments.repetitions, kept) | {"peer_keeps_memory": kept}
            except JobFailedError as error:
                failed.append(name)
                print(f"{name}: {error}", flush=True)
                continue
            share = machine.share_of_limit(
                job, row["ours"]["tokens_a_second"], row["machine"], models.body, models.head
            )
            results["jobs"][name] = row | {"share_of_limit": share}
            results["jobs"] = {name: results["jobs"][name] for name in JOBS if name in results["jobs"]}
            target.write_text(json.dumps(results, indent=2) + "\n")
            target.with_suffix(".md").write_text(table(results))
            draw(results, target.with_suffix(".png"))
            print(name, row, flush=True)
    print(table(results))
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
