"""Many rows into the database within one transaction: prepared statements on SQLite, COPY on PostgreSQL.

Rows whose key is there already are left as they are; of two with one key the first is kept. New ones are counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.exc import DatabaseError

from plaudit.records import Annotator, Comparison, Demonstration, Label, Prompt, Response
from plaudit.store import tables
from plaudit.store.database import meaning_of
from plaudit.store.engine import Database

CACHE_KIBIBYTES = 262_144
"""What SQLite may keep of the file while it takes in many rows: the keys come in no order, so every page is in use."""
USUAL_CACHE_KIBIBYTES = 2_000

Values = tuple[Any, ...]

PROMPTS = (tables.prompts, ("id", "messages", "split", "source"))
DEMONSTRATIONS = (tables.demonstrations, ("id", "prompt_id", "text", "source", "annotator", "judgment"))
RESPONSES = (tables.responses, ("id", "prompt_id", "text", "run", "finished"))
ANNOTATORS = (tables.annotators, ("name", "kind", "parameters"))
COMPARISONS = (tables.comparisons, tuple(column.name for column in tables.comparisons.columns))
LABELS = (tables.labels, tuple(column.name for column in tables.labels.columns))
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
    """Inserts for one connection. Every method returns the number of new rows."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self._prepared: set[str] = set()

    def prompts(self, prompts: Sequence[Prompt]) -> int:
        """Add prompts."""
        return self._insert(PROMPTS, [(p.id, json.dumps(p.messages), p.split, p.source) for p in prompts])

    def demonstrations(self, demonstrations: Sequence[Demonstration]) -> int:
        """Add demonstrations, whose prompts are there."""
        rows = [(d.id, d.prompt.id, d.text, d.source, d.annotator, d.judgment) for d in demonstrations]
        return self._insert(DEMONSTRATIONS, rows)

    def responses(self, responses: Sequence[Response]) -> int:
        """Add imported responses: texts, without tokens."""
        return self._insert(RESPONSES, [(r.id, r.prompt_id, r.text, r.run, True) for r in responses])

    def annotators(self, annotators: Sequence[Annotator]) -> int:
        """Add annotators."""
        return self._insert(ANNOTATORS, [(a.name, a.kind, json.dumps(a.parameters)) for a in annotators])

    def comparisons(self, comparisons: Sequence[Comparison], *, now: str) -> int:
        """Add judgments of pairs; now is when those were made that do not say."""
        return self._insert(COMPARISONS, _dated(COMPARISONS, comparisons, now))

    def labels(self, labels: Sequence[Label], *, now: str) -> int:
        """Add judgments of single responses."""
        return self._insert(LABELS, _dated(LABELS, labels, now))

    def _insert(self, target: Target, rows: list[Values]) -> int:
        """In the order of their keys, so that neighbours in an index are written together."""
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


def _dated(target: Target, judgments: Sequence[Comparison] | Sequence[Label], now: str) -> list[Values]:
    names = target[1]
    made = names.index("created")
    values = attrgetter(*names)
    return [row if row[made] else (*row[:made], now, *row[made + 1 :]) for row in map(values, judgments)]


def _columns(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _unless_there(table: Table) -> str:
    return f"ON CONFLICT ({_columns([column.name for column in table.primary_key])}) DO NOTHING"
