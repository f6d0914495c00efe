"""Leaving data out without deleting it: by id, source, run, import, annotator or words; and taking it in again.

Everything that trains, samples, evaluates, exports or counts passes over what is excluded. Each exclusion is a row with
the ids that were chosen, and so is each restoration: the newest word on a row holds, and nothing is ever changed. A
prompt takes with it all that is about it, a response the judgments of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, insert, not_, or_, select

from plaudit.errors import DataError, nearest
from plaudit.store import tables
from plaudit.store.database import Store
from plaudit.store.standing import REFERS, excluded_ids, not_excluded
from plaudit.timing import now

KINDS = tuple(REFERS)
"""prompts, responses, demonstrations, comparisons, labels"""
OF_IMPORTS = ("prompts", "demonstrations", "comparisons", "labels")
ROWS_AT_ONCE = 2000
Also = Callable[[Connection, dict[str, int]], None]
"""What else is to happen in the same transaction, given the number of rows by kind."""


@dataclass(frozen=True)
class Choice:
    """Which rows: those that fit every part that is given, and any of its values.

    kinds        of KINDS; all where none is named
    ids          of rows
    runs         samples and judgments of these runs, imports and campaigns; prompts and demonstrations of such imports
    sources      of prompts and demonstrations
    annotators   of judgments and demonstrations
    imports      numbers of imports: what they added
    query        words in a prompt, a demonstration or a response, small and large letters alike
    exclusions   numbers of exclusions: what they were of
    """

    kinds: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()
    imports: tuple[int, ...] = ()
    query: str = ""
    exclusions: tuple[int, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing but kinds is named."""
        return not any(getattr(self, part.name) for part in fields(self) if part.name != "kinds")

    def described(self) -> dict[str, Any]:
        """The parts that are given."""
        return {part.name: getattr(self, part.name) for part in fields(self) if getattr(self, part.name)}


@dataclass(frozen=True)
class Done:
    """What an exclusion or a restoration came to.

    number   of it; None where there was nothing left to do
    rows     kind -> rows that were chosen and were not so already
    counts   table -> rows that count less, or more, than before, with those that go with others
    kept     prompts of an import that stay, since other imports have data on them
    """

    number: int | None
    rows: dict[str, int]
    counts: dict[str, int]
    kept: int = 0


def find(store: Store, choice: Choice) -> dict[str, list[str]]:
    """Kind -> ids of the rows that fit, excluded ones too.

    Raises DataError for an unknown kind, run, source, annotator, import or exclusion, and where nothing fits.
    """
    with store.database.reading() as connection:
        return _find(connection, choice)[0]


def exclude(store: Store, choice: Choice, *, reason: str = "", actor: str, also: Also | None = None) -> Done:
    """Leave rows out from now on. Raises DataError as `find` does, and where nothing is chosen."""
    return _put(store, choice, True, reason, actor, also)


def restore(store: Store, choice: Choice, *, reason: str = "", actor: str, also: Also | None = None) -> Done:
    """Take excluded rows in again. Raises DataError as `find` does, and where nothing is chosen."""
    return _put(store, choice, False, reason, actor, also)


def _put(store: Store, choice: Choice, is_excluded: bool, reason: str, actor: str, also: Also | None) -> Done:
    if choice.is_empty:
        raise DataError("say what: --id, --run, --source, --annotator, --import, --query or --exclusion.")
    before = store.counts()
    with store.database.writing_in_turn() as connection:
        found, kept = _find(connection, choice)
        rows: dict[str, list[str]] = {}
        for kind, ids in found.items():
            there = set(connection.scalars(excluded_ids(kind)))
            rows[kind] = [name for name in ids if (name in there) != is_excluded]
        numbers = {kind: len(ids) for kind, ids in rows.items() if ids}
        number = keep(connection, rows, is_excluded, choice.described(), reason, actor) if numbers else None
        if numbers and also is not None:
            also(connection, numbers)
    after = store.counts()
    changed = {name: abs(after.get(name, 0) - count) for name, count in before.items()}
    return Done(number, numbers, {name: count for name, count in changed.items() if count}, kept)


def keep(
    connection: Connection,
    rows: dict[str, list[str]],
    is_excluded: bool,
    chosen: dict[str, Any],
    reason: str,
    actor: str,
) -> int:
    """Add an exclusion, or a restoration, of these rows; returns its number."""
    values = {"is_excluded": is_excluded, "chosen": chosen, "reason": reason, "actor": actor, "created": now("seconds")}
    key = connection.execute(tables.exclusions.insert().values(**values)).inserted_primary_key
    assert key is not None
    number = int(key[0])
    members = [{"kind": kind, "id": name, "exclusion": number} for kind, ids in rows.items() for name in ids]
    for start in range(0, len(members), ROWS_AT_ONCE):
        connection.execute(insert(tables.exclusion_members), members[start : start + ROWS_AT_ONCE])
    return number


def exclusions_of(store: Store) -> list[dict[str, Any]]:
    """Every exclusion and restoration, oldest first: number, is_excluded, chosen, reason, actor, created and rows."""
    table, members = tables.exclusions, tables.exclusion_members
    counted = select(members.c.exclusion, members.c.kind, func.count()).group_by(members.c.exclusion, members.c.kind)
    with store.database.reading() as connection:
        rows: dict[int, dict[str, int]] = {}
        for number, kind, count in connection.execute(counted).tuples():
            rows.setdefault(number, {})[kind] = count
        found = connection.execute(select(table).order_by(table.c.number)).mappings().all()
    return [{**row, "rows": dict(sorted(rows.get(row["number"], {}).items()))} for row in found]


def overview(store: Store) -> dict[str, Any]:
    """What the workspace holds, by where it comes from.

    imports      number, run, file, kind, created, and `rows`: kind -> rows that it added and that are not excluded
    sources      source -> {prompts, demonstrations}
    runs         run, import or campaign -> {responses, comparisons, labels}
    annotators   name -> {kind, comparisons, labels, demonstrations}
    exclusions   `exclusions_of`

    What is excluded is not counted.
    """
    with store.database.reading() as connection:
        imports = connection.execute(select(tables.imports).order_by(tables.imports.c.number)).mappings().all()
        added: dict[Any, dict[str, int]] = {}
        for kind in OF_IMPORTS:
            _count(connection, tables.metadata.tables[kind], "import_number", added)
        sources: dict[Any, dict[str, int]] = {}
        for kind in ("prompts", "demonstrations"):
            _count(connection, tables.metadata.tables[kind], "source", sources)
        runs: dict[Any, dict[str, int]] = {}
        for kind in ("responses", "comparisons", "labels"):
            _count(connection, tables.metadata.tables[kind], "run", runs)
        said: dict[Any, dict[str, int]] = {}
        for kind in ("comparisons", "labels", "demonstrations"):
            _count(connection, tables.metadata.tables[kind], "annotator", said)
        columns = tables.annotators.c
        kinds = dict(connection.execute(select(columns.name, columns.kind)).tuples().all())
    return {
        "imports": [{**row, "rows": added.get(row["number"], {})} for row in imports],
        "sources": dict(sorted(sources.items())),
        "runs": dict(sorted(runs.items())),
        "annotators": {name: {"kind": kinds.get(name)} | said[name] for name in sorted(n for n in said if n)},
        "exclusions": exclusions_of(store),
    }


def rows_of(store: Store, found: dict[str, list[str]], most: int) -> list[dict[str, Any]]:
    """The first rows of each kind as far as `most` reach: kind, id, is_excluded, where they come from, and a text."""
    shown: list[dict[str, Any]] = []
    with store.database.reading() as connection:
        for kind, ids in found.items():
            there = set(connection.scalars(excluded_ids(kind)))
            for row in _rows(connection, tables.metadata.tables[kind], sorted(ids)[: most - len(shown)]):
                shown.append({"kind": kind, "id": row.id, "is_excluded": row.id in there, **_told(row)})
    return shown


def _count(connection: Connection, table: Table, column: str, into: dict[Any, dict[str, int]]) -> None:
    query = select(table.c[column], func.count()).where(*not_excluded(connection, table)).group_by(table.c[column])
    for value, count in connection.execute(query).tuples():
        into.setdefault(value, {})[table.name] = count


def _told(row: Any) -> dict[str, Any]:
    fields_ = {
        name: getattr(row, name, None) for name in ("source", "run", "annotator", "prompt_id", "choice", "value")
    }
    messages = getattr(row, "messages", None)
    text = messages[-1]["content"] if messages else getattr(row, "text", None)
    return {name: value for name, value in {**fields_, "text": text}.items() if value is not None}


def _find(connection: Connection, choice: Choice) -> tuple[dict[str, list[str]], int]:
    """(kind -> ids that fit; prompts that stay since other imports have data on them)"""
    unknown = [kind for kind in choice.kinds if kind not in KINDS]
    if unknown:
        raise DataError(f"--kind {unknown[0]}: unknown. Known: {', '.join(KINDS)}.{nearest(unknown[0], KINDS)}")
    _check_names(connection, choice)
    numbers = set(choice.imports)
    if choice.runs:
        numbers |= set(connection.scalars(select(tables.imports.c.number).where(tables.imports.c.run.in_(choice.runs))))
    found: dict[str, list[str]] = {}
    kept = 0
    for kind in choice.kinds or KINDS:
        table = tables.metadata.tables[kind]
        conditions = _conditions(table, choice, numbers)
        if conditions is None:
            continue
        if kind == "prompts" and numbers:
            elsewhere = or_(*(table.c.id.in_(used) for used in _used_elsewhere(connection, numbers)))
            count = select(func.count()).select_from(table).where(*conditions, elsewhere)
            kept = int(connection.scalar(count) or 0)
            conditions.append(not_(elsewhere))
        ids = list(connection.scalars(select(table.c.id).where(*conditions).order_by(table.c.id)))
        if choice.query:
            ids = [row.id for row in _rows(connection, table, ids) if choice.query.lower() in _words(row)]
        if ids:
            found[kind] = ids
    if not found and not kept:
        raise DataError("nothing in the workspace fits. See `plaudit data list`.")
    return found, kept


def _conditions(table: Table, choice: Choice, numbers: set[int]) -> list[ColumnElement[bool]] | None:
    """None where a part that is given does not apply to this kind."""
    columns = table.c
    conditions: list[ColumnElement[bool]] = []
    if choice.ids:
        conditions.append(columns.id.in_(choice.ids))
    if choice.sources:
        if "source" not in columns:
            return None
        conditions.append(columns.source.in_(choice.sources))
    if choice.runs:
        named = [columns[name].in_(choice.runs) for name in ("run", "source") if name in columns]
        named += [columns.import_number.in_(numbers)] if table.name in ("prompts", "demonstrations") else []
        conditions.append(or_(*named))
    if choice.annotators:
        if "annotator" not in columns:
            return None
        conditions.append(columns.annotator.in_(choice.annotators))
    if choice.imports:
        if "import_number" not in columns:
            return None
        conditions.append(columns.import_number.in_(choice.imports))
    if choice.query and not {"messages", "text"} & set(columns.keys()):
        return None
    if choice.exclusions:
        members = tables.exclusion_members.c
        chosen = select(members.id).where(members.kind == table.name, members.exclusion.in_(choice.exclusions))
        conditions.append(columns.id.in_(chosen))
    return conditions


def _used_elsewhere(connection: Connection, numbers: set[int]) -> Iterator[Any]:
    """Prompts on which other imports have data that count."""
    for kind in ("demonstrations", "comparisons", "labels"):
        table = tables.metadata.tables[kind]
        others = (table.c.import_number.is_not(None), table.c.import_number.not_in(numbers))
        yield select(table.c.prompt_id).where(*others, *not_excluded(connection, table))


def _rows(connection: Connection, table: Table, ids: Sequence[str]) -> Iterator[Any]:
    for start in range(0, len(ids), ROWS_AT_ONCE):
        some = ids[start : start + ROWS_AT_ONCE]
        yield from connection.execute(select(table).where(table.c.id.in_(some)).order_by(table.c.id))


def _words(row: Any) -> str:
    messages = getattr(row, "messages", None)
    return "\n".join(turn["content"] for turn in messages).lower() if messages else str(row.text).lower()


def _check_names(connection: Connection, choice: Choice) -> None:
    """Raises DataError for a name that is nowhere."""
    where: dict[str, tuple[Sequence[Any], list[tuple[str, str]]]] = {
        "run": (
            choice.runs,
            [(kind, "run") for kind in ("imports", "responses", "comparisons", "labels")]
            + [("demonstrations", "source")],
        ),
        "source": (choice.sources, [("prompts", "source"), ("demonstrations", "source")]),
        "annotator": (choice.annotators, [("annotators", "name")]),
        "import": (choice.imports, [("imports", "number")]),
        "exclusion": (choice.exclusions, [("exclusions", "number")]),
    }
    for option, (wanted, places) in where.items():
        if not wanted:
            continue
        known: set[str] = set()
        for table, column in places:
            known |= {
                str(value) for value in connection.scalars(select(tables.metadata.tables[table].c[column]).distinct())
            }
        missing = [str(name) for name in wanted if str(name) not in known]
        if missing:
            raise DataError(
                f"--{option} {missing[0]}: there is none here.{nearest(missing[0], known)} See `plaudit data list`."
            )
