"""Every error that Plaudit raises on purpose.

PlauditError                 caught once, in the command line: printed without a traceback, exit code 2
|-- ConfigError              a setting is unknown, ill-typed or out of range
|-- DataError                a file or a row of data cannot be used
|-- ModelError               a model or tokenizer cannot be loaded, or cannot do what is asked of it
|-- JudgeError               the endpoint of an AI judge refuses, is not there, or its answers cannot be kept
`-- WorkspaceError           a workspace or run is missing, incomplete or in the way
    `-- DatabaseFailed       a database does not answer, is damaged or cannot be written

A message says what is wrong, where, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PlauditError(Exception):
    """Root of the family; its text is meant for the person at the keyboard."""


class ConfigError(PlauditError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(PlauditError, ValueError):
    """A data file, or a row of one, cannot be used."""


class ModelError(PlauditError, RuntimeError):
    """A model or tokenizer cannot be loaded, or cannot do what is asked of it."""


class JudgeError(PlauditError, RuntimeError):
    """The endpoint of an AI judge refuses, is not there, or its answers cannot be kept."""


class WorkspaceError(PlauditError, RuntimeError):
    """A workspace or run is missing, incomplete or in the way."""


class DatabaseFailed(WorkspaceError):
    """A database does not answer, is damaged or cannot be written."""


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """' Did you mean ...?' for the closest known name, or an empty string when none is close.

    cutoff   how alike they must be, from 0 to 1
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean `{matches[0]}`?" if matches else ""
