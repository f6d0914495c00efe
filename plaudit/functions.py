"""Python functions named in a setting: `function:FILE_OR_MODULE:NAME`."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.errors import ConfigError, DataError, nearest
from plaudit.references import FUNCTION, is_of, parse


@dataclass(frozen=True)
class UserFunction:
    """A function of somebody else's: whatever it raises, and whatever it should not return, is a message.

    call   the function
    name   as the setting has it, for messages
    """

    call: Callable[..., Any]
    name: str

    def __call__(self, *arguments: Any, about: str = "") -> Any:
        """What it returns. Raises DataError when it fails.

        about   what it was called on, for the message
        """
        try:
            return self.call(*arguments)
        except Exception as error:  # whatever the user's code raises
            on = f" on {about}" if about else ""
            raise DataError(f"{self.name} failed{on}: {type(error).__name__}: {error}") from error

    def numbers(
        self,
        *columns: Sequence[Any],
        each: str,
        shown: Callable[[int], str],
        least: float = -math.inf,
        most: float = math.inf,
        may_be_none: bool = False,
    ) -> list[float | None]:
        """One finite number for each row of the columns. Raises DataError, naming the row and the value, otherwise.

        each          what the rows are, in the plural
        shown         number of a row -> how to name it in a message
        least, most   bounds of the numbers
        may_be_none   whether None may stand for a row without a number
        """
        count = len(columns[0])
        returned = self(*columns, about=f"{count} {each}")
        bounded = math.isfinite(least) or math.isfinite(most)
        rule = f"a number from {least:g} to {most:g}" if bounded else "a finite number"
        wanted = f"It must return {rule}{', or None,' if may_be_none else ''} for each."
        try:
            values = list(returned)
        except TypeError:
            raise DataError(f"{self.name} returned {returned!r:.60} for {count} {each}. {wanted}") from None
        if len(values) != count:
            raise DataError(f"{self.name} returned {len(values)} numbers for {count} {each}. {wanted}")
        found = [None if value is None and may_be_none else _number(value) for value in values]
        wrong = [
            row
            for row, number in enumerate(found)
            if not (values[row] is None and may_be_none)
            and (number is None or not math.isfinite(number) or not least <= number <= most)
        ]
        if wrong:
            raise DataError(
                f"{self.name} returned {values[wrong[0]]!r:.60} for {len(wrong)} of {count} {each}, first for "
                f"{shown(wrong[0])}. {wanted}"
            )
        return found


def _number(value: Any) -> float | None:
    """None for what is no number; a truth value is none."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def is_function(reference: str) -> bool:
    """Whether the text names a function."""
    return is_of(FUNCTION, reference)


def load_function(reference: str, *, setting: str, name: str | None = None) -> UserFunction:
    """The function behind `function:rewards.py:brevity` or `function:my_package.rewards:brevity`.

    setting  where the reference was given, for the message
    name     what later messages call it; the reference unless named

    Raises ConfigError when there is no such file, module or function, or importing it fails.
    """
    where, colon, called = parse(reference).name.rpartition(":")
    if not colon or not where or not called:
        raise ConfigError(f"`{setting}={reference}`: write function:FILE_OR_MODULE:NAME, as in function:rewards.py:f.")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _from_path(where)
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigError(
            f"`{setting}={reference}`: importing {where} failed: {type(error).__name__}: {error}"
        ) from None
    found = getattr(module, called, None)
    if not callable(found):
        raise ConfigError(
            f"`{setting}={reference}`: {where} has no function `{called}`.{nearest(called, vars(module))}"
        )
    return UserFunction(found, name or reference)


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
