"""The whole recipe on a tiny model, and what ships with it."""

import json

import pytest
from conftest import JUDGES, TINY

import plaudit
from plaudit.config import recipe_file, resolve
from plaudit.rounds.quickstart import closing_words
from plaudit.store.importing import split_of

SUMMARY_KEYS = {
    "reward_accuracy",
    "reward_accuracy_ceiling",
    "win_rate",
    "kl",
    "mean_length",
    "finished_rate",
    "perplexity_ratio",
    "agreement",
    "seconds",
    "peak_memory_gb",
}


def rows(name):
    return [json.loads(line) for line in (recipe_file().parent.parent / "data" / name).read_text().splitlines()]


def test_what_ships_is_enough_varied_and_consistent():
    prompts, demonstrations = rows("prompts.jsonl"), rows("demonstrations.jsonl")
    texts = [row["prompt"] for row in prompts]
    assert len(texts) == len({t.lower() for t in texts}) >= 200
    assert len({row["topic"] for row in prompts}) >= 12
    assert {row["prompt"] for row in demonstrations} <= set(texts)
    splits = [split_of([{"role": "user", "content": d["prompt"]}], 0.25) for d in demonstrations]
    assert splits.count("train") >= 60
    assert splits.count("held_out") >= 20
    assert len(rows("prose.jsonl")) >= 20


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("quick") / "start"
    settings = ["sample.samples_per_prompt=2", "sft.epochs=1", "sft.batch_size=16", "evaluate.samples_per_prompt=1"]
    overrides = [*(change for change in TINY if change != JUDGES), *settings, f"model.name={tiny_model}", "seed=3"]
    workspace, evaluation = plaudit.quickstart(folder, overrides=overrides)
    return workspace, evaluation, overrides


def test_quickstart_leaves_a_summary_and_a_report(done):
    workspace, evaluation, _ = done
    summary = json.loads((workspace.path / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    for key in ("reward_accuracy", "win_rate", "kl", "perplexity_ratio"):
        assert summary[key]["low"] <= summary[key]["value"] <= summary[key]["high"]
    assert summary["seconds"].keys() == {"sft", "sample", "judge", "reward", "rl", "evaluate"}
    assert summary["mean_length"].keys() == summary["finished_rate"].keys() == {"before", "after"}
    assert summary["win_rate"] == evaluation.result["win_rate"]
    assert summary["seed"] == 3
    assert "<svg" in (workspace.path / "report.html").read_text()
    words = closing_words(workspace, evaluation, summary)
    assert "plaudit chat rl-001" in words
    assert "report.html" in words


def test_quickstart_again_keeps_what_is_complete(done):
    workspace, evaluation, overrides = done
    before = [run.name for run in workspace.runs()]
    _, again = plaudit.quickstart(workspace.path, overrides=overrides)
    assert again.name == evaluation.name
    assert [run.name for run in workspace.runs()] == before


def test_quickstart_goes_on_where_it_was_stopped(done, monkeypatch):
    workspace, _, overrides = done
    unfinished = workspace.runs("rl")[-1]
    unfinished.update(status="interrupted")
    (workspace.runs("evaluate")[-1]).update(status="failed")
    _, again = plaudit.quickstart(workspace.path, overrides=overrides)
    assert [run.name for run in workspace.runs("rl")] == [unfinished.name]
    assert workspace.run("latest:rl").name == unfinished.name
    assert again.status == "complete"


def test_the_recipe_asks_for_nothing_but_settings():
    config = resolve(recipe_file())
    assert config.model.name == "smollm2-135m-instruct"
    assert config.sample.samples_per_prompt >= 4
    assert len(config.judge.annotators) == 3
