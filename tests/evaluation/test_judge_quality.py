import math
import random

import pytest
from scipy import stats

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


def said(i, who, choice, *, run="r", created="", soft=None, prompt=None):
    """Of pair i: a against b, in this order."""
    return Comparison(prompt or f"p{i}", f"a{i}", f"b{i}", who, choice, run, created=created, soft_preference=soft)


def test_leanings_by_hand():
    """Weights of the firsts: 3 more, 1 less, none known on either side, equal, 5 more; the judge's tie is left out.

    The judge prefers the weightier in 1 of 2, people in (1/2 + 1/2) / 2 of the first pair and 0 of the second.
    """
    rows = [
        said(0, "ai", "first"), said(0, "ann", "first"), said(0, "bob", "second"), said(0, "cid", "tie"),
        said(1, "ai", "first"), said(1, "ann", "first"),
        said(2, "ai", "first"), said(2, "ann", "first"),
        said(3, "ai", "second"), said(3, "ann", "first"),
        said(4, "ai", "tie"), said(4, "ann", "second"),
    ]  # fmt: skip
    lengths = {"a0": 3, "b1": 1, "a3": 2, "b3": 2, "a4": 5}
    longer = quality(rows, lengths=lengths)["longer"]
    assert longer["judge"]["value"] == pytest.approx(1 / 2)
    assert longer["people"]["value"] == pytest.approx((1 / 2 + 0) / 2)
    assert longer["difference"]["value"] == pytest.approx(1 / 4)
    assert [longer[part]["n"] for part in ("judge", "people", "difference")] == [2, 2, 2]
    assert quality(rows, lengths={})["longer"] is None
    assert quality(rows, lengths=lengths)["self_preference"] is None


def test_agreement_and_its_intervals_are_by_prompts():
    """Three pairs of one prompt and one of another: two prompts, whatever number of pairs."""
    rows = [said(i, who, "first", prompt="p" if i < 3 else "q") for i in range(4) for who in ("ai", "ann", "bob")]
    rows[0] = said(0, "ai", "second", prompt="p")
    found = quality(rows)
    assert (found["agreement"]["raw"]["value"], found["agreement"]["raw"]["n"]) == (pytest.approx(6 / 8), 2)
    assert found["people"]["raw"]["value"] == 1
    assert found["people"]["reasons"].keys() == {"fleiss", "alpha", "gwet_ac1"}  # nobody said anything else
    assert found["agreement"]["cohen"] is None
    assert found["agreement"]["few"].startswith("2 independent")


def test_the_newest_judgment_of_a_pair_counts_and_a_judge_is_not_one_of_the_people():
    rows = [
        said(0, "ai", "second", created="1"), said(0, "ai", "first", created="3"), said(0, "ann", "first", created="2"),
        said(0, "bob", "first"),
    ]  # fmt: skip
    found = judge_quality(rows, "ann", ["ai", "ann", "bob"], lengths={}, runs={})
    assert found["shared_pairs"] == 1
    assert found["agreement"]["raw"]["value"] == 1
    assert quality(rows)["agreement"]["raw"]["value"] == 1
    assert quality([said(0, "ai", "first"), said(0, "stranger", "first")])["shared_pairs"] == 0


def test_repeats_are_a_share_of_pairs_of_runs():
    """Three runs of which two say the same: one pair of three. Twice in one run is no repeat."""
    rows = [said(0, "ai", choice, run=run) for run, choice in (("r", "first"), ("s", "first"), ("t", "second"))]
    rows += [said(1, "ai", "first"), said(1, "ai", "second"), said(2, "ann", "first"), said(2, "ann", "first", run="s")]
    repeats = quality(rows)["repeats"]
    assert (repeats["value"], repeats["n"]) == (pytest.approx(1 / 3), 1)


def test_soft_labels_by_hand_and_certainty_costs_no_more_than_a_millionth_does():
    """0.8 for the first that ann likes and bob does not; certain of one that ann does not like; ties do not count."""
    rows = [
        said(0, "ai", "first", soft=0.8), said(0, "ann", "first"), said(0, "bob", "second"), said(0, "cid", "tie"),
        said(1, "ai", "second", soft=0.0), said(1, "ann", "first"),
    ]  # fmt: skip
    found = quality(rows)["calibration"]
    assert found["n"] == 3
    assert found["log_loss"] == pytest.approx((-math.log(0.8) - math.log(0.2) - math.log(1e-6)) / 3, rel=1e-5)
    certain = [said(0, "ai", "first", soft=1.0), said(0, "ann", "first"), said(1, "ai", "tie", soft=0.5)]
    assert quality(certain)["calibration"] is None
    assert quality([said(0, "ai", "first", soft=0.7), said(0, "ann", "tie")])["calibration"] is None


def test_the_test_of_replacement_by_hand(monkeypatch):
    """Against ann: item 2, where she is with bob and the judge is not; item 3, where it is and she is not.

    Her gaps are 0, 0, 1 and -1. Against bob the judge loses item 2, and neither is with ann in item 3: 0, 0, 1, 0.
    """
    monkeypatch.setattr("plaudit.evaluation.judge_quality.FEWEST_SHARED", 4)
    words = {"f": "first", "s": "second"}
    table = {"ai": "fssf", "ann": "fsfs", "bob": "fsff"}
    rows = [said(i, who, words[letter]) for who, letters in table.items() for i, letter in enumerate(letters)]
    rows.append(said(9, "ann", "first"))  # by nobody else
    rows += [said(8, "ai", "first"), said(8, "cid", "first")]  # with no other person
    found = replacement_test(_by_item(rows), "ai", ["ann", "bob", "cid"], epsilon=0.25)
    assert list(found["by_person"]) == ["ann", "bob"]  # cid shares one item
    ann = found["by_person"]["ann"]
    assert (ann["judge"], ann["person"], ann["n"]) == (0.75, 0.75, 4)
    assert ann["p_value"] == pytest.approx(stats.ttest_1samp([0, 0, 1, -1], 0.25, alternative="less").pvalue)
    bob = found["by_person"]["bob"]
    assert (bob["judge"], bob["person"], bob["p_value"]) == (0.75, 1.0, pytest.approx(0.5))
    assert found["advantage"] == 0.75
    corrected = stats.false_discovery_control([ann["p_value"], bob["p_value"]], method="by")
    assert found["winning_rate"] == pytest.approx(sum(p < 0.05 for p in corrected) / 2) == 0
    assert not found["may_replace"]
    assert found["epsilon"] == 0.25
    alike = [said(i, who, "first") for who in ("ai", "ann", "bob") for i in range(4)]
    for epsilon, p_value, rate in ((0.1, 0.0, 1.0), (0.0, 1.0, 0.0)):  # where no gap differs from another
        same = replacement_test(_by_item(alike), "ai", ["ann", "bob"], epsilon=epsilon)
        assert [row["p_value"] for row in same["by_person"].values()] == [p_value] * 2
        assert (same["winning_rate"], same["may_replace"]) == (rate, rate == 1.0)
    monkeypatch.setattr("plaudit.evaluation.judge_quality.FEWEST_SHARED", 5)
    assert replacement_test(_by_item(rows), "ai", ["ann", "bob"]) is None
