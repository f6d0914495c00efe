"""Prompts that a model cannot take are left out of every stage, counted and said."""

import pytest
from conftest import write_lines

import plaudit
from plaudit.errors import DataError

LONG = "word " * 400
REFUSING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture
def mixed(workspace, tmp_path):
    """The workspace with one prompt beyond the model's context, judged and demonstrated as the others are."""
    rows = [{"prompt": LONG + name, "completion": "a good answer"} for name in ("one", "two", "three", "four")]
    file = write_lines(tmp_path / "long.jsonl", rows)
    plaudit.import_file(workspace.store, file, kind="demonstrations", held_out_share=0.0)
    pairs = [{**row, "chosen": "a good answer", "rejected": "rain fell"} for row in rows]
    pairs += [
        {"prompt": p.text, "chosen": f"a good answer {i}", "rejected": "rain"}
        for i, p in enumerate(workspace.store.prompts())
        if len(p.text) < 100
    ]
    pairs = [{k: v for k, v in row.items() if k != "completion"} for row in pairs]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "pairs.jsonl", pairs), kind="comparisons")
    return workspace


def test_sft_sample_reward_prefer_and_rl_leave_a_prompt_out_that_is_too_long(mixed, tmp_path, capsys):
    function = tmp_path / "f.py"
    function.write_text("def length(prompts, responses):\n    return [float(len(r)) for r in responses]\n")
    said = "4 of 34 prompts left out: more than"
    config = mixed.config(overrides=["rl.steps=1", f"rl.reward=function:{function}:length", "rl.policy=sft-001"])
    plaudit.sft(mixed, config)
    assert "4 of " in (err := capsys.readouterr().err)
    assert "prompts left out: more than" in err
    longest = max(mixed.store.prompts(), key=lambda p: len(p.text)).id
    run = plaudit.sample(mixed, config)
    err = capsys.readouterr().err
    assert said in err
    assert any(p.id in err for p in mixed.store.prompts() if len(p.text) > 1000)
    assert run.result["prompts"] == 30
    assert not [r for r in mixed.store.responses(run.name) if r.prompt_id == longest]
    for stage in (plaudit.reward, plaudit.prefer):
        stage(mixed, config)
        assert "prompts left out: more than" in capsys.readouterr().err
    plaudit.rl(mixed, config)
    assert "prompts left out: more than" in capsys.readouterr().err


def test_evaluate_leaves_out_what_either_model_cannot_take(mixed, tmp_path, capsys):
    rows = [{"prompt": LONG + "held out"}]
    plaudit.import_file(mixed.store, write_lines(tmp_path / "h.jsonl", rows), kind="prompts", held_out_share=1.0)
    plaudit.sft(mixed)
    changes = ["evaluate.policy=sft-001", "evaluate.baseline=sft-001", "evaluate.reward=null"]
    capsys.readouterr()
    run = plaudit.evaluate(mixed, mixed.config(overrides=changes))
    held_out = mixed.store.prompts("held_out")
    assert run.result["prompts"] == len(held_out) - 1
    assert f"1 of {len(held_out)} prompts left out: more than" in capsys.readouterr().err


def test_nothing_left_is_an_error_that_names_both_limits(mixed):
    with pytest.raises(DataError, match=r"None is left[\s\S]*data.max_prompt_tokens"):
        plaudit.sft(mixed, mixed.config(overrides=["data.max_prompt_tokens=2"]))


def test_a_conversation_that_the_template_refuses_is_left_out(workspace, tmp_path, capsys):
    from transformers import AutoTokenizer

    folder = workspace.config().model.name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    from conftest import make_model

    refusing = make_model(tmp_path / "refusing")
    tokenizer.chat_template = REFUSING
    tokenizer.save_pretrained(refusing)
    twice = [{"role": "user", "content": "tea"}, {"role": "user", "content": "moon"}]
    rows = [{"prompt": twice, "completion": "a good answer"}]
    file = write_lines(tmp_path / "twice.jsonl", rows)
    plaudit.import_file(workspace.store, file, kind="demonstrations", held_out_share=0.0)
    before = len(workspace.store.demonstrations("train"))
    run = plaudit.sft(workspace, workspace.config(overrides=[f"model.name={refusing}"]))
    assert run.result["demonstrations"] == before - 1
    assert "roles must alternate" in capsys.readouterr().err


def test_texts_with_control_tokens_are_counted(workspace, tmp_path, capsys):
    rows = [{"prompt": "say <|end|> please", "completion": "a good <|end|> answer"}]
    file = write_lines(tmp_path / "control.jsonl", rows)
    plaudit.import_file(workspace.store, file, kind="demonstrations", held_out_share=0.0)
    plaudit.sft(workspace)
    err = capsys.readouterr().err
    assert "1 text holds control tokens, which are read as plain text" in err
    assert "say <|end|> please" in err
