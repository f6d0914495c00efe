"""Memory that holds the code of libraries: more of it is read in starting than is run later.

PyTorch reads 50 MB of itself to list its operators, and LLVM 70 MB to load what it has compiled. Such pages are copies
of files, and come again when they are used; until a system is short of memory they stay, and count as the process' own.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

from plaudit.models import memory


def give_back() -> None:
    """Pages of code and constants go back to the system, of libraries to which nobody has written there.

    Debuggers, tracers and live patches write: what holds one page of theirs stays as it is. Nothing happens where the
    system does not say what a process' memory holds. Takes some 20 ms.
    """
    names = {area.file for area in memory.areas_of_files() if ".so" in area.file}
    kept = {name for name in names if _stays(name)}  # before it is asked where they are: one may be being loaded
    for area in memory.areas_of_files("smaps"):
        if area.file in kept and _unwritten(area.facts):
            memory.not_needed(area.addresses)


def _unwritten(facts: dict[str, str]) -> bool:
    """Whether all pages of an area are the file's: none is, or when it was moved to disk was, this process' own."""
    return "w" not in facts["access"] and facts.get("Anonymous:") == "0" and facts.get("Swap:") == "0"


def _stays(name: str) -> bool:
    """Whether it is a library that is loaded, all of it, and from now on will not be unloaded."""
    with suppress(OSError):
        ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        return True
    return False
