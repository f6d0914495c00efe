"""A run that learns from a snapshot: what is said, corrected or decided later changes nothing in it."""

import pytest
import torch
from conftest import TINY, make_model, write_lines
from safetensors.torch import load_file

import plaudit
from plaudit.config import resolve
from plaudit.errors import DataError
from plaudit.store import tables
from plaudit.store.snapshots import make_snapshot

WORDS = "dog tea bread river moon music".split()
SNAPSHOT = '["snapshot:first"]'


def add(workspace, base, who, good, bad):
    rows = [
        {"prompt": f"Tell me about the {a} and the {b}", "chosen": f"{good} {a}", "rejected": f"{bad} {b}"}
        for a in WORDS
        for b in WORDS[:2]
        if a != b
    ]
    more = {"annotator": who, "chosen_safe": True, "rejected_safe": False}
    file = write_lines(base / f"{who}.jsonl", [{**row, **more} for row in rows])
    plaudit.import_file(workspace.store, file, kind="comparisons")
    labels = [{"prompt": r["prompt"], "completion": r["chosen"], "label": True, "annotator": who} for r in rows]
    plaudit.import_file(workspace.store, write_lines(base / f"{who}-labels.jsonl", labels), kind="labels")


@pytest.fixture
def workspace(tmp_path):
    model = make_model(tmp_path / "model")
    changes = [*TINY, f"model.name={model}", f"reward.model={model}", f"prefer.policy={model}", "prefer.batch_size=4"]
    workspace = plaudit.init(tmp_path / "workspace", config=resolve(overrides=changes))
    add(workspace, tmp_path, "ann", "a good kind", "bad sad")
    make_snapshot(workspace.store, "first")
    return workspace


def say_more_and_leave_out(workspace, base):
    add(workspace, base, "bob", "bad sad", "a good kind")
    decision = {
        "about": "training",
        "annotator": "ann",
        "campaign": "",
        "is_included": False,
        "reason": "",
        "decided_by": "",
        "created": "",
    }
    with workspace.store.database.writing() as connection:
        connection.execute(tables.decisions.insert().values(**decision))


def weights(run):
    return load_file(run.model_folder / "model.safetensors")


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("reward", ["reward.safety_coefficient=0.5"]),
        ("prefer", ["prefer.loss=dpo"]),
        ("prefer", ["prefer.loss=kto"]),
    ],
)
def test_a_run_on_a_snapshot_is_the_same_whatever_was_said_since(workspace, tmp_path, stage, changes):
    config = workspace.config(overrides=[f"{stage}.comparisons={SNAPSHOT}", *changes])
    train = getattr(plaudit, stage)
    before = train(workspace, config)
    assert before.sources.names == {"snapshot:first"}
    say_more_and_leave_out(workspace, tmp_path)
    after = train(workspace, config)
    assert after.info["data"] == before.info["data"]
    assert all(torch.equal(value, weights(after)[name]) for name, value in weights(before).items())
    before.update(status="failed")
    resumed = train(workspace, resume=before.name)
    assert all(torch.equal(value, weights(after)[name]) for name, value in weights(resumed).items())
    everything = train(workspace, workspace.config(overrides=changes))
    assert everything.info["data"] != before.info["data"]
    assert everything.sources.comparisons
    assert all(name.startswith("import-") for name in everything.sources.comparisons)


def test_a_snapshot_beside_imports_is_named_beside_them(workspace, tmp_path):
    say_more_and_leave_out(workspace, tmp_path)
    (theirs,) = {c.run for c in workspace.store.comparisons()}
    config = workspace.config(overrides=[f'reward.comparisons=["snapshot:first", "{theirs}"]'])
    run = plaudit.reward(workspace, config)
    assert run.sources.comparisons == (theirs, "snapshot:first")
    assert run.info["data"]["comparisons"]["count"] == 20


def test_a_snapshot_that_is_not_there_is_named(workspace):
    with pytest.raises(DataError, match=r"no snapshot `frist` \(first\). Did you mean `first`"):
        plaudit.reward(workspace, workspace.config(overrides=['reward.comparisons=["snapshot:frist"]']))
