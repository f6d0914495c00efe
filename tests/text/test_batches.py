import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plaudit.text.batches import (
    LEAST_SHARED,
    batches_by_weight,
    by_token_budget,
    collate,
    draw_without_replacement,
    micro_batches,
    shuffled_batches,
)
from plaudit.text.chat import TokenSequence
from plaudit.text.rows import blocks_of_like_size


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 200))
def test_every_sequence_is_in_exactly_one_group_within_the_budget(costs, budget):
    groups = by_token_budget(costs, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(costs)))
    for group in groups:
        assert len(group) == 1 or sum(costs[i] for i in group) <= budget


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30)), min_size=1, max_size=30),
    st.integers(1, 200),
)
def test_micro_batches_hold_every_sequence_once_and_share_prompts_within_the_budget(shape, budget):
    prompts = [[7] * 5, [8], [9, 9], [7] * 6, [], [7, 7, 8]]
    sequences = [TokenSequence(prompts[p], list(range(100, 100 + length))) for p, length in shape]
    seen = []
    for indices, batch in micro_batches(sequences, budget, "cpu"):
        chosen = [sequences[i] for i in indices]
        seen += indices
        keys_of = {}
        for block in batch.rows.blocks:
            for number, sees in enumerate(block.allowed()):
                for query in range(int(block.query_lengths[number])):
                    keys_of[int(block.queries[number, query])] = block.keys[number][sees[query]].tolist()
        different = {tuple(s.prompt_ids) for s in chosen}
        beginnings = {prompt[: end + 1] for prompt in different for end in range(len(prompt))}
        of_prompts = len(batch.token_ids) - sum(len(s.response_ids) for s in chosen)
        assert len(beginnings) <= of_prompts <= sum(map(len, different))
        assert len(batch.token_ids) <= budget or len(chosen) == 1
        assert batch.response_ids.tolist() == [t for s in chosen for t in s.response_ids]
        for row, sequence in enumerate(chosen):
            ids = batch.padded_ids[row, : len(sequence)].tolist()
            assert ids == sequence.prompt_ids + sequence.response_ids
            places = batch.places[row, : len(sequence)]
            assert batch.positions[places].tolist() == list(range(len(sequence)))
            for end, place in enumerate(places.tolist(), start=1):
                assert keys_of[place] == places[:end].tolist()
    assert sorted(seen) == list(range(len(sequences)))


@pytest.mark.parametrize("cost", [0, 1 << 30])
def test_each_token_sees_its_own_prompt_and_what_stands_before_it_in_its_response(cost, monkeypatch):
    monkeypatch.setattr("plaudit.text.rows.COST_OF_A_BLOCK", cost)
    sequences = [TokenSequence([1, 2], [3]), TokenSequence([1, 2], [4, 5]), TokenSequence([6], [7, 8])]
    batch = collate(sequences)
    assert batch.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert batch.rows.shared
    assert len(batch.rows.blocks) == (1 if cost else 4)

    def seen(window=None):
        sees, first = {}, 0
        for block in batch.rows.blocks:
            allowed = block.allowed(window)
            for row, places in enumerate(block.queries.tolist()):
                for query in range(int(block.query_lengths[row])):
                    assert int(batch.rows.owners[places[query]]) == first + row * len(places) + query
                    token = int(batch.token_ids[places[query]])
                    sees[token] = batch.token_ids[block.keys[row][allowed[row, query]]].tolist()
            first += block.queries.numel()
        return sees

    assert seen() == {1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [1, 2, 4], 5: [1, 2, 4, 5], 6: [6], 7: [6, 7], 8: [6, 7, 8]}
    assert seen(2) == {1: [1], 2: [1, 2], 3: [2, 3], 4: [2, 4], 5: [4, 5], 6: [6], 7: [6, 7], 8: [7, 8]}


def trunk(prompts, response, **options):
    """The packed row as text, and its rows of attention as (queries, keys)."""
    batch = collate([TokenSequence(list(prompt), list(response)) for prompt in prompts], **options)
    text = "".join(map(chr, batch.token_ids.tolist()))
    rows = []
    for block in batch.rows.blocks:
        for row in range(len(block.queries)):
            queries, keys = block.queries[row, : block.query_lengths[row]], block.keys[row, : block.key_lengths[row]]
            rows.append(tuple("".join(text[i] for i in places) for places in (queries, keys)))
    return text, sorted(rows)


def letters(*prompts):
    return [[ord(letter) for letter in prompt] for prompt in prompts]


DOT = (ord("."),)


def test_what_prompts_begin_with_stands_in_the_row_once_branch_by_branch():
    row, seen = trunk(letters("system:ask me", "system:tell", "system:ask us", "system:ask us", "other"), DOT)
    assert row == "system:ask me.us..tell.other."
    assert seen == sorted(
        [
            ("system:", "system:"),
            ("ask ", "system:ask "),
            ("me.", "system:ask me."),
            ("us", "system:ask us"),
            (".", "system:ask us."),
            (".", "system:ask us."),
            ("tell.", "system:tell."),
            ("other.", "other."),
        ]
    )


def test_a_prompt_that_another_begins_with_is_shared():
    row, seen = trunk(letters("one two", "one", "one"), DOT)
    assert row == "one two..."
    assert seen == [(" two.", "one two."), (".", "one."), (".", "one."), ("one", "one")]


def test_a_common_beginning_is_shared_where_it_saves_enough():
    long, responses = letters("ab" + 20 * "c", "ab" + 20 * "d"), 99 * DOT
    saved, tokens = 2, 2 * (22 + 99)
    assert saved / tokens < LEAST_SHARED
    assert len(trunk(long, responses)[0]) == tokens
    assert len(trunk(long, DOT)[0]) == 2 * 23 - saved


def test_what_a_branch_saves_is_of_its_own_tokens():
    """Within a long beginning, of what comes after it."""
    some = letters(200 * "a" + "bc", 200 * "a" + "bd", 200 * "a" + "e")
    assert 1 / (2 * (2 + 90)) < LEAST_SHARED < 1 / (2 * 2 + 1)
    assert trunk(some, 90 * DOT)[0].count("b") == 2
    assert trunk(some, ())[0].count("b") == 1


def by_masks(*prompts):
    """Tokens of the row on another device than a CPU."""
    return len(collate([TokenSequence(prompt, [1]) for prompt in letters(*prompts)], device="meta").token_ids)


def test_where_attention_needs_masks_for_it_a_beginning_has_to_save_much_of_the_batch(monkeypatch):
    fourteen = "abcd" + 10 * "e", "abcd" + 10 * "f"
    assert len(trunk(letters(*fourteen), DOT)[0]) == 2 * 15 - 4
    assert by_masks(*fourteen) == 2 * 15
    assert by_masks(20 * "a" + "b", 20 * "a" + "c") == 2 * 22 - 20
    few_of_many = 20 * "a" + "b", 20 * "a" + "c", *(letter * 20 for letter in "defgh")
    assert by_masks(*few_of_many) == 2 * 22 + 5 * 21
    assert by_masks(*fourteen, "abcdgg", "abcdgg") == 4 + 2 * 11 + 2 + 2 * 1  # equal prompts need masks anyway
    monkeypatch.setattr("plaudit.text.batches.LONGEST", 14)
    assert len(trunk(letters(*fourteen), DOT)[0]) == 2 * 15


def test_rows_are_split_into_the_blocks_that_cost_least(monkeypatch):
    """Against every split of the rows in order of their keys."""
    monkeypatch.setattr("plaudit.text.rows.COST_OF_A_BLOCK", 40)
    sizes = [(3, 9), (1, 2), (9, 9), (2, 2), (20, 20), (4, 19), (1, 30)]

    def cost(blocks):
        return sum(40 + len(b) * max(sizes[i][0] for i in b) * max(sizes[i][1] for i in b) for b in blocks)

    order = sorted(range(len(sizes)), key=lambda i: (sizes[i][1], sizes[i][0]))
    splits = []
    for cuts in itertools.product([False, True], repeat=len(sizes) - 1):
        blocks = [[order[0]]]
        for index, cut in zip(order[1:], cuts, strict=True):
            blocks.append([index]) if cut else blocks[-1].append(index)
        splits.append(blocks)
    found = blocks_of_like_size(sizes)
    assert sorted(i for block in found for i in block) == list(range(len(sizes)))
    assert cost(found) == min(map(cost, splits)) < min(cost([order]), cost([[i] for i in order]))


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


def test_batches_by_weight_are_the_shuffled_ones_where_nothing_is_too_heavy():
    weights = [1] * 23
    for most in (None, 4):
        assert batches_by_weight(weights, 4, most, seed="s") == shuffled_batches(23, 4, seed="s")


def test_batches_by_weight_end_before_they_are_too_heavy():
    weights = [5, 1, 9, 2, 2, 7, 30, 1, 1, 3]
    batches = batches_by_weight(weights, 4, 10, seed="s")
    assert [i for batch in batches for i in batch] == shuffled_batches(10, 10, seed="s")[0]
    for batch, following in itertools.pairwise(batches):
        total = sum(weights[i] for i in batch)
        assert total <= 10 or len(batch) == 1
        assert len(batch) == 4 or total + weights[following[0]] > 10
    assert batches_by_weight([], 4, 10, seed="s") == []
