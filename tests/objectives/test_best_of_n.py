from itertools import combinations

import pytest
import torch

from plaudit.objectives import best_of_n_distribution, best_of_n_estimate, best_of_n_kl_bound

REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, 2.0, -1.0], dtype=torch.float64)


def kl(p, q):
    kept = p > 0
    return float((p[kept] * (p[kept] / q[kept]).log()).sum())


@pytest.mark.parametrize(
    ("n", "expected", "divergence", "bound"),
    [
        (1, [0.4, 0.3, 0.2, 0.1], 0.0, 0.0),
        (2, [0.48, 0.15, 0.36, 0.01], 0.172120, 0.193147),
        (4, [0.384, 0.0255, 0.5904, 0.0001], 0.559871, 0.636294),
    ],
)
def test_the_distribution_its_kl_and_the_bound(n, expected, divergence, bound):
    found = best_of_n_distribution(REFERENCE, REWARD, n=n)
    assert found.tolist() == pytest.approx(expected)
    assert kl(found, REFERENCE) == pytest.approx(divergence, abs=1e-6)
    assert best_of_n_kl_bound(n) == pytest.approx(bound, abs=1e-6)


def test_on_few_outcomes_the_bound_grows_while_the_kl_does_not():
    found = best_of_n_distribution(REFERENCE, REWARD, n=64)
    assert kl(found, REFERENCE) == pytest.approx(1.609428, abs=1e-6)
    assert best_of_n_kl_bound(64) == pytest.approx(3.174508, abs=1e-6)


@pytest.mark.parametrize(("n", "divergence"), [(2, 0.136030), (4, 0.402108)])
def test_ties_are_split_as_the_base_splits_them(n, divergence):
    found = best_of_n_distribution(REFERENCE, torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64), n=n)
    assert found[0] / found[2] == pytest.approx(2.0)
    assert kl(found, REFERENCE) == pytest.approx(divergence, abs=1e-6)


def test_imitating_the_best_of_n_twice_is_the_best_of_n_squared():
    once = best_of_n_distribution(REFERENCE, REWARD, n=4)
    twice = best_of_n_distribution(once, REWARD, n=4)
    assert twice.tolist() == pytest.approx(best_of_n_distribution(REFERENCE, REWARD, n=16).tolist())


@pytest.mark.parametrize(("ranked_by", "n", "expected"), [("proxy", 3, 1.000), ("gold", 3, 0.405)])
def test_the_estimate_is_the_mean_over_all_subsets(ranked_by, n, expected):
    proxy = torch.tensor([0.1, 0.9, -0.3, 0.5, 1.2, 0.7], dtype=torch.float64)
    gold = torch.tensor([0.2, 0.4, -0.5, 0.9, 0.3, 0.6], dtype=torch.float64)
    values = proxy if ranked_by == "proxy" else gold
    brute = [values[max(subset, key=lambda i: proxy[i])] for subset in combinations(range(6), n)]
    found = best_of_n_estimate(proxy, values, n=n)
    assert found == pytest.approx(sum(brute).item() / len(brute))
    assert found == pytest.approx(expected, abs=1e-3)


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(ValueError, match="best of 3"):
        best_of_n_estimate(torch.zeros(2), torch.zeros(2), n=3)
    with pytest.raises(ValueError, match="best of 0"):
        best_of_n_kl_bound(0)


def test_shares_are_probabilities_in_single_precision():
    for seed in range(200):
        random = torch.Generator().manual_seed(seed)
        base = torch.rand(7, generator=random).softmax(0)
        found = best_of_n_distribution(base, torch.randperm(7, generator=random).float(), n=3)
        assert (found >= 0).all()
        assert found.sum().item() == pytest.approx(1, abs=1e-6)


def test_where_all_are_tied_the_best_is_any():
    base = torch.tensor([0.1, 0.2, 0.7])
    for n in (1, 2, 3):
        assert best_of_n_distribution(base, torch.ones(3), n=n).tolist() == pytest.approx(base.tolist())


def test_the_best_of_all_is_the_best_and_of_one_the_mean():
    ranking, values = torch.tensor([0.3, 0.1, 0.2]), torch.tensor([5.0, 7.0, 9.0])
    assert best_of_n_estimate(ranking, values, n=3) == pytest.approx(5)
    assert best_of_n_estimate(ranking, values, n=1) == pytest.approx(7)
    assert best_of_n_estimate(ranking, values, n=2) == pytest.approx((2 * 5 + 9) / 3)
    with pytest.raises(ValueError, match="best of 0"):
        best_of_n_estimate(ranking, values, n=0)
    assert best_of_n_kl_bound(1) == 0
