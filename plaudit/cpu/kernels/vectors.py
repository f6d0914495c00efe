"""16 numbers at a time, as instructions that the compiler is given: where it would not find them in a loop itself.

Addresses are whole numbers; a network's numbers are float32, or bfloat16 as uint16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

LANES = 16
"""Numbers of a vector."""
BYTE, HALF, WORD, LONG, FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
HALVES, WORDS, FLOATS = (ir.VectorType(kind, LANES) for kind in (HALF, WORD, FLOAT))
ADDRESS = BYTE.as_pointer()


class _BFloat(ir.types.Type):  # type: ignore[misc]
    """The compiler's own type of bfloat16, which what is between it and Python does not have."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


PAIRS = ir.VectorType(_BFloat(), 2 * LANES)
COEFFICIENTS = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
)  # fmt: skip
"""Coefficients of Cephes' polynomial for e^r (Moshier 1992, `expf`)."""


def at(builder: Any, address: Any, offset: int = 0, kind: Any = ADDRESS) -> Any:
    """A pointer to so many bytes behind an address."""
    return builder.inttoptr(builder.add(address, ir.Constant(LONG, offset)), kind)


def instruct(builder: Any, name: str, *arguments: Any) -> None:
    """One instruction that gives nothing back."""
    found = builder.module.globals.get(name)
    if found is None:
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        found = ir.Function(builder.module, kind, name)
    builder.call(found, arguments)


def prefetch(builder: Any, address: Any, lines: int) -> None:
    """Lines of 64 bytes, to be read soon; to ask for what is not there is no error."""
    reading, soon, data = (ir.Constant(WORD, number) for number in (0, 2, 1))
    for line in range(lines):
        instruct(builder, "llvm.prefetch.p0", at(builder, address, 64 * line), reading, soon, data)


def all_of(number: int, kind: Any = WORDS) -> Any:
    """16 times the same whole number, or once."""
    return ir.Constant(kind, [ir.Constant(WORD, number)] * LANES if kind == WORDS else number)


def words_of_halves(builder: Any, address: Any) -> Any:
    """16 numbers of 16 bits there, each in the lower half of one of 32."""
    return builder.zext(builder.load(at(builder, address, kind=HALVES.as_pointer()), align=2), WORDS)


def widened(builder: Any, halves: Any) -> Any:
    """bfloat16 as float32, one or 16."""
    words, floats = (WORD, FLOAT) if halves.type == HALF else (WORDS, FLOATS)
    return builder.bitcast(builder.shl(builder.zext(halves, words), all_of(16, words)), floats)


def rounded(builder: Any, numbers: Any) -> Any:
    """float32 as bfloat16, one or 16: to the nearest, ties to even."""
    words, halves = (WORD, HALF) if numbers.type == FLOAT else (WORDS, HALVES)
    return builder.trunc(builder.lshr(_rounded_bits(builder, numbers), all_of(16, words)), halves)


def _rounded_bits(builder: Any, numbers: Any) -> Any:
    """Those of bfloat16 above what does not count."""
    words = WORD if numbers.type == FLOAT else WORDS
    bits = builder.bitcast(numbers, words)
    last = builder.and_(builder.lshr(bits, all_of(16, words)), all_of(1, words))
    return builder.add(bits, builder.add(last, all_of(0x7FFF, words)))


def rounded_pairs(builder: Any, low: Any, high: Any) -> Any:
    """Two vectors of float32 as bfloat16, in the lower and upper halves of 16 numbers of 32 bits."""
    first, second = (_rounded_bits(builder, numbers) for numbers in (low, high))
    upper = builder.and_(second, all_of(0xFFFF0000))
    return builder.or_(builder.lshr(first, all_of(16)), upper)


def load(builder: Any, address: Any, offset: int = 0, kind: Any = types.float32) -> Any:
    """16 numbers of this kind as float32."""
    if kind == types.float32:
        return builder.load(at(builder, address, offset, FLOATS.as_pointer()), align=4)
    return widened(builder, builder.load(at(builder, address, offset, HALVES.as_pointer()), align=2))


def store(builder: Any, numbers: Any, address: Any, offset: int = 0) -> None:
    """16 float32."""
    builder.store(numbers, at(builder, address, offset, FLOATS.as_pointer()), align=4)


def store_rounded(builder: Any, numbers: Any, address: Any) -> None:
    """16 float32 as bfloat16."""
    builder.store(rounded(builder, numbers), at(builder, address, kind=HALVES.as_pointer()), align=2)


def same(builder: Any, address: Any) -> Any:
    """16 times the float32 there."""
    return same_as(builder, builder.load(at(builder, address, kind=FLOAT.as_pointer()), align=4))


def same_as(builder: Any, number: Any) -> Any:
    """16 times this float32, or whole number of 32 bits."""
    first = builder.insert_element(ir.Constant(ir.VectorType(number.type, LANES), None), number, ir.Constant(WORD, 0))
    return builder.shuffle_vector(first, first, all_of(0))


def pairs(builder: Any, address: Any, offset: int = 0) -> Any:
    """16 pairs of bfloat16."""
    return builder.load(at(builder, address, offset, PAIRS.as_pointer()), align=4)


def same_pair(builder: Any, address: Any, offset: int = 0) -> Any:
    """16 times the pair there."""
    word = builder.load(at(builder, address, offset, WORD.as_pointer()), align=4)
    return builder.bitcast(same_as(builder, word), PAIRS)


def plus_products(builder: Any, sums: Any, some: Any, others: Any) -> Any:
    """16 float32, and to each of them both products of two pairs."""
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    found = builder.module.globals.get(name)
    if found is None:
        found = ir.Function(builder.module, ir.FunctionType(FLOATS, [FLOATS, PAIRS, PAIRS]), name)
    return builder.call(found, [sums, some, others])


def sum_of(builder: Any, numbers: Any) -> Any:
    """Sum of 16 float32, in any order."""
    name = "llvm.vector.reduce.fadd.v16f32"
    found = builder.module.globals.get(name)
    if found is None:
        found = ir.Function(builder.module, ir.FunctionType(FLOAT, [FLOAT, FLOATS]), name)
    return builder.call(found, [ir.Constant(FLOAT, 0.0), numbers], fastmath=["reassoc"])


def transposed(rows: list[Any], builder: Any) -> list[Any]:
    """The columns of 16 vectors, by swapping the quarters of the square, then theirs, down to single numbers."""
    size = LANES // 2
    while size:
        swapped = list(rows)
        for i in (i for i in range(LANES) if not i & size):
            first = [j if not j & size else LANES + j - size for j in range(LANES)]
            second = [j + size if not j & size else LANES + j for j in range(LANES)]
            for place, order in ((i, first), (i + size, second)):
                mask = ir.Constant(WORDS, [ir.Constant(WORD, j) for j in order])
                swapped[place] = builder.shuffle_vector(rows[i], rows[i + size], mask)
        rows, size = swapped, size // 2
    return rows


def exponential(builder: Any, x: Any) -> Any:
    """e^x of 16 float32 up to 88, as `plaudit.cpu.kernels.machine_code.exp`."""

    def all_alike(number: float) -> Any:
        return ir.Constant(FLOATS, [ir.Constant(FLOAT, float(np.float32(number)))] * LANES)

    def times_plus(some: Any, factor: Any, more: Any) -> Any:
        return builder.fadd(builder.fmul(some, factor, flags=["contract"]), more, flags=["contract"])

    least = all_alike(-87.0)
    none = builder.fcmp_ordered("<", x, least)  # what is no number stays so
    x = builder.select(none, least, x)
    n = _vector_call(builder, "llvm.rint.v16f32", builder.fmul(x, all_alike(1.44269504)))
    r = times_plus(n, all_alike(-0.693359375), x)
    r = times_plus(n, all_alike(2.12194440e-4), r)
    p = all_alike(COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        p = times_plus(p, r, all_alike(coefficient))
    p = times_plus(builder.fmul(p, r), r, builder.fadd(r, all_alike(1.0)))
    exponent = builder.shl(builder.add(builder.fptosi(n, WORDS), all_of(127)), all_of(23))
    return builder.select(none, ir.Constant(FLOATS, None), builder.fmul(p, builder.bitcast(exponent, FLOATS)))


def as_it_is(builder: Any, numbers: Any) -> Any:
    """Not to become part of another operation."""
    return _vector_call(builder, "llvm.arithmetic.fence.v16f32", numbers)


def _vector_call(builder: Any, name: str, numbers: Any) -> Any:
    found = builder.module.globals.get(name)
    if found is None:
        found = ir.Function(builder.module, ir.FunctionType(FLOATS, [FLOATS]), name)
    return builder.call(found, [numbers])


def loop(builder: Any, count: Any, carried: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """The body's instructions, at least once: from an index and what is carried to what is carried on; returns that."""
    before, block, after = builder.block, *map(builder.append_basic_block, ("block", "after"))
    builder.branch(block)
    builder.position_at_end(block)
    index = builder.phi(LONG)
    index.add_incoming(ir.Constant(LONG, 0), before)
    here = [builder.phi(one.type) for one in carried]
    further = body(index, here)
    following = builder.add(index, ir.Constant(LONG, 1))
    index.add_incoming(following, builder.block)
    for one, begun, more in zip(here, carried, further, strict=True):
        one.add_incoming(begun, before)
        one.add_incoming(more, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), block, after)
    builder.position_at_end(after)
    return further
