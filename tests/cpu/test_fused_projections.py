"""Layers of one input by one product: the numbers and gradients of each by itself."""

import copy

import pytest
import torch
from torch import nn

from plaudit.config import LoraSettings
from plaudit.cpu.fused_projections import FusedProjections, beside_each_other
from plaudit.models.network import Network, make_trainable

OUTPUTS = {"one": 6, "two": 3, "three": 3}


class Parent(nn.Module):
    def __init__(self, bias):
        super().__init__()
        for number, (name, outputs) in enumerate(OUTPUTS.items()):
            setattr(self, name, nn.Linear(8, outputs, bias=bias and number != 1))


def made(bias, adapters, frozen):
    torch.manual_seed(0)
    parent = Parent(bias).requires_grad_(not frozen)
    if adapters:
        named = nn.ModuleDict({"attention": parent} if adapters == "all" else {"attention": nn.ModuleDict()})
        if adapters == "some":
            named = nn.ModuleDict({"attention": nn.ModuleDict({"two": parent.two, "three": parent.three})})
        body = make_trainable(
            Network(named, nn.Identity()), LoraSettings(rank=2, alpha=6, targets="all"), role="a", seed=0
        ).body
        for name, layer in body["attention"].named_children():
            setattr(parent, name, layer)
        for name, parameter in parent.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter)
    return parent


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("adapters", "frozen"), [(None, False), (None, True), ("some", True), ("all", True)])
def test_side_by_side_is_as_one_by_one(adapters, frozen, bias, asked):
    parent = made(bias, adapters, frozen)
    x, back = torch.randn(2, 5, 8, requires_grad=asked), torch.randn(2, 5, sum(OUTPUTS.values()))
    trained = [*([x] if asked else []), *(p for p in parent.parameters() if p.requires_grad)]
    assert len(trained) == asked + {None: 0 if frozen else 3 + 2 * bias, "some": 4, "all": 6}[adapters]
    expected = torch.cat([getattr(parent, name)(x) for name in OUTPUTS], dim=-1)
    found = FusedProjections(parent, tuple(OUTPUTS))(x)
    torch.testing.assert_close(found, expected)
    assert found.requires_grad == bool(trained)
    if trained:
        ours, exact = (torch.autograd.grad(result, trained, back) for result in (found, expected))
        torch.testing.assert_close(ours, exact)


def test_in_bfloat16_weights_get_the_gradients_of_float32_within_rounding():
    """Of sizes that are transposed for their product, where a tile unit does it."""
    torch.manual_seed(0)
    parent = nn.ModuleDict({"one": nn.Linear(64, 96, bias=False), "two": nn.Linear(64, 40, bias=False)}).bfloat16()
    exact = copy.deepcopy(parent).float()
    x, back = torch.randn(50, 64).bfloat16().requires_grad_(), torch.randn(50, 136).bfloat16()
    states = x.detach().float().requires_grad_()
    found = FusedProjections(parent, ("one", "two"))(x)
    found.backward(back)
    expected = torch.cat([exact["one"](states), exact["two"](states)], dim=-1)
    expected.backward(back.float())
    pairs = [(found, expected), (x.grad, states.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(parent.parameters(), exact.parameters(), strict=True)]
    for ours, other in pairs:
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), other, rtol=2**-8, atol=1e-4)


def test_adapters_that_are_off_add_nothing():
    parent = made(True, "all", True)
    for layer in parent.children():
        layer.enable_adapters(False)
    x = torch.randn(5, 8)
    expected = torch.cat([getattr(parent, name).base_layer(x) for name in OUTPUTS], dim=-1)
    torch.testing.assert_close(FusedProjections(parent, tuple(OUTPUTS))(x), expected)


def test_weights_are_moved_beside_each_other_once_and_stay_the_parameters_they_are():
    parent = made(False, None, False)
    before, state = dict(parent.named_parameters()), copy.deepcopy(parent.state_dict())
    weights = [getattr(parent, name).weight for name in OUTPUTS]
    together = beside_each_other(weights)
    assert together.equal(torch.cat(list(state.values())))
    assert beside_each_other(weights).data_ptr() == together.data_ptr() == weights[0].data_ptr()
    assert all(value is before[name] for name, value in parent.named_parameters())
    assert all(value.equal(state[name]) for name, value in parent.state_dict().items())
    with torch.no_grad():
        weights[1] += 1
    assert beside_each_other(weights)[6:9].equal(state["two.weight"] + 1)
    copied = copy.deepcopy(parent)
    with torch.no_grad():
        copied.two.weight += 1
    assert beside_each_other([getattr(copied, n).weight for n in OUTPUTS])[6:9].equal(state["two.weight"] + 1 + 1)
    assert beside_each_other(weights)[6:9].equal(state["two.weight"] + 1)


@pytest.mark.parametrize("change", ["order", "transposed", "apart"])
def test_memory_that_lies_otherwise_is_not_taken_for_theirs(change):
    whole = torch.randn(6, 8)
    weights = {
        "order": [whole[3:], whole[:3]],
        "transposed": [torch.randn(8, 3).T, torch.randn(8, 3).T],
        "apart": [whole[:2], whole[3:]],
    }[change]
    expected = torch.cat(weights)
    assert beside_each_other(weights).equal(expected)
    assert torch.cat(weights).equal(expected)


def test_a_layer_that_someone_else_computes_is_left_to_them():
    parent = made(False, None, True)
    parent.two.forward = lambda x: torch.zeros(*x.shape[:-1], 3)
    found = FusedProjections(parent, tuple(OUTPUTS))(torch.randn(5, 8))
    assert found[:, 6:9].eq(0).all()
    assert found[:, :6].ne(0).all()
