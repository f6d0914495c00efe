import json

import pytest
from conftest import make_model

import plaudit
from plaudit.errors import ConfigError, DataError


@pytest.fixture
def sampled(workspace):
    model = workspace.config().model.name
    plaudit.sample(workspace, workspace.config(overrides=["sample.policy=" + model, "sample.samples_per_prompt=1"]))
    return workspace


class Backend:
    """Puts a word behind whatever it revises."""

    def __init__(self, *_):
        self.calls = 0

    def say(self, asked, *, max_tokens, temperature, seed):
        self.calls += 1
        return ["too short" if "critique" in m[-1]["content"] else m[-4]["content"] + " more" for m in asked]


def settings(workspace, *more):
    model = workspace.config().model.name
    return workspace.config(overrides=[f"revise.model={model}", "revise.rounds=2", "revise.at_once=8", *more])


def test_revisions_become_demonstrations_of_the_run_and_sft_can_learn_from_them_alone(sampled, monkeypatch):
    monkeypatch.setattr("plaudit.judges.models.LocalBackend", Backend)
    run = plaudit.revise(sampled, settings(sampled))
    drafts = {r.prompt_id: r.text for r in sampled.store.responses() if r.text.strip()}
    found = [d for d in sampled.store.demonstrations() if d.source == run.name]
    assert {(d.prompt.id, d.text) for d in found} == {
        (prompt, text + " more" * times) for prompt, text in drafts.items() for times in (1, 2)
    }
    assert run.result["drafts"] == len(drafts)
    assert sum(run.result["principles"].values()) == 2 * len(drafts)
    log = [json.loads(line) for line in (run.path / "revisions.jsonl").read_text().splitlines()]
    assert len(log) == len(drafts)
    assert all(len(one["drafts"]) == 3 and len(one["critiques"]) == 2 for one in log)
    trained = plaudit.sft(sampled, sampled.config(overrides=["sft.sources=[latest:revise]"]))
    train = [d for d in found if d.prompt.split == "train"]
    assert trained.result["demonstrations"] == len(train)
    with pytest.raises(DataError, match="no demonstrations of elsewhere"):
        plaudit.sft(sampled, sampled.config(overrides=["sft.sources=[elsewhere]"]))


def test_only_the_last_revision_is_kept_when_asked(sampled, monkeypatch):
    monkeypatch.setattr("plaudit.judges.models.LocalBackend", Backend)
    run = plaudit.revise(sampled, settings(sampled, "revise.keep=last"))
    found = [d for d in sampled.store.demonstrations() if d.source == run.name]
    assert len(found) == run.result["drafts"] > 0
    assert all(d.text.endswith(" more more") for d in found)


def test_revising_goes_on_where_it_stopped(sampled, monkeypatch):
    speakers = []

    class Stops(Backend):
        def say(self, asked, **more):
            if len(speakers) == 1 and self.calls == 5:
                raise KeyboardInterrupt
            return super().say(asked, **more)

    monkeypatch.setattr("plaudit.judges.models.LocalBackend", lambda *a: speakers.append(Stops()) or speakers[-1])
    with pytest.raises(KeyboardInterrupt):
        plaudit.revise(sampled, settings(sampled))
    (run,) = sampled.runs("revise")
    kept = len((run.path / "revisions.jsonl").read_text().splitlines())
    assert kept == 8
    done = plaudit.revise(sampled, resume=run.name)
    assert len((run.path / "revisions.jsonl").read_text().splitlines()) == done.result["drafts"]
    assert speakers[1].calls == 4 * -(-(done.result["drafts"] - kept) // 8)


def test_a_real_if_tiny_model_revises(sampled, tmp_path):
    roomy = make_model(tmp_path / "roomy", max_position_embeddings=4096)
    limits = ["revise.rounds=1", "revise.critique_tokens=8", "revise.revision_tokens=8"]
    run = plaudit.revise(sampled, settings(sampled, f"revise.model={roomy}", *limits))
    assert run.result["demonstrations"] > 0


def test_a_model_that_revises_nothing_and_a_bad_constitution_are_refused(sampled, monkeypatch, tmp_path):
    class Silent(Backend):
        def say(self, asked, **more):
            return [None for _ in asked]

    monkeypatch.setattr("plaudit.judges.models.LocalBackend", Silent)
    with pytest.raises(DataError, match="revised none of"):
        plaudit.revise(sampled, settings(sampled))
    with pytest.raises(ConfigError, match="cannot be read"):
        plaudit.revise(sampled, settings(sampled, f"revise.constitution={tmp_path / 'none.yaml'}"))
    assert len(sampled.runs("revise")) == 1
