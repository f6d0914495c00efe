"""What attends to what in a packed row of tokens: rows of queries and keys, in blocks of like size.

N tokens altogether; a block has A rows of at most Q queries, each of which sees at most S keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

LONGEST = 1024
"""Keys of a batch's longest row up to which attention on a CPU is ours; beyond, without a tile unit, PyTorch's is."""
COST_OF_A_BLOCK = 20_000
"""Scores that take as long to compute as the calls that one more block needs; measured on a CPU."""


@dataclass(frozen=True)
class RowBlock:
    """Rows that are computed side by side, padded to the longest.

    queries, keys                [A, Q], [A, S]  places in the packed row; 0 past the end
    query_lengths, key_lengths   [A]
    """

    queries: Tensor
    keys: Tensor
    query_lengths: Tensor
    key_lengths: Tensor

    def allowed(self, window: int | None = None) -> Tensor:
        """[A, Q, S] bool: keys that stand at or before the query, and within the sliding window where there is one."""
        steps = torch.arange(self.queries.shape[1], device=self.queries.device)
        at = (self.key_lengths - self.query_lengths)[:, None, None] + steps[:, None]  # [A, Q, 1] place in its row
        key = torch.arange(self.keys.shape[1], device=self.queries.device)  # [S]
        seen = key <= at
        return seen if window is None else seen & (key > at - window)


@dataclass(frozen=True)
class AttentionRows:
    """Which tokens of a packed row attend to which: queries are the last tokens of a row, keys all of them.

    A sequence by itself is one row. What several sequences begin with is a row for itself, and what follows in each of
    them is one whose keys are the tokens before it and its own.

    blocks   rows of like size, those of fewest keys first
    owners   [N]  where each token is among the queries of all blocks, A * Q of each, one block after the other
    shared   whether some token is a key of several rows
    """

    blocks: tuple[RowBlock, ...]
    owners: Tensor
    shared: bool


def attention_rows(
    rows: Sequence[tuple[list[int], list[int]]], tokens: int, *, shared: bool, device: torch.device | str
) -> AttentionRows:
    """From (queries, keys) of each row, places in a packed row of so many tokens; each token is one row's query."""
    blocks = []
    owners = torch.empty(tokens, dtype=torch.long)
    begin = 0
    for members in blocks_of_like_size([(len(queries), len(keys)) for queries, keys in rows]):
        queries, keys = [rows[i][0] for i in members], [rows[i][1] for i in members]
        width = max(map(len, queries))
        for number, places in enumerate(queries):
            first = begin + number * width
            owners[places] = torch.arange(first, first + len(places))
        begin += len(members) * width
        blocks.append(
            RowBlock(_padded(queries, device), _padded(keys, device), _lengths(queries, device), _lengths(keys, device))
        )
    return AttentionRows(tuple(blocks), owners.to(device), shared)


def blocks_of_like_size(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Split rows so that the scores of all blocks, padding included, and the calls for them cost least.

    sizes   (queries, keys) of each row

    Returns indices, the rows with fewest keys first. Exact among the splits of that order.
    """
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i][1], sizes[i][0], i))
    queries = numpy.array([sizes[i][0] for i in order])
    keys = numpy.array([sizes[i][1] for i in order])
    least = numpy.zeros(len(order) + 1)  # of the first so many rows
    begins = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        longest = numpy.maximum.accumulate(queries[:end][::-1])[::-1]  # queries of a block from each begin to here
        rows = numpy.arange(end, 0, -1)
        costs = least[:end] + COST_OF_A_BLOCK + rows * longest * keys[end - 1]
        begins[end] = int(costs.argmin())
        least[end] = costs[begins[end]]
    blocks = []
    end = len(order)
    while end:
        blocks.append(order[begins[end] : end])
        end = begins[end]
    return blocks[::-1]


def _padded(lists: Sequence[list[int]], device: torch.device | str) -> Tensor:
    return pad_sequence([torch.tensor(one) for one in lists], batch_first=True).to(device)


def _lengths(lists: Sequence[list[int]], device: torch.device | str) -> Tensor:
    return torch.tensor([len(one) for one in lists], device=device)
