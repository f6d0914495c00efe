"""Attention over packed rows and over a cache, registered with `transformers` under one name.

The body of a model runs on one row of tokens without padding; attention alone needs to know which tokens belong
together. `transformers` hands the body's extra arguments through to its attention: `layout` says it here.

On a CPU, PyTorch's fused attention is slow where RLHF needs it most: backward in bfloat16, over short rows, and forward
at one query token. There it is the engine's (`plaudit.cpu`).

H query heads in H/G groups of G share G key heads; d head width; N tokens of the packed row; A rows of at most Q
queries and S keys.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from plaudit import cpu
from plaudit.text.rows import LONGEST, AttentionRows

NAME = "plaudit"
KEYS_AT_ONCE = 1 << 20
"""Numbers of a cache's keys that are held in float32 at a time, where a query of one token looks at them."""
UNLIMITED = 1 << 40
"""Size of a window that hides nothing."""


class Layout(Protocol):
    """Says what attends to what in one forward pass."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """Heads first, [B, H, N, d] and [B, G, S, d] x 2 -> tokens first, [B, N, H, d]."""
        ...


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """`transformers` attention interface. Raises NotImplementedError for what only some families have."""
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    if dropout or more.get("s_aux") is not None:
        raise NotImplementedError("attention with dropout or sinks")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layout.attend(query, key, value, scale=scale, window=sliding_window, softcap=softcap), None


@cache
def register() -> str:
    """Let models of this process use it; returns the name by which they do."""
    AttentionInterface.register(NAME, attention)
    return NAME


def bias_where(allowed: Tensor) -> Tensor:
    """What is added to scores: 0 where a query may look, else minus infinity as far as float32 has it."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, torch.finfo(torch.float32).min)


class PackedRows:
    """Attention of a packed batch, whose rows it gathers and scatters."""

    def __init__(self, rows: AttentionRows):
        self.rows = rows
        self._biases: dict[tuple[int, int | None], Tensor] = {}
        self._by_kernel: cpu.RowAttention | None = None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """[1, H, N, d], [1, G, N, d] x 2 -> [1, N, H, d]."""
        heads, width = query.shape[1], query.shape[3]
        flat = [x[0].transpose(0, 1).reshape(x.shape[2], -1).to(value.dtype) for x in (query, key, value)]  # [N, ...]
        mixed = self.attend_tokens(flat, heads, scale=scale, window=window, softcap=softcap)
        return mixed.view(1, -1, heads, width)

    def attend_tokens(
        self, flat: list[Tensor], heads: int, *, scale: float, window: int | None, softcap: float | None = None
    ) -> Tensor:
        """Attend with queries, keys and values, [N, H d] and [N, G d] x 2 -> [N, H d]."""
        short = self.rows.blocks[-1].keys.shape[1] <= LONGEST
        if softcap is None and self._by_kernel is None:
            self._by_kernel = cpu.row_attention(self.rows, flat[0], short=short)
        if softcap is None and self._by_kernel is not None:
            query, key, value = flat
            return self._by_kernel(query, key, value, heads, scale, UNLIMITED if window is None else window)
        width = flat[0].shape[1] // heads
        if self.rows.shared:  # the gradients of a key of several rows are added up in float32
            flat = [flat[0], *(x.float() if x.requires_grad else x for x in flat[1:])]
        mixed = [self._block(i, flat, heads, width, scale, window, softcap) for i in range(len(self.rows.blocks))]
        together = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        return _Pick.apply(together, self.rows.owners)

    def _bias(self, number: int, window: int | None) -> Tensor:
        """[A, 1, Q, S] float32 of a block: 0 where a query may look, else minus infinity as far as float32 has it."""
        name = (number, window)
        if name not in self._biases:
            allowed = self.rows.blocks[number].allowed(window)
            self._biases[name] = bias_where(allowed)[:, None]
        return self._biases[name]

    def _block(
        self,
        number: int,
        flat: list[Tensor],
        heads: int,
        width: int,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """[A Q, H d] of a block by PyTorch's fused attention, row by row of the gathered tokens."""
        block = self.rows.blocks[number]
        query = flat[0][block.queries].unflatten(-1, (heads, width)).transpose(1, 2)  # [A, H, Q, d]
        key, value = (
            x[block.keys].to(query.dtype).unflatten(-1, (-1, width)).transpose(1, 2) for x in flat[1:]
        )  # [A, G, S, d]
        copies = heads // key.shape[1]
        if window is not None and window >= block.keys.shape[1]:
            window = None
        causal = not self.rows.shared and window is None
        if softcap is not None:
            key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
            scores = (query.float() @ key.float().transpose(2, 3)) * scale
            scores = softcap * torch.tanh(scores / softcap) + self._bias(number, window)
            mixed = scores.softmax(dim=-1).to(value.dtype) @ value
        elif causal:
            mixed = nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=copies > 1
            )
        else:  # the kernels that take a mask know no groups
            key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
            mask = self._bias(number, window).to(query.dtype).clamp(min=torch.finfo(query.dtype).min)
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        return mixed.transpose(1, 2).reshape(-1, heads * width)


class CacheRows:
    """Attention of one new token a row over the keys and values of a cache.

    bias  [B, 1, 1, S] float32: 0 where a row's token may look, else minus infinity as far as float32 has it; None
          where every row may look everywhere
    """

    def __init__(self, bias: Tensor | None):
        self.bias = bias

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """[B, H, 1, d], [B, G, S, d] x 2 -> [B, 1, H, d]; the last key is the token's own, in every row."""
        bias = self.bias
        if window is not None and window < key.shape[2]:
            key, value = key[:, :, -window:], value[:, :, -window:]
            bias = None if bias is None else bias[..., -window:]
        batch, heads, _, width = query.shape
        grouped = (query * scale).view(batch, key.shape[1], -1, width)  # [B, G, H/G, d]
        rows = batch
        if (
            key.device.type == "cpu"
        ):  # a few at a time: float32 keys of all would be twice a layer's cache, in one piece
            rows = max(1, KEYS_AT_ONCE // key[0].numel())
        parts = [
            self._mix(grouped[at : at + rows], key[at : at + rows], value[at : at + rows], bias, at, softcap)
            for at in range(0, batch, rows)
        ]
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts)
        return mixed.reshape(batch, 1, heads, width)

    @staticmethod
    def _mix(
        grouped: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, first: int, softcap: float | None
    ) -> Tensor:
        """[b, G, H/G, d] of b rows from the one at `first` on."""
        if key.device.type == "cpu":  # exact scores, and faster than having bfloat16 keys copied for the product
            scores = grouped.float() @ key.float().transpose(2, 3)  # [b, G, H/G, S]
        else:
            scores = (grouped.to(key.dtype) @ key.transpose(2, 3)).float()
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores += bias[first : first + len(key)]
        return scores.softmax(dim=-1).to(value.dtype) @ value


class CacheColumns:
    """Attention as by `CacheRows`, over all columns of a cache: the device alone needs to know which of them a row
    looks at.

    starts  [B] the first column of each row
    last    [1] the column of the new tokens
    """

    def __init__(self, starts: Tensor, last: Tensor):
        self.starts, self.last = starts, last
        self._rows: dict[int | None, CacheRows] = {}

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """[B, H, 1, d], [B, G, C, d] x 2 -> [B, 1, H, d]."""
        if window not in self._rows:
            columns = torch.arange(key.shape[2], device=key.device)
            seen = (columns >= self.starts[:, None]) & (columns <= self.last)  # [B, C]
            if window is not None:
                seen &= columns > self.last - window
            self._rows[window] = CacheRows(bias_where(seen)[:, None, None])
        return self._rows[window].attend(query, key, value, scale=scale, window=None, softcap=softcap)


class _Pick(torch.autograd.Function):
    """x[places], no place twice: the gradient is written, where PyTorch's own would be added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        """[n, D], [N] -> [N, D]."""
        ctx.places, ctx.shape = places, x.shape
        return x[places]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """[N, D] -> [n, D]."""
        back = gradient.new_zeros(ctx.shape)
        back[ctx.places] = gradient
        return back, None
