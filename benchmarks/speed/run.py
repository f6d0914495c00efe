"""Plaudit against a peer, job by job, turn by turn on one machine; and against what the machine can do.

    make bench        (or: python benchmarks/speed/run.py --only JOB ...)

Both programs of a job are started and warmed up, and then take turns: one repetition each, while the other waits, and
where it is a single step one before it that does not count. Where memory is too short for both, they run one after the
other. What is compared is the median. A job that fails is told at the end, and keeps no other from being measured. Run
nothing beside it.
Writes speed.json, speed.md and speed.png beside this file's parent.
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
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

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
JOBS |= {f"10M/{job}": f"{name} (10M)" for job, name in JOBS.items() if ":lora" not in job}
PEERS = {"ppo": "ppo"}
"""Environments under peers/ by kind of job; "trl" for the others."""
SMALL = {
    "hidden_size": 160, "intermediate_size": 448, "num_hidden_layers": 8, "num_attention_heads": 5,
    "num_key_value_heads": 5,
}  # fmt: skip
"""A Llama of 10 million weights with SmolLM2's vocabulary, its weights drawn at random."""


KEPT = {
    "MALLOC_MMAP_THRESHOLD_": "68719476736",
    "MALLOC_TRIM_THRESHOLD_": "68719476736",
    "MALLOC_TOP_PAD_": "268435456",
}
"""By these a peer's C library keeps what it has freed, as Plaudit tells its own to; few know to ask for it."""
SHORT = ("sft", "reward", "dpo")
"""Kinds of job whose repetition is a single step: of those of a turn the first does not count, for which caches are
filled again that the other program has had."""
TOO_LARGE = ("ppo",)
"""Jobs whose peer returns its memory all the same: with what it keeps, 15 GB, the two programs do not fit in 24 GiB."""
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

    def __init__(self, program: Program, models: tuple[str, str]):
        self.process = subprocess.Popen(
            [program.python, str(HERE / program.script), program.job, *models], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | (program.environment or {}),
        )  # fmt: skip
        self.seconds: list[float] = []
        self.tokens: list[float] = []
        self.peak_memory_gb = 0.0

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
        }


@contextmanager
def watched(workers: list[Worker]) -> Iterator[None]:
    """Within, workers are ended when memory runs short. Raises MemoryShortError then; leaves none running."""
    short, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(WATCHED):
            if available_memory() < LEAST_MEMORY:
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


def available_memory() -> float:
    """GB that programs may still take."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


def take_turns(
    programs: list[Program], models: tuple[str, str], repetitions: int
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
    machine = {kind: statistics.median(one[kind] for one in measured) for kind in measured[0]}
    return [worker.result() for worker in workers], machine


def compare(job: str, peers: Path, models: tuple[str, str], repetitions: int, kept: bool) -> dict[str, Any]:
    """Both programs, in turn."""
    peer = peers / PEERS.get(job.partition(":")[0], "trl") / "bin" / "python"
    programs = [
        Program(sys.executable, "ours.py", job), Program(str(peer), "peer.py", job, KEPT if kept else {})
    ]  # fmt: skip
    together = True
    try:
        (ours, theirs), machine = take_turns(programs, models, repetitions)
    except MemoryShortError as error:
        print(f"{job}: {error}, so the programs run one after the other.", flush=True)
        together = False
        ((ours,), machine), ((theirs,), _) = (take_turns([program], models, repetitions) for program in programs)
    ratio = round(ours["tokens_a_second"] / theirs["tokens_a_second"], 2)
    return {"ours": ours, "peer": theirs, "ratio": ratio, "machine": machine, "together": together}


def limits() -> dict[str, float]:
    """What this machine can do: bfloat16 matrix products, and copying memory."""
    import torch

    def best(work: Any, times: int) -> float:
        work()
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    square = torch.randn(2048, 2048).bfloat16()
    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    return {
        "matmul_gflops": round(2 * 2048**3 / best(lambda: square @ square, 10) / 1e9),
        "memory_gb_a_second": round(2 * 4 * len(source) / best(lambda: target.copy_(source), 6) / 1e9, 1),
    }


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
            + f" | {ours['peak_memory_gb']:.1f} | {theirs['peak_memory_gb']:.1f} |"
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
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def make_models(size: str, folder: Path, *, seed: int = 0) -> tuple[tuple[str, str], float, float]:
    """((model, reward model), weights of the body, weights of the head).

    The embedding is the head, and costs nothing.
    """
    from plaudit.config import ModelSettings
    from plaudit.models.loading import BUILT_IN, _resolve, load_causal, reward_from_causal, save_reward
    from plaudit.models.score_facts import ScoreFacts

    source = _resolve(BUILT_IN)
    if size:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        config = AutoConfig.from_pretrained(source)
        config.update(SMALL | {"head_dim": SMALL["hidden_size"] // SMALL["num_attention_heads"]})
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "small")
        AutoTokenizer.from_pretrained(source).save_pretrained(folder / "small")
        source = str(folder / "small")
    settings = ModelSettings(name=source)
    causal = load_causal(source, settings)
    reward = reward_from_causal(causal, seed=0)
    target = folder / f"{size}reward"
    if not target.exists():
        save_reward(reward.network, reward, target, ScoreFacts())
    head = causal.network.head.weight.numel()
    return (source, str(target)), float(sum(p.numel() for p in causal.network.body.parameters()) - head), float(head)


def main() -> None:
    """Run the jobs asked for; results of the others are kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=Path, default=HERE.parent / "peers", help="where the peers' environments are")
    parser.add_argument("--only", nargs="*", default=list(JOBS), choices=list(JOBS), metavar="JOB")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--peers-return-memory", action="store_true", help="as they do where nobody tells them to keep it"
    )
    arguments = parser.parse_args()

    target = HERE.parent / "speed.json"
    results = json.loads(target.read_text()) if target.exists() else {"jobs": {}}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            size, _, job = name.rpartition("/")
            models, body, head = make_models(size, Path(folder))
            kept = not arguments.peers_return_memory and name not in TOO_LARGE
            try:
                row = compare(job, arguments.peers, models, arguments.repetitions, kept) | {"peer_keeps_memory": kept}
            except JobFailedError as error:
                failed.append(name)
                print(f"{name}: {error}", flush=True)
                continue
            share = share_of_limit(job, row["ours"]["tokens_a_second"], row["machine"], body, head)
            results["jobs"][name] = row | {"share_of_limit": share}
            results["jobs"] = {name: results["jobs"][name] for name in JOBS if name in results["jobs"]}
            target.write_text(json.dumps(results, indent=2) + "\n")
            (HERE.parent / "speed.md").write_text(table(results))
            draw(results, HERE.parent / "speed.png")
            print(name, row, flush=True)
    print(table(results))
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
