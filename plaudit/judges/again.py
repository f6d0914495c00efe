"""What a judge has said before of the same samples, so that it is not asked again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plaudit.config import Config
from plaudit.judgments import REUSED
from plaudit.workspace import Workspace


def judged_before(
    workspace: Workspace, config: Config, parents: Mapping[str, str], data: Mapping[str, Any]
) -> dict[str, str]:
    """Annotator or model -> the newest complete run in which the same one judged these samples itself.

    The same is one of the same name whose settings, and all that its judgments depend on, were these.

    parents, data   of the run that would be made
    """
    found: dict[str, str] = {}
    for run in workspace.runs("judge"):
        if run.status != "complete" or run.parents["samples"] != parents["samples"] or run.info["data"] != data:
            continue
        own = set(config.judge.names) - set(run.info.get(REUSED, {}))
        then = run.config()
        found |= {
            name: run.name for name in own if _depends(then, run.parents, name) == _depends(config, parents, name)
        }
    return {name: run for name, run in found.items() if _depends(config, parents, name) is not None}


def _depends(config: Config, parents: Mapping[str, str], name: str) -> tuple[Any, ...] | None:
    """What the judgments of one of a run's judges depend on; None where it has none of that name."""
    judge = config.judge
    for annotator in judge.annotators:
        if annotator.name == name:
            together = judge.annotators if judge.agreement is not None else None  # their noise is scaled together
            liked = (judge.utility, judge.guideline_preference, parents.get("utility"))
            return annotator, config.seed, judge.form, liked, judge.agreement, together
    for model in judge.models:
        if model.name == name:
            settings = model.model_dump(exclude={"at_once", "source"})
            return settings, parents.get(f"model {name}"), config.seed, config.model
    return None
