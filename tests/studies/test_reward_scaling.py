"""The study of reward scaling on tiny models: what it writes, how it goes on, and what it refuses."""

import json
from pathlib import Path

import pytest
from conftest import make_model, write_lines
from typer.testing import CliRunner

import plaudit
from plaudit.cli import app
from plaudit.errors import ConfigError, DataError
from plaudit.studies import reward_scaling as study

GRID = ["reward_scaling.prompts=[4, 16, 400]", "reward_scaling.seeds=2", "reward.epochs=1"]


@pytest.fixture
def judged(workspace, tmp_path):
    """Comparisons that always prefer the answer with happy words."""
    pairs = [
        {"prompt": p.messages, "chosen": f"a good kind {w} answer", "rejected": f"a bad awful {w} answer"}
        for p in workspace.store.prompts()
        for w in ("tea", "moon")
    ]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "c.jsonl", pairs), kind="comparisons")
    return workspace


def models(workspace):
    return f"reward_scaling.models=[{workspace.config().model.name}]"


def config(workspace, *changes):
    return workspace.config(overrides=[models(workspace), *GRID, *changes])


def test_a_grid_is_measured_fitted_and_drawn(judged):
    run = plaudit.reward_scaling(judged, config(judged, "reward_scaling.target_accuracy=0.9"))
    rows = [json.loads(line) for line in (run.path / "cells.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert len({row["prompts"] for row in rows}) == 3
    assert {row["seed"] for row in rows} == {0, 1}
    assert len({tuple(row["held_out"]) for row in rows}) == 1  # all on the same prompts
    most = max(row["prompts"] for row in rows)
    changes = [*GRID, f"reward.most_prompts={most}", f"reward.model={judged.config().model.name}"]
    again = plaudit.reward(judged, judged.config(overrides=changes))
    whole = next(row for row in rows if row["prompts"] == most and row["seed"] == 0)
    right, _, count = (sum(column) for column in zip(*whole["held_out"].values(), strict=True))
    assert right / count == pytest.approx(again.result["accuracy"]["value"])
    assert "per_doubling_of_comparisons" in run.result["accuracy_law"]
    (needed,) = run.result["needed"].values()
    assert needed.keys() == {"value", "low", "high"}
    assert not run.model_folder.exists()
    svg = (run.path / "scaling.svg").read_text()
    assert svg.startswith("<svg xmlns=")
    assert "var(--" not in svg


def test_an_interrupted_grid_goes_on_where_it_was(judged, monkeypatch):
    whole = plaudit.reward_scaling(judged, config(judged))
    fit, calls = study.fit_scorer, []

    def stop_at_the_fourth(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(study, "fit_scorer", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        plaudit.reward_scaling(judged, config(judged))
    name = judged.runs("study")[-1].name
    with open(judged.path / "runs" / name / "cells.jsonl", "a") as file:
        file.write('{"model": "cut o')
    resumed = plaudit.reward_scaling(judged, resume=name)
    assert len(calls) == 4 + 3
    assert (resumed.path / "cells.jsonl").read_text() == (whole.path / "cells.jsonl").read_text()
    assert resumed.result == whole.result


def test_a_grid_of_one_point_is_refused(judged):
    for sizes in ("[8]", "[400, 500]"):
        with pytest.raises(DataError, match="two numbers of prompts up to"):
            plaudit.reward_scaling(judged, config(judged, f"reward_scaling.prompts={sizes}"))
    assert not (judged.runs("study")[-1].path / "cells.jsonl").exists()  # before anything was trained
    with pytest.raises(ConfigError, match="prompts"):
        config(judged, "reward_scaling.prompts=[]")


def test_models_are_measured_on_the_same_prompts(judged, tmp_path, capsys):
    """One of two models reads less: what does not fit it is left out for both."""
    short = make_model(tmp_path / "short", max_position_embeddings=48)
    rows = [{"prompt": f"How is it {i}", "chosen": "good " * 40, "rejected": "bad"} for i in range(12)]
    plaudit.import_file(judged.store, write_lines(tmp_path / "long.jsonl", rows), kind="comparisons")
    both = f"reward_scaling.models=[{judged.config().model.name}, {short}]"
    run = plaudit.reward_scaling(judged, config(judged, both, "reward_scaling.seeds=1"))
    cells = [json.loads(line) for line in (run.path / "cells.jsonl").read_text().splitlines()]
    assert {row["model"] for row in cells} == {judged.config().model.name, str(short)}
    assert len({(tuple(row["held_out"]), row["prompts"], row["comparisons"]) for row in cells}) == len(cells) / 2
    assert "12 prompts have responses that do not fit every model: left out." in capsys.readouterr().err


def test_from_the_command_line(judged):
    arguments = ["study", "reward-scaling", "--workspace", str(judged.path), "--json", models(judged), *GRID]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["result"]["models"][0]["seeds"] == 2
    assert Path(judged.path / "runs" / found["run"] / "scaling.svg").exists()
