"""Attention over packed rows and over a cache, registered with `transformers` under one name.

The body of a model runs on one row of tokens without padding; attention alone needs to know which tokens belong
together. `transformers` hands the body's extra arguments through to its attention: `layout` says it here.

On a CPU, PyTorch's fused attention is slow where RLHF needs it most: backward in bfloat16, and forward at one query
token. Rows of up to `SHORT` keys therefore go through two batched matmuls and a softmax, scores in float32.

H query heads in H/G groups of G share G key heads; d head width; N tokens of the packed row; A rows of at most Q
queries and S keys.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from plaudit.text.batches import AttentionRows

NAME = "plaudit"
SHORT = 256
"""Keys up to which attention on a CPU holds its probabilities; PyTorch's own computes them again in the backward."""


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


AttentionInterface.register(NAME, attention)


class PackedRows:
    """Attention of a packed batch, whose rows it gathers and scatters."""

    def __init__(self, rows: AttentionRows):
        self.rows = rows
        self._biases: dict[int | None, Tensor] = {}

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """[1, H, N, d], [1, G, N, d] x 2 -> [1, N, H, d]."""
        heads, width = query.shape[1], query.shape[3]
        # Under autocast positions may have made queries and keys float32 again.
        flat = [x[0].transpose(0, 1).reshape(x.shape[2], -1).to(value.dtype) for x in (query, key, value)]  # [N, ...]
        rows = self.rows
        if window is not None and window >= rows.keys.shape[1]:
            window = None
        if softcap is None and query.device.type == "cpu" and rows.keys.shape[1] <= SHORT:
            with torch.autocast("cpu", enabled=False):
                mixed = _ShortRows.apply(*flat, rows, self._bias(window), heads, scale)
        else:
            mixed = self._long(flat, heads, width, scale, window, softcap)
        return mixed.view(1, -1, heads, width)

    def _bias(self, window: int | None) -> Tensor:
        """[A, 1, Q, S] float32: 0 where a query may look, else minus infinity as far as float32 has it."""
        if window not in self._biases:
            allowed = self.rows.allowed(window)
            least = torch.finfo(torch.float32).min
            self._biases[window] = torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, least)[
                :, None
            ]
        return self._biases[window]

    def _long(
        self, flat: list[Tensor], heads: int, width: int, scale: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """[N, H d] by PyTorch's fused attention, row by row of the gathered tokens."""
        rows = self.rows
        query = flat[0][rows.queries].unflatten(-1, (heads, width)).transpose(1, 2)  # [A, H, Q, d]
        key, value = (x[rows.keys].unflatten(-1, (-1, width)).transpose(1, 2) for x in flat[1:])  # [A, G, S, d]
        copies = heads // key.shape[1]
        causal = not rows.shared and window is None
        if softcap is not None:
            key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
            scores = (query.float() @ key.float().transpose(2, 3)) * scale
            scores = softcap * torch.tanh(scores / softcap) + self._bias(window)
            mixed = scores.softmax(dim=-1).to(value.dtype) @ value
        elif causal:
            mixed = nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=copies > 1
            )
        else:  # the kernels that take a mask know no groups
            key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
            mask = self._bias(window).to(query.dtype).clamp(min=torch.finfo(query.dtype).min)
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        return mixed.transpose(1, 2).reshape(-1, heads * width)[rows.owners]


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
        if key.device.type == "cpu":  # exact scores, and faster than having bfloat16 keys copied for the product
            scores = grouped.float() @ key.float().transpose(2, 3)  # [B, G, H/G, S]
        else:
            scores = (grouped.to(key.dtype) @ key.transpose(2, 3)).float()
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores += bias
        mixed = scores.softmax(dim=-1).to(value.dtype) @ value  # [B, G, H/G, d]
        return mixed.reshape(batch, 1, heads, width)


class _ShortRows(torch.autograd.Function):
    """softmax(scale Q K' + bias) V of every row; the probabilities are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: AttentionRows, bias: Tensor, heads: int, scale: float
    ) -> Tensor:
        """[N, H d], [N, G d] x 2, [A, 1, Q, S] -> [N, H d]."""
        width = query.shape[1] // heads
        grouped = _gather(query, rows.queries, key.shape[1] // width, width)  # [A G, H/G Q, d]
        keys, values = (_gather(x, rows.keys, key.shape[1] // width, width) for x in (key, value))  # [A G, S, d]
        # scores in float32: bfloat16 would round an exponent of 20 by 0.06
        scores = torch.bmm(grouped.float() * scale, keys.float().transpose(1, 2))
        by_head = scores.view(len(rows.keys), heads, -1, scores.shape[-1])  # [A, H, Q, S]
        chances = by_head.add_(bias).softmax(dim=-1).to(value.dtype).view(scores.shape)
        ctx.save_for_backward(grouped, keys, values, chances)
        ctx.rows, ctx.scale, ctx.heads = rows, scale, heads
        return _scatter_queries(torch.bmm(chances, values), rows, heads)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the three inputs."""
        query, keys, values, chances = ctx.saved_tensors
        rows, heads = ctx.rows, ctx.heads
        count, longest = rows.queries.shape
        spread = gradient.new_zeros(count * longest, gradient.shape[1])
        spread[rows.owners] = gradient
        groups = keys.shape[0] // count
        back = spread.view(count, longest, groups, -1, keys.shape[-1]).permute(0, 2, 3, 1, 4)
        back = back.reshape(count * groups, -1, keys.shape[-1])  # [A G, H/G Q, d]
        to_chances = torch.bmm(back, values.transpose(1, 2))
        to_scores = torch.ops.aten._softmax_backward_data(to_chances, chances, -1, chances.dtype)
        to_query = _scatter_queries(torch.bmm(to_scores, keys).mul_(ctx.scale), rows, heads)
        to_keys = torch.bmm(to_scores.transpose(1, 2), query).mul_(ctx.scale)  # [A G, S, d]
        to_values = torch.bmm(chances.transpose(1, 2), back)
        return to_query, _add_keys(to_keys, rows), _add_keys(to_values, rows), None, None, None, None


def _gather(flat: Tensor, places: Tensor, groups: int, width: int) -> Tensor:
    """[N, H d] -> [A G, H/G Q, d], the tokens of each row."""
    rows = flat[places].view(*places.shape, groups, -1, width)  # [A, Q, G, H/G, d]
    return rows.permute(0, 2, 3, 1, 4).reshape(len(places) * groups, -1, width)


def _scatter_queries(grouped: Tensor, rows: AttentionRows, heads: int) -> Tensor:
    """[A G, H/G Q, d] -> [N, H d]: every token is the query of exactly one row."""
    count, longest = rows.queries.shape
    by_head = grouped.view(count, heads, longest, -1)
    return by_head.transpose(1, 2).reshape(count * longest, -1)[rows.owners]


def _add_keys(grouped: Tensor, rows: AttentionRows) -> Tensor:
    """[A G, S, d] -> [N, G d]: a token that is a key of several rows gets the sum, in float32."""
    count, longest = rows.keys.shape
    flat = grouped.view(count, -1, longest, grouped.shape[-1]).transpose(1, 2).reshape(count * longest, -1)
    if not rows.shared:
        return flat[rows.owners]  # queries and keys are the same tokens
    total = torch.zeros(len(rows.owners), flat.shape[1], dtype=torch.float32, device=flat.device)
    # past a row's end the places are 0 and the gradients too, since nothing attends there
    return total.index_add_(0, rows.keys.flatten(), flat.float()).to(flat.dtype)
