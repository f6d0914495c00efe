import math

import pytest

from plaudit.judges import parsing, prompts
from plaudit.judges.ai import AIJudge
from plaudit.judges.prompts import DIGITS, LABELS, Exemplar
from plaudit.records import Prompt, Response

PROMPT = Prompt([{"role": "user", "content": "How do I boil an egg?"}])
A, B = (Response(name, PROMPT.id, text, "r") for name, text in (("a", "Eight minutes."), ("b", "No idea.")))


class Scripted:
    """Says what a function of the last message says."""

    def __init__(self, choose=None, say=None):
        self._choose, self._say, self.asked = choose, say, []

    def choose(self, asked, labels, *, seed=0):
        self.asked += asked
        return [self._choose(messages[-1]["content"], labels) for messages in asked]

    def say(self, asked, *, max_tokens, temperature, seed):
        self.asked += asked
        return [self._say(messages[-1]["content"], temperature, seed) for messages in asked]


def from_log_probs(one, other):
    return parsing.label_probabilities({"1": one, "2": other}, LABELS)


def test_both_orders_are_averaged_after_mapping_back():
    """Solved by hand: softmax(-.4, -1.3) gives .710950; P("2") under (-.9, -.6) is .574443; their mean .642696."""
    shown, swapped = from_log_probs(-0.4, -1.3), from_log_probs(-0.9, -0.6)
    assert shown[0] == pytest.approx(0.710950, abs=1e-6)
    assert swapped[1] == pytest.approx(0.574443, abs=1e-6)
    assert parsing.both_orders(shown, swapped) == pytest.approx(0.642696, abs=1e-6)


def test_the_expected_score_and_its_place_between_minus_one_and_one():
    probabilities = (0.01, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.2, 0.08, 0.03)
    assert parsing.expected_score(probabilities) == pytest.approx(6.71)
    assert parsing.normalised_score(6.71) == pytest.approx(0.268889, abs=1e-6)
    assert [parsing.normalised_score(s) for s in (1, 10)] == [-1, 1]


@pytest.mark.parametrize(("given", "kept"), [(0.1, 0.4), (0.45, 0.45), (0.99, 0.6)])
def test_soft_labels_after_reasoning_are_clamped(given, kept):
    assert parsing.clamped(given) == kept


@pytest.mark.parametrize(
    ("log_probs", "chance"),
    [
        ({"1": -0.1, "2": -2.5}, math.exp(-0.1) / (math.exp(-0.1) + math.exp(-2.5))),
        ({" 1": -1.0, "1": -1.0, "2": -1.0}, 2 / 3),
        ({"1": -0.2, "The": -3.0}, math.exp(-0.2) / (math.exp(-0.2) + math.exp(-3.0))),
        ({"The": -0.1, "1": -4.0, "2": -4.0}, None),
        ({"The": -0.1, "I": -3.0}, None),
    ],
)
def test_label_probabilities_from_the_likeliest_tokens_of_an_endpoint(log_probs, chance):
    found = parsing.label_probabilities(log_probs, LABELS)
    assert found is None if chance is None else found[0] == pytest.approx(chance)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        *[("1", "1"), (" 2. ", "2"), ("Answer 2 is better.", "2")],
        *[(text, None) for text in ("1 beats 2", "neither", "12", "", "1.5")],
    ],
)
def test_a_verdict_is_read_only_where_it_is_clear(text, label):
    assert parsing.verdict(text, LABELS) == label


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("2 > 1 > 3", [2, 1, 3]),
        ("The order is 3 = 1 > 2.", [1, 2, 1]),
        *[(text, None) for text in ("1 > 2", "1 > 1 > 3", "good")],
    ],
)
def test_an_order_is_read_only_where_every_answer_is_named_once(text, ranks):
    assert parsing.ranking(text, 3) == ranks


def judge_of(choose=None, say=None, **more):
    return AIJudge("model", Scripted(choose, say), "Which is better?", **more)


def knows(content, labels):
    """Prefers the answer about minutes at 0.8, with a liking of 0.1 for the first place."""
    good_first = content.index("Eight") < content.index("No idea")
    return (0.9, 0.1) if good_first else (0.3, 0.7)


def test_a_liking_for_the_first_place_cancels_and_is_kept_to_be_seen():
    (one, other) = judge_of(knows).judge([(PROMPT, A, B), (PROMPT, B, A)])
    assert one.preference == pytest.approx(0.8)
    assert other.preference == pytest.approx(0.2)
    assert (one.shown, one.swapped) == pytest.approx((0.9, 0.7))
    (always_first,) = judge_of(lambda *_: (0.9, 0.1)).judge([(PROMPT, A, B)])
    assert always_first.preference == pytest.approx(0.5)
    assert always_first.position_inconsistent
    assert not one.position_inconsistent


def test_what_cannot_be_read_is_counted_and_is_no_tie():
    judge = judge_of(lambda content, labels: None)
    assert judge.judge([(PROMPT, A, B)]) == [None]
    assert judge.unread["no readable verdict"] == 1


def test_reasoning_comes_first_and_is_part_of_the_question():
    judge = judge_of(lambda *_: (0.6, 0.4), lambda *_: "The first is right.", reasoning=True, clamp=(0.4, 0.55))
    (found,) = judge.judge([(PROMPT, A, B)])
    last = judge.backend.asked[-1]
    assert [m["role"] for m in last] == ["user", "assistant", "user"]
    assert last[1]["content"] == "The first is right."
    assert found.preference == pytest.approx(0.5)
    for clamp, expected in (((0.4, 0.6), 0.6), (None, 0.9)):
        probabilities = iter([(0.9, 0.1), (0.1, 0.9)])  # of the first, as it is shown and the other way round
        sure = judge_of(
            lambda *_, probabilities=probabilities: next(probabilities),
            lambda *_: "Surely.",
            reasoning=True,
            clamp=clamp,
        )
        assert sure.judge([(PROMPT, A, B)])[0].preference == pytest.approx(expected)


def test_several_chains_of_thought_are_averaged_and_silent_ones_left_out():
    def say(content, temperature, seed):
        assert temperature == 1.0
        return "" if seed == 2 else f"thought {seed}"

    probabilities = {0: (1.0, 0.0), 1: (0.5, 0.5)}

    class Chains(Scripted):
        def choose(self, asked, labels, *, seed=0):
            return [probabilities[seed] for _ in asked]

    judge = AIJudge("model", Chains(say=say), "?", reasoning=True, samples=3)
    (found,) = judge.judge([(PROMPT, A, B)])
    assert (found.shown, found.swapped) == pytest.approx((0.75, 0.25))


def test_examples_are_shown_before_the_question():
    exemplar = Exemplar(PROMPT.messages, ("x", "y"), 2, "y is better")
    asked = prompts.compare("G", PROMPT.messages, ("a", "b"), [exemplar])
    assert [m["role"] for m in asked] == ["user", "assistant", "user"]
    assert asked[1]["content"] == "2"
    thought = prompts.think("G", PROMPT.messages, ("a", "b"), [exemplar])
    assert thought[1]["content"] == "y is better"


def test_ratings_become_comparisons_and_equal_ones_ties():
    judge = judge_of(
        lambda content, labels: tuple(1.0 if d == ("7" if "Eight" in content else "2") else 0.0 for d in DIGITS)
    )
    assert judge.rate([(PROMPT.messages, A.text), (PROMPT.messages, B.text)]) == [8.0, 3.0]
    found = judge.comparisons_of_ratings(PROMPT, [(A, 8.0), (B, 3.0), (A, 3.0)], run="judge-001")
    assert [c.choice for c in found] == ["first", "first", "tie"]
    assert all(c.soft_preference is None for c in found)


def test_a_ranking_is_the_mean_over_both_listings():
    answers = [Response(str(i), PROMPT.id, f"answer {i}", "r") for i in range(3)]
    judge = judge_of(
        say=lambda content, *_: "2 > 1 > 3" if content.index("answer 0") < content.index("answer 2") else "3 > 2 > 1"
    )
    (ranks,) = judge.rank([(PROMPT, answers)])
    assert ranks == [1.5, 1.5, 3.0]
    found = judge.comparisons_of_ranking(PROMPT, answers, ranks, run="judge-001")
    assert [c.choice for c in found] == ["tie", "first", "first"]
    assert len({c.ranking for c in found}) == 1
    assert judge_of(say=lambda *_: "no").rank([(PROMPT, answers)]) == [None]


def test_a_local_model_gives_exact_probabilities_whatever_else_is_in_the_batch(tiny_model):
    import torch

    from plaudit.config import resolve
    from plaudit.judges.backends import LocalBackend
    from plaudit.models.loading import load_causal

    config = resolve(overrides=["model.dtype=float32", f"model.name={tiny_model}"])
    model = load_causal(str(tiny_model), config.model)
    asked = [prompts.compare("?", PROMPT.messages, pair) for pair in (("a b", "c"), ("tea", "moon river"))]
    asked = [[{"role": "user", "content": m[0]["content"][-80 * (i + 1) :]}] for i, m in enumerate(asked)]
    together = LocalBackend(model, 4096).choose(asked, LABELS)
    alone = [LocalBackend(model, 64).choose([one], LABELS)[0] for one in asked]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    ids = model.format.encode_prompt(asked[0])
    with torch.no_grad():
        states = model.network.body(torch.tensor([ids])).last_hidden_state[0, -1]
        logits = model.network.head(states)
    labels = [model.format.tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in LABELS]
    assert together[0] == pytest.approx(logits[labels].softmax(0).tolist(), abs=1e-5)
    too_long = [{"role": "user", "content": "tea " * 400}]
    assert LocalBackend(model, 4096).choose([too_long, asked[0]], LABELS)[0] is None
    said = LocalBackend(model, 4096).say([asked[0], too_long], max_tokens=4, temperature=0.0, seed=0)
    assert isinstance(said[0], str)
    assert said[1] is None
