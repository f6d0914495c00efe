"""How a body's layers run where gradients are taken: as they are, compiled, or with their activations recomputed."""

from __future__ import annotations

import os
import shutil
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from plaudit import cpu
from plaudit.config import ModelSettings
from plaudit.errors import ModelError
from plaudit.models.attention import PackedRows


def set_layers(body: nn.Module, settings: ModelSettings) -> None:
    """Make a body's layers run as `compile` and `activation_checkpointing` say, in training alone.

    What can be fused is, where nothing is compiled, which would fuse it too.

    Raises ModelError where that cannot be: no compiler, or a family whose layers are not told apart.
    """
    if not settings.compile:
        cpu.fuse(body)
        if not settings.activation_checkpointing:
            return
    layers = [module for module in body.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"{type(body).__name__} does not say which of its modules are layers, so `model.compile` and "
            "`model.activation_checkpointing` do not work with it. Set both to false."
        )
    if settings.compile:
        _check_compiler(next(body.parameters()).device)
    for layer in layers:
        layer.forward = _InTraining(layer, settings)


class _InTraining:
    """A layer's forward, with the options while gradients are taken; plain while sampling and scoring."""

    def __init__(self, layer: nn.Module, settings: ModelSettings):
        self.layer = layer
        self.fused = vars(layer).get("forward")
        self.compile = settings.compile
        self.checkpoint = settings.activation_checkpointing

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        kind: Any = type(self.layer)
        plain = self.fused or partial(kind.forward, self.layer)
        if not torch.is_grad_enabled():
            return plain(*arguments, **named)
        forward = partial(_compiled(kind), self.layer) if self.compile else plain
        if not self.checkpoint:
            return forward(*arguments, **named)
        # no layer draws random numbers: bodies are in evaluation mode, without dropout
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)


@cache
def _compiled(kind: Any) -> Any:
    """One graph for all layers of a class, whatever their number of tokens. Attention stays outside."""
    PackedRows.attend = torch.compiler.disable(PackedRows.attend)  # type: ignore[method-assign]
    return torch.compile(kind.forward, dynamic=True)


def _check_compiler(device: torch.device) -> None:
    names = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if device.type == "cpu" and not any(name and shutil.which(name) for name in names):
        raise ModelError(
            "`model.compile` needs a C++ compiler, and none of CXX, g++ and clang++ is here.\n"
            "Install one (Debian: apt install g++), or set `model.compile=false`."
        )
