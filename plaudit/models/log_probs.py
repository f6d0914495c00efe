"""Log-probs of tokens without ever holding the logits of a whole batch.

M tokens, D hidden width, V vocabulary. For V = 49,152 the float32 logits of 128 tokens take 25 MB; those of
a batch of 4,096 tokens would take 800 MB, several times over in a backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plaudit import cpu
from plaudit.models.masters import add_to

LEAST = -87.0
"""Below the largest logit: exp of less is nothing in float32."""
TOKENS_PER_PRODUCT = 256
"""How many tokens' logits are held at once on a CPU, in the precision of the product."""
OUTPUTS_PER_PRODUCT = 2048
"""How much of the vocabulary a trained head goes backward through at once on a CPU, for all tokens of a batch: what
stays in cache from one product to the next, and gives a piece of the head's gradient that nothing is added to."""
BYTES_KEPT = 1 << 28
"""Most bytes of logits under a trained head that are kept for the backward pass; those of further tokens are computed
again."""
BYTES_IN_CACHE = 1 << 23
"""Within, of float32 logits: larger pieces leave the cache, and their memory is asked of the system anew each time."""
BYTES_ELSEWHERE = 1 << 28
"""The same on a GPU, where a small piece takes less time than its launch; several of that size are held together."""


def chunked_log_probs(
    hidden: Tensor,
    token_ids: Tensor,
    head: nn.Module,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    vocabulary: int | None = None,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-softmax(head(hidden) / temperature) at the given tokens, chunk by chunk.

    hidden     [M, D]  states that predict the tokens
    token_ids  [M]
    head       a linear layer
    softcap            logits are cap * tanh(logits / cap) first, for the families that do so
    vocabulary         how many ids there are, where the layer has outputs beyond them

    Returns ([M] log-probs, [M] entropies without gradient, or None), nats, float32.
    """
    weight: Any = head.weight
    bias = getattr(head, "bias", None)
    if vocabulary is not None:
        weight, bias = weight[:vocabulary], None if bias is None else bias[:vocabulary]
    options = _Options(temperature, softcap, with_entropy, goes_back=torch.is_grad_enabled())
    log_probs, entropies = _LogProbs.apply(hidden.to(weight.dtype), weight, bias, token_ids, options)
    return log_probs, entropies if with_entropy else None


def scaled_logits(states: Tensor, head: nn.Module, temperature: float, softcap: float | None) -> Tensor:
    """[M, V] float32 logits as the model defines them, divided by the temperature."""
    return scale(head(states.to(next(head.parameters()).dtype)), temperature, softcap)


def scale(logits: Tensor, temperature: float, softcap: float | None) -> Tensor:
    """float32, capped, divided."""
    values = logits.float()
    if softcap is not None:
        values = softcap * torch.tanh(values / softcap)
    return values if temperature == 1.0 else values / temperature


def rows_at_once(logits: Tensor) -> int:
    """How many rows of [m, V] logits to work on in float32 at a time."""
    return _rows_at_once(logits.device, logits.shape[1])


def _rows_at_once(device: torch.device, vocabulary: int) -> int:
    return max(1, (BYTES_IN_CACHE if device.type == "cpu" else BYTES_ELSEWHERE) // (4 * vocabulary))


def _tokens_at_once(weight: Tensor) -> int:
    """Tokens of a product with the head."""
    return TOKENS_PER_PRODUCT if weight.device.type == "cpu" else _rows_at_once(weight.device, len(weight))


def _outputs_at_once(weight: Tensor, tokens: int) -> int:
    """Outputs of a product with a part of the head in the backward pass of one that is trained."""
    return OUTPUTS_PER_PRODUCT if weight.device.type == "cpu" else max(1, BYTES_ELSEWHERE // (4 * max(1, tokens)))


@dataclass(frozen=True)
class _Options:
    temperature: float
    softcap: float | None
    with_entropy: bool
    goes_back: bool

    def in_pieces(self, logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(rows, [m, V] float32 scaled logits) of as many rows as are worked on at a time."""
        size = rows_at_once(logits)
        for start in range(0, len(logits), size):
            rows = slice(start, start + size)
            yield rows, scale(logits[rows], self.temperature, self.softcap)

    def by_kernel(self, logits: Tensor) -> bool:
        """Whether a row is read from memory once, and written there once."""
        return self.softcap is None and cpu.serves(logits)

    def read(self, logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[m] each: log-probs of the ids, entropies (of no use where not wanted), log of the sums of exponentials."""
        if self.by_kernel(logits):
            return cpu.read_log_probs(logits, ids, self.temperature)
        found = torch.zeros(3, len(logits), device=logits.device)
        for rows, scaled in self.in_pieces(logits):
            top = scaled.amax(dim=-1)
            below = scaled - top[:, None]
            log_totals = below.logsumexp(dim=-1)
            found[0, rows] = below.gather(1, ids[rows, None]).squeeze(1) - log_totals
            if self.with_entropy:
                weighted = below.softmax(dim=-1).mul_(below.clamp_(min=LEAST))  # not 0 times minus infinity
                found[1, rows] = log_totals - weighted.sum(dim=-1)
            found[2, rows] = top + log_totals
        return found[0], found[1], found[2]

    def to_gradients(self, logits: Tensor, ids: Tensor, normalisers: Tensor, factors: Tensor) -> None:
        """Overwrites logits by factor * d (log-prob of the id) / d logits.

        That is factor / T * (onehot - p), times the cap's slope.

        logits             [m, v], of the whole vocabulary or a part of it
        ids                [m], counted from the part's first; none of the part is an id outside of 0 to v - 1
        normalisers        [m] log of the sum of exponentials over the whole vocabulary
        factors            [m]
        """
        if self.by_kernel(logits):
            cpu.to_gradients(logits, ids, normalisers, factors, self.temperature)
            return
        inside = (ids >= 0) & (ids < logits.shape[1])
        places = ids.where(inside, 0)
        for rows, scaled in self.in_pieces(logits):
            slope = (scaled - normalisers[rows, None]).exp_().neg_()
            slope.scatter_add_(1, places[rows, None], inside[rows, None].to(slope.dtype))
            slope *= factors[rows, None] / self.temperature
            if self.softcap is not None:  # tanh' = 1 - tanh^2, and scaled = softcap * tanh / T
                slope.mul_(1 - (scaled * (self.temperature / self.softcap)).square())
            logits[rows] = slope.to(logits.dtype)


class _LogProbs(torch.autograd.Function):
    """Under a frozen head the gradient to a state is its log-prob's own slope times what comes back.

    That slope is taken while a chunk's probabilities are at hand, so that nothing is computed twice. A trained head's
    gradient is a sum over tokens weighted by what comes back: it goes backward through all tokens and a part of the
    vocabulary at a time, from logits of which as many are kept as are allowed, and the others computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        """[M, D], [V, D], [V] or None, [M] -> [M] log-probs, [M] entropies (of no use where not wanted)."""
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        wants_gradients = options.goes_back and hidden.requires_grad and not trained
        chosen, entropies, normalisers, gradients = [], [], [], []
        kept, room = [], BYTES_KEPT // (weight.element_size() * len(weight)) if options.goes_back and trained else 0
        size = _tokens_at_once(weight)
        for states, some in zip(hidden.split(size), ids.split(size), strict=True):
            product = functional.linear(states, weight, bias)  # [m, V]
            log_probs, entropy, its_normalisers = options.read(product, some)
            chosen.append(log_probs)
            entropies.append(entropy)
            normalisers.append(its_normalisers)
            if wants_gradients:
                options.to_gradients(product, some, its_normalisers, torch.ones_like(its_normalisers))
                gradients.append(cpu.product(product, weight))
            room -= len(product)
            if room >= 0:
                kept.append(product)
        ctx.options, ctx.trained = options, trained
        held = torch.cat(gradients) if gradients else None
        ctx.save_for_backward(hidden, weight, bias, ids, torch.cat(normalisers), held, *kept)
        whole_entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(whole_entropy)
        return torch.cat(chosen), whole_entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of hidden, weight and bias."""
        hidden, weight, bias, ids, normalisers, gradients, *kept = ctx.saved_tensors
        if not ctx.trained:
            return (gradient[:, None] * gradients).to(hidden.dtype), None, None, None, None
        options: _Options = ctx.options
        to_hidden = torch.zeros_like(hidden, dtype=torch.float32) if hidden.requires_grad else None
        to_weight = torch.empty_like(weight) if weight.requires_grad else None
        to_bias = torch.empty_like(bias) if bias is not None and bias.requires_grad else None
        back = gradient.float()
        others = hidden[sum(map(len, kept)) :]
        size = _outputs_at_once(weight, len(hidden))
        for start in range(0, len(weight), size):
            part = slice(start, start + size)
            rest = functional.linear(others, weight[part], None if bias is None else bias[part])
            product = torch.cat([*(logits[:, part] for logits in kept), rest])  # [M, v]
            options.to_gradients(product, ids - start, normalisers, back)
            if to_hidden is not None:
                add_to(to_hidden, cpu.product(product, weight[part]))
            if to_weight is not None:
                to_weight[part] = cpu.gradient_of_weight(product, hidden)
            if to_bias is not None:
                to_bias[part] = product.sum(dim=0, dtype=torch.float32)
        return None if to_hidden is None else to_hidden.to(hidden.dtype), to_weight, to_bias, None, None
