"""A processor's tile unit (Intel AMX): what it is told, and how pairs of bfloat16 come to where it reads them.

A tile is 16 rows (SIDE) of 64 bytes. One instruction adds the product of two to a third: of 16 rows of 32 numbers
(STEP) with 16 columns of as many, which lie in pairs, those of a row one pair of each column after the other.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types

from plaudit.cpu.kernels import vectors
from plaudit.cpu.kernels.linear_table import SIDE, STEP
from plaudit.cpu.kernels.machine_code import generated
from plaudit.cpu.kernels.vectors import BYTE, LONG, instruct

TILE = 1024
"""Bytes."""
SUMS, TURNED, SAVED, CONFIG, ZEROS, SCRATCH = 0, 4096, 5120, 5184, 5248, 8192
"""Bytes into what a thread works in: four tiles, one turned, the unit's state before and now, zeros; and all of it."""

_PERMISSION, _TILE_DATA = 0x1023, 18  # of Linux' arch_prctl


@cache
def flags() -> frozenset[str]:
    """What Linux says that this processor can do; nothing where it says nothing."""
    try:
        with open("/proc/cpuinfo") as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(line.split())


@cache
def available() -> bool:
    """Whether this processor has the unit, and the system lets this process use it."""
    return {"amx_tile", "amx_bf16"} <= flags() and ctypes.CDLL(None).syscall(158, _PERMISSION, _TILE_DATA) == 0


def _number(tile: int) -> Any:
    return ir.Constant(BYTE, tile)


def load(builder: Any, tile: int, address: Any, stride: Any = None, offset: int = 0) -> None:
    """A tile from rows that are so many bytes apart."""
    stride = ir.Constant(LONG, 2 * STEP) if stride is None else stride
    instruct(builder, "llvm.x86.tileloadd64", _number(tile), vectors.at(builder, address, offset), stride)


def zero(builder: Any, tile: int) -> None:
    """A tile of nothing."""
    instruct(builder, "llvm.x86.tilezero", _number(tile))


def add_product(builder: Any, sums: int, rows: int, columns: int) -> None:
    """Add the product of two tiles to a third."""
    instruct(builder, "llvm.x86.tdpbf16ps", *map(_number, (sums, rows, columns)))


def store(builder: Any, tile: int, address: Any, stride: Any, offset: int = 0) -> None:
    """A tile to rows that are so many bytes apart."""
    instruct(builder, "llvm.x86.tilestored64", _number(tile), vectors.at(builder, address, offset), stride)


@generated
def switch_on(context: Any, scratch: Any) -> Any:
    """Set the unit up; how it was before is kept."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        instruct(builder, "llvm.x86.sttilecfg", vectors.at(builder, given[0], SAVED))
        instruct(builder, "llvm.x86.ldtilecfg", vectors.at(builder, given[0], CONFIG))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@generated
def switch_back(context: Any, scratch: Any) -> Any:
    """Restore the unit's state, for whoever has set it up."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        instruct(builder, "llvm.x86.ldtilecfg", vectors.at(builder, given[0], SAVED))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@generated
def transpose_pairs(context: Any, x: Any, stride: Any, last: Any, to: Any) -> Any:
    """A tile of 16 rows of 16 pairs of numbers, pairs first; the last row there is stands for those that are not."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        x, stride, last, to = given
        rows = []
        for b in range(SIDE):
            row = ir.Constant(LONG, b)
            row = builder.select(builder.icmp_signed("<", row, last), row, last)
            rows.append(vectors.load(builder, builder.add(x, builder.mul(row, stride))))
        for i, pairs in enumerate(vectors.transposed(rows, builder)):
            vectors.store(builder, pairs, to, 4 * SIDE * i)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@cache
def workplace() -> Any:
    """[most threads, SCRATCH] bytes to work in, for one caller at a time."""
    result = torch.zeros(numba.config.NUMBA_NUM_THREADS, SCRATCH, dtype=torch.uint8).numpy()
    result[:, CONFIG] = 1
    result[:, CONFIG + 16 : CONFIG + 32].view(np.uint16)[:] = 4 * SIDE  # bytes in each row of the eight tiles
    result[:, CONFIG + 48 : CONFIG + 56] = SIDE
    return result
