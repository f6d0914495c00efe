"""Does bfloat16 with float32 masters learn what float32 learns? Loss curves of both, seed by seed.

    python benchmarks/precision.py

A Llama of 10 million weights learns to predict the prose that ships with Plaudit: 200 steps from random weights, once
all in float32 and once in bfloat16, from the same start on the same batches, for three seeds. Within a seed only the
precision differs; between seeds start and order do. Writes precision.json, precision.md and precision.png.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "speed"))
from run import HERE, make_models

from plaudit.config import ModelSettings, OptimiserSettings
from plaudit.models.loading import load_causal
from plaudit.models.network import make_trainable
from plaudit.text.batches import draw_without_replacement
from plaudit.text.chat import TokenSequence
from plaudit.training.step import Optimiser
from plaudit.training.supervised import likelihood_step

STEPS, BATCH, LENGTH, SEEDS = 200, 4, 64, 3
OPTIMISER = OptimiserSettings(learning_rate=1e-3, schedule="cosine", warmup_share=0.05)


def curve(dtype: str, seed: int, folder: Path) -> list[float]:
    """Training loss of each step, nats a token."""
    settings = ModelSettings(dtype=dtype, lora=None)  # type: ignore[arg-type]
    (source, _), _, _ = make_models("10M", folder, seed=seed)
    model = load_causal(source, settings)
    lines = (HERE.parents[1] / "plaudit" / "data" / "prose.jsonl").read_text().splitlines()
    ids = [i for line in lines for i in model.format.tokenizer(json.loads(line)["text"])["input_ids"]]
    pieces = [TokenSequence(ids[i : i + 1], ids[i + 1 : i + LENGTH]) for i in range(0, len(ids) - LENGTH, LENGTH)]
    policy = make_trainable(model.network, None, role="policy", seed=seed)
    optimiser = Optimiser(policy, OPTIMISER, STEPS)
    losses = []
    for step in range(STEPS):
        drawn = draw_without_replacement(len(pieces), BATCH, step, seed=seed)
        losses.append(likelihood_step(policy, optimiser, [pieces[i] for i in drawn], budget=2048)[0])
    return losses


def main() -> None:
    """Run, write and draw."""
    curves: dict[str, list[list[float]]] = {"float32": [], "bfloat16": []}
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            for dtype, found in curves.items():
                found.append(curve(dtype, seed, Path(folder)))
                print(dtype, seed, round(statistics.mean(found[-1][-20:]), 4), flush=True)
    last = {dtype: [statistics.mean(losses[-20:]) for losses in found] for dtype, found in curves.items()}
    between_precisions = [abs(a - b) for a, b in zip(*last.values(), strict=True)]
    along = [max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in zip(*curves.values(), strict=True)]
    between_seeds = statistics.stdev(last["float32"])
    rows = [
        "| seed | float32 | bfloat16, float32 masters | difference | largest difference of a step |",
        "|---|---|---|---|---|",
    ]
    for seed in range(SEEDS):
        one, other = last["float32"][seed], last["bfloat16"][seed]
        rows.append(f"| {seed} | {one:.4f} | {other:.4f} | {other - one:+.4f} | {along[seed]:.4f} |")
    text = "\n".join(rows) + (
        f"\n\nLoss of the last 20 of {STEPS} steps, nats a token. Standard deviation between seeds "
        f"{between_seeds:.4f}; mean difference between precisions {statistics.mean(between_precisions):.4f}.\n"
    )
    target = Path(__file__).parent
    (target / "precision.json").write_text(json.dumps({"curves": curves, "last": last}) + "\n")
    (target / "precision.md").write_text(text)
    print(text)

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for seed in range(SEEDS):
        for dtype, colour, style in (("float32", "#888", "-"), ("bfloat16", "#1f6f8b", "--")):
            label = dtype if seed == 0 else None
            axes.plot(curves[dtype][seed], color=colour, linestyle=style, linewidth=1, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a token")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target / "precision.png", dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
