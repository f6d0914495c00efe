"""What products by blocks of 16 outputs have in common: x in pairs, and what becomes of sums.

B rows of x, in tiles of 16; K inputs, N outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from plaudit.cpu.kernels import vectors
from plaudit.cpu.kernels.linear_table import (
    BIAS,
    COLUMN,
    DOWN_LINES,
    DOWN_TABLE,
    LINES,
    LOWS,
    NOTHING,
    OUTPUTS,
    SIDE,
    STEP,
    STEPS,
    TABLE,
    UP_STEPS,
    WIDTH,
)
from plaudit.cpu.kernels.machine_code import array_at, generated, inlined, narrow, wide
from plaudit.cpu.kernels.tile_unit import SUMS, TILE, TURNED, ZEROS, transpose_pairs


def fit(inputs: int) -> bool:
    """Whether a weight of so many inputs can be read as pairs of them."""
    return inputs % 2 == 0


def _columns(builder: Any, tile: Any) -> list[Any]:
    """Columns of a tile of float32."""
    return vectors.transposed([vectors.load(builder, tile, 4 * SIDE * i) for i in range(SIDE)], builder)


def _halves(builder: Any, address: Any) -> Any:
    return vectors.load(builder, address, kind=types.uint16)


@generated
def _transpose_into(context: Any, sums: Any, scratch: Any) -> Any:
    """A tile of sums, outputs first, to where rows come first."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        for b, row in enumerate(_columns(builder, given[0])):
            vectors.store(builder, row, given[1], TURNED + 4 * SIDE * b)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@generated
def _finish_row(context: Any, transposed: Any, bias: Any, residual: Any, result: Any) -> Any:
    """16 outputs of one row, with what is added to them, to their place."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        row = builder.fadd(vectors.load(builder, given[0], TURNED), _halves(builder, given[1]))
        vectors.store_rounded(builder, builder.fadd(row, _halves(builder, given[2])), given[3])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@generated
def _finish_tile(
    context: Any, sums: Any, bias: Any, residual: Any, residual_stride: Any, result: Any, result_stride: Any
) -> Any:
    """16 outputs of 16 rows."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        sums, bias, residual, residual_stride, result, result_stride = given
        added = _halves(builder, bias)
        for row in _columns(builder, sums):
            whole = builder.fadd(builder.fadd(row, added), _halves(builder, residual))
            vectors.store_rounded(builder, whole, result)
            residual = builder.add(residual, residual_stride)
            result = builder.add(result, result_stride)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@inlined
def arrange(x: Any, arranged: Any) -> None:
    """[B, K / 2] pairs of numbers as products read them: [ceil(K / 32), ceil(B / 16), 16 pairs, 16 rows].

    Where inputs end within a step there are zeros, as weights have them; rows that are not there may be anything.
    """
    rows, pairs = x.shape
    ends = np.zeros((SIDE, SIDE), x.dtype)
    for k in range(len(arranged)):
        count = min(SIDE, pairs - k * SIDE)
        for tile in range(arranged.shape[1]):
            row, to = tile * SIDE, np.int64(arranged[k, tile].ctypes.data)
            last = min(SIDE, rows - row) - 1
            if count == SIDE:
                transpose_pairs(
                    np.int64(x.ctypes.data) + x.itemsize * (row * pairs + k * SIDE), x.itemsize * pairs, last, to
                )
                continue
            for b in range(last + 1):
                for i in range(count):  # as one copy: any other way takes the compiler half a minute
                    ends[b, i] = x[row + b, k * SIDE + i]
            transpose_pairs(np.int64(ends.ctypes.data), x.itemsize * SIDE, last, to)


@inlined
def room_for(threads: int, steps: int, rows: int) -> Any:
    """[threads, steps, ceil(rows / 16), 16, 16] pairs of numbers, from the beginning of a line of memory on."""
    shape = threads, steps, -(-rows // SIDE), SIDE, SIDE
    size = shape[0] * shape[1] * shape[2] * SIDE * SIDE
    room = np.empty(size + SIDE, np.uint32)
    skipped = -np.int64(room.ctypes.data) % (2 * STEP) // room.itemsize
    return room[skipped : skipped + size].reshape(shape)


@inlined
def finish_pair(
    pair: Any, tile: int, tiles: int, scratch: int, bias: Any, residual: Any, result: Any, numbers: Any
) -> None:
    """Sums of a line of a table, of one or two tiles of rows: with what is added to them, to their places.

    scratch  address of what the thread works in, with the sums of tiles of both blocks, block by block, outputs first
    numbers  [16 * 16] float32, where it has what is turned
    """
    rows, outputs = result.shape
    adds = len(residual) > 0
    bias_at, result_at = np.int64(bias.ctypes.data), np.int64(result.ctypes.data)
    residual_at, residual_stride = np.int64(residual.ctypes.data), 2 * outputs if adds else 0
    for block in range(2):
        column = pair[COLUMN] + SIDE * block
        width = min(SIDE, pair[WIDTH] - SIDE * block)
        if width <= 0:
            break
        for which in range(tiles):
            sums = scratch + SUMS + TILE * (2 * block + which)
            row = SIDE * (tile + which)
            added = residual_at + residual_stride * row + 2 * column if adds else scratch + ZEROS
            written = result_at + 2 * (outputs * row + column)
            if width == SIDE and row + SIDE <= rows:
                _finish_tile(sums, bias_at + 2 * column, added, residual_stride, written, 2 * outputs)
                continue
            _transpose_into(sums, scratch)
            for b in range(min(SIDE, rows - row)):
                if width == SIDE:
                    _finish_row(
                        scratch + 4 * SIDE * b,
                        bias_at + 2 * column,
                        added + residual_stride * b,
                        written + 2 * outputs * b,
                    )
                    continue
                for n in range(width):
                    total = numbers[b * SIDE + n] + wide(bias[column + n])
                    if adds:
                        total += wide(residual[row + b, column + n])
                    result[row + b, column + n] = narrow(total, result)


@inlined
def by_plan(
    multiply: Any, x: Any, plan: Any, following: Any, residual: Any, result: Any, scratch: Any, threads: int
) -> None:
    """A product by a `LinearTable`'s plan, in which such a kernel takes the lines of tables."""
    given, lows, ups = x.view(np.uint32), plan[LOWS], plan[UP_STEPS]
    low = np.zeros((len(x), STEP * lows), x.dtype)  # where a rank ends within a step there are zeros
    table, bias = array_at(plan[TABLE], (plan[LINES], 7), plan), array_at(plan[BIAS], (plan[OUTPUTS] + STEP,), x)
    if lows > 0:
        down = array_at(plan[DOWN_TABLE], (plan[DOWN_LINES], 7), plan)
        nothing = array_at(plan[NOTHING], (STEP * lows + STEP,), x)
        no_pairs = np.empty((len(x), 0), np.uint32)
        multiply(given, plan[STEPS], down, table, no_pairs, ups, nothing, low[:0], low, scratch, threads)
    soon = array_at(following[TABLE], (following[LINES], 7), plan)
    multiply(given, plan[STEPS], table, soon, low.view(np.uint32), ups, bias, residual, result, scratch, threads)
