"""Commands about judges: beside people, how good they are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from plaudit.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceOption, group, open_workspace, show
from plaudit.errors import DataError, nearest

judges_app = group("Judges of any kind beside people.")


@judges_app.command("compare")
def compare(
    judges: Annotated[
        list[str] | None, typer.Option("--judge", help="Judge to compare; all models if none is given.")
    ] = None,
    people: Annotated[
        list[str] | None, typer.Option("--people", help="Annotator to compare with; all people if none is given.")
    ] = None,
    own_run: Annotated[
        str | None,
        typer.Option(
            "--own-run", help="Run that sampled from the judge itself, to test whether it prefers its own answers."
        ),
    ] = None,
    epsilon: Annotated[
        float,
        typer.Option(
            "--epsilon",
            min=0,
            max=1,
            help="Margin by which a judge may agree less than people do: 0.1 for a crowd, 0.2 for experts.",
        ),
    ] = 0.1,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """How far judges agree with people, beside people among themselves, and whether they could stand in for them.

    On the pairs that both judged by the same criterion: agreement with intervals, whether they like length or their own
    answers more than people do, whether they say the same twice, how well soft labels are calibrated, and the test of
    replacement of Calderon, Reichart and Dror 2025.
    """
    from plaudit.evaluation.judge_quality import judge_quality
    from plaudit.judgments import KINDS, PEOPLE
    from plaudit.reporting.text import result_lines

    opened = open_workspace(workspace)
    kinds = {annotator.name: annotator.kind for annotator in opened.store.annotators()}
    for name in [*(judges or []), *(people or [])]:
        if name not in kinds:
            raise DataError(f"there is no annotator `{name}`.{nearest(name, kinds)}")
    named = judges or sorted(name for name, kind in kinds.items() if kind == "model")
    asked = people or sorted(name for name, kind in kinds.items() if KINDS[kind] == PEOPLE)
    if not named:
        raise DataError("no model has judged here yet: set judge.models, run `plaudit judge`, or name a --judge.")
    if not asked:
        raise DataError("no person has judged here yet; name others to compare with by --people.")
    comparisons = opened.store.comparisons()
    responses = opened.store.responses()
    lengths = {response.id: len(response.text.split()) for response in responses}
    runs = {response.id: response.run for response in responses}
    own = opened.lineage_name(own_run) if own_run is not None else None
    found: dict[str, Any] = {
        name: judge_quality(comparisons, name, asked, lengths=lengths, runs=runs, own_run=own, epsilon=epsilon)
        for name in named
    }
    spent = _spent(opened, named)
    for name, facts in spent.items():
        found[name] |= facts
    lines = [line for name, quality in found.items() for line in (name, *result_lines(quality))]
    show({"people": asked, "judges": found}, as_json, "\n".join(lines))


def _spent(opened: Any, names: list[str]) -> dict[str, dict[str, Any]]:
    """Order effects, unreadable verdicts and cost of each model, from the newest judge run in which it took part."""
    found: dict[str, dict[str, Any]] = {}
    for run in opened.runs("judge"):
        for name, facts in (run.result.get("models") or {}).items():
            if name in names:
                found[name] = {"run": run.name, **facts}
                cost = (facts.get("spent") or {}).get("cost")
                if cost is not None and facts["judgments"]:
                    found[name]["cost_per_judgment"] = cost / facts["judgments"]
    return found
