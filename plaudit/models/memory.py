"""The memory of a process that trains on a CPU: gigabytes are taken and given back at every step.

By default the C library gives what is free back to the system, from which it comes again in pages of 4 KB, each cleared
and looked up by itself. Kept, and in pages of 2 MB where the system has them, a step takes less of that time.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from functools import cache
from pathlib import Path

PAGE = 1 << 21
"""Bytes of a large page."""

_TRIM_THRESHOLD, _MMAP_MAX, _MMAP_MAX_DEFAULT = -1, -4, 65536  # of glibc's malloc.h
_HUGE_PAGES = 14  # of Linux' madvise


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
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    library.sbrk.restype, library.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_long]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // PAGE * PAGE
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
