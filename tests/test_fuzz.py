"""Whatever is broken in rows, settings and files: exit code 0 or 2, one message, no traceback, nothing half-written.

Inputs are made by hypothesis from what the program reads, with parts of it put out of order. An exception that reaches
the command line is one that its user would see as a traceback.
"""

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import TINY, make_model, write_lines
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import plaudit
from plaudit import cli
from plaudit.config import Config, resolve
from plaudit.errors import ConfigError

EXAMPLES = int(os.environ.get("PLAUDIT_FUZZ", "12"))
fuzz = settings(
    max_examples=EXAMPLES, deadline=None, derandomize="PLAUDIT_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck), database=None,
)  # fmt: skip


def call(*arguments):
    """(exit code, standard output, standard error); an exception passes through."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["plaudit", *map(str, arguments)]
    stdin, sys.stdin = sys.stdin, io.StringIO("")
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv, sys.stdin = before, stdin
    return code, out.getvalue(), err.getvalue()


def check(code, out, err):
    """0, or 2 with one message."""
    assert code in (0, 2), (code, err)
    assert "Traceback" not in out + err
    if code == 2:
        assert len([line for line in err.splitlines() if line.startswith(("plaudit: ", "Usage: "))]) == 1, err
        assert len(err) < 5000, err[:300]


def no_leftovers(folder: Path):
    left = [path for path in folder.rglob("*") if ".partial" in path.name or path.name.endswith(".tmp")]
    assert not left


texts = st.one_of(
    st.sampled_from(
        ["", " ", "a", "why does tea help?", "\0", "\ud800", "é", "\u2028", "<|end|>", "x" * 3000, "null", "1"]
    ),
    st.text(max_size=12),
)
numbers = st.one_of(
    st.integers(-3, 6), st.floats(), st.sampled_from([10**400, -(10**30), 1e308, 0.5, -0.0, True, False])
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
roles = st.sampled_from(["user", "assistant", "system", "tool", "", "human"])
messages = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": roles, "content": texts}),
        st.fixed_dictionaries({"role": roles, "content": values}, optional={"weight": numbers, "name": texts}),
    ),
    max_size=4,
)
cell = st.one_of(texts, messages, values)
WHOLE = {
    "prompts": {"prompt": "why?"},
    "demonstrations": {"prompt": "why?", "completion": "so"},
    "comparisons": {"prompt": "why?", "chosen": "a", "rejected": "b"},
    "rankings": {"prompt": "why?", "responses": ["a", "b", "c"], "ranks": [1, 2, 3]},
    "ratings": {"prompt": "why?", "completion": "so", "rating": 3},
    "labels": {"prompt": "why?", "completion": "so", "label": True},
}
MORE = [
    "annotator", "criterion", "grade", "tie", "preference", "chosen_safe", "rejected_safe", "created", "seconds", "id",
    "source", "messages", "question", "system", "weight", "tools", "winner", "conversation_a", "meta", "subset", "",
]  # fmt: skip
broken_rows = st.sampled_from(sorted(WHOLE)).flatmap(
    lambda kind: st.tuples(
        st.just(kind),
        st.lists(
            st.tuples(
                st.sets(st.sampled_from(sorted(WHOLE[kind])), max_size=1),
                st.dictionaries(st.sampled_from([*WHOLE[kind], *MORE]), cell, max_size=2),
            ).map(lambda two: {k: v for k, v in {**WHOLE[kind], **two[1]}.items() if k not in two[0]}),
            min_size=1,
            max_size=3,
        ),
    )
)


def as_line(row) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except ValueError:  # a number of thousands of digits cannot be written by Python itself
        return b'{"prompt": ' + b"9" * 5000 + b"}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace with a little of everything, to be copied where something is broken on purpose."""
    base = tmp_path_factory.mktemp("fuzz")
    model = make_model(base / "model")
    made = plaudit.init(base / "w", config=resolve(overrides=[*TINY, f"model.name={model}"]))
    prompts = [{"prompt": f"why does {word} help?"} for word in ("tea", "rain", "bread", "music", "moon", "stone")]
    pairs = [{**p, "chosen": f"good {i}", "rejected": f"bad {i}"} for p in prompts for i in range(2)]
    plaudit.import_file(made.store, write_lines(base / "c.jsonl", pairs), kind="comparisons")
    plaudit.import_file(
        made.store, write_lines(base / "d.jsonl", [{**p, "completion": "it is good"} for p in prompts]),
        kind="demonstrations",
    )  # fmt: skip
    config = made.config(overrides=["sft.epochs=1", "evaluate.reward=null", "evaluate.policy=sft-001"])
    plaudit.sft(made, config)
    plaudit.evaluate(made, config)
    made.store.database.engine.dispose()
    return SimpleNamespace(base=base, workspace=made.path, model=model)


@pytest.fixture(scope="module")
def receiving(place):
    """A workspace into which rows are imported, one broken file after the other."""
    return plaudit.init(place.base / "receiving", config=resolve(overrides=TINY))


def counts(workspace):
    return workspace.store.counts()


@fuzz
@given(broken_rows, st.sampled_from(["", "\n", "[", "\r\n", "\ufeff"]), st.booleans())
def test_broken_rows_are_imported_whole_or_not_at_all(place, receiving, rows, around, as_list):
    kind, content = rows
    lines = [as_line(row) for row in content]
    body = b"[" + b",\n".join(lines) + b"]" if as_list else b"\n".join(lines)
    file = place.base / "rows.jsonl"
    file.write_bytes(around.encode() + body)
    before = counts(receiving)
    code, out, err = call("import", file, "--kind", kind, "-w", receiving.path)
    check(code, out, err)
    if code == 2:
        assert counts(receiving) == before
        assert "rows.jsonl" in err
    check(*call("status", "-w", receiving.path))


@fuzz
@given(
    st.sampled_from(sorted(WHOLE)),
    st.binary(max_size=60),
    st.integers(0, 30),
    st.sampled_from([b"", b"PAR1", b"\x1f\x8b"]),
)
def test_bytes_in_place_of_rows_are_refused_whole(place, receiving, kind, noise, where, magic):
    whole = as_line(WHOLE[kind]) + b"\n"
    file = place.base / "rows.jsonl"
    file.write_bytes(magic + whole[:where] + noise + whole[where:] + whole)
    before = counts(receiving)
    code, out, err = call("import", file, "--kind", kind, "-w", receiving.path)
    check(code, out, err)
    if code == 2:
        assert counts(receiving) == before


NESTS = {
    "deep list": b'{"prompt": "a", "chosen": "b", "rejected": "c", "meta": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep map": b'{"prompt": "a", "chosen": "b", "rejected": "c", "meta": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
    "long integer": b'{"prompt": "a", "chosen": "b", "rejected": "c", "meta": ' + b"9" * 6_000 + b"}",
    "long rating": b'{"prompt": "a", "completion": "b", "rating": ' + b"9" * 400 + b"}",
    "infinite": b'{"prompt": "a", "completion": "b", "rating": Infinity}',
    "half a pair": b'{"prompt": "\\ud800", "completion": "b", "rating": 1}',
}


@pytest.mark.parametrize("what", NESTS)
@pytest.mark.parametrize("as_list", [False, True])
def test_nests_and_numbers_beyond_all_measure_are_messages(place, receiving, what, as_list):
    kind = "ratings" if b"rating" in NESTS[what] else "comparisons"
    file = place.base / "rows.jsonl"
    file.write_bytes(b"[" + NESTS[what] + b"]" if as_list else NESTS[what])
    before = counts(receiving)
    code, out, err = call("import", file, "--kind", kind, "-w", receiving.path)
    check(code, out, err)
    assert code == 0 or counts(receiving) == before


def leaves(section, prefix=""):
    for name in type(section).model_fields:
        value = getattr(section, name)
        if hasattr(type(value), "model_fields"):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


SETTINGS = sorted(leaves(Config()))
odd = st.one_of(
    st.sampled_from([
        "", "null", "[]", "{}", "-1", "0", "1e400", ".nan", ".inf", "9" * 5000, "9" * 400, "[" * 3000, "{a: b}", "yes",
        "2024-99-99", "&a [*a]", "!!python/object:os.system x", "'", '"', "#", "a: b: c", "- a", "\0", "[1, a, {b: c}]",
        "latest:", "latest:sft", "sft-9", "function:", "function:x", "function:os:nothing", "judge:", "../..", "~", "=",
        "%", "stage:x", "snapshot:", "snapshot:none", "reward:", "1:30", "0x10", "1_000", "*a", "\ud800", "\udce9",
    ]),
    st.text(max_size=8),
    st.integers(-5, 5).map(str),
)  # fmt: skip


@settings(fuzz, max_examples=20 * EXAMPLES)
@given(st.sampled_from(SETTINGS), odd)
@example("model.name", "[" * 3000)
@example("seed", "9" * 5000)
@example("sft.epochs", "2024-99-99")
@example("rl.reward", "[1, a, {b: c}]")
@example("sft.Epochs", "1")
def test_an_odd_setting_is_taken_or_refused_in_a_line(name, value):
    said = ""
    try:
        resolve(overrides=[f"{name}={value}"])
    except ConfigError as error:
        said = str(error)
    assert len(said.splitlines()) <= 5
    assert len(said) < 2000


@fuzz
@given(
    st.lists(st.tuples(st.sampled_from(SETTINGS), odd).map("=".join), min_size=1, max_size=3),
    st.sampled_from(["rl", "sft", "reward", "prefer", "judge", "evaluate", "run", "init"]),
)
def test_odd_settings_are_taken_or_refused(place, changes, command):
    where = [place.base / "never"] if command == "init" else ["-w", place.workspace]
    code, out, err = call(command, *where, "--dry-run", *changes)
    check(code, out, err)
    if code == 0 and command != "run":
        assert Config.model_validate(yaml.safe_load(out)) is not None
    assert not (place.base / "never").exists()


@fuzz
@given(st.lists(st.one_of(odd, st.sampled_from(SETTINGS), st.text(max_size=10)), min_size=1, max_size=3))
def test_odd_words_on_the_command_line_are_taken_or_refused(place, words):
    assume(not any(word in ("--help", "-h") for word in words))
    check(*call("sft", "-w", place.workspace, "--dry-run", *words))


MODELS = [
    "sample.policy", "prefer.policy", "prefer.reference", "rl.policy", "rl.reward", "evaluate.policy", "reward.model",
    "evaluate.baseline", "evaluate.reward", "judge.utility", "judge.samples", "model.name", "revise.model",
    "rl.episodes.user", "evaluate.perplexity_text", "rl.pretraining.text", "revise.samples", "revise.constitution",
]  # fmt: skip
REFERENCES = [
    "", "latest:sft", "latest:evaluate", "latest:reward", "latest:", "sft-001", "evaluate-001", "sft-002", "sft-1", ".",
    "/", "/dev/null", "{base}", "{base}/model", "{base}/c.jsonl", "function:{base}/c.jsonl:f", "function:os:getcwd",
    "judge:sft-001", "judge:", "model:sft-001", "reward:sft-001", "a b", "é", "\0", "~nobody", "null", "[sft-001]",
    "{{}}",
]  # fmt: skip


@fuzz
@given(
    st.sampled_from(MODELS),
    st.sampled_from(REFERENCES),
    st.sampled_from(["sample", "prefer", "rl", "evaluate", "reward", "judge", "sft", "revise"]),
)
def test_references_to_what_is_not_there_end_before_a_run_is_begun(place, setting, reference, command):
    folder = fresh_copy(place)
    value = reference.format(base=place.base)
    small = ["rl.steps=1", "rl.reward=function:os:getcwd"] if setting != "rl.reward" else ["rl.steps=1"]
    code, out, err = call(command, "-w", folder, *small, f"{setting}={value}")
    check(code, out, err)
    no_leftovers(folder)
    for run in plaudit.Workspace(folder).runs():
        assert run.status in ("complete", "failed")


def fresh_copy(place):
    folder = place.base / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place.workspace, folder)
    return folder


def damaged(content: bytes, how: str, at: float, noise: bytes) -> bytes:
    start = int(len(content) * at)
    return {
        "cut": content[:start],
        "noise": content[:start] + noise + content[start + len(noise) :],
        "more": content + noise,
        "nuls": content[:start] + b"\0" * (len(content) - start),
        "instead": noise,
        "twice": content + content,
    }[how]


FILES = [
    "plaudit.yaml", "runs/sft-001/run.json", "runs/sft-001/config.yaml", "runs/sft-001/metrics.jsonl",
    "runs/sft-001/model/config.json", "runs/sft-001/model/tokenizer.json", "runs/sft-001/model/tokenizer_config.json",
    "runs/sft-001/model/generation_config.json", "runs/sft-001/model/model.safetensors", "runs/sft-001/owner.json",
    "runs/evaluate-001/run.json", "runs/evaluate-001/config.yaml", "runs/evaluate-001/samples.jsonl", "feedback.sqlite",
]  # fmt: skip
COMMANDS = [
    ["status"], ["status", "--json"], ["agreement"], ["report"], ["export", "sft-001", "{base}/out"],
    ["export", "data", "{base}/out"], ["snapshot", "list"], ["campaign", "list"], ["audit", "verify"],
    ["chat", "sft-001", "-m", "why?", "--max-new-tokens", "2"], ["sft", "--resume", "sft-001"], ["sft", "--dry-run"],
    ["sample", "sample.policy=sft-001", "sample.samples_per_prompt=1", "sample.max_new_tokens=2"],
    ["judges", "compare"], ["run", "--dry-run"], ["prefer", "prefer.policy=sft-001", "--dry-run"],
]  # fmt: skip
noises = st.one_of(
    st.binary(max_size=24),
    st.sampled_from([b"{}", b"[]", b"null", b"1", b'""', b"{", b"\xff\xfe", b"[1]", b'{"a": 1}']),
)


@fuzz
@given(
    st.sampled_from(FILES),
    st.sampled_from(["cut", "noise", "more", "nuls", "instead", "twice"]),
    st.floats(0, 1),
    noises,
    st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=2),
)
def test_damaged_files_of_a_workspace_are_messages(place, name, how, at, noise, commands):
    folder = fresh_copy(place)
    path = folder / name
    path.write_bytes(damaged(path.read_bytes(), how, at, noise))
    for command in commands:
        out_folder = place.base / "out"
        shutil.rmtree(out_folder, ignore_errors=True)
        code, out, err = call(*(word.format(base=place.base) for word in command), "-w", folder)
        check(code, out, err)
        if code == 2:
            assert not out_folder.exists()
        no_leftovers(folder)


@fuzz
@given(
    st.sampled_from(["prompts", "pairs"]),
    st.lists(
        st.dictionaries(
            st.sampled_from(["prompt", "completion", "messages", "chosen", "rejected", "label"]), cell, max_size=3
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_files_beside_a_model_are_messages(place, what, rows):
    """Of `score` and `evaluate reward`, with what is no reward model."""
    file = place.base / "beside.jsonl"
    file.write_bytes(b"\n".join(map(as_line, rows)))
    target = ["--data", file, "--output", place.base / "scored.jsonl"] if what == "prompts" else ["--comparisons", file]
    command = ["score"] if what == "prompts" else ["evaluate", "reward"]
    code, out, err = call(*command, place.model, *target, "-w", place.workspace)
    check(code, out, err)
    assert code == 0 or not (place.base / "scored.jsonl").exists()


OPTIONS = [
    ["power", "--win-rate"], ["power", "--agreement"], ["power", "--people-per-item"], ["power", "--ties"],
    ["power", "--items-per-prompt"], ["power", "--alpha"], ["power", "--power"], ["power", "--per-annotator"],
    ["power", "--seed"], ["power", "--repetitions"], ["power", "--prompt-correlation"], ["power", "--accuracy"],
    ["chat", "{model}", "-m", "why?", "--max-new-tokens", "2", "--temperature"],
    ["chat", "{model}", "-m", "why?", "--max-new-tokens"], ["chat", "{model}", "--max-new-tokens", "2", "--seed"],
    ["chat", "{model}", "--max-new-tokens", "2", "-m"], ["import", "{base}/c.jsonl", "--format"],
    ["import", "{base}/c.jsonl", "--kind"], ["export", "data", "{base}/never", "--format"],
    ["export", "data", "{base}/never", "--kind"], ["export", "data", "{base}/never", "--snapshot"],
    ["snapshot", "make"], ["snapshot", "verify"], ["snapshot", "make", "x", "--run"], ["export"], ["report"],
    ["campaign", "create"], ["campaign", "close"], ["campaign", "create", "one", "--kind"],
    ["people", "invite", "--number"], ["judges", "compare", "--judge"], ["judges", "compare", "--epsilon"],
    ["sft", "--resume"], ["judge", "--annotate"], ["quickstart", "--dry-run", "--recipe"],
    ["quickstart", "--dry-run", "--seed"], ["sft", "--dry-run", "--config"], ["annotate", "--port"],
    ["annotate", "--host"],
]  # fmt: skip
ODD_OPTIONS = [
    "", "nan", "inf", "-1", "0", "1", "1e400", "9" * 500, "a", "\0", "é", "latest:sft", "../x", "/", ".", "x" * 300,
    "0.5", "{base}/c.jsonl", "\udce9", "2", "-0.0", "one two", "1000000",
]  # fmt: skip


@fuzz
@given(st.sampled_from(OPTIONS), st.sampled_from(ODD_OPTIONS))
def test_odd_values_of_options_are_taken_or_refused(place, command, value):
    assume(command[-1] != "--host" or value not in ("0", "1", "2", ""))  # which are addresses: it would serve
    assume(command[-1] != "--port" or not value.isdigit() or len(value) > 5)
    assume(command[-1] not in ("--repetitions", "--max-new-tokens") or value != "1000000")  # which is only slow
    folder = fresh_copy(place)
    words = [word.format(base=place.base, model=place.model) for word in [*command, value]]
    code, out, err = call(*words, *(["-w", folder] if command[0] != "quickstart" else []))
    check(code, out, err)
    if code == 2:
        assert not (place.base / "never").exists()
    shutil.rmtree(place.base / "never", ignore_errors=True)


@fuzz
@given(noises, st.booleans())
def test_files_of_settings_are_taken_or_refused(place, noise, after_settings):
    file = place.base / "settings.yaml"
    file.write_bytes((b"sft: {epochs: 3}\n" if after_settings else b"") + noise)
    check(*call("sft", "--dry-run", "--config", file, "-w", place.workspace))
    check(*call("init", place.base / "never", "--dry-run", "--config", file))


@fuzz
@given(
    noises, st.sampled_from(["evaluate.perplexity_text", "pretrain.text", "rl.pretraining.text", "revise.constitution"])
)
def test_texts_named_in_settings_are_read_or_refused(place, noise, setting):
    file = place.base / "texts.jsonl"
    file.write_bytes(b'{"text": "the garden grows well"}\n' + noise)
    folder = fresh_copy(place)
    small = [
        "pretrain.steps=1", "pretrain.hidden_size=16", "pretrain.layers=1", "pretrain.heads=1", "rl.steps=1",
        "pretrain.sample_tokens=2", "pretrain.vocabulary_size=300", "rl.policy=sft-001", "pretrain.held_out_share=0",
        "rl.reward=function:json:dumps", "evaluate.policy=sft-001", "evaluate.reward=null", "evaluate.max_new_tokens=2",
    ]  # fmt: skip
    value = f"[{file}]" if setting == "pretrain.text" else str(file)
    check(*call(setting.partition(".")[0], *small, f"{setting}={value}", "-w", folder))
    no_leftovers(folder)
