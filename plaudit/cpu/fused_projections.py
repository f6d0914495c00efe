"""Linear layers that read the same input, computed and trained side by side on a CPU: one product for three.

N tokens; k inputs, and n outputs of all layers together; R of all adapters' ranks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from plaudit.cpu.kernels import linear
from plaudit.models.network import AdaptedLinear

STATES, GATES = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""Names of layers of one module that read the same input, in the families that keep them apart."""


class FusedProjections:
    """[W1; W2; ...] x + bias, and + [B1 A1 x; B2 A2 x; ...] where the layers have adapters."""

    def __init__(self, parent: nn.Module, names: Sequence[str]):
        """The layers of these names, looked up at each call: they are given adapters later."""
        self.parent, self.names = parent, names

    def __call__(self, x: Tensor) -> Tensor:
        """[..., k] -> [..., n]."""
        members: list[Any] = [getattr(self.parent, name) for name in self.names]
        adapted = [isinstance(member, AdaptedLinear) for member in members]
        if not all(map(_is_plain, members)) or (len(members) == 1 and not adapted[0]):
            parts = [member(x) for member in members]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        layers = [m.get_base_layer() if has else m for m, has in zip(members, adapted, strict=True)]
        adapters = [m.switched_on() if has else None for m, has in zip(members, adapted, strict=True)]
        halves = [adapter[:2] for adapter in adapters if adapter is not None]
        form = _Form(
            [len(layer.weight) for layer in layers],
            [layer.bias is not None for layer in layers],
            [None if adapter is None else (len(adapter[0]), adapter[2]) for adapter in adapters],
        )
        given = (
            *(layer.weight for layer in layers), *(layer.bias for layer in layers if layer.bias is not None),
            *(down for down, _ in halves), *(up for _, up in halves),
        )  # fmt: skip
        result: Tensor = _SideBySide.apply(x.reshape(-1, x.shape[-1]), form, *given)
        return result.view(*x.shape[:-1], -1)


def _is_plain(module: Any) -> bool:
    """Whether a layer computes what its kind says, in one precision, and nobody computes it in its stead."""
    if isinstance(module, AdaptedLinear):
        return "forward" not in vars(module) and _is_plain(module.get_base_layer())
    forward = vars(module).get("forward")
    return type(module) is nn.Linear and (forward is None or isinstance(forward, linear.FusedLinear))


@dataclass(frozen=True)
class _Form:
    """Shapes of fused projections: outputs of each, whether each has a bias, (rank, scale) of its adapter or None."""

    outputs: list[int]
    has_bias: list[bool]
    adapters: list[tuple[int, float] | None]

    def sorted(self, given: Sequence[Any]) -> tuple[Sequence[Any], ...]:
        """Weights, biases, first and second halves of adapters."""
        adapters = sum(adapter is not None for adapter in self.adapters)
        parts, at = [], 0
        for count in (len(self.outputs), sum(self.has_bias), adapters, adapters):
            parts.append(given[at : at + count])
            at += count
        return tuple(parts)

    def bias(self, biases: Sequence[Tensor], like: Tensor) -> Tensor | None:
        """[n] of all; None without any."""
        if not biases:
            return None
        there = iter(biases)
        return torch.cat(
            [next(there) if has else like.new_zeros(n) for n, has in zip(self.outputs, self.has_bias, strict=True)]
        )

    def blocks(self) -> list[tuple[slice, slice, float]]:
        """(ranks, outputs, scale) of each adapter, where its numbers lie among those of all."""
        found, at, column = [], 0, 0
        for outputs, adapter in zip(self.outputs, self.adapters, strict=True):
            if adapter is not None:
                rank, scale = adapter
                found.append((slice(at, at + rank), slice(column, column + outputs), scale))
                at += rank
            column += outputs
        return found


class _SideBySide(torch.autograd.Function):
    """Adapters are rounded to the precision of x for the products, as `AdaptedLinear` does it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, form: _Form, *given: Tensor) -> Tensor:
        """[N, k] -> [N, n]."""
        weights, biases, downs, ups = form.sorted(given)
        weight, low, down, up = beside_each_other(weights), None, None, None
        result = linear.product(x, weight.T, form.bias(biases, x))
        blocks = form.blocks()
        if blocks:
            down = torch.cat(list(downs)).to(x.dtype)  # [R, k]
            up = x.new_zeros(len(down), len(weight))  # [R, n], each adapter's second half where its outputs are
            for (ranks, outputs, scale), half in zip(blocks, ups, strict=True):
                up[ranks, outputs] = (half * scale).T
            low = x @ down.T  # [N, R]
            result.addmm_(low, up)
        ctx.form, ctx.blocks = form, blocks
        learns = any(tensor.requires_grad for tensor in (*weights, *downs))
        ctx.save_for_backward(x if learns else None, weight, down, up, low)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of everything given."""
        x, weight, down, up, low = ctx.saved_tensors
        form, needed = ctx.form, ctx.needs_input_grad[2:]
        asked = form.sorted(needed)
        gradient = gradient.contiguous()
        to_x = linear.product(gradient, weight) if ctx.needs_input_grad[0] else None
        to_weights: Sequence[Tensor | None] = [None] * len(asked[0])
        if any(asked[0]):
            to_weights = linear.gradient_of_weight(gradient, x).split(form.outputs)
        to_biases: list[Tensor | None] = [None] * len(asked[1])
        if any(asked[1]):
            sums = gradient.sum(dim=0).split(form.outputs)
            to_biases = [part for part, has in zip(sums, form.has_bias, strict=True) if has]
        to_downs: list[Tensor | None] = [None] * len(asked[2])
        to_ups: list[Tensor | None] = [None] * len(asked[3])
        if ctx.blocks:
            to_low = gradient @ up.T  # [N, R]
            if to_x is not None:
                to_x.addmm_(to_low, down)
            if any(asked[2]):
                to_down = (to_low.T @ x).float()
                to_downs = [to_down[ranks] for ranks, _, _ in ctx.blocks]
            if any(asked[3]):
                to_up = (low.T @ gradient).float()
                to_ups = [to_up[ranks, outputs].T * scale for ranks, outputs, scale in ctx.blocks]
        found = *to_weights, *to_biases, *to_downs, *to_ups
        return to_x, None, *[g if wanted else None for g, wanted in zip(found, needed, strict=True)]


def weights_in_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """All weights, those of linear layers that read the same input together: where they will be one product."""
    groups: list[list[nn.Parameter]] = []
    for parent in model.modules():
        for names in (STATES, GATES):
            layers: list[Any] = [getattr(parent, name, None) for name in names]
            if all(type(layer) is nn.Linear for layer in layers) and len({layer.in_features for layer in layers}) == 1:
                groups.append([layer.weight for layer in layers])
    taken = {id(weight) for group in groups for weight in group}
    return groups + [[weight] for weight in model.parameters() if id(weight) not in taken]


def beside_each_other(weights: Sequence[Tensor]) -> Tensor:
    """[n1, k], [n2, k], ... -> [n, k], the same memory, to which they are moved the first time."""
    found = as_one(weights)
    if found is not None:
        return found
    together = torch.cat([weight.detach() for weight in weights])
    for its, part in zip(weights, together.split([len(weight) for weight in weights]), strict=True):
        its.data = part
    return together


def as_one(weights: Sequence[Tensor]) -> Tensor | None:
    """[n, k] of those that lie beside each other; None where they do not."""
    first = weights[0].detach()
    place = first.data_ptr()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if weight.data_ptr() != place or not same or not weight.is_contiguous():
            return first if len(weights) == 1 else None
        place += weight.element_size() * weight.numel()
    return first.as_strided((sum(map(len, weights)), first.shape[1]), (first.shape[1], 1))
