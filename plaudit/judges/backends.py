"""Models that can be asked: one in this process. (Endpoints are in `endpoint`.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from plaudit.errors import DataError, ModelError
from plaudit.models.loading import LoadedModel
from plaudit.records import Message
from plaudit.sampling.in_process import sample
from plaudit.text.batches import micro_batches
from plaudit.text.chat import TokenSequence


class Backend(Protocol):
    """Answers questions, each on its own. None stands for what could not be had: too long, refused, or given up."""

    def choose(
        self, questions: Sequence[list[Message]], labels: Sequence[str], *, seed: int = 0
    ) -> list[tuple[float, ...] | None]:
        """The probability of each label, among themselves, as the next thing to say."""
        ...

    def say(
        self, questions: Sequence[list[Message]], *, max_tokens: int, temperature: float, seed: int
    ) -> list[str | None]:
        """An answer in words; the likeliest at temperature 0."""
        ...


class LocalBackend:
    """A model in this process, whose probabilities of labels are exact."""

    def __init__(self, model: LoadedModel, tokens_per_micro_batch: int):
        self._model = model
        self._budget = tokens_per_micro_batch

    @torch.no_grad()
    def choose(
        self, questions: Sequence[list[Message]], labels: Sequence[str], *, seed: int = 0
    ) -> list[tuple[float, ...] | None]:
        """Choose by the logits at the place where the answer begins. Raises ModelError if a label is no single
        token."""
        ids = [self._token(label) for label in labels]
        prompts = self._encoded(questions, room=1)
        fitting = [place for place, prompt in enumerate(prompts) if prompt is not None]
        sequences = [TokenSequence(prompts[place] or [], [ids[0]]) for place in fitting]
        network = self._model.network
        found: list[tuple[float, ...] | None] = [None] * len(questions)
        for rows, batch in micro_batches(sequences, self._budget, network.device):
            shares = network.logits(batch)[:, ids].softmax(dim=-1).tolist()  # [B, labels]
            for row, share in zip(rows, shares, strict=True):
                found[fitting[row]] = tuple(share)
        return found

    def say(
        self, questions: Sequence[list[Message]], *, max_tokens: int, temperature: float, seed: int
    ) -> list[str | None]:
        """Sampled in this process."""
        prompts = self._encoded(questions, room=max_tokens)
        fitting = [place for place, prompt in enumerate(prompts) if prompt is not None]
        found: list[str | None] = [None] * len(questions)
        completions = sample(
            self._model.network, [prompts[place] or [] for place in fitting], stops=self._model.format.stops,
            max_new_tokens=max_tokens, seed=seed, temperature=max(temperature, 1e-4),
        )  # fmt: skip
        for place, (completion,) in zip(fitting, completions, strict=True):
            found[place] = self._model.format.decode_response(completion.token_ids)
        return found

    def _encoded(self, questions: Sequence[list[Message]], room: int) -> list[list[int] | None]:
        limit = self._model.prompt_limit(1 << 30, room)
        return [self._encode(question, limit) for question in questions]

    def _encode(self, question: list[Message], limit: int) -> list[int] | None:
        try:
            return self._model.format.encode_prompt(question, limit=limit)
        except DataError:
            return None

    def _token(self, label: str) -> int:
        ids = self._model.format.encode_response(label, finished=False)
        if len(ids) != 1:
            raise ModelError(f"{self._model.source} has no single token for {label!r}, so it cannot judge by it.")
        return int(ids[0])
