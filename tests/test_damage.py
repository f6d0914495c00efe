"""What a crash, a power cut or a bad disk leaves is told as what it is, and stops no more than it must."""

import json
import shutil

import pytest
import torch
from conftest import make_model, write_lines

import plaudit
from plaudit.errors import ModelError, PlauditError, WorkspaceError


@pytest.fixture
def stopped(workspace, monkeypatch):
    """sft-001, interrupted after two steps with a checkpoint."""
    import plaudit.training.steps.optimiser as step

    taken = 0
    take = step.Optimiser.step

    def stop_at_the_third(self):
        nonlocal taken
        taken += 1
        if taken == 3:
            raise KeyboardInterrupt
        return take(self)

    monkeypatch.setattr(step.Optimiser, "step", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        plaudit.sft(workspace)
    monkeypatch.undo()
    return workspace.begun("sft-001")


def flip(path, place=0.5, count=8):
    content = bytearray(path.read_bytes())
    start = int(len(content) * place)
    for i in range(start, start + count):
        content[i] ^= 0x55
    path.write_bytes(bytes(content))


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(b"\x80\x02 no checkpoint" * 50),
    "turned bytes": flip,
    "another thing": lambda path: torch.save([1, 2], path),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_said_to_be_damaged_and_what_to_do(run, workspace, stopped, how):
    checkpoint = stopped.path / "checkpoint.pt"
    DAMAGE[how](checkpoint)
    code, _, err = run("sft", "-w", workspace.path, "--resume", "sft-001")
    assert code == 2
    assert "Traceback" not in err
    assert f"{checkpoint} is damaged, so the run cannot resume from it" in err
    assert "remove it" in err
    checkpoint.unlink()
    code, _, err = run("sft", "-w", workspace.path, "--resume", "sft-001")
    assert code == 0
    assert "sft-001 has no checkpoint yet: it starts again from its first step." in err
    steps = [row["step"] for row in workspace.run("sft-001").metrics()]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("rest", [b"\0" * 64, b"\0\0\n\0\0\n", b'{"step": 9, "lo', b"\xff\xfe\n"])
def test_what_a_power_cut_leaves_at_the_end_of_the_metrics_is_no_step(workspace, stopped, rest):
    with open(stopped.path / "metrics.jsonl", "ab") as file:
        file.write(rest)
    assert [row["step"] for row in stopped.metrics()] == [1, 2]
    finished = plaudit.sft(workspace, resume="sft-001")
    steps = [row["step"] for row in finished.metrics()]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("line", [b"\0\0\0", b"[1]", b'{"step": "one"}', b"\xff"])
def test_a_damaged_line_before_whole_ones_is_named(run, workspace, stopped, line):
    path = stopped.path / "metrics.jsonl"
    first, *rest = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([line, first, *rest]))
    code, _, err = run("sft", "-w", workspace.path, "--resume", "sft-001")
    assert code == 2
    assert f"{path}, line 1 is damaged" in err


def test_a_missing_database_is_not_made_anew_where_there_are_runs(run, workspace, stopped):
    database = workspace.path / "feedback.sqlite"
    for content in (None, b""):
        for part in workspace.path.glob("feedback.sqlite*"):
            part.unlink()
        if content is not None:
            database.write_bytes(content)
        code, _, err = run("status", "-w", workspace.path)
        assert code == 2
        assert "feedback.sqlite is missing" in err or "feedback.sqlite is empty" in err
        assert "1 run" in err
        assert (database.read_bytes() if database.exists() else None) == content


def test_a_missing_database_without_runs_is_made_and_said(run, tmp_path):
    folder = plaudit.init(tmp_path / "w").path
    for part in folder.glob("feedback.sqlite*"):
        part.unlink()
    code, _, err = run("status", "-w", folder)
    assert code == 0
    assert "feedback.sqlite was not there: an empty one was made" in err


@pytest.fixture
def filled(workspace, tmp_path):
    rows = [{"prompt": f"question {i}", "chosen": "good " * 30 + str(i), "rejected": "bad " * 30} for i in range(400)]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "c.jsonl", rows), kind="comparisons")
    with workspace.store.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    workspace.store.database.engine.dispose()
    return workspace


@pytest.mark.parametrize("command", [["reward"], ["export", "data", "{tmp}/out"], ["agreement"], ["status"]])
def test_a_malformed_page_of_the_database_is_one_message(run, filled, tmp_path, command):
    database = filled.path / "feedback.sqlite"
    content = bytearray(database.read_bytes())
    for page in range(8, len(content) // 4096, 2):
        content[page * 4096 : page * 4096 + 200] = b"\x5a" * 200
    database.write_bytes(bytes(content))
    code, out, err = run(*(word.format(tmp=tmp_path) for word in command), "-w", filled.path)
    assert code == 2
    assert "Traceback" not in out + err
    assert "is damaged" in err
    assert "feedback.sqlite" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("how", ["empty", "cut", "garbage"])
def test_a_damaged_file_of_a_model_is_one_message_and_no_export(run, workspace, tmp_path, name, how):
    with workspace.new_run("sft", workspace.config(), parents={"model": "x"}) as made:
        make_model(made.model_folder)
    DAMAGE[how](made.model_folder / name)
    for command in (["sample", "sample.policy=sft-001"], ["export", "sft-001", tmp_path / "out"]):
        code, out, err = run(*command, "-w", workspace.path)
        assert code == 2, (command, out, err)
        assert "Traceback" not in out + err
        assert not (tmp_path / "out").exists()
    with pytest.raises(PlauditError):
        plaudit.sft(workspace, workspace.config(overrides=["model.name=sft-001"]))


def test_weights_that_end_too_early_are_seen_by_their_header(tiny_model, tmp_path):
    from plaudit.models.named import check_files

    shutil.copytree(tiny_model, tmp_path / "m")
    check_files(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ModelError, match="cut off"):
        check_files(tmp_path / "m")


def test_a_run_whose_settings_are_damaged_says_which_file(run, workspace, stopped):
    (stopped.path / "config.yaml").write_text("sft: {epochs: [")
    code, _, err = run("sft", "-w", workspace.path, "--resume", "sft-001")
    assert code == 2
    assert f"{stopped.path / 'config.yaml'} is not valid YAML" in err


def test_a_report_of_damaged_figures_is_one_message(run, workspace):
    with workspace.new_run("evaluate", workspace.config(), parents={"policy": "a/b", "baseline": "c/d"}) as made:
        made.update(result={"win_rate": None})
    code, _, err = run("report", "-w", workspace.path)
    assert code == 2
    assert "evaluate-001" in err
    assert "Traceback" not in err


def test_a_workspace_whose_settings_are_no_text_is_one_message(run, workspace):
    (workspace.path / "plaudit.yaml").write_bytes(b"\xff\xfe\0")
    code, _, err = run("status", "-w", workspace.path)
    assert code == 2
    assert "plaudit.yaml is not valid YAML" in err
    assert json.loads(json.dumps(err))


def test_a_damaged_run_names_its_file(workspace, stopped):
    (stopped.path / "run.json").write_text(json.dumps({**stopped.info, "status": "asleep"}))
    with pytest.raises(WorkspaceError, match="is damaged"):
        workspace.begun("sft-001")
