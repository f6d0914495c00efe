import pytest

import plaudit
from plaudit.config import Config, resolve
from plaudit.errors import WorkspaceError
from plaudit.files import write_json
from plaudit.workspace import Run, Sources


@pytest.fixture
def empty(tmp_path):
    return plaudit.init(tmp_path / "w")


def test_a_workspace_is_not_made_twice(empty):
    with pytest.raises(WorkspaceError, match="nothing was changed"):
        plaudit.init(empty.path)


def test_runs_are_numbered_and_the_newest_complete_one_is_found(empty):
    for _ in range(2):
        with empty.new_run("sft", Config(), parents={}):
            pass
    with pytest.raises(RuntimeError, match="broken"), empty.new_run("sft", Config(), parents={}):
        raise RuntimeError("broken")
    assert [(r.name, r.status) for r in empty.runs()] == [
        ("sft-001", "complete"),
        ("sft-002", "complete"),
        ("sft-003", "failed"),
    ]
    assert empty.run("latest:sft").name == "sft-002"


def test_a_metrics_line_cut_off_by_a_crash_is_not_a_step(empty):
    with empty.new_run("sft", Config(), parents={}) as run:
        run.log(1, loss=2.0)
        run.log(2, loss=1.5, accuracy=None)
    with open(run.path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 3, "lo')
    assert run.metrics() == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
    run.drop_metrics_from(2)
    assert run.metrics() == [{"step": 1, "loss": 2.0}]


def test_a_complete_run_is_not_resumed(empty):
    with empty.new_run("sft", Config(), parents={}):
        pass
    with pytest.raises(WorkspaceError, match="nothing to resume"), empty.resume_run("sft-001", "sft"):
        pass
    with pytest.raises(WorkspaceError, match="of kind `sft`"), empty.resume_run("sft-001", "rl"):
        pass


def test_not_a_number_is_refused_rather_than_written(empty):
    with pytest.raises(ValueError, match="not JSON compliant"), empty.new_run("sft", Config(), parents={}) as run:
        run.update(result={"loss": float("nan")})
    assert run.status == "failed"


def test_an_address_that_is_none_is_refused_and_makes_no_file(tmp_path, monkeypatch):
    import plaudit
    from plaudit.errors import WorkspaceError

    plaudit.init(tmp_path / "w")
    monkeypatch.chdir(tmp_path)
    for wrong in ("mydb", "postgres//localhost"):
        monkeypatch.setenv("PLAUDIT_DATABASE", wrong)
        with pytest.raises(WorkspaceError, match="PLAUDIT_DATABASE` must be an address"):
            plaudit.Workspace(tmp_path / "w")
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_runs_of_earlier_versions_had_their_sources_among_their_parents(empty):
    old = {"model": "sft-001", "comparisons_0": "judge-001", "comparisons_1": "snapshot:a", "labels_0": "import-b"}
    with empty.new_run("reward", Config(), parents=old | {"demonstrations import-c": "import-c"}) as run:
        info = {name: value for name, value in run.info.items() if name != "sources"}
        write_json(run.path / "run.json", info)
        read = Run(run.path)
    assert read.parents == {"model": "sft-001"}
    assert read.sources == Sources(("judge-001", "snapshot:a"), ("import-b",), ("import-c",))
    assert read.sources.names == {"judge-001", "snapshot:a", "import-b", "import-c"}


def test_a_run_is_found_again_by_settings_parents_sources_and_data(empty):
    made_from = {"parents": {"model": "a"}, "sources": Sources(comparisons=("judge-001",)), "data": {"x": 1}}
    with empty.new_run("reward", Config(), **made_from) as run:
        pass
    assert empty.find_run("reward", Config(), **made_from).name == run.name
    other_threads = resolve(overrides=["model.threads=1", "rl.steps=7"])
    assert empty.find_run("reward", other_threads, **made_from).name == run.name
    assert empty.find_run("reward", resolve(overrides=["reward.epochs=2"]), **made_from) is None
    assert empty.find_run("sft", Config(), **made_from) is None
    for changed in ({"parents": {"model": "b"}}, {"sources": Sources(labels=("judge-001",))}, {"data": {"x": 2}}):
        assert empty.find_run("reward", Config(), **made_from | changed) is None
    run.update(status="failed")
    assert empty.find_run("reward", Config(), **made_from).name == run.name
    with empty.new_run("evaluate", Config(), **made_from) as run:
        pass
    run.update(status="failed")
    assert empty.find_run("evaluate", Config(), **made_from) is None
