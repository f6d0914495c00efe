"""A judge's ratings as the reward of policy optimisation, without a reward model between."""

import re

import pytest
import torch
from fault_server import FaultServer, answer, good

import plaudit
from plaudit.errors import ConfigError, JudgeError
from plaudit.judges.ai import AIJudge
from plaudit.rewards.rating import RatingScorer
from plaudit.rewards.scoring import Answered
from plaudit.text.chat import TokenSequence

RATINGS = {"book": "9", "tea": "6", "moon": "3", "lamp": "hard to say"}
WITHOUT_LIMITS = "rl.missing_eos_score=null"


class Backend:
    """Rates by a word in the answer; what it does not know it cannot rate."""

    def __init__(self, ratings):
        self.ratings = ratings

    def choose(self, questions, labels, *, seed=0):
        found = []
        for (question,) in questions:
            rating = self.ratings.get(re.search(r"Answer:\n(.*)\n", question["content"]).group(1))
            found.append(None if rating is None else tuple(float(label == rating) for label in labels))
        return found


def answered(*texts):
    return [Answered([{"role": "user", "content": "?"}], TokenSequence([], []), text, True) for text in texts]


def rate_by_word(text, _):
    said = re.search(r"Answer:\n(\w*)", text).group(1)
    return answer(good(RATINGS.get(said, "0"), usage={"prompt_tokens": 9, "completion_tokens": 1}))


def test_ratings_go_from_the_worst_at_minus_1_to_the_best_at_1_and_unread_ones_gain_nothing():
    scorer = RatingScorer(AIJudge("j", Backend({"good": "9", "fair": "5", "bad": "0"}), "How good?"))
    expected = [1.0, 1 / 9, -1.0]
    assert scorer(answered("good", "fair", "bad")).tolist() == pytest.approx(expected)
    assert scorer.unread == 0
    assert scorer(answered("good", "odd", "bad", "odder")).tolist() == pytest.approx([1.0, -1.0, -1.0, -1.0])
    assert scorer.unread == 2
    with pytest.raises(JudgeError, match="no readable rating of any of 1"):
        scorer(answered("odd"))


def test_a_policy_learns_what_an_endpoint_rates_best(four_answers):
    """From a quarter each to mostly the one that is rated 9; what is kept of the endpoint is in the run's folder."""
    with FaultServer() as server:
        server.plan = rate_by_word
        judge = f"{{name: far, source: endpoint, form: rate, endpoint: {{base_url: '{server.url}', model: m}}}}"
        changes = [f"judge.models=[{judge}]", "rl.reward=judge:far", "rl.steps=25", WITHOUT_LIMITS]
        run = plaudit.rl(four_answers, four_answers.config(overrides=changes))
    first, last = run.metrics()[0], run.metrics()[-1]
    assert first["score"] < 0.5
    assert last["score"] > 0.75
    assert run.result["unread_ratings"] == sum(row["unread_ratings"] for row in run.metrics()) > 0
    assert run.parents["model far"] == f"m at {server.url}"
    assert (run.path / "endpoint.sqlite").exists()
    asked = [body["messages"][-1]["content"] for body in server.bodies]
    assert len(asked) == len(set(asked))  # what it has rated once is not asked again
    assert "How good is this answer to the question?" in asked[0]


def test_a_judge_of_the_settings_rates_by_its_own_guideline_and_any_model_by_the_plain_one(four_answers, monkeypatch):
    seen = []
    rate = AIJudge.rate
    monkeypatch.setattr(AIJudge, "rate", lambda self, all_: (seen.append(self.guideline), rate(self, all_))[1])
    named = "judge.models=[{name: near, source: latest:sft, form: rate, guideline: 'Is it about tea?'}]"
    for reward in ("judge:near", "judge:latest:sft"):
        changes = [named, f"rl.reward={reward}", "rl.steps=1", WITHOUT_LIMITS]
        run = plaudit.rl(four_answers, four_answers.config(overrides=changes))
        assert -1 <= run.metrics()[0]["score"] <= 1
        assert run.metrics()[0]["unread_ratings"] == 0
        assert run.parents["reward"] == ("judge:near" if reward == "judge:near" else "judge:sft-001")
        assert run.parents.get("model near") == ("sft-001" if reward == "judge:near" else None)
    assert seen == ["Is it about tea?", "How good is this answer to the question?"]


def test_ratings_beside_another_reward_are_summed_and_rejection_counts_those_unread(four_answers):
    with FaultServer() as server:
        server.plan = rate_by_word
        judge = f"{{name: far, source: endpoint, form: rate, endpoint: {{base_url: '{server.url}', model: m}}}}"
        both = f"[{{source: judge:far, weight: 2}}, {{source: 'function:{four_answers.path.parent}/rewards.py:worth'}}]"
        changes = [f"judge.models=[{judge}]", f"rl.reward={both}", "rl.algorithm=rejection", "rl.rejection.rounds=1"]
        run = plaudit.rl(four_answers, four_answers.config(overrides=changes))
    worth = {"tea": 1.0, "moon": 0.0, "book": 2.0}
    import json

    kept = [json.loads(line) for line in (run.path / "kept.jsonl").read_text().splitlines()]
    rated = [row for row in kept if row["text"] in worth]
    assert rated
    for row in rated:
        rating = (int(RATINGS[row["text"]]) + 1 - 5.5) / 4.5
        assert row["score"] == pytest.approx(2 * rating + worth[row["text"]], abs=1e-5)
    assert run.result["unread_ratings"] > 0


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("{name: odd, source: 'function:rewards.py:worth', form: rate}", "compares and does not rate"),
        ("{name: odd, source: latest:sft}", "does not rate; give the judge `form: rate`"),
        ("{name: odds, source: latest:sft, form: rate}", "Did you mean `odds`"),
    ],
)
def test_a_judge_that_cannot_rate_is_refused_before_any_step(four_answers, judge, message, monkeypatch):
    monkeypatch.chdir(four_answers.path.parent)
    config = four_answers.config(overrides=[f"judge.models=[{judge}]", "rl.reward=judge:odd"])
    with pytest.raises(ConfigError, match=message):
        plaudit.rl(four_answers, config)
    assert not any(run.metrics() for run in four_answers.runs("rl") if run.config() == config)


@pytest.mark.parametrize("extra", ["reasoning: true", "clamp: [0.4, 0.6]", "principles_per_pair: 2", "exemplars: x"])
def test_what_only_comparisons_have_is_refused_of_ratings(four_answers, extra):
    with pytest.raises(ConfigError, match="of comparisons; form is rate"):
        four_answers.config(overrides=[f"judge.models=[{{name: near, source: latest:sft, form: rate, {extra}}}]"])


def test_no_policy_learns_from_ratings_that_were_never_given(four_answers):
    """A spent budget stops the run, and says so; what was spent is in the result of one that ends."""
    with FaultServer() as server:
        server.plan = rate_by_word

        def changes(budget):
            far = f"endpoint: {{base_url: '{server.url}', model: m, most_tokens: {budget}}}"
            judge = f"judge.models=[{{name: far, source: endpoint, form: rate, {far}}}]"
            return [judge, "rl.reward=judge:far", "rl.steps=2", WITHOUT_LIMITS]

        with pytest.raises(JudgeError, match="without a rating: the budget is spent"):
            plaudit.rl(four_answers, four_answers.config(overrides=changes(500)))
        assert four_answers.runs("rl")[-1].status == "failed"
        before = len(server.bodies)
        whole = plaudit.rl(four_answers, four_answers.config(overrides=changes(10**6)))
    spent = whole.result["spent"]["far"]
    assert spent["requests"] == spent["completion_tokens"] == len(server.bodies) - before > 0


def test_the_rating_of_a_local_model_is_its_expected_digit(four_answers):
    """By hand from the logits at the place of the answer."""
    from plaudit.judges import prompts
    from plaudit.judges.backends import LocalBackend
    from plaudit.models.loading import load_causal

    config = four_answers.config()
    model = load_causal(four_answers.model_source("latest:sft"), config.model)
    scorer = RatingScorer(AIJudge("j", LocalBackend(model, 1 << 20), "How good?"))
    (found,) = scorer(answered("book"))
    ids = model.format.encode_prompt(prompts.rate("How good?", [{"role": "user", "content": "?"}], "book"))
    with torch.no_grad():
        states = model.network.body(torch.tensor([ids])).last_hidden_state[0, -1]
        logits = model.network.head(states).float()
    digits = [model.format.tokenizer(str(d), add_special_tokens=False)["input_ids"][0] for d in range(10)]
    expected = float((logits[digits].softmax(0) * torch.arange(10)).sum()) / 4.5 - 1
    assert float(found) == pytest.approx(expected, abs=1e-4)
