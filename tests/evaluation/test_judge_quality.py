import random

import pytest

from plaudit.evaluation.judge_quality import _by_item, judge_quality, replacement_test
from plaudit.records import Comparison

PEOPLE = ["ann", "bob", "cid"]


def panel(chances, *, items=600, seed=0, run="r"):
    """Each annotator says the truth with a chance of their own; the truth is the first response half of the time."""
    random.seed(seed)
    found = []
    for i in range(items):
        true_first = i % 2 == 0
        for name, chance in chances.items():
            first = true_first == (random.random() < chance)
            a, b = f"{i}-a", f"{i}-b"
            one = Comparison(f"p{i}", a, b, name, "first" if first else "second", run, created=f"{i}")
            found.append(one if random.random() < 0.5 else one.swap())
    return found


def quality(comparisons, **more):
    lengths = more.pop("lengths", {c.first: 1 for c in comparisons})
    return judge_quality(comparisons, "ai", PEOPLE, lengths=lengths, runs=more.pop("runs", {}), **more)


def test_agreement_is_what_independent_errors_give():
    """q q' + (1 - q)(1 - q'): 0.9 against 0.8 agree 0.74; 0.8 against 0.8 agree 0.68."""
    found = quality(panel({"ai": 0.9, "ann": 0.8, "bob": 0.8, "cid": 0.8}, items=2000))
    for part, expected in (("agreement", 0.74), ("people", 0.68)):
        raw = found[part]["raw"]
        assert raw["low"] < expected < raw["high"]
    assert found["agreement"]["cohen"]["value"] == pytest.approx(2 * 0.74 - 1, abs=0.04)
    assert found["people"]["alpha"]["value"] == pytest.approx(2 * 0.68 - 1, abs=0.04)
    assert found["shared_pairs"] == 2000


def test_only_pairs_that_both_judged_count():
    comparisons = panel({"ai": 1.0}, items=10) + panel({"ann": 1.0, "bob": 1.0}, items=4)
    found = quality(comparisons)
    assert (found["shared_pairs"], found["agreement"]["raw"]["n"]) == (4, 4)
    assert quality(panel(dict.fromkeys(["ai", *PEOPLE], 0.9), items=40))["replacement"]["epsilon"] == 0.1
    nobody = quality(panel({"ai": 1.0}, items=5))
    assert (nobody["agreement"], nobody["people"], nobody["replacement"]) == (None, None, None)


def test_a_liking_for_length_is_seen_beside_that_of_people():
    comparisons = panel({"ann": 0.5, "bob": 0.5}, items=1000)
    lengths = {c.first: 10 if c.first.endswith("a") else 5 for c in comparisons} | {
        c.second: 10 if c.second.endswith("a") else 5 for c in comparisons
    }
    random.seed(1)
    for i in range(1000):
        choice = "first" if random.random() < 0.8 else "second"
        comparisons.append(Comparison(f"p{i}", f"{i}-a", f"{i}-b", "ai", choice, "r"))
    longer = quality(comparisons, lengths=lengths)["longer"]
    for part, expected in (("judge", 0.8), ("people", 0.5), ("difference", 0.3)):
        assert longer[part]["value"] == pytest.approx(expected, abs=0.05)
    own = quality(comparisons, runs={r: "rl-001" if r.endswith("a") else "sft" for r in lengths}, own_run="rl-001")
    assert own["self_preference"] == longer


def test_repeats_count_pairs_judged_in_more_than_one_run():
    once, again = panel({"ai": 1.0}, items=50), panel({"ai": 1.0}, items=50, run="s")
    flipped = [c.swap() if i < 10 else c for i, c in enumerate(again)]
    flipped = [
        Comparison(c.prompt_id, again[i].first, again[i].second, "ai", c.choice, "s") if i < 10 else c
        for i, c in enumerate(flipped)
    ]
    assert quality(once)["repeats"] is None
    assert quality(once + flipped)["repeats"]["value"] == pytest.approx(0.8)


def test_soft_labels_are_calibrated_where_they_say_what_people_do():
    random.seed(0)
    comparisons = []
    for i in range(4000):
        p = random.uniform(0.05, 0.95)
        comparisons.append(Comparison(f"p{i}", "a", f"b{i}", "ai", "first", "r", soft_preference=p))
        comparisons.append(Comparison(f"p{i}", "a", f"b{i}", "ann", "first" if random.random() < p else "second", "r"))
    found = quality(comparisons)["calibration"]
    assert found["error"] < 0.03
    sure = [
        Comparison(
            c.prompt_id,
            c.first,
            c.second,
            "ai",
            c.choice,
            "r",
            soft_preference=0.02 if c.soft_preference < 0.5 else 0.98,
        )
        if c.annotator == "ai"
        else c
        for c in comparisons
    ]
    assert quality(sure)["calibration"]["error"] > 0.15
    assert quality(panel({"ai": 0.9, "ann": 0.9}, items=50))["calibration"] is None


def test_a_judge_better_than_people_may_replace_them_and_a_coin_may_not():
    good = panel({"ai": 0.95, "ann": 0.8, "bob": 0.8, "cid": 0.8})
    found = replacement_test(_by_item(good), "ai", PEOPLE)
    assert found["winning_rate"] == 1.0
    assert found["may_replace"]
    coin = panel({"ai": 0.5, "ann": 0.8, "bob": 0.8, "cid": 0.8})
    found = replacement_test(_by_item(coin), "ai", PEOPLE)
    assert found["winning_rate"] == 0.0
    assert not found["may_replace"]


def test_a_judge_as_good_as_people_passes_only_with_the_allowance():
    same = panel({"ai": 0.8, "ann": 0.8, "bob": 0.8, "cid": 0.8}, items=1500)
    assert replacement_test(_by_item(same), "ai", PEOPLE, epsilon=0.1)["may_replace"]
    assert not replacement_test(_by_item(same), "ai", PEOPLE, epsilon=0.0)["may_replace"]


def test_too_few_shared_items_test_nothing():
    assert replacement_test(_by_item(panel(dict.fromkeys(["ai", *PEOPLE], 0.9), items=29)), "ai", PEOPLE) is None
