"""Threads are as many as may be used, and fewer for small models."""

import os

import pytest
import torch

from plaudit.config import resolve
from plaudit.models import threads
from plaudit.models.loading import load_causal


@pytest.fixture
def machine(monkeypatch):
    """Sixteen processors, PyTorch's threads remembered, and nothing loaded yet."""
    set_to = []
    now = {"threads": 16}

    def set_threads(number):
        set_to.append(number)
        now["threads"] = number

    monkeypatch.setattr(torch, "set_num_threads", set_threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: now["threads"])
    monkeypatch.setattr(threads, "_largest", 0)
    monkeypatch.setattr(threads, "usable_processors", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads._say_once.cache_clear()
    return set_to


@pytest.mark.parametrize(("weights", "number"), [(260_000, 1), (3_900_000, 1), (4_000_000, 2), (20_000_000, 10)])
def test_small_models_compute_on_fewer_threads(machine, capsys, weights, number):
    assert threads.use("auto", weights) == number
    assert machine == [number]
    err = capsys.readouterr().err
    assert f"Computing on {number} thread" in err
    assert "of 16 that may be used" in err
    threads.use("auto", weights)
    assert capsys.readouterr().err == ""


def test_large_models_compute_on_all(machine, capsys):
    assert threads.use("auto", 135_000_000) == 16
    assert machine == []
    assert capsys.readouterr().err == ""


def test_the_largest_model_in_memory_counts(machine):
    threads.use("auto", 260_000)
    threads.use("auto", 20_000_000)
    threads.use("auto", 260_000)
    assert machine == [1, 10]


def test_what_somebody_has_set_is_kept(machine, monkeypatch):
    assert threads.use(3, 260_000) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads.use("auto", 260_000) == 3
    assert machine == [3]


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


@pytest.mark.parametrize(
    ("quota", "number"), [("max 100000", 64), ("400000 100000", 4), ("150000 100000", 1), ("20000 100000", 1)]
)
def test_a_containers_share_of_time_counts(tmp_path, monkeypatch, quota, number):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    write(tmp_path / "cgroup", cpu__max=quota)
    assert threads.usable_processors(tmp_path / "cgroup", tmp_path / "nothing") == number


def test_the_least_share_of_all_groups_around_the_process_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    root = tmp_path / "cgroup"
    write(root / "a", cpu__max="600000 100000")
    write(root / "a" / "b", cpu__max="max 100000")
    (tmp_path / "self").write_text("0::/a/b\n")
    assert threads.usable_processors(root, tmp_path / "self") == 6


def test_older_control_groups_are_read_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    root = tmp_path / "cgroup"
    write(root / "cpu" / "docker", cpu__cfs_quota_us="300000\n", cpu__cfs_period_us="100000\n")
    (tmp_path / "self").write_text("5:memory:/docker\n4:cpu,cpuacct:/docker\n")
    assert threads.usable_processors(root, tmp_path / "self") == 3
    write(root / "cpu" / "docker", cpu__cfs_quota_us="-1\n")
    assert threads.usable_processors(root, tmp_path / "self") == 64


def test_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    write(tmp_path, cpu__max="800000 100000")
    assert threads.usable_processors(tmp_path, tmp_path / "nothing") == 2


def test_a_model_that_is_loaded_sets_its_threads(machine, tiny_model):
    load_causal(str(tiny_model), resolve(overrides=["model.dtype=float32"]).model)
    assert machine == [1]
    load_causal(str(tiny_model), resolve(overrides=["model.dtype=float32", "model.threads=5"]).model)
    assert machine == [1, 5]


@pytest.mark.parametrize(("load", "policy"), [(9.0, "PASSIVE"), (1.0, None)])
def test_on_a_busy_machine_waiting_threads_give_way(monkeypatch, load, policy):
    from plaudit.cli import ending

    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that it is put back
    monkeypatch.delenv("OMP_WAIT_POLICY")
    ending._give_way_where_busy()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    ending._give_way_where_busy()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
