"""Judgments as stages and figures read them: those that count, one of each annotator on the same, and of what kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from plaudit.progress import say
from plaudit.records import Comparison, Label, is_named
from plaudit.references import LATEST, SNAPSHOT, parse
from plaudit.references import is_of as is_reference
from plaudit.store import Store
from plaudit.workspace import Workspace

PEOPLE, MODELS, SIMULATED = "people", "models", "simulated annotators"
KINDS = {"person": PEOPLE, "imported": PEOPLE, "model": MODELS, "simulated": SIMULATED}
"""Kind of an annotator in the store -> the kind in words. Who a file names is a person, unless file or import say
otherwise."""
REUSED = "reused"
"""Key in a judge run's result: annotator -> the earlier run in which they had judged the same samples already."""

Row = TypeVar("Row", Comparison, Label)


@dataclass(frozen=True)
class Found(Generic[Row]):
    """What was asked for.

    unfinished   judge run that is not complete -> judgments of it by models and simulated annotators: do not count
    superseded   judgments that the same annotator gave again, in a later run or import: the latest counts
    """

    rows: list[Row]
    unfinished: Counter[str] = field(default_factory=Counter)
    superseded: int = 0

    def say(self) -> None:
        """Tell the person at the keyboard what was passed over."""
        for run, number in sorted(self.unfinished.items()):
            say(
                f"{run} is not complete: {number} judgments of it do not count. Finish it: plaudit judge --resume {run}"
            )
        if self.superseded:
            say(f"{self.superseded} judgments were given again by the same annotator later: the latest count.")


def judgments_of(workspace: Workspace, names: Iterable[str] | None, read: Callable[[Store], list[Row]]) -> Found[Row]:
    """Those of these runs and imports that stand now, and those in these snapshots; all that stand where None.

    names   judge runs (or `latest:judge`), imports, campaign:NAME, snapshot:NAME

    What a person has said counts whatever became of the run; what models and simulated annotators have said in a
    judge run that is not complete does not. In the order of the ids.
    """
    found: dict[str, Row]
    if names is None:
        found = {row.id: row for row in read(workspace.store)}
    else:
        wanted = [exact_name(workspace, name) for name in names]
        parts = {part for name in wanted if not is_reference(SNAPSHOT, name) for part in parts_of(workspace, name)}
        found = {row.id: row for row in read(workspace.store) if is_of(row, parts)} if parts else {}
    unfinished: Counter[str] = Counter()
    broken = {run.name for run in workspace.runs("judge") if run.status != "complete"}
    if broken:
        by = kinds(workspace)
        lost = [row for row in found.values() if row.run in broken and by.get(row.annotator) != PEOPLE]
        unfinished.update(row.run for row in lost)
        for row in lost:
            del found[row.id]
    for name in names or ():
        if is_reference(SNAPSHOT, name):
            fixed = workspace.store.of_snapshot(parse(name).name)
            found |= {row.id: row for row in read(fixed)}
    rows = latest([found[name] for name in sorted(found)])
    return Found(rows, unfinished, len(found) - len(rows))


def exact_name(workspace: Workspace, name: str) -> str:
    """A run's own name for `latest:judge`; anything else as it is."""
    return workspace.lineage_name(name) if is_reference(LATEST, name) else name


def parts_of(workspace: Workspace, name: str) -> set[tuple[str, str | None]]:
    """(run, annotator, or None for all) of what a name stands for: a run, with what it found judged already."""
    runs = {run.name: run for run in workspace.runs("judge")} if workspace.is_run(name) else {}
    reused = runs[name].info.get(REUSED, {}) if name in runs else {}
    return {(name, None), *((run, annotator) for annotator, run in reused.items())}


def is_of(row: Comparison | Label, parts: set[tuple[str, str | None]]) -> bool:
    """Whether a judgment is one of those."""
    return (row.run, None) in parts or (row.run, row.annotator) in parts


def latest(rows: Sequence[Row]) -> list[Row]:
    """The latest judgment of each annotator on the same answers by the same criterion, in the order given.

    The pairs of a ranking are one judgment of all of its answers. Who is not named may be a person each time.
    """
    together: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if isinstance(row, Comparison) and row.ranking is not None:
            together[row.ranking] |= {row.first, row.second}
    newest: dict[tuple[object, ...], tuple[str, str, str]] = {}
    for row in rows:
        if is_named(row.annotator):
            about = _about(row, together)
            newest[about] = max(newest.get(about, ("", "", "")), _when(row))
    return [row for row in rows if not is_named(row.annotator) or _when(row) == newest[_about(row, together)]]


def _about(row: Comparison | Label, together: Mapping[str, set[str]]) -> tuple[object, ...]:
    if isinstance(row, Label):
        return row.annotator, row.criterion, row.response
    answers = together[row.ranking] if row.ranking is not None else {row.first, row.second}
    return row.annotator, row.criterion, frozenset(answers)


def _when(row: Comparison | Label) -> tuple[str, str, str]:
    """The time, and what settles two of one second; equal for all pairs of a ranking."""
    if isinstance(row, Comparison) and row.ranking is not None:
        return row.created, row.run, row.ranking
    return row.created, row.run, row.id


def kinds(workspace: Workspace) -> dict[str, str]:
    """Annotator -> people, models or simulated annotators."""
    return {annotator.name: KINDS[annotator.kind] for annotator in workspace.store.annotators()}


def mixture(workspace: Workspace, rows: Sequence[Comparison | Label]) -> dict[str, dict[str, int]]:
    """Kind of annotators -> run or import -> judgments."""
    by = kinds(workspace)
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        found[by[row.annotator]][row.run] += 1
    return {kind: dict(sorted(found[kind].items())) for kind in (PEOPLE, MODELS, SIMULATED) if kind in found}


def mixture_lines(found: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """One line a kind: how many judgments, and where they are from."""
    for kind, runs in found.items():
        names = [f"{run}: {number}" for run, number in runs.items()]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        yield f"{sum(runs.values())} judgments by {kind} ({', '.join(names[:MOST_NAMED])}{more})"


MOST_NAMED = 10
"""Runs and imports that a line names."""
