"""Answers that were paid for, and what was paid, in one SQLite file beside a run.

Before a request is sent its worst case is entered; when its answer comes, that is replaced by what it took, in the same
transaction that keeps the answer. What is still entered when a program is killed counts as spent ever after.
"""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from plaudit.errors import JudgeError

FILE_NAME = "endpoint.sqlite"
UNITS = 10**12
"""Costs are whole numbers of a 10^12th of the currency, so that sums are exact."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS under_way (
  id INTEGER PRIMARY KEY AUTOINCREMENT, tokens INTEGER NOT NULL, cost INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS spent (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  requests INTEGER NOT NULL DEFAULT 0,
  prompt_tokens INTEGER NOT NULL DEFAULT 0,
  completion_tokens INTEGER NOT NULL DEFAULT 0,
  cost INTEGER NOT NULL DEFAULT 0,
  unknown_tokens INTEGER NOT NULL DEFAULT 0,
  unknown_cost INTEGER NOT NULL DEFAULT 0
);
INSERT OR IGNORE INTO spent (id) VALUES (1);
"""


@dataclass(frozen=True)
class Totals:
    """The ledger of a folder; costs in UNITS."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: int
    unknown_tokens: int
    unknown_cost: int


class Ledger:
    """Raises JudgeError where its file cannot be read or written. Threads, objects and processes may share a file."""

    def __init__(self, folder: Path | None):
        self._keeps_answers = folder is not None
        self._name = ":memory:" if folder is None else str(folder / FILE_NAME)
        self._lock = threading.RLock()
        self._mine: dict[int, tuple[int, int]] = {}
        with self._explained():
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._name, timeout=60, isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._connection.close)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(SCHEMA)

    def find(self, key: str) -> str | None:
        """The answer that was kept, as text."""
        with self._lock, self._explained():
            row = self._connection.execute("SELECT reply FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def reserve(self, tokens: int, cost: int, *, most_tokens: int | None, most_cost: int | None) -> int | None:
        """Enter a request's worst case; None, and nothing is entered, when it may pass a budget."""
        with self._transaction():
            totals = self._totals()
            all_tokens = totals.prompt_tokens + totals.completion_tokens + totals.unknown_tokens + tokens
            if most_tokens is not None and all_tokens > most_tokens:
                return None
            if most_cost is not None and totals.cost + totals.unknown_cost + cost > most_cost:
                return None
            entered = self._connection.execute("INSERT INTO under_way (tokens, cost) VALUES (?, ?)", (tokens, cost))
            self._connection.execute("UPDATE spent SET requests = requests + 1")
            assert entered.lastrowid is not None
            self._mine[entered.lastrowid] = (tokens, cost)
            return entered.lastrowid

    @property
    def reserved(self) -> int:
        """Requests of this object whose outcome is not yet known."""
        return len(self._mine)

    def settle(self, entry: int, key: str, reply: str, taken: tuple[int, int, int] | None) -> None:
        """Keep an answer, and what it took: (prompt tokens, completion tokens, cost); None where nobody knows."""
        with self._transaction():
            if self._keeps_answers:
                self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, reply))
            if taken is None:
                self._lose(entry)
                return
            self._connection.execute(
                "UPDATE spent SET prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?, "
                "cost = cost + ?",
                taken,
            )
            self._remove(entry)

    def release(self, entry: int, *, sent: bool) -> None:
        """A request that nothing was charged for."""
        with self._transaction():
            self._remove(entry)
            if not sent:
                self._connection.execute("UPDATE spent SET requests = requests - 1")

    def lose(self, entry: int) -> None:
        """A request of which nobody knows what it took: its worst case stays."""
        with self._transaction():
            self._lose(entry)

    def abandon(self, entry: int) -> None:
        """Do as `lose` without writing: for when the program is being stopped."""
        with self._lock:
            self._mine.pop(entry, None)

    def totals(self) -> Totals:
        """What was spent; what this object has under way is not yet in it."""
        with self._lock, self._explained():
            everything = self._totals()
            tokens, cost = (sum(entry[place] for entry in self._mine.values()) for place in (0, 1))
        unknown = (everything.unknown_tokens - tokens, everything.unknown_cost - cost)
        return Totals(
            everything.requests, everything.prompt_tokens, everything.completion_tokens, everything.cost, *unknown
        )

    def _totals(self) -> Totals:
        """Totals with everything under way as unknown."""
        return Totals(
            *self._connection.execute(
                "SELECT requests, prompt_tokens, completion_tokens, cost, "
                "unknown_tokens + (SELECT coalesce(sum(tokens), 0) FROM under_way), "
                "unknown_cost + (SELECT coalesce(sum(cost), 0) FROM under_way) FROM spent"
            ).fetchone()
        )

    def _lose(self, entry: int) -> None:
        self._connection.execute(
            "UPDATE spent SET unknown_tokens = unknown_tokens + ?, unknown_cost = unknown_cost + ?", self._mine[entry]
        )
        self._remove(entry)

    def _remove(self, entry: int) -> None:
        self._connection.execute("DELETE FROM under_way WHERE id = ?", (entry,))
        del self._mine[entry]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._explained():
            mine = dict(self._mine)
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._mine = mine
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise JudgeError(
                f"{self._name}, where answers and what they cost are kept, cannot be used: {error}.\n"
                "Check the free disk space and who may write there, then resume. Without it answers were paid twice."
            ) from None
