"""Functions compiled for the processor at hand: how they are made and run, and see PyTorch's memory and numbers.

Numbers of a network are float32, or bfloat16 as the uint16 of their bits, since numpy has no bfloat16 (`plain_array`).
Arrays are contiguous: the compiler uses vectors only where it knows that.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from filelock import FileLock
from llvmlite import ir
from numba import carray, njit, types
from numba.core.cgutils import unpack_tuple as unpack_tuple  # of an address each; not of its public interface
from numba.extending import intrinsic
from torch import Tensor

from plaudit.cpu.kernels import vectors

LEAST, MOST = np.float32(-87.0), np.float32(88.0)
"""exp of less is taken as 0, where it would be 1.6e-38; of more as 1.7e38."""
SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
"""Hash of all code that a kernel may consist of: what was compiled from other code is not used."""
PRIVATE = "_source_stamp", "_cache_path", "_load_index", "load", "save"
"""Attributes of Numba's file of machine code that are used here, and nowhere else; looked for before they are."""
_lock = threading.Lock()
F = TypeVar("F", bound=Callable[..., Any])


_OPTIONS: dict[str, Any] = {
    "fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy", "nogil": True,
}  # fmt: skip


def compiled(function: F) -> F:
    """Machine code, made at the first call and kept on disk where a folder can be written to.

    Sums may be taken in any order, as in every matrix product; infinities and what is no number stay what they are.
    """
    return _kept(function, parallel=True)


def composed(function: F) -> F:
    """Likewise, of a function that does nothing side by side but what it calls."""
    return _kept(function, parallel=False)


def _kept(function: F, parallel: bool) -> F:
    try:
        kept: Any = njit(**_OPTIONS, parallel=parallel, cache=True)(function)
    except RuntimeError:  # neither beside the code nor in the user's own
        made: F = njit(**_OPTIONS, parallel=parallel)(function)
        return made
    file: Any = getattr(getattr(kept, "_cache", None), "_cache_file", None)
    if not all(hasattr(file, name) for name in PRIVATE):  # another version of Numba: nothing is kept, all is compiled
        unkept: F = njit(**_OPTIONS, parallel=parallel)(function)
        return unkept
    file._source_stamp = SOURCES  # its own would be of the function's file alone
    file.load, file.save = _alone(file, file.load), _alone(file, file.save)
    return cast(F, kept)


def _alone(file: Any, use: Callable[..., Any]) -> Callable[..., Any]:
    """Use of a file of machine code by one process at a time.

    Numba's own index would lose what two of them save at once, or find the code of one signature under another's.
    """

    def used(*given: Any) -> Any:
        os.makedirs(file._cache_path, exist_ok=True)
        with FileLock(os.path.join(file._cache_path, "plaudit.lock")):
            return use(*given)

    return used


def is_kept(function: Callable[..., Any]) -> bool:
    """Whether machine code of a compiled function lies on disk, or has no place there."""
    file = getattr(getattr(function, "_cache", None), "_cache_file", None)
    return file is None or not all(hasattr(file, name) for name in PRIVATE) or bool(file._load_index())


def inlined(function: F) -> F:
    """Part of the functions that call it."""
    made: F = njit(inline="always")(function)
    return made


def called(function: F) -> F:
    """Compiled once for all places of a function that call it, where `inlined` would compile it at each."""
    made: F = njit(**_OPTIONS)(function)
    return made


def generated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine instructions, written down as such; constants that it is given are known to it.

    It belongs to a module: what a compiled function finds in a function around it is part of its name on disk, and
    would be another one in each process.
    """
    made: Callable[..., Any] = intrinsic(prefer_literal=True)(function)
    return made


@cache
def _start_threads() -> None:
    """Numba's own, which when they start set OpenMP's number of threads for PyTorch too: it is put back."""
    threads = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(threads)


@contextmanager
def in_use() -> Iterator[None]:
    """Kernels run within, on PyTorch's number of threads; for one caller at a time, as some threading layers demand."""
    with _lock:
        _start_threads()
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        yield


def threads() -> int:
    """Number of threads that kernels run on."""
    return int(numba.get_num_threads())


def plain_array(x: Tensor) -> Any:
    """The same memory for numpy; bfloat16 as uint16."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def tensor_of(array: Any) -> Tensor:
    """The inverse of `plain_array`."""
    x = torch.from_numpy(array)
    return x.view(torch.bfloat16) if x.dtype == torch.uint16 else x


def room(rows: int, columns: int, like: Any) -> Any:
    """Memory for numbers of an array's kind, from the beginning of a line on, where numpy's would begin anywhere.

    A product by oneDNN takes a fifth longer of what does not begin there.
    """
    return plain_array(torch.empty(rows, columns, dtype=tensor_of(like).dtype))


@generated
def wide(context: Any, number: Any) -> Any:
    """float32 of a network's number."""

    def generate(_: Any, builder: Any, __: Any, given: Any) -> Any:
        return given[0] if number == types.float32 else vectors.widened(builder, given[0])

    return types.float32(number), generate


@generated
def narrow(context: Any, number: Any, array: Any) -> Any:
    """A float32 as the numbers of this array are: rounded to the nearest, ties to even."""

    def generate(_: Any, builder: Any, __: Any, given: Any) -> Any:
        return given[0] if array.dtype == types.float32 else vectors.rounded(builder, given[0])

    return array.dtype(types.float32, array), generate


@generated
def _pointer(context: Any, address: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, given: Any) -> Any:
        return builder.inttoptr(given[0], vectors.ADDRESS)

    return types.voidptr(types.int64), generate


@inlined
def array_at(address: int, shape: Any, like: Any) -> Any:
    """Memory at an address as an array, of the same numbers as another."""
    return carray(_pointer(address), shape, like.dtype)


@generated
def _power_of_two(context: Any, exponent: Any) -> Any:
    """2^n, for whole numbers from -126 to 127."""

    def generate(_: Any, builder: Any, __: Any, given: Any) -> Any:
        word = ir.IntType(32)
        biased = builder.add(builder.fptosi(given[0], word), ir.Constant(word, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.float32), generate


@generated
def prefetch(context: Any, address: Any, lines: Any) -> Any:
    """Prefetch a constant number of lines of 64 bytes; addresses that are not there are ignored."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        vectors.prefetch(builder, given[0], lines.literal_value)
        return context.get_dummy_value()

    return types.void(types.int64, lines), generate


@inlined
def exp(x: Any) -> Any:
    """e^x within 2e-7 of it, up to e^88. The C library's would not become vectors.

    x = n log 2 + r with |r| <= log(2) / 2, e^r by Cephes' polynomial (Moshier 1992, `expf`).
    """
    bounded = LEAST if x < LEAST else (MOST if x > MOST else x)
    n = np.floor(bounded * np.float32(1.44269504) + np.float32(0.5))
    r = bounded - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return np.float32(0.0) if x < LEAST else p * _power_of_two(n)


@generated
def _bits_of(context: Any, number: Any) -> Any:
    """A float32 as they are, as a whole number."""

    def generate(_: Any, builder: Any, __: Any, given: Any) -> Any:
        return builder.bitcast(given[0], ir.IntType(32))

    return types.int32(types.float32), generate


@generated
def _number_of(context: Any, bits: Any) -> Any:
    """The inverse of `_bits_of`."""

    def generate(_: Any, builder: Any, __: Any, given: Any) -> Any:
        return builder.bitcast(given[0], ir.FloatType())

    return types.float32(types.int32), generate


@inlined
def _in_order(bits: Any) -> Any:
    """Bits of float32 -> whole numbers in the same order, and back; what is no number is beyond one of the ends."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@inlined
def largest(row: Any) -> Any:
    """The maximum, by whole numbers: that of floats does not become vectors."""
    top = _in_order(_bits_of(wide(row[0])))
    for i in range(len(row)):
        number = _in_order(_bits_of(wide(row[i])))
        top = number if number > top else top
    return _number_of(_in_order(top))
