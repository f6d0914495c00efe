"""Causal attention over rows of a packed batch by a processor's tile unit, forward and backward, in bfloat16.

As `row_attention`, but 32 queries at a time and with the products of `tile_unit`: probabilities and gradients are
rounded to bfloat16 before they are multiplied, as in Dao 2023 (FlashAttention-2,
arXiv:2307.08691), and summed in float32. Scores are held keys first, so that 16 queries are a vector: what is done to
each of them needs no sum across its numbers.

Letters are as there. A square is 32 by 32: the product of 32 rows of numbers, which the unit takes as they are, with 32
columns of pairs of them, STEP numbers of each at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types

from plaudit.cpu.kernels import vectors
from plaudit.cpu.kernels.linear import transpose_square
from plaudit.cpu.kernels.linear_table import SIDE, STEP
from plaudit.cpu.kernels.machine_code import called, compiled, generated, inlined
from plaudit.cpu.kernels.tile_unit import (
    TILE,
    add_product,
    load,
    store,
    switch_back,
    switch_on,
    transpose_pairs,
    zero,
)
from plaudit.cpu.kernels.vectors import FLOATS, LANES, LONG, WORDS

QUERIES = 2 * LANES
"""Worked on at once: two vectors."""
TOGETHER = 256
"""Queries whose chances are held in the backward pass, until keys get their gradients from all of them."""
APART = 4 * QUERIES
"""Bytes from one row of a strip, float32 of each query, to the next."""


@generated
def _begin(context: Any) -> Any:
    def generate(context: Any, builder: Any, _: Any, __: Any) -> Any:
        for tile in range(4):
            zero(builder, tile)
        return context.get_dummy_value()

    return types.void(), generate


@generated
def _begin_with(context: Any, sums: Any, stride: Any) -> Any:
    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        for tile, place in enumerate(_quarters(builder, *given)):
            load(builder, tile, place, given[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@generated
def _end(context: Any, sums: Any, stride: Any) -> Any:
    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        for tile, place in enumerate(_quarters(builder, *given)):
            store(builder, tile, place, given[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _quarters(builder: Any, sums: Any, stride: Any) -> list[Any]:
    """Addresses of the four tiles of a square of float32."""
    below = builder.add(sums, builder.mul(stride, ir.Constant(LONG, SIDE)))
    return [builder.add(first, ir.Constant(LONG, 4 * SIDE * i)) for first in (sums, below) for i in range(2)]


@generated
def _add_step(context: Any, upper: Any, lower: Any, stride: Any, columns: Any) -> Any:
    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        upper, lower, stride, columns = given
        load(builder, 6, columns)
        load(builder, 4, upper, stride)
        add_product(builder, 0, 4, 6)
        load(builder, 7, columns, offset=TILE)
        add_product(builder, 1, 4, 7)
        load(builder, 5, lower, stride)
        add_product(builder, 2, 5, 6)
        add_product(builder, 3, 5, 7)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@called
def _square(
    rows: int, far: int, stride: int, row_step: int, columns: int, column_step: int, steps: int, sums: int,
    sums_stride: int, added: bool,
) -> None:  # fmt: skip
    """A square of sums, float32, over steps: written, or added to what is there.

    rows     address of the first row, and bytes to the seventeenth, from each to the next, and to its next step
    columns  address of two tiles of pairs, side by side, and bytes to their next step
    """
    if added:
        _begin_with(sums, sums_stride)
    else:
        _begin()
    for k in range(steps):
        upper = rows + row_step * k
        _add_step(upper, upper + far, stride, columns + column_step * k)
    _end(sums, sums_stride)


@inlined
def _address(array: Any) -> Any:
    return np.int64(array.ctypes.data)


@inlined
def _room(rows: int, columns: int, like: Any) -> Any:
    """[rows, columns] of an array's numbers, from the beginning of a line of memory on."""
    size = rows * columns
    made = np.empty(size + 64 // like.itemsize, like.dtype)
    skipped = -np.int64(made.ctypes.data) % 64 // made.itemsize
    return made[skipped : skipped + size].reshape(rows, columns)


@generated
def _copy_line(context: Any, source: Any, to: Any) -> Any:
    """64 bytes."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        source, to = (vectors.at(builder, address, kind=WORDS.as_pointer()) for address in given)
        builder.store(builder.load(source, align=2), to, align=2)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@called
def _fetch(x: Any, places: Any, at: int, width: int, result: Any) -> None:
    """Numbers of one head of these tokens; zeros in columns beyond them, and in rows up to a multiple of 32."""
    whole = width // STEP * STEP
    for row in range(len(places)):
        source, to = _address(x) + 2 * (x.shape[1] * places[row] + at), _address(result) + 2 * result.shape[1] * row
        for i in range(0, whole, STEP):
            _copy_line(source + 2 * i, to + 2 * i)
        for i in range(whole, width):
            result[row, i] = x[places[row], at + i]
        for i in range(width, result.shape[1]):
            result[row, i] = 0
    for row in range(len(places), -(-len(places) // QUERIES) * QUERIES):
        result[row][:] = 0


@called
def _transpose_into(x: Any, count: int, result: Any) -> None:
    """Write `count` rows of x as columns, in tiles: [D / 16, S / 32, 16 columns, 32 rows]."""
    steps, tiles = count // STEP, x.shape[1] // SIDE
    for tile in range(tiles):
        for step in range(steps):
            source = _address(x) + 2 * (x.shape[1] * STEP * step + SIDE * tile)
            transpose_square(source, 2 * x.shape[1], _address(result) + TILE * (tile * steps + step), 2 * STEP)


@called
def _turn_to_pairs(x: Any, result: int) -> None:
    """32 rows of x as columns of pairs: [D / 32, 2, 16 pairs, 16 rows]."""
    for step in range(x.shape[1] // STEP):
        for half in range(2):
            source = _address(x) + 2 * (x.shape[1] * SIDE * half + STEP * step)
            transpose_pairs(source, 2 * x.shape[1], SIDE - 1, result + TILE * (2 * step + half))


@generated
def _pair_rows(context: Any, rows: Any, stride: Any, to: Any) -> Any:
    """16 numbers of each of 32 rows, two rows together: [16 pairs, 16]."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        row, stride, to = given
        for pair in range(SIDE):
            second = builder.add(row, stride)
            both = [vectors.words_of_halves(builder, address) for address in (row, second)]
            together = builder.or_(both[0], builder.shl(both[1], vectors.all_of(16)))
            builder.store(together, vectors.at(builder, to, 4 * SIDE * pair, WORDS.as_pointer()), align=4)
            row = builder.add(second, stride)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@called
def _pair(x: Any, result: int) -> None:
    """32 rows of x two by two: [D / 16, 16 pairs of rows, 16]."""
    for tile in range(x.shape[1] // SIDE):
        _pair_rows(_address(x) + 2 * SIDE * tile, 2 * x.shape[1], result + TILE * tile)


def _visible(builder: Any, distance: Any, window: Any) -> Any:
    """Keys that are as many tokens before each query: not behind it, and within its window."""
    return builder.icmp_unsigned("<", distance, window)


def _two(builder: Any, address: Any, offset: Any = None, kind: Any = FLOATS) -> list[Any]:
    """Two vectors of a row of a strip."""
    first = address if offset is None else builder.add(address, offset)
    return [builder.load(vectors.at(builder, first, 4 * LANES * i, kind.as_pointer()), align=4) for i in range(2)]


def _put_two(builder: Any, numbers: list[Any], address: Any, offset: Any) -> None:
    for i, some in enumerate(numbers):
        vectors.store(builder, some, builder.add(address, offset), 4 * LANES * i)


def _row_at(builder: Any, index: Any, of_row: int = APART) -> Any:
    return builder.mul(index, ir.Constant(LONG, of_row))


def _nearer(builder: Any, distances: list[Any]) -> list[Any]:
    """Distances of the next key."""
    return [builder.sub(distance, vectors.all_of(1)) for distance in distances]


@generated
def _to_chances(
    context: Any,
    strip: Any,
    count: Any,
    distances: Any,
    window: Any,
    scale: Any,
    tops: Any,
    totals: Any,
    probabilities: Any,
) -> Any:
    """From scores to e^(scale score - top), two keys together: [S / 32, 2, 16 pairs of keys, 16 queries].

    strip      address of [count, 32] float32, used up; count is a multiple of 32
    distances  address of [32] int32: tokens from the first key to each query
    tops, totals  addresses of [32] float32, written
    """
    minus_infinity = ir.Constant(FLOATS, [ir.Constant(vectors.FLOAT, float("-inf"))] * LANES)
    nothing = ir.Constant(FLOATS, None)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        strip, count, distances, window, scale, tops, totals, probabilities = given
        window, scale = (vectors.same_as(builder, number) for number in (window, scale))
        far = _two(builder, distances, kind=WORDS)

        def look(index: Any, carried: list[Any]) -> list[Any]:
            at, largest = carried[:2], carried[2:]
            row = _row_at(builder, index)
            scores = [builder.fmul(score, scale) for score in _two(builder, strip, row)]
            seen = [
                builder.select(_visible(builder, distance, window), score, minus_infinity)
                for distance, score in zip(at, scores, strict=True)
            ]
            _put_two(builder, seen, strip, row)
            more = [
                builder.select(builder.fcmp_ordered(">", score, most), score, most)
                for score, most in zip(seen, largest, strict=True)
            ]
            return [*_nearer(builder, at), *more]

        largest = vectors.loop(builder, count, [*far, minus_infinity, minus_infinity], look)[2:]
        _put_two(builder, largest, tops, ir.Constant(LONG, 0))

        def weigh(index: Any, carried: list[Any]) -> list[Any]:
            pairs, sums = [], carried
            for which in range(2):
                row = _row_at(builder, builder.add(builder.shl(index, ir.Constant(LONG, 1)), ir.Constant(LONG, which)))
                below = zip(_two(builder, strip, row), largest, strict=True)
                weights = [vectors.exponential(builder, builder.fsub(score, top)) for score, top in below]
                sums = [builder.fadd(total, weight) for total, weight in zip(sums, weights, strict=True)]
                pairs.append(weights)
            _put_pairs(builder, index, pairs[0], pairs[1], probabilities)
            return sums

        half = builder.lshr(count, ir.Constant(LONG, 1))
        _put_two(builder, vectors.loop(builder, half, [nothing] * 2, weigh), totals, ir.Constant(LONG, 0))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3, types.int32, types.float32, *[types.int64] * 3), generate


def _put_pairs(builder: Any, index: Any, first: list[Any], second: list[Any], result: Any) -> None:
    """Store the numbers of two keys, as bfloat16, at the place of pair `index` in [S / 32, 2, 16 pairs, 16]."""
    step, pair = builder.lshr(index, ir.Constant(LONG, 4)), builder.and_(index, ir.Constant(LONG, SIDE - 1))
    place = builder.add(_row_at(builder, step, 2 * TILE), _row_at(builder, pair, 4 * SIDE))
    for half, (low, high) in enumerate(zip(first, second, strict=True)):
        together = vectors.rounded_pairs(builder, low, high)
        to = vectors.at(builder, builder.add(result, place), TILE * half, WORDS.as_pointer())
        builder.store(together, to, align=4)


@generated
def _to_slopes(
    context: Any, strip: Any, gradients: Any, count: Any, distances: Any, window: Any, scale: Any, normalisers: Any,
    probability_rows: Any, gradient_rows: Any, gradient_pairs: Any,
) -> Any:  # fmt: skip
    """From scores s and gradients D of chances to chances P = e^(scale s - normaliser) and to E = P (D - sum(P D)).

    strip, slopes  addresses of s and D: [count, 32] float32, s used up; count is a multiple of 32
    normalisers    address of [32]
    probability_rows, slope_rows  addresses of P and E, [count, 32] bfloat16, written
    gradient_pairs    address of E two keys together, as of `_to_chances`
    """
    nothing = ir.Constant(FLOATS, None)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        (
            strip,
            gradients,
            count,
            distances,
            window,
            scale,
            normalisers,
            probability_rows,
            gradient_rows,
            gradient_pairs,
        ) = given
        window, scale = (vectors.same_as(builder, number) for number in (window, scale))
        tops = _two(builder, normalisers)

        def weigh(index: Any, carried: list[Any]) -> list[Any]:
            at, along = carried[:2], carried[2:]
            row = _row_at(builder, index)
            probabilities = []
            for score, top, distance in zip(_two(builder, strip, row), tops, at, strict=True):
                scaled = vectors.as_it_is(builder, builder.fmul(score, scale))  # rounded as it was for the top
                probability = vectors.exponential(builder, builder.fsub(scaled, top))
                probabilities.append(builder.select(_visible(builder, distance, window), probability, nothing))
            _put_two(builder, probabilities, strip, row)
            products = [
                builder.fmul(probability, gradient)
                for probability, gradient in zip(probabilities, _two(builder, gradients, row), strict=True)
            ]
            return [
                *_nearer(builder, at),
                *(builder.fadd(total, more) for total, more in zip(along, products, strict=True)),
            ]

        far = _two(builder, distances, kind=WORDS)
        along = vectors.loop(builder, count, [*far, nothing, nothing], weigh)[2:]

        def give(index: Any, _: list[Any]) -> list[Any]:
            pairs = []
            for which in range(2):
                key = builder.add(builder.shl(index, ir.Constant(LONG, 1)), ir.Constant(LONG, which))
                row, halves = _row_at(builder, key), _row_at(builder, key, APART // 2)
                probabilities = _two(builder, strip, row)
                given = zip(probabilities, _two(builder, gradients, row), along, strict=True)
                pairs.append(
                    [builder.fmul(probability, builder.fsub(gradient, some)) for probability, gradient, some in given]
                )
                for numbers, to in ((probabilities, probability_rows), (pairs[-1], gradient_rows)):
                    for half, some in enumerate(numbers):
                        place = builder.add(builder.add(to, halves), ir.Constant(LONG, 2 * LANES * half))
                        vectors.store_rounded(builder, some, place)
            _put_pairs(builder, index, pairs[0], pairs[1], gradient_pairs)
            return []

        vectors.loop(builder, builder.lshr(count, ir.Constant(LONG, 1)), [], give)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, types.int32, types.float32, *[types.int64] * 4), generate


@generated
def _finish(context: Any, sums: Any, factors: Any, result: Any, stride: Any) -> Any:
    """16 rows of 16 queries of a strip, times a factor of each query, to 16 rows of bfloat16, queries first."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        sums, factors, result, stride = given
        factor = vectors.load(builder, factors)
        rows = [builder.fmul(vectors.load(builder, sums, APART * i), factor) for i in range(SIDE)]
        for row in vectors.transposed(rows, builder):
            vectors.store_rounded(builder, row, result)
            result = builder.add(result, stride)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@called
def _give(strip: Any, factors: Any, room: Any, places: Any, at: int, width: int, result: Any) -> None:
    """From [D, 32] sums, times a factor of each query, to their places: `width` columns of [N, ...] from `at` on."""
    for tile in range(room.shape[1] // SIDE):
        for half in range(2):
            sums = _address(strip) + APART * SIDE * tile + 4 * SIDE * half
            to = _address(room) + 2 * (room.shape[1] * SIDE * half + SIDE * tile)
            _finish(sums, _address(factors) + 4 * SIDE * half, to, 2 * room.shape[1])
    whole = width // STEP * STEP
    for row in range(len(places)):
        source, to = (
            _address(room) + 2 * room.shape[1] * row,
            _address(result) + 2 * (result.shape[1] * places[row] + at),
        )
        for i in range(0, whole, STEP):
            _copy_line(source + 2 * i, to + 2 * i)
        for i in range(whole, width):
            result[places[row], at + i] = room[row, i]


@called
def _multiply_rows(rows: Any, count: int, columns: int, strip: Any) -> None:
    """[count, D] rows with the 32 columns of pairs at an address -> [count, 32] of a strip."""
    of_row = 2 * rows.shape[1]
    for row in range(0, count, STEP):
        first, sums = _address(rows) + of_row * row, _address(strip) + APART * row
        _square(first, SIDE * of_row, of_row, 2 * STEP, columns, 2 * TILE, rows.shape[1] // STEP, sums, APART, False)


@called
def _multiply_columns(transposed: Any, steps: int, begin: int, end: int, columns: int, strip: Any) -> None:
    """Rows that `_transpose_into` has written, from one step of 32 keys to another, times as many columns."""
    of_tile = steps * TILE
    for square in range(len(strip) // STEP):
        first = _address(transposed) + 2 * square * of_tile + begin * TILE
        sums = _address(strip) + APART * STEP * square
        _square(first, of_tile, 2 * STEP, TILE, columns, 2 * TILE, end - begin, sums, APART, False)


@inlined
def _distances(before: int, first: int, begin: int, count: int, result: Any) -> None:
    """From the key at `begin` to queries from `first` on, so many; those that are not there see nothing."""
    for i in range(QUERIES):
        result[i] = before + first + i - begin if i < count else np.int32(-(2**30))


@compiled
def attend(
    query: Any, key: Any, value: Any, normalisers: Any, result: Any, query_places: Any, query_begins: Any,
    key_places: Any, key_begins: Any, most_keys: int, heads: int, scale: Any, window: int, threads: int, scratch: Any,
) -> None:  # fmt: skip
    """`row_attention.attend`, of bfloat16; scratch as of `tile_unit.workplace`."""
    width = query.shape[1] // heads
    groups, rows = key.shape[1] // width, len(key_begins) - 1
    members, padded = heads // groups, -(-width // STEP) * STEP
    limit = np.int32(min(window, 2**30))
    for thread in prange(threads):
        longest = -(-most_keys // STEP) * STEP
        keys = _room(longest, padded, query)
        values = _room(longest, padded, query)
        transposed = _room(longest, padded, query)
        looking, mixed = _room(QUERIES, padded, query), _room(QUERIES, padded, query)
        columns, probabilities = _room(QUERIES, padded, query), _room(longest, QUERIES, query)
        strip, mixing = _room(longest, QUERIES, normalisers), _room(padded, QUERIES, normalisers)
        tops, totals = np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32)
        distances = np.empty(QUERIES, np.int32)
        mine = np.int64(scratch.ctypes.data) + thread * scratch.shape[1]
        switch_on(mine)
        for item in range(thread, rows * groups, threads):
            row, group = item // groups, item % groups
            of_keys = key_places[key_begins[row] : key_begins[row + 1]]
            of_queries = query_places[query_begins[row] : query_begins[row + 1]]
            before, at, steps = len(of_keys) - len(of_queries), group * width, -(-len(of_keys) // STEP)
            _fetch(key, of_keys, at, width, keys)
            _fetch(value, of_keys, at, width, values)
            _transpose_into(values, steps * STEP, transposed)
            for head in range(group * members, (group + 1) * members):
                for q in range(0, len(of_queries), QUERIES):
                    some = of_queries[q : q + QUERIES]
                    _fetch(query, some, head * width, width, looking)
                    _turn_to_pairs(looking, _address(columns))
                    begin = max(0, before + q + 1 - window) // STEP
                    end = -(-(before + q + len(some)) // STEP)
                    count = (end - begin) * STEP
                    _distances(before, q, begin * STEP, len(some), distances)
                    _multiply_rows(keys[begin * STEP :], count, _address(columns), strip)
                    _to_chances(
                        _address(strip), count, _address(distances), limit, scale, _address(tops), _address(totals),
                        _address(probabilities),
                    )  # fmt: skip
                    _multiply_columns(transposed, steps, begin, end, _address(probabilities), mixing)
                    for i in range(len(some)):
                        normalisers[some[i], head] = tops[i] + np.log(totals[i])
                        totals[i] = np.float32(1.0) / totals[i]
                    _give(mixing, totals, mixed, some, head * width, width, result)
        switch_back(mine)


@compiled
def attend_backward(
    query: Any, key: Any, value: Any, normalisers: Any, gradient: Any, to_query: Any, to_key: Any, to_value: Any,
    query_places: Any, query_begins: Any, key_places: Any, key_begins: Any, most_keys: int, heads: int, scale: Any,
    window: int, threads: int, scratch: Any,
) -> None:  # fmt: skip
    """`plaudit.cpu.kernels.row_attention.attend_backward`, of bfloat16."""
    width = query.shape[1] // heads
    groups, rows = key.shape[1] // width, len(key_begins) - 1
    members, padded = heads // groups, -(-width // STEP) * STEP
    limit = np.int32(min(window, 2**30))
    for thread in prange(threads):
        longest = -(-most_keys // STEP) * STEP
        keys = _room(longest, padded, query)
        values = _room(longest, padded, query)
        transposed = _room(longest, padded, query)
        key_sums, value_sums = _room(longest, padded, to_key), _room(longest, padded, to_key)
        looking = _room(QUERIES, padded, query)
        given = _room(QUERIES, padded, query)
        mixed = _room(QUERIES, padded, query)
        columns, pairs = _room(QUERIES, padded, query), _room(longest, QUERIES, query)
        query_pairs, given_pairs = _room(TOGETHER, padded, query), _room(TOGETHER, padded, query)
        probabilities = _room(TOGETHER // QUERIES, longest * QUERIES, query)
        gradients = _room(TOGETHER // QUERIES, longest * QUERIES, query)
        strip, slope_strip = _room(longest, QUERIES, to_key), _room(longest, QUERIES, to_key)
        mixing = _room(padded, QUERIES, to_key)
        tops, scales = np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32)
        distances, begins = np.empty(QUERIES, np.int32), np.empty((TOGETHER // QUERIES, 2), np.int64)
        scales[:] = scale
        mine = np.int64(scratch.ctypes.data) + thread * scratch.shape[1]
        switch_on(mine)
        for item in range(thread, rows * groups, threads):
            row, group = item // groups, item % groups
            of_keys = key_places[key_begins[row] : key_begins[row + 1]]
            of_queries = query_places[query_begins[row] : query_begins[row + 1]]
            before, at, steps = len(of_keys) - len(of_queries), group * width, -(-len(of_keys) // STEP)
            _fetch(key, of_keys, at, width, keys)
            _fetch(value, of_keys, at, width, values)
            _transpose_into(keys, steps * STEP, transposed)
            key_sums[: steps * STEP] = 0
            value_sums[: steps * STEP] = 0
            for head in range(group * members, (group + 1) * members):
                for together in range(0, len(of_queries), TOGETHER):
                    here = of_queries[together : together + TOGETHER]
                    for unit in range(-(-len(here) // QUERIES)):
                        q = together + unit * QUERIES
                        some = of_queries[q : q + QUERIES]
                        begin = max(0, before + q + 1 - window) // STEP
                        end = -(-(before + q + len(some)) // STEP)
                        begins[unit, 0], begins[unit, 1] = begin, end
                        count = (end - begin) * STEP
                        _distances(before, q, begin * STEP, len(some), distances)
                        for i in range(QUERIES):
                            tops[i] = normalisers[some[min(i, len(some) - 1)], head]
                        of_unit = 2 * QUERIES * padded * unit
                        _fetch(query, some, head * width, width, looking)
                        _pair(looking, _address(query_pairs) + of_unit)
                        _turn_to_pairs(looking, _address(columns))
                        _multiply_rows(keys[begin * STEP :], count, _address(columns), strip)
                        _fetch(gradient, some, head * width, width, given)
                        _pair(given, _address(given_pairs) + of_unit)
                        _turn_to_pairs(given, _address(columns))
                        _multiply_rows(values[begin * STEP :], count, _address(columns), slope_strip)
                        first = 2 * QUERIES * begin * STEP
                        _to_slopes(
                            _address(strip), _address(slope_strip), count, _address(distances), limit, scale,
                            _address(tops), _address(probabilities[unit]) + first, _address(gradients[unit]) + first,
                            _address(pairs),
                        )  # fmt: skip
                        _multiply_columns(transposed, steps, begin, end, _address(pairs), mixing)
                        _give(mixing, scales, mixed, some, head * width, width, to_query)
                    units = -(-len(here) // QUERIES)
                    for step in range(begins[0, 0], begins[units - 1, 1]):
                        first, last = 0, units
                        while begins[first, 1] <= step:
                            first += 1
                        while begins[last - 1, 0] > step:
                            last -= 1
                        of_rows = 2 * longest * QUERIES * first + 2 * QUERIES * STEP * step
                        for square in range(padded // STEP):
                            of_pairs = 2 * QUERIES * padded * first + 2 * TILE * square
                            of_sums = 4 * padded * STEP * step + 4 * STEP * square
                            _square(
                                _address(gradients) + of_rows, TILE, 2 * QUERIES, 2 * longest * QUERIES,
                                _address(query_pairs) + of_pairs, 2 * QUERIES * padded, last - first,
                                _address(key_sums) + of_sums, 4 * padded, True,
                            )  # fmt: skip
                            _square(
                                _address(probabilities) + of_rows, TILE, 2 * QUERIES, 2 * longest * QUERIES,
                                _address(given_pairs) + of_pairs, 2 * QUERIES * padded, last - first,
                                _address(value_sums) + of_sums, 4 * padded, True,
                            )  # fmt: skip
            first_key = key_begins[row]
            for s in range(len(of_keys)):
                to_some, sums = to_key[first_key + s][at : at + width], key_sums[s]
                for i in range(width):
                    to_some[i] = sums[i] * scale
                to_value[first_key + s][at : at + width] = value_sums[s][:width]
        switch_back(mine)
