"""Against published examples, against other people's programs, and against plainly leaving items out."""

import itertools

import krippendorff
import numpy as np
import pytest
from statsmodels.stats import inter_rater

from plaudit.statistics.biases import drift, position_bias
from plaudit.statistics.coefficients import (
    Cross,
    Patterns,
    Sample,
    Totals,
    Undefined,
    _interval,
    cohen_kappa,
    cross_agreement,
    cross_coefficients,
    fleiss_kappa,
    gwet_ac,
    krippendorff_alpha,
    leave_one_out,
    leave_one_out_of,
    nominal_coefficients,
    ordinal_coefficients,
    pairwise_agreement,
    scott_pi,
    weights_of,
)
from plaudit.statistics.intervals import agresti_coull, difference_of_rates, rate, student

NOBODY = np.nan


def counted(ratings, kinds):
    """[items, K] from ratings [annotators, items] of 0 .. K - 1, NaN where there is none."""
    ratings = np.array(ratings, dtype=float)
    return np.stack([(ratings == kind).sum(axis=0) for kind in range(kinds)], axis=1)


def ratings_of(text, lowest):
    """Rows of digits, * for no rating."""
    return [[NOBODY if c == "*" else int(c) - lowest for c in row.split()] for row in text.strip().splitlines()]


def totals(counts):
    return leave_one_out(Patterns.of(counts))


KRIPPENDORFF = ratings_of(
    """* * * * * 3 4 1 2 1 1 3 3 * 3
       1 * 2 1 3 3 4 3 * * * * * * *
       * * 2 1 3 4 4 * 2 1 1 3 3 * 4""",
    1,
)
FOUR_RATERS = ratings_of(
    """1 2 3 3 2 1 4 1 2 * * *
       1 2 3 3 2 2 4 1 2 5 * *
       * 3 3 3 2 3 4 2 2 5 1 3
       1 2 3 3 2 4 4 1 2 5 1 *""",
    1,
)
"""Krippendorff 2011 and Gwet 2014, p. 120: four raters, twelve items, one of them judged once."""
PSYCHIATRISTS = """00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006"""
"""Fleiss 1971, table 1: of six psychiatrists, how many gave each of five diagnoses to thirty patients."""
ABSTRACTORS = [[13, 0, 0], [0, 20, 7], [0, 4, 56]]
"""Gwet 2014: a hundred pregnancies by two abstractors, ectopic, abnormal or normal."""


def random_counts(seed, kinds, items=60, most=5):
    """Items of some agreement, with one to `most` annotators each."""
    rng = np.random.default_rng(seed)
    leanings = rng.dirichlet(np.full(kinds, 0.4), items)
    return rng.multinomial(rng.integers(1, most + 1, items), leanings)


def test_alpha_of_krippendorffs_examples():
    found = totals(counted(KRIPPENDORFF, 4))
    assert krippendorff_alpha(found)["value"] == pytest.approx(0.691, abs=5e-4)
    assert krippendorff_alpha(found, level="ordinal")["value"] == pytest.approx(0.807, abs=5e-4)
    assert krippendorff_alpha(found, level="interval")["value"] == pytest.approx(0.811, abs=5e-4)
    found = totals(counted(FOUR_RATERS, 5))
    assert krippendorff_alpha(found)["value"] == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(found, level="ordinal")["value"] == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(found, level="interval")["value"] == pytest.approx(0.849, abs=5e-4)


def test_kappa_of_fleiss_example():
    table = [[int(digit) for digit in row] for row in PSYCHIATRISTS.split()]
    assert fleiss_kappa(totals(table))["value"] == pytest.approx(0.430, abs=5e-4)
    assert pairwise_agreement(totals(table))["value"] == pytest.approx(0.5556, abs=1e-4)


@pytest.mark.parametrize(
    ("weighting", "value"), [("identity", 0.77544), ("linear", 0.859), ("quadratic", 0.914), ("ordinal", 0.899)]
)
def test_gwets_coefficients_of_his_example(weighting, value):
    assert gwet_ac(totals(counted(FOUR_RATERS, 5)), weighting=weighting)["value"] == pytest.approx(value, abs=5e-4)


def test_fleiss_kappa_of_gwets_example_where_the_number_of_raters_varies():
    assert fleiss_kappa(totals(counted(FOUR_RATERS, 5)))["value"] == pytest.approx(0.76117, abs=1e-5)


@pytest.mark.parametrize(("weighting", "value"), [("identity", 0.849), ("linear", 0.900), ("quadratic", 0.940)])
def test_gwets_coefficients_of_two_abstractors(weighting, value):
    items = [(row, column) for row in range(3) for column in range(3) for _ in range(ABSTRACTORS[row][column])]
    found = totals(counted(np.array(items).T, 3))
    assert gwet_ac(found, weighting=weighting)["value"] == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize(("weighting", "value"), [("identity", 0.796), ("linear", 0.843), ("quadratic", 0.892)])
def test_cohens_kappa_of_two_abstractors(weighting, value):
    found = leave_one_out_of(Cross.of_confusion(ABSTRACTORS))
    assert cohen_kappa(found, weighting=weighting)["value"] == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(4))
def test_alpha_equals_the_krippendorff_package(seed, level):
    counts = random_counts(seed, 3 + seed)
    theirs = krippendorff.alpha(value_counts=counts, level_of_measurement=level)
    assert krippendorff_alpha(totals(counts), level=level)["value"] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_fleiss_kappa_equals_statsmodels_where_all_items_have_as_many_annotators(seed):
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(4, rng.dirichlet(np.full(3 + seed, 0.5), 50))
    assert fleiss_kappa(totals(counts))["value"] == pytest.approx(inter_rater.fleiss_kappa(counts), abs=1e-12)


@pytest.mark.parametrize("weighting", ["identity", "linear", "quadratic"])
@pytest.mark.parametrize("seed", range(4))
def test_cohens_kappa_equals_statsmodels(seed, weighting):
    cells = np.random.default_rng(seed).integers(0, 12, (2 + seed, 2 + seed))
    names = {"identity": None, "linear": "linear", "quadratic": "quadratic"}
    theirs = inter_rater.cohens_kappa(cells, wt=names[weighting], return_results=False)
    ours = cohen_kappa(leave_one_out_of(Cross.of_confusion(cells)), weighting=weighting)
    assert ours["value"] == pytest.approx(theirs, abs=1e-12)


def test_scotts_pi_is_fleiss_kappa_of_two():
    """Both take chance from the leanings of the two together."""
    cells = np.random.default_rng(3).integers(0, 9, (4, 4))
    items = [(row, column) for row in range(4) for column in range(4) for _ in range(cells[row, column])]
    two = totals(counted(np.array(items).T, 4))
    found = leave_one_out_of(Cross.of_confusion(cells))
    assert scott_pi(found)["value"] == pytest.approx(fleiss_kappa(two)["value"], abs=1e-12)
    assert cross_agreement(found)["value"] == pytest.approx(pairwise_agreement(two)["value"], abs=1e-12)


def test_quadratic_kappa_and_interval_alpha_agree_for_many_items():
    """Krippendorff 2004, section 11.5: they differ by the margins alone, which here are equal."""
    cells = np.array([[40, 10, 5], [10, 60, 20], [5, 20, 30]]) * 1000
    items = Patterns.of(
        [[(k == i) + (k == j) for k in range(3)] for i in range(3) for j in range(3)], cells.reshape(-1)
    )
    alpha = krippendorff_alpha(leave_one_out(items), level="interval")
    kappa = cohen_kappa(leave_one_out_of(Cross.of_confusion(cells)), weighting="quadratic")
    assert alpha["value"] == pytest.approx(kappa["value"], abs=1e-4)


def test_ordinal_weights_are_gwets():
    """Four categories: 1, 3 and 6 pairs of categories from k to l, of 6."""
    assert weights_of("ordinal", 4)[0] == pytest.approx([1, 5 / 6, 3 / 6, 0])
    assert weights_of("linear", 4)[0] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert weights_of("quadratic", 4)[0] == pytest.approx([1, 8 / 9, 5 / 9, 0])


def test_agreement_by_chance_alone_is_zero_and_in_full_is_one():
    rng = np.random.default_rng(0)
    by_chance = totals(counted(rng.choice(3, p=[0.6, 0.3, 0.1], size=(4, 50_000)), 3))
    in_full = totals(np.eye(3, dtype=int)[rng.integers(0, 3, 50)] * 4)
    for coefficient in (fleiss_kappa, krippendorff_alpha):
        assert coefficient(by_chance)["value"] == pytest.approx(0, abs=0.01)
    for coefficient in (fleiss_kappa, krippendorff_alpha, gwet_ac):
        assert coefficient(in_full)["value"] == 1


COEFFICIENTS = {
    "raw": pairwise_agreement,
    "fleiss": fleiss_kappa,
    "ac1": gwet_ac,
    "ac2": lambda found: gwet_ac(found, weighting="quadratic"),
    "ordinal": lambda found: krippendorff_alpha(found, level="ordinal"),
}


def some_counts(seed=1, items=150):
    """A common category and two rare ones, so that chance differs much without one of the items."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(rng.integers(1, 6, items), rng.dirichlet([1.2, 0.1, 0.1], items))


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_sums_without_an_item_are_those_of_the_others(name):
    counts = some_counts(items=40)
    found = leave_one_out(Patterns.of(counts, clusters=np.arange(40)))
    assert found.sample.kinds.sum() == 40
    without = {round(COEFFICIENTS[name](totals(np.delete(counts, i, axis=0)))["value"], 9) for i in range(40)}
    for part in ("agreeing", "pairs", "coincidences", "item_pairs", "shares"):
        assert len(getattr(found, part)) == 1 + len(found.sample.kinds)
    ours = set()
    for kind in range(len(found.sample.kinds)):
        rows = {part: getattr(found, part)[[1 + kind]] for part in ("agreeing", "pairs")}
        rows |= {part: getattr(found, part)[[1 + kind]] for part in ("coincidences", "item_pairs", "shares")}
        alone = Sample(np.zeros(0, dtype=int), 1, 1.0, 1.0)
        ours.add(round(COEFFICIENTS[name](Totals(**rows, sample=alone))["value"], 9))
    assert ours == without


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_intervals_from_many_items_are_those_of_the_item_bootstrap(name):
    """Of 1,500 items all methods meet; the quantiles of 1,000 resamples err by 0.02 of the width (one deviation)."""
    counts = some_counts(items=1500)
    rng = np.random.default_rng(5)
    values = [COEFFICIENTS[name](totals(counts[rng.integers(1500, size=1500)]))["value"] for _ in range(1000)]
    low, high = np.quantile(values, [0.025, 0.975])
    found = COEFFICIENTS[name](totals(counts))
    assert found["low"] == pytest.approx(low, abs=0.1 * (high - low))
    assert found["high"] == pytest.approx(high, abs=0.1 * (high - low))


def test_cohens_interval_is_gwets_for_many_items():
    """Fleiss, Cohen and Everitt 1969, the standard error of kappa, here of 1,000 items: 0.0174, by statsmodels."""
    cells = np.array([[300, 50, 20], [60, 250, 40], [10, 70, 200]])
    theirs = inter_rater.cohens_kappa(cells)
    found = cohen_kappa(leave_one_out_of(Cross.of_confusion(cells)))
    assert found["value"] == pytest.approx(theirs.kappa)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * theirs.std_kappa, rel=0.02)


def test_intervals_of_weighted_kappa_have_statsmodels_standard_error():
    cells = np.array([[300, 50, 20], [60, 250, 40], [10, 70, 200]])
    theirs = inter_rater.cohens_kappa(cells, wt="quadratic")
    found = cohen_kappa(leave_one_out_of(Cross.of_confusion(cells)), weighting="quadratic")
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * theirs.std_kappa, rel=0.03)


def test_four_copies_of_an_item_in_one_cluster_say_no_more_than_one():
    counts = random_counts(4, 3, items=80)
    copied = Patterns.of(np.repeat(counts, 4, axis=0), clusters=np.repeat(np.arange(80), 4))
    apart = leave_one_out(Patterns.of(np.repeat(counts, 4, axis=0)))
    one, other, many = (fleiss_kappa(found) for found in (totals(counts), leave_one_out(copied), apart))
    assert other["value"] == pytest.approx(one["value"])
    assert other["n"] == one["n"]
    assert other["high"] - other["low"] == pytest.approx(one["high"] - one["low"], rel=0.01)
    assert many["high"] - many["low"] == pytest.approx((one["high"] - one["low"]) / 2, rel=0.1)


def test_two_sides_of_copied_items_in_one_cluster_say_no_more_than_one():
    rng = np.random.default_rng(0)
    left, right = (np.eye(3, dtype=int)[rng.integers(0, 3, 60)] for _ in range(2))
    right[:40] = left[:40]
    one = Cross(left, right, np.ones(60, dtype=int))
    copied = Cross(*(np.repeat(side, 4, axis=0) for side in (left, right)), np.ones(240, int), np.repeat(range(60), 4))
    single, many = (cohen_kappa(leave_one_out_of(cross)) for cross in (one, copied))
    assert many["n"] == single["n"] == 60
    assert (many["low"], many["high"]) == pytest.approx((single["low"], single["high"]), abs=0.01)


def test_the_interval_does_not_depend_on_the_order_of_the_items():
    counts = random_counts(6, 4)
    shuffled = np.random.default_rng(0).permutation(counts)
    assert nominal_coefficients(Patterns.of(counts)) == nominal_coefficients(Patterns.of(shuffled))
    counts = random_counts(6, 4, items=400)
    order = np.random.default_rng(1).permutation(len(counts))
    clusters = np.arange(len(counts)) // 20
    one, other = Patterns.of(counts, clusters=clusters), Patterns.of(counts[order], clusters=clusters[order])
    assert nominal_coefficients(one) == nominal_coefficients(other)


def test_nominal_coefficients_do_not_know_the_categories_order_and_ordinal_ones_its_direction():
    counts = random_counts(7, 4)
    for order in itertools.permutations(range(4)):
        one, other = (nominal_coefficients(Patterns.of(c)) for c in (counts, counts[:, order]))
        for name in ("raw", "fleiss", "alpha", "gwet_ac1"):
            assert one[name]["value"] == pytest.approx(other[name]["value"], abs=1e-12)
    one, other = (ordinal_coefficients(Patterns.of(c)) for c in (counts, counts[:, ::-1]))
    for name in one.keys() - {"reasons", "few"}:
        assert one[name]["value"] == pytest.approx(other[name]["value"], abs=1e-12)


def test_one_category_alone_has_no_coefficient_and_says_why():
    found = nominal_coefficients(Patterns.of([[3, 0], [2, 0]]))
    assert (found["fleiss"], found["alpha"], found["gwet_ac1"]) == (None, None, None)
    assert all("one category" in reason for reason in found["reasons"].values())
    assert found["reasons"].keys() == {"fleiss", "alpha", "gwet_ac1"}
    assert found["raw"]["value"] == 1
    both = cross_coefficients(Cross.of_confusion([[5, 0], [0, 0]]), ordered=True)
    assert both.keys() - {name for name, value in both.items() if value is None} == {"raw", "reasons", "few"}


def test_a_side_of_one_category_has_no_kappa():
    """Cohen's formula would be 0 whatever the other side says."""
    found = cross_coefficients(Cross.of_confusion([[3, 4], [0, 0]]), ordered=True)
    assert [found[name] for name in ("cohen", "cohen_linear", "cohen_quadratic")] == [None] * 3
    assert "single category" in found["reasons"]["cohen"]
    assert found["scott"] is not None
    rare = cross_coefficients(Cross.of_confusion([[8, 1], [0, 1]]))  # without the last cell there is one category
    assert rare["cohen"]["low"] < 0 < rare["cohen"]["high"]


def test_nothing_judged_twice_has_no_agreement_and_says_why():
    for patterns in (Patterns.of([[1, 0], [0, 1]]), Patterns.of(np.zeros((0, 3)))):
        for found in (nominal_coefficients(patterns), ordinal_coefficients(patterns)):
            assert {value for name, value in found.items() if name != "reasons"} == {None}
            assert "few" not in found
            assert set(found["reasons"].values()) == {"no item was judged twice"}
    one_sided = Cross(np.array([[0, 0], [1, 0]]), np.array([[1, 0], [1, 0]]), np.array([5, 1]))
    assert cross_agreement(leave_one_out_of(one_sided))["n"] == 1
    with pytest.raises(Undefined, match="judged by both"):
        leave_one_out_of(Cross.of_confusion(np.zeros((2, 2))))


def test_perfect_agreement_on_a_few_items_is_not_certain():
    """All agree; the next item may not: the bound of 10 successes of 10, with chance at 1/2 for kappa."""
    found = totals([[2, 0]] * 5 + [[0, 2]] * 5)
    low, _ = agresti_coull(1, 10, student(9))
    assert (pairwise_agreement(found)["low"], pairwise_agreement(found)["high"]) == (pytest.approx(low), 1)
    assert fleiss_kappa(found)["low"] == pytest.approx(1 - (1 - low) / 0.5)


def test_a_few_clusters_of_perfect_agreement_count_by_their_pairs():
    """Of 1, 1 and 4 pairs all the same: as good as 6^2 / 18 = 2 clusters, with Student's quantile of 2."""
    found = leave_one_out(Patterns.of([[2, 0]] * 3 + [[0, 2]] * 3, clusters=[1, 2, 3, 3, 3, 3]))
    low, _ = agresti_coull(1, 2, student(2))
    assert pairwise_agreement(found)["low"] == pytest.approx(low)


def test_one_item_or_prompt_has_no_interval_and_few_say_so():
    one = nominal_coefficients(Patterns.of([[2, 1]]))
    assert (one["raw"]["value"], one["raw"]["low"], one["raw"]["high"]) == (pytest.approx(1 / 3), None, None)
    assert "no interval" in one["few"]
    prompt = nominal_coefficients(Patterns.of([[2, 1], [1, 2]], clusters=["p", "p"]))
    assert (prompt["alpha"]["low"], prompt["raw"]["n"]) == (None, 1)
    some = nominal_coefficients(Patterns.of([[2, 1], [1, 2]] * 3))
    assert some["few"].startswith("6 independent items are few")
    two = nominal_coefficients(Patterns.of([[2, 1], [1, 2]]))
    assert two["few"].startswith("2 independent items are few")
    assert two["raw"]["low"] is not None
    assert "few" not in nominal_coefficients(Patterns.of([[2, 1], [1, 2]] * 5))
    assert "no interval" in cross_coefficients(Cross.of_confusion([[1, 0], [0, 0]]))["few"]


def test_a_coefficient_without_spread_is_known_as_well_as_its_comparisons():
    """Each of 20 items has two of three pairs apart: 40 comparisons that vary like coins of 2/3."""
    found = pairwise_agreement(totals([[2, 1]] * 20))
    low, high = agresti_coull(2 / 3, 40, student(19))
    assert (found["low"], found["high"]) == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_two_of_an_item_that_agree_like_coins_are_known_like_coins():
    """The jackknife's variance is p (1 - p) / (n - 1)."""
    found = pairwise_agreement(totals([[2, 0]] * 15 + [[1, 1]] * 5))
    assert (found["low"], found["high"]) == pytest.approx(agresti_coull(0.75, 19, student(19)))


def test_few_large_squares_are_few_degrees_of_freedom():
    """Distances of 1, 2 and 8 of 8: one large one among 40 items makes most of the variance."""
    near = np.eye(9, dtype=int)[[[3, 4]] * 8 + [[5, 5]] * 16 + [[2, 2]] * 16].sum(axis=1)
    far = np.eye(9, dtype=int)[[[3, 4]] * 7 + [[0, 8]] + [[5, 5]] * 16 + [[2, 2]] * 16].sum(axis=1)
    one, other = (gwet_ac(totals(counts), weighting="quadratic") for counts in (near, far))
    assert one["high"] - one["low"] < 0.05
    assert other["high"] - other["low"] > 0.3


def test_items_of_which_one_category_is_rare_have_an_interval():
    """Without the one item that everybody gave the second category, kappa is no value."""
    found = nominal_coefficients(Patterns.of([[2, 0], [1, 1], [0, 2]], [6, 1, 1]))
    assert all(np.isfinite([found[name][key] for key in ("low", "high")]).all() for name in ("fleiss", "alpha"))


def test_intervals_cost_the_same_for_any_number_of_items():
    found = nominal_coefficients(Patterns.of([[2, 0], [1, 1], [0, 2]], [10**9, 10**9, 10**9]))
    assert found["raw"]["n"] == 3 * 10**9
    assert found["raw"]["high"] - found["raw"]["low"] < 1e-4


def test_items_without_a_judgment_count_for_nothing():
    one, other = Patterns.of([[2, 0], [0, 0], [1, 1]]), Patterns.of([[2, 0], [1, 1]])
    assert nominal_coefficients(one) == nominal_coefficients(other)
    assert (one.items, one.judgments) == (2, 4)


@pytest.mark.parametrize("bad", [([1, 2],), ([[1, -1]],), ([[1, 1]], [1, 2]), ([[1, 1]], [1], [1, 2])])
def test_patterns_of_wrong_shape_are_refused(bad):
    with pytest.raises(ValueError, match="patterns"):
        Patterns.of(*bad)


def test_position_bias_counts_first_choices_and_mirrors():
    """Two-sided binomial: P(X <= 1 or X >= 9 | 10, 1/2) = 22 / 1024."""
    found = position_bias(9, 1)
    assert found["share"] == rate(9, 10)
    assert found["p_value"] == pytest.approx(22 / 1024)
    assert position_bias(1, 9)["p_value"] == pytest.approx(22 / 1024)
    assert position_bias(5, 5)["p_value"] == 1
    assert position_bias(0, 0) is None


def test_drift_is_flagged_where_the_last_judgments_differ_from_those_before():
    steady = [1, 1, 1, 0] * 50
    found = drift([*steady, *[0] * 40, *[1] * 10], window=50, seconds=[10.0, 20.0] * 100 + [None, 2.0] * 25)
    assert found["difference"]["value"] == pytest.approx(0.2 - 0.75)
    assert found["difference"] == difference_of_rates(10, 50, 150, 200)
    assert found["flagged"]
    assert (found["seconds_before"], found["seconds_in_window"]) == (15.0, 2.0)
    assert not drift(steady, window=60)["flagged"]
    assert drift(steady, window=60)["seconds_before"] is None
    assert drift(steady, window=200) is None
    assert drift(steady, window=1)["difference"] == difference_of_rates(0, 1, 150, 199)
    with pytest.raises(ValueError, match="window"):
        drift(steady, window=0)


def test_a_pattern_that_occurs_no_times_counts_for_nothing():
    some = Patterns.of([[2, 0], [1, 1], [0, 2]], weights=[3, 0, 1])
    assert some.counts.tolist() == [[0, 2], [2, 0]]
    assert some.weights.tolist() == [1, 3]
    with pytest.raises(ValueError, match="zero or more"):
        Patterns.of([[2, 0], [1, 1]], weights=[3, -1])


def test_where_chance_agrees_on_everything_there_is_no_coefficient():
    nothing = np.zeros(2)
    with pytest.raises(Undefined, match="chance alone would agree on every item"):
        _interval(nothing, nothing, Sample(np.array([2]), 2, 2.0, 2.0))
