"""What AdamW does to the weights of a tensor, in one pass over memory.

n weights. Numbers and arrays are as `plaudit.cpu.kernels.machine_code` has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from plaudit.cpu.kernels.machine_code import compiled, wide

PIECE = 1 << 12
"""Weights that are updated by one thread, one after the other."""
DROPPED = 16
"""Bits of a float32 that bfloat16 does not have."""


@compiled
def sum_squares(numbers: Any, sums: Any) -> None:
    """[n] float32 or bfloat16 -> [ceil(n / PIECE)] float32, of each piece."""
    for piece in prange(len(sums)):
        some, total = numbers[piece * PIECE : (piece + 1) * PIECE], np.float32(0.0)
        for i in range(len(some)):
            total += wide(some[i]) * wide(some[i])
        sums[piece] = total


@compiled
def update(weights: Any, gradients: Any, means: Any, squares: Any, rounded: Any, drawn: Any, numbers: Any) -> None:
    """A step of AdamW, see `plaudit.cpu.adam.take_step`.

    weights, means, squares  [n] float32
    gradients  [n] float32 or bfloat16, read alone
    rounded  [n] bfloat16, written: up or down at its threshold; or [0]
    drawn    [a multiple of PIECE] int32, the thresholds, which are those of all weights over and over
    numbers  [8] float32: factor, 1 - b1, b2, 1 - b2, rate / m's correction, 1 / root of v's, epsilon, what decay leaves
    """
    factor, new_mean, old_square, new_square = numbers[0], numbers[1], numbers[2], numbers[3]
    rate, root, epsilon, left = numbers[4], numbers[5], numbers[6], numbers[7]
    pieces = -(-len(weights) // PIECE)
    for piece in prange(pieces):
        begin, end = piece * PIECE, min((piece + 1) * PIECE, len(weights))
        weight, gradient, mean, square = weights[begin:end], gradients[begin:end], means[begin:end], squares[begin:end]
        for i in range(len(weight)):
            clipped = factor * wide(gradient[i])
            mean[i] += new_mean * (clipped - mean[i])
            square[i] = old_square * square[i] + new_square * (clipped * clipped)
            weight[i] = left * weight[i] - rate * mean[i] / (np.sqrt(square[i]) * root + epsilon)
        if len(rounded) > 0:
            bits, to, threshold = weight.view(np.int32), rounded[begin:end], drawn[begin % len(drawn) :]
            for i in range(len(bits)):
                to[i] = np.uint16((bits[i] + threshold[i]) >> DROPPED)
