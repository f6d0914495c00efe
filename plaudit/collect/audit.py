"""Who did what, when: a chain of rows in which each holds the hash of the one before.

hash = SHA-256(hash of the row before + created + actor + action + details), so that a row that is changed, taken out or
put in between breaks the chain at that place. The row is written in the transaction of what it tells of.
"""

from __future__ import annotations

import hashlib
import json
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


def first_broken(connection: Connection) -> int | None:
    """The number of the first row that does not follow from the one before it; None when the chain is whole.

    What a change to the newest rows would leave: nothing. Keep the newest hash elsewhere to be safe from that too.
    """
    before = BEGINNING
    for row in connection.execute(select(tables.audit).order_by(tables.audit.c.number)).mappings():
        if row["hash"] != _hash(before, dict(row)):
            return int(row["number"])
        before = row["hash"]
    return None


def _hash(before: str, row: dict[str, Any]) -> str:
    said = [before, *(row[name] for name in ("created", "actor", "action", "details"))]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()
