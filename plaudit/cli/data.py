"""Commands on what a workspace holds: where it comes from, leaving it out, taking it in again."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plaudit.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceOption, group, open_workspace, show

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from plaudit.store.exclusions import Choice, Done

data_app = group("What the workspace holds and where it is from; leave some of it out, or take it in again.")
Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", help="prompts, responses, demonstrations, comparisons or labels; all if none is named."),
]
Ids = Annotated[list[str] | None, typer.Option("--id", help="Id of a row. This and the options below can be repeated.")]
Runs = Annotated[list[str] | None, typer.Option("--run", help="Rows of this run, import or campaign:NAME.")]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Prompts and demonstrations of this source.")]
Annotators = Annotated[list[str] | None, typer.Option("--annotator", help="Rows by this annotator.")]
Imports = Annotated[list[int] | None, typer.Option("--import", help="Rows that this import added, by its number.")]
Query = Annotated[str, typer.Option("--query", help="Prompts, demonstrations and responses with these words.")]
Exclusions = Annotated[list[int] | None, typer.Option("--exclusion", help="Rows of this exclusion, by its number.")]
Reason = Annotated[str, typer.Option("--reason", help="Reason, which is kept with the exclusion.")]


def _choice(
    kinds: list[str] | None,
    ids: list[str] | None,
    runs: list[str] | None,
    sources: list[str] | None,
    annotators: list[str] | None,
    imports: list[int] | None,
    query: str,
    exclusions: list[int] | None,
) -> Choice:
    from plaudit.store.exclusions import Choice

    return Choice(
        kinds=tuple(kinds or ()),
        ids=tuple(ids or ()),
        runs=tuple(runs or ()),
        sources=tuple(sources or ()),
        annotators=tuple(annotators or ()),
        imports=tuple(imports or ()),
        query=query,
        exclusions=tuple(exclusions or ()),
    )


@data_app.command("list")
def list_data(
    kinds: Kinds = None,
    ids: Ids = None,
    runs: Runs = None,
    sources: Sources = None,
    annotators: Annotators = None,
    imports: Imports = None,
    query: Query = "",
    exclusions: Exclusions = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Number of rows to show.")] = 20,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Show imports, sources, runs, annotators and exclusions; or, where something is named, the rows that fit."""
    from plaudit.store.exclusions import find, overview, rows_of

    store = open_workspace(workspace).store
    choice = _choice(kinds, ids, runs, sources, annotators, imports, query, exclusions)
    if choice.is_empty:
        found = overview(store)
        show(found, as_json, "\n".join(_overview_lines(found)))
        return
    fitting = find(store, choice)
    rows = rows_of(store, fitting, most)
    numbers = {kind: len(ids) for kind, ids in fitting.items()}
    lines = [_listed(numbers), *map(_row_line, rows)]
    lines += [f"and {sum(numbers.values()) - len(rows)} more (--most)"] if len(rows) < sum(numbers.values()) else []
    show({"rows": numbers, "shown": rows}, as_json, "\n".join(lines))


@data_app.command("exclude")
def exclude(
    kinds: Kinds = None,
    ids: Ids = None,
    runs: Runs = None,
    sources: Sources = None,
    annotators: Annotators = None,
    imports: Imports = None,
    query: Query = "",
    exclusions: Exclusions = None,
    reason: Reason = "",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Leave rows out: what trains, samples, evaluates, exports or counts passes over them. Nothing is deleted.

    Rows must fit every option that is given. A prompt takes with it what is about it, a response the judgments of it.
    `--import NUMBER` is the undo of an import. Snapshots, which never change, keep what they have.
    """
    from plaudit.store.exclusions import exclude as put

    choice = _choice(kinds, ids, runs, sources, annotators, imports, query, exclusions)
    store = open_workspace(workspace).store
    _tell(
        put(store, choice, reason=reason, actor=_actor(), also=_recorded("data excluded", choice)), "excluded", as_json
    )


@data_app.command("restore")
def restore(
    kinds: Kinds = None,
    ids: Ids = None,
    runs: Runs = None,
    sources: Sources = None,
    annotators: Annotators = None,
    imports: Imports = None,
    query: Query = "",
    exclusions: Exclusions = None,
    reason: Reason = "",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Take excluded rows in again. Options as for `plaudit data exclude`; --exclusion NUMBER undoes one."""
    from plaudit.store.exclusions import restore as put

    choice = _choice(kinds, ids, runs, sources, annotators, imports, query, exclusions)
    store = open_workspace(workspace).store
    _tell(
        put(store, choice, reason=reason, actor=_actor(), also=_recorded("data restored", choice)), "restored", as_json
    )


def _recorded(action: str, choice: Choice) -> Any:
    """Who left out what stands in the chain of records, too."""

    def record(connection: Connection, numbers: dict[str, int]) -> None:
        from plaudit.collect import audit

        audit.record(connection, _actor(), action, chosen=choice.described(), rows=numbers)

    return record


def _actor() -> str:
    return f"person:{getpass.getuser()}"


def _tell(done: Done, what: str, as_json: bool) -> None:
    kept = f"\n{done.kept} prompts stay: other imports have data on them." if done.kept else ""
    counted = {name: number for name, number in done.counts.items() if not name.startswith("prompts_")}
    if done.number is None:
        text = f"All of it is {what} already." if not done.kept else "Nothing else is to be done."
    else:
        how = "less" if what == "excluded" else "more"
        text = f"{what.capitalize()}: {_listed(done.rows)} (number {done.number}).\n"
        text += f"Counted {how}, with what goes with them: {_listed(counted)}."
    show(vars(done), as_json, text + kept)


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items()) or "nothing"


def _overview_lines(found: dict[str, Any]) -> Iterator[str]:
    yield "Imports (--import NUMBER)"
    for one in found["imports"]:
        yield f"  {one['number']:>4}  {one['created'][:16]}  {one['run']}  {one['file']}: {_listed(one['rows'])}"
    for title, name in (("Sources (--source NAME)", "sources"), ("Runs and imports (--run NAME)", "runs")):
        yield title
        yield from (f"  {each}: {_listed(numbers)}" for each, numbers in found[name].items())
    yield "Annotators (--annotator NAME)"
    everybody = list(found["annotators"].items())
    for name, facts in everybody[:MOST_ANNOTATORS]:
        numbers = {kind: number for kind, number in facts.items() if kind != "kind"}
        yield f"  {name} ({facts['kind'] or 'not known'}): {_listed(numbers)}"
    if len(everybody) > MOST_ANNOTATORS:
        yield f"  and {len(everybody) - MOST_ANNOTATORS} more (--json has all)"
    if found["exclusions"]:
        yield "Exclusions (--exclusion NUMBER)"
    for one in found["exclusions"]:
        chosen = ", ".join(f"{part}: {value}" for part, value in one["chosen"].items())
        reason = f" ({one['reason']})" if one["reason"] else ""
        what = "excluded" if one["is_excluded"] else "restored"
        yield f"  {one['number']:>4}  {one['created'][:16]}  {what} {_listed(one['rows'])}: {chosen}{reason}"


MOST_ANNOTATORS = 20
"""Lines of annotators that are shown."""


def _row_line(row: dict[str, Any]) -> str:
    mark = " excluded" if row["is_excluded"] else ""
    more = {name: value for name, value in row.items() if name not in ("kind", "id", "is_excluded", "text")}
    told = ", ".join(f"{name} {value}" for name, value in more.items())
    text = " ".join(str(row.get("text", "")).split())
    return f"  {row['kind']} {row['id']}{mark}  {told}{': ' + text[:80] if text else ''}"
