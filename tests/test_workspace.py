import pytest

import plaudit
from plaudit.config import Config
from plaudit.errors import WorkspaceError


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
