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

from plaudit.kernels import vectors
from plaudit.kernels.linear_table import (
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
from plaudit.kernels.machine_code import array_at, called, compiled, composed, generated, inlined, narrow, wide
from plaudit.kernels.vectors import LANES

WIDEST = 2 * SIDE
"""Outputs of a line of a table."""


@called
def _widened(x: Any, width: int) -> Any:
    """In float32, with zeros to the width."""
    result = np.zeros((len(x), width), np.float32)
    for b in range(len(x)):
        row, to = x[b], result[b]
        for i in range(len(row)):
            to[i] = wide(row[i])
    return result


@inlined
def _row(table: Any, n: int, which: int, size: int) -> Any:
    """Address of the n-th output's row of so many bytes, of a weight or of a second half of an adapter."""
    place = n % WIDEST
    return table[n // WIDEST, which + place // SIDE] + place % SIDE * size


@generated
def _dots(context: Any, weights: Any, first: Any, second: Any, third: Any, fourth: Any, x: Any, steps: Any) -> Any:
    """Sums of products of four rows of a weight, at these addresses, with numbers of float32.

    weights  an array, for their kind of numbers
    steps    at least one
    """
    size = 2 if weights.dtype == types.uint16 else 4
    halves = range(STEP // LANES)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        _, *rows, x, steps = given
        before, step, after = builder.block, *map(builder.append_basic_block, ("step", "after"))
        builder.branch(step)
        builder.position_at_end(step)
        k = builder.phi(vectors.LONG)
        k.add_incoming(ir.Constant(vectors.LONG, 0), before)
        sums = [[builder.phi(vectors.FLOATS) for _ in halves] for _ in rows]

        def place(begin: Any, of_number: int) -> Any:
            return builder.add(begin, builder.mul(k, ir.Constant(vectors.LONG, STEP * of_number)))

        numbers = [vectors.load(builder, place(x, 4), 4 * LANES * half) for half in halves]
        totals = []
        for row, its_sums in zip(rows, sums, strict=True):
            at = place(row, size)
            for half, total in enumerate(its_sums):
                weight = vectors.load(builder, at, size * LANES * half, weights.dtype)
                more = builder.fmul(weight, numbers[half], flags=["contract"])
                totals.append(builder.fadd(total, more, flags=["contract"]))
                total.add_incoming(ir.Constant(vectors.FLOATS, None), before)
                total.add_incoming(totals[-1], step)
        following = builder.add(k, ir.Constant(vectors.LONG, 1))
        k.add_incoming(following, step)
        builder.cbranch(builder.icmp_signed("<", following, steps), step, after)
        builder.position_at_end(after)
        pairs = zip(totals[::2], totals[1::2], strict=True)
        whole = [vectors.sum_of(builder, builder.fadd(*pair)) for pair in pairs]
        return context.make_tuple(builder, signature.return_type, whole)

    return types.UniTuple(types.float32, 4)(weights, *[types.int64] * 6), generate


@compiled
def _multiply(x: Any, table: Any, low: Any, ups: int, bias: Any, residual: Any, result: Any, threads: int) -> None:
    """result = x weight' + low up' + bias + residual, over all lines of a table.

    x, low    [B, K], and [B, all first halves' outputs], float32; ups: how many of these an output takes that takes any
    bias      [at least 32 more than all outputs]
    residual  [B, outputs], or without rows for none; may be the result itself
    """
    rows, inputs = x.shape
    of_row, of_up = inputs * result.itemsize, ups * result.itemsize
    for thread in prange(threads):
        begin = len(table) * thread // threads
        lines = table[begin : len(table) * (thread + 1) // threads]
        outputs = WIDEST * len(lines)
        apart, sums = outputs // 4, np.empty((rows, outputs), np.float32)
        for n0 in range(apart):
            n1, n2, n3 = n0 + apart, n0 + 2 * apart, n0 + 3 * apart
            row0, row1 = _row(lines, n0, WEIGHT0, of_row), _row(lines, n1, WEIGHT0, of_row)
            row2, row3 = _row(lines, n2, WEIGHT0, of_row), _row(lines, n3, WEIGHT0, of_row)
            for b in range(rows):
                to = sums[b]
                to[n0], to[n1], to[n2], to[n3] = _dots(
                    result, row0, row1, row2, row3, np.int64(x[b].ctypes.data), inputs // STEP
                )
        for n in range(outputs):
            line, place = lines[n // WIDEST], n % WIDEST
            if place >= line[WIDTH]:
                continue
            column = line[COLUMN] + place
            up = array_at(_row(lines, n, UP0, of_up), (ups if line[UP0] != 0 else 0,), result)
            for b in range(rows):
                total, its_low = sums[b, n] + wide(bias[column]), low[b][STEP * line[LOW] :]
                for i in range(len(up)):
                    total += wide(up[i]) * its_low[i]
                if len(residual) > 0:
                    total += wide(residual[b, column])
                result[b, column] = narrow(total, result)


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
        _multiply(given, down, given, ups, nothing, low[:0], low, threads)
    table, bias = array_at(plan[TABLE], (plan[LINES], 7), plan), array_at(plan[BIAS], (plan[OUTPUTS] + STEP,), x)
    _multiply(given, table, _widened(low, lows), ups, bias, residual, result, threads)
