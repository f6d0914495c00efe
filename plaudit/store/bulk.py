"""Many rows into the database within one transaction: prepared statements on SQLite, COPY on PostgreSQL.

Rows whose key is there already are left as they are; of two with one key the first is kept. New ones are counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import Column, Connection, Table, func, select
from sqlalchemy.exc import DatabaseError

from plaudit.records import Annotator, Comparison, Demonstration, Label, Prompt, Response
from plaudit.store import tables
from plaudit.store.database import meaning_of
from plaudit.store.engine import Database
from plaudit.store.standing import REFERS
from plaudit.timing import now

CACHE_KIBIBYTES = 262_144
"""What SQLite may keep of the file while it takes in many rows: the keys come in no order, so every page is in use."""
USUAL_CACHE_KIBIBYTES = 2_000

Values = tuple[Any, ...]

PROMPTS = (tables.prompts, ("id", "messages", "split", "source", "import_number"))
DEMONSTRATIONS = (
    tables.demonstrations,
    ("id", "prompt_id", "text", "source", "annotator", "judgment", "import_number"),
)
RESPONSES = (tables.responses, ("id", "prompt_id", "text", "run", "finished"))
ANNOTATORS = (tables.annotators, ("name", "kind", "parameters"))
COMPARISONS = (tables.comparisons, tuple(column.name for column in tables.comparisons.columns))
LABELS = (tables.labels, tuple(column.name for column in tables.labels.columns))
CORRECTIONS = (tables.corrections, ("kind", "id", "by", "created"))
Target = tuple[Table, tuple[str, ...]]


@contextmanager
def bulk_writing(database: Database) -> Iterator[BulkWriter]:
    """One transaction for any number of rows; all of them are kept, or none."""
    with database.writing() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        try:
            yield BulkWriter(connection)
        finally:
            if database.is_sqlite:
                connection.exec_driver_sql(f"PRAGMA cache_size = -{USUAL_CACHE_KIBIBYTES}")
    if database.is_sqlite:  # or the log of a long transaction would stay as large as it was
        raw = database.engine.raw_connection()
        raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        raw.close()


class BulkWriter:
    """Inserts for one connection. Every method returns the number of new rows.

    number   of the import that the rows belong to
    now      its time, which is that of judgments that say none
    """

    def __init__(self, connection: Connection):
        self.connection = connection
        self.number: int | None = None
        self.now = now("seconds")
        self._prepared: set[str] = set()
        self.restored: dict[str, list[str]] = {}
        """Rows by table that were excluded with an import, and are in the database again by this one."""
        self._excludes: dict[str, dict[str, bool]] | None = None

    def begin(self, run: str, file: str, kind: str, format: str) -> int:
        """Say what the rows come from; returns the number of the import."""
        row = {"run": run, "file": file, "kind": kind, "format": format, "created": self.now}
        key = self.connection.execute(tables.imports.insert().values(**row)).inserted_primary_key
        self.number = int(key[0]) if key is not None else None
        assert self.number is not None
        return self.number

    def prompts(self, prompts: Sequence[Prompt]) -> int:
        """Add prompts."""
        rows = [(p.id, json.dumps(p.messages), p.split, p.source, self.number) for p in prompts]
        return self._insert(PROMPTS, rows)

    def demonstrations(self, demonstrations: Sequence[Demonstration]) -> int:
        """Add demonstrations, whose prompts are there."""
        rows = [(d.id, d.prompt.id, d.text, d.source, d.annotator, d.judgment, self.number) for d in demonstrations]
        return self._insert(DEMONSTRATIONS, rows)

    def responses(self, responses: Sequence[Response]) -> int:
        """Add imported responses: texts, without tokens."""
        return self._insert(RESPONSES, [(r.id, r.prompt_id, r.text, r.run, True) for r in responses])

    def annotators(self, annotators: Sequence[Annotator]) -> int:
        """Add annotators."""
        return self._insert(ANNOTATORS, [(a.name, a.kind, json.dumps(a.parameters)) for a in annotators])

    def comparisons(self, comparisons: Sequence[Comparison]) -> int:
        """Add judgments of pairs."""
        return self._insert(COMPARISONS, self._dated(COMPARISONS, comparisons))

    def labels(self, labels: Sequence[Label]) -> int:
        """Add judgments of single responses."""
        return self._insert(LABELS, self._dated(LABELS, labels))

    def corrections(self, corrections: Sequence[tuple[str, str, str]]) -> int:
        """Add what no longer stands: (table, its id, the id of what took its place)."""
        return self._insert(CORRECTIONS, [(*row, self.now) for row in corrections])

    def splits(self, prompts: Sequence[str]) -> dict[str, str]:
        """Prompt -> its split, of those that are there."""
        columns = tables.prompts.c
        return dict(self._of(prompts, columns.id, columns.split))

    def excluded(self, table: str, prompts: Mapping[str, str]) -> int:
        """How many of these rows of a table are excluded, themselves or with their prompt (id -> id of the prompt).

        What was excluded as all that an import had added is taken in again: it has been imported anew.
        """
        if self._excludes is None:
            self._excludes = {kind: self._newest(kind) for kind in REFERS}
        gone, of_prompts = self._excludes[table], self._excludes["prompts"]
        if not gone and not of_prompts:
            return 0
        for kind, names in ((table, prompts.keys()), ("prompts", set(prompts.values()))):
            undone = [name for name in names if self._excludes[kind].get(name)]
            for name in undone:
                del self._excludes[kind][name]
            if undone:
                self.restored.setdefault(kind, []).extend(undone)
        return sum(name in gone or prompt in of_prompts for name, prompt in prompts.items())

    def _newest(self, kind: str) -> dict[str, bool]:
        """Excluded row -> whether it was excluded as a part of an import."""
        members, said = tables.exclusion_members, tables.exclusions
        newest = (
            select(members.c.id, func.max(members.c.exclusion)).where(members.c.kind == kind).group_by(members.c.id)
        )
        chosen = {
            row.number: "imports" in row.chosen for row in self.connection.execute(select(said)) if row.is_excluded
        }
        return {name: chosen[number] for name, number in self.connection.execute(newest).tuples() if number in chosen}

    def _of(self, names: Sequence[str], key: Column[Any], *columns: Column[Any]) -> Iterator[Any]:
        for start in range(0, len(names), 500):
            query = select(key, *columns).where(key.in_(names[start : start + 500]))
            yield from self.connection.execute(query).tuples()

    def _dated(self, target: Target, judgments: Sequence[Comparison] | Sequence[Label]) -> list[Values]:
        names = target[1]
        said = names[:-1]
        assert names[-1] == "import_number"
        made, end = said.index("created"), (self.number,)
        return [
            (*(row if row[made] else (*row[:made], self.now, *row[made + 1 :])), *end)
            for row in map(attrgetter(*said), judgments)
        ]

    def _insert(self, target: Target, rows: list[Values]) -> int:
        """Rows in the order of their keys, so that neighbours in an index are written together."""
        if not rows:
            return 0
        rows.sort(key=itemgetter(0))
        try:
            return self._copy(target, rows) if self._is_postgresql else self._execute(target, rows)
        except DatabaseError as error:
            raise meaning_of(target[0], error.orig) or error from None
        except self._driver_error as error:
            raise meaning_of(target[0], error) or error from None

    @property
    def _is_postgresql(self) -> bool:
        return self.connection.dialect.name == "postgresql"

    @property
    def _driver_error(self) -> type[Exception]:
        return self.connection.dialect.loaded_dbapi.Error

    def _execute(self, target: Target, rows: list[Values]) -> int:
        table, names = target
        places = ", ".join("?" * len(names))
        statement = f"INSERT INTO {table.name} ({_columns(names)}) VALUES ({places}) {_unless_there(table)}"
        return self.connection.exec_driver_sql(statement, rows).rowcount

    def _copy(self, target: Target, rows: list[Values]) -> int:
        table, names = target
        incoming, columns = f"incoming_{table.name}", _columns(names)
        driver: Any = self.connection.connection.driver_connection
        with driver.cursor() as cursor:
            if incoming not in self._prepared:
                cursor.execute(
                    f"CREATE TEMPORARY TABLE {incoming} ON COMMIT DROP AS SELECT {columns} FROM {table.name} LIMIT 0"
                )
                self._prepared.add(incoming)
            with cursor.copy(f"COPY {incoming} ({columns}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            cursor.execute(
                f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {incoming} {_unless_there(table)}"
            )
            added = int(cursor.rowcount)
            cursor.execute(f"TRUNCATE {incoming}")
        return added


def _columns(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _unless_there(table: Table) -> str:
    return f"ON CONFLICT ({_columns([column.name for column in table.primary_key])}) DO NOTHING"
