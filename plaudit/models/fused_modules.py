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

from plaudit.kernels import machine_code, rowwise
from plaudit.models.attention import PackedRows

KINDS = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Families whose modules are known; SmolLM's are Llama's."""
PARTS = 16
"""Of the rows, whose sums for the gradient of a norm's weight are taken side by side."""


def fuse_modules(body: nn.Module) -> None:
    """Let a body's modules compute by kernels from now on; on other devices, and in other families, nothing changes."""
    if not machine_code.serve(body):
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


def window_of(module: Any) -> int | None:
    """How many columns an attention of these families sees; None for all."""
    window: int | None = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))
    return window


class _Norm:
    """weight x / sqrt(mean(x^2) + epsilon)."""

    def __init__(self, module: Any):
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return _RmsNorm.apply(x, self.module.weight, self.module.variance_epsilon)


class _Gates:
    """down(silu(gate(x)) up(x))."""

    def __init__(self, module: Any):
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        module = self.module
        return module.down_proj(_Gated.apply(module.gate_proj(x), module.up_proj(x)))


class _Attention:
    """A packed batch's queries, keys and values stay as they come from their products, tokens first."""

    def __init__(self, module: Any):
        self.module = module

    def __call__(
        self, hidden_states: Tensor, position_embeddings: Any = None, layout: Any = None, **more: Any
    ) -> tuple[Tensor, None]:
        """[1, N, D] -> [1, N, D]."""
        module = self.module
        if not isinstance(layout, PackedRows) or more.get("past_key_values") is not None:
            kind: Any = type(module)
            given = {"hidden_states": hidden_states, "position_embeddings": position_embeddings, **more}
            return kind.forward(module, **given, **({} if layout is None else {"layout": layout}))
        width = module.head_dim
        query, key, value = (layer(hidden_states)[0] for layer in (module.q_proj, module.k_proj, module.v_proj))
        if hasattr(module, "q_norm"):
            query = module.q_norm(query.view(-1, width)).view(query.shape)
            key = module.k_norm(key.view(-1, width)).view(key.shape)
        cos, sin = (part[0] for part in position_embeddings)  # [N, d]
        query, key = _Rotated.apply(query, cos, sin), _Rotated.apply(key, cos, sin)
        heads = query.shape[1] // width
        mixed = layout.attend_tokens(
            [query, key, value], heads, scale=module.scaling, window=window_of(module)
        )  # [N, H d]
        return module.o_proj(mixed[None]), None


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """[..., D], [D] -> [..., D]."""
        x = x.contiguous()
        result = torch.empty_like(x)
        with machine_code.in_use():
            rowwise.rms_norm(_rows(x), machine_code.plain_array(weight.detach()), np.float32(epsilon), _rows(result))
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Of x and of the weight."""
        x, weight = ctx.saved_tensors
        to_x = torch.empty_like(x)
        trained = ctx.needs_input_grad[1]
        to_weight = np.empty((PARTS if trained else 0, len(weight)), np.float32)
        with machine_code.in_use():
            rowwise.rms_norm_backward(
                _rows(x), machine_code.plain_array(weight.detach()), np.float32(ctx.epsilon),
                _rows(gradient.contiguous()), _rows(to_x), to_weight,
            )  # fmt: skip
        summed = torch.from_numpy(to_weight.sum(axis=0)).to(weight.dtype) if trained else None
        return to_x, summed, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, ups: Tensor) -> Tensor:
        """[..., I] x 2 -> [..., I]."""
        gates, ups = gates.contiguous(), ups.contiguous()
        result = torch.empty_like(gates)
        with machine_code.in_use():
            rowwise.gated(_rows(gates), _rows(ups), 0, _rows(result))
        ctx.save_for_backward(gates, ups)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Of both."""
        gates, ups = ctx.saved_tensors
        to_gates, to_ups = torch.empty_like(gates), torch.empty_like(ups)
        arrays = [_rows(x) for x in (gates, ups, gradient.contiguous(), to_gates, to_ups)]
        with machine_code.in_use():
            rowwise.gated_backward(*arrays)
        return to_gates, to_ups


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[N, H d], [N, d] x 2 -> [N, H d]."""
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Turned back."""
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    x = x.contiguous()
    result = torch.empty_like(x)
    with machine_code.in_use():
        rowwise.rotate(_rows(x), _rows(cos.contiguous()), _rows(sin.contiguous()), np.float32(sign), _rows(result))
    return result


def _rows(x: Tensor) -> Any:
    return machine_code.plain_array(x.detach().view(-1, x.shape[-1]))
