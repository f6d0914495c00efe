"""Which judgments a run learns from: those that its settings name, checked, counted and said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from plaudit.errors import DataError
from plaudit.judgments import Found, exact_name, is_of, judgments_of, mixture, mixture_lines, parts_of
from plaudit.progress import say
from plaudit.records import DESIRABLE, SAFE, Comparison, Label
from plaudit.references import SNAPSHOT
from plaudit.references import is_of as is_reference
from plaudit.store import Store
from plaudit.store.database import fingerprint
from plaudit.workspace import Run, Workspace

Row = TypeVar("Row", Comparison, Label)


def liked(store: Store) -> list[Label]:
    """Whether responses were liked."""
    return store.labels(DESIRABLE)


def ratings_of(store: Store) -> list[Label]:
    """Ratings of single responses on scales."""
    return [label for label in store.labels() if label.criterion not in (DESIRABLE, SAFE)]


@dataclass(frozen=True)
class Kind(Generic[Row]):
    """A kind of judgment that can be learnt from.

    name     in messages
    read     all that stand in a store
    remedy   what to do where a workspace has none
    """

    name: str
    read: Callable[[Store], list[Row]]
    remedy: str


COMPARISONS = Kind(
    "comparisons",
    Store.comparisons,
    "Make some with `plaudit judge`, or add your own with `plaudit import FILE --kind comparisons`.",
)
RATINGS = Kind("ratings", ratings_of, "Add some with `plaudit import FILE --kind ratings`.")
LABELS = Kind("labels", liked, "Add some with `plaudit import FILE --kind labels`.")


@dataclass(frozen=True)
class JudgmentSet(Generic[Row]):
    """Judgments to learn from, of one kind.

    rows      in the order of their ids
    sources   what they came from: judge runs, imports, campaigns, and the snapshots that were named
    """

    rows: list[Row]
    sources: tuple[str, ...] = ()


def choose(
    workspace: Workspace,
    kind: Kind[Row],
    wanted: Sequence[str] | None,
    *,
    setting: str,
    criteria: Sequence[str] | None = None,
) -> JudgmentSet[Row]:
    """The judgments of these judge runs, imports and snapshots, all that stand where None; by these criteria.

    Says what kinds of annotators they are by, and what was passed over.

    setting    where they were named, for messages
    criteria   None for the only one there is

    Raises DataError when there are none, by annotators of several kinds and nothing was named, or by several criteria
    and none was named; WorkspaceError for a run that is missing or incomplete.
    """
    _check_names(workspace, wanted)
    found = judgments_of(workspace, wanted, kind.read)
    if not found.rows and not kind.read(workspace.store):
        raise DataError(f"{workspace.path} has no {kind.name} to learn from. {kind.remedy}")
    found.say()
    _check_found(workspace, kind, found, wanted, setting)
    rows = _by_criteria(found.rows, kind, criteria, setting)
    if wanted is None:
        check_kinds(workspace, rows, kind.name, setting)
    return _said(workspace, kind, rows, wanted)


def choose_labels(workspace: Workspace, wanted: Sequence[str] | None, *, setting: str) -> JudgmentSet[Label]:
    """Choose labels of liked responses, as `choose` does; there need not be any."""
    _check_names(workspace, wanted)
    found = judgments_of(workspace, wanted, liked)
    found.say()
    if wanted is None:
        check_kinds(workspace, found.rows, LABELS.name, setting)
    return _said(workspace, LABELS, found.rows, wanted)


def _check_names(workspace: Workspace, wanted: Sequence[str] | None) -> None:
    for name in wanted or ():
        if not is_reference(SNAPSHOT, name):
            workspace.lineage_name(name)


def _check_found(
    workspace: Workspace, kind: Kind[Row], found: Found[Row], wanted: Sequence[str] | None, setting: str
) -> None:
    """Raise DataError for a source that was named and has none, and where nothing is left."""
    if wanted is not None:
        named = [name for name in wanted if not is_reference(SNAPSHOT, name)]
        unknown = sorted({exact_name(workspace, name) for name in named if not _has(workspace, found.rows, name)})
        standing = kind.read(workspace.store) if unknown else []
        unknown = [name for name in unknown if not _has(workspace, standing, name)]  # not all given again elsewhere
        if unknown:
            known = ", ".join(sorted({row.run for row in standing})) or "none yet"
            raise DataError(f"`{setting}`: no {kind.name} of {', '.join(unknown)} in the store ({known}).")
    if not found.rows and found.unfinished:
        raise DataError(f"`{setting}`: all {kind.name} are of judge runs that are not complete, so none count yet.")
    if not found.rows:
        raise DataError(f"`{setting}` names nothing to learn from; null is for all in the workspace.")


def _by_criteria(rows: list[Row], kind: Kind[Row], criteria: Sequence[str] | None, setting: str) -> list[Row]:
    """Those by the criteria asked for. Raises DataError for one that nobody judged by, and where one must be named."""
    there = sorted({row.criterion for row in rows})
    listed = ", ".join(name or '"" (none named)' for name in there)
    if criteria is not None:
        missing = [criterion for criterion in criteria if criterion not in there]
        if missing:
            raise DataError(f"no {kind.name} by criterion `{missing[0]}`; there are: {listed}.")
        return [row for row in rows if row.criterion in criteria]
    if len(there) > 1:
        section = setting.rpartition(".")[0]
        several = f", or all by `{section}.criteria`" if section == "reward" else ""
        raise DataError(
            f"the {kind.name} are by several criteria: {listed}. Name the one to learn by "
            f"`{section}.criterion`{several}."
        )
    return rows


def _said(workspace: Workspace, kind: Kind[Row], rows: list[Row], wanted: Sequence[str] | None) -> JudgmentSet[Row]:
    for line in mixture_lines(mixture(workspace, rows)):
        say(f"Learning from {kind.name}: {line}.")
    return JudgmentSet(rows, _sources(workspace, rows, wanted))


def check_kinds(workspace: Workspace, judgments: Sequence[Comparison | Label], what: str, setting: str) -> None:
    """Raise DataError where people, models and simulated annotators judged: they are mixed on request alone."""
    found = mixture(workspace, judgments)
    if len(found) < 2:
        return
    lines = "\n".join(f"  {line}" for line in mixture_lines(found))
    example = ", ".join(sorted(next(iter(found.values())))[:3])
    raise DataError(
        f"the {what} in {workspace.path} are by annotators of several kinds:\n{lines}\n"
        f"Name those to learn from, as in `{setting}=[{example}]`; name all of them to learn from the mixture."
    )


def has_comparisons(workspace: Workspace, name: str) -> bool:
    """Whether a run, import or snapshot has any."""
    return bool(judgments_of(workspace, [name], Store.comparisons).rows)


def _has(workspace: Workspace, rows: Sequence[Comparison] | Sequence[Label], name: str) -> bool:
    parts = parts_of(workspace, exact_name(workspace, name))
    return any(is_of(row, parts) for row in rows)


def _sources(
    workspace: Workspace, rows: Sequence[Comparison] | Sequence[Label], wanted: Sequence[str] | None
) -> tuple[str, ...]:
    """The names that were asked for and have any, snapshots too; else the runs and imports of the rows."""
    if wanted is None:
        return tuple(sorted({row.run for row in rows}))
    names = {exact_name(workspace, name) for name in wanted}
    return tuple(
        sorted(name for name in names if rows and (is_reference(SNAPSHOT, name) or _has(workspace, rows, name)))
    )


def data_snapshot(comparisons: Sequence[Comparison], labels: Sequence[Label] = ()) -> dict[str, Any]:
    """Counts and digests of what a run learns from."""
    data = fingerprint("comparisons", (c.id for c in comparisons))
    return data | (fingerprint("labels", (label.id for label in labels)) if labels else {})


def labels_of_run(workspace: Workspace, run: Run) -> list[Label]:
    """Whether responses were liked, of the run's sources."""
    return judgments_of(workspace, run.sources.labels, liked).rows
