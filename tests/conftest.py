"""A tiny model and a small workspace, made afresh: no test needs a download or a particular machine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only wait for each other

import pytest
from databases import database_place as database_place  # a fixture for every test

CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
WORDS = (
    "a good kind happy answer is that the garden grows well and water helps it bad sad awful rain fell on stone "
    "why does how can what should I do today about my friend dog tea bread river moon music book lamp"
).split()

JUDGES = "judge.annotators=[{name: careful, noise: 0.3}, {name: average, noise: 0.6}, {name: hasty, noise: 1.2}]"
TINY = [
    "model.dtype=float32",
    "model.lora={rank: 4, alpha: 8}",
    "sample.max_new_tokens=12",
    "rl.max_new_tokens=12",
    "rl.prompts_per_step=6",
    "rl.steps=3",
    "rl.save_every=1",
    "rl.anyway=true",
    "evaluate.max_new_tokens=12",
    "sft.batch_size=4",
    "sft.save_every=1",
    "reward.batch_size=4",
    "reward.save_every=1",
    JUDGES,
]
"""Overrides that make every stage take a second, with simulated annotators."""


def make_tokenizer():
    """Byte-level BPE with chat tokens; pad differs from end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        bos_token="<|start|>",
        chat_template=CHAT_TEMPLATE,
    )


def make_model(folder: Path, *, seed: int = 0, **changes) -> Path:
    """A two-layer Llama with grouped heads, random weights, as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def as_classifier(folder: Path) -> Path:
    """A model that says of itself that it is a classifier."""
    make_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    return folder


def write_lines(path: Path, rows: list) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def prompts_file(tmp_path) -> Path:
    words = WORDS[10:]
    rows = [{"prompt": f"What should I do about my {a} and {b} today?"} for a in words[:6] for b in words[6:11]]
    return write_lines(tmp_path / "prompts.jsonl", rows)


@pytest.fixture
def demonstrations_file(tmp_path) -> Path:
    words = WORDS[10:]
    rows = [
        {
            "prompt": f"What should I do about my {a} and {b} today?",
            "completion": f"a good answer is that {a} helps {b}",
        }
        for a in words[:6]
        for b in words[6:10]
    ]
    return write_lines(tmp_path / "demonstrations.jsonl", rows)


@pytest.fixture
def workspace(tmp_path, tiny_model, prompts_file, demonstrations_file):
    """Thirty prompts, twenty-four demonstrations, settings for a tiny model."""
    import plaudit
    from plaudit.config import resolve

    prose = write_lines(tmp_path / "prose.jsonl", [{"text": "the garden grows well and water helps it"}] * 3)
    settings = resolve(overrides=[*TINY, f"model.name={tiny_model}", f"evaluate.perplexity_text={prose}"])
    made = plaudit.init(tmp_path / "workspace", config=settings)
    plaudit.import_file(made.store, prompts_file, kind="prompts")
    plaudit.import_file(made.store, demonstrations_file, kind="demonstrations")
    return made


@pytest.fixture(autouse=True)
def engine_in_its_own_tests(request, monkeypatch):
    """tests/cpu tests the CPU engine, whatever the rest of the suite is run with."""
    if Path(__file__).parent / "cpu" not in request.path.parents:
        return
    from plaudit import cpu

    monkeypatch.delenv(cpu.VARIABLE, raising=False)
    cpu.use("auto")


@pytest.fixture
def without_trials(monkeypatch):
    """For tests that count a network's passes: nothing is tried before the first step."""
    monkeypatch.setattr("plaudit.training.online.rehearse_causal", lambda *_: None)
    monkeypatch.setattr("plaudit.training.preference.rehearse_causal", lambda *_: None)
    monkeypatch.setattr("plaudit.sampling.in_process._try_decoding", lambda *_: None)


FOUR_ANSWERS = ("tea", "moon", "book", "lamp")
REWARDS = """
WORTH = {"tea": 1.0, "moon": 0.0, "book": 2.0, "lamp": -1.0}
def worth(prompts, responses):
    return [WORTH.get(response, -1.0) for response in responses]
def shifted(prompts, responses):
    return [WORTH.get(r, -1.0) + 0.5 * len(prompt[-1]["content"]) for prompt, r in zip(prompts, responses)]
def words(prompts, responses):
    return [1.0 if response == "book" else -1.0 for response in responses]
def broken(prompts, responses):
    return [float("nan") if "How" not in prompt[-1]["content"] else 0.0 for prompt in prompts]
def short(prompts, responses):
    return [0.0]
def nothing(prompts, responses):
    return None
not_a_function = 3
"""
"""Reward functions of the four answers, good and bad."""


@pytest.fixture(scope="session")
def four_answers(tmp_path_factory):
    """A workspace whose fine-tuned policy says one of four words, each about as often."""
    import plaudit
    from plaudit.config import resolve

    base = tmp_path_factory.mktemp("four")
    model = make_model(base / "model")
    questions = [f"What should I do about my {a} {b} today?" for a in ("dog", "river", "music") for b in FOUR_ANSWERS]
    rows = [{"prompt": q, "completion": a} for q in questions for a in FOUR_ANSWERS]
    changes = [
        *TINY,
        f"model.name={model}",
        "data.held_out_share=0",
        "sft.optimiser.learning_rate=0.01",
        "sft.epochs=25",
        "sft.batch_size=8",
        "rl.policy=sft-001",
        "rl.max_new_tokens=6",
        "rl.prompts_per_step=8",
        "rl.samples_per_prompt=4",
        "rl.steps=30",
        "rl.kl_coefficient=0.1",
        "rl.online_dpo.beta=0.1",
        "rl.optimiser={learning_rate: 0.006, schedule: constant}",
        "rl.value_optimiser={learning_rate: 0.01}",
        f"rl.reward=function:{base / 'rewards.py'}:worth",
        "rl.rejection.prompts_per_round=8",
        "rl.rejection.optimiser.learning_rate=0.02",
        "rl.rejection.epochs=6",
    ]
    (base / "rewards.py").write_text(REWARDS)
    workspace = plaudit.init(base / "workspace", config=resolve(overrides=changes))
    plaudit.import_file(workspace.store, write_lines(base / "d.jsonl", rows), kind="demonstrations", held_out_share=0.0)
    plaudit.sft(workspace, workspace.config(overrides=["model.lora=null"]))
    return workspace


@pytest.fixture
def run(monkeypatch, capsys):
    """run("sft", "-w", ...) -> (exit code, standard output, standard error)."""

    from plaudit import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["plaudit", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
