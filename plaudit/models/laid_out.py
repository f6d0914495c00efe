"""Linear layers as sampling computes them, while their weights do not change: from the layout that is read fastest.

Sampling reads every weight once a token. In bfloat16 on a CPU, oneDNN rearranges a plain weight at each product, which
for few rows takes as long as the product itself; and each call costs tens of microseconds whatever its size. So the
weights are rearranged once, and layers that read the same input, with the first halves of their adapters, are one
product. For a handful of rows reading the weights is all that takes time: there they are read where they lie.

B rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from plaudit.models import kernels
from plaudit.models.network import AdaptedLinear, Network

ROWS = 32
"""Rows that the layout is made for; it serves others as well."""
FEW_ROWS = 2
"""Up to which weights are read where they lie."""
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers of one module that read the same input, in the families that keep them apart."""


class Product(Protocol):
    """Linear layers of one input, their outputs side by side."""

    def whole(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B, in] -> [B, all outputs], plus a residual of that shape."""
        ...


Products = dict[nn.Module, Product]
"""First layer of each group of siblings -> the product of all of them."""


@contextmanager
def laid_out(network: Network, rows: int) -> Iterator[Products]:
    """Within, the linear layers of a role that is active compute for so many rows; none may be trained.

    The layers themselves compute from what is prepared once, and so do the products that are handed out.
    """
    products: Products = {}
    changed: list[nn.Module] = []
    few = rows <= FEW_ROWS and kernels.serve(network.body)
    try:
        for group in _groups(network):
            if not few and not _packs_weights(network):
                products[group[0]] = _Plain(group)
                continue
            product = _OfFewRows(group, network.dtype) if few else _Together(group, network.dtype)
            products[group[0]] = product
            for place, module in enumerate(group):
                module.forward = partial(product.one, place)
                changed.append(module)
        yield products
    finally:
        for module in changed:
            del module.forward


def _packs_weights(network: Network) -> bool:
    return (
        network.device.type == "cpu"
        and network.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _groups(network: Network) -> list[list[nn.Module]]:
    """Every linear layer of the role, siblings together."""
    groups: list[list[nn.Module]] = []
    for path, parent in network.body.named_modules():
        if isinstance(parent, AdaptedLinear) or ".lora_" in path:
            continue  # what a layer with an adapter consists of is taken with it
        linear = {
            name: child
            for name, child in parent.named_children()
            if type(child) is nn.Linear or isinstance(child, AdaptedLinear)
        }
        for names in SIBLINGS:
            if all(name in linear for name in names):
                groups.append([linear.pop(name) for name in names])
        groups += [[child] for child in linear.values()]
    if type(network.head) is nn.Linear:
        groups.append([network.head])
    return groups


class _Plain:
    """Layer by layer, as they are."""

    def __init__(self, members: list[nn.Module]):
        self.members = members

    def whole(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B, in] -> [B, all outputs]."""
        parts = [member(x) for member in self.members]
        result = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return result if residual is None else result + residual


class _Together:
    """One product for all: [W1; W2; ...; A1; A2; ...] x, then + B_i (A_i x) to each's part."""

    def __init__(self, members: list[nn.Module], dtype: torch.dtype):
        self.dtype = dtype
        plain: list[Any] = [m.get_base_layer() if isinstance(m, AdaptedLinear) else m for m in members]
        weights = [layer.weight.detach().to(dtype) for layer in plain]
        adapters = [_adapter(m, dtype) for m in members]
        downs = [adapter[0] for adapter in adapters if adapter is not None]
        self.up: Tensor | None = None
        if downs:
            ups = [
                layer.weight.new_zeros(0, len(layer.weight), dtype=dtype) if adapter is None else adapter[1].T
                for layer, adapter in zip(plain, adapters, strict=True)
            ]
            self.up = torch.block_diag(*ups)  # [all ranks, all outputs]
        self.outputs = sum(map(len, weights))
        stacked = torch.cat([*weights, *downs])
        bias = None
        if any(layer.bias is not None for layer in plain):
            biases = [w.new_zeros(len(w)) if p.bias is None else p.bias for w, p in zip(weights, plain, strict=True)]
            bias = torch.cat([*(b.detach().to(dtype) for b in biases), *(d.new_zeros(len(d)) for d in downs)])
        operations: Any = torch.ops.mkldnn
        packed = operations._reorder_linear_weight(stacked, ROWS)
        self.product = partial(_product, packed, bias)
        ends = torch.tensor([len(w) for w in weights]).cumsum(0).tolist()
        self.parts = [slice(end - len(w), end) for end, w in zip(ends, weights, strict=True)]
        self.seen: Tensor | None = None
        self.result: Tensor | None = None

    def one(self, place: int, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] of one layer; the first that sees an input computes for all."""
        if self.seen is not x:
            self.seen, self.result = x, self.whole(x.to(self.dtype))
        assert self.result is not None
        part = self.result[..., self.parts[place]]
        if place == len(self.parts) - 1:
            self.seen = self.result = None
        return part

    def whole(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[..., in] -> [..., all outputs]."""
        if self.up is None:
            return self.product(x, residual)
        result = self.product(x, None)
        flat = result.view(-1, result.shape[-1])
        whole = torch.addmm(flat[:, : self.outputs], flat[:, self.outputs :], self.up)
        if residual is not None:
            whole += residual
        return whole.view(*result.shape[:-1], self.outputs)


def _product(weight: Tensor, bias: Tensor | None, x: Tensor, residual: Tensor | None) -> Tensor:
    operations: Any = torch.ops.mkldnn
    if residual is None:
        return operations._linear_pointwise(x, weight, bias, "none", [], "")
    return operations._linear_pointwise.binary(x, residual, weight, bias, "add")


class _OfFewRows:
    """Layer by layer, for a handful of rows by a kernel that is as fast as weights can be read."""

    def __init__(self, members: list[nn.Module], dtype: torch.dtype):
        self.members = members
        self.layers = [_FewRows(member, dtype) for member in members]
        self.outputs = sum(layer.outputs for layer in self.layers)

    def one(self, place: int, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] of one layer; a prefill has more rows, and goes the layer's own way."""
        member, layer = self.members[place], self.layers[place]
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        if len(flat) > FEW_ROWS:
            kind: Any = type(member)
            return kind.forward(member, x)
        result = x.new_empty(len(flat), layer.outputs)
        with kernels.in_use():
            layer.write(kernels.plain_array(flat), None, kernels.plain_array(result), 0)
        return result.view(*x.shape[:-1], layer.outputs)

    def whole(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B, in] -> [B, all outputs]; where kernels are in use already."""
        result = x.new_empty(len(x), self.outputs)
        given, written = kernels.plain_array(x), kernels.plain_array(result)
        added = None if residual is None else kernels.plain_array(residual)
        at = 0
        for layer in self.layers:
            layer.write(given, added, written, at)
            at += layer.outputs
        return result


class _FewRows:
    """One layer's weights, and its adapter's if one is switched on."""

    def __init__(self, member: nn.Module, dtype: torch.dtype):
        plain: Any = member.get_base_layer() if isinstance(member, AdaptedLinear) else member
        weight = plain.weight.detach().contiguous()
        self.weight = kernels.plain_array(weight)
        self.none = self.weight[0, :0]
        self.bias = self.none if plain.bias is None else kernels.plain_array(plain.bias.detach())
        self.adapter = _adapter(member, dtype)
        self.outputs = len(weight)

    def write(self, x: Any, residual: Any | None, result: Any, at: int) -> None:
        """Into the result's outputs from `at` on; a residual is as wide as the result."""
        threads = kernels.threads()
        kernels.few_rows(x, self.weight, self.bias, result[:0] if residual is None else residual, result, at, threads)
        if self.adapter is not None:
            down, up = (kernels.plain_array(part) for part in self.adapter)
            low = np.empty((len(x), len(down)), x.dtype)
            kernels.few_rows(x, down, self.none, low[:0], low, 0, threads)
            kernels.few_rows(low, up, self.none, result, result, at, threads)


def _adapter(module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """([rank, in], [out, rank]) of the adapter that is switched on, scaled; None without."""
    if not isinstance(module, AdaptedLinear) or module.disable_adapters:
        return None
    (name,) = module.active_adapters
    up = module.lora_B[name].weight.detach() * module.scaling[name]
    return module.lora_A[name].weight.detach().to(dtype), up.to(dtype)
