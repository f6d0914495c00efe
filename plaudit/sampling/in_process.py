"""Sampling in the training process, with the very weights that are being trained.

Rows of a fixed number are filled with prompts; a row whose response has ended is filled again at once. What a sample
becomes depends on its prompt and the seed, not on its neighbours, beyond rounding.

B rows being sampled, R samples altogether, V vocabulary.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from plaudit import cpu
from plaudit.cpu import BLOCK
from plaudit.errors import ModelError
from plaudit.models.log_probs import rows_at_once, scale
from plaudit.models.network import Network
from plaudit.sampling.decoders import Decoder, make_decoder
from plaudit.sampling.recorded import Recorded
from plaudit.text.batches import collate
from plaudit.text.chat import Stops, TokenSequence

COMPACT_BELOW = 0.75
"""Finished rows are taken out of the batch once fewer than this share of its rows is still running."""
JOIN_FROM = 0.125
"""Prompts wait until this share of the rows is free: a prefill of one prompt costs nearly as much as one of ten."""
PREFILL_TOKENS = 2048
"""Most prompt tokens in one forward pass, unless a single prompt has more."""


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
    sequences_per_batch  rows sampled side by side
    progress             called with the number of responses just completed
    on_batch             called now and then with [(index of a prompt, its completions)] that are complete

    Returns one list of `samples_per_prompt` completions for each prompt, in the order given. A prompt's samples
    depend on the seed, the prompt, and how often it occurs before; not on the other prompts or earlier calls.

    Raises ModelError for a family whose tokens cannot be sampled one by one here.
    """
    if not prompts:
        return []
    most_rows = min(sequences_per_batch, len(prompts) * samples_per_prompt)
    with torch.no_grad(), network.active(), cpu.packed_weights(network, most_rows) as products:
        if network.body not in _tried:
            _try_decoding(network, products, most_rows)
            _tried.add(network.body)
        return _Sampler(
            network,
            products,
            prompts,
            samples_per_prompt,
            stops=stops,
            limit=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            uniforms=_uniforms(prompts, samples_per_prompt, max_new_tokens, seed),
            most_rows=most_rows,
        ).run(progress, on_batch)


"""In arrays of kernels, where bfloat16 are the bits of whole numbers."""

_tried: WeakSet[nn.Module] = WeakSet()
"""Bodies whose decoding has been compared with a whole pass."""
MOST_GAP = {torch.float32: 0.05}
"""Nats a token, in the mean, that decoding may differ from a whole pass."""
MOST_ROUNDED_GAP = 0.3
"""The same where numbers are rounded to 16 bits."""


def _try_decoding(network: Network, products: cpu.Products, most_rows: int) -> None:
    """Sample a few tokens, and compare their log-probs with those of one pass over the whole.

    A family may keep a state that a cache of keys and values does not hold, or read padding.

    Raises ModelError where they differ by more than rounding does, or where the family cannot be decoded at all.
    """
    head: Any = network.head
    known = network.vocabulary or int(head.weight.shape[0])
    prompts = [[11 % known, 4], [17 % known, 7 % known, 3, 9 % known, 12 % known]]
    body: Any = network.body
    family = body.config.model_type
    try:
        completions = _Sampler(
            network, products, prompts, 1, stops=Stops(frozenset()), limit=4, temperature=1.0, top_p=1.0,
            uniforms=_uniforms(prompts, 1, 4, seed=0), most_rows=min(most_rows, 2),
        ).run(None, None)  # fmt: skip
        gaps = []
        for prompt, (completion,) in zip(prompts, completions, strict=True):
            batch = collate([TokenSequence(prompt, completion.token_ids)], device=network.device)
            whole = network.log_probs(batch)[0][0].cpu()
            gaps.append((torch.tensor(completion.log_probs) - whole).abs().mean())
        gap = float(torch.stack(gaps).mean())
    except (AttributeError, TypeError, NotImplementedError, KeyError, IndexError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{family} models cannot be sampled from here ({type(error).__name__}: {str(error)[:120]}). "
            "Choose a model of a family that keeps keys and values of attention."
        ) from None
    if not gap <= MOST_GAP.get(network.dtype, MOST_ROUNDED_GAP):
        raise ModelError(
            f"{family} models cannot be sampled from here: their tokens' log-probs, one by one, are {gap:.2g} nats off "
            "those of a whole pass. Choose a model of a family that keeps keys and values of attention."
        )


class _Sampler:
    """One call's rows and what has been sampled so far.

    tokens, log_probs   [R + 1, limit]; the last line takes what rows without a sample give
    lengths, finished   [R + 1]
    samples             [B] which sample each row is at; R for none
    """

    def __init__(
        self,
        network: Network,
        products: cpu.Products,
        prompts: Sequence[list[int]],
        copies: int,
        *,
        stops: Stops,
        limit: int,
        temperature: float,
        top_p: float,
        uniforms: Tensor,
        most_rows: int,
    ):
        self.network, self.products, self.prompts, self.copies = network, products, prompts, copies
        self.stops, self.limit, self.temperature, self.top_p = stops, limit, temperature, top_p
        device = network.device
        self.uniforms = torch.cat([uniforms, torch.zeros(1, limit)]).to(device)
        self.stop_ids = torch.tensor(sorted(stops.ids), device=device)
        self.count = len(prompts) * copies
        self.tokens = torch.zeros(self.count + 1, limit, dtype=torch.long, device=device)
        self.log_probs = torch.zeros(self.count + 1, limit, device=device)
        self.lengths = torch.zeros(self.count + 1, dtype=torch.long, device=device)
        self.finished = torch.zeros(self.count + 1, dtype=torch.bool, device=device)
        self.samples = torch.zeros(0, dtype=torch.long, device=device)
        self.most_rows = most_rows
        self.by_kernel = (
            cpu.serves(network.body) and top_p == 1 and network.softcap is None and network.head in products
        )
        own = weakref.proxy(self)  # not a circle
        self.recorded_draw = Recorded(lambda *given: own._draw(*given))
        self.decoder: Decoder = make_decoder(network, products, most_rows, max(map(len, prompts)), limit)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        self.waiting = deque(  # (prompt, its first sample, how many), no more than there are rows
            (index, index * copies + start, min(most_rows, copies - start))
            for index in order
            for start in range(0, copies, most_rows)
        )

        self.alive = 0
        self.left = [copies] * len(prompts)  # samples of each prompt still to be completed
        self.ready: list[int] = []  # prompts that are complete and not handed over

    def run(
        self,
        progress: Callable[[int], None] | None,
        on_batch: Callable[[list[tuple[int, list[Completion]]]], None] | None,
    ) -> list[list[Completion]]:
        """Until every sample is complete."""
        while self.waiting or self.alive:
            ended = self._join() if self._can_join() else self._step()
            if progress is not None and ended:
                progress(ended)
            everything = not self.waiting and not self.alive
            if on_batch is not None and self.ready and (everything or len(self.ready) * self.copies >= self.most_rows):
                on_batch([(index, self._completions(index)) for index in self.ready])
                self.ready = []
        return [self._completions(index) for index in range(len(self.prompts))]

    def _can_join(self) -> bool:
        if not self.waiting or (self.alive and not self.decoder.joins):
            return False
        free = self.most_rows - self.alive
        wanted = max(self.waiting[0][2], JOIN_FROM * self.most_rows)
        return free >= min(wanted, sum(copies for _, _, copies in self.waiting)) or self.alive == 0

    def _join(self) -> int:
        """Let as many prompts in as there is room for, and draw their first tokens; how many ended at once."""
        if not self.decoder.joins:
            self.samples = self.samples[:0]  # it starts afresh
        free = (self.samples == self.count).nonzero(as_tuple=True)[0].tolist()
        free += range(len(self.samples), self.most_rows)
        prompts: list[list[int]] = []
        copies: list[int] = []
        samples: list[int] = []
        while self.waiting and len(samples) + self.waiting[0][2] <= len(free):
            prompt = self.prompts[self.waiting[0][0]]
            if prompts and sum(map(len, prompts)) + len(prompt) > PREFILL_TOKENS:
                break
            _, first, many = self.waiting.popleft()
            prompts.append(prompt)
            copies.append(many)
            samples += range(first, first + many)
        device = self.network.device
        rows = torch.tensor(free[: len(samples)], device=device)
        more = int(rows.max()) + 1 - len(self.samples)
        if more > 0:
            self.samples = torch.cat([self.samples, self.samples.new_full((more,), self.count)])
        self.samples[rows] = torch.tensor(samples, device=device)
        self.alive += len(samples)
        return self._take(rows, self.decoder.start(prompts, copies, rows), self._draw)

    def _step(self) -> int:
        """One more token for every row; how many ended."""
        running = self.samples < self.count
        if not self.waiting and self.alive < COMPACT_BELOW * len(running):
            kept = running.nonzero(as_tuple=True)[0]
            self.decoder.keep(kept)
            self.samples, running = self.samples[kept], running[kept]
        last = self.tokens[self.samples, (self.lengths[self.samples] - 1).clamp(min=0)]
        states = self.decoder.step(last, running)
        return self._take(torch.arange(len(last), device=last.device), states, self.recorded_draw)

    def _take(self, rows: Tensor, states: Tensor, draw_from: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> int:
        """Draw the next token of these rows from their states; how many ended with it."""
        samples = self.samples[rows]
        ages = self.lengths[samples]
        uniforms = self.uniforms[samples, ages.clamp(max=self.limit - 1)]
        tokens, log_probs = draw_from(states, uniforms)
        running = samples < self.count
        at = torch.where(running, ages, 0)
        self.tokens[samples, at] = tokens
        self.log_probs[samples, at] = log_probs
        self.lengths[samples] = at + 1
        stopped = torch.isin(tokens, self.stop_ids)
        if self.stops.ended_by_text is not None:
            texts = zip(samples.tolist(), (at + 1).tolist(), strict=True)
            spelt = [self.stops.ended_by_text(self.tokens[sample, :length].tolist()) for sample, length in texts]
            stopped |= torch.tensor(spelt, device=stopped.device)
        ended = running & (stopped | (at + 1 == self.limit))
        if not bool(ended.any()):
            return 0
        self.finished[samples[ended]] = stopped[ended]
        self.samples[rows[ended]] = self.count
        over = samples[ended].tolist()
        self.alive -= len(over)
        for sample in over:
            prompt = sample // self.copies
            self.left[prompt] -= 1
            if self.left[prompt] == 0:
                self.ready.append(prompt)
        return len(over)

    def _draw(self, states: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """([n] tokens, [n] log-probs) of [n, D] states."""
        head: Any = self.network.head
        states = states.to(head.weight.dtype)
        if self.by_kernel:
            return cpu.draw(
                self.products[head],
                states,
                uniforms,
                temperature=self.temperature,
                vocabulary=self.network.vocabulary,
            )
        logits = head(states)[:, : self.network.vocabulary]  # [n, V]
        drawn = []
        size = rows_at_once(logits)
        for some, numbers in zip(logits.split(size), uniforms.split(size), strict=True):
            scaled = scale(some, self.temperature, self.network.softcap)
            drawn.append(draw(_nucleus(scaled, self.top_p) if self.top_p < 1 else scaled, numbers))
        return torch.cat([d[0] for d in drawn]), torch.cat([d[1] for d in drawn])

    def _completions(self, index: int) -> list[Completion]:
        found = []
        for sample in range(index * self.copies, (index + 1) * self.copies):
            length = int(self.lengths[sample])
            ids, log_probs = self.tokens[sample, :length].tolist(), self.log_probs[sample, :length].tolist()
            found.append(Completion(ids, log_probs, bool(self.finished[sample])))
        return found


def _uniforms(prompts: Sequence[list[int]], copies: int, limit: int, seed: int) -> Tensor:
    """[R, limit] numbers in [0, 1), by seed, prompt and how often the prompt occurs before."""
    seen: Counter[str] = Counter()
    parts = []
    for prompt in prompts:
        name = f"{seed}:{prompt}"
        digest = hashlib.blake2b(f"{name}:{seen[name]}".encode(), digest_size=7).digest()
        seen[name] += 1
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        parts.append(torch.rand(copies, limit, generator=generator))
    return torch.cat(parts)


def draw(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """([B] tokens drawn from softmax(logits), [B] their log-probs), by inverting the cumulative distribution.

    logits    [B, V] float32
    uniforms  [B]    in [0, 1)

    One number a row decides: `torch.multinomial` would draw one a vocabulary entry. The sums of blocks say in which
    block the token is, so that only its entries are summed one by one.
    """
    top = logits.max(dim=-1, keepdim=True).values
    weights = (logits - top).exp_()  # [B, V]
    whole = weights.shape[1] // BLOCK * BLOCK
    sums = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(dim=-1)
    if whole < weights.shape[1]:
        sums = torch.cat([sums, weights[:, whole:].sum(dim=-1, keepdim=True)], dim=1)
    ends = sums.double().cumsum(dim=-1)  # [B, blocks]
    total = ends[:, -1:]
    target = uniforms.double()[:, None] * total
    block = torch.searchsorted(ends, target, right=True).clamp_(max=ends.shape[1] - 1)  # [B, 1]
    begin = ends.gather(1, block) - sums.gather(1, block)
    places = block * BLOCK + torch.arange(BLOCK, device=logits.device)  # [B, BLOCK]
    inside = weights.gather(1, places.clamp(max=weights.shape[1] - 1)).double()
    inside = inside.masked_fill_(places >= weights.shape[1], 0.0).cumsum(dim=-1)
    # a target past the last sum by rounding takes the last token that has any weight
    rest = torch.minimum(target - begin, inside[:, -1:] * (1 - 1e-12))
    token = places.gather(1, torch.searchsorted(inside, rest, right=True).clamp_(max=BLOCK - 1))
    log_prob = logits.gather(1, token) - top - total.log().float()
    return token.squeeze(1), log_prob.squeeze(1)


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """[B, V] logits with all but the most likely tokens, which together hold `top_p`, at minus infinity."""
    ordered, places = logits.sort(dim=-1, descending=True)
    chances = ordered.softmax(dim=-1)
    before = chances.cumsum(dim=-1) - chances  # mass of the likelier ones
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, places, ordered)
