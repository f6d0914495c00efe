"""Norms, gates and attention of Llama-like bodies on a CPU, each as one pass over memory forward and one backward.

The modules' own forwards make a float32 copy of a batch, or a product of it with itself, at each of a dozen operations.
What they compute is in their kinds' names; those alone are taken over, and compute the same within rounding.

N tokens of a packed batch; D hidden width, I of the gates; H query heads and G key heads of width d.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from plaudit import cpu
from plaudit.cpu.fused_projections import GATES, STATES, FusedProjections
from plaudit.cpu.kernels import machine_code, rowwise
from plaudit.models.attention import PackedRows

KINDS = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Families whose modules are known; SmolLM's are Llama's."""
PARTS = 16
"""Parts of the rows, whose sums for the gradient of a norm's weight are taken side by side."""


def fuse_modules(body: nn.Module) -> None:
    """Let a body's modules compute by kernels from now on; on other devices, and in other families, nothing changes."""
    if not cpu.serves(body):
        return
    config: Any = getattr(body, "config", None)
    for module in body.modules():
        name = type(module).__name__
        if name in [f"{kind}RMSNorm" for kind in KINDS]:
            module.forward = _Norm(module)
        elif name in [f"{kind}MLP" for kind in KINDS] and config.hidden_act == "silu":
            module.forward = _Gates(module)
        elif name in [f"{kind}Attention" for kind in KINDS]:
            module.forward = _Attention(module)
        elif name in [f"{kind}DecoderLayer" for kind in KINDS]:
            module.forward = _Layer(module)


def window_of(module: Any) -> int | None:
    """How many columns an attention of these families sees; None for all."""
    window: int | None = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))
    return window


class _Layer:
    """x + attention(norm(x)), then x + gates(norm(x))."""

    def __init__(self, module: Any):
        self.module = module

    def __call__(self, hidden_states: Tensor, **named: Any) -> Tensor:
        """[..., D] -> [..., D]."""
        module = self.module
        states, normed = _normed(hidden_states, None, module.input_layernorm)
        mixed, _ = module.self_attn(hidden_states=normed, **named)
        states, normed = _normed(states, mixed, module.post_attention_layernorm)
        return states + module.mlp(normed)


def _normed(x: Tensor, more: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """(x + more, the norm of that)."""
    states, normed = _RmsNorm.apply(x, more, norm.weight, norm.variance_epsilon)
    return states, normed


class _Norm:
    """weight x / sqrt(mean(x^2) + epsilon)."""

    def __init__(self, module: Any):
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return _normed(x, None, self.module)[1]


class _Gates:
    """down(silu(gate(x)) up(x))."""

    def __init__(self, module: Any):
        self.module = module
        self.both, self.down = FusedProjections(module, GATES), FusedProjections(module, ("down_proj",))

    def __call__(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.down(_Gated.apply(self.both(x)))


class _Attention:
    """A packed batch's queries, keys and values stay as they come from their product, tokens first."""

    def __init__(self, module: Any):
        self.module = module
        self.states, self.out = FusedProjections(module, STATES), FusedProjections(module, ("o_proj",))

    def __call__(
        self, hidden_states: Tensor, position_embeddings: Any = None, layout: Any = None, **more: Any
    ) -> tuple[Tensor, None]:
        """[1, N, D] -> [1, N, D]."""
        module = self.module
        if not isinstance(layout, PackedRows) or more.get("past_key_values") is not None:
            kind: Any = type(module)
            given = {"hidden_states": hidden_states, "position_embeddings": position_embeddings, **more}
            return kind.forward(module, **given, **({} if layout is None else {"layout": layout}))
        states, width = self.states(hidden_states)[0], module.head_dim  # [N, (H + 2 G) d]
        groups = states.shape[1] // width // (module.num_key_value_groups + 2)
        heads = groups * module.num_key_value_groups
        if hasattr(module, "q_norm"):
            query, key, value = states.split([heads * width, groups * width, groups * width], dim=1)
            query = module.q_norm(query.reshape(-1, width)).view(query.shape)
            key = module.k_norm(key.reshape(-1, width)).view(key.shape)
            states = torch.cat([query, key, value], dim=1)
        cos, sin = (part[0] for part in position_embeddings)  # [N, d]
        rotated = _Rotated.apply(states, cos, sin, heads * width, groups * width)
        mixed = layout.attend_tokens(list(rotated), heads, scale=module.scaling, window=window_of(module))  # [N, H d]
        return self.out(mixed[None]), None


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, more: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """[..., D], [..., D] or None, [D] -> [..., D] x + more, and [..., D] the norm of it."""
        x = x.contiguous()
        result, scale = torch.empty_like(x), machine_code.plain_array(weight.detach())
        total = x if more is None else torch.empty_like(x)
        with machine_code.in_use():
            if more is None:
                rowwise.rms_norm(_rows(x), scale, np.float32(epsilon), _rows(result))
            else:
                added = _rows(more.contiguous())
                rowwise.add_rms_norm(_rows(x), added, scale, np.float32(epsilon), _rows(total), _rows(result))
        ctx.save_for_backward(total, weight)
        ctx.epsilon = epsilon
        ctx.set_materialize_grads(False)
        return total, result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_total: Tensor | None, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of x, more and the weight."""
        x, weight = ctx.saved_tensors
        _, to_more, trained, _ = ctx.needs_input_grad
        if gradient is None:
            return to_total, to_total if to_more else None, None, None
        to_x = torch.empty_like(x)
        to_weight = np.empty((PARTS if trained else 0, len(weight)), np.float32)
        elsewhere = x.new_empty(0, x.shape[-1]) if to_total is None else to_total.contiguous()
        with machine_code.in_use():
            rowwise.rms_norm_backward(
                _rows(x), machine_code.plain_array(weight.detach()), np.float32(ctx.epsilon),
                _rows(gradient.contiguous()), _rows(elsewhere), _rows(to_x), to_weight,
            )  # fmt: skip
        summed = torch.from_numpy(to_weight.sum(axis=0)).to(weight.dtype) if trained else None
        return to_x, to_x if to_more else None, summed, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        """[..., 2 I], gates and ups side by side -> [..., I]."""
        both = both.contiguous()
        inner = both.shape[-1] // 2
        result = both.new_empty(*both.shape[:-1], inner)
        with machine_code.in_use():
            rowwise.gated(_rows(both), _rows(both), inner, _rows(result))
        ctx.save_for_backward(both)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Gradients of both."""
        (both,) = ctx.saved_tensors
        result = torch.empty_like(both)
        with machine_code.in_use():
            rowwise.gated_backward(_rows(both), _rows(gradient.contiguous()), _rows(result))
        return result


class _Rotated(torch.autograd.Function):
    """Queries and keys turned by their tokens' positions, and values as they are."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, cos: Tensor, sin: Tensor, of_queries: int, of_keys: int
    ) -> tuple[Tensor, ...]:
        """[N, (H + 2 G) d], [N, d] x 2, H d, G d -> [N, H d], [N, G d] x 2."""
        states, cos, sin = (x.contiguous() for x in (states, cos, sin))
        ctx.save_for_backward(cos, sin)
        query, key = states.new_empty(len(states), of_queries), states.new_empty(len(states), of_keys)
        angles = _rows(cos), _rows(sin), np.float32(1)
        with machine_code.in_use():
            rowwise.rotate(_rows(states), 0, *angles, _rows(query), 0)
            rowwise.rotate(_rows(states), of_queries, *angles, _rows(key), 0)
        return query, key, states[:, of_queries + of_keys :].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_query: Tensor, to_key: Tensor, to_value: Tensor) -> tuple[Tensor | None, ...]:
        """Turned back."""
        cos, sin = ctx.saved_tensors
        of_queries, of_keys = to_query.shape[1], to_key.shape[1]
        result = to_query.new_empty(len(to_query), of_queries + 2 * of_keys)
        angles = _rows(cos), _rows(sin), np.float32(-1)
        with machine_code.in_use():
            rowwise.rotate(_rows(to_query.contiguous()), 0, *angles, _rows(result), 0)
            rowwise.rotate(_rows(to_key.contiguous()), 0, *angles, _rows(result), of_queries)
        result[:, of_queries + of_keys :] = to_value
        return result, None, None, None, None


def _rows(x: Tensor) -> Any:
    return machine_code.plain_array(x.detach().view(-1, x.shape[-1]))
