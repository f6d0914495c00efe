"""Attention over packed rows against the formula, row by row in float64."""

from itertools import pairwise

import pytest
import torch

from plaudit.cpu.kernels import row_attention, tile_unit
from plaudit.cpu.kernels.row_attention import RowAttention
from plaudit.models.attention import LONGEST, UNLIMITED, PackedRows
from plaudit.text.rows import attention_rows

needs_unit = pytest.mark.skipif(not tile_unit.available(), reason="this processor has no tile unit, or it is locked")
KINDS = [(torch.float32, False), (torch.bfloat16, False), pytest.param(torch.bfloat16, True, marks=needs_unit)]
"""Numbers, and whether the unit multiplies them."""
ALONE = [5, 70, 33, 1, 140, 290]
SHARED = [(7, (3, 4, 9)), (40, (33, 1, 66)), (2, ())]
"""Tokens of a prompt, and of the responses that share it."""


def alone():
    """(rows, tokens, whether keys are shared): queries and keys of each row, in mixed order."""
    places, rows, at = torch.randperm(sum(ALONE), generator=torch.Generator().manual_seed(1)).tolist(), [], 0
    for length in ALONE:
        rows.append((places[at : at + length],) * 2)
        at += length
    return rows, at, False


def shared():
    rows, at = [], 0
    for prompt, responses in SHARED:
        of_prompt = list(range(at, at + prompt))
        at += prompt
        rows.append((of_prompt, of_prompt))
        for length in responses:
            own = list(range(at, at + length))
            at += length
            rows.append((own, of_prompt + own))
    return rows, at, True


def by_formula(rows, query, key, value, heads, scale, window):
    """[N, H d] from [N, H d] and [N, G d] x 2."""
    width = query.shape[1] // heads
    results = [None] * len(query)
    for queries, keys in rows:
        looking = query[queries].unflatten(1, (heads, width))
        copies = heads * width // key.shape[1]
        seen, given = (x[keys].unflatten(1, (-1, width)).repeat_interleave(copies, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", looking, seen) * scale
        at = torch.arange(len(queries))[:, None] + len(keys) - len(queries)
        visible = (torch.arange(len(keys)) <= at) & (torch.arange(len(keys)) > at - window)
        mixed = torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), given).flatten(1)
        for token, one in zip(queries, mixed, strict=True):
            results[token] = one
    return torch.stack(results)


@pytest.mark.parametrize(("dtype", "unit"), KINDS)
@pytest.mark.parametrize("window", [UNLIMITED, 45, 5, 1])
@pytest.mark.parametrize(("heads", "groups", "width"), [(6, 2, 64), (4, 4, 8), (2, 1, 80)])
@pytest.mark.parametrize("layout", [alone, shared])
def test_results_and_gradients_are_those_of_the_formula(layout, heads, groups, width, window, dtype, unit, monkeypatch):
    monkeypatch.setattr(tile_unit, "available", lambda: unit)
    rows, tokens, shares = layout()
    torch.manual_seed(0)
    given = [torch.randn(tokens, n * width).to(dtype).requires_grad_() for n in (heads, groups, groups)]
    back = torch.randn(tokens, heads * width).to(dtype)
    attend = RowAttention(attention_rows(rows, tokens, shared=shares, device="cpu"))
    result = attend(*given, heads, 0.2, window)
    exact = [x.detach().double().requires_grad_() for x in given]
    expected = by_formula(rows, *exact, heads, 0.2, window)
    found = [result, *torch.autograd.grad(result, given, back)]
    wanted = [expected, *torch.autograd.grad(expected, exact, back.double())]
    for one, other in zip(found, wanted, strict=True):
        spare = 2**-8 if dtype == torch.bfloat16 else 2e-6
        torch.testing.assert_close(one.double(), other, rtol=spare, atol=spare * float(other.detach().abs().max()))


def test_of_scores_far_apart_the_largest_takes_all():
    query = torch.tensor([[1e36], [1e36], [-1e36]]).repeat(1, 16).requires_grad_()
    key = torch.tensor([[1.0], [3.0], [2.0]]).repeat(1, 16)
    value = torch.tensor([[10.0], [20.0], [30.0]]).repeat(1, 16)
    rows = [([0, 1, 2], [0, 1, 2])]
    result = RowAttention(attention_rows(rows, 3, shared=False, device="cpu"))(query, key, value, 1, 1.0, UNLIMITED)
    assert result[:, 0].tolist() == [10.0, 20.0, 10.0]
    result.sum().backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("layout", [alone, shared])
def test_rows_are_the_longest_first(layout):
    rows, tokens, shares = layout()
    places = RowAttention(attention_rows(rows, tokens, shared=shares, device="cpu")).places
    lengths = [end - begin for begin, end in pairwise(places.key_begins.tolist())]
    assert lengths == sorted((len(keys) for _, keys in rows), reverse=True)
    assert places.most_keys == lengths[0]


@pytest.mark.parametrize("change", [{"heads": 3}, {"window": 0}, {"value": 8}, {"key": 24, "value": 24}])
def test_widths_that_do_not_fit_are_refused(change):
    rows, tokens, _ = alone()
    use = {"query": 32, "key": 16, "value": 16, "heads": 2, "window": 4} | change
    attend = RowAttention(attention_rows(rows, tokens, shared=False, device="cpu"))
    query, key, value = (torch.ones(tokens, use[name]) for name in ("query", "key", "value"))
    with pytest.raises(ValueError, match="no attention of"):
        attend(query, key, value, use["heads"], 1.0, use["window"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_other_rows_change_nothing(threads, dtype):
    rows, tokens, _ = alone()
    torch.manual_seed(0)
    given = [torch.randn(tokens, n * 16).to(dtype).requires_grad_() for n in (4, 2, 2)]
    before = torch.get_num_threads()

    def results(threads, some, of_some):
        """Of tokens that are in some of the rows."""
        torch.set_num_threads(threads)
        layout = attention_rows(some, tokens, shared=False, device="cpu")
        result = RowAttention(layout)(*given, 4, 0.3, UNLIMITED)[of_some]
        return [result, *(x[of_some] for x in torch.autograd.grad(result.square().sum(), given))]

    try:
        for row in rows:
            both = [results(1, rows, row[0]), results(threads, [row], row[0])]
            for one, other in zip(*both, strict=True):
                assert one.equal(other)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("unit", [False, True])
def test_rows_that_are_too_long_are_left_to_pytorch_where_no_unit_helps(unit, monkeypatch):
    rows, tokens, _ = alone()
    layout = attention_rows(rows, tokens, shared=False, device="cpu")
    given, asked = [torch.randn(tokens, 32) for _ in range(3)], []
    monkeypatch.setattr(row_attention.RowAttention, "__call__", lambda self, *given: asked.append(given) or given[0])
    monkeypatch.setattr(tile_unit, "available", lambda: unit)

    def calls(dtype):
        """Of ours, and what came of it."""
        asked.clear()
        result = PackedRows(layout).attend_tokens([x.to(dtype) for x in given], 2, scale=0.3, window=None)
        return len(asked), result

    assert max(ALONE) < LONGEST
    assert calls(torch.float32)[0] == calls(torch.bfloat16)[0] == 1
    monkeypatch.setattr("plaudit.models.attention.LONGEST", max(ALONE) - 1)
    assert calls(torch.bfloat16)[0] == unit
    ours, found = calls(torch.float32)
    assert ours == 0
    torch.testing.assert_close(found, by_formula(rows, *given, 2, 0.3, UNLIMITED))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_comes_later_changes_nothing(dtype):
    tokens, before = 90, 57
    torch.manual_seed(0)
    query, key, value = (torch.randn(tokens, 64).to(dtype) for _ in range(3))
    attend = RowAttention(attention_rows([(list(range(tokens)),) * 2], tokens, shared=False, device="cpu"))
    results = [attend(query, key, value, 1, 0.2, UNLIMITED)]
    key[before:], value[before:] = 30, 1e30
    results.append(attend(query, key, value, 1, 0.2, UNLIMITED))
    assert results[0][:before].equal(results[1][:before])
    assert not results[0][before:].equal(results[1][before:])
