"""Judged prompts as tokens, and how they go into batches: what reward models and preference losses learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from plaudit.progress import say
from plaudit.records import Comparison
from plaudit.text.batches import by_token_budget, packed_size
from plaudit.text.chat import TokenSequence


class PairJudgment(NamedTuple):
    """Which of two responses of a prompt is better.

    first, second   their places among the prompt's responses
    preference      for the first: 1, 0, 0.5 for a tie, or between where somebody is unsure or several differ
    grade           how much better, 1 to 4; None where nobody said
    ranking         of a pair that is part of a ranking: which one
    criterion       what was asked; empty for which is better altogether
    """

    first: int
    second: int
    preference: float
    grade: float | None = None
    ranking: str | None = None
    criterion: str = ""


class Rating(NamedTuple):
    """How good a response is by itself: its place among the prompt's responses, the number, and what was asked."""

    response: int
    value: float
    criterion: str


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt's responses as tokens, and every judgment between two of them.

    comparisons   what the judgments were made of; one each, unless several annotators' became one
    safe          of each response whether it was labelled safe; None where nobody said
    ratings       where it is those that are learnt from: the judgments then say what they say of pairs
    """

    prompt_id: str
    response_ids: list[str]
    sequences: list[TokenSequence]
    judgments: list[PairJudgment]
    comparisons: list[Comparison]
    safe: tuple[bool | None, ...] = ()
    ratings: tuple[Rating, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence) for sequence in self.sequences)


@dataclass(frozen=True)
class LabelledResponse:
    """One response that somebody liked or did not; of a comparison each side is one."""

    prompt_id: str
    response_id: str
    sequence: TokenSequence
    desirable: bool


def prompt_groups(batch: Sequence[JudgedPrompt], budget: int) -> list[list[JudgedPrompt]]:
    """Groups of whole prompts, since a judgment needs both of its responses in one graph."""
    costs, lengths = [packed_size(p.sequences) for p in batch], [p.longest for p in batch]
    return [[batch[i] for i in group] for group in by_token_budget(costs, budget, lengths=lengths)]


def side_by_side(group: Sequence[JudgedPrompt], device: torch.device | str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All judgments of a group of prompts whose responses stand in one batch, prompt by prompt.

    Returns ([N] row of the first, [N] row of the second, [N] preference for the first, [N] which prompt).
    """
    first, second, preference, prompt, start = [], [], [], [], 0
    for number, item in enumerate(group):
        for judgment in item.judgments:
            first.append(start + judgment.first)
            second.append(start + judgment.second)
            preference.append(judgment.preference)
            prompt.append(number)
        start += len(item.sequences)
    return (
        torch.tensor(first, device=device, dtype=torch.long),
        torch.tensor(second, device=device, dtype=torch.long),
        torch.tensor(preference, device=device),
        torch.tensor(prompt, device=device, dtype=torch.long),
    )


def without_ties(prompts: Sequence[JudgedPrompt]) -> list[JudgedPrompt]:
    """A tie has no chosen side: left out, counted and said."""
    ties = sum(judgment.preference == 0.5 for prompt in prompts for judgment in prompt.judgments)
    if ties:
        say(f"{ties} comparisons are ties: left out.")
    kept = []
    for prompt in prompts:
        decided = [(j, c) for j, c in zip(prompt.judgments, prompt.comparisons, strict=True) if j.preference != 0.5]
        if decided:
            judgments, comparisons = zip(*decided, strict=True)
            kept.append(replace(prompt, judgments=list(judgments), comparisons=list(comparisons)))
    return kept
