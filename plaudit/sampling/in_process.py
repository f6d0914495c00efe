"""Sampling in the training process, with the very weights that are being trained.

B rows being sampled, P the longest prompt of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from plaudit.models import attention
from plaudit.models.log_probs import scaled_logits
from plaudit.models.network import Network
from plaudit.text.chat import Stops

COMPACT_BELOW = 0.75
"""Finished rows are taken out of the batch once fewer than this share of its rows is still running."""


@dataclass(frozen=True)
class Completion:
    """What was sampled for one prompt.

    token_ids   the sampled ids, the stop token included
    log_probs   of each of them under the sampling distribution, nats
    finished    whether it ended by a stop token or string; else it was cut at the length limit
    """

    token_ids: list[int]
    log_probs: list[float]
    finished: bool


def sample(
    network: Network,
    prompts: Sequence[list[int]],
    *,
    stops: Stops,
    max_new_tokens: int,
    seed: int,
    samples_per_prompt: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    sequences_per_batch: int = 128,
    progress: Callable[[int], None] | None = None,
    on_batch: Callable[[list[tuple[int, list[Completion]]]], None] | None = None,
) -> list[list[Completion]]:
    """Sample responses from softmax(logits / temperature), the full distribution unless `top_p` says otherwise.

    prompts              token ids, each ending where the answer begins
    stops                where a response ends
    top_p                draw from the fewest tokens that hold this probability; log-probs are then of that distribution
    sequences_per_batch  rows sampled side by side; prompts of like length share a batch
    progress             called with the number of responses just completed
    on_batch             called with [(index of the prompt, its completions)] as each batch ends

    Returns one list of `samples_per_prompt` completions for each prompt, in the order given. The result
    depends on the seed and the arguments, not on earlier calls.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    size = max(1, sequences_per_batch // samples_per_prompt)
    results: list[list[Completion]] = [[] for _ in prompts]
    for number, start in enumerate(range(0, len(order), size)):
        rows = order[start : start + size]
        generator = torch.Generator(device=network.device).manual_seed((seed * 1_000_003 + number) % (1 << 63))
        completions = _sample_batch(
            network,
            [prompts[i] for i in rows],
            samples_per_prompt,
            stops=stops,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            generator=generator,
        )
        for position, index in enumerate(rows):
            results[index] = completions[position * samples_per_prompt : (position + 1) * samples_per_prompt]
        if on_batch is not None:
            on_batch([(index, results[index]) for index in rows])
        if progress is not None:
            progress(len(completions))
    return results


@torch.no_grad()
def _sample_batch(
    network: Network,
    prompts: list[list[int]],
    copies: int,
    *,
    stops: Stops,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    generator: torch.Generator,
) -> list[Completion]:
    device = network.device
    ids, mask = _pad_left(prompts, device)  # [B/copies, P] both
    stop_ids = torch.tensor(sorted(stops.ids), device=device)
    cache = DynamicCache(config=network.body.config)
    with network.active(), _rollout_attention(network.body):
        states = _forward(network, ids, mask, cache)  # each prompt once, shared by its copies
        if copies > 1:
            cache.batch_repeat_interleave(copies)
            states, mask = states.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
        rows = torch.arange(len(states), device=device)  # the batch's rows, as numbered at the start
        tokens = torch.zeros(len(states), max_new_tokens, dtype=torch.long, device=device)
        log_probs = torch.zeros(len(states), max_new_tokens, device=device)
        lengths = torch.full((len(states),), max_new_tokens, device=device)
        finished = torch.zeros(len(states), dtype=torch.bool, device=device)
        running = torch.ones(len(states), dtype=torch.bool, device=device)  # of the rows still in the batch
        for step in range(max_new_tokens):
            logits = scaled_logits(states, network.head, temperature, network.softcap)
            if top_p < 1:
                logits = _nucleus(logits, top_p)
            token, log_prob = _draw(logits, generator)  # [B, 1] both
            tokens[rows, step] = torch.where(running, token[:, 0], tokens[rows, step])
            log_probs[rows, step] = torch.where(running, log_prob[:, 0], 0.0)
            stopped = running & torch.isin(token[:, 0], stop_ids)
            if stops.ended_by_text is not None:
                texts = [stops.ended_by_text(tokens[row, : step + 1].tolist()) for row in rows.tolist()]
                stopped |= running & torch.tensor(texts, device=device)
            lengths[rows[stopped]] = step + 1
            finished[rows[stopped]] = True
            running = running & ~stopped
            alive = int(running.sum())
            if alive == 0 or step + 1 == max_new_tokens:
                break
            if alive < COMPACT_BELOW * len(rows):
                kept = running.nonzero(as_tuple=True)[0]
                cache.batch_select_indices(kept)
                rows, mask, token, running = rows[kept], mask[kept], token[kept], running[kept]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            states = _forward(network, token, mask, cache)
    return [
        Completion(tokens[i, : lengths[i]].tolist(), log_probs[i, : lengths[i]].tolist(), bool(finished[i]))
        for i in range(len(tokens))
    ]


def _draw(logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """([B, 1] tokens drawn from softmax(logits), [B, 1] their log-probs), by inverting the cumulative distribution.

    One uniform number a row: `torch.multinomial` draws one a vocabulary entry, a third of a decoding step on a CPU.
    """
    top = logits.max(dim=-1, keepdim=True).values
    cumulative = (logits - top).exp_().cumsum(dim=-1)  # [B, V]
    total = cumulative[:, -1:]
    uniform = torch.rand(len(logits), 1, generator=generator, device=logits.device)
    token = torch.searchsorted(cumulative, uniform * total, right=True).clamp_(max=logits.shape[-1] - 1)
    return token, logits.gather(1, token) - top - total.log()


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """[B, V] logits with all but the most likely tokens, which together hold `top_p`, at minus infinity."""
    ordered, places = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)  # mass of the likelier ones
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, places, ordered)


def _forward(network: Network, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
    """[B, D] the state after the last of the given ids. Positions come from the mask, so padding shifts nothing."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    padded = not bool(mask.all())
    hidden = network.body(
        input_ids=ids,
        attention_mask=mask if padded else None,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden[:, -1]


def _pad_left(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask


@contextmanager
def _rollout_attention(body: Any) -> Any:
    """Use the attention of `plaudit.models.attention` while sampling; families without it keep their own."""
    before = body.config._attn_implementation
    if before != "sdpa":
        yield
        return
    body.config._attn_implementation = attention.NAME
    try:
        yield
    finally:
        body.config._attn_implementation = before
