"""Each kernel computes what PyTorch does, in float32 to rounding and in bfloat16 to the last place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from numba import types
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from plaudit.cpu.kernels import machine_code, rowwise, vectors
from plaudit.cpu.kernels.machine_code import generated, plain_array
from plaudit.sampling.in_process import draw

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def close(found, expected):
    """Within rounding of the precision that `found` has; the expected is float32."""
    spare = 2**-8 if found.dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(found.float(), expected.float(), rtol=spare, atol=spare)


@numba.njit
def exps_one_by_one(x, result):
    for i in range(len(x)):
        result[i] = machine_code.exp(x[i])


@numba.njit
def narrowed(x, result):
    for i in range(len(x)):
        result[i] = machine_code.narrow(x[i], result)


@generated
def exp_of_vector(context, x, result):
    def generate(context, builder, _, given):
        vectors.store(builder, vectors.exponential(builder, vectors.load(builder, given[0])), given[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@numba.njit
def exps_by_vectors(x, result):
    for i in range(0, len(x), vectors.LANES):
        exp_of_vector(x[i:].ctypes.data, result[i:].ctypes.data)


@pytest.mark.parametrize("exps", [exps_one_by_one, exps_by_vectors])
def test_exp_is_within_rounding_and_nothing_at_minus_infinity(exps):
    x = np.linspace(-87, 88, 200_000, dtype=np.float32)
    found = np.empty_like(x)
    exps(x, found)
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() < 2e-7
    ends = np.array([-np.inf, -88.0, 0.0, 88.0, 1e30, np.inf, np.nan, *[0.0] * 9], np.float32)
    found = np.empty_like(ends)
    exps(ends, found)
    assert found[:3].tolist() == [0.0, 0.0, 1.0]
    if exps is exps_one_by_one:  # by vectors nothing above 88 is promised
        assert (found[4:6] == found[3]).all()
    assert np.isnan(found[6])


def test_bfloat16_is_rounded_as_pytorch_does_it():
    bits = torch.randint(-(2**31), 2**31 - 1, (100_000,), dtype=torch.int32)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38])
    x = torch.cat([bits.view(torch.float32), special])
    x = x[~x.isnan()]
    found = torch.empty(len(x), dtype=torch.bfloat16)
    narrowed(x.numpy(), plain_array(found))
    assert found.equal(x.bfloat16())
    nothing = torch.empty(1, dtype=torch.bfloat16)
    narrowed(torch.tensor([torch.nan]).numpy(), plain_array(nothing))
    assert nothing.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 5])
def test_norm(rows, dtype):
    x, weight = (3 * torch.randn(rows, 48)).to(dtype), torch.randn(48).to(dtype)
    found = torch.empty_like(x)
    rowwise.rms_norm(plain_array(x), plain_array(weight), np.float32(1e-5), plain_array(found))
    close(found, functional.rms_norm(x.float(), (48,), weight.float(), 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_a_sum(dtype):
    x, more, weight = torch.randn(5, 48).to(dtype), torch.randn(5, 48).to(dtype), torch.randn(48).to(dtype)
    total, found = torch.empty_like(x), torch.empty_like(x)
    arrays = [plain_array(a) for a in (x, more, weight)]
    rowwise.add_rms_norm(*arrays, np.float32(1e-5), plain_array(total), plain_array(found))
    assert total.equal(x + more)
    close(found, functional.rms_norm(total.float(), (48,), weight.float(), 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates(dtype):
    both = (4 * torch.randn(5, 2 * 40)).to(dtype)
    both[0, 0], both[0, 1] = 100.0, -100.0
    found = torch.empty(5, 40, dtype=dtype)
    rowwise.gated(plain_array(both), plain_array(both), 40, plain_array(found))
    close(found, functional.silu(both[:, :40].float()) * both[:, 40:].float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [False, True])
def test_rotation_writes_one_column_and_nothing_else(normed, dtype):
    rows, heads, groups, width, column = 3, 4, 2, 8, 5
    states = torch.randn(rows, (heads + 2 * groups) * width).to(dtype)
    angles = torch.rand(rows, width // 2).repeat(1, 2) * 6
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    norms = torch.rand(2 if normed else 0, width).to(dtype)
    query = torch.empty(rows, heads, width)
    keys, values = (torch.full((rows, groups, 9, width), 7.0, dtype=dtype) for _ in range(2))
    arrays = [plain_array(x) for x in (states, cos, sin, norms)]
    rowwise.rotate_and_store(
        *arrays, np.float32(1e-6), *[plain_array(x) for x in (query, keys, values)], column
    )  # fmt: skip
    by_head = states.float().view(rows, -1, width)
    plain_query, plain_key, value = by_head.split([heads, groups, groups], dim=1)
    if normed:
        plain_query = functional.rms_norm(plain_query, (width,), norms[0].float(), 1e-6)
        plain_key = functional.rms_norm(plain_key, (width,), norms[1].float(), 1e-6)
    expected_query, expected_key = apply_rotary_pos_emb(plain_query, plain_key, cos.float(), sin.float())
    close(query, expected_query)
    close(keys[:, :, column], expected_key)
    assert values[:, :, column].float().equal(value)
    others = [c for c in range(9) if c != column]
    assert (keys[:, :, others] == 7).all()
    assert (values[:, :, others] == 7).all()


BY_HEADS = [(64, 6, 2), (64, 3, 1), (8, 4, 4)]
OTHERS = [(8, 6, 2), (8, 3, 1), (64, 4, 4)]
"""(width, heads, groups), each compiled for itself."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("width", "heads", "groups"), [*BY_HEADS, *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in OTHERS)]
)
@pytest.mark.parametrize("last", [1, 4, 11, 16, 37])
def test_attention_over_the_columns_that_each_row_may_see(heads, groups, last, width, dtype):
    rows, columns, scale = 5, 48, 0.1
    query = 3 * torch.randn(rows, heads, width)
    keys, values = (torch.randn(rows, groups, columns, width).to(dtype) for _ in range(2))
    first = torch.tensor([0, 0, last - 1, last // 2, max(0, last - 3)])
    columns_seen = torch.arange(columns)
    seen = (columns_seen >= first[:, None]) & (columns_seen < last)  # [rows, columns]
    keys[~seen[:, None].expand(rows, groups, columns)] = torch.nan  # never read
    grouped = query.view(rows, groups, -1, width)
    scores = (grouped @ keys.float().transpose(2, 3)) * scale
    chances = scores.masked_fill(~seen[:, None, None], -torch.inf).softmax(-1)
    expected = (chances @ values.float()).view(rows, heads * width)
    found = torch.empty(rows, heads * width, dtype=dtype)
    work = np.empty((rows * groups, heads // groups, columns), np.float32)
    rowwise.attention(heads // groups, width)(
        query.numpy(), plain_array(keys), plain_array(values), first.numpy(), last, np.float32(scale), work,
        plain_array(found),
    )  # fmt: skip
    close(found, expected)


def test_kernels_are_where_their_sources_are_looked_at():
    """What is kept on disk is of `SOURCES`: of this folder alone."""
    root = Path(rowwise.__file__).parents[1]
    makers = re.compile(r"machine_code import .*\b(compiled|composed|inlined|called|generated)\b|@machine_code\.")
    users = [path for path in root.rglob("*.py") if makers.search(path.read_text(encoding="utf-8"))]
    assert users
    assert {path.parent.name for path in users} == {"kernels"}


SIZES = [5, 256, 1000, 49_152]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("size", SIZES)
def test_log_probs_entropies_and_slopes(size, temperature, dtype):
    logits = (8 * torch.randn(7, size)).to(dtype)
    logits[0] -= 30  # little depends on where the logits lie
    logits[1, 3] = -torch.inf
    ids = torch.randint(size, (7,))
    log_probs, entropies, normalisers, factors = (*torch.empty(3, 7), torch.randn(7))
    exact = logits.double().requires_grad_()
    expected = (exact / temperature).log_softmax(dim=-1)
    chosen = expected.gather(1, ids[:, None]).squeeze(1)
    (chosen * factors).sum().backward()
    arrays = [plain_array(x) for x in (logits, ids, log_probs, entropies, normalisers, factors)]
    with machine_code.in_use():
        rowwise.read_log_probs(*arrays[:2], np.float32(temperature), *arrays[2:5])
    torch.testing.assert_close(log_probs, chosen.float(), rtol=1e-5, atol=1e-5)
    own = -(expected.exp() * expected.clamp(min=-1e300)).sum(dim=-1)
    torch.testing.assert_close(entropies, own.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        normalisers, (logits.double() / temperature).logsumexp(dim=-1).float(), rtol=1e-6, atol=1e-5
    )
    cut = size // 3
    for columns in (slice(cut), slice(cut, size)):
        part = logits[:, columns].contiguous()
        with machine_code.in_use():
            arrays[:2] = plain_array(part), plain_array(ids - (columns.start or 0))
            rowwise.to_gradients(*arrays[:2], np.float32(temperature), *arrays[4:])
        expected_part = exact.grad[:, columns].to(dtype)
        torch.testing.assert_close(part.float(), expected_part.float(), rtol=2**-7, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_stays_visible(dtype):
    logits = torch.zeros(3, 300, dtype=dtype)
    logits[1, 200] = torch.nan
    logits[2, 299] = torch.inf
    log_probs, entropies, normalisers = torch.empty(3, 3).unbind()
    arrays = [plain_array(x) for x in (logits, torch.zeros(3).long(), log_probs, entropies, normalisers)]
    with machine_code.in_use():
        rowwise.read_log_probs(*arrays[:2], np.float32(1.0), *arrays[2:])
    assert log_probs.isfinite().tolist() == [True, False, False]
    assert entropies.isfinite().tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_draws_are_those_by_tensors(size, temperature, dtype):
    logits = (3 * torch.randn(300, size)).to(dtype)
    if size > 1:
        logits[:, ::7] = -torch.inf
    uniforms = torch.rand(300)
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-24])
    tokens, log_probs = torch.empty(300, dtype=torch.long), torch.empty(300)
    rowwise.draw(
        plain_array(logits), np.float32(temperature), uniforms.numpy(), tokens.numpy(), log_probs.numpy()
    )  # fmt: skip
    expected, expected_log_probs = draw(logits.float() / temperature, uniforms)
    same = tokens == expected
    assert same.float().mean() > 0.98  # a sum that ends within rounding of the number may go either way
    torch.testing.assert_close(log_probs[same], expected_log_probs[same], rtol=1e-5, atol=1e-5)
    exact = (logits.double() / temperature).log_softmax(-1)
    torch.testing.assert_close(
        log_probs.double(), exact.gather(1, tokens[:, None]).squeeze(1), rtol=1e-5, atol=2e-6
    )  # fmt: skip
    ends = exact.exp().cumsum(-1)
    for row in (~same).nonzero().flatten().tolist():
        assert min((ends[row] - uniforms[row]).abs()) < 1e-6


def test_threads_change_nothing():
    x, weight = torch.randn(7, 64), torch.rand(64)
    found = [torch.empty_like(x) for _ in range(2)]
    before = torch.get_num_threads()
    try:
        for threads, result in enumerate(found, start=1):
            torch.set_num_threads(threads)
            with machine_code.in_use():
                assert numba.get_num_threads() == min(threads, numba.config.NUMBA_NUM_THREADS)
                rowwise.rms_norm(x.numpy(), weight.numpy(), np.float32(1e-5), result.numpy())
    finally:
        torch.set_num_threads(before)
    assert found[0].equal(found[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_pytorch_keeps_its_number_of_threads(threads):
    """Which Numba's threads set for everybody when they start."""
    code = (
        "import numpy, torch; from plaudit.cpu.kernels import machine_code, rowwise\n"
        "x = numpy.ones((4, 8), numpy.float32)\n"
        "for _ in range(2):\n"
        "    with machine_code.in_use():\n"
        "        rowwise.rms_norm(x, x[0], numpy.float32(1e-5), x.copy())\n"
        "print(torch.get_num_threads())\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(threads)]


def test_machine_code_is_found_again_by_another_process_but_not_that_of_other_sources(tmp_path):
    code = (
        "import numpy as np; from plaudit.cpu.kernels import machine_code, rowwise\n"
        "query, cache = np.ones((1, 4, 16), np.float32), np.ones((1, 2, 16, 16), np.float32)\n"
        "attend = rowwise.attention(2, 16)\n"
        "with machine_code.in_use():\n"
        "    attend(query, cache, cache, np.zeros(1, np.int64), 3, np.float32(1), np.ones((2, 2, 16), np.float32),\n"
        "           np.ones((1, 64), np.float32))\n"
        "print(attend.stats.cache_hits.total(), attend.stats.cache_misses.total())\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    changed = f"from plaudit.cpu.kernels import machine_code; machine_code.SOURCES = 'others'\n{code}"
    found = [
        subprocess.run([sys.executable, "-c", each], env=environment, capture_output=True, text=True, check=True).stdout
        for each in (code, code, changed)
    ]
    assert [line.split() for line in found] == [["0", "1"], ["1", "0"], ["0", "1"]]


def test_processes_that_compile_at_once_keep_each_other_s_machine_code(tmp_path):
    code = (
        "import sys, time; import numpy as np; from numba.core.caching import IndexDataCacheFile as File\n"
        "save = File._save_index; File._save_index = lambda *given: (time.sleep(3), save(*given))\n"
        "from plaudit.cpu.kernels import machine_code, rowwise\n"
        "with machine_code.in_use():\n"
        "    for kind in sys.argv[1:]:\n"
        "        x = np.ones((1, 16), kind); rowwise.rms_norm(x, x[0], np.float32(1), x)\n"
        "print(rowwise.rms_norm.stats.cache_hits.total())\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    options = {"env": environment, "stdout": subprocess.PIPE, "text": True}
    kinds = ["float32", "uint16"]
    both = [subprocess.Popen([sys.executable, "-c", code, kind], **options) for kind in kinds]
    assert [one.wait() for one in both] == [0, 0]
    assert subprocess.run([sys.executable, "-c", code, *kinds], check=True, **options).stdout.strip() == "2"


def test_without_a_place_for_machine_code_it_is_made_anew(monkeypatch):
    """As in a container whose folders cannot be written to."""

    def refuse(*_, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(machine_code, "njit", refuse)

    def double(x):
        for i in numba.prange(len(x)):
            x[i] *= 2

    x = np.ones(3, np.float32)
    machine_code.compiled(double)(x)
    assert x.tolist() == [2, 2, 2]
