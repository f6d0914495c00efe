"""Python functions named in a setting: `function:FILE_OR_MODULE:NAME`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plaudit.errors import ConfigError, nearest

PREFIX = "function:"


def is_function(reference: str) -> bool:
    """Whether the text names a function."""
    return reference.startswith(PREFIX)


def load_function(reference: str, *, setting: str) -> Callable[..., Any]:
    """The function behind `function:rewards.py:brevity` or `function:my_package.rewards:brevity`.

    setting  where the reference was given, for the message

    Raises ConfigError when there is no such file, module or function, or importing it fails.
    """
    where, colon, name = reference.removeprefix(PREFIX).rpartition(":")
    if not colon or not where or not name:
        raise ConfigError(f"`{setting}={reference}`: write function:FILE_OR_MODULE:NAME, as in function:rewards.py:f.")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _from_path(where)
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigError(
            f"`{setting}={reference}`: importing {where} failed: {type(error).__name__}: {error}"
        ) from None
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"`{setting}={reference}`: {where} has no function `{name}`.{nearest(name, vars(module))}")
    return found


def _from_file(path: Path) -> Any:
    if not path.exists():
        raise ConfigError(f"{path}: no such file (looked for a function in it, from {Path.cwd()}).")
    name = f"plaudit_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, for one, look their module up there
    spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the command line does not look where it was called
    return importlib.import_module(name)
