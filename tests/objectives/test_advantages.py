import pytest
import torch

from plaudit.objectives import generalised_advantages, kl_penalised_rewards, scores_at_the_end, whiten

KL = [0.3, -0.1, 0.2]
VALUES = [0.5, 0.6, 0.8]


def rewards_and_values():
    """One response of three tokens: KL per token, price 0.1, score 1 at the end."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    kl = torch.tensor([KL], dtype=torch.float64)
    task = scores_at_the_end(torch.ones(1, dtype=torch.float64), mask)
    rewards = kl_penalised_rewards(task, kl, torch.zeros_like(kl), mask, coefficient=0.1)
    return rewards, torch.tensor([VALUES], dtype=torch.float64), mask


def test_rewards_charge_the_kl_at_each_token_and_score_the_last():
    rewards, _, _ = rewards_and_values()
    assert rewards[0].tolist() == pytest.approx([-0.03, 0.01, 0.98])


@pytest.mark.parametrize(
    ("gae_lambda", "expected"),
    [(0.0, [0.07, 0.21, 0.18]), (0.95, [0.43195, 0.381, 0.18]), (1.0, [0.46, 0.39, 0.18])],
)
def test_advantages_match_the_case_worked_by_hand(gae_lambda, expected):
    """delta = (.07, .21, .18); A_t = delta_t + lambda A_{t+1}."""
    rewards, values, mask = rewards_and_values()
    advantages = generalised_advantages(rewards, values, mask, gae_lambda=gae_lambda)
    assert advantages[0].tolist() == pytest.approx(expected)


def test_padding_does_not_leak_into_advantages_whatever_stands_in_it():
    rewards, values, mask = rewards_and_values()
    pad = torch.tensor([[7.0, -3.0]], dtype=torch.float64)
    padded = generalised_advantages(
        torch.cat([rewards, pad], 1), torch.cat([values, 5 * pad], 1), torch.cat([mask, torch.zeros(1, 2).bool()], 1)
    )
    assert padded[:, :3].equal(generalised_advantages(rewards, values, mask))
    assert padded[:, 3:].eq(0).all()


def test_score_sits_on_the_last_token_of_each_response_not_of_the_batch():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    rewards = scores_at_the_end(torch.tensor([1.0, 2.0]), mask)
    assert rewards.tolist() == [[0, 0, 1], [2, 0, 0]]


def test_rewards_carry_no_gradient():
    log_probs = torch.zeros(1, 2, requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    task = scores_at_the_end(torch.ones(1, requires_grad=True), mask)
    assert not kl_penalised_rewards(task, log_probs, torch.zeros(1, 2), mask, coefficient=0.1).requires_grad


def test_whitening_matches_hand_figures_and_ignores_padding():
    """Biased variance, epsilon 1e-8, of (.43195, .381, .18)."""
    values = torch.tensor([[0.43195, 0.381, 0.18, 99.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    assert whiten(values, mask)[0].tolist() == pytest.approx([0.928269, 0.459844, -1.388113, 0.0], abs=1e-6)


def test_whitening_a_single_token_gives_zero_rather_than_infinity():
    assert whiten(torch.tensor([[3.0]]), torch.tensor([[True]])).tolist() == [[0.0]]


def test_shapes_that_would_broadcast_silently_are_refused():
    with pytest.raises(ValueError, match="expected equal shapes"):
        generalised_advantages(torch.zeros(2, 3), torch.zeros(2, 1), torch.ones(2, 3, dtype=torch.bool))


def test_a_gap_in_the_mask_carries_advantages_across_and_damps_nothing():
    """The user's turn between two of the policy's: as if it were not there, whatever stands in it."""
    rewards, values, mask = rewards_and_values()
    plain = generalised_advantages(rewards, values, mask)[0]
    with_gap = generalised_advantages(
        torch.tensor([[rewards[0, 0], 7.0, -3.0, rewards[0, 1], rewards[0, 2]]], dtype=torch.float64),
        torch.tensor([[values[0, 0], 50.0, 60.0, values[0, 1], values[0, 2]]], dtype=torch.float64),
        torch.tensor([[True, False, False, True, True]]),
    )[0]
    assert with_gap[[0, 3, 4]].equal(plain)
    assert with_gap[[1, 2]].eq(0).all()


def test_the_score_of_a_response_with_gaps_sits_on_its_last_own_token():
    mask = torch.tensor([[True, False, True, False]])
    assert scores_at_the_end(torch.tensor([2.0]), mask).tolist() == [[0, 0, 2, 0]]


def test_lambda_1_without_values_is_the_reward_to_go():
    rewards, values, mask = rewards_and_values()
    to_go = generalised_advantages(rewards, 0 * values, mask, gae_lambda=1.0)
    assert to_go[0].tolist() == pytest.approx([0.96, 0.99, 0.98])
