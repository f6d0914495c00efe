"""Which rows are read: what nobody has corrected, whose author counts, and what has not been excluded."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, exists, func, not_, or_, select

from plaudit.store import tables

CAMPAIGN = "campaign:"
"""Before a campaign's name, in the `run` of what people said in it."""
REFERS: dict[str, dict[str, str]] = {
    "prompts": {},
    "responses": {"prompt_id": "prompts"},
    "demonstrations": {"prompt_id": "prompts"},
    "comparisons": {"prompt_id": "prompts", "first": "responses", "second": "responses"},
    "labels": {"prompt_id": "prompts", "response": "responses"},
}
"""What can be excluded -> its columns that name other such rows: a judgment goes with its prompt and its responses."""


def standing(connection: Connection, table: Table) -> ColumnElement[bool]:
    """The condition that a row of judgments, or a demonstration, has not been superseded, that its author counts, and
    that it is not excluded.

    The newest decision on an annotator holds; one on a campaign goes before one on all of them.
    """
    superseded = select(tables.judgments.c.supersedes).where(tables.judgments.c.supersedes.is_not(None))
    stands = [or_(table.c.judgment.is_(None), table.c.judgment.not_in(superseded))]
    corrected = select(tables.corrections.c.id).where(tables.corrections.c.kind == table.name)
    if connection.scalar(select(exists(corrected))):
        stands.append(table.c.id.not_in(corrected))
    run = table.c.source if table is tables.demonstrations else table.c.run
    stands += [not_(condition) for condition in _left_out(decided(connection), table.c.annotator, run)]
    return and_(*stands, *not_excluded(connection, table))


def not_excluded(connection: Connection, table: Table) -> list[ColumnElement[bool]]:
    """Conditions that a row, its prompt and its responses are not excluded; none where nothing is."""
    kinds = set(connection.scalars(select(tables.exclusion_members.c.kind).distinct()))
    conditions: list[ColumnElement[bool]] = []
    if table.name in kinds:
        conditions.append(table.c.id.not_in(excluded_ids(table.name)))
    for column, kind in REFERS[table.name].items():
        if kind in kinds:
            conditions.append(table.c[column].not_in(excluded_ids(kind)))
    return conditions


def excluded_ids(kind: str) -> Select[Any]:
    """Ids of the rows of a table that the newest word on them excludes."""
    members, said, later = tables.exclusion_members, tables.exclusions, tables.exclusion_members.alias("later")
    newer = and_(later.c.kind == kind, later.c.id == members.c.id, later.c.exclusion > members.c.exclusion)
    return (
        select(members.c.id)
        .join(said, said.c.number == members.c.exclusion)
        .where(members.c.kind == kind, said.c.is_excluded, not_(exists().where(newer)))
    )


def decided(connection: Connection, about: str = "training") -> dict[tuple[str, str], bool]:
    """(annotator, campaign or empty) -> what the newest decision says.

    about   "training": whether the judgments count; "admission": whether the annotator may work
    """
    columns = (tables.decisions.c.annotator, tables.decisions.c.campaign, tables.decisions.c.is_included)
    query = select(*columns).where(tables.decisions.c.about == about).order_by(tables.decisions.c.number)
    rows = connection.execute(query)
    return {(annotator, campaign): included for annotator, campaign, included in rows}


def _left_out(
    decisions: dict[tuple[str, str], bool], annotator: ColumnElement[str], run: ColumnElement[str]
) -> list[ColumnElement[bool]]:
    """Conditions of rows that do not count. An unknown author is never left out."""
    conditions: list[ColumnElement[bool]] = []
    for (name, campaign), included in sorted(decisions.items()):
        by_name = func.coalesce(annotator, "") == name
        if campaign and not included:
            conditions.append(and_(by_name, run == CAMPAIGN + campaign))
        elif not campaign and not included:
            kept = [CAMPAIGN + other for (who, other), yes in decisions.items() if who == name and other and yes]
            conditions.append(and_(by_name, run.not_in(kept)))
    return conditions


def in_snapshot(table: Table, name: str) -> ColumnElement[bool]:
    """The condition that a row is of a snapshot."""
    members = tables.snapshot_members
    chosen = select(members.c.id).where(members.c.snapshot == name, members.c.kind == table.name)
    return table.c.id.in_(chosen)
