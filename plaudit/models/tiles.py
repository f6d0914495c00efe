"""Matrix products by a processor's tile unit (Intel AMX), of bfloat16 weights that stay where and as they are.

A tile is 16 rows of 64 bytes. One instruction adds the product of two: 16 outputs of a weight, by 32 inputs, by 16 rows
of x. A weight's tile is read straight from the weight; only x is rearranged, which is small.

For few rows a product takes as long as its weight takes to read. A core that reads one place after the other waits for
memory, so what is needed soon is asked for ahead of time, in four places of the weight at once, far from each other.

B rows of x, in tiles of 16; K inputs, N outputs.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import prange, types
from torch import Tensor
from torch.nn import functional

from plaudit.models import machine_code, vectors
from plaudit.models.machine_code import Room, ask_for, compiled, generated, inlined, narrow, plain_array, wide
from plaudit.models.vectors import BYTE, LONG, instruct

SIDE = 16
"""Rows of a tile, and numbers of float32 in one of its rows."""
STEP = 32
"""Inputs that one instruction takes: numbers of bfloat16 in a row of a tile."""
TILE = 1024
"""Bytes."""
AHEAD = 1
"""Groups of four pairs of blocks, between what is asked for and what is computed."""
LINES = 8
"""Of 64 bytes, which each step asks for in each of four places: four pairs of blocks, in the time of four pairs."""
SUMS, TURNED, SAVED, NOTHING, SCRATCH = 0, 4096, 5120, 5248, 8192
"""Bytes into what a thread works in: four tiles, a tile turned, the unit's state, zeros; and all of it."""
WEIGHT0, WEIGHT1, COLUMN, WIDTH, UP0, UP1, LOW = range(7)
"""Columns of a table of pairs of blocks; see `TileProduct`."""

_PERMISSION, _TILE_DATA = 0x1023, 18  # of Linux' arch_prctl


@cache
def available() -> bool:
    """Whether this processor has the unit, and the system lets this process use it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:
        return False
    if "amx_tile" not in flags or "amx_bf16" not in flags:
        return False
    return ctypes.CDLL(None).syscall(158, _PERMISSION, _TILE_DATA) == 0


def fit(inputs: int) -> bool:
    """Whether a weight of so many inputs can be read as pairs of them."""
    return inputs % 2 == 0


def _number(tile: int) -> Any:
    return ir.Constant(BYTE, tile)


def _load(builder: Any, tile: int, address: Any, apart: Any = None, offset: int = 0) -> None:
    """A tile from rows that are so many bytes apart."""
    apart = ir.Constant(LONG, 2 * STEP) if apart is None else apart
    instruct(builder, "llvm.x86.tileloadd64", _number(tile), vectors.at(builder, address, offset), apart)


def _add_product(builder: Any, sums: int, weight: int, x: int) -> None:
    instruct(builder, "llvm.x86.tdpbf16ps", *map(_number, (sums, weight, x)))


@generated
def _switch_on(context: Any, scratch: Any, config: Any) -> Any:
    """Set the unit up; how it was before is kept."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        instruct(builder, "llvm.x86.sttilecfg", vectors.at(builder, given[0], SAVED))
        instruct(builder, "llvm.x86.ldtilecfg", vectors.at(builder, given[1]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@generated
def _switch_back(context: Any, scratch: Any) -> Any:
    """As it was before, for whoever has set it up."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        instruct(builder, "llvm.x86.ldtilecfg", vectors.at(builder, given[0], SAVED))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@inlined
def _ask_for_four(address0: int, address1: int, address2: int, address3: int) -> None:
    ask_for(address0, LINES)
    ask_for(address1, LINES)
    ask_for(address2, LINES)
    ask_for(address3, LINES)


def _of_a_pair(tiles: int) -> Callable[..., None]:
    """The products of two blocks of a weight, whose sums are tiles 0, 1 and 2, 3, with one or two tiles of x."""
    sums = [2 * block + tile for block in range(2) for tile in range(tiles)]

    @generated
    def begin(context: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, __: Any) -> Any:
            for tile in sums:
                instruct(builder, "llvm.x86.tilezero", _number(tile))
            return context.get_dummy_value()

        return types.void(), generate

    @generated
    def step(context: Any, weight0: Any, weight1: Any, apart: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
            weight0, weight1, apart, x = given
            _load(builder, 6, x)
            _load(builder, 4, weight0, apart)
            _add_product(builder, 0, 4, 6)
            if tiles == 2:
                _load(builder, 7, x, offset=TILE)
                _add_product(builder, 1, 4, 7)
            _load(builder, 5, weight1, apart)
            _add_product(builder, 2, 5, 6)
            if tiles == 2:
                _add_product(builder, 3, 5, 7)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    @generated
    def end(context: Any, scratch: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
            apart = ir.Constant(LONG, 4 * SIDE)
            for tile in sums:
                place = vectors.at(builder, given[0], SUMS + tile * TILE)
                instruct(builder, "llvm.x86.tilestored64", _number(tile), place, apart)
            return context.get_dummy_value()

        return types.void(types.int64), generate

    @inlined
    def compute(
        pair: Any, apart: int, x: int, x_apart: int, steps: int, up_apart: int, low: int, up_steps: int,
        asked0: int, asked1: int, asked2: int, asked3: int, scratch: int,
    ) -> None:  # fmt: skip
        weight0, weight1, up0, up1 = pair[WEIGHT0], pair[WEIGHT1], pair[UP0], pair[UP1]
        begin()
        for k in range(steps):
            step(weight0 + 2 * STEP * k, weight1 + 2 * STEP * k, apart, x + x_apart * k)
            if asked0 != 0:
                more = 64 * LINES * k
                _ask_for_four(asked0 + more, asked1 + more, asked2 + more, asked3 + more)
        for k in range(up_steps):
            step(up0 + 2 * STEP * k, up1 + 2 * STEP * k, up_apart, low + x_apart * k)
        end(scratch)

    return compute


_with_one_tile = _of_a_pair(1)
_with_two_tiles = _of_a_pair(2)


def _columns(builder: Any, tile: Any) -> list[Any]:
    """Of a tile of float32."""
    return vectors.turned([vectors.load(builder, tile, 4 * SIDE * i) for i in range(SIDE)], builder)


def _halves(builder: Any, address: Any) -> Any:
    return vectors.load(builder, address, kind=types.uint16)


@generated
def _turn(context: Any, sums: Any, scratch: Any) -> Any:
    """A tile of sums, outputs first, to where rows come first."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        for b, row in enumerate(_columns(builder, given[0])):
            vectors.store(builder, row, given[1], TURNED + 4 * SIDE * b)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@generated
def _finish_row(context: Any, turned: Any, bias: Any, residual: Any, result: Any) -> Any:
    """16 outputs of one row, with what is added to them, to their place."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        row = builder.fadd(vectors.load(builder, given[0], TURNED), _halves(builder, given[1]))
        vectors.store_rounded(builder, builder.fadd(row, _halves(builder, given[2])), given[3])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@generated
def _finish_tile(
    context: Any, sums: Any, bias: Any, residual: Any, residual_apart: Any, result: Any, result_apart: Any
) -> Any:
    """16 outputs of 16 rows."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        sums, bias, residual, residual_apart, result, result_apart = given
        added = _halves(builder, bias)
        for row in _columns(builder, sums):
            whole = builder.fadd(builder.fadd(row, added), _halves(builder, residual))
            vectors.store_rounded(builder, whole, result)
            residual = builder.add(residual, residual_apart)
            result = builder.add(result, result_apart)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@inlined
def _arrange(x: Any, k: int, arranged: Any) -> None:
    """32 inputs of all rows as the unit reads them: pairs of inputs first, for 16 rows; zeros where none are."""
    rows, pairs = x.shape
    for tile in range(len(arranged)):
        to = arranged[tile]
        for b in range(SIDE):
            row = tile * SIDE + b
            count = min(SIDE, pairs - k * SIDE) if row < rows else 0
            for i in range(count):
                to[i, b] = x[row, k * SIDE + i]
            for i in range(count, SIDE):
                to[i, b] = 0


@compiled
def multiply(
    x: Any, x_tiles: Any, table: Any, apart: int, low: Any, low_tiles: Any, up_apart: int, up_steps: int, bias: Any,
    residual: Any, result: Any, scratch: Any, config: Any, threads: int,
) -> None:  # fmt: skip
    """result = x weight' + low up' + bias + residual, over all pairs of blocks of a table.

    x, low     [B, K / 2] pairs of bfloat16; without rows where their tiles are given already
    x_tiles    [ceil(K / 32), ceil(B / 16), 16, 16] x as the unit reads it, written; `low_tiles` likewise, or empty
    table      [pairs, 7], see `TileProduct`; up_steps: of 32, how many numbers of `low` an output takes
    apart      bytes from one row of a weight to the next; `up_apart` of an up
    bias       [at least 32 more than all outputs]
    residual   [B, outputs], or without rows for none; may be the result itself
    result     [B, outputs], written
    scratch    [threads, SCRATCH] bytes to work in, with zeros at NOTHING
    config     [64] bytes, how the unit is set up
    threads    to use
    """
    if len(x) > 0:
        for k in prange(len(x_tiles)):
            _arrange(x, k, x_tiles[k])
    if len(low) > 0:
        for k in range(len(low_tiles)):
            _arrange(low, k, low_tiles[k])
    rows, outputs = result.shape
    steps, tiles = x_tiles.shape[0], x_tiles.shape[1]
    x_at, low_at, x_apart = np.int64(x_tiles.ctypes.data), np.int64(low_tiles.ctypes.data), TILE * tiles
    bias_at, result_at = np.int64(bias.ctypes.data), np.int64(result.ctypes.data)
    adds = len(residual) > 0
    residual_at, residual_apart = np.int64(residual.ctypes.data), 2 * outputs if adds else 0
    for thread in prange(threads):
        begin, end = len(table) * thread // threads, len(table) * (thread + 1) // threads
        far = (end - begin) // 4
        mine = np.int64(scratch.ctypes.data) + thread * SCRATCH
        numbers = scratch[thread, TURNED : TURNED + TILE].view(np.float32)
        _switch_on(mine, np.int64(config.ctypes.data))
        for i in range(end - begin):
            group, part = i // 4, i % 4
            pair = table[begin + (part * far + group if group < far else i)]
            asked0 = asked1 = asked2 = asked3 = np.int64(0)
            if group + AHEAD < far:
                first, more = begin + group + AHEAD, 64 * LINES * steps * part
                asked0, asked1 = table[first, WEIGHT0] + more, table[first + far, WEIGHT0] + more
                asked2, asked3 = table[first + 2 * far, WEIGHT0] + more, table[first + 3 * far, WEIGHT0] + more
            low_of_pair = low_at + x_apart * pair[LOW]
            ups = up_steps if pair[UP0] != 0 else 0
            for tile in range(0, tiles, 2):
                x_of_tile, low_of_tile = x_at + TILE * tile, low_of_pair + TILE * tile
                if tile + 1 < tiles:
                    _with_two_tiles(
                        pair, apart, x_of_tile, x_apart, steps, up_apart, low_of_tile, ups,
                        asked0, asked1, asked2, asked3, mine,
                    )  # fmt: skip
                else:
                    _with_one_tile(
                        pair, apart, x_of_tile, x_apart, steps, up_apart, low_of_tile, ups,
                        asked0, asked1, asked2, asked3, mine,
                    )  # fmt: skip
                asked0 = np.int64(0)
                for block in range(2):
                    column = pair[COLUMN] + SIDE * block
                    width = min(SIDE, pair[WIDTH] - SIDE * block)
                    if width <= 0:
                        break
                    for which in range(min(2, tiles - tile)):
                        sums = mine + SUMS + TILE * (2 * block + which)
                        row = SIDE * (tile + which)
                        added = residual_at + residual_apart * row + 2 * column if adds else mine + NOTHING
                        written = result_at + 2 * (outputs * row + column)
                        if width == SIDE and row + SIDE <= rows:
                            _finish_tile(sums, bias_at + 2 * column, added, residual_apart, written, 2 * outputs)
                            continue
                        _turn(sums, mine)
                        for b in range(min(SIDE, rows - row)):
                            if width == SIDE:
                                _finish_row(
                                    mine + 4 * SIDE * b,
                                    bias_at + 2 * column,
                                    added + residual_apart * b,
                                    written + 2 * outputs * b,
                                )
                                continue
                            for n in range(width):
                                total = numbers[b * SIDE + n] + wide(bias[column + n])
                                if adds:
                                    total += wide(residual[row + b, column + n])
                                result[row + b, column + n] = narrow(total, result)
        _switch_back(mine)


class TileProduct:
    """Linear layers of one input, side by side: [W1; W2; ...] x + bias, and + [B1 A1 x; ...] where they have adapters.

    Its tables have a line for 32 outputs, two blocks of 16:

    WEIGHT0, WEIGHT1  where the blocks' weights begin in memory
    COLUMN, WIDTH     the first of the outputs, and how many there are: fewer at a layer's end
    UP0, UP1          where the blocks' second halves of an adapter begin; 0 without
    LOW               the layer's first step in what the first halves have given
    """

    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor | None],
        adapters: list[tuple[Tensor, Tensor] | None],
        room: Room,
    ):
        """Weights [N, K] and biases [N] of bfloat16; adapters ([rank, K], [N, rank]), with the scale in the second."""
        self.room, self.steps = room, -(-weights[0].shape[1] // STEP)
        self.outputs = sum(map(len, weights))
        self.kept: list[Tensor] = []  # what the tables point to
        ranks = [len(adapter[0]) for adapter in adapters if adapter is not None]
        self.up_steps = -(-max(ranks) // STEP) if ranks else 0
        self.lows = self.up_steps * len(ranks)  # steps of what the first halves give
        parts: list[Any] = []
        lows: list[Any] = []
        column = 0
        for weight, adapter in zip(weights, adapters, strict=True):
            part = self._pairs(weight, self.steps)
            part[:, COLUMN] += column
            if adapter is not None:
                down, up = adapter
                ups = self._pairs(up, self.up_steps)
                part[:, UP0], part[:, UP1] = ups[:, WEIGHT0], ups[:, WEIGHT1]
                part[:, LOW] = self.up_steps * len(lows)
                low = self._pairs(down, self.steps)
                low[:, COLUMN] += STEP * self.up_steps * len(lows)
                lows.append(low)
            parts.append(part)
            column += len(weight)
        self.table = np.concatenate(parts)
        self.down_table = np.concatenate(lows) if lows else None
        self.no_bias = np.zeros(max(self.outputs, STEP * self.lows) + STEP, np.uint16)
        self.bias = self.no_bias.copy()
        whole = torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)])
        self.bias[: self.outputs] = plain_array(whole.detach().to(torch.bfloat16))

    def _pairs(self, weight: Tensor, steps: int) -> Any:
        """[pairs, 7] lines of a table for one weight [N, K], of which only what does not fill a tile is copied."""
        weight, missing = weight.detach().contiguous(), STEP * steps - weight.shape[1]
        if missing:  # to pad by nothing would copy
            weight = functional.pad(weight, (0, missing))
        whole = len(weight) // SIDE
        addresses = weight.data_ptr() + 2 * STEP * steps * SIDE * np.arange(whole, dtype=np.int64)
        self.kept.append(weight)
        if whole * SIDE < len(weight):
            end = functional.pad(weight[whole * SIDE :], (0, 0, 0, SIDE - len(weight) % SIDE)).contiguous()
            self.kept.append(end)
            addresses = np.append(addresses, end.data_ptr())
        if len(addresses) % 2:
            addresses = np.append(addresses, addresses[-1])  # whose width says that it is not wanted
        table = np.zeros((len(addresses) // 2, 7), np.int64)
        table[:, WEIGHT0], table[:, WEIGHT1] = addresses[::2], addresses[1::2]
        table[:, COLUMN] = 2 * SIDE * np.arange(len(table))
        table[:, WIDTH] = np.minimum(2 * SIDE, len(weight) - table[:, COLUMN])
        return table

    def __call__(self, x: Any, result: Any, residual: Any | None = None) -> None:
        """[B, K] -> [B, outputs], written; plus a residual of that shape, which may be the result itself.

        Where kernels are in use; all are bfloat16 as uint16.
        """
        x_tiles, none = self._tiles("x", len(x), self.steps), self._tiles("low", 0, 0)
        x = x.view(np.uint32)
        if self.down_table is None:
            self._multiply(x, x_tiles, self.table, x[:0], none, 0, self.bias, residual, result)
            return
        low = self.room.of("low", len(x), STEP * self.lows, np.uint16)
        low[:] = 0  # where a rank ends within a step
        self._multiply(x, x_tiles, self.down_table, x[:0], none, 0, self.no_bias, None, low)
        low_tiles = self._tiles("low", len(x), self.lows)
        low = low.view(np.uint32)
        self._multiply(x[:0], x_tiles, self.table, low, low_tiles, self.up_steps, self.bias, residual, result)

    def _tiles(self, use: str, rows: int, steps: int) -> Any:
        count = -(-rows // SIDE)
        return self.room.of(use, steps * count, SIDE * SIDE, np.uint32).reshape(steps, count, SIDE, SIDE)

    def _multiply(
        self, x: Any, x_tiles: Any, table: Any, low: Any, low_tiles: Any, up_steps: int, bias: Any,
        residual: Any | None, result: Any,
    ) -> None:  # fmt: skip
        row = 2 * STEP  # bytes of a tile
        added = result[:0] if residual is None else residual
        multiply(
            x, x_tiles, table, row * self.steps, low, low_tiles, row * up_steps, up_steps, bias, added, result,
            _scratch(), _configuration(), machine_code.threads(),
        )  # fmt: skip


@cache
def _scratch() -> Any:
    return torch.zeros(numba.config.NUMBA_NUM_THREADS, SCRATCH, dtype=torch.uint8).numpy()


@cache
def _configuration() -> Any:
    """Of the unit: eight tiles of 16 rows of 64 bytes."""
    whole = np.zeros(64, np.uint8)
    whole[0] = 1
    whole[16:32].view(np.uint16)[:] = 4 * SIDE
    whole[48:56] = SIDE
    return whole
