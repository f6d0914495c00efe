"""The command line as its user meets it: messages, exit codes, nothing lost."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import make_model, write_lines

from plaudit import cli


def test_the_loop_by_commands_alone(run, tmp_path, tiny_model, prompts_file, demonstrations_file):
    from conftest import TINY

    folder = tmp_path / "w"
    prose = write_lines(tmp_path / "prose.jsonl", [{"text": "the garden grows well and water helps it"}] * 3)
    settings = [*TINY, f"model.name={tiny_model}", f"evaluate.perplexity_text={prose}"]
    assert run("init", folder, *settings)[0] == 0
    assert "30 prompts added" in run("import", prompts_file, "--kind", "prompts", "-w", folder)[1]
    assert run("import", demonstrations_file, "--kind", "demonstrations", "-w", folder)[0] == 0
    for stage in ("sft", "sample", "judge", "reward", "evaluate"):
        arguments = ["evaluate.policy=latest:sft"] if stage == "evaluate" else []
        code, out, _ = run(stage, "-w", folder, "--json", *arguments)
        assert code == 0
        assert json.loads(out)["status"] == "complete"
    assert run("rl", "--algorithm", "ppo", "-w", folder, "rl.steps=1")[0] == 0
    status = json.loads(run("status", "-w", folder, "--json")[1])
    assert [r["run"] for r in status["runs"]][-1] == "rl-001"
    assert run("chat", "rl-001", "-w", folder, "-m", "what is tea", "--max-new-tokens", "5")[0] == 0
    assert run("export", "rl-001", tmp_path / "out", "-w", folder)[0] == 0
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert run("export", "rl-001", tmp_path / "out", "-w", folder)[0] == 2


def test_data_comes_in_and_goes_out_and_is_kept_in_snapshots(run, workspace, tmp_path):
    folder = workspace.path
    pair = {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b", "extra": 1}
    rows = [pair, {**pair, "rejected": pair["chosen"]}]
    file = write_lines(tmp_path / "pairs.jsonl", rows)
    code, out, _ = run("import", file, "--kind", "comparisons", "--format", "hh", "-w", folder)
    assert code == 0
    assert "Left out: 1 pairs of equal answers." in out
    assert "not read: extra" in out
    made = json.loads(run("snapshot", "make", "first", "--kind", "comparisons", "-w", folder, "--json")[1])
    assert made["rows"]["comparisons"]["count"] == 1
    assert "first" in run("snapshot", "list", "-w", folder)[1]
    assert "as it was" in run("snapshot", "verify", "first", "-w", folder)[1]
    assert run("snapshot", "make", "first", "-w", folder)[0] == 2
    code, out, _ = run("export", "data", tmp_path / "out", "--format", "trl", "--snapshot", "first", "-w", folder)
    assert code == 0
    assert "1 comparisons" in out
    assert json.loads((tmp_path / "out/comparisons.jsonl").read_text())["chosen"] == [
        {"role": "assistant", "content": "a"}
    ]
    with workspace.store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE comparisons SET choice = 'second'")
    code, _, error = run("snapshot", "verify", "first", "-w", folder)
    assert code == 2
    assert "not what they were" in error


def test_dry_run_prints_the_resolved_settings_and_runs_nothing(run, workspace):
    code, out, _ = run("sft", "-w", workspace.path, "--dry-run", "sft.epochs=7")
    assert code == 0
    assert "epochs: 7" in out
    assert workspace.runs() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sft", "sft.epoch=3"], "Did you mean `sft.epochs`?"),
        (["rl", "--algorithm", "pp0"], "`rl.algorithm`"),
        (["import", "{tmp}/bad.jsonl", "--kind", "prompts"], "line 2: not valid JSON"),
        (["import", "{tmp}/empty.jsonl", "--kind", "prompts"], "is empty"),
        (["import", "{tmp}/columns.jsonl", "--kind", "comparisons"], "column `chosen` is missing"),
        (["import", "{tmp}/columns.jsonl", "--kind", "prompt"], "Did you mean `prompts`?"),
        (["sft", "model.name={tmp}/bare"], "has no tokenizer"),
        (["sft", "model.name={tmp}/nowhere"], "no config.json"),
        (["sample", "sample.policy={tmp}/model", "data.max_prompt_tokens=3"], "left out: more than 3 tokens"),
        (["rl"], "no complete `sft` run"),
        (["report"], "no complete `evaluate` run"),
        (["chat", "sft-009"], "has no run `sft-009`"),
        (["export", "sft-001", "{tmp}/x"], "no run `sft-001`"),
        (["sft", "--resume", "sft-007"], "no run `sft-007` to resume"),
        (["sft", "--no-such-option"], "No such option"),
        (["sft", "--config", "{tmp}/none.yaml"], "no such configuration file"),
        (["sft", "model.device=tpu"], "not usable here"),
    ],
)
def test_bad_input_gets_one_clear_message_and_exit_code_2(run, workspace, tmp_path, tiny_model, arguments, message):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt"\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "columns.jsonl").write_text('{"prompt": "a"}\n')
    make_model(tmp_path / "model")
    for file in make_model(tmp_path / "bare").glob("*token*"):
        file.unlink()
    before = workspace.store.counts()
    code, out, err = run(*(a.format(tmp=tmp_path) for a in arguments), "-w", workspace.path)
    assert code == 2, err
    assert message in err
    assert "Traceback" not in out + err
    assert workspace.store.counts() == before


def test_agreement_is_shown_by_criterion_and_as_json(run, workspace, tmp_path):
    assert "no comparisons yet" in run("agreement", "-w", workspace.path)[2]
    pairs = [{"prompt": f"{i}", "chosen": f"x{i % 2}", "rejected": f"x{1 - i % 2}", "grade": 2} for i in range(6)]
    rows = [{**pair, "annotator": who} for pair in pairs for who in ("ann", "bob")]
    rows += [{**pair, "annotator": "ann", "criterion": "safety"} for pair in pairs]
    file = write_lines(tmp_path / "c.jsonl", rows)
    assert run("import", file, "--kind", "comparisons", "-w", workspace.path)[0] == 0
    code, out, _ = run("agreement", "-w", workspace.path)
    assert code == 0
    for line in (
        "better altogether: judgments 12, pairs 6 (judged twice or more: 6), annotators 2",
        "  raw: 1.000 (95 % 0.420 to 1.000)",
        "  graded, on nine points: 6 pairs",
        "    ann: 1.000 (95 % 0.420 to 1.000); cohen 1.000",
        "  first side chosen: not measured",
        "safety: judgments 6, pairs 6 (judged twice or more: 0), annotators 1",
        "    ann: no value (no item was judged by both); cohen no value (no item was judged by both); 6 judgments",
    ):
        assert line in out
    found = json.loads(run("agreement", "-w", workspace.path, "--json")[1])
    assert found["better altogether"]["coefficients"]["alpha"]["value"] == 1
    assert found["safety"]["coefficients"] is None


def test_a_folder_that_is_no_workspace_is_named(run, tmp_path):
    code, _, err = run("status", "-w", tmp_path)
    assert code == 2
    assert "plaudit init" in err


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail] PytorchStreamWriter failed writing"),
        RuntimeError("(sqlite3.OperationalError) disk I/O error"),
    ],
)
def test_a_full_disk_is_one_message_and_keeps_what_was_complete(run, workspace, monkeypatch, error):
    import plaudit.training.sft as module

    def full(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(module, "save_causal", full)
    code, _, err = run("sft", "-w", workspace.path)
    assert code == 2
    assert "The disk is full" in err
    assert workspace.runs()[-1].status == "failed"
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["plaudit", "sft", "-w", str(workspace.path), "--resume", "sft-001"])
    cli.main()
    assert workspace.run("sft-001").status == "complete"


def test_an_error_of_ours_is_not_dressed_up(monkeypatch, workspace):
    import plaudit.training.sft as module

    def broken(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "load_causal", broken)
    monkeypatch.setattr(sys, "argv", ["plaudit", "sft", "-w", str(workspace.path)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_ctrl_c_exits_130_and_the_run_resumes(workspace):
    """A real SIGINT to a real process in the middle of training."""
    command = [sys.executable, "-m", "plaudit", "sft", "-w", str(workspace.path), "sft.epochs=4000"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # a shell's background job ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (workspace.path / "runs" / "sft-001" / "checkpoint.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "--resume" in err
    stopped = workspace.runs()[-1]
    assert stopped.status == "interrupted"
    assert stopped.metrics()


def test_a_person_judges_first_and_is_used(run, workspace, monkeypatch):
    import io

    run("sample", "-w", workspace.path, "sample.policy=" + workspace.config().model.name)
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\nx\n5\ns\n9\n"))
    code, _, err = run("judge", "-w", workspace.path, "--annotate", "4")
    assert code == 0
    assert "'x' is not a choice" in err
    assert "3 judgments kept" in err
    mine = [c for c in workspace.store.comparisons() if c.annotator.startswith("person:")]
    assert sorted((c.choice, c.grade) for c in mine) == [("first", 4), ("second", 4), ("tie", None)]
    assert all(c.seconds is not None for c in mine)
    model = "reward.model=" + workspace.config().model.name
    code, _, err = run("reward", "-w", workspace.path, model)
    assert code == 2
    assert "by annotators of several kinds:\n  3 judgments by people (judge-001: 3)\n" in err
    assert "`reward.comparisons=[judge-001]`" in err
    code, out, err = run("reward", "-w", workspace.path, "--json", model, "reward.comparisons=[judge-001]")
    assert "Learning from comparisons: 3 judgments by people (judge-001: 3)." in err
    result = json.loads(out)["result"]
    assert result["train_judgments_by_people"] == 3
    assert result["train_judgments_simulated"] == result["train_judgments"] - 3 > 0
    assert result["train_judgments_by_models"] == 0


def test_without_a_judge_it_is_said_what_can_judge(run, workspace):
    """And nobody is invented."""
    run("sample", "-w", workspace.path, "sample.policy=" + workspace.config().model.name)
    code, _, err = run("judge", "-w", workspace.path, "judge.annotators=[]")
    assert code == 2
    for way in ("--annotate 20", "plaudit campaign create", "plaudit import", "judge.models=", "judge.annotators="):
        assert way in err
    assert workspace.store.comparisons() == []
    assert workspace.runs("judge") == []


def test_an_option_that_is_a_setting_is_told_how_settings_are_written(run, workspace):
    code, _, err = run("rl", "-w", workspace.path, "--steps", "3")
    assert code == 2
    assert "No such option" in err
    assert "Settings are written without dashes: rl.steps=VALUE" in err or "pretrain.steps=VALUE" in err


def test_readme_s_algorithms_run_as_written(run, workspace, tiny_model, tmp_path):
    (tmp_path / "rewards.py").write_text(
        "def one(prompts, responses):\n    return [float(len(r)) for r in responses]\n"
    )
    changes = [f"rl.policy={tiny_model}", f"rl.reward=function:{tmp_path}/rewards.py:one", "rl.steps=1"]
    code, _, err = run("rl", "--algorithm", "rloo", "-w", workspace.path, *changes)
    assert code == 0, err
    assert workspace.run("rl-001").config().rl.samples_per_prompt is None


@pytest.mark.parametrize("arguments", [["-m", "caf\udce9"], []])
def test_bytes_that_are_no_utf_8_are_replaced(workspace, tiny_model, arguments):
    """At the prompt, and in an argument."""
    words = ["chat", str(tiny_model), "-w", str(workspace.path), "--max-new-tokens", "2", "--json", *arguments]
    done = subprocess.run(
        [sys.executable, "-m", "plaudit", *words], input=b"caf\xe9\n\n", capture_output=True, check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["question"] == "caf\ufffd"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_the_terminal_lacks_are_written_another_way(workspace, tmp_path, encoding):
    """Rather than ending in a UnicodeEncodeError."""
    file = write_lines(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b", "漢": 1}])
    done = subprocess.run(
        [sys.executable, "-m", "plaudit", "import", str(file), "--kind", "comparisons", "-w", str(workspace.path)],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"not read: " in done.stdout


def test_a_file_that_may_not_grow_further_is_one_message(workspace):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = subprocess.run(
        [sys.executable, "-m", "plaudit", "sft", "-w", str(workspace.path), "model.lora=null"],
        capture_output=True, text=True, preexec_fn=limit, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "The disk is full, or cannot be written" in done.stderr


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_too_little_memory_is_one_message(run, workspace, monkeypatch, error):
    import plaudit.training.sft as module

    def too_much(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(module, "load_causal", too_much)
    code, _, err = run("sft", "-w", workspace.path)
    assert code == 2
    assert "not enough memory" in err


def test_a_file_that_ends_too_early_is_not_taken_for_ctrl_c(run, workspace, monkeypatch):
    import plaudit.training.sft as module

    def ends(*_args, **_kwargs):
        raise EOFError

    monkeypatch.setattr(module, "load_causal", ends)
    code, _, err = run("sft", "-w", workspace.path)
    assert code == 2
    assert "ended before it was complete" in err
    assert workspace.begun("sft-001").status == "failed"


def test_of_many_annotators_ten_are_shown(run, workspace, tmp_path):
    names = [f"worker-{i:03d}" for i in range(40)]
    rows = [{"prompt": f"q{i % 4}", "chosen": "x", "rejected": "y", "annotator": name} for i, name in enumerate(names)]
    run("import", write_lines(tmp_path / "c.jsonl", rows), "--kind", "comparisons", "-w", workspace.path)
    code, out, _ = run("agreement", "-w", workspace.path)
    assert code == 0
    assert out.count("worker-") == 10
    assert "and 30 more (--json has all)" in out
    assert (
        len(json.loads(run("agreement", "-w", workspace.path, "--json")[1])["better altogether"]["with_the_rest"]) == 40
    )


def test_of_long_results_ten_lines_by_name_are_shown():
    from plaudit.reporting.text import result_lines

    interval = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    lines = list(result_lines({"accuracy_by_annotator": {f"w{i}": interval for i in range(25)}}))
    assert len(lines) == 12
    assert lines[-1] == "    and 15 more (--json has all)"
    figures = {f"figure {i}": [1.0, "a", None][i % 3] for i in range(25)}
    assert len(list(result_lines({"several": figures}))) == 26
    assert next(result_lines({"annotators": [f"w{i}" for i in range(25)]})).endswith("w9, and 15 more (--json has all)")
