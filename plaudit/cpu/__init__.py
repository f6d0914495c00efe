"""The CPU engine: kernels compiled for this processor, and what they need, behind this face.

Whatever is outside `plaudit/cpu/` imports this module and nothing below it, and runs on PyTorch alone where `is_on`
says no: nothing of Numba is then imported, and no setting of the process is changed. docs/cpu-kernels.md says what the
engine computes and how to see whether a wrong number comes from it.

    use, is_on, serves            whether it computes
    fuse                          prepare a model: its layers compute by kernels, if they give what they gave
    packed_weights, decode_step   sampling: products from the layout that is read fastest, and one decoding step
    draw                          the next tokens
    row_attention                 attention over packed rows
    read_log_probs, to_gradients  a row of logits, read once and written once
    product, gradient_of_weight   products in bfloat16
    total_norm, knows, take_step  the optimiser
    add                           a sum of gradients
    keep_weights, pages           memory that is read fast

Modules below are imported when they are used: compiled code takes seconds to load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from plaudit.cpu.switch import CHOICES, VARIABLE, is_on, use

if TYPE_CHECKING:
    from plaudit.cpu.fused_decode import FusedStep
    from plaudit.cpu.kernels.row_attention import RowAttention as RowAttention
    from plaudit.cpu.memory import Pages as Pages
    from plaudit.cpu.packing import Products as Products
    from plaudit.models.masters import Masters
    from plaudit.models.network import Network
    from plaudit.text.rows import AttentionRows

__all__ = ["BLOCK", "CHOICES", "VARIABLE", "is_on", "use"]

BLOCK = 256
"""Vocabulary entries that are summed before one of them is looked for."""


def serves(x: Tensor | nn.Module) -> bool:
    """Whether the engine is on, and a tensor, or a module's weights, are where it computes and of numbers it reads."""
    if isinstance(x, nn.Module):
        x = next(x.parameters())
    return is_on() and x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float32)


def fuse(body: nn.Module) -> None:
    """Let modules compute by kernels, if each layer then gives what it gave for the same inputs; else say so."""
    if serves(body):
        from plaudit.cpu import fusing

        fusing.fuse(body)


@contextmanager
def packed_weights(network: Network, rows: int) -> Iterator[Products]:
    """Within, the linear layers of an active role compute for so many rows, from weights that are not trained.

    Hands out the products by their first layer; none where the engine does not compute.
    """
    if not serves(network.body):
        yield {}
        return
    from plaudit.cpu.packing import packed

    with packed(network, rows) as products:
        yield products


def decode_step(network: Network, products: Products) -> FusedStep | None:
    """One decoding step in one call; None where the body's own modules take it."""
    if not serves(network.body):
        return None
    from plaudit.cpu.fused_decode import fused_step

    return fused_step(network, products)


def draw(
    product: Any, states: Tensor, uniforms: Tensor, *, temperature: float, vocabulary: int | None
) -> tuple[Tensor, Tensor]:
    """([n] tokens, [n] log-probs, nats) of [n, D] states and [n] numbers in [0, 1), by the product of the head."""
    from plaudit.cpu.fused_decode import draw

    return draw(product, states, uniforms, temperature=temperature, vocabulary=vocabulary)


def row_attention(rows: AttentionRows, like: Tensor, *, short: bool) -> RowAttention | None:
    """Attention over packed rows; None where PyTorch's is taken.

    like   a tensor of the numbers that are to be attended
    short  whether its longest row is one of those over which PyTorch's is slow
    """
    if not serves(like):
        return None
    from plaudit.cpu.kernels import row_attention as kernel

    return kernel.RowAttention(rows) if short or kernel.has_unit_for(like) else None


def read_log_probs(logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """[m] each, of [m, V]: log-probs of the ids, entropies, and logs of the sums of exponentials; nats."""
    import numpy as np

    from plaudit.cpu.kernels import machine_code, rowwise

    found = torch.empty(3, len(logits))
    with machine_code.in_use():
        rows, which, *written = [machine_code.plain_array(x) for x in (logits, ids.contiguous(), *found)]
        rowwise.read_log_probs(rows, which, np.float32(temperature), *written)
    return found[0], found[1], found[2]


def to_gradients(logits: Tensor, ids: Tensor, normalisers: Tensor, factors: Tensor, temperature: float) -> None:
    """Overwrite [m, v] logits by factor * d (log-prob of the id) / d logits: see `models.log_probs`."""
    import numpy as np

    from plaudit.cpu.kernels import machine_code, rowwise

    with machine_code.in_use():
        which, *others = [machine_code.plain_array(x.contiguous()) for x in (ids, normalisers, factors)]
        rowwise.to_gradients(machine_code.plain_array(logits), which, np.float32(temperature), *others)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """x matrix, [m, k] and [k, n] -> [m, n]."""
    if not serves(x):
        return x @ matrix
    from plaudit.cpu.kernels import linear

    return linear.product(x, matrix)


def gradient_of_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient' x, [m, n] and [m, k] -> [n, k]."""
    if not serves(gradient):
        return gradient.T @ x
    from plaudit.cpu.kernels import linear

    return linear.gradient_of_weight(gradient, x)


def knows(parameters: list[nn.Parameter]) -> bool:
    """Whether `take_step` can be used on them."""
    return all(p.dtype == torch.float32 and serves(p) and p.is_contiguous() for p in parameters)


def take_step(optimiser: torch.optim.AdamW, factor: float, masters: Masters | None) -> None:
    """A step on gradients times a factor, as AdamW's own would be; see `plaudit.cpu.adam`."""
    from plaudit.cpu import adam

    adam.take_step(optimiser, factor, masters)


def total_norm(gradients: list[Tensor]) -> float:
    """Norm over all gradients together, of such that it `serves`."""
    from plaudit.cpu import adam

    return adam.total_norm(gradients)


def add(total: Tensor, x: Tensor) -> bool:
    """total += x, float32 and of fewer bits; False, and nothing done, where that is not so."""
    plain = serves(x) and total.is_contiguous() and total.shape == x.shape and total.device == x.device
    if not plain or total.dtype != torch.float32:
        return False
    from plaudit.cpu.kernels import machine_code, rowwise

    with machine_code.in_use():
        rowwise.add(
            machine_code.plain_array(x.detach().contiguous().view(-1)), machine_code.plain_array(total.view(-1))
        )
    return True


def keep_weights(model: nn.Module) -> None:
    """Weights that lie in a file's pages go to this process' memory, those that are read together beside each other."""
    if is_on():
        from plaudit.cpu import fused_projections, memory

        memory.take_from_files(fused_projections.weights_in_groups(model))


def replace_weights(
    model: nn.Module, chosen: Callable[[nn.Parameter], bool], change: Callable[[Tensor], Tensor]
) -> None:
    """Each weight that is chosen by what is made of it; those that are read together lie beside each other then."""
    from plaudit.cpu import memory

    groups = [[weight] for weight in model.parameters()]
    if is_on():
        from plaudit.cpu import fused_projections

        groups = fused_projections.weights_in_groups(model)
    memory.replace([group for group in groups if all(map(chosen, group))], change)


def pages(size: int) -> Pages | None:
    """Zeros of so many bytes for a cache, in large pages; None where the engine is off."""
    if not is_on():
        return None
    from plaudit.cpu import memory

    return memory.Pages(size)


def is_compiled_for(dtype: torch.dtype) -> bool:
    """Whether what sampling runs last in numbers of a kind lies on disk, so that nothing has to be compiled for it."""
    from plaudit.cpu.kernels import machine_code, pairs, rowwise, tile_unit, tiles

    last: Callable[..., Any] = rowwise.draw
    if dtype == torch.bfloat16 and (tile_unit.available() or pairs.available()):
        last = tiles.product if tile_unit.available() else pairs.product
    return machine_code.is_kept(last)
