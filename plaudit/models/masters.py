"""float32 masters of weights that are computed with in bfloat16.

Micikevicius et al. 2018, Mixed Precision Training (arXiv:1710.03740), section 3.1: an update is mostly finer than
what a 16-bit weight can hold, so it is added to a float32 master, which is then rounded for the computation.

Rounding to nearest would still hide it: a weight that starts on bfloat16's grid stays where it is until its master has
moved by half a unit in the last place, which at the learning rates of RLHF most never do. Here every weight is rounded
up or down at a threshold of its own, drawn once: of weights that moved by a tenth of a unit, a tenth moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor, nn

from plaudit import cpu

PERIOD = 1 << 18
"""Weights of a tensor after which the thresholds repeat."""


class Masters:
    """The masters of those parameters that are held in bfloat16; they alone are optimised.

    Gradients of a bfloat16 weight are summed in its master's, in float32; a single one is left as it is.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self._held: dict[nn.Parameter, nn.Parameter] = {}
        self._rounded: dict[nn.Parameter, nn.Parameter] = {}
        self._single: dict[nn.Parameter, Tensor] = {}
        for parameter in parameters:
            if parameter.dtype == torch.bfloat16 and parameter not in self._held:
                self._held[parameter] = nn.Parameter(parameter.detach().float())
                self._rounded[self._held[parameter]] = parameter
                parameter.register_post_accumulate_grad_hook(self._take_gradient)

    def of(self, parameter: nn.Parameter) -> nn.Parameter:
        """Its master; the parameter itself where it has none."""
        return self._held.get(parameter, parameter)

    def rounded(self, master: nn.Parameter) -> nn.Parameter | None:
        """The weight that a master is of; None where it is no master."""
        return self._rounded.get(master)

    def gradient_of(self, master: nn.Parameter) -> Tensor | None:
        """What has been summed up of it; bfloat16 where that is one gradient, None where there is none."""
        return self._single.get(master) if master.grad is None else master.grad

    def widen_gradients(self) -> None:
        """Let all of them be the masters' own, for whoever looks for them there."""
        for master, gradient in self._single.items():
            master.grad = gradient.float()
        self._single.clear()

    def clear_gradients(self) -> None:
        """Those that are not the masters' own."""
        self._single.clear()

    def publish(self) -> None:
        """Let the computation see what the masters have become."""
        for parameter, master in self._held.items():
            _round(master.detach(), parameter.detach())

    def _take_gradient(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        master, gradient = self._held[parameter], parameter.grad
        if gradient.is_sparse:  # of embeddings alone
            gradient = gradient.to_dense()
        parameter.grad = None
        if master.grad is None and master not in self._single:
            self._single[master] = gradient  # a copy of more bits would be read and written at every step
            return
        if master.grad is None:
            master.grad = self._single.pop(master).float()
        add_to(master.grad, gradient)


def add_to(total: Tensor, x: Tensor) -> None:
    """total += x, without a copy of x where it is of fewer bits."""
    if not cpu.add(total, x):
        total += x


def to_bfloat16(weights: Tensor) -> Tensor:
    """float32 to bfloat16, each up or down at its threshold, which depends on its place in the tensor alone.

    The share that is rounded up is how far they are from the lower neighbour, so their mean is kept. Values that
    bfloat16 holds stay as they are. The same weights give the same at every call, in training and when a saved model
    is loaded.
    """
    result = torch.empty(weights.shape, dtype=torch.bfloat16, device=weights.device)
    _round(weights.detach().contiguous(), result)
    return result


def _round(weights: Tensor, into: Tensor) -> None:
    """A bfloat16 is the first half of a float32: add the threshold and drop the second half.

    Infinities stay, and so do the NaNs that computations give.
    """
    drawn = thresholds(weights.device)
    shifted = torch.empty_like(drawn)
    bits, halves = weights.view(torch.int32).view(-1), into.view(torch.int16).view(-1)
    for part, target in zip(bits.split(PERIOD), halves.split(PERIOD), strict=True):
        sums = shifted[: len(part)]
        torch.add(part, drawn[: len(part)], out=sums)
        sums >>= 16
        target.copy_(sums)


@cache
def thresholds(device: torch.device) -> Tensor:
    """[PERIOD] int32, even over what bfloat16 drops of a float32, 0 to 2^16 - 1."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 1 << 16, (PERIOD,), generator=generator, dtype=torch.int32).to(device)
