"""Log-probs of tokens without ever holding the logits of a whole batch.

M tokens, D hidden width, V vocabulary. For V = 49,152 the float32 logits of 128 tokens take 25 MB; those of
a batch of 4,096 tokens would take 800 MB, several times over in a backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TOKENS_PER_PRODUCT = 256
"""On a CPU, of which logits are held at once, in the precision of the product."""
BYTES_IN_CACHE = 1 << 23
"""Within, of float32 logits: larger pieces leave the cache, and their memory is asked of the system anew each time."""
BYTES_ELSEWHERE = 1 << 28
"""On a GPU, where a small piece takes less time than its launch; also of a product."""


def chunked_log_probs(
    hidden: Tensor,
    token_ids: Tensor,
    head: nn.Module,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    with_entropy: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-softmax(head(hidden) / temperature) at the given tokens, chunk by chunk.

    hidden     [M, D]  states that predict the tokens
    token_ids  [M]
    head       a linear layer
    softcap            logits are cap * tanh(logits / cap) first, for the families that do so
    chunk              tokens of one product with the head, as many as the device is best at by default

    Returns ([M] log-probs, [M] entropies without gradient, or None), nats, float32.
    """
    weight: Any = head.weight
    bias = getattr(head, "bias", None)
    if chunk is None:
        chunk = TOKENS_PER_PRODUCT if weight.device.type == "cpu" else _rows_at_once(weight.device, len(weight))
    options = _Options(temperature, softcap, with_entropy, chunk)
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


@dataclass(frozen=True)
class _Options:
    temperature: float
    softcap: float | None
    with_entropy: bool
    chunk: int

    def log_probs(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """([m, V] float32 log-softmax, [m, V] what it is of)."""
        if self.temperature == 1.0 and self.softcap is None:
            return torch.log_softmax(logits, dim=-1, dtype=torch.float32), logits
        scaled = scale(logits, self.temperature, self.softcap)
        return scaled.log_softmax(dim=-1), scaled

    def slope(self, log_probs: Tensor, scaled: Tensor, ids: Tensor) -> Tensor:
        """[m, V] d (log-prob of the id) / d logits, (onehot - p) / T times the cap's slope; overwrites `log_probs`."""
        slope = log_probs.exp_().neg_()
        slope.scatter_add_(1, ids[:, None], torch.ones_like(ids, dtype=slope.dtype)[:, None])
        if self.temperature != 1.0:
            slope.div_(self.temperature)
        if self.softcap is not None:
            slope.mul_(1 - (scaled * (self.temperature / self.softcap)).square())
        return slope


class _LogProbs(torch.autograd.Function):
    """Under a frozen head the gradient to a state is its log-prob's own slope times what comes back.

    That slope is taken while a chunk's probabilities are at hand, so that nothing is computed twice. A trained head's
    gradient is a sum over tokens weighted by what comes back: its logits are computed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        """[M, D], [V, D], [V] or None, [M] -> [M] log-probs, [M] entropies (zeros where not wanted)."""
        again = weight.requires_grad or (bias is not None and bias.requires_grad)
        wants_slopes = hidden.requires_grad and not again
        chosen, entropies, slopes = [], [], []
        for states, some in zip(hidden.split(options.chunk), ids.split(options.chunk), strict=True):
            product = functional.linear(states, weight, bias)  # [m, V]
            size = rows_at_once(product)
            for logits, its_ids in zip(product.split(size), some.split(size), strict=True):
                log_probs, scaled = options.log_probs(logits)
                chosen.append(log_probs.gather(1, its_ids[:, None]).squeeze(1))
                if options.with_entropy:
                    entropies.append(-(log_probs.exp() * log_probs).sum(dim=-1))
                if wants_slopes:
                    logits.copy_(options.slope(log_probs, scaled, its_ids))
            if wants_slopes:
                slopes.append(product @ weight)
        ctx.options, ctx.again = options, again
        ctx.save_for_backward(hidden, weight, bias, ids, torch.cat(slopes) if slopes else None)
        result = torch.cat(chosen)
        entropy = torch.cat(entropies) if options.with_entropy else torch.zeros_like(result)
        ctx.mark_non_differentiable(entropy)
        return result, entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of hidden, weight and bias."""
        hidden, weight, bias, ids, slopes = ctx.saved_tensors
        if not ctx.again:
            return (gradient[:, None] * slopes).to(hidden.dtype), None, None, None, None
        options: _Options = ctx.options
        to_hidden: list[Tensor] = []
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if weight.requires_grad else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and bias.requires_grad else None
        for states, some, back in zip(*(x.split(options.chunk) for x in (hidden, ids, gradient)), strict=True):
            product = functional.linear(states, weight, bias)
            size = rows_at_once(product)
            for logits, its_ids, its_back in zip(*(x.split(size) for x in (product, some, back)), strict=True):
                log_probs, scaled = options.log_probs(logits)
                slope = options.slope(log_probs, scaled, its_ids).mul_(its_back[:, None])
                if to_bias is not None:
                    to_bias += slope.sum(dim=0)
                logits.copy_(slope)
            if hidden.requires_grad:
                to_hidden.append(product @ weight)
            if to_weight is not None:
                to_weight += product.T @ states
        return (
            torch.cat(to_hidden).to(hidden.dtype) if to_hidden else None,
            None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None else to_bias.to(bias.dtype),
            None,
            None,
        )
