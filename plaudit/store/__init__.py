"""The feedback database and the files that go in and out of it."""

from plaudit.store.database import Store

__all__ = ["Store"]
