"""The memory of a process that computes on a CPU: gigabytes are taken and given back at every step of training.

By default the C library gives what is free back to the system, from which it comes again in pages of 4 KB, each cleared
and looked up by itself. Kept, and in pages of 2 MB where the system has them, a step takes less of that time. Weights,
which sampling reads once a token, are read faster from such pages too than from those of a file.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

PAGE = 1 << 21
"""Bytes of a large page."""
LINE = 64
"""Bytes of a line of memory."""

_TRIM_THRESHOLD, _MMAP_MAX, _MMAP_MAX_DEFAULT = -1, -4, 65536  # of glibc's malloc.h
_NOT_NEEDED, _HUGE_PAGES = 4, 14  # of Linux' madvise
_LIMITS = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"  # of both kinds of cgroups
MOST_WEIGHTS = 0.25
"""Largest share of the machine's memory: larger models stay in their file's pages, which the system may drop and read
again."""


def keep() -> bool:
    """Keep from now on what this process frees, up to half of the machine's memory, in large pages.

    That much is reserved, of which nothing is taken before it is used. What was used once stays with the process, so
    that it holds its peak until it ends.

    Returns False, and changes nothing for good, where that cannot be had: without glibc, under another allocator, where
    the system counts what is reserved as used, or outside of the main thread, whose memory alone it is.
    """
    return threading.current_thread() is threading.main_thread() and _reserve()


@cache
def _reserve() -> bool:
    overcommit = Path("/proc/sys/vm/overcommit_memory")
    if platform.libc_ver()[0] != "glibc" or not overcommit.exists() or overcommit.read_text().strip() == "2":
        return False
    library = _c_library()
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    library.sbrk.restype, library.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_long]
    size = _of_machine() // 2 // PAGE * PAGE
    before = library.sbrk(0)
    library.mallopt(_MMAP_MAX, 0)  # so that the heap grows, whose top remains when this piece is freed
    place = library.malloc(size)
    library.mallopt(_MMAP_MAX, _MMAP_MAX_DEFAULT)
    if place is None:
        return False
    in_heap = before is not None and library.sbrk(0) >= before + size // 2  # what was free at its top counts too
    if in_heap:
        library.mallopt(_TRIM_THRESHOLD, -1)  # never
        library.madvise(-(-place // PAGE) * PAGE, size - PAGE, _HUGE_PAGES)  # an error where there are none: small ones
    library.free(place)
    return in_heap


def _c_library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def _of_machine() -> int:
    """Bytes, or what a container may have of them."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in _LIMITS:
        with suppress(OSError, ValueError):  # no such file, or it says that there is no limit
            found.append(int(Path(name).read_text()))
    return min(found)


class Pages:
    """Zeros beside each other, in large pages where the system has them.

    A page takes no memory until it is written to, and goes back when the last tensor there does: what `malloc` has had,
    `keep` keeps.
    """

    def __init__(self, size: int):
        """Bytes, of pieces that are taken."""
        self.private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
        self.left = self._more(size)

    def _more(self, size: int) -> Tensor:
        pages = mmap.mmap(-1, size + 2 * PAGE, **self.private)  # to begin at a page, and pieces at lines
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a system without them
                pages.madvise(mmap.MADV_HUGEPAGE)
        found = torch.frombuffer(pages, dtype=torch.uint8)
        return found[-found.data_ptr() % PAGE :]

    def take(self, size: int) -> Tensor:
        """[size] bytes, from the beginning of a line on."""
        if len(self.left) < size:
            self.left = self._more(size)
        taken, self.left = self.left[:size], self.left[-(-size // LINE) * LINE :]
        return taken


Groups = Iterable[Sequence[nn.Parameter]]
"""Weights of which those of a group are to lie beside each other."""


def take_from_files(groups: Groups) -> None:
    """Weights that lie in a file's pages go to this process' own memory, where `keep` has made that of large pages.

    Not those of a model that is large beside the machine's memory.
    """
    groups = list(groups)
    size = sum(weight.numel() * weight.element_size() for group in groups for weight in group)
    if keep() and size <= MOST_WEIGHTS * _of_machine():
        files = areas_of_files()
        lie_there = [group for group in groups if all(_in_one(weight.data_ptr(), files) for weight in group)]
        replace(lie_there, Tensor.clone)


def replace(groups: Groups, change: Callable[[Tensor], Tensor]) -> None:
    """Each weight by what is made of it.

    Pages of a file that it has lain in, and nobody has written to, are given back at once: the file's other weights
    would hold them.
    """
    files = areas_of_files()
    for group in groups:
        old: list[Tensor] = [weight.data for weight in group]
        new: Sequence[Tensor] = [change(its) for its in old]
        if len(group) > 1:
            new = torch.cat(list(new)).split([len(weight) for weight in new])
        for weight, its in zip(group, new, strict=True):
            weight.data = its
        for its in old:
            _give_back(its, files)


def _give_back(x: Tensor, files: list[Area]) -> None:
    begin, end = x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()
    begin, end = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end and x.is_contiguous() and _in_one(begin, files) and _in_one(end - 1, files):
        not_needed(range(begin, end))


def not_needed(pages: range) -> None:
    """These addresses' pages go back; what a file holds is read from it again when it is used."""
    _c_library().madvise(pages.start, len(pages), _NOT_NEEDED)


def _in_one(address: int, files: list[Area]) -> bool:
    return any(address in file.addresses for file in files)


class Area(NamedTuple):
    """An area of this process' memory where a file lies."""

    addresses: range
    file: str


def areas_of_files() -> list[Area]:
    """All of them; none where the system does not say."""
    found: list[Area] = []
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
            place, _, *more = line.split(maxsplit=5)
            begin, end = (int(address, 16) for address in place.split("-"))
            found.append(Area(range(begin, end), more[3] if len(more) == 4 else ""))
    return [area for area in found if area.file.startswith("/")]
