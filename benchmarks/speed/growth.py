"""How Plaudit's cost grows with tokens, rows and model size; and what the options of training buy.

    python benchmarks/speed/growth.py [growth|options]

Best of three within one process for growth, of fewer where they take long; the options take turns as programs, as in
run.py. Writes growth.json, growth.md and growth.png (on a GPU growth-gpu.json and so on) beside this file's parent;
with an argument that part is measured anew and the other is kept. Run nothing beside it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
from models import make_causal, make_models
from run import HERE, Program, take_turns

LENGTHS = (128, 256, 512, 1024, 2048)
ROWS = (1, 4, 16, 64, 256)
SIZES = ("10M", "34M", "135M", "360M")
OPTIONS = ("", "+checkpointing", "+compile")


def best(work: Callable[[], None], times: int = 3, enough: float = 12.0) -> float:
    """Seconds of the fastest of three, or of as many as fit; after one run that does not count."""
    work()
    seconds: list[float] = []
    while len(seconds) < times and sum(seconds) < enough:
        machine.finish()
        start = time.perf_counter()
        work()
        machine.finish()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure() -> dict[str, dict[str, float]]:
    """Tokens a second."""
    import torch

    from plaudit.config import LoraSettings, ModelSettings, OptimiserSettings
    from plaudit.models.loading import BUILT_IN, load_causal
    from plaudit.models.network import make_trainable
    from plaudit.sampling.in_process import sample
    from plaudit.text.chat import Stops, TokenSequence
    from plaudit.training.steps.optimiser import Optimiser
    from plaudit.training.steps.supervised import likelihood_step

    def rows(count: int, length: int) -> list[TokenSequence]:
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(100, 40_000, (count, length), generator=draw).tolist()
        return [TokenSequence(one[: length // 4], one[length // 4 :]) for one in ids]

    def step_rate(model: Any, count: int, length: int) -> float:
        policy = make_trainable(model.network, LoraSettings(rank=16, targets="attention"), role="policy", seed=0)
        optimiser = Optimiser(policy, OptimiserSettings(learning_rate=1e-6), 100)
        data = rows(count, length)
        return count * length / best(lambda: likelihood_step(policy, optimiser, data, budget=2048))

    found: dict[str, dict[str, float]] = {"length": {}, "batch": {}, "sampling": {}, "size": {}, "sampling_size": {}}
    for length in LENGTHS:
        found["length"][str(length)] = step_rate(load_causal(BUILT_IN, ModelSettings()), 4096 // length or 1, length)
    for count in ROWS:
        found["batch"][str(count)] = step_rate(load_causal(BUILT_IN, ModelSettings()), count, 128)

    def sampling_rate(network: Any, count: int) -> float:
        prompts = [one.prompt_ids + one.response_ids for one in rows(count, 24)]
        stops = Stops(frozenset())

        def run() -> None:
            sample(network, prompts, stops=stops, max_new_tokens=32, seed=0, sequences_per_batch=count)

        return 32 * count / best(run)

    network = load_causal(BUILT_IN, ModelSettings()).network
    for count in ROWS:
        found["sampling"][str(count)] = sampling_rate(network, count)
    with tempfile.TemporaryDirectory() as folder:
        for name in SIZES:
            model = load_causal(make_causal(name, Path(folder), dtype=torch.bfloat16), ModelSettings())
            found["size"][name] = step_rate(model, 8, 128)
            found["sampling_size"][name] = sampling_rate(model.network, 64)
    return found


TITLES = {
    "length": "Training step of 4,096 tokens, by their sequences' length",
    "batch": "Training step, by sequences of 128 tokens",
    "sampling": "Sampling, by rows side by side",
    "size": "Training step of 8 sequences of 128 tokens, by weights",
    "sampling_size": "Sampling, 64 rows, by weights",
}


def draw(found: dict[str, dict[str, float]], path: Path) -> None:
    """One small plot each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(17, 3.4), layout="constrained")
    for place, (name, rates) in zip(axes, found.items(), strict=True):
        place.plot(list(rates), list(rates.values()), marker="o", color="#1f6f8b")
        place.set_ylim(0, max(rates.values()) * 1.15)
        place.set_title(TITLES[name].replace(", by", ",\nby").replace(" of 128", "\nof 128"), fontsize=9)
        place.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("tokens a second")
    figure.savefig(path, dpi=110)


def table(found: dict[str, dict[str, float]], options: dict[str, Any]) -> str:
    """Markdown."""
    lines = []
    for name, rates in found.items():
        lines += [f"| {TITLES[name]} | " + " | ".join(rates) + " |", "|" + "---|" * (len(rates) + 1)]
        lines += ["| tokens a second | " + " | ".join(f"{rate:.0f}" for rate in rates.values()) + " |", ""]
    lines += ["| Option | tokens a second | against plain | memory GB |", "|---|---|---|---|"]
    for job, row in options.items():
        plain = options[job.partition("+")[0]]
        rate = row["tokens_a_second"]
        ratio = f"{rate / plain['tokens_a_second']:.2f}"
        lines.append(f"| {job} | {rate:.0f} | {ratio} | {row['peak_memory_gb']:.1f} |")
    return "\n".join(lines) + "\n"


def measure_options() -> dict[str, Any]:
    """Tokens a second and memory, with and without each option."""
    with tempfile.TemporaryDirectory() as folder:
        models = make_models("", Path(folder))
        jobs = [job + option for job in ("sft", "sft:lora") for option in OPTIONS]
        results: list[Any] = []
        for start in range(0, len(jobs), len(OPTIONS)):
            own = jobs[start : start + len(OPTIONS)]
            results += take_turns([Program(sys.executable, "ours.py", name) for name in own], models, 5)[0]
        return dict(zip(jobs, results, strict=True))


def main() -> None:
    """Measure and write."""
    target = HERE.parent / ("growth-gpu.json" if machine.on_gpu() else "growth.json")
    kept = json.loads(target.read_text()) if target.exists() else {}
    parts = sys.argv[1:] or ["growth", "options"]
    for part, work in (("growth", measure), ("options", measure_options)):
        if part in parts:
            kept[part] = work()
            target.write_text(json.dumps(kept, indent=2) + "\n")
    if {"growth", "options"} <= kept.keys():
        target.with_suffix(".md").write_text(table(kept["growth"], kept["options"]))
        draw(kept["growth"], target.with_suffix(".png"))
        print(table(kept["growth"], kept["options"]))


if __name__ == "__main__":
    main()
