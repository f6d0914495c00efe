"""Work on a GPU that is recorded once and replayed as a whole.

A decoding step is a thousand small kernels, and launching them from Python one by one takes longer than they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plaudit.progress import say

Input = Tensor | int
Outputs = tuple[Tensor, ...]

ALIKE = 0.9
"""Share of a recording's numbers that must be the function's own; rounding may turn the draw of a token or two."""


def records(device: torch.device) -> bool:
    """Whether work on this device can be recorded."""
    return device.type == "cuda"


class Recorded:
    """A function of tensors, replayed from a CUDA graph from the second call with the same shapes on.

    The function may read and write whatever stays where it is, such as weights and a cache. It must not ask the
    device for a value, and calling it twice must be as calling it once. What it returns holds until the next call.

    Elsewhere than on CUDA it is called as it is. So it is once a recording has failed or given something else than
    the function, which is said.
    """

    def __init__(self, function: Callable[..., Outputs]):
        self.function = function
        self.recordings: dict[Any, _Recording | None] = {}  # by shapes; None where they were seen once
        self.works = True

    def __call__(self, *inputs: Input) -> Outputs:
        """Of tensors on one device, and of numbers, for each of which there is a recording of its own."""
        if not self.works or not any(isinstance(x, Tensor) and records(x.device) for x in inputs):
            return self.function(*inputs)
        shapes = tuple(x.shape if isinstance(x, Tensor) else x for x in inputs)
        if shapes not in self.recordings:
            self.recordings[shapes] = None  # the first call has libraries allot what they keep
            return self.function(*inputs)
        recording = self.recordings[shapes]
        if recording is not None:
            return recording.replay(inputs)
        outputs = tuple(x.clone() for x in self.function(*inputs))
        self.recordings[shapes] = self._record(inputs, outputs)
        return outputs

    def _record(self, inputs: tuple[Input, ...], outputs: Outputs) -> _Recording | None:
        pool = next((r.graph.pool() for r in self.recordings.values() if r is not None), None)
        try:
            recording = _Recording(self.function, inputs, pool)
            wrong = [_differ(one, other) for one, other in zip(recording.replay(inputs), outputs, strict=True)]
            if not any(wrong):
                return recording
            why = "it gives other numbers"
        except RuntimeError as error:
            why = str(error).splitlines()[0]
        self.works = False
        say(f"Decoding steps could not be recorded, and are launched kernel by kernel, more slowly: {why}.")
        return None


class _Recording:
    """For inputs of fixed shapes. All of one function share a pool of memory, for no two are at work together."""

    def __init__(self, function: Callable[..., Outputs], inputs: tuple[Input, ...], pool: Any):
        self.inputs = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.outputs = function(*self.inputs)

    def replay(self, inputs: tuple[Input, ...]) -> Outputs:
        """What the function would give."""
        for kept, given in zip(self.inputs, inputs, strict=True):
            if isinstance(kept, Tensor) and isinstance(given, Tensor):
                kept.copy_(given)
        self.graph.replay()
        return self.outputs


def _differ(one: Tensor, other: Tensor) -> bool:
    one, other = one.float(), other.float()
    close = (one - other).abs() <= 0.05 * other.abs().amax()
    return bool(close.float().mean() < ALIKE)
