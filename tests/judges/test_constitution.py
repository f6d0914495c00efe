from collections import Counter

import pytest

from plaudit.errors import ConfigError
from plaudit.judges.ai import AIJudge
from plaudit.judges.constitution import Reviser, critique, draw, load_principles, revision
from plaudit.records import Prompt, Response

PROMPTS = [Prompt([{"role": "user", "content": f"question {i}"}]) for i in range(40)]


class Polite:
    """Puts a mark on every revision; is silent where told to be."""

    def __init__(self, silent=()):
        self.silent, self.asked = silent, []

    def say(self, asked, *, max_tokens, temperature, seed):
        self.asked += asked
        return [self._one(messages) for messages in asked]

    def _one(self, messages):
        last = messages[-1]["content"]
        if any(word in last for word in self.silent):
            return None
        return "it is rude" if "critique" in last else messages[-4 if len(messages) > 3 else 0]["content"] + "!"


def test_the_principles_that_ship_are_whole_and_different():
    principles = load_principles()
    assert len(principles) >= 10
    assert len({p.name for p in principles}) == len({p.comparison for p in principles}) == len(principles)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list of principles"),
        ("- name: x", "principle 1: `critique`"),
        ("- {name: x, critique: c, revision: r, comparision: d}", "comparison"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_a_bad_file_is_named_with_the_entry(tmp_path, text, said):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_principles(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_principles(tmp_path / "none.yaml")


def test_each_round_criticises_and_revises_the_newest_draft_by_another_principle():
    backend = Polite()
    found = Reviser(backend, load_principles(), rounds=3).revise([(p, "draft") for p in PROMPTS[:5]])
    assert len(found) == 5
    for one in found:
        assert one.drafts == ["draft", "draft!", "draft!!", "draft!!!"]
        assert len(set(one.principles)) == 3
        assert one.critiques == ["it is rude"] * 3
    assert len(backend.asked) == 2 * 3 * 5


def test_an_answer_that_gets_no_critique_keeps_what_it_has_and_is_counted():
    principles = load_principles()
    silent = next(p for p in principles if p.name == "injury").critique
    reviser = Reviser(Polite(silent=[silent]), principles, rounds=4)
    found = reviser.revise([(p, "draft") for p in PROMPTS])
    short = [one for one in found if len(one.drafts) < 5]
    assert 0 < len(short) < len(found)
    assert reviser.lost["no critique"] == len(short)
    assert all("injury" not in one.principles for one in found)


def test_principles_are_drawn_evenly_and_the_same_every_time():
    principles = load_principles()
    drawn = [draw(principles, 1, 0, i)[0].name for i in range(3000)]
    assert drawn == [draw(principles, 1, 0, i)[0].name for i in range(3000)]
    assert set(drawn) == {principle.name for principle in principles}
    expected = 3000 / len(principles)
    assert all(0.75 * expected < number < 1.25 * expected for number in Counter(drawn).values())
    assert len(draw(principles, 99, 0)) == len(principles)


def test_the_questions_follow_the_conversation():
    principle = load_principles()[0]
    asked = critique(PROMPTS[0], "answer", principle)
    assert [m["role"] for m in asked] == ["user", "assistant", "user"]
    again = revision(PROMPTS[0], "answer", principle, "said")
    assert [m["role"] for m in again] == ["user", "assistant", "user", "assistant", "user"]
    assert principle.critique in asked[-1]["content"]
    assert principle.revision in again[-1]["content"]


def test_a_judge_with_principles_draws_for_each_pair_and_averages_an_ensemble():
    principles = load_principles()

    class UtilityFunction:
        def __init__(self):
            self.heard = []

        def choose(self, asked, labels, *, seed=0):
            self.heard += [messages[0]["content"].split("\n")[0] for messages in asked]
            good = principles[0].comparison
            return [(0.9, 0.1) if messages[0]["content"].startswith(good) else (0.5, 0.5) for messages in asked]

    responses = [[Response(f"{p.id}{k}", p.id, f"text {k}", "r") for k in "ab"] for p in PROMPTS]
    pairs = [(p, *both) for p, both in zip(PROMPTS, responses, strict=True)]
    backend = UtilityFunction()
    one = AIJudge("ai", backend, tuple(p.comparison for p in principles))
    one.judge(pairs)
    assert len(set(backend.heard)) > 5
    assert len(backend.heard) == 2 * len(pairs)
    half = len(pairs)
    assert backend.heard[:half] == backend.heard[half:]  # both orders by the same principle
    backend = UtilityFunction()
    ensemble = AIJudge("ai", backend, tuple(p.comparison for p in principles), guidelines_per_pair=len(principles))
    found = ensemble.judge(pairs[:3])
    assert len(backend.heard) == 2 * 3 * len(principles)
    share = 1 / len(principles)
    assert [j.shown for j in found] == pytest.approx([0.5 + 0.4 * share] * 3)
    assert [j.preference for j in found] == pytest.approx([0.5] * 3)
