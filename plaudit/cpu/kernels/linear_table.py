"""Where the weights of linear layers of one input lie, for the kernels that multiply by them where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SIDE = 16
"""Outputs of a block of a weight."""
STEP = 32
"""Inputs are taken so many at a time; those of a weight that does not fill the last step are copied, with zeros."""
WEIGHT0, WEIGHT1, COLUMN, WIDTH, UP0, UP1, LOW = range(7)
"""Columns of a table; see `LinearTable`."""
TABLE, LINES, DOWN_TABLE, DOWN_LINES, BIAS, NOTHING, STEPS, UP_STEPS, LOWS, OUTPUTS = range(10)
"""Places of a plan; see `LinearTable`."""


class LinearTable:
    """Linear layers of one input, side by side: [W1; W2; ...] x + bias, and + [B1 A1 x; ...] where they have adapters.

    plan  [10] int64, all that a kernel needs to know, for as long as the table is there:

    TABLE, LINES            address of a table of all weights, and its lines
    DOWN_TABLE, DOWN_LINES  of one of the first halves of adapters, whose outputs are beside each other
    BIAS                    address of [outputs + 32] numbers
    NOTHING                 of as many zeros, or of 32 more than the first halves give
    STEPS                   inputs, of 32
    UP_STEPS                inputs that an output takes from the first halves, of 32
    LOWS                    all outputs of the first halves, of 32
    OUTPUTS                 all outputs

    Tables are [lines, 7] int64, a line for 32 outputs, two blocks of 16:

    WEIGHT0, WEIGHT1  where the blocks' weights begin in memory
    COLUMN, WIDTH     the first of the outputs, and how many there are: fewer at a layer's end
    UP0, UP1          where the blocks' second halves of an adapter begin; 0 without
    LOW               the layer's first step in what the first halves have given
    """

    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor | None],
        adapters: list[tuple[Tensor, Tensor] | None],
    ):
        """Weights [N, K] and biases [N]; adapters ([rank, K], [N, rank]), with the scale in the second."""
        steps, outputs = -(-weights[0].shape[1] // STEP), sum(map(len, weights))
        self.kept: list[Tensor] = []  # what the addresses are of
        ranks = [len(adapter[0]) for adapter in adapters if adapter is not None]
        up_steps = -(-max(ranks) // STEP) if ranks else 0
        parts: list[Any] = []
        lows: list[Any] = []
        column = 0
        for weight, adapter in zip(weights, adapters, strict=True):
            part = self._lines(weight, steps)
            part[:, COLUMN] += column
            if adapter is not None:
                down, up = adapter
                ups = self._lines(up, up_steps)
                part[:, UP0], part[:, UP1] = ups[:, WEIGHT0], ups[:, WEIGHT1]
                part[:, LOW] = up_steps * len(lows)
                low = self._lines(down, steps)
                low[:, COLUMN] += STEP * up_steps * len(lows)
                lows.append(low)
            parts.append(part)
            column += len(weight)
        self.table = np.concatenate(parts)
        self.down_table = np.concatenate(lows) if lows else self.table[:0]
        bias, nothing = weights[0].new_zeros(2, max(outputs, STEP * up_steps * len(ranks)) + STEP)
        torch.cat(
            [w.new_zeros(len(w)) if b is None else b.detach() for w, b in zip(weights, biases, strict=True)],
            out=bias[:outputs],
        )
        self.kept += [bias, nothing]
        self.plan = np.zeros(10, np.int64)
        for address, lines, table in ((TABLE, LINES, self.table), (DOWN_TABLE, DOWN_LINES, self.down_table)):
            self.plan[address], self.plan[lines] = table.ctypes.data, len(table)
        self.plan[BIAS], self.plan[NOTHING] = bias.data_ptr(), nothing.data_ptr()
        self.plan[[STEPS, UP_STEPS, LOWS, OUTPUTS]] = steps, up_steps, up_steps * len(ranks), outputs

    def _lines(self, weight: Tensor, steps: int) -> Any:
        """Lines of a table for one weight [N, K]; only what does not fill a block is copied."""
        weight, missing = weight.detach().contiguous(), STEP * steps - weight.shape[1]
        if missing:  # to pad by nothing would copy
            weight = functional.pad(weight, (0, missing))
        whole, of_block = len(weight) // SIDE, STEP * steps * SIDE * weight.element_size()
        addresses = weight.data_ptr() + of_block * np.arange(whole, dtype=np.int64)
        self.kept.append(weight)
        if whole * SIDE < len(weight):
            end = functional.pad(weight[whole * SIDE :], (0, 0, 0, SIDE - len(weight) % SIDE)).contiguous()
            self.kept.append(end)
            addresses = np.append(addresses, end.data_ptr())
        if len(addresses) % 2:
            addresses = np.append(addresses, addresses[-1])  # whose width says that it is not wanted
        table = np.zeros((len(addresses) // 2, 7), np.int64)
        table[:, WEIGHT0], table[:, WEIGHT1] = addresses[::2], addresses[1::2]
        table[:, COLUMN] = 2 * SIDE * np.arange(len(table))
        table[:, WIDTH] = np.minimum(2 * SIDE, len(weight) - table[:, COLUMN])
        return table
