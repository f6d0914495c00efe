"""The database behind the store: SQLite in a file, or PostgreSQL by its URL, brought to the newest schema.

A SQLite file that cannot be written is opened to read it alone.

SQLite runs in WAL mode with every commit on disk before it is acknowledged. Every writing transaction begins with
BEGIN IMMEDIATE: one that first reads and then writes cannot be upgraded when two writers meet, and would fail with
"database is locked". Writers of one process also queue at a lock of their own, since SQLite's waiting is unfair.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from plaudit.errors import DatabaseFailed, WorkspaceError
from plaudit.progress import say

NEWEST = "0003"
"""The newest revision in migrations/versions."""
OLDEST_KNOWN = 2
"""The schema version that revision 0001 stands for; versions were plain numbers before there were revisions."""
WRITER, MIGRATOR = 0x504C4155, 0x504C4156
"""Names of PostgreSQL's advisory locks."""


class Database:
    """Connections that read, and transactions that write."""

    def __init__(self, engine: Engine, name: str, *, read_only: bool = False):
        self.engine = engine
        self.name = name
        """For messages: the file, or the URL without its password."""
        self.read_only = read_only
        self._turn = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        """Else it is PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that sees one state of the data. Raises WorkspaceError where the database fails."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self._told(), self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all that is written in it is kept, and on disk, or none. Raises as `reading`."""
        if self.read_only:
            raise DatabaseFailed(_not_written(self.name))
        if not self.is_sqlite:
            with self._told(), self.engine.begin() as connection:
                yield connection
            return
        with self._told(), self._turn:
            begun = self.engine.connect().execution_options(plaudit_writes=True)
            with begun as connection, connection.begin():
                yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the database's own errors mean for who uses it."""
        try:
            yield
        except DatabaseError as error:
            if (meaning := _meaning(error, self)) is None:
                raise
            raise DatabaseFailed(meaning) from None

    @contextmanager
    def writing_in_turn(self) -> Iterator[Connection]:
        """`writing`, one at a time over all processes, so that what is numbered here is committed in that order."""
        with self.writing() as connection:
            lock(connection, WRITER)
            yield connection


DAMAGED = ("malformed", "not a database", "database corruption", "no such table", "no such column", "bad parameter")


def _meaning(error: DatabaseError, database: Database) -> str | None:
    """None for what is about the rows, or about the disk."""
    said, name = str(error.orig), database.name
    if not database.is_sqlite:
        reason = said.strip().splitlines()[0] if said.strip() else type(error).__name__
        return f"the database {name} cannot be used: {reason}" if isinstance(error, OperationalError) else None
    if any(sign in said for sign in DAMAGED):
        return (
            f"the database {name} is damaged ({said}). Restore it from a copy, together with its -wal file if that has "
            f"one; what can be read of it `sqlite3 {name} .recover` gives out."
        )
    if "readonly" in said or "read-only" in said:
        return _not_written(name)
    if "unable to open" in said:
        return f"the database {name} cannot be opened: see who may read and write it, and its folder."
    if "locked" in said:
        return f"the database {name} is busy: another process has been writing to it for half a minute. Try again."
    return None


def _not_written(name: str) -> str:
    return (
        f"{name} cannot be written here. Commands that only read work; for the others copy the workspace to where you "
        "may write."
    )


def lock(connection: Connection, name: int) -> None:
    """Hold a lock to the end of the transaction; SQLite has one writer in any case."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:name)"), {"name": name})


def open_database(where: Path | str) -> Database:
    """A file, made when it is missing, or the URL of a PostgreSQL database; brought to the newest schema.

    A file that cannot be written, or whose folder cannot, is opened to read alone; one of an older schema as a copy.

    Raises WorkspaceError when it is no database, cannot be reached, or is newer than this Plaudit.
    """
    database = _postgresql(where) if isinstance(where, str) and "://" in where else _sqlite(Path(where))
    try:
        if database.read_only:
            return _readable(database, Path(where))
        _bring_up_to_date(database, None if isinstance(where, str) and "://" in where else Path(where))
    except OperationalError as error:
        if database.is_sqlite:
            raise
        database.engine.dispose()
        reason = str(error.orig).strip().splitlines()[0]
        raise WorkspaceError(
            f"the database {database.name} cannot be used: {reason}\n"
            "Is PostgreSQL running there, and has the database been made (createdb)?"
        ) from None
    except WorkspaceError:
        database.engine.dispose()
        raise
    return database


def _sqlite(path: Path) -> Database:
    url = URL.create("sqlite", database=str(path))  # as a text a `?` or `#` in it would end it
    options: dict[str, Any] = {"connect_args": {"check_same_thread": False}, "hide_parameters": True}
    read_only = path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    if read_only:
        address = _to_read(path)
        options["creator"] = lambda: sqlite3.connect(address, uri=True, check_same_thread=False)
    engine = create_engine(url, **options)
    event.listen(engine, "connect", _configure_to_read if read_only else _configure)
    event.listen(engine, "begin", _begin)
    return Database(engine, str(path), read_only=read_only)


def _to_read(path: Path) -> str:
    """The address of a file that this process cannot write.

    Where somebody is writing, or was cut off, there is a -wal file, which is read too, through a -shm file that is
    there, or else in a copy of both. Where there is none nobody is writing, and the file alone is all.
    """
    address = path.absolute().as_uri()
    log = path.with_name(path.name + "-wal")
    if not log.exists() or log.stat().st_size == 0:
        return f"{address}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{address}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error:
        folder = Path(tempfile.mkdtemp(prefix="plaudit-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for part in (path, log):
            shutil.copy(part, folder / part.name)
        return (folder / path.name).as_uri()
    return f"{address}?mode=ro"


def _postgresql(url: str) -> Database:
    driven, ours = re.subn(r"^postgres(ql)?(\+psycopg)?://", "postgresql+psycopg://", url)
    if not ours:
        raise WorkspaceError(f"{url.partition(':')[0]}: only PostgreSQL, or SQLite in the workspace, is known.")
    try:
        engine = create_engine(driven, pool_pre_ping=True, pool_size=16, max_overflow=48, hide_parameters=True)
    except ModuleNotFoundError:
        raise WorkspaceError("PostgreSQL needs its driver: pip install 'plaudit[postgres]'.") from None
    except ArgumentError:
        raise WorkspaceError("the database's address must look like postgresql://user@host:5432/name.") from None
    return Database(engine, engine.url.render_as_string(hide_password=True))


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _configure_to_read(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout=30000")


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("plaudit_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _revision(connection: Connection) -> str | None:
    """None for an empty database; 0001 for one of the time before revisions."""
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" in tables:
        return str(connection.scalar(text("SELECT version_num FROM alembic_version")))
    if "plaudit_schema" not in tables:
        return None
    version = connection.scalar(text("SELECT version FROM plaudit_schema"))
    if version != OLDEST_KNOWN:
        raise WorkspaceError(
            f"the feedback database has schema version {version}; this Plaudit reads version {OLDEST_KNOWN} and newer. "
            "Use the version of Plaudit that made it."
        )
    return "0001"


def _bring_up_to_date(database: Database, file: Path | None) -> None:
    with database.reading() as connection:
        found = _revision(connection)
    if found == NEWEST:
        return
    _check_not_newer(database, found)
    if found is not None:
        copied = f"; the state before is {_back_up(file, found).name}" if file is not None else ""
        say(f"{database.name} is brought from schema {found} to {NEWEST}{copied}.")
    with database.writing() as connection:
        lock(connection, MIGRATOR)
        found = _revision(connection)  # another process may have done it meanwhile
        if found != NEWEST:
            _migrate(connection, found)


def _readable(database: Database, path: Path) -> Database:
    """A database that cannot be written, or where its schema is an older one, a copy that is brought to the newest."""
    with database.reading() as connection:
        found = _revision(connection)
    if found is None or found >= NEWEST:
        _check_not_newer(database, found)
        return database
    folder = Path(tempfile.mkdtemp(prefix="plaudit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / path.name
    with closing(sqlite3.connect(_to_read(path), uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    database.engine.dispose()
    made = _sqlite(copy)
    with made.writing() as connection:
        _migrate(connection, found)
    return Database(made.engine, str(path), read_only=True)


def _check_not_newer(database: Database, found: str | None) -> None:
    if found is not None and found > NEWEST:
        raise WorkspaceError(f"{database.name} was written by a newer Plaudit (schema {found}; this one has {NEWEST}).")


def _back_up(path: Path, revision: str) -> Path:
    """A copy beside it before its schema changes; returns where it is."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    copy = path.with_name(f"{path.stem}.before-{revision}-{stamp}{path.suffix}")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    target.close()
    source.close()
    return copy


def _migrate(connection: Connection, found: str | None) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    if found == "0001" and "alembic_version" not in inspect(connection).get_table_names():
        command.stamp(config, "0001")
    command.upgrade(config, "head")
