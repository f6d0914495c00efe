"""The memory of a process that trains on a CPU: gigabytes are taken and given back at every step.

By default the C library gives what is free back to the system, from which it comes again in pages of 4 KB, each cleared
and looked up by itself. Kept, and in pages of 2 MB where the system has them, a step takes less of that time.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

PAGE = 1 << 21
"""Bytes of a large page."""
LARGEST_KEPT = 1 << 25
"""Bytes of one piece; larger ones still come from the system, since between others they would leave gaps."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _MMAP_MAX_DEFAULT = -1, -3, -4, 65536  # of glibc's malloc.h
_HUGE_PAGES = 14  # of Linux' madvise


@cache
def keep() -> bool:
    """Keep what is freed from now on, in large pages. False, and nothing changes, where glibc is not at hand.

    Half of the machine's memory is reserved, of which nothing is taken before it is used.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    reserved = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // PAGE * PAGE
    library.mallopt(_TRIM_THRESHOLD, -1)  # never
    library.mallopt(_MMAP_MAX, 0)  # so that the heap grows, whose top remains when this piece is freed
    place = library.malloc(reserved)
    if place is not None:
        first = -(-place // PAGE) * PAGE
        library.madvise(first, reserved - PAGE, _HUGE_PAGES)  # an error where the system has none: then small ones
        library.free(place)
    library.mallopt(_MMAP_MAX, _MMAP_MAX_DEFAULT)
    library.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)
    return True
