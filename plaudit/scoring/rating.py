"""A language model that rates answers directly: RLAIF without a reward model.

Lee et al. 2023 (arXiv:2309.00267), d-RLAIF: the model's probabilities of the possible ratings are renormalised
and their mean is the score. Ratings are the digits 0 to 9, single tokens where "10" would be two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plaudit.errors import ModelError
from plaudit.models.loading import LoadedModel
from plaudit.records import Message
from plaudit.scoring.scorers import Answered
from plaudit.text.batches import micro_batches
from plaudit.text.chat import TokenSequence

INSTRUCTION = (
    "Rate how good the answer to the last message of this conversation is: whether it is true, helpful, clear and "
    "polite. 0 is the worst and 9 the best.\n\n{conversation}\n\nAnswer: {answer}\n\nGive the rating as one digit."
)
DIGITS = "0123456789"


@dataclass(frozen=True)
class RatingJudge:
    """Scores in [-1, 1]: the expected digit under the model, 0 as -1 and 9 as 1."""

    model: LoadedModel
    tokens_per_micro_batch: int

    @torch.no_grad()
    def __call__(self, answers: Sequence[Answered]) -> Tensor:
        """[B]. Raises ModelError when a digit is no single token of the model."""
        digit_ids = self._digit_ids()
        limit = self.model.prompt_limit(1 << 30, 1)
        prompts = [self.model.format.encode_prompt(self._question(answer), limit=limit) for answer in answers]
        scores = torch.zeros(len(answers))
        network = self.model.network
        sequences = [TokenSequence(prompt, [digit_ids[0]]) for prompt in prompts]
        ratings = torch.arange(10, dtype=torch.float32)
        for rows, batch in micro_batches(sequences, self.tokens_per_micro_batch, network.device):
            expected = network.logits(batch)[:, digit_ids].softmax(dim=-1).cpu() @ ratings
            scores[rows] = expected / 4.5 - 1
        return scores

    def _question(self, answer: Answered) -> list[Message]:
        turns = "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in answer.conversation)
        return [{"role": "user", "content": INSTRUCTION.format(conversation=turns, answer=answer.text)}]

    def _digit_ids(self) -> list[int]:
        tokenizer = self.model.format.tokenizer
        encoded = [tokenizer(digit, add_special_tokens=False)["input_ids"] for digit in DIGITS]
        if any(len(ids) != 1 for ids in encoded):
            raise ModelError(f"{self.model.source} has no single token for each digit, so it cannot rate answers.")
        return [int(ids[0]) for ids in encoded]
