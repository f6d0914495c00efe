"""Work on a GPU that is recorded once and replayed as a whole.

A decoding step is a thousand small kernels, and launching them from Python one by one takes longer than they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from plaudit.progress import say

Input = Tensor | int
Outputs = tuple[Tensor, ...]

WORTHWHILE = 4
"""Calls with the same shapes before they are recorded: a recording takes as long as several of them."""
ALIKE = 0.1
"""Share of its rows in which a recording may differ: rounding turns the draw of a token now and then."""


def records(device: torch.device) -> bool:
    """Whether work on this device can be recorded."""
    return device.type == "cuda"


@contextmanager
def waiting_fails() -> Iterator[None]:
    """Within, to ask the device for a value is an error, as it would be while recording."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Recorded:
    """A function of tensors, replayed from a CUDA graph once it has been called a few times with the same shapes.

    The function may read and write whatever stays where it is, such as weights and a cache. It must not ask the
    device for a value, and calling it twice must be as calling it once. Of its outputs, the first dimension is rows.
    What it returns holds until the next call.

    Elsewhere than on CUDA it is called as it is. So are all functions of a process once one could not be recorded or
    its recording has given something else, which is said.
    """

    works = True
    """Shared by all functions: a body that cannot be recorded is not tried again at every call of the sampler."""

    def __init__(self, function: Callable[..., Outputs]):
        self.function = function
        self.calls: dict[Any, int] = {}  # by shapes
        self.recordings: dict[Any, _Recording] = {}

    def __call__(self, *inputs: Input) -> Outputs:
        """Call with tensors on one device, and with numbers, for each of which there is a recording of its own."""
        if not Recorded.works or not any(isinstance(x, Tensor) and records(x.device) for x in inputs):
            return self.function(*inputs)
        shapes = tuple(x.shape if isinstance(x, Tensor) else x for x in inputs)
        if shapes in self.recordings:
            return self.recordings[shapes].replay(inputs)
        self.calls[shapes] = self.calls.get(shapes, 0) + 1
        if self.calls[shapes] < WORTHWHILE:
            return self.function(*inputs)
        try:
            with waiting_fails():  # before anything is recorded: a recording that fails leaves the allocator astray
                outputs = tuple(x.clone() for x in self.function(*inputs))
            recording = self._record(inputs)
        except RuntimeError as error:
            self._give_up(str(error.__context__ or error).splitlines()[0])
            return self.function(*inputs)
        if any(_differ(one, other) for one, other in zip(recording.replay(inputs), outputs, strict=True)):
            self._give_up("a recording gave other numbers")
        else:
            self.recordings[shapes] = recording
        return outputs

    def _record(self, inputs: tuple[Input, ...]) -> _Recording:
        pool = next((recording.graph.pool() for recording in self.recordings.values()), None)
        stream = torch.cuda.current_stream()
        try:
            return _Recording(self.function, inputs, pool)
        except RuntimeError:
            torch.cuda.set_stream(stream)  # a recording that fails leaves its own
            raise

    @staticmethod
    def _give_up(why: str) -> None:
        Recorded.works = False
        say(f"Decoding steps could not be recorded, and are launched kernel by kernel, more slowly: {why}.")


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
    """Whether more rows than `ALIKE` are not the same: whole numbers exactly, others within a twentieth on average."""
    if not one.is_floating_point():
        wrong = one != other
    else:
        one, other = (x.float().nan_to_num().flatten(1 if x.dim() > 1 else 0) for x in (one, other))
        apart, size = (one - other).abs(), other.abs()
        wrong = apart > 0.05 * size + 1e-6 if one.dim() == 1 else apart.mean(dim=1) > 0.05 * size.mean(dim=1) + 1e-6
    return int(wrong.sum()) > ALIKE * len(wrong)
