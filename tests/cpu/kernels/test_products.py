"""Products by kernel are those of float32 within the last place of their numbers, however many layers they are of."""

import numba
import numpy as np
import pytest
import torch

from plaudit.cpu.kernels import few_rows, pairs, tile_unit, tiles
from plaudit.cpu.kernels.linear_table import LinearTable
from plaudit.cpu.kernels.machine_code import in_use, plain_array, room

needs_unit = pytest.mark.skipif(not tile_unit.available(), reason="this processor has no tile unit, or it is locked")
needs_pairs = pytest.mark.skipif(not pairs.available(), reason="this processor does not multiply pairs of bfloat16")
BLOCKS = {"tiles": needs_unit, "pairs": needs_pairs}
KINDS = [
    *(pytest.param(kind, torch.bfloat16, marks=needed) for kind, needed in BLOCKS.items()),
    ("few", torch.bfloat16),
    ("few", torch.float32),
]
MEASURES = [
    *(
        pytest.param(kind, torch.bfloat16, rows, marks=needed)
        for kind, needed in BLOCKS.items()
        for rows in (1, 3, 16, 17, 32, 45, 100)
    ),
    *(("few", dtype, rows) for dtype in (torch.bfloat16, torch.float32) for rows in (1, 2, 3)),
]
SHAPES = [(576, (576, 192, 192)), (64, (5, 33, 16)), (42, (7, 7)), (96, (1, 300)), (32, (256,))]
"""Inputs, and outputs of siblings: whole blocks and ends of them, several lines of a table and less than one."""


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def siblings(inputs, outputs, adapted, dtype=torch.bfloat16):
    """Weights, biases of all but the second, adapters of all but the first, of unlike rank."""
    weights = [torch.randn(n, inputs).to(dtype) for n in outputs]
    biases = [None if i == 1 else torch.randn(n).to(dtype) for i, n in enumerate(outputs)]
    ranks = [0, 4, 40]
    adapters = [
        ((torch.randn(rank, inputs) / 8).to(dtype), (torch.randn(n, rank) / 4).to(dtype)) if adapted and rank else None
        for n, rank in zip(outputs, ranks, strict=False)
    ]
    return weights, biases, adapters


def write(kind, parts, x, residual, result, threads=2):
    """Where kernels run."""
    arrays = [plain_array(part) for part in (result[:0] if residual is None else residual, result)]
    table = LinearTable(*parts)
    x, plan = plain_array(x), table.plan
    if kind in BLOCKS:
        of_blocks = tiles.product if kind == "tiles" else pairs.product
        of_blocks(x, plan, plan, *arrays, np.repeat(tile_unit.workplace()[:1], threads, axis=0), threads)
    else:
        few_rows.product(x, plan, *arrays, threads)


def product(kind, parts, x, residual, threads=2):
    """What it gives, in memory that held no numbers."""
    result = torch.full((len(x), sum(map(len, parts[0]))), torch.nan).to(x.dtype)
    with in_use():
        write(kind, parts, x, residual, result, threads)
    return result


def exact(parts, x, residual):
    """In float64, but for what is rounded between the halves of an adapter; and the sum of all magnitudes."""
    found, sizes = [], []
    for weight, bias, adapter in zip(*parts, strict=True):
        given = [(x.double(), weight.double())]
        if adapter is not None:
            given.append(((x.double() @ adapter[0].double().T).to(x.dtype).double(), adapter[1].double()))
        added = torch.zeros(len(weight)) if bias is None else bias.double()
        found.append(sum(a @ b.T for a, b in given) + added)
        sizes.append(sum(a.abs() @ b.abs().T for a, b in given) + added.abs())
    rest = 0 if residual is None else residual.double()
    return torch.cat(found, dim=1) + rest, torch.cat(sizes, dim=1)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize(("kind", "dtype", "rows"), MEASURES)
def test_products_are_exact_within_rounding(kind, dtype, rows, inputs, outputs, adapted):
    parts = siblings(inputs, outputs, adapted, dtype)
    x, residual = (torch.randn(rows, width).to(dtype) for width in (inputs, sum(outputs)))
    last = torch.finfo(dtype).eps
    slack = max(last, 2**-20) if adapted else 2**-20
    for added in (None, residual):
        expected, size = exact(parts, x, added)
        found = product(kind, parts, x, added)
        # the result is rounded once; what an adapter's halves pass on may round to the neighbour
        assert ((found - expected).abs() <= last / 2 * expected.abs() + slack * size).all()


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
@pytest.mark.parametrize("threads", [1, 5])
def test_the_residual_may_lie_where_the_result_goes_and_threads_change_nothing(threads, kind, dtype):
    rows = 37 if kind in BLOCKS else 2
    parts = siblings(576, (576, 192), True, dtype)
    x, residual = (torch.randn(rows, width).to(dtype) for width in (576, 768))
    found = product(kind, parts, x, residual)
    assert product(kind, parts, x, residual, threads).equal(found)
    with in_use():
        write(kind, parts, x, residual, residual)
    assert residual.equal(found)


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_a_row_does_not_depend_on_its_neighbours(kind, dtype):
    rows, counts = (48, (1, 15, 16, 33)) if kind in BLOCKS else (3, (1, 2))
    parts, x = siblings(576, (576, 192, 192), True, dtype), torch.randn(rows, 576).to(dtype)
    whole = product(kind, parts, x, None)
    for count in counts:
        assert product(kind, parts, x[:count].contiguous(), None).equal(whole[:count])


@numba.njit
def set_up(scratch):
    tile_unit.switch_on(np.int64(scratch.ctypes.data))


@needs_unit
def test_the_unit_is_left_as_it_was_set_up():
    """As whoever has set it up may take for granted."""
    parts, x = siblings(576, (100,), False), torch.randn(37, 576).bfloat16()
    scratch = tile_unit.workplace()[0].copy()
    config = scratch[tile_unit.CONFIG :][:64]
    config[48:56] = 8  # half as many rows in a tile
    its_own = config.tolist()
    try:
        set_up(scratch)
        product("tiles", parts, x, None, threads=1)
    finally:
        config[:] = 0  # which switches it off
        set_up(scratch)
    assert scratch[tile_unit.SAVED :][:64].tolist() == its_own


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_stay_where_they_are_but_for_what_does_not_fill_a_block(dtype):
    weights = [torch.randn(64, 96).to(dtype), torch.randn(40, 96).to(dtype)]
    made = LinearTable(weights, [None, None], [None, None])
    assert made.kept[0].data_ptr() == weights[0].data_ptr()
    assert [tuple(part.shape) for part in made.kept[:3]] == [(64, 96), (40, 96), (16, 96)]
    assert made.kept[1].data_ptr() == weights[1].data_ptr()
    whole = LinearTable([torch.randn(32, 90).to(dtype)], [None], [None]).kept[0]
    assert whole.shape == (32, 96)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_memory_for_products_begins_with_a_line(kind):
    made = [room(3, 5, np.zeros(1, kind)) for _ in range(5)]
    assert {(array.shape, array.dtype.type, array.ctypes.data % 64) for array in made} == {((3, 5), kind, 0)}
