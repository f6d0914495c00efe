"""Logistic regression against closed forms and statsmodels, and when it has no value."""

import math

import numpy as np
import pytest
import statsmodels.api as sm

from plaudit.statistics.intervals import student
from plaudit.statistics.logistic import by_clusters, logistic_fit, wald


def some_data(rows=300, seed=0):
    draw = np.random.default_rng(seed)
    design = np.stack([np.ones(rows), draw.normal(size=rows), 5 * draw.normal(size=rows)], axis=1)
    chances = 1 / (1 + np.exp(-design @ [0.3, -0.8, 0.02]))
    return design, (draw.random(rows) < chances).astype(float)


def test_an_intercept_alone_is_the_log_odds_with_their_variance():
    """Of 30 of 40: log 3, and 1 / (40 * 3/4 * 1/4)."""
    found, covariance = logistic_fit(np.ones((40, 1)), np.repeat([1.0, 0.0], [30, 10]))
    assert found.tolist() == [pytest.approx(math.log(3), abs=1e-9)]
    assert covariance.tolist() == [[pytest.approx(1 / 7.5)]]


def test_coefficients_and_covariance_are_those_of_statsmodels_to_every_digit():
    design, outcomes = some_data()
    theirs = sm.Logit(outcomes, design).fit(disp=False, tol=1e-14, maxiter=100)
    found, covariance = logistic_fit(design, outcomes)
    np.testing.assert_allclose(found, theirs.params, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(covariance, theirs.cov_params(), rtol=1e-7)


def test_it_goes_on_until_the_largest_step_is_nothing():
    """A column that says nothing is at its place from the first step on; the intercept is not."""
    design = np.stack([np.ones(40), np.tile([1.0, -1.0], 20)], axis=1)
    found, _ = logistic_fit(design, np.repeat([1.0, 0.0], [36, 4]))
    assert found.tolist() == pytest.approx([math.log(9), 0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("design", "outcomes"),
    [
        (np.ones((1, 1)), [0.5]),
        (np.array([[1.0, 0.0], [1.0, 1.0]]), [0.5, 0.5]),
        (np.stack([np.ones(9), np.full(9, 2.0)], axis=1), [1, 0, 1, 0, 1, 0, 1, 0, 1]),
        (np.stack([np.ones(8), np.arange(8.0)], axis=1), [0, 0, 0, 0, 1, 1, 1, 1]),
        (np.ones((5, 1)), [1.0] * 5),
    ],
    ids=["as many rows as columns", "two of each", "columns that depend", "outcomes that a line separates", "all ones"],
)
def test_where_there_is_no_finite_maximum_it_says_so(design, outcomes):
    with pytest.raises(ValueError, match="no finite maximum"):
        logistic_fit(design, np.array(outcomes, dtype=float))


def test_log_odds_of_over_thirty_are_taken_for_separable_and_many_rows_are_not():
    """Outcomes are sigmoid(x) of x = +-1 and +-60, so that the coefficient is 1 and the root mean square 42."""
    x = np.array([1.0, -1.0, 60.0, -60.0] * 5)
    with pytest.raises(ValueError, match="no finite maximum"):
        logistic_fit(x[:, None], 1 / (1 + np.exp(-x)))
    near = np.array([1.0, -1.0] * 2000)
    found, _ = logistic_fit(near[:, None], 1 / (1 + np.exp(-near)))
    assert found.tolist() == [pytest.approx(1.0)]


def test_one_row_more_than_columns_is_enough():
    found, _ = logistic_fit(np.ones((2, 1)), np.array([1.0, 0.0]))
    assert found.tolist() == [pytest.approx(0.0, abs=1e-12)]


def test_walds_interval_is_1_96_deviations_either_way():
    assert wald(2.0, 0.5, 7) == {
        "value": 2.0, "low": pytest.approx(2 - 0.5 * 1.959964, abs=1e-6),
        "high": pytest.approx(2 + 0.5 * 1.959964, abs=1e-6), "n": 7,
    }  # fmt: skip


def test_intervals_by_clusters_have_the_sandwich_of_liang_and_zeger_and_students_quantile():
    design, outcomes = some_data(60)
    clusters = np.arange(60) % 7
    found, covariance = logistic_fit(design, outcomes)
    expected = 1 / (1 + np.exp(-design @ found))
    middle = np.zeros((3, 3))
    for cluster in range(7):
        rows = clusters == cluster
        score = (design[rows] * (outcomes - expected)[rows, None]).sum(axis=0)
        middle += np.outer(score, score)
    deviations = np.sqrt(np.diag(covariance @ middle @ covariance) * 7 / 6)
    for interval, value, deviation in zip(
        by_clusters(design, outcomes, found, covariance, clusters), found, deviations, strict=True
    ):
        assert interval["value"] == pytest.approx(value)
        assert interval["high"] - value == pytest.approx(student(6) * deviation)
        assert value - interval["low"] == pytest.approx(student(6) * deviation)
        assert interval["n"] == 7


def test_two_clusters_have_an_interval_and_one_has_no_ends():
    """Of 3 of 4 and 1 of 4: the scores are 1 and -1, the information 2, so V = (1/2)^2 * 2 * 2 = 1."""
    outcomes, ones = np.array([1, 1, 1, 0, 1, 0, 0, 0], dtype=float), np.ones((8, 1))
    found, covariance = logistic_fit(ones, outcomes)
    (two,) = by_clusters(ones, outcomes, found, covariance, np.repeat([0, 1], 4))
    assert (two["low"], two["high"]) == (pytest.approx(-student(1)), pytest.approx(student(1)))
    assert by_clusters(ones, outcomes, found, covariance, np.zeros(8, dtype=int)) == [
        {"value": pytest.approx(0.0, abs=1e-12), "low": None, "high": None, "n": 1}
    ]
