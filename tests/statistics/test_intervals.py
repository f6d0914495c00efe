"""Each interval against its formula, its limits and symmetries; and how often it holds the truth, in a few cells."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from statsmodels.stats.proportion import proportion_confint

from plaudit.collect.head_to_head import HeadToHead
from plaudit.statistics import intervals as statistics
from plaudit.statistics.coefficients import (
    Patterns,
    fleiss_kappa,
    gwet_ac,
    krippendorff_alpha,
    leave_one_out,
    pairwise_agreement,
)
from plaudit.statistics.intervals import (
    agresti_coull,
    difference,
    difference_of_rates,
    effective_number,
    excludes,
    mean,
    rate,
    share,
    student,
)
from plaudit.statistics.logistic import by_clusters, logistic_fit
from plaudit.statistics.win_rate import win_rate

SIZES = (10, 30, 65, 300)
RATES = (0.5, 0.9, 0.99)


def ends(interval):
    return interval["low"], interval["high"]


def holds(interval, truth):
    return interval["low"] - 1e-12 <= truth <= interval["high"] + 1e-12


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (3, 10), (71, 100), (50, 100), (299, 300)])
def test_agresti_coull_is_that_of_statsmodels(wins, n):
    low, high = proportion_confint(wins, n, method="agresti_coull")
    assert agresti_coull(wins / n, n, stats.norm.ppf(0.975)) == pytest.approx((max(0, low), min(1, high)))


def test_agresti_coull_holds_wilsons_interval_and_is_one_with_it_in_the_middle():
    for wins in range(31):
        low, high = proportion_confint(wins, 30, method="wilson")
        ours = agresti_coull(wins / 30, 30, stats.norm.ppf(0.975))
        assert ours[0] <= low + 1e-12
        assert ours[1] >= high - 1e-12
    assert agresti_coull(0.5, 30, stats.norm.ppf(0.975)) == pytest.approx(proportion_confint(15, 30, method="wilson"))


def test_students_quantile_is_of_the_tables():
    assert (student(1), student(9), student(1e9)) == pytest.approx((12.7062, 2.26216, 1.95996), abs=1e-4)


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (7, 10), (10, 10), (71, 100), (2, 2)])
def test_a_rate_is_clopper_and_pearsons_and_one_trial_has_no_interval(wins, n):
    found = rate(wins, n)
    assert (found["value"], found["n"]) == (wins / n, n)
    assert ends(found) == pytest.approx(proportion_confint(wins, n, method="beta"))
    assert rate(1, 1) == {"value": 1.0, "low": None, "high": None, "n": 1}


def test_what_is_not_known_excludes_nothing():
    assert not excludes(rate(1, 1), 0.0)
    assert excludes(rate(10, 10), 0.5)
    assert excludes(rate(0, 10), 0.5)
    assert not excludes(rate(5, 10), 0.5)


@pytest.mark.parametrize("of_nothing", [
    lambda: rate(0, 0), lambda: share([], []), lambda: mean([], []), lambda: difference([], []),
    lambda: win_rate([], [], []), lambda: difference_of_rates(0, 0, 1, 2), lambda: difference_of_rates(1, 2, 0, 0),
])  # fmt: skip
def test_nothing_has_no_value(of_nothing):
    with pytest.raises(ValueError, match="no value"):
        of_nothing()


@pytest.mark.parametrize("kind", [share, mean, difference])
def test_one_cluster_has_a_value_and_no_interval(kind):
    assert kind([0.0, 1.0, 0.5], ["p"] * 3) == {"value": 0.5, "low": None, "high": None, "n": 1}


@pytest.mark.parametrize("outside", [-0.1, 1.1, 3.0])
def test_a_share_of_what_is_no_share_is_refused(outside):
    with pytest.raises(ValueError, match="from 0 to 1"):
        share([0.5, outside], ["p", "q"])


def test_values_and_clusters_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        share([0.5, 0.5], ["p"])


def test_a_rate_of_halves_is_between_those_of_whole_numbers():
    below, found, above = rate(6, 10), rate(6.5, 10), rate(7, 10)
    assert below["low"] < found["low"] < above["low"]
    assert below["high"] < found["high"] < above["high"]


def test_a_share_of_independent_coins_is_a_rate():
    values = [1.0] * 7 + [0.0] * 3
    assert share(values, range(10)) == pytest.approx(rate(7, 10))
    assert share([1.0] * 10, range(10)) == pytest.approx(rate(10, 10))


def test_a_share_mirrors():
    values, clusters = [1, 0.5, 0, 1, 1, 0.5], [1, 1, 2, 3, 3, 4]
    one, other = share(values, clusters), share([1 - value for value in values], clusters)
    assert other["value"] == pytest.approx(1 - one["value"])
    assert ends(other) == pytest.approx((1 - one["high"], 1 - one["low"]))


def test_copies_within_a_cluster_add_nothing_to_a_share():
    values = (np.random.default_rng(0).random(50) < 0.8).astype(float)
    twice, often = (share(np.repeat(values, k), np.repeat(range(50), k)) for k in (2, 8))
    assert twice["n"] == often["n"] == 50
    assert ends(often) == pytest.approx(ends(twice))
    assert ends(often) == pytest.approx(agresti_coull(values.mean(), 50, student(49)))


def test_a_share_by_hand():
    """Clusters of two: 1 1, 1 0, 0 0, 1 1; p = 5/8, gaps of clusters 3/4, -1/4, -5/4, 3/4, over 8 values.

    V = 4/3 (9 + 1 + 25 + 9) / 16 / 64 = 44/768; n = (15/64) / V = 4.09, between 4 clusters and 8 values.
    """
    found = share([1, 1, 1, 0, 0, 0, 1, 1], [1, 1, 2, 2, 3, 3, 4, 4])
    assert ends(found) == pytest.approx(agresti_coull(5 / 8, (15 / 64) / (44 / 768), student(3)))


def test_clusters_that_count_alike_are_weighed_by_their_number():
    """Prompt a has one value, b has three: (1 + 1/3) / 2 against (1 + 1) / 4."""
    values, clusters = [1, 1, 0, 0], ["a", "b", "b", "b"]
    assert share(values, clusters)["value"] == 0.5
    assert share(values, clusters, clusters_alike=True)["value"] == pytest.approx(2 / 3)


def test_unequal_clusters_of_equal_values_are_fewer_than_their_number():
    """All 1: clusters of 1, 1 and 4 values are as good as 36 / 18 = 2 equal ones; counted alike, as 3."""
    clusters = [1, 2, 3, 3, 3, 3]
    assert share([1] * 6, clusters)["low"] == pytest.approx(agresti_coull(1, 2, student(2))[0])
    alike = share([1] * 6, clusters, clusters_alike=True)
    assert alike["low"] == pytest.approx(agresti_coull(1, 3, student(2))[0])


def test_values_that_vary_less_than_coins_count_for_more_and_few_of_them_for_less_more():
    """n values at 1/2 exactly: limited to n (n + 4) / 4 coins."""
    for n in (10, 100):
        found = share([0.5] * n, range(n))
        assert ends(found) == pytest.approx(agresti_coull(0.5, n * (n + 4) / 4, student(n - 1)))


def test_the_effective_number_is_between_its_bounds():
    """A coin of 1/4 has the variance 3/16."""
    bounds = {"fewest": 10, "most": 40}
    assert effective_number(0.25, 3 / 16 / 25, 3 / 16, **bounds) == pytest.approx(25)
    assert effective_number(0.25, 3 / 16 / 5, 3 / 16, **bounds) == 10
    assert effective_number(0.25, 3 / 16 / 80, 3 / 16, **bounds) == pytest.approx(40)
    assert effective_number(0.25, 0.0, 3 / 16, **bounds) == pytest.approx(40)
    assert effective_number(0.25, 0.0, 3 / 32, **bounds) == pytest.approx(40 * 44 / 24)
    assert effective_number(0.0, 0.0, 0.0, **bounds) == effective_number(1.0, 0.0, 0.0, **bounds) == 10


def test_a_difference_by_hand_and_its_mirror():
    """Two of eight ahead and one behind: independent items, so the ends of both are those of Clopper and Pearson."""
    gaps, clusters = [1, 0, 0, -1, 0, 1, 0, 0], range(8)
    found = difference(gaps, clusters)
    (low, high), (other_low, other_high) = ends(rate(2, 8)), ends(rate(1, 8))
    phi = (0 / 8 - 2 / 8 * 1 / 8) / np.sqrt(2 / 8 * 6 / 8 * 1 / 8 * 7 / 8)
    down = (2 / 8 - low, other_high - 1 / 8)
    up = (high - 2 / 8, 1 / 8 - other_low)
    assert found["value"] == pytest.approx(1 / 8)
    assert ends(found) == pytest.approx((
        1 / 8 - np.sqrt(down[0] ** 2 - 2 * phi * down[0] * down[1] + down[1] ** 2),
        1 / 8 + np.sqrt(up[0] ** 2 - 2 * phi * up[0] * up[1] + up[1] ** 2),
    ))  # fmt: skip
    assert ends(difference([-gap for gap in gaps], clusters)) == pytest.approx((-found["high"], -found["low"]))


def test_a_difference_of_one_sign_has_the_width_of_its_share():
    gaps, clusters = [0.25, 0, 0.5, 0, 1, 0, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3]
    found, one, none = difference(gaps, clusters), share(gaps, clusters), share([0] * 8, clusters)
    assert found["high"] == pytest.approx(one["high"])
    assert found["low"] == pytest.approx(one["value"] - np.hypot(one["value"] - one["low"], none["high"]))


def test_differences_beyond_what_shares_can_have_are_refused():
    with pytest.raises(ValueError, match="-1 to 1"):
        difference([0.0, -1.5], range(2))


def test_no_difference_in_ten_is_not_known_to_be_none():
    low, high = ends(difference([0.0] * 10, range(10)))
    assert low == pytest.approx(-high)
    assert 0.2 < high < 0.5


def test_a_mean_of_many_is_students():
    values = np.random.default_rng(0).normal(5, 2, 3000)
    found = mean(values, range(3000))
    low, high = stats.t.interval(0.95, 2999, values.mean(), stats.sem(values))
    assert ends(found) == pytest.approx((low, high))


def test_a_mean_is_never_narrower_than_students_and_wider_on_the_side_of_a_tail():
    values = np.random.default_rng(1).exponential(size=12) ** 1.5
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    found = mean(values, range(12))
    assert found["low"] == pytest.approx(low)
    assert found["high"] > high + 0.2 * (high - low)
    assert found["high"] <= values.mean() + statistics.WIDEST * student(11) * stats.sem(values) + 1e-9
    mirrored = mean(-values, range(12))
    assert ends(mirrored) == pytest.approx((-found["high"], -found["low"]), rel=0.1)


def test_fewer_clusters_than_can_be_drawn_have_students_interval():
    values = [1.0, 2.0, 9.0]
    assert ends(mean(values, range(3))) == pytest.approx(stats.t.interval(0.95, 2, 4.0, stats.sem(values)))


def test_more_clusters_than_are_drawn_have_nearly_the_same_interval(monkeypatch):
    values = np.random.default_rng(2).normal(size=400)
    drawn = mean(values, range(400))
    monkeypatch.setattr(statistics, "MOST_DRAWN", 399)
    alone = mean(values, range(400))
    assert ends(alone) == pytest.approx(stats.t.interval(0.95, 399, values.mean(), stats.sem(values)))
    assert drawn["high"] - drawn["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.06)


def test_copies_within_a_cluster_add_nothing_to_a_mean():
    values = np.random.default_rng(3).normal(size=40)
    single, copied = mean(values, range(40), seed=1), mean(np.repeat(values, 4), np.repeat(range(40), 4), seed=1)
    assert copied["value"] == pytest.approx(single["value"])
    assert ends(copied) == pytest.approx(ends(single))


def test_the_studentised_bootstrap_is_that_of_its_definition():
    """Of clusters of several sizes: quantiles of (mean* - mean) / error*, the error by linearisation."""
    random = np.random.default_rng(4)
    sizes = random.integers(1, 5, 30).astype(float)
    sums = random.exponential(size=30) * sizes
    mean_ = sums.sum() / sizes.sum()
    ratios = []
    for _ in range(6000):
        rows = random.integers(30, size=30)
        own = sums[rows].sum() / sizes[rows].sum()
        gaps = sums[rows] - own * sizes[rows]
        ratios.append((own - mean_) / math.sqrt(30 / 29 * (gaps**2).sum() / sizes[rows].sum() ** 2))
    low, high = statistics._studentised(sums, sizes, seed=0)
    assert (low, high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])), rel=0.08)


def test_a_resample_without_spread_asks_for_no_more_than_twice_students():
    """Nine of ten are equal: a third of the resamples have no spread."""
    values = [0.0] * 9 + [1.0]
    found = mean(values, range(10))
    assert found["high"] == pytest.approx(0.1 + 2 * student(9) * stats.sem(values))


def test_equal_numbers_have_an_interval_without_width():
    assert mean([2.0] * 12, range(12)) == {"value": 2.0, "low": 2.0, "high": 2.0, "n": 12}


def test_the_jackknife_of_unequal_clusters_by_hand():
    """Sums 1, 4, 3 of 1, 2, 1 values: 8/4; without one 7/3, 4/2, 5/3, mean 2, so V = 2/3 (1/9 + 1/9) = 4/27."""
    found = mean([1.0, 2.0, 2.0, 3.0], ["a", "b", "b", "c"])
    assert ends(found) == pytest.approx((2 - student(2) * (4 / 27) ** 0.5, 2 + student(2) * (4 / 27) ** 0.5))


def test_a_difference_of_rates_by_hand_and_its_mirror():
    """MOVER: 0.8 - 0.6, with the limits of each."""
    (l1, u1), (l2, u2) = (agresti_coull(p, n, stats.norm.ppf(0.975)) for p, n in ((0.8, 70), (0.6, 80)))
    found = difference_of_rates(56, 70, 48, 80)
    assert found["value"] == pytest.approx(0.2)
    assert found["low"] == pytest.approx(0.2 - math.hypot(0.8 - l1, u2 - 0.6))
    assert found["high"] == pytest.approx(0.2 + math.hypot(u1 - 0.8, 0.6 - l2))
    assert ends(found) == pytest.approx((0.0524, 0.3339), abs=1e-3)  # Newcombe 1998, table II, from Wilson's limits
    assert ends(difference_of_rates(48, 80, 56, 70)) == pytest.approx((-found["high"], -found["low"]))


# How often they hold the truth


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("p", RATES)
def test_a_rate_holds_the_truth_as_often_as_it_says(n, p):
    """Exactly, by summing the binomial."""
    wins = np.arange(n + 1)
    covered = sum(stats.binom.pmf(k, n, p) for k in wins if holds(rate(int(k), n), p))
    assert covered >= 0.94


@pytest.mark.parametrize(("n", "other"), [(10, 10), (10, 300), (65, 30)])
@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.9, 0.9), (0.99, 0.99), (0.9, 0.99)])
def test_a_difference_of_rates_holds_the_truth_as_often_as_it_says(n, other, p, q):
    covered = 0.0
    for one in range(n + 1):
        weight = stats.binom.pmf(one, n, p)
        if weight > 1e-6:
            likely = [k for k in range(other + 1) if stats.binom.pmf(k, other, q) > 1e-6]
            covered += weight * sum(
                stats.binom.pmf(k, other, q) for k in likely if holds(difference_of_rates(one, n, k, other), p - q)
            )
    assert covered >= 0.93


def coins(random, prompts, answers, p, correlation):
    """(values, prompts) of which those of a prompt are alike: Beta-distributed shares of a prompt."""
    sizes = np.full(prompts, answers)
    odds = (1 - correlation) / correlation
    own = random.beta(p * odds, (1 - p) * odds, size=prompts)
    clusters = np.repeat(np.arange(prompts), sizes)
    return (random.random(len(clusters)) < own[clusters]).astype(float), clusters


@pytest.mark.parametrize(("prompts", "p"), [(10, 0.9), (10, 0.99), (30, 0.99), (65, 0.9)])
def test_a_share_of_answers_that_are_alike_within_prompts_holds_the_truth(prompts, p):
    random = np.random.default_rng(prompts)
    found = [share(*coins(random, prompts, 4, p, 0.3)) for _ in range(400)]
    assert np.mean([holds(one, p) for one in found]) >= 0.93
    low, _ = agresti_coull(p, prompts, student(prompts - 1))  # of a single answer to each
    assert np.mean([one["high"] - one["low"] for one in found]) < 1 - low


@pytest.mark.parametrize(("tasks", "p"), [(10, 0.9), (30, 0.99)])
def test_peoples_head_to_head_win_rate_holds_the_truth(tasks, p):
    random, held = np.random.default_rng(tasks), 0
    for _ in range(300):
        match = HeadToHead(people_per_task=1)
        for task in range(tasks):
            tie = random.random() < 1 - p  # half of what is not won is lost
            score = 0.5 if tie else float(random.random() < (p - (1 - p) / 2) / p)
            match.put(f"t{task}", f"p{task}", "ann", ("new", "old"), score)
        held += holds(match.matches()[0].win_rate, p)
    assert held / 300 >= 0.93


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_a_mean_of_few_prompts_holds_the_truth(draw):
    """Ten prompts of three alike answers; Student's own interval holds .91 of exponential lengths."""
    random, held = np.random.default_rng(0), 0
    for _ in range(250):
        own = np.repeat(getattr(random, draw)(size=10), 3)
        values = own + 0.5 * getattr(random, draw)(size=30)
        held += holds(mean(values, np.repeat(range(10), 3)), 0.0 if draw == "normal" else 1.5)
    assert held / 250 >= 0.93


@pytest.mark.parametrize("items", [10, 65])
@pytest.mark.parametrize(("prevalence", "faithful"), [(0.5, 0.95), (0.85, 0.8)])
def test_coefficients_of_agreement_hold_the_truth(items, prevalence, faithful):
    """Two people say what an item is with a chance of `faithful`, and else draw anew: kappa is its square."""
    random = np.random.default_rng(1)
    same = faithful**2 + (1 - faithful**2) * (prevalence**2 + (1 - prevalence) ** 2)
    chance = prevalence * (1 - prevalence) * 2
    ac1 = (same - chance) / (1 - chance)
    wanted = {pairwise_agreement: same, fleiss_kappa: faithful**2, krippendorff_alpha: faithful**2, gwet_ac: ac1}
    held = {coefficient: [] for coefficient in wanted}
    for _ in range(250):
        truth = (random.random((items, 1)) < prevalence).repeat(2, axis=1)
        said = np.where(random.random((items, 2)) < faithful, truth, random.random((items, 2)) < prevalence)
        if said.all() or not said.any():
            continue
        totals = leave_one_out(Patterns.of(np.stack([(~said).sum(axis=1), said.sum(axis=1)], axis=1)))
        for coefficient, value in wanted.items():
            held[coefficient].append(holds(coefficient(totals), value))
    for coefficient, found in held.items():
        assert np.mean(found) >= 0.93, coefficient.__name__


def compared(random, prompts, spread):
    """(design, outcomes, prompts) of all six pairs of four answers each, which have lengths and unknown qualities."""
    rows, outcomes, clusters = [], [], []
    for prompt in range(prompts):
        lengths, qualities = random.normal(0, 0.6, 4), random.normal(0, spread, 4)
        for one, other in combinations(range(4), 2):
            gap = lengths[one] - lengths[other]
            rows.append((1.0, gap))
            outcomes.append(float(random.random() < expit(0.7 * gap + qualities[one] - qualities[other])))
            clusters.append(prompt)
    return np.array(rows), np.array(outcomes), np.array(clusters)


def test_log_odds_of_answers_that_are_compared_several_times_hold_the_truth_by_prompts():
    """Wald's interval holds it in nine cases of ten: qualities are shared by an answer's comparisons."""
    random, held = np.random.default_rng(0), []
    truth, _ = logistic_fit(*compared(random, 10_000, 2.0)[:2])
    for _ in range(250):
        design, outcomes, prompts = compared(random, 20, 2.0)
        found, covariance = logistic_fit(design, outcomes)
        held.append([holds(one, value) for one, value in zip(
            by_clusters(design, outcomes, found, covariance, prompts), truth, strict=True
        )])  # fmt: skip
    assert (np.mean(held, axis=0) >= 0.93).all()


def test_log_odds_by_rows_of_their_own_are_walds_and_copies_add_nothing():
    random = np.random.default_rng(1)
    design, outcomes, _ = compared(random, 500, 0.0)
    found, covariance = logistic_fit(design, outcomes)
    apart = by_clusters(design, outcomes, found, covariance, np.arange(len(design)))
    for one, deviation in zip(apart, np.sqrt(np.diag(covariance)), strict=True):
        assert one["high"] - one["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.05)
    copies = [np.repeat(part, 3, axis=0) for part in (design, outcomes, np.arange(len(design)))]
    again = by_clusters(copies[0], copies[1], *logistic_fit(*copies[:2]), copies[2])
    for one, other in zip(apart, again, strict=True):
        assert ends(other) == pytest.approx(ends(one))
    assert by_clusters(design, outcomes, found, covariance, np.zeros(len(design), int))[0]["low"] is None
