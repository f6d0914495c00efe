"""Counting one at a time gives what counting all at once gives."""

import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.records import Comparison
from plaudit.statistics.agreement import SCALE, agreement, agreement_report
from plaudit.statistics.biases import position_biases
from plaudit.statistics.coefficients import cross_agreement, cross_coefficients, leave_one_out_of, nominal_coefficients
from plaudit.statistics.tally import Tally

CATEGORIES = ("first", "second", "tie")
ROLE = {"a": "annotator", "b": "annotator", "c": "researcher", "d": "researcher", "e": ""}
PEOPLE = sorted(ROLE)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "replace", "remove"]),
        st.integers(0, 4),
        st.sampled_from(PEOPLE),
        st.sampled_from(CATEGORIES),
    ),
    max_size=60,
)


def changed(changes):
    """(the tally after all changes, {(item, annotator): category} by a dictionary alone)."""
    tally, truth = Tally(CATEGORIES), {}
    for what, item, person, category in changes:
        if (item, person) in truth:
            if what == "remove":
                tally.remove(item, person)
                del truth[item, person]
            else:
                tally.replace(item, person, category)
                truth[item, person] = category
        elif what == "add":
            tally.add(item, person, category, role=ROLE[person])
            truth[item, person] = category
    return tally, truth


def counts_of(truth, item, people):
    return tuple(sum(truth.get((item, person)) == category for person in people) for category in CATEGORIES)


def multiset(rows, weights):
    found = {}
    for row, weight in zip(rows, weights, strict=True):
        found[row] = found.get(row, 0) + int(weight)
    return found


def expected_patterns(truth, people):
    rows = [counts_of(truth, item, people) for item in range(5)]
    return multiset([row for row in rows if any(row)], [1] * sum(map(any, rows)))


def expected_cross(truth, left, right):
    rows = [(counts_of(truth, item, left), counts_of(truth, item, right)) for item in range(5)]
    rows = [row for row in rows if any(row[0]) and any(row[1])]
    return multiset(rows, [1] * len(rows))


def found_patterns(patterns):
    return multiset([tuple(map(int, row)) for row in patterns.counts], patterns.weights)


def found_cross(cross):
    sides = zip(cross.left.tolist(), cross.right.tolist(), strict=True)
    return multiset([(tuple(left), tuple(right)) for left, right in sides], cross.weights)


@settings(max_examples=150, deadline=None)
@given(CHANGES)
def test_all_counts_are_those_from_scratch_after_any_additions_corrections_and_removals(changes):
    tally, truth = changed(changes)
    assert found_patterns(tally.patterns()) == expected_patterns(truth, PEOPLE)
    for role in set(ROLE.values()):
        members = [person for person in PEOPLE if ROLE[person] == role]
        assert found_patterns(tally.patterns(role)) == expected_patterns(truth, members)
    for person in PEOPLE:
        others = [other for other in PEOPLE if other != person]
        assert found_cross(tally.with_rest(person)) == expected_cross(truth, [person], others)
        assert tally.judgments_of(person) == sum(who == person for _, who in truth)
    for one, other in combinations(PEOPLE, 2):
        assert found_cross(tally.between(one, other)) == expected_cross(truth, [one], [other])
        assert found_cross(tally.between(other, one)) == expected_cross(truth, [other], [one])
    sides = [[person for person in PEOPLE if ROLE[person] == role] for role in ("researcher", "annotator")]
    assert found_cross(tally.between_roles("researcher", "annotator")) == expected_cross(truth, *sides)
    assert found_cross(tally.between_roles("annotator", "researcher")) == expected_cross(truth, *sides[::-1])
    assert tally.judgments == len(truth)
    assert tally.items == len({item for item, _ in truth})
    assert tally.annotators == sorted({person for _, person in truth})
    assert tally.distribution() == {c: sum(given == c for given in truth.values()) for c in CATEGORIES}
    together = {pair: expected_cross(truth, [pair[0]], [pair[1]]) for pair in combinations(PEOPLE, 2)}
    assert tally.pairs() == {
        pair: (sum(number for (one, other), number in cells.items() if one == other), sum(cells.values()))
        for pair, cells in together.items()
        if cells
    }


@settings(max_examples=80, deadline=None)
@given(CHANGES)
def test_counts_with_clusters_are_those_without_and_have_each_items_cluster(changes):
    tally, truth = changed(changes)
    by = "even odd even odd even".split().__getitem__
    for role in (None, *ROLE.values()):
        members = [person for person in PEOPLE if role in (None, ROLE[person])]
        found = tally.patterns(role, by=by)
        assert found_patterns(found) == expected_patterns(truth, members)
        rows = [(by(item), counts_of(truth, item, members)) for item in range(5)]
        rows = [row for row in rows if any(row[1])]
        groups = zip(found.clusters.tolist(), map(tuple, found.counts.tolist()), strict=True)
        assert sorted(grouped(groups)) == sorted(grouped(rows))
    crosses = tally.each_with_rest(by=by)
    assert sorted(crosses) == tally.annotators
    for person, cross in crosses.items():
        assert found_cross(cross) == found_cross(tally.with_rest(person))
        assert len(cross.clusters) == len(cross.weights)
    for one, other in (("researcher", "annotator"), ("annotator", ""), ("", "researcher")):
        assert found_cross(tally.between_roles(one, other, by=by)) == found_cross(tally.between_roles(one, other))


def grouped(rows):
    """The rows of each group, sorted, whatever the groups are called."""
    found = {}
    for group, row in rows:
        found.setdefault(group, []).append(row)
    return [sorted(members) for members in found.values()]


def test_everybodys_agreement_with_the_rest_is_by_prompts():
    """Four pairs of a prompt on which two annotators say the same say no more than one."""
    choices = np.random.default_rng(3).choice(["first", "second"], (40, 2)).tolist()

    def said(pairs):
        rows = [
            Comparison(f"p{i}", f"a{i}-{k}", f"b{i}-{k}", who, choice, "r")
            for i, couple in enumerate(choices)
            for k in range(pairs)
            for who, choice in zip("xy", couple, strict=True)
        ]
        (found,) = agreement_report(rows).values()
        return found["with_the_rest"]["x"]

    one, four = said(1), said(4)
    for name in ("raw", "cohen"):
        assert (four[name]["n"], four[name]["value"]) == (40, pytest.approx(one[name]["value"]))
        assert (four[name]["low"], four[name]["high"]) == pytest.approx((one[name]["low"], one[name]["high"]), abs=0.01)


@settings(max_examples=50, deadline=None)
@given(CHANGES)
def test_a_tally_that_is_emptied_again_keeps_nothing(changes):
    tally, truth = changed(changes)
    for item, person in truth:
        tally.remove(item, person)
    empty = Tally(CATEGORIES)
    for name, value in vars(tally).items():
        kept = {key: inner for key, inner in value.items() if inner != {}} if isinstance(value, dict) else value
        assert kept == vars(empty)[name], name


@settings(max_examples=30, deadline=None)
@given(CHANGES, st.randoms(use_true_random=False))
def test_coefficients_do_not_depend_on_names_or_on_the_order_of_judgments(changes, shuffler):
    _, truth = changed(changes)
    shuffled = list(truth.items())
    shuffler.shuffle(shuffled)
    one, other = Tally(CATEGORIES), Tally(["x", "y", "z"])
    for (item, person), category in truth.items():
        one.add(item, person, category)
    for (item, person), category in shuffled:
        other.add(f"item {-item}", person.upper(), "xyz"[CATEGORIES.index(category)])
    first, second = (nominal_coefficients(tally.patterns()) for tally in (one, other))
    assert first == second
    for person in one.annotators:
        mine, theirs = one.with_rest(person), other.with_rest(person.upper())
        for name in ("left", "right", "weights"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name))


def test_intervals_are_the_same_whatever_the_order_of_the_judgments():
    draw = random.Random(0)
    judgments = [(item, who, draw.choice(CATEGORIES)) for item in range(60) for who in draw.sample(PEOPLE, 3)]
    one, other = Tally(CATEGORIES), Tally(CATEGORIES)
    for tally, order in ((one, judgments), (other, judgments[::-1])):
        for item, who, category in order:
            tally.add(item, who, category, role=ROLE[who])
    for cross in (
        lambda t: t.with_rest("a"),
        lambda t: t.between("a", "b"),
        lambda t: t.between_roles("", "annotator"),
    ):
        assert cross_coefficients(cross(one)) == cross_coefficients(cross(other))


def test_a_correction_supersedes_and_a_second_judgment_is_refused():
    tally = Tally(CATEGORIES)
    tally.add(1, "a", "first", role="researcher")
    tally.add(1, "b", "second")
    with pytest.raises(ValueError, match="already"):
        tally.add(1, "a", "first")
    with pytest.raises(ValueError, match="not one of"):
        tally.replace(1, "a", "neither")
    with pytest.raises(KeyError, match="has not judged"):
        tally.replace(2, "a", "first")
    assert tally.category(1, "a") == "first"
    tally.replace(1, "a", "second")
    assert (tally.category(1, "a"), tally.category(1, "c")) == ("second", None)
    assert tally.roles == ["", "researcher"]
    assert tally.confusion("a", "b").tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    tally.replace(1, "a", "tie", role="annotator")
    assert tally.roles == ["", "annotator"]
    with pytest.raises(ValueError, match="patterns"):
        tally.between_roles("", "")
    with pytest.raises(ValueError, match="all different"):
        Tally(["x", "x"])


def test_one_against_the_rest_counts_each_pair_of_judgments():
    """Item 1: a against b and c, one of two the same; item 2: against b, the same: 2 of 3 pairs."""
    tally = Tally(CATEGORIES)
    for item, person, category in [
        (1, "a", "first"),
        (1, "b", "first"),
        (1, "c", "tie"),
        (2, "a", "tie"),
        (2, "b", "tie"),
    ]:
        tally.add(item, person, category)
    found = cross_agreement(leave_one_out_of(tally.with_rest("a")))
    assert (found["value"], found["n"]) == (pytest.approx(2 / 3), 2)


def graded(table):
    """{"annotator": "judgments of pair 0, 1, ..."}: 1 to 9 are points of SCALE, - is none, f has no grade."""
    rows = []
    for name, digits in table.items():
        for i, digit in enumerate(digits):
            if digit == "-":
                continue
            if digit == "f":
                choice, grade = "first", None
            else:
                place = int(digit) - 5
                choice, grade = ("first", "tie", "second")[np.sign(place) + 1], abs(place) or None
            rows.append(Comparison(f"p{i}", f"a{i}", f"b{i}", name, choice, "run", grade=grade))
    return rows


def test_graded_judgments_have_ordinal_coefficients_on_nine_points():
    """Near misses on the scale agree almost fully by Gwet's AC2, where the choices alone differ."""
    rows = graded({"x": "5911284f-", "y": "4822375f1", "z": "-------f-"})
    mirrored = [row.swap() if i % 2 else row for i, row in enumerate(rows)]
    found = agreement(rows)
    assert found == agreement(mirrored)
    assert found["graded"]["pairs"] == 7
    assert found["graded"]["left_out"] == 3
    assert found["graded"]["gwet_ac2_quadratic"]["value"] > 0.9
    assert found["pairs"] == 8
    assert (SCALE[0], SCALE[4], SCALE[8]) == ("first significantly better", "tie", "second significantly better")


def test_graded_points_are_in_their_order():
    import krippendorff

    table = {"x": "193746285", "y": "284646195"}
    values = [[float(digit) for digit in digits] for digits in table.values()]
    found = agreement(graded(table))["graded"]
    for level in ("ordinal", "interval"):
        theirs = krippendorff.alpha(reliability_data=values, level_of_measurement=level)
        assert found[f"alpha_{level}"]["value"] == pytest.approx(theirs)


def test_a_tie_is_the_middle_of_the_scale_whether_or_not_it_has_a_grade():
    rows = graded({"x": "5195", "y": "5284"})
    with_grades = [replace(row, grade=1) if row.choice == "tie" else row for row in rows]
    assert agreement(rows) == agreement(with_grades)
    assert agreement(rows)["graded"]["pairs"] == 4


def test_judgments_without_grades_have_no_graded_coefficients():
    assert agreement(graded({"x": "ff5", "y": "ff5"}))["graded"] is None


def test_a_grade_that_was_taken_back_by_a_later_judgment_does_not_count():
    rows = graded({"x": "19", "y": "28"})
    assert agreement(rows)["graded"]["pairs"] == 2
    assert agreement([*rows, replace(rows[0].swap(), grade=None)])["graded"]["pairs"] == 1


def test_chance_is_over_the_choices_that_were_made():
    """Without ties two choices: expected agreement of AC1 is 2 p (1 - p), twice that over three categories."""
    rows = [Comparison(f"p{i}", f"a{i}", f"b{i}", name, c, "run") for name, cs in (("x", "ffss"), ("y", "ffsf"))
            for i, c in enumerate({"f": "first", "s": "second"}[letter] for letter in cs)]  # fmt: skip
    p = 5 / 8
    assert agreement(rows)["gwet_ac1"]["value"] == pytest.approx(1 - 0.25 / (1 - 2 * p * (1 - p)))


def test_pairs_of_one_prompt_are_drawn_together():
    """Four pairs of one prompt on which two annotators agree alike say no more than one pair."""
    choices = np.random.default_rng(0).choice(["first", "second"], (40, 2)).tolist()
    one = [
        Comparison(f"p{i}", f"a{i}", f"b{i}", who, cs[k], "r")
        for i, cs in enumerate(choices)
        for k, who in enumerate("xy")
    ]
    four = [
        Comparison(c.prompt_id, f"{c.first}{k}", c.second, c.annotator, c.choice, "r") for c in one for k in range(4)
    ]
    single, many = agreement(one), agreement(four)
    assert (many["pairs"], many["raw"]["n"]) == (160, 40)
    for name in ("raw", "fleiss", "alpha"):
        widths = [found[name]["high"] - found[name]["low"] for found in (single, many)]
        assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_the_report_is_by_criterion_and_later_judgments_supersede():
    first = Comparison("p", "b", "a", "x", "second", "run-1", created="2026-01-01T00:00:00")
    rows = [
        Comparison("p", "a", "b", "x", "second", "run-2", created="2026-01-02T00:00:00"),
        first,
        Comparison("p", "a", "b", "y", "second", "run-1", created="2026-01-01T00:00:00"),
        Comparison("p", "a", "b", "y", "first", "run-1", criterion="safety"),
        Comparison("q", "c", "d", "import", "first", "import-1"),
    ]
    found = agreement_report(rows, order_unknown={"import-1"})
    assert list(found) == ["better altogether", "safety"]
    together = found["better altogether"]
    assert (together["judgments"], together["pairs"], together["pairs_judged_twice"], together["annotators"]) == (
        3,
        2,
        1,
        3,
    )
    assert together["coefficients"]["raw"]["value"] == 1
    assert together["with_the_rest"]["x"]["raw"]["value"] == 1
    assert together["with_the_rest"]["import"]["reasons"]["raw"] == "no item was judged by both"
    assert list(together["position"]["by_annotator"]) == ["x", "y"]
    assert found["safety"]["coefficients"] is None


def test_position_is_as_it_was_shown():
    rows = [Comparison("p", "a", f"b{i}", "x", "first" if i < 9 else "second", "run") for i in range(10)]
    rows += [Comparison("p", "a", f"b{i}", "y", "tie", "run") for i in range(10)]
    found = position_biases(rows)
    assert found["all"]["share"]["value"] == 0.9
    assert found["by_annotator"]["x"]["n"] == 10
    assert found["by_annotator"]["y"] is None
    assert position_biases(row.swap() for row in rows)["all"]["share"]["value"] == pytest.approx(0.1)


def test_pairs_of_a_ranking_and_edits_were_not_shown_side_by_side():
    shown = [Comparison("p", "a", "b", "ann", "second", "campaign:x")]
    ranked = [Comparison("p", "a", str(i), "ann", "first", "campaign:x", ranking="r") for i in range(9)]
    edited = [Comparison("p", f"campaign:e:{i}", str(i), "ann", "first", "campaign:e") for i in range(9)]
    (report,) = agreement_report([*shown, *ranked, *edited]).values()
    share = report["position"]["all"]["share"]
    assert (share["value"], share["n"]) == (0.0, 1)
