"""What the stages read from and write to the feedback database.

SQLite in WAL mode. Every writing transaction begins with BEGIN IMMEDIATE: a transaction that first reads
and then writes cannot be upgraded when two writers meet, and would fail with "database is locked".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError

from plaudit.errors import DataError, WorkspaceError
from plaudit.records import Annotator, Comparison, Demonstration, Label, Prompt, Response, Split
from plaudit.store import tables

ROWS_PER_STATEMENT = 500


class Store:
    """Prompts, demonstrations, responses, annotators, comparisons and labels, append-only."""

    def __init__(self, engine: Engine):
        self._engine = engine

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the database file, making it when it is missing.

        Raises WorkspaceError when the file is no database, or was written by another schema version.
        """
        engine = create_engine(f"sqlite:///{path}")
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
        try:
            with _writing(engine) as connection:
                tables.metadata.create_all(connection)
                version = connection.scalar(select(tables.schema.c.version))
                if version is None:
                    connection.execute(tables.schema.insert().values(version=tables.SCHEMA_VERSION))
        except DatabaseError as error:
            if "not a database" in str(error) or "malformed" in str(error):
                raise WorkspaceError(f"{path} is not a feedback database; restore it or move it away.") from None
            raise
        if version not in (None, tables.SCHEMA_VERSION):
            raise WorkspaceError(
                f"{path} has schema version {version}, this Plaudit reads version {tables.SCHEMA_VERSION}. "
                "Use the version of Plaudit that made it."
            )
        return cls(engine)

    # Writing. Each call is one transaction: all of its rows are kept, or none. Returns the number of new rows.

    def add_prompts(self, prompts: Iterable[Prompt]) -> int:
        """Add prompts; those already there are left as they are."""
        return self._insert(tables.prompts, [asdict(prompt) for prompt in prompts])

    def add_demonstrations(self, demonstrations: Sequence[Demonstration]) -> int:
        """Add demonstrations, and their prompts where they are new."""
        with _writing(self._engine) as connection:
            _insert_rows(connection, tables.prompts, [asdict(d.prompt) for d in demonstrations])
            return _insert_rows(
                connection,
                tables.demonstrations,
                [{"id": d.id, "prompt_id": d.prompt.id, "text": d.text, "source": d.source} for d in demonstrations],
            )

    def add_responses(self, responses: Sequence[Response]) -> int:
        """Add responses to prompts that are in the store."""
        return self._insert(tables.responses, [asdict(response) for response in responses])

    def add_annotators(self, annotators: Sequence[Annotator]) -> int:
        """Add annotators; those already there are left as they are."""
        return self._insert(tables.annotators, [asdict(annotator) for annotator in annotators])

    def add_comparisons(self, comparisons: Sequence[Comparison]) -> int:
        """Add judgments; the same annotator's second judgment of a pair in the same run is ignored."""
        return self._insert(tables.comparisons, [_dated(comparison) for comparison in comparisons])

    def add_labels(self, labels: Sequence[Label]) -> int:
        """Add judgments of single responses; the same annotator's second label in the same run is ignored."""
        return self._insert(tables.labels, [_dated(label) for label in labels])

    # Reading. Every list is in the order of the ids, so that equal content is read equally.

    def prompts(self, split: Split | None = None) -> list[Prompt]:
        """All prompts, or those of one split."""
        query = select(tables.prompts).order_by(tables.prompts.c.id)
        if split is not None:
            query = query.where(tables.prompts.c.split == split)
        return [Prompt(**row) for row in self._rows(query)]

    def demonstrations(self, split: Split | None = None) -> list[Demonstration]:
        """All demonstrations, or those whose prompt is in one split."""
        prompts = {prompt.id: prompt for prompt in self.prompts(split)}
        rows = self._rows(select(tables.demonstrations).order_by(tables.demonstrations.c.id))
        return [
            Demonstration(prompts[row["prompt_id"]], row["text"], row["source"])
            for row in rows
            if row["prompt_id"] in prompts
        ]

    def responses(self, run: str | None = None) -> list[Response]:
        """All responses, or those of one sampling run."""
        query = select(tables.responses).order_by(tables.responses.c.id)
        if run is not None:
            query = query.where(tables.responses.c.run == run)
        return [Response(**row) for row in self._rows(query)]

    def annotators(self) -> list[Annotator]:
        """Everybody who has judged, or may."""
        return [Annotator(**row) for row in self._rows(select(tables.annotators).order_by(tables.annotators.c.name))]

    def comparisons(self, run: str | None = None) -> list[Comparison]:
        """All judgments, or those of one run."""
        query = select(tables.comparisons).order_by(tables.comparisons.c.id)
        if run is not None:
            query = query.where(tables.comparisons.c.run == run)
        return [Comparison(**{k: v for k, v in row.items() if k != "id"}) for row in self._rows(query)]

    def labels(self, criterion: str | None = None) -> list[Label]:
        """All judgments of single responses, or those by one criterion."""
        query = select(tables.labels).order_by(tables.labels.c.id)
        if criterion is not None:
            query = query.where(tables.labels.c.criterion == criterion)
        rows = self._rows(query)
        return [Label(**{k: v for k, v in row.items() if k != "id"}) for row in rows]

    def counts(self) -> dict[str, int]:
        """Rows by table, and prompts by split."""
        counted = [table for table in tables.metadata.sorted_tables if table is not tables.schema]
        with self._engine.connect() as connection:
            counts = {t.name: int(connection.scalar(select(func.count()).select_from(t)) or 0) for t in counted}
            split = tables.prompts.c.split
            for name, number in connection.execute(select(split, func.count()).group_by(split)):
                counts[f"prompts_{name}"] = number
        return counts

    def _insert(self, table: Table, rows: list[dict[str, Any]]) -> int:
        with _writing(self._engine) as connection:
            return _insert_rows(connection, table, rows)

    def _rows(self, query: Any) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def snapshot(kind: str, ids: Iterable[str]) -> dict[str, Any]:
    """What a run was made from: how many rows, and a SHA-256 over their sorted ids."""
    ordered = sorted(ids)
    return {kind: {"count": len(ordered), "sha256": hashlib.sha256("\n".join(ordered).encode()).hexdigest()}}


def _dated(judgment: Comparison | Label) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**asdict(judgment), "id": judgment.id, "created": judgment.created or now}


def _insert_rows(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> int:
    """Insert rows whose key is new. ON CONFLICT names the key alone, so that a dangling reference still fails."""
    key = [column.name for column in table.primary_key]
    count = select(func.count()).select_from(table)
    before = int(connection.scalar(count) or 0)
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        statement = insert(table).on_conflict_do_nothing(index_elements=key)
        try:
            connection.execute(statement, rows[start : start + ROWS_PER_STATEMENT])
        except DatabaseError as error:
            if "FOREIGN KEY" in str(error):
                raise DataError(f"a row for `{table.name}` refers to a row that is not in the store.") from None
            raise
    return int(connection.scalar(count) or 0) - before


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("plaudit_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _writing(engine: Engine) -> Iterator[Connection]:
    with engine.connect().execution_options(plaudit_writes=True) as connection, connection.begin():
        yield connection
