"""What judgments say, as tokens: which side is liked, what is safe, and what fits beside its prompt."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from plaudit.config import ModelSettings, resolve
from plaudit.errors import DataError, ModelError
from plaudit.models.loading import load_causal
from plaudit.records import DESIRABLE, SAFE, Annotator, Comparison, Label, Prompt, Response
from plaudit.store.snapshots import make_snapshot
from plaudit.text.chat import TokenSequence
from plaudit.training.data.encoding import (
    _safety_labels,
    encode_stored,
    fits,
    load_judged_prompts,
    load_labelled_responses,
    load_rated_prompts,
    sampled_with,
)
from plaudit.training.data.judged_prompts import JudgedPrompt, PairJudgment, Rating
from plaudit.workspace import Sources

PROMPT = Prompt([{"role": "user", "content": "How are the dog and the river today?"}], split="train")
OTHER = Prompt([{"role": "user", "content": "What helps the garden?"}], split="held_out")
TEXTS = {"a": "a good kind answer", "b": "bad sad awful rain", "c": "tea"}


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_causal(str(tiny_model), ModelSettings(dtype="float32"))


@pytest.fixture
def stored(workspace):
    """Two prompts with three answers each, and three people to judge them."""
    store = workspace.store
    store.add_prompts([PROMPT, OTHER])
    store.add_responses([Response(f"{p.split[0]}{name}", p.id, text, "import-1")
                         for p in (PROMPT, OTHER) for name, text in TEXTS.items()])  # fmt: skip
    store.add_annotators([Annotator(name, "imported") for name in ("ann", "bob", "eve")])
    return workspace


def run_of(**sources):
    return SimpleNamespace(sources=Sources(**sources), check_data=lambda data: None)


def labelled(workspace, model, run, config=None, train=(), held_out=()):
    return load_labelled_responses(workspace, run, model, config or resolve(), train, held_out)


def test_the_side_that_is_preferred_is_liked_also_where_somebody_is_unsure(stored, model):
    sequences = [TokenSequence([1, 2], [number]) for number in (3, 4)]
    for preference, liked in ((1.0, True), (0.7, True), (0.3, False), (0.0, False)):
        prompt = JudgedPrompt("p", ["a", "b"], sequences, [PairJudgment(0, 1, preference)], [])
        turned = replace(prompt, judgments=[PairJudgment(1, 0, 1 - preference)])
        for one, places in ((prompt, (0, 1)), (turned, (1, 0))):
            found, none = labelled(stored, model, run_of(), train=[one])
            assert not none
            assert [(item.response_id, item.desirable) for item in found] == [
                ("ab"[place], liked == (place == 0)) for place in places
            ]
            assert [item.sequence for item in found] == [sequences[place] for place in places]
        assert labelled(stored, model, run_of(), held_out=[prompt]) == ([], labelled(
            stored, model, run_of(), train=[prompt]
        )[0])  # fmt: skip


def test_labels_of_the_runs_sources_stand_beside_by_split_and_those_that_are_too_long_are_counted(
    stored, model, capsys
):
    stored.store.add_labels([
        Label(PROMPT.id, "ta", "ann", 1.0, "import-1"), Label(PROMPT.id, "tb", "ann", 0.0, "import-1"),
        Label(OTHER.id, "hc", "ann", 1.0, "import-1"), Label(OTHER.id, "ha", "bob", 1.0, "import-2"),
        Label(PROMPT.id, "tc", "ann", 0.0, "import-1", SAFE),
    ])  # fmt: skip
    run = run_of(labels=("import-1",))
    train, held_out = labelled(stored, model, run)
    assert {(item.response_id, item.desirable) for item in train} == {("ta", True), ("tb", False)}
    assert [(item.prompt_id, item.response_id, item.desirable) for item in held_out] == [(OTHER.id, "hc", True)]
    form = model.format
    (tea,) = held_out
    assert tea.sequence.prompt_ids == form.encode_prompt(OTHER.messages)
    assert tea.sequence.response_ids == form.encode_response("tea", finished=True)
    assert "left out" not in capsys.readouterr().err
    most = len(tea.sequence.response_ids)
    config = resolve(overrides=[f"prefer.max_response_tokens={most}"])
    assert labelled(stored, model, run, config) == ([], held_out)
    assert f"2 labelled responses are over {most} tokens: left out." in capsys.readouterr().err


def test_a_sequence_fits_within_the_setting_and_within_the_context():
    model = SimpleNamespace(context_length=5)
    assert fits(TokenSequence([1, 2, 3], [4, 5]), model, 2)
    assert not fits(TokenSequence([1, 2, 3], [4, 5]), model, 1)
    assert not fits(TokenSequence([1, 2, 3, 4], [4, 5]), model, 2)
    assert not fits(TokenSequence([1, 2, 3, 4], [4, 5]), model, 1)


def judged(workspace, model, config=None, most=100):
    run = run_of(comparisons=("import-1",))
    return load_judged_prompts(workspace, run, model, config or resolve(), most_tokens=most)


def test_a_prompt_may_fill_the_context_but_for_one_token(stored, model):
    """No answer fits beside it then but one of a single token; without room for that it is no prompt."""
    stored.store.add_comparisons([Comparison(PROMPT.id, "ta", "tb", "ann", "first", "import-1")])
    stored.store.add_labels([Label(PROMPT.id, "ta", "ann", 1.0, "import-1")])
    length = len(model.format.encode_prompt(PROMPT.messages))
    for more, passes in ((1, True), (0, False)):
        short = replace(model, config=SimpleNamespace(get_text_config=lambda more=more: SimpleNamespace(
            max_position_embeddings=length + more, vocab_size=400
        )))  # fmt: skip
        assert short.context_length == length + more
        for load in (judged, lambda workspace, model: labelled(workspace, model, run_of(labels=("import-1",)))):
            if passes:
                assert load(stored, short) == ([], [])
            else:
                with pytest.raises(DataError, match="prompts left out: more than"):
                    load(stored, short)
    tiny = replace(model, config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=1)))
    with pytest.raises(ModelError, match="which 1 new tokens fill entirely"):
        judged(stored, tiny)


def test_judgments_of_an_answer_that_is_too_long_are_left_out_and_counted(stored, model, capsys):
    pairs = [("ta", "tb"), ("tc", "ta"), ("tb", "tc")]
    stored.store.add_comparisons([Comparison(PROMPT.id, *pair, "ann", "first", "import-1") for pair in pairs])
    lengths = {name: len(model.format.encode_response(text, finished=True)) for name, text in TEXTS.items()}
    order = sorted(lengths, key=lengths.get)
    assert lengths[order[0]] < lengths[order[1]] < lengths[order[2]]
    (whole,), _ = judged(stored, model)
    assert (whole.response_ids, len(whole.judgments), len(whole.comparisons)) == (["ta", "tb", "tc"], 3, 3)
    assert "left out" not in capsys.readouterr().err
    (some,), _ = judged(stored, model, most=lengths[order[1]])
    kept = sorted(f"t{name}" for name in order[:2])
    assert some.response_ids == kept
    (one,) = some.comparisons
    assert some.judgments == [PairJudgment(kept.index(one.first), kept.index(one.second), 1.0)]
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"2 comparisons have a response over {lengths[order[1]]} tokens, or beyond the context: left out" in said
    assert judged(stored, model, most=lengths[order[0]]) == ([], [])


def test_ratings_of_an_answer_that_is_too_long_are_left_out_and_counted(stored, model, capsys):
    values = {"ta": 3.0, "tb": 1.0, "tc": 2.0}
    stored.store.add_labels([Label(PROMPT.id, r, "ann", value, "import-1", "wit") for r, value in values.items()])
    lengths = {name: len(model.format.encode_response(text, finished=True)) for name, text in TEXTS.items()}
    order = sorted(lengths, key=lengths.get)
    run, most = run_of(labels=("import-1",)), lengths[order[1]]
    (whole,), _ = load_rated_prompts(stored, run, model, resolve(), most_tokens=100)
    assert sorted(whole.ratings) == [Rating(i, value, "wit") for i, value in enumerate(values.values())]
    assert len(whole.judgments) == 3
    assert "left out" not in capsys.readouterr().err
    (some,), _ = load_rated_prompts(stored, run, model, resolve(), most_tokens=most)
    assert some.response_ids == sorted(f"t{name}" for name in order[:2])
    assert {some.response_ids[r.response]: r.value for r in some.ratings} == {r: values[r] for r in some.response_ids}
    assert f"1 ratings are of a response over {most} tokens" in capsys.readouterr().err
    (alone,), _ = load_rated_prompts(stored, run, model, resolve(), most_tokens=lengths[order[0]])
    assert (len(alone.ratings), alone.judgments) == (1, [])
    assert f"2 ratings are of a response over {lengths[order[0]]} tokens" in capsys.readouterr().err


def test_an_answer_is_safe_where_most_say_so_and_not_where_as_many_do_not(stored):
    votes = {"ta": [1, 1, 0], "tb": [1, 0], "tc": [0, 0, 1], "ha": [1], "hb": [0]}
    names = ("ann", "bob", "eve")
    stored.store.add_labels([
        Label(PROMPT.id if response[0] == "t" else OTHER.id, response, name, float(value), "import-1", SAFE)
        for response, values in votes.items() for name, value in zip(names, values, strict=False)
    ])  # fmt: skip
    stored.store.add_labels([Label(OTHER.id, "hc", "ann", 1.0, "import-1", DESIRABLE)])
    expected = {"ta": True, "tb": False, "tc": False, "ha": True, "hb": False}
    assert _safety_labels(stored, {"import-9"}) == expected  # whoever said so
    assert _safety_labels(stored, set()) == expected


def test_of_snapshots_alone_what_is_safe_does_not_change_and_beside_another_source_it_does(stored):
    stored.store.add_labels([Label(PROMPT.id, "ta", "ann", 1.0, "import-1", SAFE)])
    make_snapshot(stored.store, "first")
    stored.store.add_labels([Label(PROMPT.id, "ta", "bob", 0.0, "import-2", SAFE)])
    assert _safety_labels(stored, {"snapshot:first"}) == {"ta": True}
    assert _safety_labels(stored, {"snapshot:first", "import-9"}) == {"ta": False}


def test_ids_are_taken_as_sampled_by_a_run_of_the_same_vocabulary_alone(model):
    ids = model.format.encode_response(TEXTS["a"], finished=True)
    own = [*ids[:-1][::-1], ids[-1]]  # another spelling than the text's
    response = Response("r", "p", TEXTS["a"], "sample-001", token_ids=own, finished=True)
    assert encode_stored(model, response, {"sample-001"}) == own
    assert encode_stored(model, response, {"sample-002"}) == ids
    assert encode_stored(model, replace(response, token_ids=None), {"sample-001"}) == ids
    assert encode_stored(model, replace(response, finished=False), set()) == ids[:-1]
    known = {"one": {"vocabulary": model.format.vocabulary_id}, "two": {"vocabulary": "another"}, "three": {}}
    runs = [SimpleNamespace(name=name, info=info) for name, info in known.items()]
    assert sampled_with(SimpleNamespace(runs=lambda kind: runs), model) == {"one"}
