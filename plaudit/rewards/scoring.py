"""Numbers for answers: from a reward model, a function of yours, or several scorers at once.

B answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from plaudit.errors import ModelError
from plaudit.functions import UserFunction
from plaudit.models.loading import LoadedModel
from plaudit.objectives import mean_minus_deviation, safety_gated_scores, whitened_safety_gated_scores, worst_case
from plaudit.records import Message
from plaudit.text.batches import micro_batches
from plaudit.text.chat import TokenSequence


@dataclass(frozen=True)
class Answered:
    """A conversation and the answer to it that is to be scored.

    conversation  messages up to and without the answer
    sequence      the same as ids: what the model saw, and what it gave
    text          the answer, without its stop token
    finished      whether it ended by itself
    source        where the prompt came from, as imported
    """

    conversation: list[Message]
    sequence: TokenSequence
    text: str
    finished: bool
    source: str = ""


class Scorer(Protocol):
    """Gives [B] scores, float32 on the CPU."""

    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """[B]."""
        ...


@dataclass
class RewardModelScores:
    """A reward model's scores of the very ids that were sampled, by all its heads.

    They are computed once for all that ask about the same answers, one head each.

    tokens_per_micro_batch   bounds memory
    """

    model: LoadedModel
    tokens_per_micro_batch: int
    _last: tuple[Sequence[Answered], Tensor] | None = None

    @torch.no_grad()
    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """[B] raw scores, or [B, C] of several heads. Raises ModelError unless they are finite."""
        if self._last is not None and self._last[0] is answers:
            return self._last[1]
        form, network, heads = self.model.format, self.model.network, self.model.scores.heads
        sequences = [
            TokenSequence(a.sequence.prompt_ids, form.scored_ids(a.sequence.response_ids, finished=a.finished))
            for a in answers
        ]
        scores = torch.zeros((len(answers), len(heads)) if heads else len(answers))
        for rows, batch in micro_batches(sequences, self.tokens_per_micro_batch, network.device):
            scores[rows] = network.scores(batch).float().cpu()
        if not scores.isfinite().all():
            raise ModelError(f"the reward model {self.model.source} gives scores that are not finite.")
        self._last = answers, scores
        return scores


@dataclass(frozen=True)
class RewardModelScorer:
    """One head of a reward model, or the mean over an ensemble's.

    normalise   shift and scale by the mean and deviation on its training responses
    head        None for the only one, or for the mean
    """

    scores: RewardModelScores
    normalise: bool
    head: str | None = None

    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """Raw scores minus mean over deviation, or raw."""
        facts = self.scores.model.scores
        scores = self.scores(answers)
        if self.normalise:
            scores = facts.normalised(scores)
        if not facts.heads:
            return scores
        return scores.mean(dim=1) if self.head is None else scores[:, facts.heads.index(self.head)]


@dataclass(frozen=True)
class FunctionScorer:
    """A Python callable f(prompts, responses) -> scores, its answer checked.

    It is called with a list of conversations (each a list of {"role", "content"}) and a list of answer texts of
    the same length, and must return as many finite numbers.
    """

    function: UserFunction

    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """[B]. Raises DataError, naming the prompt and the value, unless it returns one finite number an answer."""
        prompts, responses = [a.conversation for a in answers], [a.text for a in answers]
        found = self.function.numbers(
            prompts,
            responses,
            each="responses",
            shown=lambda row: f"prompt {prompts[row][-1]['content'][:60]!r} and response {responses[row][:60]!r}",
        )
        return torch.tensor(found, dtype=torch.float32)


@dataclass(frozen=True)
class WeightedSum:
    """sum over scorers of weight * score."""

    parts: list[tuple[float, Scorer]]

    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """[B]."""
        return torch.stack([weight * scorer(answers) for weight, scorer in self.parts]).sum(dim=0)


@dataclass(frozen=True)
class Ensemble:
    """Several models of one reward as one that is careful where they disagree.

    disagreement   what a standard deviation costs; None for the least of the scores
    """

    parts: list[tuple[float, Scorer]]
    disagreement: float | None

    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """[B]."""
        scores = torch.stack([weight * scorer(answers) for weight, scorer in self.parts])  # [k, B]
        if self.disagreement is None:
            return worst_case(scores)
        return mean_minus_deviation(scores, coefficient=self.disagreement)


@dataclass(frozen=True)
class SafetyGated:
    """Llama 2's rule over a helpfulness and a safety model; see `plaudit.objectives.safety_gated_scores`."""

    helpfulness: Scorer
    safety: Scorer
    threshold: float
    sources: frozenset[str]
    whitened: bool

    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """[B]; whitened to mean 0 and variance 1 over these answers, or comparable between calls."""
        tagged = torch.tensor([a.source in self.sources for a in answers])
        rule = whitened_safety_gated_scores if self.whitened else safety_gated_scores
        return rule(self.helpfulness(answers), self.safety(answers), tagged, threshold=self.threshold)
