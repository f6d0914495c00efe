"""Both databases for the tests that must hold on both: SQLite in a file, PostgreSQL in a database of its own."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

SERVER = os.environ.get("PLAUDIT_TEST_POSTGRESQL", "postgresql+psycopg:///postgres")
"""Where databases can be made; by default the local server, as the user who runs the tests."""


def _admin():
    return create_engine(SERVER, isolation_level="AUTOCOMMIT")


def postgresql_database():
    """The URL of a fresh database, dropped afterwards; skips where there is no server."""
    admin, name = _admin(), f"plaudit_test_{uuid.uuid4().hex[:12]}"
    try:
        with admin.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        pytest.skip(f"no PostgreSQL server that this user may make databases in ({SERVER}): {reason}")
    try:
        yield str(admin.url.set(database=name).render_as_string(hide_password=False))
    finally:
        with admin.connect() as connection:
            connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
        admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_place(request, tmp_path) -> Path | str:
    """Where Store.open finds an empty database: a path, or a URL."""
    if request.param == "sqlite":
        yield tmp_path / "feedback.sqlite"
    else:
        yield from postgresql_database()
