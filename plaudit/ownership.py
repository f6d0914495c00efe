"""Who works on a folder: one process at a time, and the others are told which.

The owner holds a lock on a file in the folder (flock), which the system takes back when the process ends, however it
ends: so a folder whose owner is gone is known at once, also after kill -9, and by other containers on the machine. On a
file system without such locks a process of this machine is looked for by its number.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plaudit.errors import WorkspaceError
from plaudit.timing import now

OWNER = "owner.json"
"""The locked file, which says who has it or had it last."""
TRIES, BETWEEN = 20, 0.05
"""Looking whether a lock is held takes it for a moment: who is refused tries again, for a second, with such breaks."""


@contextmanager
def owned(folder: Path, what: str) -> Iterator[None]:
    """Within the block no other process, and no other thread, owns the folder.

    what   how to call it in the message

    Raises WorkspaceError when somebody else does, and says who.
    """
    descriptor = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _take(descriptor, folder):
            raise WorkspaceError(
                f"{what} is being worked on by {described(_written(folder))}. Wait for it to end, or stop it first."
            )
        me = {"process": os.getpid(), "host": socket.gethostname(), "since": now()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(me) + "\n").encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # which gives the lock back


def living_owner(folder: Path) -> dict[str, Any] | None:
    """Who owns the folder now; None when nobody does."""
    try:
        descriptor = os.open(folder / OWNER, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written(folder)
    except OSError:
        return _alive(_written(folder))
    finally:
        os.close(descriptor)
    return None


def described(owner: dict[str, Any] | None) -> str:
    """`process 4711 on HOST since TIME`."""
    if not owner or "process" not in owner:
        return "another process"
    return f"process {owner['process']} on {owner.get('host', 'this machine')} since {owner.get('since', 'just now')}"


def _take(descriptor: int, folder: Path) -> bool:
    for _ in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(BETWEEN)
        except OSError:  # no locks on this file system
            return _alive(_written(folder)) is None
        else:
            return True
    return False


def _written(folder: Path) -> dict[str, Any]:
    """What the file says; nothing while it is being written."""
    try:
        content = json.loads((folder / OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _alive(owner: dict[str, Any]) -> dict[str, Any] | None:
    """The owner, unless it is a process of this machine that is gone."""
    if not owner:
        return None
    if owner.get("host") != socket.gethostname():
        return owner
    try:
        os.kill(int(owner["process"]), 0)
    except (ProcessLookupError, ValueError, KeyError):
        return None
    except PermissionError:
        return owner
    return owner
