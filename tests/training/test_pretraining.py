"""Pretraining from plain text: it learns, it goes on where it stopped, and fine-tuning starts from it."""

import gzip
import itertools
import json

import pytest
from conftest import write_lines

import plaudit
from plaudit.config import ModelSettings, PretrainSettings, resolve
from plaudit.errors import DataError, ModelError
from plaudit.models.fresh import fresh_causal
from plaudit.models.loading import load_causal
from plaudit.text.plain import read_documents
from plaudit.text.vocabulary import train_tokenizer
from plaudit.training.pretraining import batches_of_tokens, pieces
from plaudit.training.steps import optimiser as step_module

STORY = "the dog and the river and the moon sing a good song . the dog is happy and the moon is kind . "
TINY = [
    "model.dtype=float32", "pretrain.vocabulary_size=300", "pretrain.hidden_size=32", "pretrain.layers=2",
    "pretrain.context_length=32", "pretrain.steps=30", "pretrain.tokens_per_step=200", "pretrain.held_out_share=0.2",
    "pretrain.evaluate_every=10", "pretrain.sample_every=15", "pretrain.sample_tokens=8", "pretrain.save_every=7",
    "pretrain.optimiser.learning_rate=0.01", "pretrain.sample_prompt=the dog",
]  # fmt: skip


@pytest.fixture
def text(tmp_path):
    """Thirty documents in a text file and ten in JSONL, gzipped."""
    stories = tmp_path / "stories.txt"
    stories.write_text("<|endoftext|>".join(f"{STORY * (1 + i % 4)} {i}" for i in range(30)))
    lines = "".join(json.dumps({"text": f"{i} {STORY}"}) + "\n" for i in range(10))
    packed = tmp_path / "more.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.encode()))
    return [str(stories), str(packed)]


def workspace_of(folder, text, *changes):
    config = resolve(overrides=[*TINY, f"pretrain.text={json.dumps(text)}", *changes])
    return plaudit.init(folder, config=config)


def test_it_learns_the_text_and_says_so(text, tmp_path):
    run = plaudit.pretrain(workspace_of(tmp_path / "w", text))
    rows = run.metrics()
    held_out = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    assert len(held_out) == 3
    assert rows[0]["loss"] > 5 > 2 > held_out[-1] == pytest.approx(run.result["held_out_loss"], abs=1e-6)
    assert run.result["held_out_bits_per_byte"] < 1.5
    assert run.result["documents"] + run.result["held_out_documents"] == 40
    assert run.result["tokens_seen"] >= 30 * 200
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert [s["step"] for s in samples] == [15, 30]
    assert all(s["text"].startswith("the dog") for s in samples)


def test_a_stopped_run_goes_on_to_the_same_weights(text, tmp_path, monkeypatch):
    whole = plaudit.pretrain(workspace_of(tmp_path / "whole", text))
    stopped = workspace_of(tmp_path / "stopped", text)
    steps, plain = itertools.count(1), step_module.Optimiser.step

    def failing(self):
        if next(steps) == 12:
            raise KeyboardInterrupt
        return plain(self)

    monkeypatch.setattr(step_module.Optimiser, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        plaudit.pretrain(stopped)
    monkeypatch.undo()
    resumed = plaudit.pretrain(stopped, resume="pretrain-001")
    one, other = (
        load_causal(str(run.model_folder), ModelSettings(dtype="float32")).network for run in (whole, resumed)
    )
    for (name, value), again in zip(one.body.state_dict().items(), other.body.state_dict().values(), strict=True):
        assert value.equal(again), name
    assert [row["loss"] for row in whole.metrics()] == [row["loss"] for row in resumed.metrics()]
    assert whole.result == resumed.result


def test_fine_tuning_starts_from_it(text, tmp_path):
    workspace = workspace_of(tmp_path / "w", text, "pretrain.steps=5", "sft.epochs=1", "model.name=latest:pretrain")
    plaudit.pretrain(workspace)
    rows = [{"prompt": f"sing {i}", "completion": "a good song"} for i in range(12)]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "d.jsonl", rows), kind="demonstrations")
    run = plaudit.sft(workspace)
    assert run.parents == {"model": "pretrain-001"}
    form = load_causal(str(run.model_folder), ModelSettings(dtype="float32")).format
    assert form.tokenizer.decode(form.encode_prompt([{"role": "user", "content": "sing"}])) == (
        "<|im_start|>user\nsing<|im_end|>\n<|im_start|>assistant\n"
    )
    assert form.tokenizer.decode([form.end_id]) == "<|im_end|>"


def test_a_given_tokenizer_is_used_as_it_is(text, tmp_path):
    own = train_tokenizer([STORY], 280)
    own.save_pretrained(tmp_path / "own")
    run = plaudit.pretrain(
        workspace_of(tmp_path / "w", text, f"pretrain.tokenizer={tmp_path / 'own'}", "pretrain.steps=1")
    )
    model = load_causal(str(run.model_folder), ModelSettings(dtype="float32"))
    assert model.format.tokenizer.get_vocab() == own.get_vocab()
    assert model.context_length == 32


def test_every_token_is_predicted_exactly_once():
    model = fresh_causal(
        train_tokenizer([STORY], 300), PretrainSettings(hidden_size=16, context_length=16), ModelSettings(), seed=0
    )
    tokenizer = model.format.tokenizer
    for text in (STORY * 5, "a", "the dog and the river and"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = pieces(model, text, 1, 16)
        assert [i for piece in found for i in piece.response_ids] == [*ids, tokenizer.eos_token_id]
        given = [piece.prompt_ids for piece in found]
        assert given == [[1], *([piece.response_ids[-1]] for piece in found[:-1])]
        assert all(len(piece) <= 16 and piece.response_ids for piece in found)


def test_batches_have_their_tokens_and_every_piece_once_an_epoch():
    lengths = [5, 9, 2, 7, 7, 3]
    batches = list(itertools.islice(batches_of_tokens(lengths, 10, seed=1), 40))
    assert all(10 <= sum(lengths[i] for i in batch) < 10 + max(lengths) for batch in batches)
    drawn = [i for batch in batches for i in batch]
    for start in range(0, len(drawn) - 6, 6):
        assert sorted(drawn[start : start + 6]) == list(range(6))
    assert drawn[:6] != drawn[6:12]


def test_a_fresh_model_depends_on_its_seed_alone():
    sizes = PretrainSettings(hidden_size=16, heads=4, key_value_heads=2)
    one, same, other = (
        fresh_causal(train_tokenizer([STORY], 300), sizes, ModelSettings(), seed=seed).network.body
        for seed in (0, 0, 1)
    )
    assert one.embed_tokens.weight.equal(same.embed_tokens.weight)
    assert not one.embed_tokens.weight.equal(other.embed_tokens.weight)
    assert one.layers[0].mlp.up_proj.weight.shape == (64, 16)  # 8/3 of the width, rounded up to 32


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["pretrain.text=[]"], DataError, "names no file"),
        (["pretrain.text=[/nowhere.txt]"], DataError, "cannot read /nowhere.txt"),
        (["pretrain.vocabulary_size=100"], DataError, "260 are needed"),
        (["pretrain.heads=5"], ModelError, "does not divide into 5 heads"),
        (["pretrain.held_out_share=1"], DataError, "leaves no document"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_to_do(text, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        plaudit.pretrain(workspace_of(tmp_path / "w", text, *changes))


def test_documents_come_from_text_and_json_lines(text, tmp_path):
    documents = read_documents(text, setting="pretrain.text")
    assert len(documents) == 40
    assert documents[-1].startswith("9 the dog")
    empty = tmp_path / "empty.txt"
    empty.write_text(" <|endoftext|> ")
    with pytest.raises(DataError, match="no text to learn from"):
        read_documents([str(empty)], setting="pretrain.text")
