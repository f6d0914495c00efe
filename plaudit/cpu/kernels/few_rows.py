"""Matrix products of one or two rows, as fast as the weights can be read.

A core that reads one place after the other waits for memory, and gets half of what it can give: each thread reads four
places of the weights at a time, far from each other.

B rows; K inputs, filled up with zeros to whole steps; N outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types

from plaudit.cpu.kernels import vectors
from plaudit.cpu.kernels.linear_table import (
    BIAS,
    COLUMN,
    DOWN_LINES,
    DOWN_TABLE,
    LINES,
    LOW,
    LOWS,
    NOTHING,
    OUTPUTS,
    SIDE,
    STEP,
    STEPS,
    TABLE,
    UP0,
    UP_STEPS,
    WEIGHT0,
    WIDTH,
)
from plaudit.cpu.kernels.machine_code import (
    array_at,
    called,
    compiled,
    composed,
    generated,
    inlined,
    narrow,
    unpack_tuple,
    wide,
)
from plaudit.cpu.kernels.vectors import LANES

WIDEST = 2 * SIDE
"""Outputs of a line of a table."""
AHEAD = 1024
"""Bytes between what is read of a weight and what is asked for: in large pages that is worth a fourth of the time."""


@called
def _widened(x: Any, width: int) -> Any:
    """A copy in float32, with zeros up to the width."""
    result = np.zeros((len(x), width), np.float32)
    for b in range(len(x)):
        row, to = x[b], result[b]
        for i in range(len(row)):
            to[i] = wide(row[i])
    return result


@inlined
def _row(table: Any, n: int, which: int, size: int, otherwise: int) -> Any:
    """Address of the n-th output's row of so many bytes, of a weight or an adapter's second half where it has one."""
    place = n % WIDEST
    begin = table[n // WIDEST, which + place // SIDE]
    return begin + place % SIDE * size if begin != 0 else otherwise


def _of_four(adapted: bool) -> Any:
    """Sums of products of four rows of a weight with numbers of float32, and with adapters of their second halves."""

    @generated
    def dots(context: Any, kind: Any, rows: Any, x: Any, steps: Any, ups: Any, lows: Any, up_steps: Any) -> Any:
        """[4] sums.

        kind      an array, for the weights' kind of numbers
        rows, x   addresses, of the four and of the numbers; `steps`: of 32, at least one
        ups,      addresses of the four, and of the numbers for each; `up_steps`: likewise
        lows
        """
        size, halves = 2 if kind.dtype == types.uint16 else 4, range(STEP // LANES)

        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            _, rows, x, steps, ups, lows, up_steps = given

            def moved(begin: Any, k: Any, of_number: int) -> Any:
                return builder.add(begin, builder.mul(k, ir.Constant(vectors.LONG, STEP * of_number)))

            def plus(total: Any, weight: Any, number: Any) -> Any:
                return builder.fadd(total, builder.fmul(weight, number, flags=["contract"]), flags=["contract"])

            def plus_step(sums: list[Any], row: Any, numbers: list[Any]) -> list[Any]:
                weights = [vectors.load(builder, row, size * LANES * half, kind.dtype) for half in halves]
                return [plus(*three) for three in zip(sums, weights, numbers, strict=True)]

            def numbers_at(place: Any) -> list[Any]:
                return [vectors.load(builder, place, 4 * LANES * half) for half in halves]

            def of_weights(k: Any, sums: list[Any]) -> list[Any]:
                numbers, results = numbers_at(moved(x, k, 4)), []
                for i, begin in enumerate(unpack_tuple(builder, rows)):
                    row = moved(begin, k, size)
                    vectors.prefetch(builder, builder.add(row, ir.Constant(vectors.LONG, AHEAD)), STEP * size // 64)
                    results += plus_step(sums[2 * i : 2 * i + 2], row, numbers)
                return results

            def of_adapters(k: Any, sums: list[Any]) -> list[Any]:
                results = []
                places = zip(unpack_tuple(builder, ups), unpack_tuple(builder, lows), strict=True)
                for i, (up, low) in enumerate(places):
                    results += plus_step(sums[2 * i : 2 * i + 2], moved(up, k, size), numbers_at(moved(low, k, 4)))
                return results

            sums = vectors.loop(builder, steps, [ir.Constant(vectors.FLOATS, None)] * 8, of_weights)
            if adapted:
                sums = vectors.loop(builder, up_steps, sums, of_adapters)
            pairs = zip(sums[::2], sums[1::2], strict=True)
            whole = [vectors.sum_of(builder, builder.fadd(*pair)) for pair in pairs]
            return context.make_tuple(builder, signature.return_type, whole)

        four = types.UniTuple(types.int64, 4)
        return types.UniTuple(types.float32, 4)(kind, four, types.int64, types.int64, four, four, types.int64), generate

    return dots


_of_weights, _of_weights_and_adapters = _of_four(adapted=False), _of_four(adapted=True)


@compiled
def _multiply(
    x: Any, table: Any, low: Any, ups: int, nothing: int, bias: Any, residual: Any, result: Any, threads: int
) -> None:
    """result = x weight' + low up' + bias + residual, over all lines of a table.

    x, low    [B, K], and [B, all first halves' outputs], float32; ups: how many of these an output takes that takes any
    nothing   address of as many zeros
    bias      [at least 32 more than all outputs]
    residual  [B, outputs], or without rows for none; may be the result itself
    """
    rows, inputs = x.shape
    of_row, of_up = inputs * result.itemsize, ups * result.itemsize
    for thread in prange(threads):
        lines = table[len(table) * thread // threads : len(table) * (thread + 1) // threads]
        outputs = WIDEST * len(lines)
        stride, sums = outputs // 4, np.empty((rows, outputs), np.float32)
        for n0 in range(stride):
            n1, n2, n3 = n0 + stride, n0 + 2 * stride, n0 + 3 * stride
            row0, row1 = _row(lines, n0, WEIGHT0, of_row, 0), _row(lines, n1, WEIGHT0, of_row, 0)
            row2, row3 = _row(lines, n2, WEIGHT0, of_row, 0), _row(lines, n3, WEIGHT0, of_row, 0)
            four = row0, row1, row2, row3
            if ups > 0:
                up0, up1 = _row(lines, n0, UP0, of_up, nothing), _row(lines, n1, UP0, of_up, nothing)
                up2, up3 = _row(lines, n2, UP0, of_up, nothing), _row(lines, n3, UP0, of_up, nothing)
                four_ups = up0, up1, up2, up3
                of_step, low_at = 4 * STEP, np.int64(low.ctypes.data)
                low0, low1 = of_step * lines[n0 // WIDEST, LOW], of_step * lines[n1 // WIDEST, LOW]
                low2, low3 = of_step * lines[n2 // WIDEST, LOW], of_step * lines[n3 // WIDEST, LOW]
            for b in range(rows):
                to, x_at = sums[b], np.int64(x.ctypes.data) + 4 * inputs * b
                if ups > 0:
                    at = low_at + 4 * low.shape[1] * b
                    to[n0], to[n1], to[n2], to[n3] = _of_weights_and_adapters(
                        result, four, x_at, inputs // STEP, four_ups,
                        (at + low0, at + low1, at + low2, at + low3), ups // STEP,
                    )  # fmt: skip
                else:
                    to[n0], to[n1], to[n2], to[n3] = _of_weights(
                        result, four, x_at, inputs // STEP, four, four, 0
                    )  # fmt: skip
        for i in range(len(lines)):
            width, column = lines[i, WIDTH], lines[i, COLUMN]
            more = bias[column : column + width]
            for b in range(rows):
                total, to = sums[b, WIDEST * i : WIDEST * i + width], result[b, column : column + width]
                for n in range(width):
                    total[n] += wide(more[n])
                if len(residual) > 0:
                    added = residual[b, column : column + width]
                    for n in range(width):
                        total[n] += wide(added[n])
                for n in range(width):
                    to[n] = narrow(total[n], result)


@composed
def product(x: Any, plan: Any, residual: Any, result: Any, threads: int) -> None:
    """[B, inputs] -> [B, outputs], written, by a `LinearTable`'s plan.

    residual  [B, outputs] to be added, or without rows for none; may be the result itself
    """
    given, lows, ups = _widened(x, STEP * plan[STEPS]), STEP * plan[LOWS], STEP * plan[UP_STEPS]
    low = np.zeros((len(x), lows), x.dtype)  # rounded as between two layers
    if lows > 0:
        down = array_at(plan[DOWN_TABLE], (plan[DOWN_LINES], 7), plan)
        nothing = array_at(plan[NOTHING], (lows + STEP,), x)
        _multiply(given, down, given, 0, 0, nothing, low[:0], low, threads)
    table, bias = array_at(plan[TABLE], (plan[LINES], 7), plan), array_at(plan[BIAS], (plan[OUTPUTS] + STEP,), x)
    _multiply(given, table, _widened(low, lows), ups, plan[NOTHING], bias, residual, result, threads)
