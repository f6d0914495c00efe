"""Products by the tile unit are those of float32 within the last place of bfloat16, and leave the unit as it was."""

import numba
import numpy as np
import pytest
import torch

from plaudit.models import tiles
from plaudit.models.machine_code import Room, in_use, plain_array
from plaudit.models.tiles import TileProduct

pytestmark = pytest.mark.skipif(not tiles.available(), reason="this processor has no tile unit, or it is locked")
SHAPES = [(576, (576, 192, 192)), (64, (5, 33, 16)), (42, (7,)), (96, (1, 300)), (32, (256,))]
"""Inputs, and outputs of siblings: whole tiles and ends of them, several groups of blocks and less than one."""


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def random(*shape):
    return torch.randn(*shape).bfloat16()


def siblings(inputs, outputs, adapted):
    """Weights, biases of all but the second, adapters of all but the first, of unlike rank."""
    weights = [random(n, inputs) for n in outputs]
    biases = [None if i == 1 else random(n) for i, n in enumerate(outputs)]
    ranks = [0, 4, 40]
    adapters = [
        (random(rank, inputs) / 8, random(n, rank) / 4) if adapted and rank else None
        for n, rank in zip(outputs, ranks, strict=False)
    ]
    return weights, biases, adapters


def product(parts, x, residual, threads=2):
    """What it gives, in memory that held no numbers."""
    weights, biases, adapters = parts
    result = torch.full((len(x), sum(map(len, weights))), torch.nan).bfloat16()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with in_use():
            given = None if residual is None else plain_array(residual)
            TileProduct(weights, biases, adapters, Room())(plain_array(x), plain_array(result), given)
    finally:
        torch.set_num_threads(before)
    return result


def exact(parts, x, residual):
    """In float32, but for what is rounded between the halves of an adapter; and the sum of all magnitudes."""
    found, sizes = [], []
    for weight, bias, adapter in zip(*parts, strict=True):
        given = [(x.float(), weight.float())]
        if adapter is not None:
            given.append(((x.float() @ adapter[0].float().T).bfloat16().float(), adapter[1].float()))
        added = torch.zeros(len(weight)) if bias is None else bias.float()
        found.append(sum(a @ b.T for a, b in given) + added)
        sizes.append(sum(a.abs() @ b.abs().T for a, b in given) + added.abs())
    rest = 0 if residual is None else residual.float()
    return torch.cat(found, dim=1) + rest, torch.cat(sizes, dim=1)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 16, 17, 32, 45, 100])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_products_are_those_of_float32(inputs, outputs, rows, adapted):
    parts = siblings(inputs, outputs, adapted)
    x, residual = random(rows, inputs), random(rows, sum(outputs))
    for added in (None, residual):
        expected, size = exact(parts, x, added)
        found = product(parts, x, added)
        # the result is rounded once; what an adapter's halves pass on may round to the neighbour
        assert (
            (found.float() - expected).abs() <= 2**-8 * expected.abs() + (2**-8 if adapted else 2**-20) * size
        ).all()


def test_the_residual_may_lie_where_the_result_goes_and_threads_change_nothing():
    parts, x, residual = siblings(576, (576, 192), True), random(37, 576), random(37, 768)
    found = product(parts, x, residual)
    assert product(parts, x, residual, threads=1).equal(found)
    with in_use():
        place = plain_array(residual)
        TileProduct(*parts, Room())(plain_array(x), place, place)
    assert residual.equal(found)


def test_a_row_does_not_depend_on_its_neighbours():
    parts, x = siblings(576, (576, 192, 192), True), random(48, 576)
    whole = product(parts, x, None)
    for rows in (1, 15, 16, 33):
        assert product(parts, x[:rows].contiguous(), None).equal(whole[:rows])


@numba.njit
def set_up(scratch, configuration):
    tiles._switch_on(np.int64(scratch.ctypes.data), np.int64(configuration.ctypes.data))


def test_the_unit_is_left_as_it_was_set_up():
    """As whoever has set it up may take for granted."""
    parts, x, scratch = siblings(576, (100,), False), random(37, 576), np.zeros(tiles.SCRATCH, np.uint8)
    its_own = tiles._configuration().copy()
    its_own[48:56] = 8  # half as many rows in a tile
    try:
        set_up(scratch, its_own)
        product(parts, x, None)
    finally:
        set_up(scratch, np.zeros(64, np.uint8))  # which switches it off
    assert scratch[tiles.SAVED :][:64].tolist() == its_own.tolist()


def test_weights_stay_where_they_are_but_for_what_does_not_fill_a_tile():
    weights = [random(64, 96), random(40, 96)]
    made = TileProduct(weights, [None, None], [None, None], Room())
    assert made.kept[0].data_ptr() == weights[0].data_ptr()
    assert [tuple(part.shape) for part in made.kept] == [(64, 96), (40, 96), (16, 96)]
    assert made.kept[1].data_ptr() == weights[1].data_ptr()
    (whole,) = TileProduct([random(32, 90)], [None], [None], Room()).kept
    assert whole.shape == (32, 96)


def test_memory_is_given_out_again_for_one_use_and_kept_apart_for_others():
    room = Room()
    large = room.of("a", 8, 32, np.uint16)
    assert room.of("a", 3, 32, np.uint16).ctypes.data == large.ctypes.data
    assert room.of("a", 3, 32, np.uint16).shape == (3, 32)
    others = [room.of("b", 8, 32, np.uint16), room.of("a", 8, 32, np.uint32), room.of("a", 8, 16, np.uint16)]
    assert all(not np.shares_memory(large, other) for other in others)
    assert all(part.ctypes.data % 64 == 0 for part in (large, *others))
    larger = room.of("a", 20, 32, np.uint16)
    larger[:] = 1
    assert not np.shares_memory(larger, large)  # who still has the smaller one keeps it
