"""Matrix products by vectors of pairs of bfloat16 (AVX512-BF16), from weights that stay where and as they are.

For processors without a tile unit. One instruction multiplies a pair of an output's inputs by that pair of 16 rows of
x, which is rearranged for it; a weight is read pair by pair along its rows, eight of them at once.

B rows of x, in tiles of 16; K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types

from plaudit.cpu.kernels import tile_unit, vectors
from plaudit.cpu.kernels.blocks import arrange, by_plan, finish_pair, room_for
from plaudit.cpu.kernels.linear_table import LOW, SIDE, STEP, UP0, UP1, WEIGHT0, WEIGHT1
from plaudit.cpu.kernels.machine_code import compiled, composed, generated
from plaudit.cpu.kernels.tile_unit import SCRATCH, SUMS, TILE, TURNED
from plaudit.cpu.kernels.vectors import FLOATS, LONG

TOGETHER = SIDE // 2
"""Outputs whose sums are held in registers at once, of one or two tiles of rows."""

PAIRS = 4
"""Pairs of a step's 16 in a loop's body: more take longer to compile, and no less time to compute."""


def available() -> bool:
    """Whether this processor has the instruction."""
    return "avx512_bf16" in tile_unit.flags()


def _of_rows(tiles: int, begun: bool) -> Callable[..., None]:
    """Sums of products of eight rows of a weight with one or two tiles of x, of those that are begun or of nothing."""
    places = [4 * SIDE * output + TILE * tile for output in range(TOGETHER) for tile in range(tiles)]

    @generated
    def add_up(context: Any, weight: Any, stride: Any, x: Any, x_stride: Any, steps: Any, asked: Any, to: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
            weight, stride, x, x_stride, steps, asked, to = given

            def moved(address: Any, steps: Any, size: Any) -> Any:
                size = ir.Constant(LONG, size) if isinstance(size, int) else size
                return builder.add(address, builder.mul(steps, size))

            def of_a_step(k: Any, sums: list[Any]) -> list[Any]:
                columns, first = moved(x, k, x_stride), moved(weight, k, 2 * STEP)
                soon = moved(asked, k, 2 * STEP * TOGETHER)

                def of_some_pairs(part: Any, sums: list[Any]) -> list[Any]:
                    sums, its_columns = list(sums), moved(columns, part, 4 * SIDE * PAIRS)
                    its_first = moved(first, part, 4 * PAIRS)
                    rows = [moved(its_first, stride, ir.Constant(LONG, output)) for output in range(TOGETHER)]
                    lines = TOGETHER * PAIRS // SIDE
                    vectors.prefetch(builder, moved(soon, part, 2 * STEP * lines), lines)
                    for pair in range(PAIRS):
                        places_of_x = [TILE * tile + 4 * SIDE * pair for tile in range(tiles)]
                        numbers = [vectors.pairs(builder, its_columns, place) for place in places_of_x]
                        for output, row in enumerate(rows):
                            weights = vectors.same_pair(builder, row, 4 * pair)
                            for tile in range(tiles):
                                place = tiles * output + tile
                                sums[place] = vectors.plus_products(builder, sums[place], weights, numbers[tile])
                    return sums

                return vectors.loop(builder, ir.Constant(LONG, SIDE // PAIRS), sums, of_some_pairs)

            nothing = ir.Constant(FLOATS, None)
            sums = [vectors.load(builder, to, place) if begun else nothing for place in places]
            for total, place in zip(vectors.loop(builder, steps, sums, of_a_step), places, strict=True):
                vectors.store(builder, total, to, place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return add_up


_one_tile, _two_tiles = _of_rows(1, begun=False), _of_rows(2, begun=False)
_more_of_one_tile, _more_of_two_tiles = _of_rows(1, begun=True), _of_rows(2, begun=True)


@compiled
def _multiply(
    x: Any, steps: int, table: Any, following: Any, low: Any, up_steps: int, bias: Any, residual: Any, result: Any,
    scratch: Any, threads: int,
) -> None:  # fmt: skip
    """Multiply like the function of this name in `plaudit.cpu.kernels.tiles`.

    While a block is computed with the first rows of x, the one after it is asked for.
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
        for i in range(begin, end):
            pair = table[i]
            asked = table[i + 1, WEIGHT0] if i + 1 < end else following[len(following) * thread // threads, WEIGHT0]
            low_of_pair = low_at + x_stride * pair[LOW]
            ups = up_steps if pair[UP0] != 0 else 0
            for tile in range(0, tiles, 2):
                x_of_tile, low_of_tile = x_at + TILE * tile, low_of_pair + TILE * tile
                for part in range(2 * SIDE // TOGETHER):
                    block, output = part // 2, part % 2 * TOGETHER
                    weight, up = (pair[WEIGHT0], pair[UP0]) if block == 0 else (pair[WEIGHT1], pair[UP1])
                    soon = pair[WEIGHT1] if block == 0 else asked
                    weight, soon, up = weight + stride * output, soon + stride * output, up + up_stride * output
                    soon = soon if tile == 0 else weight  # which is near by now
                    sums = mine + SUMS + 2 * TILE * block + 4 * SIDE * output
                    if tile + 1 < tiles:
                        _two_tiles(weight, stride, x_of_tile, x_stride, steps, soon, sums)
                        if ups > 0:
                            _more_of_two_tiles(up, up_stride, low_of_tile, x_stride, ups, up, sums)
                    else:
                        _one_tile(weight, stride, x_of_tile, x_stride, steps, soon, sums)
                        if ups > 0:
                            _more_of_one_tile(up, up_stride, low_of_tile, x_stride, ups, up, sums)
                finish_pair(pair, tile, min(2, tiles - tile), mine, bias, residual, result, numbers)


@composed
def product(x: Any, plan: Any, following: Any, residual: Any, result: Any, scratch: Any, threads: int) -> None:
    """Multiply like the function of this name in `plaudit.cpu.kernels.tiles`."""
    by_plan(_multiply, x, plan, following, residual, result, scratch, threads)
