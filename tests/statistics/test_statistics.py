from dataclasses import replace

import numpy as np
import pytest

from plaudit.evaluation.overlap import rouge_l
from plaudit.records import Comparison
from plaudit.statistics.agreement import agreement, votes_apart
from plaudit.statistics.intervals import agresti_coull, student
from plaudit.statistics.reward_quality import (
    ScoredPair,
    calibration,
    fitted_temperature,
    noise_ceiling,
    rating_quality,
    reward_quality,
)
from plaudit.statistics.win_rate import win_rate


def test_win_rate_counts_ties_as_halves_and_prompts_once():
    rate = win_rate([1, 1, 0, 5], [0, 1, 1, 2], ["a", "a", "b", "c"])
    assert rate["value"] == pytest.approx((0.75 + 0 + 1) / 3)
    assert rate["n"] == 3
    swapped = win_rate([0, 1, 1, 2], [1, 1, 0, 5], ["a", "a", "b", "c"])
    assert swapped["value"] == pytest.approx(1 - rate["value"])
    assert swapped["low"] == pytest.approx(1 - rate["high"])


def test_win_rate_interval_counts_prompts_when_repeats_agree_and_comparisons_when_they_do_not():
    """Four comparisons a prompt: identical ones add nothing; independent ones count almost fully."""
    rng = np.random.default_rng(0)
    prompts = np.repeat(range(100), 4)
    alike = np.repeat(rng.random(100) < 0.7, 4).astype(float)
    apart = (rng.random(400) < 0.7).astype(float)
    half = np.full(400, 0.5)
    found = win_rate(alike, half, prompts)
    assert (found["low"], found["high"]) == pytest.approx(agresti_coull(alike.mean(), 100, student(99)))
    found = win_rate(apart, half, prompts)
    one, other = agresti_coull(apart.mean(), 400, student(99))
    assert found["high"] - found["low"] == pytest.approx(other - one, rel=0.15)
    assert win_rate([1.0] * 8, [0.0] * 8, [1, 1, 2, 2, 3, 3, 4, 4])["low"] == pytest.approx(
        agresti_coull(1, 4, student(3))[0]
    )


def judgments(table):
    """{"annotator": "choices for pair 0, 1, ..."} with f first, s second, t tie, - none."""
    words = {"f": "first", "s": "second", "t": "tie"}
    return [
        Comparison(f"p{i}", f"a{i}", f"b{i}", name, words[letter], "run")
        for name, letters in table.items()
        for i, letter in enumerate(letters)
        if letter != "-"
    ]


def test_krippendorffs_alpha_and_raw_agreement_match_a_known_table():
    """Fleiss counts [[3,0],[2,1],[0,3],[1,2],[3,0],[2,1]]: raw .666667, nominal alpha .337662."""
    found = agreement(judgments({"x": "ffsfff", "y": "ffssff", "z": "fsssfs"}))
    assert found["raw"]["value"] == pytest.approx(0.666667, abs=1e-6)
    assert found["alpha"]["value"] == pytest.approx(0.337662, abs=1e-6)
    assert found["pairs"] == 6
    assert found["by_annotators"]["x / y"] == pytest.approx(5 / 6)


def test_agreement_does_not_depend_on_the_order_each_annotator_saw():
    table = judgments({"x": "ffsfft", "y": "ffssf-", "z": "fsssfs"})
    mixed = [c.swap() if i % 3 == 0 else c for i, c in enumerate(table)]
    assert agreement(table) == agreement(mixed)


def test_agreement_of_single_judgments_is_not_measured():
    assert agreement(judgments({"x": "ffs"})) is None


def test_votes_that_name_nobody_are_counted_apart_for_each_pair_whichever_way_round():
    def vote(first, second, prompt="p", criterion="", who="imported"):
        return Comparison(prompt, first, second, who, "first", "run", criterion=criterion)

    rows = [vote("a", "b"), vote("b", "a"), vote("a", "c"), vote("a", "b", "q"), vote("a", "b", criterion="wit"),
            vote("a", "b", who="ann"), vote("b", "a", who="ann"), vote("b", "a")]  # fmt: skip
    names = [comparison.annotator.removeprefix("imported vote ") for comparison in votes_apart(rows)]
    assert names == ["1", "2", "1", "1", "1", "ann", "ann", "3"]
    assert [(c.first, c.second) for c in votes_apart(rows)] == [(c.first, c.second) for c in rows]


def judged(difference, preference, *, cluster="p", annotator="x", probability=None, pair=("a", "b")):
    return ScoredPair(cluster, annotator, pair, difference, preference, probability, 1.0)


def test_overconfident_scores_are_measured_as_theory_says():
    """D ~ N(0, 4), true P = sigmoid(D / 2): accuracy .674857, confidence .777990, ECE .103133, temperature 2."""
    rng = np.random.default_rng(0)
    difference = rng.normal(0, 2, size=200_000)
    won = rng.random(len(difference)) < 1 / (1 + np.exp(-difference / 2))
    toward = np.where(won, difference, -difference)
    error, rows = calibration(toward)
    assert (toward > 0).mean() == pytest.approx(0.674857, abs=0.005)
    assert error == pytest.approx(0.103133, abs=0.005)
    assert fitted_temperature(toward) == pytest.approx(2.0, abs=0.05)
    assert sum(row["count"] for row in rows) == len(toward)


def test_scores_that_are_always_right_have_no_fitted_temperature():
    assert fitted_temperature(np.array([1.0, 2.0, 0.5])) is None


def test_ceiling_is_what_the_annotators_probabilities_allow():
    rows = [
        judged(1.0, 1, probability=0.9, annotator="x"),
        judged(-1.0, 0, probability=0.3, annotator="y", pair=("b", "a")),  # the other way round: 0.7 for the same one
        judged(2.0, 1, probability=0.4, pair=("c", "d")),
    ]
    assert noise_ceiling(rows) == pytest.approx((2 * 0.8 + 0.6) / 3)


def test_ceiling_of_people_comes_from_their_agreement():
    """Agreement a of two equally noisy annotators: (1 + sqrt(2a - 1)) / 2; 0.73 -> 0.839."""
    rng = np.random.default_rng(1)
    accuracy = (1 + 0.46**0.5) / 2
    rows = []
    for i in range(20_000):
        for annotator in ("x", "y"):
            right = rng.random() < accuracy
            rows.append(judged(1.0, float(right), annotator=annotator, pair=(f"a{i}", f"b{i}")))
    assert noise_ceiling(rows) == pytest.approx(0.839, abs=0.006)
    assert noise_ceiling(rows[:1]) is None


def test_the_ceiling_turns_judgments_round_to_one_order_of_the_pair():
    """a > b twice, said from either side, and c < d, d > c: all agree. With one of four against: 3 of 6 pairs and 1 of
    1 agree, a = 4/7, and (1 + sqrt(1/7)) / 2."""
    rows = [
        judged(1.0, 1, pair=("a", "b")), judged(1.0, 0, pair=("b", "a"), annotator="y"),
        judged(1.0, 0, pair=("c", "d")), judged(1.0, 1, pair=("d", "c"), annotator="y"),
    ]  # fmt: skip
    assert noise_ceiling(rows) == 1.0
    more = [*rows, judged(1.0, 1, pair=("b", "a"), annotator="z"), judged(1.0, 1, pair=("a", "b"), annotator="v")]
    assert noise_ceiling(more) == pytest.approx((1 + (1 / 7) ** 0.5) / 2)
    even = [judged(1.0, 1, annotator=name) for name in "xy"] + [
        judged(1.0, 0, pair=("c", "d"), annotator=n) for n in "xy"
    ]
    even += [judged(1.0, 0, annotator="z")]  # 1 of 3 pairs and 1 of 1: as often as not
    assert noise_ceiling(even) is None
    apart = [judged(1.0, 1), replace(judged(1.0, 0, annotator="y"), criterion="wit")]
    assert noise_ceiling(apart) is None  # no pair was judged twice by one criterion
    half = [judged(1.0, 1, probability=0.9), judged(1.0, 1, annotator="y")]
    assert noise_ceiling(half) == 1.0  # a probability is not known of all, so that agreement counts
    other = judged(1.0, 1, pair=("c", "d"), probability=0.9)
    assert noise_ceiling([*rows[:2], other]) == 1.0
    unlikely = [judged(1.0, 0, probability=p, annotator=name) for name, p in (("x", 0.1), ("y", 0.3))]
    assert noise_ceiling(unlikely) == pytest.approx(0.8)


def test_a_rating_is_predicted_with_its_squared_error_and_pearsons_correlation():
    """Ratings -1, 0, 1 and scores 0, 0, 3: errors 1, 0, 4, and 3 / sqrt(2 * 6)."""
    rows = [("wit", rating, score) for rating, score in ((-1.0, 0.0), (0.0, 0.0), (1.0, 3.0))]
    found = rating_quality(rows)
    assert found["rating_error"] == {"wit": pytest.approx(5 / 3)}
    assert found["rating_correlation"] == {"wit": pytest.approx(3 / 12**0.5)}
    small = rating_quality([(name, rating / 100, score / 100) for name, rating, score in rows])
    assert small["rating_correlation"]["wit"] == pytest.approx(3 / 12**0.5)
    assert rating_quality(rows[1:]) == {}
    assert rating_quality([(name, 1.0, score) for name, _, score in rows]) == {}
    assert rating_quality([(name, rating, 1.0) for name, rating, _ in rows]) == {}
    both = rating_quality([*rows, *(("help", rating, rating) for rating in (1.0, 2.0, 3.0)), ("few", 1.0, 2.0)])
    assert both["rating_error"] == {"help": 0.0, "wit": pytest.approx(5 / 3)}
    assert both["rating_correlation"]["help"] == pytest.approx(1.0)


def test_the_ceiling_does_not_depend_on_what_the_model_thinks_or_on_who_stands_first():
    rng = np.random.default_rng(3)
    rows = []
    for i in range(200):
        for annotator in ("x", "y", "z"):
            right = float(rng.random() < 0.8)
            shown = judged(rng.normal(), right, annotator=annotator, pair=(f"a{i}", f"b{i}"))
            other = replace(shown, pair=(f"b{i}", f"a{i}"), preference_first=1 - right, difference=0.0)
            rows.append(other if rng.random() < 0.5 else shown)
    ceiling = noise_ceiling(rows)
    assert ceiling == pytest.approx(0.8, abs=0.04)
    assert noise_ceiling([replace(row, difference=0.0) for row in rows]) == ceiling
    always_first = [
        row if row.preference_first == 1
        else replace(row, pair=(row.pair[1], row.pair[0]), preference_first=1.0) for row in rows
    ]  # fmt: skip
    assert noise_ceiling(always_first) == ceiling  # as imports have it, the chosen one always first


def test_quality_mirrors_when_every_pair_is_shown_the_other_way_round():
    rng = np.random.default_rng(2)
    rows = [
        ScoredPair(
            f"p{i // 3}", "x", (f"a{i}", f"b{i}"), d, float(d + rng.normal() > 0), 0.6, float(rng.integers(-3, 4))
        )
        for i, d in enumerate(rng.normal(size=90))
    ]
    mirrored = [
        ScoredPair(
            j.cluster,
            "x",
            j.pair[::-1],
            -j.difference,
            1 - j.preference_first,
            1 - j.probability_first,
            -j.longer_first,
        )
        for j in rows
    ]
    one, other = reward_quality(rows), reward_quality(mirrored)
    for key in ("accuracy", "log_loss", "calibration_error", "longer_wins"):
        assert one[key] == pytest.approx(other[key])


def test_ties_are_left_out_and_counted():
    rows = [judged(1.0, 1), judged(1.0, 0.5)]
    assert reward_quality(rows)["ties"] == 1
    with pytest.raises(ValueError, match="tie"):
        reward_quality(rows[1:])


def test_rouge_l_matches_the_published_package_on_a_known_pair():
    (score,) = rouge_l(["The quick brown dog jumps on the log."], ["The quick brown fox jumps over the lazy dog"])
    assert score == pytest.approx(0.588235, abs=1e-6)


def test_rouge_l_is_of_stems():
    """Of gardens growing and garden grows the stems are the same, and of moons and moonlight they are not."""
    assert rouge_l(["gardens growing"], ["garden grows"]) == [1.0]
    assert rouge_l(["tea", "moons"], ["tea", "moonlight"]) == [1.0, 0.0]
