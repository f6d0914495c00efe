"""Who did what, when: a chain of rows in which each holds the hash of the one before.

hash = SHA-256(hash of the row before + created + actor + action + details), so that a row that is changed, taken out or
put in between breaks the chain at that place. The row is written in the transaction of what it tells of.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from plaudit.store import tables
from plaudit.store.engine import WRITER, lock
from plaudit.timing import now

BEGINNING = "0" * 64


def record(connection: Connection, actor: str, action: str, **details: Any) -> None:
    """Add to the chain, in the open transaction of what happened."""
    lock(connection, WRITER)
    newest = select(tables.audit.c.hash).order_by(tables.audit.c.number.desc()).limit(1)
    before = connection.scalar(newest) or BEGINNING
    row = {"created": now(), "actor": actor, "action": action}
    row["details"] = json.dumps(details, sort_keys=True, ensure_ascii=False)
    connection.execute(tables.audit.insert().values(**row, hash=_hash(before, row)))


@dataclass(frozen=True)
class Checked:
    """What was found of the chain."""

    records: int
    first_broken: int | None
    """Number of the first row that does not follow from the one before it; None when the chain is whole."""
    newest: str
    """Hash of the last row. Whoever can write the database can make a chain anew: keep this elsewhere to see it."""


def check(connection: Connection) -> Checked:
    """Go through the whole chain."""
    before, records = BEGINNING, 0
    query = select(tables.audit).order_by(tables.audit.c.number).execution_options(yield_per=1000)
    for row in connection.execute(query).mappings():
        records += 1
        if row["hash"] != _hash(before, dict(row)):
            return Checked(records, int(row["number"]), before)
        before = row["hash"]
    return Checked(records, None, before)


def _hash(before: str, row: dict[str, Any]) -> str:
    said = [before, *(row[name] for name in ("created", "actor", "action", "details"))]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()
