"""Batches by token budget, packed: the tokens of all sequences in one row, without padding.

B sequences of at most L tokens, N tokens altogether, T response tokens (the longest response). What several prompts
begin with, a system message or all of a prompt, stands in the row once, and is computed once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plaudit.text.chat import TokenSequence
from plaudit.text.rows import LONGEST, AttentionRows, attention_rows

LEAST_SHARED = 1 / 100
"""Share of the tokens of several sequences that a common beginning must save; prompts that are equal are shared
anyway."""
LEAST_FOR_MASKS = 1 / 4
"""Share of a batch's tokens, where attention needs masks for that alone: PyTorch's takes longer by them."""


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
    """Pack sequences. What their prompts begin with in common stands in the row once, where that pays."""
    trunk = _Trunk(sequences, LEAST_SHARED)
    if torch.device(device).type != "cpu" or max(map(len, sequences)) > LONGEST:
        plain = _Trunk(sequences, math.inf)
        if not plain.shares and len(trunk.ids) > (1 - LEAST_FOR_MASKS) * len(plain.ids):
            trunk = plain
    places = [torch.tensor(trunk.places[i]) for i in range(len(sequences))]
    return TokenBatch(
        token_ids=torch.tensor(trunk.ids, device=device),
        positions=torch.tensor(trunk.positions, device=device),
        places=pad_sequence(places, batch_first=True).to(device),
        prompt_lengths=torch.tensor([len(s.prompt_ids) for s in sequences], device=device),
        response_lengths=torch.tensor([len(s.response_ids) for s in sequences], device=device),
        rows=attention_rows(trunk.rows, len(trunk.ids), shared=trunk.shares, device=device),
    )


class _Trunk:
    """A packed row in which prompts branch where they differ.

    ids, positions  [N]
    places          of each sequence's tokens
    rows            (queries, keys) for attention
    """

    def __init__(self, sequences: Sequence[TokenSequence], least: float):
        """Groups with what saves at least this part of the tokens that it is common to, and with prompts that are
        equal."""
        self.sequences, self.least = sequences, least
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.places: dict[int, list[int]] = {}
        self.rows: list[tuple[list[int], list[int]]] = []
        self._lay(list(range(len(sequences))), [])

    @property
    def shares(self) -> bool:
        """Whether a token is a key of several rows."""
        return any(len(queries) < len(keys) for queries, keys in self.rows)

    def _lay(self, members: list[int], before: list[int]) -> None:
        """Put these sequences into the row; the prompts of all of them begin with the tokens at `before`."""
        given = {i: self.sequences[i].prompt_ids for i in members}
        first, last = min(given.values()), max(given.values())  # whatever these agree in, those between do too
        common = next((k for k, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
        equal = first == last
        saved = (common - len(before)) * (len(members) - 1)
        tokens = sum(len(self.sequences[i]) - len(before) for i in members)
        if len(members) > 1 and (equal or saved >= self.least * tokens):
            before = self._add(first[len(before) : common], before)
        if equal:
            for i in members:
                sequence = self.sequences[i]
                self.places[i] = self._add((sequence.prompt_ids + sequence.response_ids)[len(before) :], before)
            return
        branches: dict[int | None, list[int]] = {}
        for i, prompt in given.items():
            branches.setdefault(prompt[common] if len(prompt) > common else None, []).append(i)
        for branch in branches.values():
            self._lay(branch, before)

    def _add(self, tokens: list[int], before: list[int]) -> list[int]:
        """Places of tokens that stand behind others, with theirs."""
        own = list(range(len(self.ids), len(self.ids) + len(tokens)))
        self.ids += tokens
        self.positions += range(len(before), len(before) + len(tokens))
        if own:  # an empty prompt or response has nothing to look at
            self.rows.append((own, before + own))
        return before + own


def by_token_budget(costs: Sequence[int], budget: int, *, lengths: Sequence[int] | None = None) -> list[list[int]]:
    """Split indices into groups of like length whose costs sum to no more than the budget.

    costs    tokens that each adds to a batch, at most
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
    """Tokens that sequences with one prompt take in a batch, at most."""
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


def batches_by_weight(weights: Sequence[int], size: int, most: int | None, *, seed: str) -> list[list[int]]:
    """Batches as by `shuffled_batches`, with a batch also ended before its weights would be more than `most` together.

    weights   of each index; one that is heavier alone has a batch for itself
    most      None for no bound
    """
    (order,) = shuffled_batches(len(weights), len(weights), seed=seed) if weights else ([],)
    batches: list[list[int]] = []
    total = 0
    for index in order:
        total += weights[index]
        if not batches or len(batches[-1]) == size or (most is not None and total > most):
            batches.append([])
            total = weights[index]
        batches[-1].append(index)
    return batches


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
