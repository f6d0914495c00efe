"""Weights in the layout that the processor's matrix products read fastest, while they do not change.

Sampling reads every weight once a token. In bfloat16 on a CPU, oneDNN rearranges a plain weight at each product, which
for few rows takes as long as the product itself; and each call costs tens of microseconds whatever its size. So the
weights are rearranged once, and layers that read the same input, with the first halves of their adapters, are one
product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plaudit.models.network import AdaptedLinear, Network

ROWS = 32
"""Rows that the layout is made for; it serves others as well."""
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers of one module that read the same input, in the families that keep them apart."""


@contextmanager
def laid_out(network: Network) -> Iterator[None]:
    """Within, the linear layers of a role that is active compute from weights prepared once; none may be trained.

    On other devices and in other precisions nothing changes.
    """
    changed: list[nn.Module] = []
    try:
        if _packs_weights(network):
            for group in _groups(network):
                together = _Together(group, network.dtype)
                for place, module in enumerate(group):
                    module.forward = partial(together.one, place)
                    changed.append(module)
        yield
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


class _Together:
    """Linear layers of one input as one product: [W1; W2; ...; A1; A2; ...] x, then + B_i (A_i x) to each's part."""

    def __init__(self, members: list[nn.Module], dtype: torch.dtype):
        self.dtype = dtype
        plain: list[Any] = [m.get_base_layer() if isinstance(m, AdaptedLinear) else m for m in members]
        weights = [layer.weight.detach().to(dtype) for layer in plain]
        adapters = [_adapter(m, dtype) for m in members]
        downs = [adapter[0] for adapter in adapters if adapter is not None]
        self.up: Tensor | None = None
        if downs:
            ups = [
                layer.weight.new_zeros(0, len(layer.weight), dtype=dtype) if adapter is None else adapter[1]
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
            self.seen, self.result = x, self._compute(x.to(self.dtype))
        assert self.result is not None
        part = self.result[..., self.parts[place]]
        if place == len(self.parts) - 1:
            self.seen = self.result = None
        return part

    def _compute(self, x: Tensor) -> Tensor:
        result = self.product(x)
        if self.up is None:
            return result
        flat = result.view(-1, result.shape[-1])
        whole = torch.addmm(flat[:, : self.outputs], flat[:, self.outputs :], self.up)
        return whole.view(*result.shape[:-1], self.outputs)


def _product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    operations: Any = torch.ops.mkldnn
    return operations._linear_pointwise(x, weight, bias, "none", [], "")


def _adapter(module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """([rank, in], [rank, out]) of the adapter that is switched on, scaled; None without."""
    if not isinstance(module, AdaptedLinear) or module.disable_adapters:
        return None
    (name,) = module.active_adapters
    up = module.lora_B[name].weight.detach() * module.scaling[name]
    return module.lora_A[name].weight.detach().to(dtype), up.to(dtype).T.contiguous()
