"""Does bfloat16 with float32 masters learn what float32 learns? Loss curves of both, seed by seed.

    python benchmarks/precision.py

A Llama of 10 million weights learns to predict the prose that ships with Plaudit: 200 steps from random weights, for
three seeds: in float32, in float32 from a start whose weights are moved by 0.1 % each, and in bfloat16. The second
shows how far two runs come apart whose only difference is as large as a rounding to bfloat16. Writes precision.json,
precision.md and precision.png.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "speed"))
from models import make_models
from run import HERE

from plaudit.config import ModelSettings, OptimiserSettings
from plaudit.models.loading import load_causal
from plaudit.models.network import make_trainable
from plaudit.text.batches import draw_without_replacement
from plaudit.text.chat import TokenSequence
from plaudit.training.steps.optimiser import Optimiser
from plaudit.training.steps.supervised import likelihood_step

STEPS, BATCH, LENGTH, SEEDS, MOVED = 200, 4, 64, 3, 1e-3
OPTIMISER = OptimiserSettings(learning_rate=1e-3, schedule="cosine", warmup_share=0.05)
RUNS = {"float32": ("float32", 0.0), "float32, moved": ("float32", MOVED), "bfloat16": ("bfloat16", 0.0)}
STYLES = {"float32": ("#888", "-"), "float32, moved": ("#c98b2e", ":"), "bfloat16": ("#1f6f8b", "--")}


def curve(dtype: str, moved: float, seed: int, folder: Path) -> list[float]:
    """Training loss of each step, nats a token."""
    settings = ModelSettings(dtype=dtype, lora=None)  # type: ignore[arg-type]
    source = make_models("10M", folder, seed=seed).causal
    model = load_causal(source, settings)
    generator = torch.Generator().manual_seed(seed)
    if moved:
        weights = [*model.network.body.parameters(), *model.network.head.parameters()]
        for weight in {id(w): w for w in weights}.values():
            weight.data.mul_(1 + moved * torch.randn(weight.shape, generator=generator).to(weight.device))
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
    curves: dict[str, list[list[float]]] = {name: [] for name in RUNS}
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            for name, (dtype, moved) in RUNS.items():
                curves[name].append(curve(dtype, moved, seed, Path(folder)))
                print(name, seed, round(statistics.mean(curves[name][-1][-20:]), 4), flush=True)
    last = {name: [statistics.mean(losses[-20:]) for losses in found] for name, found in curves.items()}
    apart = {
        name: [found - plain for found, plain in zip(last[name], last["float32"], strict=True)]
        for name in ("float32, moved", "bfloat16")
    }
    rows = ["| seed | float32 | float32, start moved by 0.1 % | bfloat16, float32 masters |", "|---|---|---|---|"]
    for seed in range(SEEDS):
        cells = " | ".join(f"{last[name][seed]:.3f} ({apart[name][seed]:+.3f})" for name in apart)
        rows.append(f"| {seed} | {last['float32'][seed]:.3f} | {cells} |")
    means = " | ".join(f"{statistics.mean(last[name]):.3f} ({statistics.mean(apart[name]):+.3f})" for name in apart)
    rows.append(f"| mean | {statistics.mean(last['float32']):.3f} | {means} |")
    text = "\n".join(rows) + f"\n\nLoss of the last 20 of {STEPS} steps, nats a token; the difference to float32.\n"
    target = Path(__file__).parent
    (target / "precision.json").write_text(json.dumps({"curves": curves, "last": last}) + "\n")
    (target / "precision.md").write_text(text)
    print(text)

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, SEEDS, figsize=(10, 3.2), layout="constrained", sharey=True)
    for seed, axes in enumerate(panels):
        for name, (colour, style) in STYLES.items():
            axes.plot(curves[name][seed], color=colour, linestyle=style, linewidth=1, label=name)
        axes.set_title(f"seed {seed}", fontsize=10)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("loss, nats a token")
    panels[0].legend(frameon=False)
    figure.savefig(target / "precision.png", dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
