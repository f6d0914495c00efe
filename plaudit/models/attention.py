"""Attention for rollouts: one query token against a cache, grouped heads without expanding them.

PyTorch's fused CPU attention takes about 2 ms a call at query length 1, twenty times its memory traffic.
Two batched matmuls per group are faster; every other shape goes to PyTorch's own.

H query heads in H/G groups of G, S cached positions, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "plaudit"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """`transformers` attention interface: [B, H, 1, d] x [B, H/G, S, d] -> [B, 1, H, d].

    attention_mask   [B, 1, 1, S] bool, true where the query may look; None for everywhere
    """
    if query.shape[2] != 1 or dropout or more.get("softcap") or query.device.type != "cpu":
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    batch, heads, _, width = query.shape
    groups = key.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    grouped = (query * scale).view(batch, groups, heads // groups, width)
    scores = (grouped @ key.transpose(2, 3)).float()  # [B, H/G, G, S]
    if attention_mask is not None:
        allowed = attention_mask[:, :, :, : scores.shape[-1]]
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    mixed = scores.softmax(dim=-1).to(value.dtype) @ value  # [B, H/G, G, d]
    return mixed.reshape(batch, 1, heads, width), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
