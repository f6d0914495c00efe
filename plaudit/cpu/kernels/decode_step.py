"""One decoding step of a Llama-like body on a CPU as one kernel.

B rows, D hidden width, I of the gates; H query heads and G key heads of width d; C columns of a cache; L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from plaudit.cpu.kernels import few_rows, pairs, rowwise, tiles
from plaudit.cpu.kernels.linear_table import OUTPUTS
from plaudit.cpu.kernels.machine_code import array_at, compiled, inlined
from plaudit.cpu.kernels.vectors import LANES

STATES, MIXED, GATES, DOWN = range(4)
"""Products of a layer."""
BY_ROWS, BY_PAIRS, BY_TILES = range(3)
"""Kernels of products: of `few_rows`, `pairs` and `tiles`."""
BEFORE, BETWEEN, HEAD_NORMS, KEYS, VALUES, WINDOW = range(6)
"""Numbers of a layer: addresses of its norms' weights and of its cache, and how many columns it sees."""


@inlined
def whole_lanes(columns: int) -> int:
    """Round a number of columns up to whole vectors."""
    return -(-columns // LANES) * LANES


@cache
def decode_step(heads_per_group: int, width: int, by: int) -> Callable[..., None]:
    """All layers and the last norm, of as many rows as the products by kernel are good for.

    Its arguments:

    x              [B, D], used up
    cos, sin       [B, d]
    plans          [L, 4, 10] of each layer's products, as of `LinearTable`
    places         [L, 6], see BEFORE and what follows
    norm           [D] weights of the last norm; `epsilon`: of all norms but those of heads
    head_norms     [2 or 0, d] of the first layer, for their shape; `head_epsilon`
    scale          of attention's scores
    cache          [rows, G, C, d], the first layer's keys, for its shape
    first, column  [B] the first column that each row looks at, and the one that is written
    result         [B, D], written
    scratch        `tile_unit.workplace()`; threads: to use
    """

    lines = rowwise.lines_of(width)

    @compiled
    def step(
        x: Any, cos: Any, sin: Any, plans: Any, places: Any, norm: Any, epsilon: Any, head_norms: Any,
        head_epsilon: Any, scale: Any, cache: Any, first: Any, column: int, result: Any, scratch: Any, threads: int,
    ) -> None:  # fmt: skip
        rows, hidden = x.shape
        groups = cache.shape[1]
        heads, inner = groups * heads_per_group, plans[0, GATES, OUTPUTS] // 2
        normed, none, seen = np.empty_like(x), x[:0], np.empty_like(first)
        states = np.empty((rows, plans[0, STATES, OUTPUTS]), x.dtype)
        query = np.empty((rows, heads, width), np.float32)
        scores = np.empty((rows * groups, heads_per_group, whole_lanes(column + 1)), np.float32)
        mixture = np.empty((rows, heads * width), x.dtype)
        sides, gated = np.empty((rows, 2 * inner), x.dtype), np.empty((rows, inner), x.dtype)
        for layer in range(len(plans)):
            place = places[layer]
            for part in range(4):
                if part == STATES:
                    rowwise.rms_norm(x, array_at(place[BEFORE], (hidden,), x), epsilon, normed)
                    given, residual, to = normed, none, states
                elif part == MIXED:
                    keys, values = array_at(place[KEYS], cache.shape, x), array_at(place[VALUES], cache.shape, x)
                    norms = array_at(place[HEAD_NORMS], head_norms.shape, x)
                    rowwise.rotate_and_store(states, cos, sin, norms, head_epsilon, query, keys, values, column)
                    for b in range(rows):
                        seen[b] = max(first[b], column + 1 - place[WINDOW])
                    rowwise.attend(
                        heads_per_group, width, lines, query, keys, values, seen, column + 1, scale, scores, mixture
                    )
                    given, residual, to = mixture, x, x
                elif part == GATES:
                    rowwise.rms_norm(x, array_at(place[BETWEEN], (hidden,), x), epsilon, normed)
                    given, residual, to = normed, none, sides
                else:
                    rowwise.gated(sides, sides, inner, gated)
                    given, residual, to = gated, x, x
                after = 4 * layer + part + 1
                following = plans[after // 4 % len(plans), after % 4]
                if by == BY_TILES:
                    tiles.product(given, plans[layer, part], following, residual, to, scratch, threads)
                elif by == BY_PAIRS:
                    pairs.product(given, plans[layer, part], following, residual, to, scratch, threads)
                else:
                    few_rows.product(given, plans[layer, part], residual, to, threads)
        rowwise.rms_norm(x, norm, epsilon, result)

    return step
