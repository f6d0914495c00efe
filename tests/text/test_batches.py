import torch
from hypothesis import given
from hypothesis import strategies as st

from plaudit.text.batches import (
    by_token_budget,
    collate,
    draw_without_replacement,
    micro_batches,
    shuffled_batches,
)
from plaudit.text.chat import TokenSequence


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 200))
def test_every_sequence_is_in_exactly_one_group_within_the_budget(costs, budget):
    groups = by_token_budget(costs, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(costs)))
    for group in groups:
        assert len(group) == 1 or sum(costs[i] for i in group) <= budget


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=1, max_size=30),
    st.integers(1, 200),
)
def test_micro_batches_hold_every_sequence_once_and_share_prompts_within_the_budget(shape, budget):
    prompts = [[7] * 5, [8], [9, 9], [7] * 6]
    sequences = [TokenSequence(prompts[p], list(range(100, 100 + length))) for p, length in shape]
    seen = []
    for indices, batch in micro_batches(sequences, budget, "cpu"):
        chosen = [sequences[i] for i in indices]
        seen += indices
        different = {tuple(s.prompt_ids) for s in chosen}
        assert len(batch.token_ids) == sum(map(len, different)) + sum(len(s.response_ids) for s in chosen)
        assert len(batch.token_ids) <= budget or len(chosen) == 1
        assert batch.response_ids.tolist() == [t for s in chosen for t in s.response_ids]
        for row, sequence in enumerate(chosen):
            ids = batch.padded_ids[row, : len(sequence)].tolist()
            assert ids == sequence.prompt_ids + sequence.response_ids
            places = batch.places[row, : len(sequence)]
            assert batch.positions[places].tolist() == list(range(len(sequence)))
    assert sorted(seen) == list(range(len(sequences)))


def test_each_token_sees_its_own_prompt_and_what_stands_before_it_in_its_response():
    sequences = [TokenSequence([1, 2], [3]), TokenSequence([1, 2], [4, 5]), TokenSequence([6], [7, 8])]
    batch = collate(sequences)
    assert batch.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    rows = batch.rows
    assert rows.shared
    allowed = rows.allowed()
    sees = {}
    for place, token in enumerate(batch.token_ids.tolist()):
        row, query = divmod(int(rows.owners[place]), rows.queries.shape[1])
        assert int(rows.queries[row, query]) == place
        keys = rows.keys[row][allowed[row, query][: rows.keys.shape[1]]]
        sees[token] = batch.token_ids[keys].tolist()
    assert sees == {1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [1, 2, 4], 5: [1, 2, 4, 5], 6: [6], 7: [6, 7], 8: [6, 7, 8]}
    nearest = rows.allowed(window=2)
    row, query = divmod(int(rows.owners[4]), rows.queries.shape[1])
    assert batch.token_ids[rows.keys[row][nearest[row, query]]].tolist() == [4, 5]


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
