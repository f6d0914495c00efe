"""Linear layers as sampling computes them, while their weights do not change: from the layout that is read fastest.

Sampling reads every weight once a token. In bfloat16 on a CPU, oneDNN rearranges a plain weight at each product, which
for few rows takes as long as the product itself; and each call costs tens of microseconds whatever its size. So layers
that read the same input, with the first halves of their adapters, are one product, by kernels that read the weights
where they lie: one for a handful of rows, where reading them is all that takes time, one for processors with a tile
unit, and one for those that multiply pairs. On others the weights are rearranged once for oneDNN.

B rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from plaudit import cpu
from plaudit.cpu.fused_projections import GATES, STATES, as_one
from plaudit.cpu.kernels import blocks, few_rows, linear, machine_code, pairs, tile_unit, tiles
from plaudit.cpu.kernels.decode_step import BY_PAIRS, BY_ROWS, BY_TILES
from plaudit.cpu.kernels.linear_table import LinearTable
from plaudit.models.network import AdaptedLinear, Network

ROWS = 32
"""Rows that the layout is made for; it serves others as well."""
MOST_ROWS = {BY_ROWS: 2, BY_PAIRS: 256, BY_TILES: 256}
"""Which a kernel is used for: beyond, oneDNN's blocks are faster than reading a weight once."""


class Product(Protocol):
    """Linear layers of one input, their outputs side by side."""

    def whole(self, x: Any, residual: Any | None = None) -> Any:
        """[B, in] -> [B, all outputs], plus a residual of that shape; as kernels have numbers, and where they run."""
        ...


Products = dict[nn.Module, Product]
"""First layer of each group of siblings -> the product of all of them."""


@contextmanager
def packed(network: Network, rows: int) -> Iterator[Products]:
    """Within, the linear layers of a role that is active compute for so many rows; none may be trained.

    The layers themselves compute from what is prepared once, and so do the products that are handed out.
    """
    products: Products = {}
    own: dict[nn.Module, Any] = {}
    make = _maker(network, rows)
    try:
        for group in _groups(network):
            if make is None:
                products[group[0]] = _Plain(group)
                continue
            product = make(group)
            products[group[0]] = product
            for place, module in enumerate(group):
                own[module] = vars(module).get("forward")
                module.forward = partial(product.one, place)
        yield products
    finally:
        for module, forward in own.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _maker(network: Network, rows: int) -> Callable[[list[nn.Module]], _FusedProduct] | None:
    """Function that makes the product for a group of layers; None where the layers' own are as good."""
    dtype, packs = network.dtype, _packs_weights(network)
    few = rows <= MOST_ROWS[BY_ROWS] and cpu.serves(network.body)
    of_blocks = BY_TILES if tile_unit.available() else BY_PAIRS if pairs.available() else None

    def make(group: list[nn.Module]) -> _FusedProduct:
        first: Any = group[0]
        more = of_blocks if packs and blocks.fit(first.in_features) else None
        by = BY_ROWS if few else more
        return (
            ByKernel(group, dtype, by, more) if by is not None and rows <= MOST_ROWS[by] else _Rearranged(group, dtype)
        )

    return make if few or packs else None


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
        for names in (STATES, GATES):
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

    def whole(self, x: Any, residual: Any | None = None) -> Any:
        """[B, in] -> [B, all outputs]."""
        parts = [member(machine_code.tensor_of(x)) for member in self.members]
        result = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return machine_code.plain_array(result if residual is None else result + machine_code.tensor_of(residual))


class _FusedProduct(ABC):
    """Layers of one input; the first that sees an input computes for all."""

    def __init__(self, members: list[nn.Module], dtype: torch.dtype):
        self.members, self.dtype = members, dtype
        self.own: list[Callable[[Tensor], Tensor]] = [member.forward for member in members]
        self.layers: list[Any] = [m.get_base_layer() if isinstance(m, AdaptedLinear) else m for m in members]
        self.sizes = [len(layer.weight) for layer in self.layers]
        self.outputs = sum(self.sizes)
        self.adapters = [_adapter(m, dtype) for m in members]
        self.biases = [None if layer.bias is None else layer.bias.detach().to(dtype) for layer in self.layers]
        self.seen: Tensor | None = None
        self.result: Tensor | None = None

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor] | None:
        """[all ranks, in] and [all ranks, all outputs] of adapters side by side; None without any."""
        return _halves(self.adapters, self.sizes)

    def bias(self) -> Tensor | None:
        """[all outputs]; None without any."""
        if all(bias is None for bias in self.biases):
            return None
        given = zip(self.sizes, self.biases, strict=True)
        return torch.cat([torch.zeros(n, dtype=self.dtype) if bias is None else bias for n, bias in given])

    def one(self, place: int, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] of one layer."""
        if self.seen is not x:
            self.seen, self.result = x, self.outputs_of(x.to(self.dtype))
        assert self.result is not None
        part = self.result.split(self.sizes, dim=-1)[place]
        if place == len(self.sizes) - 1:
            self.seen = self.result = None
        return part

    @abstractmethod
    def outputs_of(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., all outputs], to be kept for as long as it is wanted."""

    @abstractmethod
    def whole(self, x: Any, residual: Any | None = None) -> Any:
        """[B, in] -> [B, all outputs], as a `Product` does it."""


class _Rearranged(_FusedProduct):
    """One product for all: [W1; W2; ...; A1; A2; ...] x, then + B_i (A_i x) to each's part."""

    def __init__(self, members: list[nn.Module], dtype: torch.dtype):
        super().__init__(members, dtype)
        weights, bias = [layer.weight.detach().to(dtype) for layer in self.layers], self.bias()
        if self.halves is not None:
            down, _ = self.halves
            weights.append(down)
            bias = None if bias is None else torch.cat([bias, bias.new_zeros(len(down))])
        operations: Any = torch.ops.mkldnn
        self.product = partial(_product, operations._reorder_linear_weight(torch.cat(weights), ROWS), bias)

    def outputs_of(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[..., in] -> [..., all outputs]."""
        if self.halves is None:
            return self.product(x, residual)
        result = self.product(x, None)
        flat = result.view(-1, result.shape[-1])
        whole = torch.addmm(flat[:, : self.outputs], flat[:, self.outputs :], self.halves[1])
        if residual is not None:
            whole += residual
        return whole.view(*result.shape[:-1], self.outputs)

    def whole(self, x: Any, residual: Any | None = None) -> Any:
        """[B, in] -> [B, all outputs]."""
        added = None if residual is None else machine_code.tensor_of(residual)
        return machine_code.plain_array(self.outputs_of(machine_code.tensor_of(x), added))


def _product(weight: Tensor, bias: Tensor | None, x: Tensor, residual: Tensor | None) -> Tensor:
    operations: Any = torch.ops.mkldnn
    if residual is None:
        return operations._linear_pointwise(x, weight, bias, "none", [], "")
    return operations._linear_pointwise.binary(x, residual, weight, bias, "add")


class ByKernel(_FusedProduct):
    """Products by kernels that read weights where they lie, or by PyTorch for more rows than they are good for."""

    def __init__(self, members: list[nn.Module], dtype: torch.dtype, by: int, more: int | None):
        """Use one kernel, and for more rows than are sampled, as prompts have them, another one if there is any."""
        super().__init__(members, dtype)
        self.weights = [layer.weight.detach().to(dtype).contiguous() for layer in self.layers]
        self.table = LinearTable(self.weights, self.biases, self.adapters)
        self.by, self.more = by, more
        self.kind = machine_code.plain_array(self.weights[0]).dtype

    def _kernel_for(self, rows: int) -> int | None:
        return next((by for by in (self.by, self.more) if by is not None and rows <= MOST_ROWS[by]), None)

    def one(self, place: int, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] of one layer; a prefill of many rows goes the layer's own way."""
        if self._kernel_for(x.numel() // x.shape[-1]) is None:
            return self.own[place](x)
        return super().one(place, x)

    def outputs_of(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., all outputs]."""
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        with machine_code.in_use():
            result = machine_code.tensor_of(self.whole(machine_code.plain_array(flat)))
        return result.view(*x.shape[:-1], self.outputs)

    def whole(self, x: Any, residual: Any | None = None) -> Any:
        """[B, in] -> [B, all outputs]."""
        assert x.dtype == self.kind  # kernels take what the table's addresses point to for the same
        by = self._kernel_for(len(x))
        if by is None:
            return self._by_layers(x, residual)
        result = machine_code.room(len(x), self.outputs, x)
        plan, added = self.table.plan, result[:0] if residual is None else residual
        if by == BY_ROWS:
            few_rows.product(x, plan, added, result, machine_code.threads())
        else:
            product = tiles.product if by == BY_TILES else pairs.product
            product(x, plan, plan, added, result, tile_unit.workplace(), machine_code.threads())
        return result

    def _by_layers(self, x: Any, residual: Any | None) -> Any:
        given = machine_code.tensor_of(x)
        weight = as_one(self.weights)  # they are not moved: a large model's stay in their file
        if weight is not None:
            result = linear.product(given, weight.T, self.bias())
        else:
            parts = zip(self.weights, self.biases, strict=True)
            result = torch.cat([linear.product(given, weight.T, bias) for weight, bias in parts], dim=1)
        if self.halves is not None:
            down, up = self.halves
            result.addmm_(given @ down.T, up)
        if residual is not None:
            result += machine_code.tensor_of(residual)
        return machine_code.plain_array(result)


def _adapter(module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """([rank, in], [out, rank]) of the adapter that is switched on, scaled; None without."""
    adapter = module.switched_on() if isinstance(module, AdaptedLinear) else None
    if adapter is None:
        return None
    down, up, scale = adapter
    return down.detach().to(dtype), (up.detach() * scale).to(dtype)


def _halves(adapters: list[tuple[Tensor, Tensor] | None], sizes: list[int]) -> tuple[Tensor, Tensor] | None:
    downs = [adapter[0] for adapter in adapters if adapter is not None]
    if not downs:
        return None
    down = torch.cat(downs)
    up, rank, column = down.new_zeros(len(down), sum(sizes)), 0, 0
    for adapter, size in zip(adapters, sizes, strict=True):
        if adapter is not None:
            up[rank : rank + len(adapter[0]), column : column + size] = adapter[1].T
            rank += len(adapter[0])
        column += size
    return down, up
