"""Linear layers in bfloat16 on a CPU: products in the forms that oneDNN, PyTorch's library for them, is fast at.

Of m rows, as a rule tokens; k inputs and n outputs. The numbers are those of any other order of the same sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange, types
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from plaudit import cpu
from plaudit.cpu.kernels import machine_code, tile_unit, vectors
from plaudit.cpu.kernels.machine_code import compiled, generated, plain_array

BLOCK = 2 * vectors.LANES
"""Numbers of a line of memory: a side of the squares that are transposed."""


def fuse_linear(body: nn.Module) -> None:
    """Let the linear layers of a body compute so from now on, where the processor has a tile unit."""
    for module in body.modules():
        if type(module) is nn.Linear and _serves(module.weight):
            layer: Any = module
            layer.forward = FusedLinear(layer)


class FusedLinear:
    """x weight' + bias."""

    def __init__(self, module: nn.Linear):
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        """[..., k] -> [..., n]."""
        result: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), self.module.weight, self.module.bias)
        return result.view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[m, k], [n, k], [n] or None -> [m, n]."""
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return product(x, weight.T, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all three."""
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            product(gradient, weight) if to_x else None,
            gradient_of_weight(gradient, x) if to_weight else None,
            gradient.sum(dim=0) if to_bias else None,
        )


def _serves(x: Tensor) -> bool:
    """Whether these are numbers and a processor that this was measured with."""
    return x.dtype == torch.bfloat16 and cpu.serves(x) and tile_unit.available()


def product(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """x matrix + bias, [m, k], [k, n] and [n] -> [m, n], in pieces of rows where that is faster."""
    size = _rows_at_once(len(x), matrix.shape[0], matrix.shape[1])
    if len(x) <= size or not _serves(x):
        return x @ matrix if bias is None else torch.addmm(bias, x, matrix)
    result = x.new_empty(len(x), matrix.shape[1])
    for rows, written in zip(x.split(size), result.split(size), strict=True):
        if bias is None:
            torch.mm(rows, matrix, out=written)
        else:
            torch.addmm(bias, rows, matrix, out=written)
    return result


def _rows_at_once(rows: int, inputs: int, outputs: int) -> int:
    """Rows of a piece: of two threads, oneDNN lets one idle where there are one to two times as many rows as outputs,
    and few of these.

    Found by the processor time of each over sizes from 64 to 2,112 rows; four threads share such products. Up to 2,048
    inputs, pieces of a little fewer rows than outputs are the fastest, and from there on small ones of equal size.
    """
    long = inputs > 2048
    few_outputs = 512 <= outputs <= (800 if long else 1088)
    if torch.get_num_threads() != 2 or not few_outputs or not (2 / 3 if long else 1) <= rows / outputs <= 2:
        return rows
    if not long:
        return (outputs - 1) // BLOCK * BLOCK
    pieces = -(-rows // 320)
    return -(-rows // (pieces * BLOCK)) * BLOCK


def gradient_of_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient' x, [m, n] and [m, k] -> [n, k].

    oneDNN takes nearly twice as long where it has to transpose bfloat16 itself.
    """
    large = min(gradient.shape) >= BLOCK
    return product(transposed(gradient) if large and _serves(gradient) else gradient.T, x)


def transposed(x: Tensor) -> Tensor:
    """[m, n] bfloat16 on a CPU, both at least 32 -> [n, m], row by row, with zeros behind each.

    oneDNN may read up to the end of a line there and multiply it by zeros, which leaves what is no number as it is.
    """
    m, n = x.shape
    stride = (-(-m // BLOCK) | 1) * BLOCK  # odd, for lines a power of two apart would share a place in the cache
    result = torch.empty(n, stride, dtype=x.dtype)
    with machine_code.in_use():
        _transpose(plain_array(x.detach().contiguous()), plain_array(result))
    return result[:, :m]


@generated
def transpose_square(context: Any, source: Any, stride: Any, to: Any, to_stride: Any) -> Any:
    """32 rows of 16 numbers of 16 bits, which begin so many bytes apart, as 16 rows of 32."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        source, stride, to, to_stride = given
        pairs = []
        for _ in range(vectors.LANES):
            second = builder.add(source, stride)
            low, high = (vectors.words_of_halves(builder, address) for address in (source, second))
            pairs.append(builder.or_(low, builder.shl(high, vectors.all_of(16))))
            source = builder.add(second, stride)
        for words in vectors.transposed(pairs, builder):
            builder.store(words, vectors.at(builder, to, kind=vectors.WORDS.as_pointer()), align=2)
            to = builder.add(to, to_stride)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@compiled
def _transpose(x: Any, result: Any) -> None:
    """[m, n] -> [n, apart], both of at least 32, and zeros; the last squares begin before the end of the others."""
    m, n = x.shape
    stride, to_stride = x.itemsize * n, x.itemsize * result.shape[1]
    blocks = -(-n // BLOCK)
    for pair in prange(-(-blocks // 2)):  # two lines of a row, one after the other, come sooner than each by itself
        first, last = 2 * pair, min(2 * pair + 2, blocks)
        for row in range(first * BLOCK, min(last * BLOCK, n)):
            result[row, m:] = 0
        for piece in range(-(-m // BLOCK)):
            row = min(piece * BLOCK, m - BLOCK)
            for block in range(first, last):
                column = min(block * BLOCK, n - BLOCK)
                for half in range(0, BLOCK, vectors.LANES):
                    at = np.int64(x.ctypes.data) + stride * row + x.itemsize * (column + half)
                    to = np.int64(result.ctypes.data) + to_stride * (column + half) + x.itemsize * row
                    transpose_square(at, stride, to, to_stride)
