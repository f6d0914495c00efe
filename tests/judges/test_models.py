"""Models as annotators in the `judge` stage."""

import json
from collections import Counter

import pytest

import plaudit
from plaudit.config import ModelJudgeSettings, resolve
from plaudit.errors import ConfigError, DataError
from plaudit.functions import UserFunction
from plaudit.judges.endpoint.questions import Reply, Unanswered
from plaudit.judges.models import EndpointBackend, FunctionJudge, load_exemplars
from plaudit.judges.prompts import LABELS
from plaudit.records import Prompt, Response

FUNCTION = """
CALLS = []
def longer(prompts, firsts, seconds):
    CALLS.append(len(prompts))
    return [None if "NONE" in a + b else 0.9 if len(a) > len(b) else 0.2 for a, b in zip(firsts, seconds)]
def bad(prompts, firsts, seconds):
    return [2.0 for _ in prompts]
"""


@pytest.fixture
def sampled(workspace):
    plaudit.sample(workspace, workspace.config(overrides=["sample.policy=" + workspace.config().model.name]))
    return workspace


def judge(workspace, **settings):
    (workspace.path / "judges.py").write_text(FUNCTION)
    source = {"source": f"function:{workspace.path / 'judges.py'}:longer"}
    models = json.dumps([{"name": "machine", **source, **settings}])
    return plaudit.judge(workspace, workspace.config(overrides=["judge.annotators=[]", f"judge.models={models}"]))


def test_a_function_judges_every_pair_in_both_orders_and_trains_a_reward_model(sampled):
    run = judge(sampled, criterion="helpfulness", at_once=5)
    found = sampled.store.comparisons(run.name)
    assert len(found) == run.result["pairs"] == run.result["models"]["machine"]["judgments"] > 0
    texts = {response.id: response.text for response in sampled.store.responses()}
    for comparison in found:
        a, b = len(texts[comparison.first]), len(texts[comparison.second])
        expected = 0.5 if a == b else 0.85 if a > b else 0.15
        assert comparison.soft_preference == pytest.approx(expected if a != b else comparison.soft_preference)
        assert (comparison.criterion, comparison.annotator) == ("helpfulness", "machine")
    assert {a.name: a.kind for a in sampled.store.annotators()}["machine"] == "model"
    assert run.parents["model machine"].startswith("function:")
    base = f"reward.model={sampled.config().model.name}"
    trained = plaudit.reward(sampled, sampled.config(overrides=["reward.criterion=helpfulness", base]))
    assert trained.result["accuracy"]["n"] > 0


def test_a_local_model_judges_and_what_it_gives_does_not_depend_on_how_many_at_once(sampled):
    first = judge(sampled, source=sampled.config().model.name, at_once=3)
    again = judge(sampled, source=sampled.config().model.name, at_once=64, name="again")
    soft = [{frozenset((c.first, c.second)): c.soft_preference if c.first < c.second else 1 - c.soft_preference
             for c in sampled.store.comparisons(run.name)} for run in (first, again)]  # fmt: skip
    assert soft[0].keys() == soft[1].keys()
    assert all(soft[0][pair] == pytest.approx(soft[1][pair], abs=1e-4) for pair in soft[0])
    assert 0 <= first.result["models"]["machine"]["position_inconsistent"] <= 1
    assert judge(sampled, source=sampled.config().model.name, at_once=7).name == first.name


def test_ratings_of_a_local_model_become_comparisons(sampled):
    run = judge(sampled, source=sampled.config().model.name, form="rate", at_once=4)
    found = sampled.store.comparisons(run.name)
    assert len(found) == run.result["pairs"] > 0
    assert all(c.soft_preference is None for c in found)


def test_judging_goes_on_where_it_stopped_and_asks_nothing_twice(sampled, monkeypatch):
    import plaudit.judges.models as models

    kept = []
    add = type(sampled.store).add_comparisons

    def add_once(store, comparisons):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(len(comparisons))
        return add(store, comparisons)

    monkeypatch.setattr(type(sampled.store), "add_comparisons", add_once)
    with pytest.raises(KeyboardInterrupt):
        judge(sampled, at_once=4)
    monkeypatch.undo()
    (run,) = sampled.runs("judge")
    assert run.status == "interrupted"
    asked = []
    real = models.FunctionJudge.judge
    monkeypatch.setattr(models.FunctionJudge, "judge", lambda self, pairs: asked.extend(pairs) or real(self, pairs))
    done = plaudit.judge(sampled, resume=run.name)
    assert len(asked) == done.result["pairs"] - sum(kept)
    assert len(sampled.store.comparisons(run.name)) == done.result["pairs"]


def test_a_reward_models_verdict_is_the_sigmoid_of_its_difference(sampled):
    judge(sampled)
    reward = plaudit.reward(sampled, sampled.config(overrides=[f"reward.model={sampled.config().model.name}"]))
    run = judge(sampled, source=f"reward:{reward.name}", name="rm")
    assert run.parents["model rm"] == f"reward:{reward.name}"
    assert len(sampled.store.comparisons(run.name)) == run.result["pairs"]


def test_a_function_that_gives_nonsense_is_refused(sampled):
    with pytest.raises(
        DataError, match=r"the judge machine returned 2\.0 for .* first for answers .* a number from 0 to 1, or None"
    ):
        judge(sampled, source=f"function:{sampled.path / 'judges.py'}:bad")


def test_a_pair_without_a_verdict_is_counted():
    prompt = Prompt([{"role": "user", "content": "q"}])
    pairs = [(prompt, Response("a", prompt.id, "NONE", "r"), Response("b", prompt.id, "x", "r"))]
    calls = FunctionJudge(UserFunction(lambda p, a, b: [None for _ in p], "f"))
    assert calls.judge(pairs) == [None]


class Endpoint:
    def __init__(self, replies):
        self.replies, self.asked = replies, []

    def ask(self, questions):
        self.asked += questions
        yield from reversed(list(enumerate(self.replies)))


def reply(text, log_probs=None):
    return Reply(text, log_probs, 1, 1, "stop", False)


def test_an_endpoint_is_read_by_its_log_probs_else_by_its_word_and_else_not_at_all():
    endpoint = Endpoint(
        [
            reply("1", (("1", -0.1), ("2", -2.4))),
            reply("2"),
            reply("I cannot say"),
            Unanswered("the budget is spent"),
            reply("2", (("Hm", -0.1),)),
        ]
    )
    found = EndpointBackend(endpoint).choose([[{"role": "user", "content": str(i)}] for i in range(5)], LABELS)
    assert found[0][0] == pytest.approx(0.909, abs=1e-3)
    assert found[1:] == [(0.0, 1.0), None, None, (0.0, 1.0)]
    assert all(question.top_log_probs == 20 for question in endpoint.asked)
    said = EndpointBackend(Endpoint([reply("yes"), Unanswered("x")])).say(
        [[], []], max_tokens=5, temperature=1.0, seed=3
    )
    assert said == ["yes", None]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "endpoint"}, "endpoint"),
        ({"source": "x", "endpoint": {"base_url": "http://localhost:1/v1", "model": "m"}}, "endpoint"),
        ({"source": "x", "samples": 3}, "samples"),
        ({"source": "x", "constitution": "default", "guideline": "g"}, "constitution"),
        ({"source": "reward:latest:reward", "reasoning": True}, "does not read"),
        ({"source": "x", "clamp": [0.6, 0.4]}, "clamp"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        resolve(overrides=[f"judge.models={json.dumps([{'name': 'n', **settings}])}"])


def test_examples_are_read_from_comparisons_with_the_better_one_on_either_side(tmp_path):
    path = tmp_path / "examples.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad", "reasoning": "why"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_exemplars(str(path))
    assert Counter(one.better for one in found) == {1: 2, 2: 2}
    assert all(one.answers[one.better - 1] == "good" for one in found)
    assert found[0].reasoning == "why"
    path.write_text(json.dumps({**rows[0], "tie": True}))
    with pytest.raises(DataError, match="tie"):
        load_exemplars(str(path))


def test_a_judges_settings_stand_in_the_store_without_any_key():
    from plaudit.judges.models import annotator_of

    settings = ModelJudgeSettings(
        name="n", source="endpoint",
        endpoint={"base_url": "http://localhost:1/v1", "model": "m", "key_variable": "SECRET_KEY"},
    )  # fmt: skip
    assert annotator_of(settings).parameters["endpoint"]["key_variable"] == "SECRET_KEY"
