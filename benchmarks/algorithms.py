"""Every online algorithm and DPO on the quickstart's task, from one policy, with the same number of episodes.

    plaudit quickstart --workspace W
    python benchmarks/algorithms.py W

Each entrant starts from W's fine-tuned policy and sees W's reward model and training prompts for the same 320
responses in 40 optimiser steps; DPO sees the comparisons that the reward model was trained on. All are judged on the
held-out prompts against the fine-tuned policy. Entrants that are complete in W are kept, so the study can be stopped
and gone on with. Writes algorithms.json, algorithms.md and algorithms.png beside this file. About an hour on two
cores; run nothing beside it, for the seconds are compared.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import plaudit
from plaudit import Config, Run, Workspace

HERE = Path(__file__).parent
EPISODES, STEPS = 320, 10
GROUP = ["rl.samples_per_prompt=4", "rl.prompts_per_step=8"]
COMMON = [
    f"rl.steps={STEPS}", "rl.kl_coefficient=0.1", "rl.policy=sft-001", "rl.reward=reward-001", "rl.anyway=true",
]  # fmt: skip

ENTRANTS: dict[str, list[str]] = {
    "PPO": ["rl.algorithm=ppo"],
    "RLOO": ["rl.algorithm=rloo", *GROUP],
    "GRPO": ["rl.algorithm=grpo", *GROUP],
    "P3O, separate clipping": ["rl.algorithm=p3o", *GROUP],
    "REINFORCE, batch baseline": ["rl.algorithm=reinforce"],
    "DPO": ["prefer.policy=sft-001", "prefer.comparisons=[judge-001]", "prefer.batch_size=5",
            "prefer.optimiser.learning_rate=0.0003"],
    "Online DPO": ["rl.algorithm=online-dpo", *GROUP, "rl.online_dpo.beta=0.1"],
    "GSPO": ["rl.algorithm=gspo", *GROUP],
    "CISPO": ["rl.algorithm=cispo", *GROUP],
    "Rejection sampling": [
        "rl.algorithm=rejection", "rl.rejection.rounds=2", "rl.rejection.prompts_per_round=40",
        "rl.rejection.samples_per_prompt=4", "rl.rejection.batch_size=4", "rl.rejection.optimiser.learning_rate=0.0006",
    ],
    "PPO-Lagrangian, short answers": [
        "rl.algorithm=ppo-lagrangian", f"rl.lagrangian.cost=function:{HERE / 'algorithms.py'}:over_twenty_words",
        "rl.lagrangian.threshold=0.1", "rl.lagrangian.rate=0.5",
    ],
    "Best of 4, no training": ["evaluate.best_of=4"],
    "GRPO, as first published": [
        "rl.algorithm=grpo", *GROUP, "rl.grpo={scale_by_std: true, reduction: response_mean}",
        "rl.kl_term=k3",
    ],
    "Rejection sampling, then PPO": [
        "rl.algorithm=rejection-then-ppo", "rl.steps=5", "rl.rejection.rounds=1", "rl.rejection.prompts_per_round=40",
        "rl.rejection.samples_per_prompt=4", "rl.rejection.batch_size=4", "rl.rejection.optimiser.learning_rate=0.0006",
    ],
    "REINFORCE, value baseline": ["rl.algorithm=reinforce", "rl.reinforce.baseline=value"],
    "P3O, joint clipping": ["rl.algorithm=p3o", *GROUP, "rl.p3o.clipping=joint"],
}  # fmt: skip


def over_twenty_words(prompts: list[Any], responses: list[str]) -> list[float]:
    """The cost of the constrained entrant: whether an answer has more than twenty words."""
    return [float(len(response.split()) > 20) for response in responses]


def complete(workspace: Workspace, kind: str, config: Config) -> Run | None:
    """The newest complete run with exactly these settings."""
    found = [run for run in workspace.runs(kind) if run.status == "complete" and run.config() == config]
    return found[-1] if found else None


def policy_of(workspace: Workspace, name: str, changes: list[str]) -> list[Run]:
    """The runs that make the entrant's policy, in order; none for a decoding method."""
    if name.startswith("Best"):
        return []
    if name == "DPO":
        config = workspace.config(overrides=changes)
        return [complete(workspace, "prefer", config) or plaudit.prefer(workspace, config)]
    config = workspace.config(overrides=[*COMMON, *changes])
    if config.rl.algorithm != "rejection-then-ppo":
        return [complete(workspace, "rl", config) or plaudit.rl(workspace, config)]
    for second in workspace.runs("rl"):
        first = second.parents["policy"]
        if second.status == "complete" and first.startswith("rl-") and second.config().rl.steps == config.rl.steps:
            return [workspace.run(first), second]
    second = plaudit.rl(workspace, config)
    return [workspace.run(second.parents["policy"]), second]


def enter(workspace: Workspace, name: str, changes: list[str]) -> dict[str, Any]:
    """Train and judge one entrant; its row of the table."""
    runs = policy_of(workspace, name, changes)
    policy = runs[-1].name if runs else "sft-001"
    decoding = changes if not runs else []
    config = workspace.config(
        overrides=[f"evaluate.policy={policy}", "evaluate.baseline=sft-001", "evaluate.reward=reward-001", *decoding]
    )
    evaluation = complete(workspace, "evaluate", config) or plaudit.evaluate(workspace, config)
    result = evaluation.result
    return {
        "name": name,
        "run": policy,
        "win_rate": result["win_rate"],
        "win_rate_by_reward": result["win_rate_by_reward"],
        "kl": result["kl"],
        "length": result["policy"]["length"]["value"],
        "finished": result["policy"]["finished_rate"]["value"],
        "tone": result["policy"]["tone"]["value"],
        "perplexity_ratio": result["perplexity"]["ratio"]["value"],
        "seconds": round(sum(run.info["seconds"] for run in runs), 1),
        "peak_memory_gb": max((run.info["peak_memory_gb"] for run in runs), default=0.0),
    }


def table(rows: list[dict[str, Any]], baseline: dict[str, float]) -> str:
    """Markdown, best win rate first."""
    fastest = min(row["seconds"] for row in rows if row["seconds"])
    lines = [
        "| | win rate by the guideline preference | by the reward model | KL, nats | tokens | finished | perplexity "
        "| time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["win_rate"]["value"]):
        won, by_reward, kl = row["win_rate"], row["win_rate_by_reward"], row["kl"]
        lines.append(
            f"| {row['name']} | {won['value']:.2f} ({won['low']:.2f} to {won['high']:.2f}) | "
            f"{by_reward['value']:.2f} | "
            + (f"{kl['value']:.2f} | " if kl else "at most 0.64 | ")
            + f"{row['length']:.1f} | {row['finished']:.2f} | x {row['perplexity_ratio']:.2f} | "
            + (f"{row['seconds'] / fastest:.1f} |" if row["seconds"] else "none |")
        )
    lines.append(
        f"| the fine-tuned policy | 0.50 | 0.50 | 0 | {baseline['length']:.1f} | "
        f"{baseline['finished_rate']:.2f} | x 1.00 | |"
    )
    return "\n".join(lines) + f"\n\nTime of training in units of the fastest entrant's, {EPISODES} responses each.\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Win rate with interval by entrant, and win rate against the root of KL."""
    ordered = sorted(rows, key=lambda row: row["win_rate"]["value"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.5), width_ratios=[1.35, 1], layout="constrained")
    for place, row in enumerate(ordered):
        won = row["win_rate"]
        left.plot([won["low"], won["high"]], [place, place], color="#1f6f8b", linewidth=2)
        left.plot(won["value"], place, "o", color="#1f6f8b")
        left.plot(row["win_rate_by_reward"]["value"], place, "D", color="#c4643b", markersize=5)
    rank = {row["name"]: len(ordered) - place for place, row in enumerate(ordered)}
    left.set_yticks(range(len(ordered)), [f"{row['name']}   {rank[row['name']]:2d}" for row in ordered])
    left.axvline(0.5, color="#888", linestyle="--", linewidth=1)
    left.set_xlabel(
        "win rate on held-out prompts\n(dot with 95 % interval: by the guideline preference; "
        "diamond: by the reward model)"
    )
    known = [row for row in rows if row["kl"]]
    for row in known:
        x, won = max(0.0, row["kl"]["value"]) ** 0.5, row["win_rate"]
        right.errorbar(
            x, won["value"], yerr=[[won["value"] - won["low"]], [won["high"] - won["value"]]], fmt="o",
            color="#1f6f8b", alpha=0.75, linewidth=1,
        )  # fmt: skip
        right.annotate(str(rank[row["name"]]), (x, won["value"]), (5, 4), textcoords="offset points", fontsize=8)
    right.axhline(0.5, color="#888", linestyle="--", linewidth=1)
    right.set_xlabel("√KL from the fine-tuned policy (√nats a response)\nnumbers as on the left")
    right.set_ylabel("win rate by the guideline preference")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what is missing and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--only", nargs="*", default=list(ENTRANTS), choices=list(ENTRANTS), metavar="ENTRANT")
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    rows: list[dict[str, Any]] = []
    for name in arguments.only:
        rows.append(enter(workspace, name, ENTRANTS[name]))
        baseline = workspace.runs("evaluate")[-1].result["baseline"]
        means = {key: baseline[key]["value"] for key in ("length", "finished_rate")}
        (HERE / "algorithms.json").write_text(json.dumps({"entrants": rows, "fine_tuned": means}, indent=2) + "\n")
        (HERE / "algorithms.md").write_text(table(rows, means))
        draw(rows, HERE / "algorithms.png")
    print((HERE / "algorithms.md").read_text())


if __name__ == "__main__":
    main()
