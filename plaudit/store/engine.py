"""The database behind the store: SQLite in a file, or PostgreSQL by its URL, brought to the newest schema.

SQLite runs in WAL mode with every commit on disk before it is acknowledged. Every writing transaction begins with
BEGIN IMMEDIATE: one that first reads and then writes cannot be upgraded when two writers meet, and would fail with
"database is locked". Writers of one process also queue at a lock of their own, since SQLite's waiting is unfair.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from plaudit.errors import WorkspaceError

NEWEST = "0003"
"""The newest revision in migrations/versions."""
OLDEST_KNOWN = 2
"""The schema version that revision 0001 stands for; versions were plain numbers before there were revisions."""
WRITER, MIGRATOR = 0x504C4155, 0x504C4156
"""Names of PostgreSQL's advisory locks."""


class Database:
    """Connections that read, and transactions that write."""

    def __init__(self, engine: Engine, name: str):
        self.engine = engine
        self.name = name
        """For messages: the file, or the URL without its password."""
        self._turn = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        """Else it is PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that sees one state of the data."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all that is written in it is kept, and on disk, or none."""
        if not self.is_sqlite:
            with self.engine.begin() as connection:
                yield connection
            return
        with self._turn, self.engine.connect().execution_options(plaudit_writes=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def writing_in_turn(self) -> Iterator[Connection]:
        """`writing`, one at a time over all processes, so that what is numbered here is committed in that order."""
        with self.writing() as connection:
            lock(connection, WRITER)
            yield connection


def lock(connection: Connection, name: int) -> None:
    """Hold a lock to the end of the transaction; SQLite has one writer in any case."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:name)"), {"name": name})


def open_database(where: Path | str) -> Database:
    """A file, made when it is missing, or the URL of a PostgreSQL database; brought to the newest schema.

    Raises WorkspaceError when it is no database, cannot be reached, or is newer than this Plaudit.
    """
    database = _postgresql(where) if isinstance(where, str) and "://" in where else _sqlite(Path(where))
    try:
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
    except DatabaseError as error:
        if "not a database" in str(error) or "malformed" in str(error):
            database.engine.dispose()
            raise WorkspaceError(f"{where} is not a feedback database; restore it or move it away.") from None
        raise
    return database


def _sqlite(path: Path) -> Database:
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False}, hide_parameters=True)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return Database(engine, str(path))


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
    if found is not None and found > NEWEST:
        raise WorkspaceError(f"{database.name} was written by a newer Plaudit (schema {found}; this one has {NEWEST}).")
    if found is not None and file is not None:
        _back_up(file, found)
    with database.writing() as connection:
        lock(connection, MIGRATOR)
        found = _revision(connection)  # another process may have done it meanwhile
        if found != NEWEST:
            _migrate(connection, found)


def _back_up(path: Path, revision: str) -> None:
    """A copy beside it before its schema changes."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    copy = path.with_name(f"{path.stem}.before-{revision}-{stamp}{path.suffix}")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    target.close()
    source.close()


def _migrate(connection: Connection, found: str | None) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    if found == "0001" and "alembic_version" not in inspect(connection).get_table_names():
        command.stamp(config, "0001")
    command.upgrade(config, "head")
