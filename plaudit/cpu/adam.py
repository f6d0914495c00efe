"""AdamW on a CPU: clipping, the update and the rounding of what is computed with, in one pass over memory.

n weights of a tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit.cpu.kernels import machine_code
from plaudit.cpu.kernels.adam import PIECE, sum_squares, update
from plaudit.cpu.kernels.machine_code import plain_array
from plaudit.models.masters import Masters, thresholds


@torch.no_grad()
def take_step(optimiser: torch.optim.AdamW, factor: float, masters: Masters | None) -> None:
    """A step on gradients times a factor, as the optimiser's own would be; weights that have masters are rounded again.

    Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2, with g = factor times the gradient and t steps taken:

        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
        w = w - rate decay w - rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)

    Its moments are kept where the optimiser keeps them, so that either can go on after the other. Parameters are of
    those that `plaudit.cpu.knows`; the ones without a gradient stay as they are.
    """
    with machine_code.in_use():
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad if masters is None else masters.gradient_of(parameter)
                if gradient is None:
                    continue
                state = optimiser.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] += 1
                rounded = None if masters is None else masters.rounded(parameter)
                read = [parameter, gradient.contiguous(), state["exp_avg"], state["exp_avg_sq"]]
                arrays = [*map(_flat, read), np.empty(0, np.uint16) if rounded is None else _flat(rounded)]
                arrays += thresholds(parameter.device).numpy(), _numbers(group, float(state["step"]), factor)
                update(*arrays)


@torch.no_grad()
def total_norm(gradients: list[Tensor]) -> float:
    """Norm over all gradients together, float32 or bfloat16. Squares are summed in float32 by pieces, and these in
    float64."""
    total = 0.0
    with machine_code.in_use():
        for gradient in gradients:
            sums = np.empty(-(-gradient.numel() // PIECE), np.float32)
            sum_squares(_flat(gradient.contiguous()), sums)
            total += float(sums.sum(dtype=np.float64))
    return float(total**0.5)


def _numbers(group: dict[str, Any], steps: float, factor: float) -> Any:
    """[8] float32: factor, 1 - b1, b2, 1 - b2, rate / m's correction, 1 / root of v's, epsilon, what decay leaves."""
    (first, second), rate = group["betas"], group["lr"]
    corrected = rate / (1 - first**steps), 1 / (1 - second**steps) ** 0.5
    numbers = [factor, 1 - first, second, 1 - second, *corrected, group["eps"], 1 - rate * group["weight_decay"]]
    return np.array(numbers, np.float32)


def _flat(x: Tensor) -> Any:
    return plain_array(x.detach().view(-1))
