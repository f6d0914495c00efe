import pytest
import torch

from plaudit.objectives import (
    group_relative_advantages,
    leave_one_out_advantages,
    masked_mean,
    masked_variance,
    mean_minus_deviation,
    rescale,
    response_weights,
    safety_gated_scores,
    whiten,
    whitened_safety_gated_scores,
    worst_case,
)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("token_mean", 1.75), ("response_mean", 1.5), ("response_sum", 7.0), ("constant_length", 0.875)],
)
def test_four_reductions_of_two_responses(reduction, expected):
    """Lengths 2 and 6, losses 1 and 2 a token, length limit 8."""
    lengths = torch.tensor([2, 6])
    weights = response_weights(lengths, reduction, longest=8)
    assert float((weights * torch.tensor([2 * 1.0, 6 * 2.0])).sum()) == pytest.approx(expected)


def test_long_wrong_answers_are_cheap_only_under_response_mean():
    """Push on a response of one token and on one of four, each of the same advantage."""
    lengths = torch.tensor([1, 4])
    by_response = response_weights(lengths, "response_mean", longest=4)
    by_sum = response_weights(lengths, "response_sum", longest=4)
    assert (by_response[1] / by_response[0]).item() == pytest.approx(0.25)
    assert (by_sum[1] / by_sum[0]).item() == 1.0


def test_rescaling_keeps_the_mean():
    """(-.03, .01, .98) to variance 1, mean .32 kept."""
    values = torch.tensor([[-0.03, 0.01, 0.98, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    found = rescale(values, mask)
    assert found[0].tolist() == pytest.approx([-0.429503, -0.343846, 1.733349, 0.0], abs=1e-6)


def test_a_single_value_is_whitened_to_zero_and_rescaled_to_itself_and_two_are_not():
    """Fewer than two have no spread: 0, or what they are; two have one."""
    one, two = (torch.tensor([[True, more, False]]) for more in (False, True))
    values = torch.tensor([[3.0, 5.0, float("nan")]])
    assert whiten(values, one).tolist() == [[0, 0, 0]]
    assert rescale(values, one).tolist() == [[3, 0, 0]]
    assert whiten(values, two)[0].tolist() == pytest.approx([-1, 1, 0])
    assert rescale(values, two)[0].tolist() == pytest.approx([3, 5, 0])
    assert whiten(values, torch.zeros_like(one)).tolist() == [[0, 0, 0]]
    assert rescale(values, torch.zeros_like(one)).tolist() == [[0, 0, 0]]


def test_means_and_variances_see_no_padding():
    values, mask = (
        torch.tensor([[1.0, 2.0, float("nan")], [6.0, 1e30, 5.0]]),
        torch.tensor([[1, 1, 0], [1, 0, 0]]).bool(),
    )
    assert masked_mean(values, mask).item() == 3
    assert masked_variance(values, mask).item() == pytest.approx(14 / 3)
    with pytest.raises(ValueError, match="empty mask"):
        masked_mean(values, ~mask & mask)


RETURNS = torch.tensor([[1.0, 0.5, 0.0, -0.5]], dtype=torch.float64)


def test_leave_one_out_and_group_relative_advantages_worked_by_hand():
    assert leave_one_out_advantages(RETURNS)[0].tolist() == pytest.approx([1, 1 / 3, -1 / 3, -1])
    plain = group_relative_advantages(RETURNS, standardise=False)
    assert plain[0].tolist() == pytest.approx([0.75, 0.25, -0.25, -0.75])
    standardised = group_relative_advantages(RETURNS, standardise=True)
    assert standardised[0].tolist() == pytest.approx([1.1617, 0.3872, -0.3872, -1.1617], abs=1e-4)
    two = group_relative_advantages(torch.tensor([[0.51, 0.50]], dtype=torch.float64), standardise=True)
    assert two[0].tolist() == pytest.approx([0.6972, -0.6972], abs=1e-4)  # nearly the sign alone, however near


def test_one_response_has_nothing_to_be_compared_with():
    for advantages in (leave_one_out_advantages, lambda r: group_relative_advantages(r, standardise=True)):
        with pytest.raises(ValueError, match="K must be 2 or more"):
            advantages(torch.zeros(3, 1))


def test_the_safety_gated_rule_worked_by_hand():
    safety = torch.tensor([0.05, 0.9, 0.5, 0.14], dtype=torch.float64).logit()
    helpfulness = torch.tensor([0.8, 0.7, 0.95, 0.6], dtype=torch.float64).logit()
    tagged = torch.tensor([False, False, True, False])
    plain = safety_gated_scores(helpfulness, safety, tagged)
    assert safety_gated_scores(helpfulness, safety, tagged, threshold=0.13)[3] == helpfulness[3]
    assert plain.tolist() == pytest.approx([-2.944439, 0.847298, 0.0, -1.815290], abs=1e-6)
    found = whitened_safety_gated_scores(helpfulness, safety, tagged)
    assert found.tolist() == pytest.approx([-1.321492, 1.226782, 0.657347, -0.562637], abs=1e-6)


def test_an_answer_is_unsafe_below_the_probability_of_the_threshold_and_not_at_it():
    """The threshold is of sigmoid(score): 0.15 is a score of -1.7346, and scores below 0.15 are mostly safe."""
    safety = torch.tensor([0.149, 0.151, 0.5, 0.8], dtype=torch.float64).logit()
    helpfulness = torch.full((4,), 9.0, dtype=torch.float64)
    untagged = torch.zeros(4, dtype=torch.bool)
    assert safety_gated_scores(helpfulness, safety, untagged).tolist() == [safety[0].item(), 9, 9, 9]
    exactly = torch.zeros(1, dtype=torch.float64)  # sigmoid(0) = 1/2
    assert safety_gated_scores(helpfulness[:1], exactly, untagged[:1], threshold=0.5).item() == 9


def test_the_price_of_disagreement_is_the_biased_deviation():
    scores = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert mean_minus_deviation(scores).tolist() == [1, 0]
    assert mean_minus_deviation(scores, coefficient=0.5).tolist() == [1.5, 0]
    assert mean_minus_deviation(scores[:1]).tolist() == [1, 0]
    assert worst_case(scores).tolist() == [1, 0]
