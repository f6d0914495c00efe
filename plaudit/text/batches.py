"""Batches by token budget: sequences of like length together, padded on the right.

B sequences, L positions (the longest prompt and response), T response tokens (the longest response).
Under causal attention a token never sees what stands to its right, so right padding needs no attention
mask and its content cannot matter.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plaudit.text.chat import TokenSequence


@dataclass(frozen=True)
class TokenBatch:
    """Sequences on one device.

    input_ids        [B, L]  prompt, response, padding
    prompt_lengths   [B]     tokens
    response_lengths [B]     tokens
    """

    input_ids: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor

    @property
    def response_mask(self) -> Tensor:
        """[B, T] bool: true on the response's tokens, its stop token included."""
        steps = torch.arange(int(self.response_lengths.max()), device=self.input_ids.device)
        return steps < self.response_lengths[:, None]

    @property
    def predicting_positions(self) -> tuple[Tensor, Tensor]:
        """([N], [N]) row and position of the states that predict each of the N response tokens, row by row.

        The state at position p-1 predicts the token at p.
        """
        rows, steps = self.response_mask.nonzero(as_tuple=True)
        return rows, self.prompt_lengths[rows] - 1 + steps

    @property
    def response_ids(self) -> Tensor:
        """[N] the response tokens, row by row."""
        rows, positions = self.predicting_positions
        return self.input_ids[rows, positions + 1]

    def to_grid(self, values: Tensor) -> Tensor:
        """[N] values of response tokens -> [B, T], zero on padding."""
        mask = self.response_mask
        return values.new_zeros(mask.shape).masked_scatter(mask, values)


def collate(sequences: Sequence[TokenSequence], *, pad_id: int = 0, device: torch.device | str = "cpu") -> TokenBatch:
    """Pad sequences on the right to one length."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence.prompt_ids + sequence.response_ids)
    return TokenBatch(
        ids.to(device),
        torch.tensor([len(s.prompt_ids) for s in sequences], device=device),
        torch.tensor([len(s.response_ids) for s in sequences], device=device),
    )


def by_token_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split indices into groups of like length whose padded size (rows x longest) is within the budget.

    A single sequence over the budget gets a group of its own. Depends on the lengths alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    groups: list[list[int]] = []
    for index in order:
        # sorted ascending: the newcomer is the longest, and decides the padded length of the group
        if groups and (len(groups[-1]) + 1) * lengths[index] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def micro_batches(
    sequences: Sequence[TokenSequence], budget: int, device: torch.device | str
) -> Iterator[tuple[list[int], TokenBatch]]:
    """(indices, batch) groups of like length within a token budget. Every sequence exactly once."""
    for group in by_token_budget([len(sequence) for sequence in sequences], budget):
        yield group, collate([sequences[i] for i in group], device=device)


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
