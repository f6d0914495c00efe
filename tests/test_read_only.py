"""A workspace that cannot be written can be looked at; what would write into it says so."""

import ctypes
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import TINY, make_model, write_lines

import plaudit
from plaudit.config import resolve

DROP_FROM_BOUND, PASS_OVER_MODES = 24, 1
"""prctl's PR_CAPBSET_DROP, and the capability CAP_DAC_OVERRIDE, by which root writes what is read-only."""


@pytest.fixture(scope="module")
def place():
    """A folder that can be taken away at the end."""
    folder = Path(tempfile.mkdtemp(prefix="plaudit-read-only-"))
    yield folder
    subprocess.run(["chmod", "-R", "u+w", folder], check=False)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def locked(place):
    """A workspace of a complete run and some comparisons, of which nothing may be written."""
    made = plaudit.init(place / "w", config=resolve(overrides=TINY))
    rows = [
        {"prompt": f"q{i}", "chosen": "good", "rejected": "bad", "annotator": who} for i in range(9) for who in "ab"
    ]
    plaudit.import_file(made.store, write_lines(place / "c.jsonl", rows), kind="comparisons")
    with made.new_run("sft", made.config(), parents={"model": "x"}) as run:
        make_model(run.model_folder)
    made.store.database.engine.dispose()
    write_lines(place / "answers.jsonl", [{"prompt": "q", "completion": "a"}])
    (place / "out").mkdir()
    for path in (place / "w").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (place / "w").chmod(0o555)
    return place / "w"


def call(*arguments, cwd):
    """As somebody for whom modes of files count, which for root they do not."""
    libc = ctypes.CDLL(None)
    become = (lambda: libc.prctl(DROP_FROM_BOUND, PASS_OVER_MODES, 0, 0, 0)) if os.geteuid() == 0 else None
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "plaudit", *map(str, arguments)], preexec_fn=become, capture_output=True, text=True,
        env=environment, cwd=cwd, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["status"], ["agreement"], ["snapshot", "list"], ["campaign", "list"],
        ["export", "data", "{out}/data"], ["export", "sft-001", "{out}/model"],
        ["chat", "sft-001", "-m", "what is tea", "--max-new-tokens", "2"], ["sft", "--dry-run"], ["audit", "verify"],
    ],
    ids=lambda command: " ".join(command[:2]),
)  # fmt: skip
def test_commands_that_only_read_work(locked, command):
    words = [word.format(out=locked.parent / "out") for word in command]
    code, out, err = call(*words, "-w", locked, cwd=locked.parent)
    assert code == 0, err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "sample.policy=sft-001"], ["import", "{out}/../c.jsonl", "--kind", "comparisons"],
        ["snapshot", "make", "one"], ["people", "invite"], ["sft", "--resume", "sft-001"],
    ],
    ids=lambda command: " ".join(command[:2]),
)  # fmt: skip
def test_commands_that_write_say_what_cannot_be_written(locked, command):
    words = [word.format(out=locked.parent / "out") for word in command]
    code, out, err = call(*words, "-w", locked, cwd=locked.parent)
    assert code == 2
    assert "Traceback" not in out + err
    assert str(locked) in err
    assert err.strip().count("plaudit: ") == 1


def test_what_stands_in_the_log_of_a_workspace_that_was_cut_off_is_read_too(place):
    folder = plaudit.init(place / "cut").path
    database = folder / "feedback.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("INSERT INTO prompts (id, messages, split, source) VALUES ('a', '[]', 'train', 'x')")
        connection.commit()
        copy = place / "killed"
        shutil.copytree(folder, copy)
    connection.close()
    (copy / "feedback.sqlite-shm").unlink()
    assert (copy / "feedback.sqlite-wal").stat().st_size > 0
    for path in copy.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    copy.chmod(0o555)
    code, out, err = call("status", "-w", copy, "--json", cwd=place)
    assert code == 0, err
    assert json.loads(out)["data"]["prompts"] == 1


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%20b", "ä ö", "file:x", "a&mode=ro"])
def test_a_workspace_may_be_called_anything(tmp_path, name):
    made = plaudit.init(tmp_path / name)
    assert (tmp_path / name / "feedback.sqlite").exists()
    plaudit.import_file(made.store, write_lines(tmp_path / "p.jsonl", [{"prompt": "q"}]), kind="prompts")
    assert plaudit.Workspace(tmp_path / name).store.counts()["prompts"] == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [name]


def test_a_workspace_of_an_older_schema_is_read_too(place):
    """Which cannot be brought up to date where it is."""
    folder = plaudit.init(place / "older").path
    database = folder / "feedback.sqlite"
    with sqlite3.connect(database) as connection:
        for table in ("prompts", "demonstrations", "comparisons", "labels"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN import_number")
        for table in ("exclusion_members", "exclusions", "corrections", "imports"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE alembic_version SET version_num = '0002'")
        connection.execute("INSERT INTO prompts VALUES ('a', '[]', 'train', 'x')")
        connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    before = database.read_bytes()
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)
    code, out, err = call("status", "-w", folder, cwd=place)
    assert (code, "prompts: 1" in out) == (0, True), err
    code, _, err = call("import", place / "c.jsonl", "--kind", "comparisons", "-w", folder, cwd=place)
    assert (code, "cannot be written here" in err) == (2, True)
    assert database.read_bytes() == before
