import torch
from hypothesis import given
from hypothesis import strategies as st

from plaudit.text.batches import by_token_budget, collate, draw_without_replacement, shuffled_batches
from plaudit.text.chat import TokenSequence


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 200))
def test_every_sequence_is_in_exactly_one_group_within_the_budget(lengths, budget):
    groups = by_token_budget(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 5))
def test_no_index_is_drawn_twice_before_all_were_drawn_once(count, size, seed):
    drawn = [i for step in range(6) for i in draw_without_replacement(count, size, step, seed=seed)]
    for start in range(0, len(drawn) - count + 1, count):
        assert sorted(drawn[start : start + count]) == list(range(count))


def test_shuffled_batches_cover_everything_and_depend_on_the_seed():
    one, other = shuffled_batches(10, 4, seed="a"), shuffled_batches(10, 4, seed="b")
    assert [len(b) for b in one] == [4, 4, 2]
    assert sorted(i for b in one for i in b) == list(range(10))
    assert one == shuffled_batches(10, 4, seed="a") != other


def test_predicting_positions_are_one_before_the_tokens_they_predict():
    batch = collate([TokenSequence([5, 6, 7], [8, 9]), TokenSequence([3], [4])])
    rows, positions = batch.predicting_positions
    assert rows.tolist() == [0, 0, 1]
    assert positions.tolist() == [2, 3, 0]
    assert batch.response_ids.tolist() == [8, 9, 4]
    assert batch.to_grid(torch.tensor([1.0, 2.0, 3.0])).tolist() == [[1, 2], [3, 0]]
