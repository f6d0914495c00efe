"""The offline loop on a tiny model: each loss learns the pairs, and nothing depends on how they are batched."""

import json

import pytest
import torch
from conftest import TINY, make_model, write_lines
from safetensors.torch import load_file

import plaudit
from plaudit.config import resolve
from plaudit.errors import ConfigError, DataError, ModelError
from plaudit.methods import PREFERENCE_LOSSES
from plaudit.models.network import Network

LOSSES = tuple(PREFERENCE_LOSSES)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Sixteen prompts whose answers with happy words are preferred, and a policy that has learnt nothing."""
    base = tmp_path_factory.mktemp("judged")
    model = make_model(base / "model")
    changes = [*TINY, f"model.name={model}", f"prefer.policy={model}", "prefer.batch_size=4", "prefer.save_every=1",
               "prefer.epochs=4", "prefer.optimiser.learning_rate=0.01"]  # fmt: skip
    workspace = plaudit.init(base / "workspace", config=resolve(overrides=changes))
    words = "dog tea bread river moon music book lamp".split()
    pairs = [
        {"prompt": f"Tell me about the {a} and the {b}", "chosen": f"a good kind {a}", "rejected": f"bad sad {b} awful"}
        for a in words
        for b in words[:3]
        if a != b
    ]
    plaudit.import_file(workspace.store, write_lines(base / "c.jsonl", pairs), kind="comparisons")
    return workspace


def train(workspace, *changes):
    return plaudit.prefer(workspace, workspace.config(overrides=list(changes)))


def weights(run):
    return load_file(run.model_folder / "model.safetensors")


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_learns_to_prefer_what_people_did(judged, loss):
    beta = {"simpo": 2.0, "sigmoid-norm": 2.0, "ipo": 0.05}.get(loss, 0.3)
    run = train(judged, f"prefer.loss={loss}", f"prefer.beta={beta}")
    before, after = run.result["before"], run.result["after"]
    assert after["loss"] < before["loss"]
    assert after["accuracy"]["value"] > (
        0.7 if PREFERENCE_LOSSES[loss].unpaired else 0.8
    )  # kto places responses against z0
    assert after["accuracy"]["low"] <= after["accuracy"]["value"] <= after["accuracy"]["high"]
    gap = [side["chosen_log_prob"] - side["rejected_log_prob"] for side in (before, after)]
    assert gap[1] > gap[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_size_of_micro_batches_changes_nothing(judged, loss):
    """KTO's reference point included, which a micro-batch alone would get wrong."""
    whole = train(judged, f"prefer.loss={loss}", "prefer.epochs=1", "model.tokens_per_micro_batch=100000")
    small = train(judged, f"prefer.loss={loss}", "prefer.epochs=1", "model.tokens_per_micro_batch=40")
    first, expected = small.metrics()[0], whole.metrics()[0]
    if PREFERENCE_LOSSES[loss].reference:  # the policy is the reference yet: which side leads is rounding
        assert first.pop("accuracy", 0.5) == pytest.approx(expected.pop("accuracy", 0.5), abs=0.5)
    assert first == pytest.approx(expected, rel=2e-3, abs=1e-5)
    for name, value in weights(small).items():
        torch.testing.assert_close(value, weights(whole)[name], atol=3e-3, rtol=2e-2)


def test_at_the_start_dpo_has_the_loss_of_a_coin(judged):
    first = train(judged, "prefer.epochs=1").metrics()[0]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["margin"] == pytest.approx(0.0, abs=1e-4)
    untouched = train(judged, "prefer.epochs=1").result["before"]
    assert untouched["accuracy"]["value"] == 0.5  # no preference is half right


@pytest.mark.parametrize("loss", [name for name, loss in PREFERENCE_LOSSES.items() if not loss.reference])
def test_losses_without_a_reference_never_run_one(judged, loss, monkeypatch, without_trials):
    calls, take = set(), Network.log_probs

    def note(self, *args, **options):
        calls.add(self.adapter)
        return take(self, *args, **options)

    monkeypatch.setattr(Network, "log_probs", note)
    run = train(judged, f"prefer.loss={loss}", "prefer.epochs=1")
    assert calls == {"policy"}
    assert "reference" not in run.parents
    assert run.result["reference"] is None


def test_the_reference_is_measured_once_and_kept(judged, monkeypatch, without_trials):
    calls, take = [], Network.log_probs
    monkeypatch.setattr(
        Network, "log_probs", lambda self, *a, **k: (calls.append(self.adapter), take(self, *a, **k))[1]
    )
    run = train(judged, "prefer.epochs=3")
    assert calls.count(None) == 1  # all responses fit one micro-batch
    known = json.loads((run.path / "reference_log_probs.json").read_text())
    assert len(known) == len(judged.store.responses())


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_a_stopped_run_resumes_to_the_very_same_weights(judged, loss, monkeypatch):
    whole = train(judged, f"prefer.loss={loss}", "prefer.epochs=1")
    log, calls = plaudit.Run.log, 0

    def stop_at_the_third(self, *args, **facts):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return log(self, *args, **facts)

    monkeypatch.setattr(plaudit.Run, "log", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        train(judged, f"prefer.loss={loss}", "prefer.epochs=1")
    monkeypatch.undo()
    resumed = plaudit.prefer(judged, resume=judged.runs("prefer")[-1].name)
    assert resumed.metrics() == whole.metrics()
    assert resumed.result == whole.result
    assert all(value.equal(weights(whole)[name]) for name, value in weights(resumed).items())


def test_a_second_round_says_what_it_measures_departure_from(judged):
    """Fixed: the first round's start. Moved along: the policy it starts from, where its margin is 0 again."""
    start = judged.config().prefer.policy
    first = train(judged, "prefer.epochs=1")
    moved = train(judged, f"prefer.policy={first.name}", "prefer.epochs=1")
    fixed = train(judged, f"prefer.policy={first.name}", f"prefer.reference={start}", "prefer.epochs=1")
    assert moved.parents["reference"] == first.name
    assert fixed.parents["reference"] == start
    assert moved.metrics()[0]["margin"] == pytest.approx(0.0, abs=1e-3)
    assert fixed.metrics()[0]["margin"] > 1.0
    assert start in fixed.result["reference"]


def test_labels_of_single_responses_are_enough_for_kto(tmp_path):
    model = make_model(tmp_path / "model")
    changes = [*TINY, f"model.name={model}", f"prefer.policy={model}", "prefer.loss=kto", "prefer.epochs=6",
               "prefer.optimiser.learning_rate=0.01", "prefer.batch_size=8"]  # fmt: skip
    workspace = plaudit.init(tmp_path / "workspace", config=resolve(overrides=changes))
    words = "dog tea bread river moon music book lamp".split()
    labels = [
        {"prompt": f"Tell me about the {a} and {b}", "completion": text, "label": liked}
        for a in words
        for b in words[:2]
        for text, liked in ((f"a good kind {a}", True), (f"bad sad {a} awful", False))
    ]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "l.jsonl", labels), kind="labels")
    run = plaudit.prefer(workspace)
    assert run.info["data"]["labels"]["count"] == 32
    assert run.result["after"]["accuracy"]["value"] > 0.9
    with pytest.raises(DataError, match="no comparisons to learn from"):
        plaudit.prefer(workspace, workspace.config(overrides=["prefer.loss=dpo"]))


def test_ties_are_left_out_and_counted(judged, capsys):
    from plaudit.records import Annotator, Comparison

    before = train(judged, "prefer.epochs=1", "prefer.comparisons=null").result["train_items"]
    comparison = judged.store.comparisons()[0]
    judged.store.add_annotators([Annotator("undecided", "person")])
    tie = Comparison(comparison.prompt_id, comparison.first, comparison.second, "undecided", "tie", "judge-009")
    judged.store.add_comparisons([tie])
    assert train(judged, "prefer.epochs=1").result["train_items"] == before
    assert "1 comparisons are ties: left out" in capsys.readouterr().err


def test_mistakes_are_said_before_any_work(judged, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean `dpo`"):
        judged.config(overrides=["prefer.loss=dp0"])
    with pytest.raises(DataError, match="no comparisons of import-1"):
        train(judged, "prefer.comparisons=[import-1]")
    other = make_model(tmp_path / "other", vocab_size=400)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ModelError, match="different vocabularies"):
        train(judged, f"prefer.reference={other}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "b"}, "column `label` is missing"),
        ({"prompt": "a", "completion": "b", "label": 1}, "`label` must be true or false, not 1"),
        ({"prompt": "a", "completion": "", "label": True}, "`completion` is empty"),
    ],
)
def test_bad_labels_name_the_line(judged, tmp_path, row, message):
    file = write_lines(tmp_path / "bad.jsonl", [{"prompt": "a", "completion": "b", "label": True}, row])
    with pytest.raises(DataError, match=f"line 2: {message}"):
        plaudit.import_file(judged.store, file, kind="labels")


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_held_out_figures_do_not_depend_on_the_batch_size(judged, loss):
    """Measured before anything is learnt, in batches of two prompts and of a hundred."""
    few, many = (
        train(judged, f"prefer.loss={loss}", f"prefer.batch_size={size}", "prefer.epochs=1").result["before"]
        for size in (2, 100)
    )
    assert few.pop("accuracy") == many.pop("accuracy")
    assert few == pytest.approx(many, rel=1e-4)


def test_mismatched_pairs_fit_the_context():
    """A long prompt meets a response that fits beside it, or none."""
    from types import SimpleNamespace

    from plaudit.text.chat import TokenSequence
    from plaudit.training.data.judged_prompts import LabelledResponse
    from plaudit.training.steps.preference import _kto_point

    seen = []

    def log_probs(batch):
        seen.extend((batch.prompt_lengths + batch.response_lengths).tolist())
        return torch.zeros(len(batch.places), 1), None

    network = SimpleNamespace(log_probs=log_probs, device="cpu")
    items = [
        LabelledResponse("a", "1", TokenSequence([1] * 90, [2] * 5), True),
        LabelledResponse("a", "4", TokenSequence([1] * 90, [2] * 3), False),
        LabelledResponse("b", "2", TokenSequence([1] * 5, [2] * 90), False),
        LabelledResponse("c", "3", TokenSequence([1] * 9, [2] * 9), False),
    ]
    learner = SimpleNamespace(policy=network, reference=network, budget=1000, context_length=100)
    assert float(_kto_point(learner, items)) == 0.0
    # Each length twice, by policy and reference; never the two answers to one prompt exchanged (95 or 93).
    assert sorted(seen) == [14, 14, 14, 14, 99, 99, 99, 99]
