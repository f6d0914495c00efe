"""What the stages read from and write to the feedback database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError

from plaudit.errors import DataError, nearest
from plaudit.records import Annotator, Comparison, Demonstration, Label, Prompt, Response, Split
from plaudit.store import tables
from plaudit.store.engine import Database, open_database
from plaudit.store.standing import CAMPAIGN as CAMPAIGN
from plaudit.store.standing import decided as decided
from plaudit.store.standing import excluded_ids, in_snapshot, not_excluded, standing
from plaudit.timing import now

ROWS_PER_STATEMENT = 1000
PROMPT_COLUMNS = tuple(tables.prompts.c[name] for name in ("messages", "split", "source", "id"))
"""Those that a record of a prompt has."""
NOT_IN_RECORDS = ("id", "import_number")
"""Columns of judgments that their records do not have."""


class Store:
    """Prompts, demonstrations, responses, annotators, comparisons and labels, append-only.

    What was corrected or taken back by the person who said it, what was said by people whose judgments somebody has
    decided to leave out, and what was excluded, stays in the database and is not read.
    """

    def __init__(self, database: Database, snapshot: str | None = None):
        self.database = database
        self.snapshot = snapshot
        """Read the judgments and demonstrations of this snapshot alone; None: all that stand now."""

    @classmethod
    def open(cls, where: Path | str) -> Store:
        """Open the database file, making it when it is missing, or the PostgreSQL database with this URL.

        Raises WorkspaceError when it is no database, cannot be reached, or was written by a newer Plaudit.
        """
        return cls(open_database(where))

    def of_snapshot(self, name: str | None) -> Store:
        """The same database, read as of a snapshot; None: as it stands. Raises DataError for an unknown name."""
        if name is not None:
            query = select(tables.snapshots.c.name).order_by(tables.snapshots.c.name)
            with self.database.reading() as connection:
                known = list(connection.scalars(query))
            if name not in known:
                there = ", ".join(known) or "none yet"
                raise DataError(f"there is no snapshot `{name}` ({there}).{nearest(name, known)}")
        return Store(self.database, name)

    # Writing. Each call is one transaction: all of its rows are kept, or none. Returns the number of new rows.

    def add_prompts(self, prompts: Iterable[Prompt]) -> int:
        """Add prompts; those already there are left as they are."""
        return self._insert(tables.prompts, [asdict(prompt) for prompt in prompts])

    def add_demonstrations(self, demonstrations: Sequence[Demonstration]) -> int:
        """Add demonstrations, and their prompts where they are new."""
        with self.database.writing() as connection:
            insert_rows(connection, tables.prompts, [asdict(d.prompt) for d in demonstrations])
            return insert_rows(
                connection,
                tables.demonstrations,
                [demonstration_row(d) for d in demonstrations],
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

    def prompts(self, split: Split | None = None, *, excluded: bool = False) -> list[Prompt]:
        """All prompts, or those of one split.

        excluded   also those that are excluded: to look up what a judgment of a snapshot was about
        """
        query = select(*PROMPT_COLUMNS).order_by(tables.prompts.c.id)
        if split is not None:
            query = query.where(tables.prompts.c.split == split)
        return [Prompt(**row) for row in self._read(query, tables.prompts, excluded)]

    def demonstrations(self, split: Split | None = None) -> list[Demonstration]:
        """All demonstrations, or those whose prompt is in one split."""
        prompts = {prompt.id: prompt for prompt in self.prompts(split, excluded=True)}
        found = [row for row in self._standing(tables.demonstrations) if row["prompt_id"] in prompts]
        return [
            Demonstration(
                prompts[row["prompt_id"]], *(row[name] for name in ("text", "source", "annotator", "judgment"))
            )
            for row in found
        ]

    def responses(self, run: str | None = None, *, excluded: bool = False) -> list[Response]:
        """All responses, or those of one sampling run; `excluded` as for prompts."""
        query = select(tables.responses).order_by(tables.responses.c.id)
        if run is not None:
            query = query.where(tables.responses.c.run == run)
        return [Response(**row) for row in self._read(query, tables.responses, excluded)]

    def annotators(self) -> list[Annotator]:
        """Everybody who has judged, or may."""
        return [Annotator(**row) for row in self._rows(select(tables.annotators).order_by(tables.annotators.c.name))]

    def comparisons(self, run: str | None = None) -> list[Comparison]:
        """All judgments, or those of one run."""
        wanted = [] if run is None else [tables.comparisons.c.run == run]
        return [Comparison(**_without_id(row)) for row in self._standing(tables.comparisons, *wanted)]

    def labels(self, criterion: str | None = None) -> list[Label]:
        """All judgments of single responses, or those by one criterion."""
        wanted = [] if criterion is None else [tables.labels.c.criterion == criterion]
        return [Label(**_without_id(row)) for row in self._standing(tables.labels, *wanted)]

    def counts(self) -> dict[str, int]:
        """Rows that are read, by table, and prompts by split; annotators are everybody."""
        counted = [tables.prompts, tables.demonstrations, tables.responses, tables.annotators]
        counted += [tables.comparisons, tables.labels]
        with self.database.reading() as connection:
            read: dict[Table, list[ColumnElement[bool]]] = {tables.annotators: []}
            read |= {t: not_excluded(connection, t) for t in (tables.prompts, tables.responses)}
            read |= {t: [standing(connection, t)] for t in counted if t not in read}
            counts = {
                t.name: int(connection.scalar(select(func.count()).select_from(t).where(*read[t])) or 0)
                for t in counted
            }
            split = tables.prompts.c.split
            by_split = select(split, func.count()).where(*read[tables.prompts]).group_by(split)
            for name, number in connection.execute(by_split):
                counts[f"prompts_{name}"] = number
        return counts

    def excluded(self) -> dict[str, int]:
        """Rows that were excluded, by table; what goes with them is not counted. Empty where there is none."""
        with self.database.reading() as connection:
            kinds = connection.scalars(select(tables.exclusion_members.c.kind).distinct())
            numbers = {
                kind: int(connection.scalar(select(func.count()).select_from(excluded_ids(kind).subquery())) or 0)
                for kind in sorted(kinds)
            }
        return {kind: number for kind, number in numbers.items() if number}

    def chosen(self, connection: Connection, table: Table) -> ColumnElement[bool]:
        """The condition that a judgment or demonstration is read: it is in the snapshot, or it stands now."""
        return standing(connection, table) if self.snapshot is None else in_snapshot(table, self.snapshot)

    def _insert(self, table: Table, rows: list[dict[str, Any]]) -> int:
        with self.database.writing() as connection:
            return insert_rows(connection, table, rows)

    def _rows(self, query: Any) -> list[dict[str, Any]]:
        with self.database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _read(self, query: Any, table: Table, excluded: bool) -> list[dict[str, Any]]:
        with self.database.reading() as connection:
            if not excluded and self.snapshot is None:
                query = query.where(*not_excluded(connection, table))
            return [dict(row) for row in connection.execute(query).mappings()]

    def _standing(self, table: Table, *wanted: ColumnElement[bool]) -> list[dict[str, Any]]:
        """Rows that are read: those of the snapshot, or those that stand now."""
        with self.database.reading() as connection:
            query = select(table).where(self.chosen(connection, table), *wanted).order_by(table.c.id)
            return [dict(row) for row in connection.execute(query).mappings()]


def fingerprint(kind: str, ids: Iterable[str]) -> dict[str, Any]:
    """What a run was made from: how many rows, and a SHA-256 over their sorted ids."""
    ordered = sorted(ids)
    return {kind: {"count": len(ordered), "sha256": hashlib.sha256("\n".join(ordered).encode()).hexdigest()}}


def _dated(judgment: Comparison | Label) -> dict[str, Any]:
    return {**asdict(judgment), "id": judgment.id, "created": judgment.created or now("seconds")}


def _without_id(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in NOT_IN_RECORDS}


def demonstration_row(demonstration: Demonstration) -> dict[str, Any]:
    """A row of the table."""
    row = {name: getattr(demonstration, name) for name in ("id", "text", "source", "annotator", "judgment")}
    return {**row, "prompt_id": demonstration.prompt.id}


def insert_rows(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> int:
    """Insert the rows whose key is new; returns how many. The key alone may be there: a dangling reference fails.

    Raises DataError for a row that refers to one that is not there, or has text that a database cannot hold.
    """
    keys = list(table.primary_key)
    names = [column.name for column in keys]
    added = 0
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        some = list(rows[start : start + ROWS_PER_STATEMENT])
        try:
            if connection.dialect.name == "postgresql":  # whose driver does not count the rows of many inserts
                ours = postgresql.insert(table).on_conflict_do_nothing(index_elements=names).returning(*keys)
                added += len(connection.execute(ours, some).all())
            else:
                added += connection.execute(
                    sqlite.insert(table).on_conflict_do_nothing(index_elements=names), some
                ).rowcount
        except DatabaseError as error:
            raise meaning_of(table, error.orig) or error from None
    return added


def meaning_of(table: Table, error: object) -> DataError | None:
    """What a database's refusal of a row says about the data, if it does."""
    said = str(error)
    if "foreign key" in said.lower():
        return DataError(f"a row for `{table.name}` refers to a row that is not in the store.")
    if "\\u0000" in said or "0x00" in said:
        return DataError(f"a text for `{table.name}` has a NUL character, which PostgreSQL cannot hold.")
    return None
