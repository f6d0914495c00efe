"""Modules that compute by kernels, left so where each layer then gives what its own modules gave."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from plaudit.cpu.fused_modules import fuse_modules
from plaudit.cpu.kernels.linear import fuse_linear
from plaudit.progress import warn

PROBED = 12
"""Tokens of the text by which kernels are tried."""
MOST_OFF = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Root mean square error of a layer's outputs by kernels, as a share of theirs; rounding takes a tenth of these."""
_wrong: WeakSet[nn.Module] = WeakSet()


def is_wrong(body: nn.Module) -> bool:
    """Whether kernels were tried on a body and gave other numbers than its own modules."""
    return body in _wrong


@torch.no_grad()
def fuse(body: nn.Module) -> None:
    """Let modules compute by kernels, if each layer then gives what it gave for the same inputs."""
    called = _calls_of_layers(body)
    plain = {module: vars(module).get("forward") for module in body.modules()}
    fuse_modules(body)
    fuse_linear(body)
    if all(vars(module).get("forward") is forward for module, forward in plain.items()):
        return
    errors = [
        float((_first(layer(*inputs, **named)) - output).norm() / output.norm())
        for layer, inputs, named, output in called
    ]
    worst = max(errors, default=0.0)
    if worst <= MOST_OFF[next(body.parameters()).dtype]:
        return
    for module, forward in plain.items():
        vars(module).pop("forward", None)
        if forward is not None:
            module.forward = forward
    _wrong.add(body)
    warn(
        f"A layer of {type(body).__name__} by CPU kernels is {worst:.2g} of its output off what its own modules give, "
        "so they are left out and it runs on PyTorch alone, more slowly. docs/cpu-kernels.md says what to look at."
    )


Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any], Tensor]
"""(layer, its arguments, its named ones, [1, PROBED, D] what it gave, float32)."""


def _calls_of_layers(body: Any) -> list[Call]:
    """Calls of all layers in a pass over a few tokens."""
    called: list[Call] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        called.append((layer, inputs, named, _first(output)))

    layers = [module for module in body.modules() if isinstance(module, GradientCheckpointingLayer)]
    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    ids = torch.arange(PROBED)[None] % body.get_input_embeddings().num_embeddings
    try:
        body(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _first(output: Any) -> Tensor:
    """States, of a layer that may give others beside them."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states.float()
