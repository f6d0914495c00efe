"""One decoding step of a Llama-like body on a CPU: matrix products, and kernels for what is between them.

The same numbers as the body's own modules give, within rounding, in a tenth of the calls.

B rows, D hidden width; H query heads and G key heads of width d; C columns of a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit.models import kernels, machine_code
from plaudit.models.fused_modules import KINDS, window_of
from plaudit.models.laid_out import Product, Products
from plaudit.models.network import Network
from plaudit.models.vectors import LANES


class FusedStep:
    """x + attention(norm(x)), then x + gated(norm(x)), layer by layer."""

    def __init__(self, network: Network, products: Products):
        body: Any = network.body
        self.embed, self.norm, self.rotary = body.embed_tokens, _Norm(body.norm), body.rotary_emb
        self.layers = [_Layer.of(layer, products) for layer in body.layers]
        self.room = machine_code.Room()
        self.attend = kernels.attention(self.layers[0].heads // self.layers[0].groups, self.layers[0].width)

    def __call__(self, tokens: Tensor, positions: Tensor, first: Tensor, column: int, caches: list[Any]) -> Tensor:
        """[B, D] the states after one more token of each row, whose keys and values go to this column.

        tokens, positions  [B]
        first              [B] the first column that each row looks at
        caches             with `keys` and `values` [rows, G, C, d], of each layer
        """
        embedded = self.embed(tokens)  # [B, D]
        rotation = self.rotary(embedded, positions[:, None])
        cos, sin = (machine_code.plain_array(part[:, 0].contiguous()) for part in rotation)
        x, rows, layer, room = machine_code.plain_array(embedded), len(tokens), self.layers[0], self.room
        query = room.of("query", rows, layer.heads * layer.width, np.float32).reshape(rows, layer.heads, layer.width)
        seen_at_most = -(-(column + 1) // LANES) * LANES
        scores = np.empty((rows * layer.groups, layer.heads // layer.groups, seen_at_most), np.float32)
        mixture = room.of("mixed", rows, layer.heads * layer.width, x.dtype)
        normed = room.of("x", rows, x.shape[1], x.dtype)
        starts = first.numpy()
        with machine_code.in_use():
            for layer, cache in zip(self.layers, caches, strict=True):
                states = layer.states.whole(layer.before(x, normed))
                keys, values = (machine_code.plain_array(store) for store in (cache.keys, cache.values))
                kernels.rotate_and_store(
                    states, cos, sin, layer.head_norms, layer.head_epsilon, query, keys, values, column
                )
                seen = starts if layer.window is None else np.maximum(starts, column + 1 - layer.window)
                self.attend(query, keys, values, seen, column + 1, layer.scale, scores, mixture)
                x = layer.mixed.whole(mixture, x)
                sides = layer.gates.whole(layer.between(x, normed))
                gated = room.of("gated", rows, sides.shape[1] // 2, x.dtype)
                kernels.gated(sides, sides, gated.shape[1], gated)
                x = layer.down.whole(gated, x)
            return machine_code.tensor_of(self.norm(x, np.empty_like(x)))


def fused_step(network: Network, products: Products) -> FusedStep | None:
    """None where the body is of another kind, or not on a CPU."""
    layers: Any = getattr(network.body, "layers", None)
    known = [f"{kind}DecoderLayer" for kind in KINDS]
    if not machine_code.serve(network.body) or not layers or any(type(layer).__name__ not in known for layer in layers):
        return None
    config: Any = network.body.config
    if config.hidden_act != "silu":
        return None
    return FusedStep(network, products)


class _Norm:
    """An RMS norm of the body."""

    def __init__(self, module: Any):
        self.weight = machine_code.plain_array(module.weight.detach())
        self.epsilon = np.float32(module.variance_epsilon)

    def __call__(self, x: Any, result: Any) -> Any:
        """[B, D] -> [B, D], the given memory."""
        kernels.rms_norm(x, self.weight, self.epsilon, result)
        return result


@dataclass(frozen=True)
class _Layer:
    """One layer's parts.

    before, between  norms of what goes to attention, and to the gates
    states           to queries, keys and values; `mixed` back to the residual
    gates            to gates and ups; `down` back to the residual
    head_norms       [2, d] weights of the norms of each head of queries and of keys, or [0, d]
    scale            of scores; `window`: how many columns are seen, None for all
    """

    before: _Norm
    between: _Norm
    states: Product
    mixed: Product
    gates: Product
    down: Product
    head_norms: Any
    head_epsilon: np.float32
    heads: int
    groups: int
    width: int
    scale: np.float32
    window: int | None

    @classmethod
    def of(cls, layer: Any, products: Products) -> _Layer:
        """From the body's module."""
        looking, gates = layer.self_attn, layer.mlp
        width, config = looking.head_dim, looking.config
        norms = [getattr(looking, name).weight.detach() for name in ("q_norm", "k_norm") if hasattr(looking, name)]
        weights = torch.stack(norms) if norms else layer.input_layernorm.weight.detach().new_zeros(0, width)
        return cls(
            before=_Norm(layer.input_layernorm),
            between=_Norm(layer.post_attention_layernorm),
            states=products[looking.q_proj],
            mixed=products[looking.o_proj],
            gates=products[gates.gate_proj],
            down=products[gates.down_proj],
            head_norms=machine_code.plain_array(weights),
            head_epsilon=np.float32(looking.q_norm.variance_epsilon if norms else 0.0),
            heads=config.num_attention_heads,
            groups=config.num_key_value_heads,
            width=width,
            scale=np.float32(looking.scaling),
            window=window_of(looking),
        )
