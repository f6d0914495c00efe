"""A step by kernels is the step that the body's own modules take."""

from types import SimpleNamespace

import pytest
import torch
from small_networks import OPTIONS, PROMPTS, load

from plaudit import cpu
from plaudit.config import LoraSettings
from plaudit.cpu import fused_decode, packing
from plaudit.cpu.fused_decode import FusedStep
from plaudit.cpu.fused_modules import window_of
from plaudit.cpu.fused_projections import as_one
from plaudit.cpu.kernels import blocks, pairs, tile_unit
from plaudit.cpu.kernels.decode_step import BY_PAIRS, BY_ROWS, BY_TILES
from plaudit.models.network import make_trainable
from plaudit.sampling.decoders import SlotDecoder
from plaudit.sampling.in_process import sample

FUSED = ["llama", "qwen2", "qwen3", "mistral"]


def shaken(network, targets):
    """With biases and norms that are not as they begin, and an adapter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.body.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
        if targets is not None:
            network = make_trainable(network, LoraSettings(rank=4, targets=targets), role="policy", seed=0)
            for parameter in network.trainable_parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return network


def steps(network, rows):
    """States of six steps of as many rows, some of which end on the way, after prompts of unlike length."""
    prompts = PROMPTS[:rows]
    found = []
    with torch.no_grad(), network.active(), cpu.packed_weights(network, rows) as products:
        decoder = SlotDecoder(network, products, rows, max(map(len, prompts)), 6)
        found.append(decoder.start(prompts, [1] * rows, torch.arange(rows)))
        running = torch.ones(rows, dtype=torch.bool)
        for step in range(6):
            found.append(decoder.step(torch.arange(rows) + 20 + step, running)[running])
            if step == 3 and rows > 2:
                running[1] = False
    return torch.cat(found), decoder.fused


def the_same(found, expected):
    """But for rounding: what a sum loses is as large as its largest terms are, and each processor adds in its order."""
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("targets", ["all", "attention", None])
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("family", FUSED)
def test_the_same_states(family, rows, targets, tmp_path, monkeypatch):
    network = shaken(load(family, tmp_path), targets)
    fused, used = steps(network, rows)
    assert isinstance(used, FusedStep)
    monkeypatch.setenv("PLAUDIT_CPU_KERNELS", "off")
    plain, used = steps(network, rows)
    assert used is None
    the_same(fused, plain)


def test_each_layer_sees_as_far_as_its_own_window(tmp_path, monkeypatch):
    network = load("mistral", tmp_path)
    for layer, window in zip(network.body.layers, (2, 3), strict=False):
        layer.self_attn.sliding_window = window
    assert len({window_of(layer.self_attn) for layer in network.body.layers}) > 1
    fused, used = steps(network, 2)
    assert used.plans is not None
    found = []
    for change in (0, 1):  # the first layer's window, then the second's: each counts
        before = network.body.layers[change].self_attn.sliding_window
        network.body.layers[change].self_attn.sliding_window = before + 2
        found.append(steps(network, 2)[0])
        network.body.layers[change].self_attn.sliding_window = before
    assert not torch.allclose(fused, found[0])
    assert not torch.allclose(fused, found[1])
    monkeypatch.setattr(fused_decode, "_plans", lambda *_: (None, BY_ROWS))
    the_same(fused, steps(network, 2)[0])


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize(("rows", "without"), [(2, ()), (7, ()), (7, (tile_unit,)), (7, (tile_unit, pairs))])
def test_in_bfloat16_it_is_as_far_from_float32_as_the_modules_are(family, rows, without, tmp_path, monkeypatch):
    for module in without:
        monkeypatch.setattr(module, "available", lambda: False)
    exact, _ = steps(shaken(load(family, tmp_path / "exact"), "all"), rows)
    network = shaken(load(family, tmp_path / "rounded", dtype="bfloat16"), "all")
    fused, used = steps(network, rows)
    assert isinstance(used, FusedStep)
    monkeypatch.setenv("PLAUDIT_CPU_KERNELS", "off")
    plain, _ = steps(network, rows)
    ours, theirs = ((x.float() - exact).abs().mean() for x in (fused, plain))
    assert ours < 1.2 * theirs


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "gpt2"])
def test_other_families_go_their_own_way_and_say_so_once(family, tmp_path, capsys):
    fused_decode._say_by_modules.cache_clear()
    network = load(family, tmp_path)
    assert steps(network, 7)[1] is None
    assert steps(network, 2)[1] is None
    assert capsys.readouterr().err.count(f"{family} models are sampled by their own modules") == 1


def test_layers_with_another_gate_go_their_own_way(tmp_path):
    network = load("llama", tmp_path)
    network.body.config.hidden_act = "gelu"
    assert steps(network, 7)[1] is None


def test_it_samples_what_the_modules_sample_while_rows_come_and_go(tmp_path, monkeypatch):
    network = shaken(load("mistral", tmp_path), "all")
    drawn = sample(network, PROMPTS, sequences_per_batch=5, **OPTIONS)
    monkeypatch.setattr(cpu, "decode_step", lambda *_: None)
    plain = sample(network, PROMPTS, sequences_per_batch=5, **OPTIONS)
    assert [[c.token_ids for c in group] for group in drawn] == [[c.token_ids for c in group] for group in plain]


def test_each_product_is_for_the_rows_and_the_processor(tmp_path, monkeypatch):
    def kinds(rows):
        with cpu.packed_weights(network, rows) as products:
            return {getattr(product, "by", None) for product in products.values()}

    monkeypatch.setattr(packing, "_packs_weights", lambda network: True)  # whatever this processor has
    monkeypatch.setattr(packing, "_Rearranged", lambda group, dtype: SimpleNamespace(one=lambda *_: None))
    has = {tile_unit: False, pairs: False}
    for module in has:
        monkeypatch.setattr(module, "available", lambda module=module: has[module])
    network = load("llama", tmp_path, dtype="bfloat16")
    few = packing.MOST_ROWS[BY_ROWS]
    assert kinds(few) == {BY_ROWS}
    assert kinds(few + 1) == {None}
    for module, by in ((pairs, BY_PAIRS), (tile_unit, BY_TILES)):  # who has the second may have the first
        has[module] = True
        most = packing.MOST_ROWS[by]
        assert kinds(few) == {BY_ROWS}
        assert kinds(few + 1) == kinds(most) == {by}
        assert kinds(most + 1) == {None}
    monkeypatch.setattr(blocks, "fit", lambda inputs: inputs != network.body.config.intermediate_size)
    assert kinds(7) == {BY_TILES, None}


@pytest.mark.parametrize("rows", [2, 7])
def test_weights_that_lie_apart_stay_where_they_are(tmp_path, rows):
    """As those of a model do that is too large to be taken from its file."""
    network = shaken(load("qwen2", tmp_path), "all")
    expected, _ = steps(network, rows)
    for parameter in network.body.parameters():
        parameter.data = parameter.data.clone()
    places = [parameter.data_ptr() for parameter in network.body.parameters()]
    states = network.body.layers[0].self_attn
    assert as_one([layer.weight for layer in (states.q_proj, states.k_proj, states.v_proj)]) is None
    the_same(steps(network, rows)[0], expected)
    assert [parameter.data_ptr() for parameter in network.body.parameters()] == places


def test_an_error_within_does_not_keep_the_kernels(tmp_path, monkeypatch):
    network = load("llama", tmp_path)
    monkeypatch.setattr(FusedStep, "_at_once", lambda *_: 1 / 0)
    monkeypatch.setattr(FusedStep, "_layer_by_layer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample(network, PROMPTS, **OPTIONS)
    monkeypatch.undo()
    assert sample(network, PROMPTS, **OPTIONS)
