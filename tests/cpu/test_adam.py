"""Steps by the kernel are those of PyTorch's AdamW, and weights are rounded as they are published."""

import copy

import pytest
import torch
from torch import nn

from plaudit import cpu
from plaudit.config import OptimiserSettings
from plaudit.cpu import adam
from plaudit.models.masters import PERIOD, Masters
from plaudit.models.network import Network
from plaudit.training.steps.optimiser import Optimiser

RATES = {"learning_rate": 0.01, "schedule": "linear", "weight_decay": 0.1, "max_gradient_norm": 3.0}


def module(*, dtype=torch.float32):
    """Of a matrix that is longer than the thresholds' period, vectors, and numbers of unlike size."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(517, PERIOD // 512), nn.Linear(PERIOD // 512, 3), nn.LayerNorm(3))
    with torch.no_grad():
        made[1].weight *= 1e-3
    return made.to(dtype)


def set_gradients(network, step):
    generator = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(network.trainable_parameters()):
        size = 0 if number == 1 else (1e-9, 1e-4, 0.05, 1.0)[(number + step) % 4]
        parameter.grad = size * torch.randn(parameter.shape, generator=generator)


def trained(network, steps, *, resumed_after=None):
    """Its weights and norms before clipping after so many steps."""
    optimiser, norms = Optimiser(network, OptimiserSettings(**RATES), 10), []
    for step in range(steps):
        if step == resumed_after:
            kept = copy.deepcopy(optimiser.state())
            optimiser = Optimiser(network, OptimiserSettings(**RATES), 10)
            optimiser.load_state(kept)
        set_gradients(network, step)
        norms.append(optimiser.step())
    return [p.detach().clone() for p in network.trainable_parameters()], norms


@pytest.mark.parametrize("change", [None, "to the kernel", "from the kernel"])
def test_steps_are_those_of_pytorch(change, monkeypatch):
    """Whichever has taken the first of them; some are clipped, and some gradients are nothing."""
    steps = 7
    found, norms = trained(Network(module(), nn.Identity()), steps, resumed_after=3)
    calls = []

    def knows(parameters):
        calls.append(parameters)
        return change is not None and (len(calls) > 3) == (change == "to the kernel")

    monkeypatch.setattr(cpu, "knows", knows)
    expected, their_norms = trained(Network(module(), nn.Identity()), steps)
    assert len(calls) == steps
    assert norms == pytest.approx(their_norms)
    assert min(norms) < RATES["max_gradient_norm"] < max(norms)
    for ours, theirs, start in zip(found, expected, module().parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(ours - start.detach(), theirs - start.detach(), rtol=1e-3, atol=1e-7)


def test_rounded_weights_are_what_is_published():
    body = module(dtype=torch.bfloat16)
    network = Network(body, nn.Identity(), masters=Masters(body.parameters()))
    before = [p.detach().clone() for p in body.parameters()]
    trained(network, 3)
    found = [p.detach().clone() for p in body.parameters()]
    network.publish()
    assert all(ours.equal(published) for ours, published in zip(found, body.parameters(), strict=True))
    assert all(not ours.equal(old) for ours, old in zip(found[:1], before[:1], strict=True))


def test_weights_without_a_gradient_stay():
    network = Network(module(), nn.Identity())
    optimiser = Optimiser(network, OptimiserSettings(**RATES), 10)
    set_gradients(network, 0)
    network.body[0].bias.grad = None
    before = network.body[0].bias.detach().clone()
    optimiser.step()
    assert network.body[0].bias.equal(before)
    assert network.body[0].bias not in optimiser._adam.state


def test_it_knows_contiguous_float32_on_a_cpu():
    plain = nn.Parameter(torch.zeros(3, 4))
    assert cpu.knows([plain])
    assert not cpu.knows([plain, nn.Parameter(torch.zeros(3, dtype=torch.float64))])
    assert not cpu.knows([nn.Parameter(torch.zeros(4, 3).T)])
    assert not cpu.knows([nn.Parameter(torch.zeros(3, device="meta"))])


@pytest.mark.parametrize("fused", [True, False])
def test_a_gradient_of_bfloat16_counts_as_what_it_is(fused, monkeypatch):
    def after(widened):
        body = module(dtype=torch.bfloat16)
        network = Network(body, nn.Identity(), masters=Masters(body.parameters()))
        optimiser, norms = Optimiser(network, OptimiserSettings(**RATES), 10), []
        for step in range(2):
            torch.manual_seed(step)
            (body(torch.randn(5, 517).bfloat16()).float() * torch.randn(5, 3)).sum().backward()
            if widened:
                network.masters.widen_gradients()
            norms.append(optimiser.step())
        return norms, [p.detach().clone() for p in network.trainable_parameters()]

    monkeypatch.setattr(cpu, "knows", lambda parameters: fused)
    (norms, found), (their_norms, expected) = after(False), after(True)
    assert norms == pytest.approx(their_norms)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_norms_are_those_of_float64():
    """Of unlike numbers, one of them strided and one empty."""
    torch.manual_seed(0)
    given = [torch.randn(3, 5000).T, torch.randn(70001).bfloat16() * 1e-3, torch.empty(0), torch.randn(1)]
    assert adam.total_norm(given) == pytest.approx(
        float(torch.cat([x.double().flatten() for x in given]).norm()), rel=1e-6
    )
    assert adam.total_norm([]) == 0.0
    assert adam.total_norm([torch.tensor([1.0, torch.nan])]) != adam.total_norm([torch.ones(2)])
