"""The numbers of a chain of runs, from data to evaluation, in one flat dictionary."""

from __future__ import annotations

from typing import Any

from plaudit.errors import WorkspaceError
from plaudit.methods import METRICS
from plaudit.workspace import Run, Workspace


def lineage(workspace: Workspace, run: Run) -> list[Run]:
    """Every run that `run` was made from, and itself, parents first."""
    known = {r.name: r for r in workspace.runs()}
    ordered: dict[str, Run] = {}

    def visit(current: Run) -> None:
        for parent in sorted({*current.parents.values(), *current.sources.names}):
            if parent in known and parent not in ordered:
                visit(known[parent])
        ordered[current.name] = current

    visit(run)
    return list(ordered.values())


def summarise(workspace: Workspace, evaluation: Run) -> dict[str, Any]:
    """What `summary.json` holds; every figure comes from a run of the evaluation's lineage.

    reward_accuracy, win_rate, ... are {value, low, high, n} with 95 % intervals; kl in nats a response;
    lengths in tokens; seconds by stage; peak_memory_gb the most any of them held, in units of 1e9 bytes.
    A figure whose stage is not in the lineage is null.
    """
    _check_figures(evaluation)
    runs = lineage(workspace, evaluation)
    by_kind = {run.kind: run for run in runs}
    result = evaluation.result
    quality = by_kind["reward"].result if "reward" in by_kind else {}
    agreements = [run.result["agreement"] for run in runs if run.kind == "judge" and run.result.get("agreement")]
    perplexity = result["perplexity"]
    seconds: dict[str, float] = {}
    for run in runs:
        seconds[run.kind] = round(seconds.get(run.kind, 0.0) + run.info.get("seconds", 0.0), 2)
    return {
        "seed": evaluation.info["seed"],
        "reward_accuracy": quality.get("accuracy"),
        "reward_accuracy_ceiling": quality.get("ceiling"),
        "reward_accuracy_longer_wins": quality.get("longer_wins"),
        "reward_calibration_error": quality.get("calibration_error"),
        "reward_temperature": quality.get("temperature"),
        "win_rate": result["win_rate"],
        "win_rate_by_reward": result["win_rate_by_reward"],
        "kl": result["kl"],
        "mean_length": {"before": result["baseline"]["length"], "after": result["policy"]["length"]},
        "finished_rate": {"before": result["baseline"]["finished_rate"], "after": result["policy"]["finished_rate"]},
        **{name: _before_and_after(result.get(name)) for name in METRICS},
        "perplexity": {"before": perplexity["baseline"], "after": perplexity["policy"]},
        "perplexity_ratio": perplexity.get("ratio"),
        "agreement": agreements[-1] if agreements else None,
        "judgments": quality.get("train_judgments"),
        "judgments_by_people": quality.get("train_judgments_by_people", 0),
        "seconds": seconds,
        "peak_memory_gb": max(run.info.get("peak_memory_gb", 0.0) for run in runs),
        "runs": [run.name for run in runs],
        "versions": evaluation.info["versions"],
    }


def _before_and_after(sides: dict[str, Any] | None) -> dict[str, Any] | None:
    return {"before": sides["baseline"], "after": sides["policy"]} if sides else None


def _check_figures(evaluation: Run) -> None:
    """Raise WorkspaceError for a result that somebody has cut."""
    result = evaluation.result
    missing = [
        name for name in ("win_rate", "perplexity", "policy", "baseline") if not isinstance(result.get(name), dict)
    ]
    missing += [name for name in ("win_rate_by_reward", "kl") if name not in result]
    if missing:
        raise WorkspaceError(
            f"{evaluation.path / 'run.json'} is damaged: `{missing[0]}` is not in the result of {evaluation.name}. "
            "Restore it, or evaluate again."
        )
