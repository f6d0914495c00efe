"""Both databases for the tests that must hold on both: SQLite in a file, and a real PostgreSQL.

PostgreSQL is a server of the tests' own, made in a temporary folder from the machine's binaries (Debian: apt install
postgresql) and gone afterwards; or the one named by PLAUDIT_TEST_POSTGRESQL, where databases can be made. Where there
is neither, the tests that need it are skipped, and say so.
"""

from __future__ import annotations

import atexit
import functools
import glob
import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError

MISSING = "PostgreSQL is not installed (Debian: apt install postgresql), nor is PLAUDIT_TEST_POSTGRESQL set"


def _as_owner(command: list[str]) -> list[str]:
    """PostgreSQL refuses to be run by root, and its package brings a user of its own."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command


def _run(command: list[str]) -> None:
    done = subprocess.run(_as_owner(command), capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@functools.cache
def server() -> str | None:
    """URL of a server's own database; None where there is none to be had."""
    named = os.environ.get("PLAUDIT_TEST_POSTGRESQL")
    if named:
        return named.replace("postgresql://", "postgresql+psycopg://", 1)
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or [shutil.which("initdb")]
    if found[-1] is None:
        return None
    binaries = Path(found[-1]).parent
    folder = Path(tempfile.mkdtemp(prefix="plaudit-postgresql-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    _run([str(binaries / "initdb"), "-D", str(data), "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync"])
    # Nothing of it outlives the tests, so nothing needs to reach the disk.
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c max_connections=300"
    control = [str(binaries / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log")]
    _run([*control, "-o", options, "start"])

    def stop() -> None:
        subprocess.run(_as_owner([*control, "-m", "immediate", "stop"]), capture_output=True, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return f"postgresql+psycopg://tests@/postgres?host={folder}"


def _admin() -> Engine:
    place = server()
    if place is None:
        pytest.skip(MISSING)
    return create_engine(place, isolation_level="AUTOCOMMIT")


def postgresql_database():
    """The URL of a fresh database, dropped afterwards."""
    admin, name = _admin(), f"plaudit_test_{uuid.uuid4().hex[:12]}"
    try:
        with admin.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        pytest.skip(f"databases cannot be made at {admin.url.render_as_string()}: {reason}")
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
