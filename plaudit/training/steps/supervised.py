"""What supervised fine-tuning, rejection sampling and the pretraining mix share: the likelihood of given texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.models.loading import LoadedModel
from plaudit.models.network import Network
from plaudit.progress import say
from plaudit.records import Demonstration
from plaudit.text.batches import micro_batches
from plaudit.text.chat import TokenSequence
from plaudit.text.plain import as_sequences, read_texts
from plaudit.text.prompts import encode_prompts
from plaudit.training.steps.optimiser import Optimiser


def likelihood_step(
    policy: Network, optimiser: Optimiser, batch: Sequence[TokenSequence], *, budget: int
) -> tuple[float, float]:
    """One optimiser step on the mean negative log-likelihood of the batch's response tokens.

    budget  tokens in a micro-batch

    Returns (loss in nats a token, gradient norm before clipping).
    """
    tokens = sum(len(sequence.response_ids) for sequence in batch)  # the one denominator of this step
    loss = 0.0
    for _, micro in micro_batches(batch, budget, policy.device):
        log_probs, _ = policy.log_probs(micro)
        part = -log_probs.sum() / tokens
        part.backward()
        loss += part.item()
    return loss, optimiser.step()


@torch.no_grad()
def mean_loss(policy: Network, sequences: Sequence[TokenSequence], config: Config) -> float | None:
    """Mean negative log-likelihood, nats a response token; None without any sequence."""
    if not sequences:
        return None
    total, tokens = 0.0, 0
    for _, batch in micro_batches(sequences, config.model.tokens_per_micro_batch, policy.device):
        log_probs, _ = policy.log_probs(batch)
        total -= float(log_probs.sum())
        tokens += int(batch.response_lengths.sum())
    return total / tokens


def encode_demonstrations(
    model: LoadedModel, demonstrations: Sequence[Demonstration], config: Config
) -> list[TokenSequence]:
    """Those within `sft.max_response_tokens` and the model's context; the others are counted and said.

    Raises DataError where there are some, and the model can take none of their prompts.
    """
    limit = model.prompt_limit(config.data.max_prompt_tokens, 1)
    if not demonstrations:
        return []
    prompts = encode_prompts(model.format, {d.prompt.id: d.prompt for d in demonstrations}.values(), limit=limit)
    sequences = [
        TokenSequence(prompts[d.prompt.id], model.format.encode_response(d.text))
        for d in demonstrations
        if d.prompt.id in prompts
    ]
    most = config.sft.max_response_tokens
    kept = [s for s in sequences if len(s.response_ids) <= most and len(s) <= model.context_length]
    if len(kept) < len(sequences):
        say(f"{len(sequences) - len(kept)} of {len(sequences)} demonstrations are over {most} tokens: left out.")
    for note in model.format.take_notes():
        say(note)
    return kept


def encode_texts(model: LoadedModel, path: str | None, limit: int) -> list[TokenSequence]:
    """The texts of `rl.pretraining.text`; none where it is not set. Raises DataError when they cannot be used."""
    if path is None:
        return []
    texts = read_texts(path, setting="rl.pretraining.text")
    sequences = as_sequences(model.format, texts, limit=min(limit, model.context_length))
    if not sequences:
        raise DataError(f"`rl.pretraining.text`: every text of {path} is a single token.")
    return sequences
