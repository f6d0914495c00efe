"""Batches by token budget, packed: the tokens of all sequences in one row, without padding.

B sequences of at most L tokens, N tokens altogether, T response tokens (the longest response). A prompt that
several neighbouring sequences begin with stands in the row once, and is computed once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plaudit.text.chat import TokenSequence
from plaudit.text.rows import AttentionRows, attention_rows


@dataclass(frozen=True)
class TokenBatch:
    """Sequences on one device.

    token_ids        [N]     the packed row
    positions        [N]     of each token in its sequence
    places           [B, L]  where each sequence's tokens are in the packed row, prompt then response; 0 past its end
    prompt_lengths   [B]     tokens
    response_lengths [B]     tokens
    rows                     for attention
    """

    token_ids: Tensor
    positions: Tensor
    places: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    rows: AttentionRows

    @property
    def padded_ids(self) -> Tensor:
        """[B, L] the sequences one below the other, anything past their ends.

        Under causal attention a token never sees what stands to its right, so this needs no mask.
        """
        return self.token_ids[self.places]

    @property
    def response_mask(self) -> Tensor:
        """[B, T] bool: true on the response's tokens, its stop token included."""
        steps = torch.arange(int(self.response_lengths.max()), device=self.token_ids.device)
        return steps < self.response_lengths[:, None]

    @property
    def predicting_positions(self) -> tuple[Tensor, Tensor]:
        """([M], [M]) sequence and position of the states that predict each of the M response tokens, in order.

        The state at position p-1 predicts the token at p.
        """
        sequence, steps = self.response_mask.nonzero(as_tuple=True)
        return sequence, self.prompt_lengths[sequence] - 1 + steps

    @property
    def response_ids(self) -> Tensor:
        """[M] the response tokens, sequence by sequence."""
        sequence, positions = self.predicting_positions
        return self.token_ids[self.places[sequence, positions + 1]]

    def to_grid(self, values: Tensor) -> Tensor:
        """[M] values of response tokens -> [B, T], zero on padding."""
        mask = self.response_mask
        return values.new_zeros(mask.shape).masked_scatter(mask, values)


def collate(sequences: Sequence[TokenSequence], *, device: torch.device | str = "cpu") -> TokenBatch:
    """Pack sequences; neighbours with the same prompt share it."""
    ids: list[int] = []
    positions: list[int] = []
    places: list[list[int]] = []
    rows: list[tuple[list[int], list[int]]] = []  # (queries, keys)

    def add(tokens: list[int], after: int) -> list[int]:
        start = len(ids)
        ids.extend(tokens)
        positions.extend(range(after, after + len(tokens)))
        return list(range(start, len(ids)))

    for _, neighbours in groupby(sequences, key=lambda sequence: sequence.prompt_ids):
        together = list(neighbours)
        prompt = add(together[0].prompt_ids, 0)
        if len(together) > 1:
            rows.append((prompt, prompt))
        for sequence in together:
            response = add(sequence.response_ids, len(prompt))
            places.append(prompt + response)
            rows.append((response if len(together) > 1 else places[-1], places[-1]))
    shared = len(rows) > len(sequences)
    rows = [row for row in rows if row[0]]  # an empty prompt or response has nothing to look at

    return TokenBatch(
        token_ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        places=pad_sequence([torch.tensor(one) for one in places], batch_first=True).to(device),
        prompt_lengths=torch.tensor([len(s.prompt_ids) for s in sequences], device=device),
        response_lengths=torch.tensor([len(s.response_ids) for s in sequences], device=device),
        rows=attention_rows(rows, len(ids), shared=shared, device=device),
    )


def by_token_budget(costs: Sequence[int], budget: int, *, lengths: Sequence[int] | None = None) -> list[list[int]]:
    """Split indices into groups of like length whose costs sum to no more than the budget.

    costs    tokens that each adds to a batch
    lengths  what "like length" is; the costs where not given

    A single one over the budget gets a group of its own. Depends on the arguments alone.
    """
    by = costs if lengths is None else lengths
    groups: list[list[int]] = []
    spent = 0
    for index in sorted(range(len(costs)), key=lambda i: (by[i], i)):
        spent += costs[index]
        if groups and spent <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            spent = costs[index]
    return groups


def packed_size(sequences: Sequence[TokenSequence]) -> int:
    """Tokens that sequences with one prompt take in a batch."""
    return len(sequences[0].prompt_ids) + sum(len(sequence.response_ids) for sequence in sequences)


def micro_batches(
    sequences: Sequence[TokenSequence], budget: int, device: torch.device | str
) -> Iterator[tuple[list[int], TokenBatch]]:
    """(indices, batch) within a token budget, those of a prompt together if they fit. Every sequence exactly once."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, sequence in enumerate(sequences):
        by_prompt.setdefault(tuple(sequence.prompt_ids), []).append(index)
    pieces: list[list[int]] = []
    for prompt, indices in by_prompt.items():
        room = max(0, budget - len(prompt))
        split = by_token_budget([len(sequences[i].response_ids) for i in indices], room)
        pieces += [[indices[i] for i in part] for part in split]
    costs = [packed_size([sequences[i] for i in piece]) for piece in pieces]
    lengths = [max(len(sequences[i]) for i in piece) for piece in pieces]
    for group in by_token_budget(costs, budget, lengths=lengths):
        chosen = [i for number in group for i in pieces[number]]
        yield chosen, collate([sequences[i] for i in chosen], device=device)


def shuffled_batches(count: int, size: int, *, seed: str) -> list[list[int]]:
    """Indices 0..count-1 in an order drawn from the seed, cut into batches; the last may be smaller."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return [order[start : start + size] for start in range(0, count, size)]


def draw_without_replacement(count: int, size: int, step: int, *, seed: int) -> list[int]:
    """The indices of batch `step`: every index once before any twice. Depends on the arguments alone."""

    def stream() -> Iterator[int]:
        first_epoch = step * size // count
        skip = step * size - first_epoch * count
        epoch = first_epoch
        while True:
            order = list(range(count))
            random.Random(f"{seed}:{epoch}").shuffle(order)
            yield from order[skip:]
            skip, epoch = 0, epoch + 1

    indices = stream()
    return [next(indices) for _ in range(size)]
