"""One decoding step of a Llama-like body on a CPU: matrix products, and kernels for what is between them.

The same numbers as the body's own modules give, within rounding; in one call where all products are by kernels too, for
at one token a row Python and PyTorch take as long to call a layer's parts as the parts do.

B rows, D hidden width, I of the gates; H query heads and G key heads of width d; C columns of a cache; L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit.cpu import fusing
from plaudit.cpu.fused_modules import KINDS, window_of
from plaudit.cpu.kernels import machine_code, rowwise, tile_unit
from plaudit.cpu.kernels.decode_step import BY_ROWS, decode_step, whole_lanes
from plaudit.cpu.kernels.machine_code import plain_array, tensor_of
from plaudit.cpu.packing import ByKernel, Product, Products
from plaudit.models.attention import PackedRows
from plaudit.models.network import Network
from plaudit.progress import say

MINUS_INFINITY = {"uint16": np.uint16(0xFF80), "float32": np.float32(-np.inf)}
MANY = 2**31
"""More columns than there are."""


class FusedStep:
    """x + attention(norm(x)), then x + gated(norm(x)), layer by layer."""

    def __init__(self, network: Network, products: Products):
        body: Any = network.body
        self.embed, self.norm, self.rotary = body.embed_tokens, _Norm(body.norm), body.rotary_emb
        self.layers = [_Layer.of(layer, products) for layer in body.layers]
        members = self.layers[0].heads // self.layers[0].groups
        self.attend = rowwise.attention(members, self.layers[0].width)
        self.plans, by = _plans(self.layers, self.norm)
        if self.plans is not None:
            self.decode_step = decode_step(members, self.layers[0].width, by)
            self.scratch = tile_unit.workplace()
        self.places: Any = None  # once there is a cache

    def __call__(self, tokens: Tensor, positions: Tensor, first: Tensor, column: int, caches: list[Any]) -> Tensor:
        """[B, D] the states after one more token of each row, whose keys and values go to this column.

        tokens, positions  [B]
        first              [B] the first column that each row looks at
        caches             with `keys` and `values` [rows, G, C, d], of each layer, the same at each step
        """
        embedded = self.embed(tokens)  # [B, D]
        rotation = self.rotary(embedded, positions[:, None])
        cos, sin = (plain_array(part[:, 0].contiguous()) for part in rotation)
        step = self._layer_by_layer if self.plans is None else self._at_once
        with machine_code.in_use():
            return tensor_of(step(plain_array(embedded), cos, sin, first.numpy(), column, caches))

    def fill(self, tokens: Tensor, positions: Tensor, rows: PackedRows, last: Tensor, caches: list[Any]) -> Tensor:
        """[P, D] the states after each prompt of a packed batch, whose keys and values are handed to the caches.

        tokens, positions  [N]
        last               [P] place of each prompt's last token
        caches             of each layer, with an `update` as of `transformers`
        """
        embedded = self.embed(tokens)  # [N, D]
        rotation = self.rotary(embedded, positions[None])
        cos, sin = (plain_array(part[0].contiguous()) for part in rotation)
        x = plain_array(embedded)
        for layer, slots in zip(self.layers, caches, strict=True):
            with machine_code.in_use():
                query, key, value = layer.rotated(layer.states.whole(layer.before(x, np.empty_like(x))), cos, sin)
            heads_first = [part.view(1, len(part), layer.groups, layer.width).transpose(1, 2) for part in (key, value)]
            slots.update(*heads_first)
            parts = [query, key, value]
            mixture = rows.attend_tokens(parts, layer.heads, scale=float(layer.scale), window=layer.window)
            if layer is self.layers[-1]:  # of whose states no more is wanted
                mixture, x = mixture[last], plain_array(tensor_of(x)[last])
            with machine_code.in_use():
                x = layer.after_attention(plain_array(mixture), x, np.empty_like(x))
        with machine_code.in_use():
            return tensor_of(self.norm(x, np.empty_like(x)))

    def _at_once(self, x: Any, cos: Any, sin: Any, first: Any, column: int, caches: list[Any]) -> Any:
        if self.places is None:
            self.places = np.stack([layer.places(cache) for layer, cache in zip(self.layers, caches, strict=True)])
        layer, result = self.layers[0], np.empty_like(x)
        self.decode_step(
            x, cos, sin, self.plans, self.places, self.norm.weight, self.norm.epsilon, layer.head_norms,
            layer.head_epsilon, layer.scale, plain_array(caches[0].keys), first, column, result, self.scratch,
            machine_code.threads(),
        )  # fmt: skip
        return result

    def _layer_by_layer(self, x: Any, cos: Any, sin: Any, first: Any, column: int, caches: list[Any]) -> Any:
        rows, layer = len(x), self.layers[0]
        query = np.empty((rows, layer.heads, layer.width), np.float32)
        scores = np.empty((rows * layer.groups, layer.heads // layer.groups, whole_lanes(column + 1)), np.float32)
        mixture = machine_code.room(rows, layer.heads * layer.width, x)
        normed = machine_code.room(rows, x.shape[1], x)
        for layer, slots in zip(self.layers, caches, strict=True):
            states = layer.states.whole(layer.before(x, normed))
            keys, values = plain_array(slots.keys), plain_array(slots.values)
            rowwise.rotate_and_store(
                states, cos, sin, layer.head_norms, layer.head_epsilon, query, keys, values, column
            )
            seen = np.maximum(first, column + 1 - layer.window)
            self.attend(query, keys, values, seen, column + 1, layer.scale, scores, mixture)
            x = layer.after_attention(mixture, x, normed)
        return self.norm(x, normed)


def fused_step(network: Network, products: Products) -> FusedStep | None:
    """None where the body is of another kind, or kernels gave other numbers than its modules."""
    if fusing.is_wrong(network.body):
        return None
    layers: Any = getattr(network.body, "layers", None)
    known = [f"{kind}DecoderLayer" for kind in KINDS]
    config: Any = network.body.config
    if not layers or any(type(layer).__name__ not in known for layer in layers) or config.hidden_act != "silu":
        _say_by_modules(config.model_type)
        return None
    return FusedStep(network, products)


def draw(
    product: Product, states: Tensor, uniforms: Tensor, *, temperature: float, vocabulary: int | None
) -> tuple[Tensor, Tensor]:
    """([n] tokens, [n] log-probs, nats) of [n, D] states and [n] numbers in [0, 1)."""
    tokens, log_probs = torch.empty(len(states), dtype=torch.long), torch.empty_like(uniforms)
    with machine_code.in_use():
        logits = product.whole(plain_array(states.contiguous()))  # [n, V]
        if vocabulary is not None:
            logits[:, vocabulary:] = MINUS_INFINITY[logits.dtype.name]
        arrays = [plain_array(x.contiguous()) for x in (uniforms, tokens, log_probs)]
        rowwise.draw(logits, np.float32(temperature), *arrays)
    return tokens, log_probs


@cache
def _say_by_modules(family: str) -> None:
    """Once a process."""
    say(f"{family} models are sampled by their own modules on a CPU, more slowly than {', '.join(KINDS)} by kernels.")


class _Norm:
    """An RMS norm of the body."""

    def __init__(self, module: Any):
        self.weight = machine_code.plain_array(module.weight.detach())
        self.epsilon = np.float32(module.variance_epsilon)

    def __call__(self, x: Any, result: Any) -> Any:
        """[B, D] -> [B, D], the given memory."""
        rowwise.rms_norm(x, self.weight, self.epsilon, result)
        return result


@dataclass(frozen=True)
class _Layer:
    """One layer's parts.

    before, between  norms of what goes to attention, and to the gates
    states           to queries, keys and values; `mixed` back to the residual
    gates            to gates and ups; `down` back to the residual
    head_norms       [2, d] weights of the norms of each head of queries and of keys, or [0, d]
    scale            of scores; `window`: how many columns are seen
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
    window: int

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
            window=window_of(looking) or MANY,
        )

    def rotated(self, states: Any, cos: Any, sin: Any) -> tuple[Tensor, Tensor, Tensor]:
        """[N, (H + 2 G) d], [N, d] x 2 -> [N, H d], [N, G d] x 2: queries and keys, turned by positions, and values."""
        of_queries, of_keys = self.heads * self.width, self.groups * self.width
        query, key = (machine_code.room(len(states), size, states) for size in (of_queries, of_keys))
        if len(self.head_norms) > 0:
            begin = 0
            for weight, size in zip(self.head_norms, (of_queries, of_keys), strict=True):
                part = np.ascontiguousarray(states[:, begin : begin + size]).reshape(-1, self.width)
                rowwise.rms_norm(part, weight, self.head_epsilon, part)
                states[:, begin : begin + size] = part.reshape(len(states), size)
                begin += size
        rowwise.rotate(states, 0, cos, sin, np.float32(1), query, 0)
        rowwise.rotate(states, of_queries, cos, sin, np.float32(1), key, 0)
        return tensor_of(query), tensor_of(key), tensor_of(states[:, of_queries + of_keys :]).contiguous()

    def after_attention(self, mixture: Any, x: Any, normed: Any) -> Any:
        """[B, H d], and [B, D] what attention is added to -> [B, D] of the whole layer; `normed`: [B, D] to work in."""
        x = self.mixed.whole(mixture, x)
        sides = self.gates.whole(self.between(x, normed))
        gated = machine_code.room(len(sides), sides.shape[1] // 2, x)
        rowwise.gated(sides, sides, gated.shape[1], gated)
        return self.down.whole(gated, x)

    def places(self, cache: Any) -> list[int]:
        """Addresses in the order of `decode_step`, with this layer's cache."""
        stores = [plain_array(store) for store in (cache.keys, cache.values)]
        read = self.before.weight, self.between.weight, self.head_norms, *stores
        return [*(array.ctypes.data for array in read), self.window]


def _plans(layers: list[_Layer], norm: _Norm) -> tuple[Any, int]:
    """[L, 4, 10] of all products, or None; and the kernel that they are by.

    None unless all are by the same kernel, and all that is read by address is of the same kind of numbers.
    """
    rows = [[layer.states, layer.mixed, layer.gates, layer.down] for layer in layers]
    known = [[product for product in row if isinstance(product, ByKernel)] for row in rows]
    kinds = {product.by for row in known for product in row}
    if known != rows or len(kinds) != 1:
        return None, BY_ROWS
    read = [weight for layer in layers for weight in (layer.before.weight, layer.between.weight, layer.head_norms)]
    if len({array.dtype for array in (norm.weight, *read)} | {product.kind for row in known for product in row}) > 1:
        return None, BY_ROWS
    return np.array([[product.table.plan for product in row] for row in known]), kinds.pop()
