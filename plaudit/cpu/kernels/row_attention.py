"""Causal attention over rows of a packed batch, forward and backward, on a CPU.

A row's keys, and a few queries at a time, are held in float32; scores are computed again in the backward pass from one
number a query that the forward pass keeps, as in Dao et al. 2022 (FlashAttention, arXiv:2205.14135), section 3.1. Where
there is a tile unit, `plaudit.cpu.kernels.tile_attention` does that of bfloat16.

N tokens of the packed batch, R rows of Q queries and S keys each, the queries being the last of the keys; H query heads
in groups of H/G share G key heads of width d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from plaudit import cpu
from plaudit.cpu.kernels import machine_code, tile_attention, tile_unit
from plaudit.cpu.kernels.machine_code import called, compiled, exp, inlined, narrow, wide
from plaudit.cpu.kernels.rowwise import exponentials, mixture
from plaudit.cpu.kernels.vectors import LANES
from plaudit.text.rows import AttentionRows

FEW = 4
"""Queries, or keys, that are worked on at once."""
WIDE = 2 * LANES
"""Columns that are: with so many rows, their sums fill the registers that keep a processor's multipliers busy."""
TILE = 64
"""Queries whose chances are held at once in the backward pass."""


@dataclass(frozen=True)
class _Places:
    """Rows one after the other, longest first: where their tokens are, and where in these lists each row begins.

    queries, query_begins  [sum of Q], [R + 1]
    keys, key_begins       [sum of S], [R + 1]
    """

    queries: Any
    query_begins: Any
    keys: Any
    key_begins: Any

    @classmethod
    def of(cls, rows: AttentionRows) -> _Places:
        """From padded blocks, those of fewest keys first."""
        queries, keys = [], []
        for block in reversed(rows.blocks):
            for row in reversed(range(len(block.queries))):
                queries.append(block.queries[row, : block.query_lengths[row]].numpy())
                keys.append(block.keys[row, : block.key_lengths[row]].numpy())
        return cls(np.concatenate(queries), _begins(queries), np.concatenate(keys), _begins(keys))

    @property
    def most_keys(self) -> int:
        """Most keys of a row."""
        return int(np.diff(self.key_begins).max())


def _begins(lists: list[Any]) -> Any:
    return np.cumsum([0, *map(len, lists)])


class RowAttention:
    """softmax(scale Q K') V over rows, whose places are looked up once for all layers."""

    def __init__(self, rows: AttentionRows):
        self.places = _Places.of(rows)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float, window: int) -> Tensor:
        """[N, H d], [N, G d] x 2 -> [N, H d]; a query sees itself and what is before it, `window` tokens in all.

        Raises ValueError where the widths do not fit, or a query sees nothing.
        """
        width = query.shape[1] // heads
        if query.shape[1] != heads * width or key.shape != value.shape or key.shape[1] % width or window < 1:
            shapes = [tuple(x.shape) for x in (query, key, value)]
            raise ValueError(f"no attention of {heads} heads and a window of {window} over {shapes}")
        return _Attend.apply(query, key, value, self.places, heads, scale, window)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, places: _Places, heads: int, scale: float, window: int
    ) -> Tensor:
        """[N, H d], [N, G d] x 2 -> [N, H d]."""
        query, key, value = (x.contiguous() for x in (query, key, value))
        result = torch.empty_like(query)
        normalisers = torch.empty(len(query), heads, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, normalisers)
        ctx.more = places, heads, scale, window
        _run(attend, tile_attention.attend, ctx, query, key, value, normalisers, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values; a key of several rows gets the sum over them, in float32."""
        query, key, value, normalisers = ctx.saved_tensors
        places: _Places = ctx.more[0]
        to_query = torch.empty_like(query)
        to_rows = torch.empty(2, len(places.keys), key.shape[1], dtype=torch.float32)
        tensors = query, key, value, normalisers, gradient.contiguous(), to_query, *to_rows
        _run(attend_backward, tile_attention.attend_backward, ctx, *tensors)
        to_both, sums = torch.empty(2, *key.shape, dtype=key.dtype), torch.empty(key.shape, dtype=torch.float32)
        for to_tokens, to_keys in zip(to_both, to_rows, strict=True):
            parts, totals, result = (machine_code.plain_array(x) for x in (to_keys, sums, to_tokens))
            with machine_code.in_use():
                add_up(parts, totals, result, places.keys, machine_code.threads())
        return to_query, *to_both, *(None,) * 4


def has_unit_for(x: Tensor) -> bool:
    """Whether a tile unit does the products of such numbers."""
    return x.dtype == torch.bfloat16 and cpu.serves(x) and tile_unit.available()


def _run(by_vectors: Any, by_unit: Any, ctx: Any, *tensors: Tensor) -> None:
    places, heads, scale, window = ctx.more
    arrays = [machine_code.plain_array(x.detach()) for x in tensors]
    lists = places.queries, places.query_begins, places.keys, places.key_begins, places.most_keys
    with machine_code.in_use():
        more = *lists, heads, np.float32(scale), window, machine_code.threads()
        if has_unit_for(tensors[0]):
            by_unit(*arrays, *more, tile_unit.workplace())
        else:
            by_vectors(*arrays, *more)


@inlined
def _address(array: Any, row: int) -> Any:
    """Address of a row of a float32 array."""
    return np.int64(array.ctypes.data) + 4 * array.shape[1] * row


@called
def _products(
    left: int, left_stride: int, left_step: int, right: Any, first: int, width: int, count: int, result: Any, row: int
) -> None:
    """Added to `FEW` rows of the result from this one on: sums of rows of `right` from `first` on, weighted by `left`.

    left   address of the first weight; bytes to the next row's, and to that of the next row of `right`
    width  columns, a multiple of WIDE; count: rows of `right`, at least one
    """
    of_row, of_result = 4 * right.shape[1], 4 * result.shape[1]
    for column in range(0, 4 * width, 4 * WIDE):
        mixture(
            FEW, WIDE, right, _address(right, first) + column, of_row, left, left_stride, left_step, count,
            _address(result, row) + column, of_result, 1,
        )  # fmt: skip


@called
def _scores(x: Any, row: int, transposed: Any, begin: int, end: int, result: Any) -> None:
    """Products of `FEW` rows of x, from `row` on, with columns `begin` to `end` of `transposed`, multiples of WIDE."""
    of_x, of_transposed, of_result = 4 * x.shape[1], 4 * transposed.shape[1], 4 * result.shape[1]
    for s in range(4 * begin, 4 * end, 4 * WIDE):
        mixture(
            FEW, WIDE, transposed, _address(transposed, 0) + s, of_transposed, _address(x, row), of_x, 4, x.shape[1],
            _address(result, row) + s, of_result, 0,
        )  # fmt: skip


@called
def _fetch(x: Any, places: Any, at: int, width: int, scale: Any, result: Any) -> None:
    """Numbers of one head of these tokens, to float32, times the scale; zeros for rows and columns beyond them."""
    for row in range(len(places)):
        some, to = x[places[row]][at : at + width], result[row]
        for i in range(width):
            to[i] = wide(some[i]) * scale
        for i in range(width, len(to)):
            to[i] = 0
    for row in range(len(places), min(len(result), -(-len(places) // WIDE) * WIDE)):
        result[row][:] = 0


@called
def _give(x: Any, scale: Any, result: Any) -> None:
    """Convert from float32, as many numbers as the result has."""
    for i in range(len(result)):
        result[i] = narrow(x[i] * scale, result)


@compiled
def add_up(parts: Any, sums: Any, result: Any, places: Any, threads: int) -> None:
    """Add up what the keys of rows have, for each token: one may be a key of several rows.

    parts   [sum of S, G d] float32; places: [sum of S] the token of each
    sums    [N, G d] float32, to work in
    result  [N, G d], written
    """
    tokens, width = sums.shape
    if len(places) == tokens:  # each a key of one row
        for i in prange(tokens):
            _give(parts[i], np.float32(1.0), result[places[i]])
        return
    for thread in prange(threads):
        begin, end = width * thread // threads, width * (thread + 1) // threads
        for n in range(tokens):
            sums[n][begin:end] = 0
        for i in range(len(places)):
            total, part = sums[places[i]][begin:end], parts[i][begin:end]
            for column in range(len(total)):
                total[column] += part[column]
        for n in range(tokens):
            _give(sums[n][begin:end], np.float32(1.0), result[n][begin:end])


@called
def _transpose_into(x: Any, rows: int, result: Any) -> None:
    """The first rows of x as columns."""
    for column in range(x.shape[1]):
        to = result[column]
        for row in range(rows):
            to[row] = x[row, column]


@called
def _hide(row: Any, first: int, last: int, begin: int, end: int, hidden: Any) -> None:
    """What is outside of the columns from `first` to `last`, within `begin` to `end`."""
    for s in range(begin, min(first, end)):
        row[s] = hidden
    for s in range(last + 1, end):
        row[s] = hidden


@called
def _slopes_of(probabilities: Any, gradients: Any, normaliser: Any) -> None:
    """From scores to chances, and from gradients of chances to those of scores, of one query."""
    along = np.float32(0.0)
    for s in range(len(probabilities)):
        probabilities[s] = exp(probabilities[s] - normaliser)
    for s in range(len(probabilities)):
        along += probabilities[s] * gradients[s]
    for s in range(len(probabilities)):
        gradients[s] = probabilities[s] * (gradients[s] - along)


@compiled
def attend(
    query: Any, key: Any, value: Any, normalisers: Any, result: Any, query_places: Any, query_begins: Any,
    key_places: Any, key_begins: Any, most_keys: int, heads: int, scale: Any, window: int, threads: int,
) -> None:  # fmt: skip
    """result = softmax(scale Q K') V of each row.

    query        [N, H d]; key, value: [N, G d]
    normalisers  [N, H] float32, written: log of the sum of exponentials of the scores
    result       [N, H d], written
    places       as of `_Places`; most_keys: of a row
    window       keys that a query sees at most, itself among them
    """
    width = query.shape[1] // heads
    groups, rows = key.shape[1] // width, len(key_begins) - 1
    members, padded = heads // groups, -(-width // WIDE) * WIDE
    one = np.float32(1.0)
    for thread in prange(threads):
        longest = -(-most_keys // WIDE) * WIDE
        transposed, values = np.empty((padded, longest), np.float32), np.empty((longest, padded), np.float32)
        looking, scores = np.empty((FEW, padded), np.float32), np.empty((FEW, longest), np.float32)
        mixed, shares = np.empty((FEW, padded), np.float32), np.empty(FEW, np.float32)
        for item in range(thread, rows * groups, threads):
            row, group = item // groups, item % groups
            of_keys = key_places[key_begins[row] : key_begins[row + 1]]
            of_queries = query_places[query_begins[row] : query_begins[row + 1]]
            before, at = len(of_keys) - len(of_queries), group * width
            _fetch(key, of_keys, at, width, one, values)
            _transpose_into(values, -(-len(of_keys) // WIDE) * WIDE, transposed)
            _fetch(value, of_keys, at, width, one, values)
            for head in range(group * members, (group + 1) * members):
                for q in range(0, len(of_queries), FEW):
                    some, seen = of_queries[q : q + FEW], before + q + 1  # by the first of them
                    _fetch(query, some, head * width, width, scale, looking)
                    begin = max(0, seen - window) // WIDE * WIDE
                    end = -(-(seen - 1 + len(some)) // WIDE) * WIDE
                    _scores(looking, 0, transposed, begin, end, scores)
                    for i in range(len(some)):
                        _hide(scores[i], seen + i - window, seen - 1 + i, begin, end, -np.inf)
                        top, total = exponentials(scores[i][begin:end])
                        normalisers[some[i], head] = top + np.log(total)
                        shares[i] = one / total
                    mixed[:] = 0
                    count = seen - 1 + len(some) - begin
                    _products(_address(scores, 0) + 4 * begin, 4 * longest, 4, values, begin, padded, count, mixed, 0)
                    for i in range(len(some)):
                        _give(mixed[i], shares[i], result[some[i]][head * width : (head + 1) * width])


@compiled
def attend_backward(
    query: Any, key: Any, value: Any, normalisers: Any, gradient: Any, to_query: Any, to_key: Any, to_value: Any,
    query_places: Any, query_begins: Any, key_places: Any, key_begins: Any, most_keys: int, heads: int, scale: Any,
    window: int, threads: int,
) -> None:  # fmt: skip
    """Gradients of `attend`: with P the chances, D = gradient V' and E = P (D - sum(P D)) query by query,

    to_query = scale E K, to_key = scale E' Q, to_value = P' gradient.

    gradient          [N, H d]
    to_query          [N, H d], written
    to_key, to_value  [sum of S, G d] float32, written: of each row's keys
    """
    width = query.shape[1] // heads
    groups, rows = key.shape[1] // width, len(key_begins) - 1
    members, padded = heads // groups, -(-width // WIDE) * WIDE
    one, none = np.float32(1.0), np.float32(0.0)
    for thread in prange(threads):
        longest = -(-most_keys // WIDE) * WIDE
        keys, turned_keys = np.empty((longest, padded), np.float32), np.empty((padded, longest), np.float32)
        turned_values = np.empty((padded, longest), np.float32)
        key_sums, value_sums = np.empty((longest, padded), np.float32), np.empty((longest, padded), np.float32)
        looking, given = np.empty((TILE, padded), np.float32), np.empty((TILE, padded), np.float32)
        probabilities, gradients = np.empty((TILE, longest), np.float32), np.empty((TILE, longest), np.float32)
        mixed = np.empty((FEW, padded), np.float32)
        for item in range(thread, rows * groups, threads):
            row, group = item // groups, item % groups
            of_keys = key_places[key_begins[row] : key_begins[row + 1]]
            of_queries = query_places[query_begins[row] : query_begins[row + 1]]
            before, at, filled = len(of_keys) - len(of_queries), group * width, -(-len(of_keys) // WIDE) * WIDE
            _fetch(value, of_keys, at, width, one, keys)
            _transpose_into(keys, filled, turned_values)
            _fetch(key, of_keys, at, width, one, keys)
            _transpose_into(keys, filled, turned_keys)
            key_sums[:filled] = 0
            value_sums[:filled] = 0
            for head in range(group * members, (group + 1) * members):
                for tile in range(0, len(of_queries), TILE):
                    some, seen = of_queries[tile : tile + TILE], before + tile + 1  # by the first of them
                    _fetch(query, some, head * width, width, scale, looking)
                    _fetch(gradient, some, head * width, width, one, given)
                    begin = max(0, seen - window) // WIDE * WIDE
                    limit = -(-(seen - 1 + len(some)) // WIDE) * WIDE
                    for q in range(0, len(some), FEW):  # these see keys to `last` only, but have zeros to the limit
                        last = seen - 1 + min(q + FEW, len(some))
                        end = -(-last // WIDE) * WIDE
                        _scores(looking, q, turned_keys, begin, end, probabilities)
                        _scores(given, q, turned_values, begin, end, gradients)
                        for i in range(q, min(q + FEW, len(some))):
                            _hide(probabilities[i], seen + i - window, seen - 1 + i, begin, limit, -np.inf)
                            _hide(gradients[i], seen + i - window, seen - 1 + i, begin, limit, none)
                            _slopes_of(
                                probabilities[i][begin:limit], gradients[i][begin:limit], normalisers[some[i], head]
                            )
                        for i in range(len(some), q + FEW):
                            probabilities[i, begin:limit] = 0
                            gradients[i, begin:limit] = 0
                        mixed[:] = 0
                        of_slopes = _address(gradients, q) + 4 * begin
                        _products(of_slopes, 4 * longest, 4, keys, begin, padded, last - begin, mixed, 0)
                        for i in range(q, min(q + FEW, len(some))):
                            _give(mixed[i - q], scale, to_query[some[i]][head * width : (head + 1) * width])
                    for s in range(begin, limit, FEW):
                        q = max(0, s + 1 - seen)  # the first to see these keys
                        if q >= len(some):
                            break
                        count = -(-len(some) // FEW) * FEW - q
                        of_slopes, of_chances = _address(gradients, q) + 4 * s, _address(probabilities, q) + 4 * s
                        _products(of_slopes, 4, 4 * longest, looking, q, padded, count, key_sums, s)
                        _products(of_chances, 4, 4 * longest, given, q, padded, count, value_sums, s)
            first = key_begins[row]
            for s in range(len(of_keys)):
                to_key[first + s][at : at + width] = key_sums[s][:width]
                to_value[first + s][at : at + width] = value_sums[s][:width]
