"""Memory that holds the code of libraries: more of it is read in starting than is run later.

PyTorch reads 50 MB of itself to list its operators, and LLVM 70 MB to load what it has compiled. Such pages are copies
of files, and come again when they are used; until a system is short of memory they stay, and count as the process' own.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_NOT_NEEDED = 4  # MADV_DONTNEED, of Linux


def give_back() -> None:
    """Pages of code and constants go back to the system, of libraries to which nobody has written there.

    Debuggers, tracers and live patches write: what holds one page of theirs stays as it is. Nothing happens where the
    system does not say what a process' memory holds. Takes some 20 ms.
    """
    names = {name for _, name, _ in _areas("maps") if ".so" in name}
    kept = {name for name in names if _stays(name)}  # before it is asked where they are: one may be being loaded
    library = ctypes.CDLL(None)
    for area, name, facts in _areas("smaps"):
        if name in kept and _unwritten(facts):
            library.madvise(ctypes.c_void_p(area.start), ctypes.c_size_t(len(area)), _NOT_NEEDED)


def _unwritten(facts: dict[str, str]) -> bool:
    """Whether all pages of an area are the file's: none is, or when it was moved to disk was, this process' own."""
    return "w" not in facts["access"] and facts.get("Anonymous:") == "0" and facts.get("Swap:") == "0"


def _stays(name: str) -> bool:
    """Whether it is a library that is loaded, all of it, and from now on will not be unloaded."""
    with suppress(OSError):
        ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        return True
    return False


def _areas(kind: str) -> list[tuple[range, str, dict[str, str]]]:
    """(addresses, file, what is said of it) of each area of memory that holds a file's."""
    found: list[tuple[range, str, dict[str, str]]] = []
    with suppress(OSError):
        for line in Path("/proc/self", kind).read_text(errors="surrogateescape").splitlines():
            first, second, *more = line.split(maxsplit=5)
            if not first.endswith(":"):
                begin, end = (int(address, 16) for address in first.split("-"))
                found.append((range(begin, end), more[3] if len(more) == 4 else "", {"access": second}))
            elif found:
                found[-1][2][first] = second
    return [area for area in found if area[1].startswith("/")]
