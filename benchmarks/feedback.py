"""Whose judgments: the quickstart's task with people of any accuracy, and with models in their place.

    python benchmarks/feedback.py WORK [--only NAME ...] [--seeds N]

accuracy   one annotator who chooses as the guideline preference does, but for a share of choices turned round: 50 (a
           coin), 60,
           70, 80 and 90 % right. All learn from the same samples of the same fine-tuned policy.
recipes    rlaif, direct-rlaif and constitutional-ai as they ship, in workspaces of their own; of the model that judges
           there, how good it is, beside simulated people on the same pairs.

Every policy is judged by the guideline preference on the held-out prompts, against the fine-tuned model. What is
complete in WORK is kept. Writes feedback.json, feedback.md and feedback.png beside this file. About an hour and a half
on two cores.
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
from plaudit import Run, Workspace
from plaudit.config import recipe_file, resolve
from plaudit.evaluation.judge_quality import judge_quality
from plaudit.judges.guideline_preference import utility
from plaudit.statistics.intervals import share
from plaudit.store.database import Store

HERE = Path(__file__).parent
ACCURACIES = (0.5, 0.6, 0.7, 0.8, 0.9)
RECIPES = ("rlaif", "direct-rlaif", "constitutional-ai")
QUICKSTART = "simulated people"
PEOPLE = ("careful", "average", "hasty")


def right_choices(workspace: Workspace, run: str, annotator: str | None = None) -> dict[str, Any] | None:
    """Share of the judgments of a run that are as the guideline preference has it, with interval; without ties and
    equal utilities."""
    store: Store = workspace.store
    responses = {response.id: response for response in store.responses()}
    prompts = {prompt.id: prompt for prompt in store.prompts()}
    guideline_preference = workspace.config().evaluate.guideline_preference
    liked = {
        name: utility(
            prompts[one.prompt_id].text, one.text, finished=one.finished, guideline_preference=guideline_preference
        )
        for name, one in responses.items()
    }
    right, clusters = [], []
    for c in store.comparisons(run):
        gap = liked[c.first] - liked[c.second]
        if c.choice != "tie" and gap and annotator in (None, c.annotator):
            right.append(float((c.choice == "first") == (gap > 0)))
            clusters.append(c.prompt_id)
    return dict(share(right, clusters)) if right else None


def row(workspace: Workspace, runs: list[Run], name: str, seed: int) -> dict[str, Any]:
    """An entrant's line of the table."""
    evaluation = runs[-1]
    by_kind = {run.kind: run for run in runs}
    judged, reward = by_kind.get("judge"), by_kind.get("reward")
    result = evaluation.result
    return {
        "name": name,
        "seed": seed,
        "judgments": sum(len(workspace.store.comparisons(run.name)) for run in runs if run.kind == "judge"),
        "judge_accuracy": right_choices(workspace, judged.name) if judged else None,
        "reward_accuracy": reward.result["accuracy"] if reward else None,
        "win_rate": result["win_rate"],
        "kl": result["kl"],
        "length": result["policy"]["length"]["value"],
        "finished": result["policy"]["finished_rate"]["value"],
        "tone": result["policy"]["tone"]["value"],
        "perplexity_ratio": result["perplexity"]["ratio"]["value"],
        "seconds": sum(run.info["seconds"] for run in runs),
    }


def by_accuracy(work: Path, name: str, seed: int) -> dict[str, Any]:
    """`simulated people`, or `N % right`: a recipe on the samples that all share."""
    workspace, _ = plaudit.quickstart(work / f"accuracy-{seed}", overrides=[f"seed={seed}"])
    changes = [f"seed={seed}"]
    if name != QUICKSTART:
        wrong = 1 - int(name.split()[0]) / 100
        changes.append(f"judge.annotators=[{{name: one, noise: 0.001, flip_rate: {wrong:.2f}}}]")
    return row(workspace, plaudit.run_recipe(workspace, workspace.config(overrides=changes)), name, seed)


def by_recipe(work: Path, name: str, seed: int) -> dict[str, Any]:
    """A shipped recipe, and how good the model is that judges in it."""
    folder = work / (name if seed == 0 else f"{name}-{seed}")
    workspace, _ = plaudit.quickstart(folder, recipe=name, overrides=[f"seed={seed}"])
    runs = plaudit.run_recipe(workspace, workspace.config(overrides=[f"seed={seed}"]))
    found = row(workspace, runs, name, seed)
    if name == "direct-rlaif":
        return found
    judged = [run for run in runs if run.kind == "judge"][-1]
    models = judged.config().judge.models
    people = resolve(recipe_file("quickstart")).judge.annotators
    annotators = json.dumps([one.model_dump() for one in people])
    beside = [f"seed={seed}", f"judge.samples={judged.parents['samples']}", "judge.models=[]",
              f"judge.annotators={annotators}", "recipe.stages=[judge]"]  # fmt: skip
    (of_people,) = plaudit.run_recipe(workspace, workspace.config(overrides=beside))
    responses = workspace.store.responses()
    comparisons = [c for run in (judged, of_people) for c in workspace.store.comparisons(run.name)]
    quality = judge_quality(
        comparisons, models[0].name, PEOPLE, runs={r.id: r.run for r in responses},
        lengths={r.id: len(r.text.split()) for r in responses},
    )  # fmt: skip
    found["judge"] = quality | judged.result["models"][models[0].name] | {
        "accuracy": right_choices(workspace, judged.name, models[0].name)
    }  # fmt: skip
    first = next(run for run in runs if run.kind == "evaluate")
    if first.name != runs[-1].name:
        found["supervised_part"] = first.result["win_rate"]
    return found


def interval(found: dict[str, float] | None) -> str:
    """As in the tables."""
    return "" if not found else f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| whose judgments | seed | judgments | right by the guideline preference | reward model, held-out judgments | "
        "win rate by the guideline preference | KL, nats | tokens | finished | tone | perplexity |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['name']} | {r['seed']} | {r['judgments'] or ''} | {interval(r['judge_accuracy'])} | "
        f"{interval(r['reward_accuracy'])} | {interval(r['win_rate'])} | {r['kl']['value']:.2f} | {r['length']:.1f} | "
        f"{r['finished']:.2f} | {r['tone']:.2f} | x {r['perplexity_ratio']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Win rate against how often the judgments are right."""
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for r in rows:
        right, won = r["judge_accuracy"], r["win_rate"]
        if right is None:
            continue
        one = r["name"] in RECIPES
        axes.errorbar(
            right["value"], won["value"], yerr=[[won["value"] - won["low"]], [won["high"] - won["value"]]], capsize=2,
            fmt="D" if one else "o", color="#c4643b" if one else "#1f6f8b", linewidth=1.2,
        )  # fmt: skip
        text = r["name"] if one or r["name"] == QUICKSTART else ""
        axes.annotate(text, (right["value"], won["value"]), (6, 6), textcoords="offset points", fontsize=8)
    axes.axhline(0.5, color="#888", linestyle="--", linewidth=1)
    axes.set_xlabel("share of judgments that are as the guideline preference would have them")
    axes.set_ylabel("win rate of the policy by the guideline preference\n(held-out prompts, 95 % interval)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run what is missing and write the results."""
    names = [QUICKSTART, *(f"{round(100 * a)} % right" for a in ACCURACIES), *RECIPES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="*", default=names, choices=names, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    kept = HERE / "feedback.json"
    rows: dict[str, dict[str, Any]] = {}
    if kept.exists():
        rows = {f"{r['name']} {r['seed']}": r for r in json.loads(kept.read_text())}
    for seed in range(given.seeds):
        for name in given.only:
            make = by_recipe if name in RECIPES else by_accuracy
            rows[f"{name} {seed}"] = make(given.work, name, seed)
            ordered = sorted(rows.values(), key=lambda r: (names.index(r["name"]), r["seed"]))
            kept.write_text(json.dumps(ordered, indent=1) + "\n")
            (HERE / "feedback.md").write_text(table(ordered))
            draw(ordered, HERE / "feedback.png")
    print((HERE / "feedback.md").read_text())


if __name__ == "__main__":
    main()
