"""Memory that holds the code of libraries: more of it is read in starting than is run later.

PyTorch reads 50 MB of itself to list its operators, and LLVM 70 MB to load what it has compiled. Such pages are copies
of files, and come again when they are used; until a system is short of memory they stay, and count as the process' own.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

_SEGMENT, _DYNAMIC, _WRITTEN = 1, 2, 2  # PT_LOAD, PT_DYNAMIC and PF_W, of elf.h
_END, _TEXT_CHANGES, _FLAGS, _FLAG_TEXT_CHANGES = 0, 22, 30, 4  # DT_NULL, DT_TEXTREL, DT_FLAGS and DF_TEXTREL
_NOT_NEEDED = 4  # MADV_DONTNEED, of Linux


class _Header(ctypes.Structure):
    """Elf64_Phdr: one part of an object."""

    _fields_ = (
        ("kind", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("offset", ctypes.c_uint64), ("place", ctypes.c_uint64),
        ("physical", ctypes.c_uint64), ("in_file", ctypes.c_uint64), ("size", ctypes.c_uint64),
        ("alignment", ctypes.c_uint64),
    )  # fmt: skip


class _Object(ctypes.Structure):
    """dl_phdr_info, as far as it is read here."""

    _fields_ = (
        ("begin", ctypes.c_uint64), ("name", ctypes.c_char_p), ("headers", ctypes.POINTER(_Header)),
        ("count", ctypes.c_uint16),
    )  # fmt: skip


def give_back() -> None:
    """Pages of code and constants go back to the system.

    Nothing happens elsewhere than on Linux, where a pointer has not 8 bytes, or under a debugger, whose breakpoints are
    written into code.
    """
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8 or _is_traced():
        return
    library = ctypes.PyDLL(None)  # holds Python's lock: nothing else is run while the loader's is held
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def of_object(found: Any, *_: Any) -> int:
        its = found.contents
        headers = its.headers[: its.count]
        if (its.name or b"").startswith(b"/") and not any(_changes_code(its.begin, header) for header in headers):
            for header in headers:
                if header.kind == _SEGMENT and not header.flags & _WRITTEN:
                    begin = -(-(its.begin + header.place) // mmap.PAGESIZE) * mmap.PAGESIZE
                    end = (its.begin + header.place + header.size) // mmap.PAGESIZE * mmap.PAGESIZE
                    library.madvise(begin, max(end - begin, 0), _NOT_NEEDED)
        return 0

    visitor = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Object), ctypes.c_size_t, ctypes.c_void_p)
    library.dl_iterate_phdr(visitor(of_object), None)


def _changes_code(begin: int, header: _Header) -> bool:
    """Whether it is one that says that addresses were written into code when the library was loaded."""
    if header.kind != _DYNAMIC:
        return False
    words = (ctypes.c_uint64 * (header.size // 8)).from_address(begin + header.place)
    for tag, value in zip(words[::2], words[1::2], strict=True):
        if tag == _END:
            return False
        if tag == _TEXT_CHANGES or (tag == _FLAGS and value & _FLAG_TEXT_CHANGES):
            return True
    return False


def _is_traced() -> bool:
    """Whether a debugger may have written breakpoints; so it may where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            return not any(line.split() == ["TracerPid:", "0"] for line in lines)
    except OSError:
        return True
