"""Snapshots: fixed sets of judgments and demonstrations that a run can name, whatever is said or decided later.

A snapshot is a list of ids and a SHA-256 over those rows with all that they refer to: messages and texts. The hash is
the same on SQLite and PostgreSQL.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, Select, Table, func, insert, literal, select

from plaudit.errors import DataError, nearest
from plaudit.store import tables
from plaudit.store.database import Store
from plaudit.store.standing import CAMPAIGN, in_snapshot, standing
from plaudit.timing import now

SnapshotKind = Literal["comparisons", "labels", "demonstrations"]
KINDS: tuple[SnapshotKind, ...] = get_args(SnapshotKind)
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
ROWS_AT_ONCE = 2000


def make_snapshot(
    store: Store,
    name: str,
    *,
    kinds: Sequence[str] = KINDS,
    runs: Sequence[str] | None = None,
    campaigns: Sequence[str] | None = None,
    criteria: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Keep what stands now under a name. Returns its description: what was chosen, and rows and SHA-256 by kind.

    kinds      of comparisons, labels, demonstrations
    runs       judge runs and imports (of demonstrations: sources); with campaigns, those too; None for all
    criteria   of comparisons and labels; None for all. Demonstrations have none

    Raises DataError when the name is taken or no name, a kind is unknown, or nothing is chosen.
    """
    _check(name, kinds)
    wanted = None if runs is None and campaigns is None else [*(runs or ()), *(CAMPAIGN + c for c in campaigns or ())]
    described: dict[str, Any] = {"kinds": sorted(set(kinds)), "runs": wanted, "criteria": criteria and list(criteria)}
    with store.database.writing_in_turn() as connection:
        if connection.scalar(select(tables.snapshots.c.name).where(tables.snapshots.c.name == name)) is not None:
            raise DataError(f"there is a snapshot `{name}` already, and none is ever changed; choose another name.")
        created = now("seconds")
        connection.execute(insert(tables.snapshots).values(name=name, created=created, description={}))
        for kind in described["kinds"]:
            _keep(connection, name, tables.metadata.tables[kind], wanted, criteria)
        described["rows"] = {kind: _facts(connection, name, kind) for kind in described["kinds"]}
        if not any(facts["count"] for facts in described["rows"].values()):
            raise DataError(f"snapshot `{name}` would be empty: nothing that stands is of these kinds and sources.")
        chosen = tables.snapshots.c.name == name
        connection.execute(tables.snapshots.update().where(chosen).values(description=described))
    return {"name": name, "created": created, **described}


def list_snapshots(store: Store) -> list[dict[str, Any]]:
    """Descriptions, oldest first."""
    table = tables.snapshots
    with store.database.reading() as connection:
        found = connection.execute(select(table).order_by(table.c.created, table.c.name))
        return [{"name": row.name, "created": row.created, **row.description} for row in found]


def verify_snapshot(store: Store, name: str) -> dict[str, Any]:
    """Compare a snapshot's rows, and all that they refer to, with what they were.

    Returns {"name", "is_unchanged", "rows": kind -> {"count", "sha256"} as they are, "changed": kinds that differ}.
    Raises DataError for an unknown name.
    """
    described = {found["name"]: found for found in list_snapshots(store)}
    if name not in described:
        there = ", ".join(described) or "none yet"
        raise DataError(f"there is no snapshot `{name}` ({there}).{nearest(name, described)}")
    expected = described[name]["rows"]
    with store.database.reading() as connection:
        rows = {kind: _facts(connection, name, kind) for kind in expected}
    changed = [kind for kind in expected if rows[kind] != expected[kind]]
    return {"name": name, "is_unchanged": not changed, "rows": rows, "changed": changed}


def _check(name: str, kinds: Sequence[str]) -> None:
    if not re.fullmatch(NAME, name):
        raise DataError(f"a snapshot's name is up to 64 letters, digits, dots, dashes and underscores, not {name!r}.")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise DataError(f"a snapshot holds {', '.join(KINDS)}, not `{unknown[0]}`.{nearest(unknown[0], KINDS)}")


def _keep(
    connection: Connection, name: str, table: Table, runs: Sequence[str] | None, criteria: Sequence[str] | None
) -> None:
    """Within the database: no row passes through this process."""
    wanted: list[ColumnElement[bool]] = [standing(connection, table)]
    is_demonstration = table is tables.demonstrations
    if runs is not None:
        wanted.append((table.c.source if is_demonstration else table.c.run).in_(runs))
    if criteria is not None and not is_demonstration:
        wanted.append(table.c.criterion.in_(criteria))
    chosen = select(literal(name), literal(table.name), table.c.id).where(*wanted)
    connection.execute(insert(tables.snapshot_members).from_select(["snapshot", "kind", "id"], chosen))


def _facts(connection: Connection, name: str, kind: str) -> dict[str, Any]:
    """How many members, and a SHA-256 over them in the order of their ids, with all that they refer to.

    A member whose row is gone counts, and is not in the hash.
    """
    members = tables.snapshot_members
    ours = (members.c.snapshot == name, members.c.kind == kind)
    count = int(connection.scalar(select(func.count()).select_from(members).where(*ours)) or 0)
    digest, write = hashlib.sha256(), json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
    query = _with_content(tables.metadata.tables[kind], name)
    for row in connection.execute(query, execution_options={"yield_per": ROWS_AT_ONCE}):
        digest.update(write(list(row)).encode() + b"\n")
    return {"count": count, "sha256": digest.hexdigest()}


def _with_content(table: Table, name: str) -> Select[Any]:
    """A row's own columns in the order of their names, the prompt, and the texts of the responses.

    The number of its import is not one: hashes of before there were such numbers hold.
    """
    columns: list[Any] = [table.c[column] for column in sorted(table.c.keys()) if column != "import_number"]
    prompts = tables.prompts
    joined: Any = table.outerjoin(prompts, prompts.c.id == table.c.prompt_id)
    columns += [prompts.c.messages, prompts.c.split]
    for side in ("first", "second", "response"):
        if side in table.c:
            response = tables.responses.alias(f"{side}_response")
            joined = joined.outerjoin(response, response.c.id == table.c[side])
            columns.append(response.c.text)
    return select(*columns).select_from(joined).where(in_snapshot(table, name)).order_by(table.c.id)
