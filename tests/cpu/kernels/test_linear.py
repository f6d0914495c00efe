"""Products of linear layers, in pieces and from transposed memory, are those of float64 to bfloat16's last place."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from plaudit.cpu.kernels import linear, tile_unit

needs_unit = pytest.mark.skipif(not tile_unit.available(), reason="this processor has no tile unit, or it is locked")
SIZES = [(32, 32), (33, 32), (100, 40), (515, 577), (64, 1536)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def close(ours, exact, terms):
    """Within the last place of a bfloat16, and what sums in another order may come to."""
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-5 * terms)


@pytest.mark.parametrize(("m", "n"), SIZES)
def test_transposed_memory_is_the_transpose_with_zeros_behind_its_rows(m, n, monkeypatch):
    poisoned = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **more: poisoned(*size, **more).fill_(torch.nan))
    x = torch.randn(m, n).bfloat16()
    transposed = linear.transposed(x)
    assert torch.equal(transposed, x.T)
    stride = transposed.stride(0)
    assert stride >= -(-m // 32) * 32
    behind = transposed.as_strided((n, stride), (stride, 1))[:, m:]
    assert (behind == 0).all()


@needs_unit
@pytest.mark.parametrize("m", [33, 100, 600, 1151])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("k", "n"), [(1536, 576), (576, 576), (3072, 576), (96, 40), (40, 16)])
def test_a_linear_layer_and_its_gradients(m, k, n, bias, two_threads):
    layer = nn.Linear(k, n, bias=bias).bfloat16()
    x, back = torch.randn(2, m, k).bfloat16().requires_grad_(), torch.randn(2, m, n).bfloat16()
    linear.fuse_linear(layer)
    assert "forward" in vars(layer)
    result = layer(x)
    result.backward(back)
    wide = [p.detach().double().requires_grad_() for p in (x, *layer.parameters())]
    exact = functional.linear(*wide)
    exact.backward(back.double())
    close(result, exact, k**0.5)
    for ours, other, terms in zip((x, *layer.parameters()), wide, (n, 2 * m, 2 * m), strict=False):
        assert ours.grad.dtype == torch.bfloat16
        close(ours.grad, other.grad, terms**0.5)


@needs_unit
def test_rows_that_oneDNN_would_leave_to_one_thread_are_taken_in_pieces(two_threads, monkeypatch):
    taken = []
    plain = torch.mm
    monkeypatch.setattr(torch, "mm", lambda x, *more, **named: taken.append(len(x)) or plain(x, *more, **named))
    for m, k, n in [(1150, 1536, 576), (1024, 3072, 576), (1150, 576, 1536), (400, 1536, 576), (1400, 576, 576)]:
        linear.product(torch.randn(m, k).bfloat16(), torch.randn(k, n).bfloat16())
    assert taken == [544, 544, 62, 256, 256, 256, 256]


@needs_unit
def test_what_is_not_asked_for_is_not_computed(two_threads, monkeypatch):
    layer = nn.Linear(64, 64).bfloat16()
    linear.fuse_linear(layer)
    layer.weight.requires_grad_(False)
    monkeypatch.setattr(linear, "gradient_of_weight", None)
    x = torch.randn(40, 64).bfloat16().requires_grad_()
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert x.grad is not None


def test_other_numbers_and_layers_keep_their_own():
    body = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8).bfloat16())
    linear.fuse_linear(body)
    assert not any("forward" in vars(module) for module in body)
    x, matrix = torch.randn(700, 64), torch.randn(64, 600)
    assert torch.equal(linear.product(x, matrix), x @ matrix)
    assert torch.equal(linear.gradient_of_weight(x, x), x.T @ x)
