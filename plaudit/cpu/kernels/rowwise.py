"""What a body on a CPU does between its matrix products, compiled once for the processor at hand.

PyTorch's operations go through memory one by one, with float32 copies in between, and at one token a row they are too
small to pay for being called. Here a norm, a gate, a rotation, an attention over a cache or a draw is one call, which
reads bfloat16 and computes in float32.

Numbers and arrays are as `plaudit.cpu.kernels.machine_code` has them.

B rows or tokens, D hidden width, I of the gates; H query heads in groups of H/G share G key heads of width d; C columns
of a cache; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types

from plaudit.cpu import BLOCK
from plaudit.cpu.kernels import vectors
from plaudit.cpu.kernels.machine_code import LEAST, compiled, exp, generated, inlined, largest, narrow, prefetch, wide
from plaudit.cpu.kernels.vectors import LANES

SOON = 32
"""Rows of keys between one that is asked for and the one that is read: as many of the next head, at a head's end."""


@inlined
def _sigmoid(x: Any) -> Any:
    return np.float32(1.0) / (np.float32(1.0) + exp(-x))


@inlined
def _one_over_rms(row: Any, epsilon: Any) -> Any:
    """1 / sqrt(mean(x^2) + epsilon) of one row."""
    total = np.float32(0.0)
    for i in range(len(row)):
        total += wide(row[i]) * wide(row[i])
    return np.float32(1.0) / np.sqrt(total / np.float32(len(row)) + epsilon)


@inlined
def _turned(first: Any, second: Any, cosine: Any, sine: Any) -> Any:
    """A pair of numbers turned by an angle."""
    return first * cosine - second * sine, second * cosine + first * sine


@inlined
def _normalise(row: Any, weight: Any, epsilon: Any, out: Any, result: Any) -> None:
    """out = weight row / sqrt(mean(row^2) + epsilon), of the kind of numbers that `result` has."""
    factor = _one_over_rms(row, epsilon)
    for i in range(len(row)):
        out[i] = narrow(wide(weight[i]) * (wide(row[i]) * factor), result)


@compiled
def rms_norm(x: Any, weight: Any, epsilon: Any, result: Any) -> None:
    """result = weight x / sqrt(mean(x^2) + epsilon), row by row: [B, D], [D] -> [B, D]."""
    for b in prange(len(x)):
        _normalise(x[b], weight, epsilon, result[b], result)


@compiled
def add_rms_norm(x: Any, more: Any, weight: Any, epsilon: Any, total: Any, result: Any) -> None:
    """total = x + more, rounded as it is kept, and result = `rms_norm` of it; all [B, D]."""
    rows, width = x.shape
    for b in prange(rows):
        row, other, sums, out = x[b], more[b], total[b], result[b]
        for i in range(width):
            sums[i] = narrow(wide(row[i]) + wide(other[i]), total)
        _normalise(sums, weight, epsilon, out, result)


@compiled
def rms_norm_backward(x: Any, weight: Any, epsilon: Any, gradient: Any, more: Any, to_x: Any, to_weight: Any) -> None:
    """Gradients of `rms_norm`. With f = 1 / sqrt(mean(x^2) + epsilon) and g the gradient times the weight,

    to_x = more + f (g - x f^2 mean(g x)), and to_weight, [parts, D] float32, has the sums of gradient x f over parts of
    the rows; without parts it is not asked for. `more` is the gradient that x has from elsewhere, or [0, D] without.
    """
    rows, width = x.shape
    parts = max(1, len(to_weight))
    for part in prange(parts):
        if len(to_weight) > 0:
            for i in range(width):
                to_weight[part, i] = 0.0
        for b in range(rows * part // parts, rows * (part + 1) // parts):
            row, given, out = x[b], gradient[b], to_x[b]
            factor, along = _one_over_rms(row, epsilon), np.float32(0.0)
            for i in range(width):
                along += wide(row[i]) * wide(given[i]) * wide(weight[i])
            back = factor * factor * along / np.float32(width)
            if len(more) > 0:
                other = more[b]
                for i in range(width):
                    through = factor * (wide(given[i]) * wide(weight[i]) - wide(row[i]) * back)
                    out[i] = narrow(wide(other[i]) + through, to_x)
            else:
                for i in range(width):
                    out[i] = narrow(factor * (wide(given[i]) * wide(weight[i]) - wide(row[i]) * back), to_x)
            if len(to_weight) > 0:
                sums = to_weight[part]
                for i in range(width):
                    sums[i] += wide(given[i]) * wide(row[i]) * factor


@compiled
def gated(gates: Any, ups: Any, at: int, result: Any) -> None:
    """result = silu(gate) up: [B, I], and [B, I] from column `at` of `ups` on -> [B, I]."""
    rows, width = result.shape
    for b in prange(rows):
        row, other, out = gates[b][:width], ups[b][at : at + width], result[b]
        for i in range(width):
            gate = wide(row[i])
            out[i] = narrow(wide(other[i]) * gate * _sigmoid(gate), result)


@compiled
def gated_backward(both: Any, gradient: Any, to_both: Any) -> None:
    """Gradients of `gated` for gates and ups side by side, [B, 2 I], from [B, I].

    silu'(z) = s (1 + z (1 - s)) for s = 1 / (1 + e^-z).
    """
    rows, width = gradient.shape
    for b in prange(rows):
        row, other, given = both[b][:width], both[b][width:], gradient[b]
        to_row, to_other = to_both[b][:width], to_both[b][width:]
        for i in range(width):
            gate, back = wide(row[i]), wide(given[i])
            share = _sigmoid(gate)
            derivative = share * (np.float32(1.0) + gate * (np.float32(1.0) - share))
            to_row[i] = narrow(back * wide(other[i]) * derivative, to_both)
            to_other[i] = narrow(back * gate * share, to_both)


@compiled
def rotate(x: Any, at: int, cos: Any, sin: Any, sign: Any, result: Any, to: int) -> None:
    """Each head turned by its token's angles, or back with sign -1: (x1 cos - x2 sin, x2 cos + x1 sin) for its halves.

    x, result  [B, columns]: as many heads as the narrower one has from its column `at` or `to` on
    cos, sin   [B, d], both halves alike
    """
    rows, width = cos.shape
    half, total = width // 2, min(x.shape[1] - at, result.shape[1] - to)
    for b in prange(rows):
        row, out, c, s = x[b], result[b], cos[b], sin[b]
        for head in range(0, total, width):
            low, high = row[at + head : at + head + half], row[at + head + half : at + head + width]
            to_low, to_high = out[to + head : to + head + half], out[to + head + half : to + head + width]
            for i in range(half):  # of slices, for sums of indices would hinder vectors
                first, second = _turned(wide(low[i]), wide(high[i]), wide(c[i]), sign * wide(s[i]))
                to_low[i] = narrow(first, result)
                to_high[i] = narrow(second, result)


@compiled
def rotate_and_store(
    states: Any, cos: Any, sin: Any, norms: Any, epsilon: Any, query: Any, keys: Any, values: Any, column: int
) -> None:
    """Queries, keys and values of one token a row, side by side, to where attention looks for them.

    Queries and keys are turned by their positions, as by `rotate`.

    states        [B, (H + 2 G) d]
    cos, sin      [B, d], both halves alike
    norms         [2, d] weights of norms of each head of queries and of keys before that; [0, d] where there are none
    query         [B, H, d] float32, written
    keys, values  [B, G, C, d], whose `column` is written
    """
    rows, heads, width = query.shape
    groups, half = keys.shape[1], width // 2
    for b in prange(rows):
        rotated = np.empty(width, np.float32)
        low, high, c, s = rotated[:half], rotated[half:], cos[b], sin[b]
        for head in range(heads + groups):
            state = states[b][head * width : head * width + width]
            for i in range(width):
                rotated[i] = wide(state[i])
            if norms.shape[0] > 0:
                norm = norms[0 if head < heads else 1]
                factor = _one_over_rms(rotated, epsilon)
                for i in range(width):
                    rotated[i] = wide(norm[i]) * rotated[i] * factor
            for i in range(half):
                low[i], high[i] = _turned(low[i], high[i], wide(c[i]), wide(s[i]))
            if head < heads:
                query[b, head][:] = rotated
            else:
                key = keys[b, head - heads, column]
                for i in range(width):
                    key[i] = narrow(rotated[i], keys)
        for group in range(groups):
            at = (heads + groups + group) * width
            values[b, group, column][:] = states[b][at : at + width]


@inlined
def exponentials(scores: Any) -> Any:
    """e^(score - top) in place of as many scores as a multiple of LANES; returns the top one and their sum."""
    top, total = largest(scores), np.float32(0.0)
    for block in range(len(scores) // LANES):  # of a fixed size, or they would not become vectors
        row, part = scores[block * LANES : block * LANES + LANES], np.float32(0.0)
        for i in range(LANES):
            row[i] = exp(row[i] - top)
            part += row[i]
        total += part
    return top, total


@inlined
def softmax(scores: Any) -> None:
    """Softmax in place, over a number of scores that is a multiple of LANES; minus infinity becomes 0."""
    _, total = exponentials(scores)
    for s in range(len(scores)):
        scores[s] /= total


@generated
def mixture(
    context: Any, heads: Any, width: Any, values: Any, first: Any, stride: Any, probabilities: Any,
    probabilities_stride: Any, step: Any, count: Any, result: Any, result_stride: Any, added: Any,
) -> Any:  # fmt: skip
    """Sums of rows of values, weighted by the chances of each head; they stay in registers, as in a loop they do not.

    heads          a constant, as is the width d, a multiple of LANES
    values         an array, for its kind of numbers
    first          address of the first row, `stride` bytes from the next
    probabilities  address of the first head's, float32, `probabilities_stride` bytes from the next head's, and `step`
                   bytes from that of the next row
    count          rows, at least one
    result         address of the first head's d float32, written, `result_stride` bytes from the next head's
    added          a constant: 1 to add to what is there, 0 to begin with nothing
    """
    size = 2 if values.dtype == types.uint16 else 4
    parts, of_heads = range(width.literal_value // LANES), range(heads.literal_value)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        first, stride, probabilities, probabilities_stride, step, count, result, result_stride = given[3:11]

        def place(address: Any, row: Any, of_row: Any) -> Any:
            return builder.add(address, builder.mul(row, of_row))

        numbered = [ir.Constant(vectors.LONG, head) for head in of_heads]
        results = [place(result, head, result_stride) for head in numbered]
        of_chances = [place(probabilities, head, probabilities_stride) for head in numbered]
        nothing = ir.Constant(vectors.FLOATS, None)
        begun = [
            [vectors.load(builder, at, 4 * LANES * part) if added.literal_value else nothing for part in parts]
            for at in results
        ]
        before, rows, after = builder.block, *map(builder.append_basic_block, ("rows", "after"))
        builder.branch(rows)
        builder.position_at_end(rows)
        row = builder.phi(vectors.LONG)
        row.add_incoming(ir.Constant(vectors.LONG, 0), before)
        sums = [[builder.phi(vectors.FLOATS) for _ in parts] for _ in of_heads]
        value = place(first, row, stride)
        numbers = [vectors.load(builder, value, part * LANES * size, values.dtype) for part in parts]
        totals = []
        for at, its_begun, of_head in zip(of_chances, begun, sums, strict=True):
            probability = vectors.same(builder, place(at, row, step))
            for total, start, some in zip(of_head, its_begun, numbers, strict=True):
                more = builder.fmul(probability, some, flags=["contract"])
                totals.append(builder.fadd(total, more, flags=["contract"]))
                total.add_incoming(start, before)
                total.add_incoming(totals[-1], rows)
        next_row = builder.add(row, ir.Constant(vectors.LONG, 1))
        row.add_incoming(next_row, rows)
        builder.cbranch(builder.icmp_signed("<", next_row, count), rows, after)
        builder.position_at_end(after)
        for number, total in enumerate(totals):
            vectors.store(builder, total, results[number // len(parts)], 4 * LANES * (number % len(parts)))
        return context.get_dummy_value()

    return types.void(heads, width, values, *[types.int64] * 8, added), generate


@inlined
def look(heads: int, width: int, scores: Any, values: Any, begin: int, count: int, mixed: Any, result: Any) -> None:
    """From the scores of one group of heads to what they have looked for; numbers of heads and width are constants.

    scores  [heads, count or more: a multiple of LANES], used up
    values  [C, d], of which `count` rows from `begin` on are looked at
    mixed   [heads, d] float32 to work in
    result  [heads d], written
    """
    for head in range(heads):
        row = scores[head][: -(-count // LANES) * LANES]
        for s in range(count, len(row)):
            row[s] = -np.inf
        softmax(row)
    if width % LANES == 0:
        stride = width * values.itemsize
        mixture(
            heads, width, values, np.int64(values.ctypes.data) + begin * stride, stride, np.int64(scores.ctypes.data),
            4 * scores.shape[1], 4, count, np.int64(mixed.ctypes.data), 4 * width, 0,
        )  # fmt: skip
    else:
        for head in range(heads):
            sums, row = mixed[head], scores[head]
            sums[:] = 0
            for s in range(count):
                for i in range(width):
                    sums[i] += row[s] * wide(values[begin + s, i])
    for head in range(heads):
        sums, part = mixed[head], result[head * width : (head + 1) * width]
        for i in range(width):
            part[i] = narrow(sums[i], part)


@inlined
def attend(
    heads_per_group: int, width: int, lines: int, query: Any, keys: Any, values: Any, first: Any, last: int, scale: Any,
    scores: Any, result: Any,
) -> None:  # fmt: skip
    """softmax(scale q k') v over the columns of a cache that each row may look at.

    H/G and d are constants, so that a head stays in registers: a fifth faster; and so is how many lines of 64 bytes are
    asked for ahead, which `lines_of` says.

    query         [B, H, d] float32; used up
    keys, values  [B, G, C, d]
    first         [B] the first column of each row
    last          one more than the last column of all rows
    scale         of the scores
    scores        [B G, H/G, C or more: a multiple of LANES] float32, to work in
    result        [B, H d], written
    """
    groups = keys.shape[1]
    for item in prange(len(query) * groups):
        b, group = item // groups, item % groups
        begin = first[b]
        key, value, of_item = keys[b, group], values[b, group], scores[item]
        of_row = width * key.itemsize
        soon = np.int64(value.ctypes.data) + begin * of_row  # a core that reads two places at once waits less
        heads = query[b, group * heads_per_group : (group + 1) * heads_per_group]
        count, following = last - begin, min(item + 1, len(query) * groups - 1)
        here = np.int64(key.ctypes.data) + begin * of_row
        there = np.int64(keys[following // groups, following % groups].ctypes.data)
        there += (first[following // groups] - count) * of_row  # where this item's keys would go on
        for s in range(count):
            row = key[begin + s]
            prefetch(soon + s * of_row, lines)
            prefetch((here if s + SOON < count else there) + (s + SOON) * of_row, lines)
            for member in range(heads_per_group):
                head, total = heads[member], np.float32(0.0)
                for i in range(width):
                    total += wide(row[i]) * head[i]
                of_item[member, s] = total * scale
        at = group * heads_per_group * width
        out = result[b, at : at + heads_per_group * width]
        look(heads_per_group, width, of_item, value, begin, last - begin, heads, out)


def lines_of(width: int) -> int:
    """Lines of 64 bytes that a head's numbers of bfloat16 take."""
    return max(1, width // 32)


@cache
def attention(heads_per_group: int, width: int) -> Callable[..., None]:
    """`attend` for this H/G and d, with the arguments that follow them."""
    lines = lines_of(width)

    @compiled
    def attention(
        query: Any, keys: Any, values: Any, first: Any, last: int, scale: Any, scores: Any, result: Any
    ) -> None:
        attend(heads_per_group, width, lines, query, keys, values, first, last, scale, scores, result)

    return attention


@compiled
def add(x: Any, total: Any) -> None:
    """x added to a float32 total, both [n]; PyTorch would copy x to float32 first."""
    pieces = -(-len(x) // BLOCK)
    for piece in prange(pieces):
        some, sums = x[piece * BLOCK : (piece + 1) * BLOCK], total[piece * BLOCK : (piece + 1) * BLOCK]
        for i in range(len(some)):
            sums[i] += wide(some[i])


@compiled
def read_log_probs(logits: Any, ids: Any, temperature: Any, log_probs: Any, entropies: Any, normalisers: Any) -> None:
    """Log-softmax(logits / temperature) at the ids, the entropy of each row, and log of the sum of its exponentials.

    logits  [B, V]
    ids     [B] int64
    log_probs, entropies, normalisers  [B] float32, written
    """
    rows, size = logits.shape
    for b in prange(rows):
        row = logits[b]
        top = largest(row)
        total, weighted = np.float64(0.0), np.float64(0.0)
        for block in range(size // BLOCK):  # of a fixed size, or they would not become vectors
            part, its_weighted = np.float32(0.0), np.float32(0.0)
            for i in range(BLOCK):
                below = (wide(row[block * BLOCK + i]) - top) / temperature
                below = LEAST if below < LEAST else below  # not 0 times minus infinity
                weight = exp(below)
                part += weight
                its_weighted += weight * below
            total += np.float64(part)
            weighted += np.float64(its_weighted)
        for i in range(size // BLOCK * BLOCK, size):
            below = (wide(row[i]) - top) / temperature
            below = LEAST if below < LEAST else below
            weight = exp(below)
            total += np.float64(weight)
            weighted += np.float64(weight * below)
        log_total = np.log(total)
        log_probs[b] = (wide(row[ids[b]]) - top) / temperature - np.float32(log_total)
        entropies[b] = log_total - weighted / total
        normalisers[b] = top / temperature + np.float32(log_total)


@compiled
def to_gradients(logits: Any, ids: Any, temperature: Any, normalisers: Any, factors: Any) -> None:
    """Logits become factor * d (log-prob of the id) / d logits = factor / temperature * (onehot - softmax).

    logits       [B, v], overwritten, of the whole vocabulary or a part of it
    ids          [B] int64, counted from the part's first; one outside of 0 to v - 1 belongs to another part
    normalisers  [B] float32, as `read_log_probs` gives them for the whole vocabulary
    factors      [B] float32
    """
    rows, size = logits.shape
    for b in prange(rows):
        row, factor, normaliser = logits[b], factors[b] / temperature, normalisers[b]
        inside = 0 <= ids[b] < size
        own = exp(wide(row[ids[b]]) / temperature - normaliser) if inside else np.float32(0.0)
        for i in range(size):
            row[i] = narrow(-factor * exp(wide(row[i]) / temperature - normaliser), row)
        if inside:
            row[ids[b]] = narrow(factor * (np.float32(1.0) - own), row)


@compiled
def draw(logits: Any, temperature: Any, uniforms: Any, tokens: Any, log_probs: Any) -> None:
    """Tokens from softmax(logits / temperature) by inverting the cumulative distribution, and their log-probs.

    logits     [B, V]
    uniforms   [B] float32 in [0, 1)
    tokens     [B] int64, written
    log_probs  [B] float32, written

    As `plaudit.sampling.in_process.draw`, which says why blocks are summed first; the row stays in cache.
    """
    rows, size = logits.shape
    blocks = (size + BLOCK - 1) // BLOCK
    for b in prange(rows):
        row = logits[b]
        top = largest(row)
        ends = np.empty(blocks, np.float64)
        total = np.float64(0.0)
        for block in range(size // BLOCK):  # of a fixed size, or they would not become vectors
            part = np.float32(0.0)
            for i in range(BLOCK):
                part += exp((wide(row[block * BLOCK + i]) - top) / temperature)
            total += np.float64(part)
            ends[block] = total
        for i in range(size // BLOCK * BLOCK, size):
            total += np.float64(exp((wide(row[i]) - top) / temperature))
            ends[blocks - 1] = total
        target = uniforms[b] * total
        block = 0
        while block < blocks - 1 and ends[block] <= target:
            block += 1
        reached = ends[block - 1] if block > 0 else 0.0
        token = block * BLOCK
        for i in range(block * BLOCK, min(size, block * BLOCK + BLOCK)):
            weight = exp((wide(row[i]) - top) / temperature)
            if weight > 0.0:  # a target past the last sum by rounding takes the last token that has any weight
                token = i
                reached += weight
                if reached > target:
                    break
        tokens[b] = token
        log_probs[b] = (wide(row[token]) - top) / temperature - np.float32(np.log(total))
