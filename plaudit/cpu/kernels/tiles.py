"""Matrix products by a processor's tile unit, of bfloat16 weights that stay where and as they are.

One instruction multiplies 16 outputs of a weight (SIDE), by 32 inputs (STEP), by 16 rows of x. A weight's tile is read
straight from the weight; only x is rearranged, which is small.

For few rows a product takes as long as its weight takes to read, and a core that waits for one tile after another gets
half of what memory can give: while a pair of blocks is computed the next one is asked for, at the end the first one of
the product that follows.

B rows of x, in tiles of 16; K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types

from plaudit.cpu.kernels import vectors
from plaudit.cpu.kernels.blocks import arrange, by_plan, finish_pair, room_for
from plaudit.cpu.kernels.linear_table import (
    LOW,
    SIDE,
    STEP,
    UP0,
    UP1,
    WEIGHT0,
    WEIGHT1,
)
from plaudit.cpu.kernels.machine_code import compiled, composed, generated, inlined
from plaudit.cpu.kernels.tile_unit import (
    SCRATCH,
    SUMS,
    TILE,
    TURNED,
    add_product,
    load,
    store,
    switch_back,
    switch_on,
    zero,
)
from plaudit.cpu.kernels.vectors import LONG

ASKED = 8
"""Lines of 64 bytes that are asked for in one go, before more tiles are loaded: a core has room for twice as many on
their way, and a tile would wait for memory behind them.
"""
EVERY = STEP * SIDE * 2 * 2 // (64 * ASKED)
"""Times that a step would ask for as much of the next pair of blocks as it computes of this one."""


def _of_a_pair(tiles: int) -> Callable[..., None]:
    """The products of two blocks of a weight, whose sums are tiles 0, 1 and 2, 3, with one or two tiles of x."""
    sums = [2 * block + tile for block in range(2) for tile in range(tiles)]

    @generated
    def begin(context: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, __: Any) -> Any:
            for tile in sums:
                zero(builder, tile)
            return context.get_dummy_value()

        return types.void(), generate

    def step_that(asks: int) -> Any:
        @generated
        def step(context: Any, weight0: Any, weight1: Any, stride: Any, x: Any, asked: Any) -> Any:
            def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
                weight0, weight1, stride, x, asked = given

                def prefetch(time: int) -> None:
                    if time < asks:
                        more = builder.add(asked, ir.Constant(LONG, 64 * ASKED * time))
                        vectors.prefetch(builder, more, ASKED)

                load(builder, 6, x)
                prefetch(0)
                load(builder, 4, weight0, stride)
                add_product(builder, 0, 4, 6)
                if tiles == 2:
                    load(builder, 7, x, offset=TILE)
                prefetch(1)
                if tiles == 2:
                    add_product(builder, 1, 4, 7)
                load(builder, 5, weight1, stride)
                prefetch(2)
                add_product(builder, 2, 5, 6)
                if tiles == 2:
                    add_product(builder, 3, 5, 7)
                prefetch(3)
                return context.get_dummy_value()

            return types.void(*[types.int64] * 5), generate

        return step

    all_of_it, half_of_it, nothing = step_that(EVERY), step_that(EVERY // 2), step_that(0)

    @generated
    def end(context: Any, scratch: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
            for tile in sums:
                store(builder, tile, given[0], ir.Constant(LONG, 4 * SIDE), SUMS + tile * TILE)
            return context.get_dummy_value()

        return types.void(types.int64), generate

    @inlined
    def compute(
        pair: Any, stride: int, x: int, x_stride: int, steps: int, up_stride: int, low: int, up_steps: int, asked: int,
        times: int, scratch: int,
    ) -> None:  # fmt: skip
        weight0, weight1, up0, up1 = pair[WEIGHT0], pair[WEIGHT1], pair[UP0], pair[UP1]
        begin()
        if times == EVERY:
            for k in range(steps):
                at = 2 * STEP * k
                all_of_it(weight0 + at, weight1 + at, stride, x + x_stride * k, asked + 64 * ASKED * EVERY * k)
        elif times > 0:
            for k in range(steps):
                at = 2 * STEP * k
                half_of_it(weight0 + at, weight1 + at, stride, x + x_stride * k, asked + 64 * ASKED * EVERY // 2 * k)
        else:
            for k in range(steps):
                at = 2 * STEP * k
                nothing(weight0 + at, weight1 + at, stride, x + x_stride * k, asked)
        for k in range(up_steps):
            at = 2 * STEP * k
            nothing(up0 + at, up1 + at, up_stride, low + x_stride * k, asked)
        end(scratch)

    return compute


_with_one_tile = _of_a_pair(1)
_with_two_tiles = _of_a_pair(2)


@compiled
def _multiply(
    x: Any, steps: int, table: Any, following: Any, low: Any, up_steps: int, bias: Any, residual: Any, result: Any,
    scratch: Any, threads: int,
) -> None:  # fmt: skip
    """result = x weight' + low up' + bias + residual, over all lines of a table.

    x          [B, K / 2] pairs of numbers, which weights take in so many steps of 32 numbers
    following  the table that is next, of which the first lines are asked for
    low        [B, 16 pairs for each step of what the first halves give]
    up_steps   of 32, how many numbers of `low` an output takes that takes any
    bias       [at least 32 more than all outputs]
    residual   [B, outputs], or without rows for none; may be the result itself
    result     [B, outputs], written
    scratch    as of `workplace`
    """
    rows, tiles = len(result), -(-len(result) // SIDE)
    stride, up_stride, x_stride = (
        2 * STEP * steps,
        2 * STEP * up_steps,
        TILE * tiles,
    )  # bytes: rows of weights, steps of x
    arranged = room_for(threads, steps + low.shape[1] // SIDE, rows)
    for thread in prange(threads):
        begin, end = len(table) * thread // threads, len(table) * (thread + 1) // threads
        mine = np.int64(scratch.ctypes.data) + thread * SCRATCH
        numbers = scratch[thread, TURNED : TURNED + TILE].view(np.float32)
        tiles_of_x, tiles_of_low = arranged[thread, :steps], arranged[thread, steps:]
        arrange(x, tiles_of_x)  # each for itself: to share it takes longer
        arrange(low, tiles_of_low)
        x_at, low_at = np.int64(tiles_of_x.ctypes.data), np.int64(tiles_of_low.ctypes.data)
        switch_on(mine)
        for i in range(begin, end):
            pair = table[i]
            asked = table[i + 1, WEIGHT0] if i + 1 < end else following[len(following) * thread // threads, WEIGHT0]
            low_of_pair = low_at + x_stride * pair[LOW]
            ups = up_steps if pair[UP0] != 0 else 0
            times = EVERY if tiles <= 2 else EVERY // 2  # for more rows, by the first and by the second two tiles
            for tile in range(0, tiles, 2):
                x_of_tile, low_of_tile = x_at + TILE * tile, low_of_pair + TILE * tile
                times = times if tile <= 2 else 0
                if tile + 1 < tiles:
                    _with_two_tiles(
                        pair, stride, x_of_tile, x_stride, steps, up_stride, low_of_tile, ups, asked, times, mine
                    )  # fmt: skip
                else:
                    _with_one_tile(
                        pair, stride, x_of_tile, x_stride, steps, up_stride, low_of_tile, ups, asked, times, mine
                    )  # fmt: skip
                asked += 64 * ASKED * times * steps
                finish_pair(pair, tile, min(2, tiles - tile), mine, bias, residual, result, numbers)
        switch_back(mine)


@composed
def product(x: Any, plan: Any, following: Any, residual: Any, result: Any, scratch: Any, threads: int) -> None:
    """[B, inputs] -> [B, outputs], written, by a `LinearTable`'s plan; all bfloat16.

    x          not where the result goes
    following  the plan of the product that is next, or this one's own
    residual   [B, outputs] to be added, or without rows for none; may be the result itself
    scratch    `workplace()`
    threads    to use
    """
    by_plan(_multiply, x, plan, following, residual, result, scratch, threads)
