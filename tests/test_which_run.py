"""Which run or model a name means, and what is refused before anything is made for it."""

import json
import socket
import time

import pytest
from conftest import as_classifier, make_model, write_lines

import plaudit
from plaudit.config import Config
from plaudit.errors import ConfigError, ModelError, PlauditError, WorkspaceError


@pytest.fixture
def empty(tmp_path):
    return plaudit.init(tmp_path / "w")


def add_run(workspace, kind, parents=None, *, model=False, **changes):
    settings = plaudit.resolve(overrides=[f"{key}={value}" for key, value in changes.items()])
    with workspace.new_run(kind, settings, parents=parents or {}) as run:
        if model:
            make_model(run.model_folder)
    return run.name


def test_latest_goes_by_the_order_in_which_runs_were_made_and_not_by_the_clock(empty, monkeypatch):
    import plaudit.workspace as module

    times = iter(["2030-01-01T00:00:00", "2030-01-01T00:00:01", "2020-01-01T00:00:00", "2020-01-01T00:00:01"])
    monkeypatch.setattr(module, "now", lambda: next(times))
    add_run(empty, "sft")
    add_run(empty, "sft")  # its clock was set back
    assert empty.run("latest:sft").name == "sft-002"
    monkeypatch.setattr(module, "now", lambda: "2010-01-01T00:00:00")
    add_run(empty, "rl")
    add_run(empty, "sft")
    assert [run.name for run in empty.runs()] == ["sft-001", "sft-002", "rl-001", "sft-003"]


def test_runs_without_an_order_come_first_and_by_the_clock(empty):
    for kind in ("sft", "rl", "sft"):
        add_run(empty, kind)
    for name, created in (("sft-001", "2020-01-02"), ("rl-001", "2020-01-01")):
        path = empty.path / "runs" / name / "run.json"
        info = json.loads(path.read_text())
        del info["order"]
        path.write_text(json.dumps(info | {"created": created}))
    assert [run.name for run in empty.runs()] == ["rl-001", "sft-001", "sft-002"]


def test_a_policys_start_is_what_it_was_made_from(empty):
    add_run(empty, "sft", {"model": "hub/base"})
    add_run(empty, "sft", {"model": "hub/base"})
    add_run(empty, "rl", {"policy": "sft-001", "reward": "reward-001"})
    add_run(empty, "prefer", {"policy": "rl-001", "reference": "sft-001"})
    add_run(empty, "pretrain")
    assert empty.start_of("sft-001") == "hub/base"
    assert empty.start_of("rl-001") == "sft-001"
    assert empty.start_of("prefer-001") == "rl-001"
    assert empty.start_of("pretrain-001") is None
    assert empty.start_of("hub/base") is None


def test_a_policy_made_in_two_parts_starts_where_the_first_did(empty):
    add_run(empty, "sft", {"model": "hub/base"})
    add_run(empty, "rl", {"policy": "sft-001"}, **{"rl.algorithm": "rejection-then-ppo"})
    add_run(empty, "rl", {"policy": "rl-001"})
    add_run(empty, "rl", {"policy": "rl-002"})
    assert empty.start_of("rl-002") == "sft-001"
    assert empty.start_of("rl-003") == "rl-002"


def test_the_baseline_is_the_policys_own_start_and_not_the_newest(workspace, capsys):
    from plaudit.evaluation.stage import _baseline

    model = workspace.config().model.name
    add_run(workspace, "sft", {"model": model}, model=True)
    add_run(workspace, "rl", {"policy": "sft-001"}, model=True)
    add_run(workspace, "sft", {"model": model}, model=True)
    assert _baseline(workspace, "rl-001", None) == "sft-001"
    assert _baseline(workspace, "rl-001", "latest:sft") == "sft-002"
    assert "The baseline is sft-002; rl-001 started from sft-001." in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"evaluate.baseline`: .* is no run, so what it started from is not known"):
        _baseline(workspace, model, None)


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("rl", "rl.policy"), ("evaluate", "evaluate.policy"), ("sample", "sample.policy"), ("sft", "model.name"),
        ("evaluate", "evaluate.baseline"),
    ],
)  # fmt: skip
def test_a_reward_model_is_refused_where_a_policy_is_needed(workspace, tmp_path, stage, setting):
    reward = add_run(workspace, "reward", model=True)
    policy = add_run(workspace, "sft", {"model": "x"}, model=True)
    more = [f"evaluate.policy={policy}", "evaluate.reward=null", "rl.reward=function:os:getcwd"]
    config = workspace.config(overrides=[*more, f"{setting}={reward}"])
    with pytest.raises(WorkspaceError, match=rf"`{setting}`: run `reward-001` is of kind `reward`, but a `pretrain`"):
        getattr(plaudit, stage)(workspace, config)
    folder = as_classifier(tmp_path / "classifier")
    config = workspace.config(overrides=[*more, f"{setting}={folder}"])
    with pytest.raises(ModelError, match=rf"`{setting}`: .* is a LlamaForSequenceClassification, and a language model"):
        getattr(plaudit, stage)(workspace, config)
    assert len(workspace.runs()) == 2


def test_a_language_model_is_refused_where_a_reward_model_is_needed(workspace, tiny_model):
    from plaudit.models.loading import load_causal, load_reward

    settings = workspace.config().model
    with pytest.raises(ModelError, match="is a LlamaForCausalLM, and a reward model, which scores, is needed"):
        load_reward(str(tiny_model), settings)
    config = workspace.config(overrides=[f"rl.policy={tiny_model}", f"rl.reward={tiny_model}"])
    with pytest.raises(ModelError, match=r"`rl\.reward`"):
        plaudit.rl(workspace, config)
    assert workspace.runs() == []
    assert load_causal(str(tiny_model), settings).source == str(tiny_model)


@pytest.mark.parametrize("changes", [["sft.epochs=9"], ["--config", "{tmp}/more.yaml"]], ids=["an override", "a file"])
def test_settings_beside_a_run_to_go_on_with_are_refused(run, workspace, tmp_path, changes):
    (tmp_path / "more.yaml").write_text("sft: {epochs: 9}\n")
    with pytest.raises(KeyboardInterrupt), workspace.new_run("sft", workspace.config(), parents={}):
        raise KeyboardInterrupt
    given = [word.format(tmp=tmp_path) for word in changes]
    code, _, err = run("sft", "-w", workspace.path, "--resume", "sft-001", *given)
    assert code == 2
    assert "resumes with the settings that the run began with" in err
    assert given[-1] in err
    assert workspace.begun("sft-001").status == "interrupted"
    with pytest.raises(ConfigError, match="resumes with the settings it began with"):
        plaudit.sft(workspace, workspace.config(), resume="sft-001")
    code, out, _ = run("sft", "-w", workspace.path, "--resume", "sft-001", "--dry-run")
    assert code == 0
    assert "epochs: 2" in out


@pytest.mark.parametrize(
    "short", [["rl", "--algorithm", "rloo"], ["prefer", "--loss", "kto"], ["judge", "--annotate", "3"]]
)
def test_short_forms_of_settings_beside_a_run_to_go_on_with_are_refused(run, workspace, short):
    stage, *flags = short
    with pytest.raises(KeyboardInterrupt), workspace.new_run(stage, workspace.config(), parents={}):
        raise KeyboardInterrupt
    code, _, err = run(stage, "-w", workspace.path, "--resume", f"{stage}-001", *flags)
    assert code == 2
    assert f"={flags[-1]} would be ignored" in err


class AskedNothing:
    def __init__(self):
        raise AssertionError("the hub was asked")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stf-001", "Did you mean `sft-001`?"), ("sft-01", "Did you mean `sft-001`?"), ("sft_001", "Did you mean"),
        ("SFT-001", "Did you mean `sft-001`?"), ("sft001", "Did you mean"), ("rl-0001", "has no run"),
        ("latst:sft", "Did you mean `latest:sft`?"), ("latest:sftt", "Did you mean `sft`?"),
        ("model-001", "has no run"),
        ("function:x.py:f", "neither a run nor a model"), ("sft-009", "has no run"),
        ("latest:rl", "no complete `rl` run"),
    ],
)  # fmt: skip
def test_what_looks_like_a_run_is_never_asked_for_elsewhere(workspace, monkeypatch, name, hint):
    import plaudit.models.hub as hub

    monkeypatch.setattr(hub, "HfApi", AskedNothing)
    add_run(workspace, "sft", model=True)
    with pytest.raises(PlauditError) as caught:
        plaudit.sample(workspace, workspace.config(overrides=[f"sample.policy={name}"]))
    assert "`sample.policy`" in str(caught.value)
    assert hint in str(caught.value)
    assert len(workspace.runs()) == 1


@pytest.mark.parametrize("name", ["gpt2", "phi-2", "org/sft-001", "t5-small", "distilgpt2"])
def test_names_of_models_are_not_taken_for_mistyped_runs(empty, name):
    assert empty.model_source(name) == name


def test_a_folder_may_be_called_as_a_run_nearly_is(empty, tmp_path, monkeypatch):
    make_model(tmp_path / "stf-001")
    monkeypatch.chdir(tmp_path)
    assert empty.model_source("stf-001") == "stf-001"


@pytest.fixture
def silent_hub():
    """An address that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("answers", [False, None], ids=["never answers", "refuses connections"])
def test_a_hub_that_cannot_be_reached_is_given_up_in_seconds_and_leaves_no_run(
    run, workspace, monkeypatch, silent_hub, answers
):
    import plaudit.models.hub as hub

    monkeypatch.setattr(hub.constants, "ENDPOINT", silent_hub if answers is False else "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "PATIENCE", 1.0)
    hub.find.cache_clear()
    began = time.monotonic()
    code, _, err = run("sft", "-w", workspace.path, "model.name=nobody/nothing")
    assert time.monotonic() - began < 10
    assert code == 2
    assert "asking the Hugging Face hub for it" in err
    assert "`model.name`: `nobody/nothing` is neither a run nor a folder here, and the hub cannot be reached" in err
    assert "Traceback" not in err
    assert workspace.runs() == []


def test_an_earlier_download_is_taken_where_the_hub_does_not_answer(workspace, tiny_model, monkeypatch, capsys):
    import plaudit.models.hub as hub
    from plaudit.models.loading import load_causal

    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **_: str(tiny_model))
    hub.find.cache_clear()
    assert load_causal("somebody/tiny", workspace.config().model).source == "somebody/tiny"
    assert "its copy in the cache is taken" in capsys.readouterr().err
    hub.find.cache_clear()


def test_a_name_that_the_hub_cannot_have_is_told_from_one_that_it_does_not(workspace, monkeypatch):
    import plaudit.models.hub as hub

    hub.find.cache_clear()
    with pytest.raises(ModelError, match="nor a name that the hub can have"):
        plaudit.sft(workspace, workspace.config(overrides=["model.name=a b!"]))


def test_a_damaged_run_stops_neither_the_others_nor_the_workspace(run, workspace):
    for _ in range(4):
        add_run(workspace, "sft", model=True)
    folder = workspace.path / "runs"
    for name, content in (("sft-002", "{}"), ("sft-003", "[1]"), ("sft-004", '{"kind": "sft", "sta')):
        (folder / name / "run.json").write_text(content)
    code, out, err = run("status", "-w", workspace.path)
    assert code == 0
    assert out.count("damaged") >= 3
    assert "sft-001        complete" in out
    assert "sft-004" in err
    assert workspace.run("latest:sft").name == "sft-001"
    for name, why in (("sft-002", "`kind` is missing"), ("sft-003", "damaged"), ("sft-004", "not valid JSON")):
        with pytest.raises(WorkspaceError, match=why):
            workspace.run(name)
    assert set(json.loads(run("status", "-w", workspace.path, "--json")[1])["damaged"]) == {
        "sft-002", "sft-003", "sft-004",
    }  # fmt: skip
    assert add_run(workspace, "sft") == "sft-005"


def test_an_evaluation_is_not_told_to_be_resumed(empty):
    with pytest.raises(KeyboardInterrupt) as stop, empty.new_run("evaluate", Config(), parents={}):
        raise KeyboardInterrupt
    assert stop.value.__notes__ == [f"It cannot be resumed: run `plaudit evaluate --workspace {empty.path}` again."]
    with pytest.raises(WorkspaceError, match=r"interrupted\. It cannot be resumed"):
        empty.run("evaluate-001")


def test_a_missing_run_says_which_setting_named_it(workspace, tmp_path):
    pairs = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(4)]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "p.jsonl", pairs), kind="comparisons")
    with pytest.raises(WorkspaceError, match=r"`prefer.policy`: .* no complete `sft` run yet. .* by prefer.policy=RUN"):
        plaudit.prefer(workspace)
