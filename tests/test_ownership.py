"""One process at a time works on a run, and the others are told which."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import plaudit
from plaudit.config import Config
from plaudit.errors import WorkspaceError
from plaudit.ownership import OWNER, described, living_owner, owned

HOLD = """
import sys, time, plaudit
from plaudit.config import Config
workspace = plaudit.Workspace(sys.argv[1])
with workspace.new_run("sft", Config(), parents={}):
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def empty(tmp_path):
    return plaudit.init(tmp_path / "w")


@pytest.fixture
def elsewhere(empty):
    """A process of its own that works on sft-001."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(empty.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_that_another_process_works_on_is_refused_with_the_process(empty, elsewhere):
    assert empty.begun("sft-001").status == "running"
    with (
        pytest.raises(WorkspaceError, match=rf"worked on by process {elsewhere.pid} on .* since 20"),
        empty.resume_run("sft-001", "sft"),
    ):
        pass
    with pytest.raises(WorkspaceError, match=f"worked on by process {elsewhere.pid}"):
        empty.run("sft-001")
    assert empty.begun("sft-001").status == "running"
    assert json.loads((empty.path / "runs/sft-001/run.json").read_text())["status"] == "running"


def test_a_run_whose_process_was_killed_is_interrupted_and_goes_on(empty, elsewhere):
    elsewhere.send_signal(signal.SIGKILL)
    elsewhere.wait()
    assert empty.begun("sft-001").status == "interrupted"
    with pytest.raises(WorkspaceError, match=r"interrupted. Go on with it: `plaudit sft --resume sft-001 --workspace"):
        empty.run("sft-001")
    with empty.resume_run("sft-001", "sft") as run:
        assert run.status == "running"
    assert empty.run("sft-001").status == "complete"


def test_a_run_of_the_time_before_there_were_owners_is_interrupted(empty):
    with empty.new_run("sft", Config(), parents={}) as run:
        pass
    run.update(status="running")
    (run.path / OWNER).unlink()
    assert empty.begun("sft-001").status == "interrupted"


def test_the_same_process_does_not_own_a_folder_twice(tmp_path):
    with owned(tmp_path, "it"):
        with pytest.raises(WorkspaceError, match=f"worked on by process {os.getpid()}"), owned(tmp_path, "it"):
            pass
        assert living_owner(tmp_path)["process"] == os.getpid()
    assert living_owner(tmp_path) is None
    with owned(tmp_path, "it"):
        pass


def test_who_is_refused_waits_for_those_who_only_look(tmp_path):
    """Looking takes the lock for a moment."""
    import fcntl
    import threading

    with owned(tmp_path, "it"):
        pass
    looking = os.open(tmp_path / OWNER, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.2, os.close, [looking]).start()
    with owned(tmp_path, "it"):
        pass


def test_without_locks_a_process_is_looked_for_by_its_number(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(95, "not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    with owned(tmp_path, "it"):
        assert living_owner(tmp_path)["process"] == os.getpid()
        with pytest.raises(WorkspaceError, match="worked on by"), owned(tmp_path, "it"):
            pass
    with owned(tmp_path, "it"):
        pass
    dead = subprocess.Popen(["true"])
    dead.wait()
    import socket

    (tmp_path / OWNER).write_text(json.dumps({"process": dead.pid, "host": socket.gethostname(), "since": "then"}))
    assert living_owner(tmp_path) is None
    (tmp_path / OWNER).write_text(json.dumps({"process": dead.pid, "host": "another-machine", "since": "then"}))
    assert described(living_owner(tmp_path)) == f"process {dead.pid} on another-machine since then"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_scheduler_that_ends_the_process_leaves_an_interrupted_run_and_one_message(workspace, number, code):
    command = [sys.executable, "-m", "plaudit", "sft", "-w", str(workspace.path), "sft.epochs=4000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (workspace.path / "runs" / "sft-001" / "checkpoint.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert f"Stopped by {signal.Signals(number).name}." in err
    assert "Go on with it: `plaudit sft --resume sft-001" in err
    assert json.loads((workspace.path / "runs/sft-001/run.json").read_text())["status"] == "interrupted"


def test_a_signal_that_is_ignored_stays_ignored(workspace):
    """As under nohup."""
    command = [sys.executable, "-m", "plaudit", "sft", "-w", str(workspace.path), "sft.epochs=6"]
    process = subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    deadline = time.monotonic() + 120
    while not (workspace.path / "runs" / "sft-001" / "run.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 0
