"""Every way in which a simulated annotator departs from the guideline preference is what it is set to, and is found at
that size."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from plaudit.config import SimulatedAnnotatorSettings
from plaudit.judges.simulated import SimulatedAnnotator
from plaudit.judges.utilities import utility_of_scores
from plaudit.records import Prompt, Response, implied_comparisons
from plaudit.statistics.biases import choice_habits, drift, position_biases

PROMPT = Prompt([{"role": "user", "content": "Which?"}])
PAIRS = 2000
RANDOM = np.random.default_rng(3)
TEXTS = {f"{side}{i}": "word " * int(RANDOM.integers(1, 60)) for i in range(PAIRS) for side in "ab"}
SCORES = {name: float(RANDOM.normal(0, 1.5)) for name in TEXTS}
WORDS = {name: len(text.split()) for name, text in TEXTS.items()}
LIKING = utility_of_scores(SCORES, "scores")


def response(name):
    return Response(name, PROMPT.id, TEXTS[name], "r")


def somebody(name="ann", noise=1.0, **settings):
    return SimulatedAnnotator(SimulatedAnnotatorSettings(name=name, noise=noise, **settings), LIKING, 0)


def judgments(**settings):
    """Each pair is then said to be of a prompt of its own: intervals are by prompts."""
    person = somebody(**settings)
    pairs = [(response(f"a{i}"), response(f"b{i}")) for i in range(PAIRS)]
    said = [person.compare(PROMPT, first, second, run="r", done=i) for i, (first, second) in enumerate(pairs)]
    return [replace(judgment, prompt_id=f"p{i}") for i, judgment in enumerate(said)]


def gap(judgment):
    return SCORES[judgment.first] - SCORES[judgment.second]


def contains(interval, value):
    return interval["low"] < value < interval["high"]


def test_a_position_bias_is_found_with_its_size():
    """The share is the mean of sigmoid(gap + 0.8) over the pairs as shown; the log-odds are 0.8."""
    made = judgments(position_bias=0.8)
    found = position_biases(made)
    expected = float(np.mean([expit(gap(j) + 0.8) for j in made]))
    assert contains(found["by_annotator"]["ann"], expected)
    assert found["all"]["p_value"] < 1e-6
    habits = choice_habits(made, WORDS, {"ann": SCORES})["ann"]
    assert habits["first"] == found["by_annotator"]["ann"]
    assert contains(habits["log_odds"]["position"], 0.8)
    assert contains(habits["log_odds"]["length"], 0)
    assert contains(habits["log_odds"]["utility"], 1)
    blind = choice_habits(made, WORDS)["ann"]["log_odds"]["position"]["value"]
    assert 0 < blind < habits["log_odds"]["position"]["value"]  # not knowing what is better makes it look weaker


def test_a_length_bias_is_found_with_its_size():
    made = judgments(length_bias=0.7, noise=0.5)
    habits = choice_habits(made, WORDS, {"ann": SCORES})["ann"]
    assert contains(habits["log_odds"]["length"], 0.7)
    assert contains(habits["log_odds"]["position"], 0)
    assert contains(habits["log_odds"]["utility"], 2)
    ratios = {j.id: math.log(WORDS[j.first] / WORDS[j.second]) for j in made}
    towards = [expit(np.sign(ratios[j.id]) * (2 * gap(j) + 0.7 * ratios[j.id])) for j in made if ratios[j.id]]
    assert contains(habits["longer"], float(np.mean(towards)))
    plain = choice_habits(judgments(noise=0.5), WORDS)["ann"]
    assert plain["longer"]["high"] < habits["longer"]["low"]


def test_a_drift_is_found_with_its_size():
    """Noise 1 + 2 done / 1000: right on the mean of sigmoid(|gap| / noise), before and in the window."""
    made = judgments(noise_drift=2.0)
    right = [float((j.choice == "first") == (gap(j) > 0)) for j in made]
    found = drift(right, window=800)
    expected = [expit(abs(gap(j)) / (1 + 2 * done / 1000)) for done, j in enumerate(made)]
    assert contains(found["difference"], float(np.mean(expected[-800:]) - np.mean(expected[:-800])))
    assert found["flagged"]
    late = choice_habits(judgments(position_drift=0.5)[-800:], WORDS, {"ann": SCORES})["ann"]
    assert contains(late["log_odds"]["position"], 0.5 * 1.6)


def test_flips_and_laziness_have_the_stated_shares_and_probabilities():
    plain, flipped = judgments(), judgments(flip_rate=0.25)
    turned = np.mean([a.choice != b.choice for a, b in zip(plain, flipped, strict=True)])
    assert turned == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / PAIRS))
    assert flipped[5].probability_first == pytest.approx(0.25 + 0.5 * plain[5].probability_first)
    lazy = judgments(lazy_share=0.4)
    expected = float(np.mean([0.4 + 0.6 * expit(gap(j)) for j in lazy]))
    assert contains(position_biases(lazy)["by_annotator"]["ann"], expected)
    assert np.mean([j.probability_first for j in lazy]) == pytest.approx(expected)
    coin = judgments(lazy_share=1.0, lazy_answer="random")
    assert {j.probability_first for j in coin} == {0.5}
    assert position_biases(coin)["by_annotator"]["ann"]["value"] == pytest.approx(0.5, abs=3 * 0.5 / math.sqrt(PAIRS))


def test_ties_and_grades_follow_the_gap():
    made = judgments(tie_band=0.5, noise=0.01, grade_thresholds=[1, 2, 3])
    for judgment in made:
        size = abs(gap(judgment))
        assert (judgment.choice == "tie") == (size < 0.5)
        if size > 0.6 and min(abs(size - edge) for edge in (1, 2, 3)) > 0.15:  # noise is 0.01: fifteen times that
            assert judgment.grade == 1 + (size > 1) + (size > 2) + (size > 3)
    assert {j.grade for j in made if j.choice == "tie"} == {None}
    habits = choice_habits(made, WORDS)["ann"]
    assert habits["ties"] == sum(j.choice == "tie" for j in made) > 0


def test_times_are_log_normal_and_short_without_reading():
    read = np.log([j.seconds for j in judgments(median_seconds=36.8)])
    assert math.exp(np.median(read)) == pytest.approx(36.8, rel=0.06)
    assert read.std() == pytest.approx(0.6, rel=0.06)
    unread = choice_habits(judgments(median_seconds=36.8, lazy_share=1.0), WORDS)["ann"]["seconds"]
    assert unread == pytest.approx(3.68, rel=0.06)
    assert {j.seconds for j in judgments()} == {None}


def test_people_have_opinions_and_weights_of_their_own():
    names = [f"p{i}" for i in range(300)]
    one = response("a0")
    opinions = [somebody(name, own_opinion=0.9).utility(PROMPT, one) - SCORES["a0"] for name in names]
    assert np.std(opinions) == pytest.approx(0.9, rel=0.15)
    assert np.mean(opinions) == pytest.approx(0, abs=0.16)
    assert somebody("p0", own_opinion=0.9).utility(PROMPT, one) == SCORES["a0"] + opinions[0]
    factors = [math.log(somebody(name, own_weights=0.4).utility(PROMPT, one) / SCORES["a0"]) for name in names]
    assert np.std(factors) == pytest.approx(0.4, rel=0.15)


def test_rankings_are_plackett_luce_and_their_pairs_bradley_terry():
    """Utilities 1, 0, -1 at noise 1: the best comes first with e / (e + 1 + 1/e), and wins 0.731 of its first pair."""
    values = {"x": 1.0, "y": 0.0, "z": -1.0}
    scores = {f"{n}{i}": v for i in range(PAIRS) for n, v in values.items()}
    person = SimulatedAnnotator(SimulatedAnnotatorSettings(name="ann", noise=1.0), utility_of_scores(scores, "s"), 0)
    best, pair, orders = 0, 0, Counter()
    for i in range(PAIRS):
        ranked = person.rank(PROMPT, [Response(f"{n}{i}", PROMPT.id, "words", "r") for n in "xyz"], run="r")
        assert len(ranked) == 3
        assert len({c.ranking for c in ranked}) == 1
        wins = Counter((c.first if c.choice == "first" else c.second)[0] for c in ranked)
        assert sorted(wins.values()) == [1, 2]  # transitive
        best += wins["x"] == 2
        (xy,) = [c for c in ranked if {c.first[0], c.second[0]} == {"x", "y"}]
        pair += (xy.first if xy.choice == "first" else xy.second)[0] == "x"
        assert xy.probability_first == pytest.approx(expit(1 if xy.first[0] == "x" else -1))
        orders[ranked[0].first[0]] += 1
    e = math.e
    assert best / PAIRS == pytest.approx(e / (e + 1 + 1 / e), abs=0.032)
    assert pair / PAIRS == pytest.approx(expit(1), abs=0.03)
    assert min(orders.values()) / PAIRS == pytest.approx(1 / 3, abs=0.035)


def test_flips_turn_pairs_of_a_ranking_round_and_laziness_ranks_as_shown():
    pairs = [[response(f"a{i}"), response(f"b{i}")] for i in range(PAIRS)]
    flipped = [somebody(flip_rate=0.2, noise=0.01).rank(PROMPT, pair, run="r")[0] for pair in pairs]
    wrong = np.mean([(j.choice == "first") != (gap(j) > 0) for j in flipped])
    assert wrong == pytest.approx(0.2, abs=0.03)
    assert {somebody(lazy_share=1.0).rank(PROMPT, pair, run="r")[0].choice for pair in pairs} == {"first"}
    biased = [somebody(position_bias=0.8).rank(PROMPT, pair, run="r")[0] for pair in pairs]
    assert contains(choice_habits(biased, WORDS, {"ann": SCORES})["ann"]["log_odds"]["position"], 0.8)


def test_ratings_imply_bradley_terry_preferences():
    person = somebody(noise=1.3)
    rated = [r for i in range(PAIRS) for r in person.rate(PROMPT, [response(f"a{i}"), response(f"b{i}")], run=f"r{i}")]
    made = implied_comparisons(rated)
    assert contains(choice_habits(made, WORDS, {"ann": SCORES})["ann"]["log_odds"]["utility"], 1 / 1.3)
    assert np.mean([r.value - SCORES[r.response] for r in rated]) == pytest.approx(0, abs=0.08)
