"""A reward model's scores of texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from plaudit.config import Config
from plaudit.models.loading import LoadedModel
from plaudit.progress import progress, say
from plaudit.records import Prompt
from plaudit.text.batches import micro_batches
from plaudit.text.chat import TokenSequence
from plaudit.text.prompts import encode_prompts


@torch.no_grad()
def score_answers(
    model: LoadedModel, answers: Sequence[tuple[Prompt, str]], config: Config
) -> list[list[float] | None]:
    """Raw scores of (prompt, answer), one a head; None for those beyond the model's context, and those whose prompt
    its chat template refuses."""
    form = model.format
    prompts = encode_prompts(form, {p.id: p for p, _ in answers}.values(), limit=model.context_length)
    sequences = [TokenSequence(prompts.get(p.id, []), form.encode_response(text)) for p, text in answers]
    fitting = [
        i for i, sequence in enumerate(sequences) if sequence.prompt_ids and len(sequence) <= model.context_length
    ]
    for note in form.take_notes():
        say(note)
    scores: list[list[float] | None] = [None] * len(answers)
    with progress("scores", len(fitting)) as advance:
        chosen = [sequences[i] for i in fitting]
        for rows, batch in micro_batches(chosen, config.model.tokens_per_micro_batch, model.network.device):
            for row, found in zip(rows, model.network.scores(batch).view(len(rows), -1).tolist(), strict=True):
                scores[fitting[row]] = found
            advance(len(rows))
    return scores
