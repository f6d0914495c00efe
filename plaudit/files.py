"""Files that appear whole or not at all: a crash or a full disk leaves what was there before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plaudit.errors import WorkspaceError


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or nothing."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """`write_text` of indented JSON; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises WorkspaceError for a file that is damaged or missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkspaceError(f"{path} is missing; restore it.") from None
    except (ValueError, RecursionError) as error:
        raise WorkspaceError(f"{path} is damaged, it is not valid JSON ({error}); restore it.") from None


def read_json_lines(path: Path, keys: Collection[str], *, may_be_cut: bool = False) -> list[dict[str, Any]]:
    """A mapping a line, each with these keys; none of a file that is not there.

    may_be_cut   leave out a last line without its end

    Raises WorkspaceError for a damaged line, naming it.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")  # not splitlines: texts may hold U+2028
    found = []
    for number, line in enumerate(lines[:-1] if may_be_cut else lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WorkspaceError(f"{path}, line {number} is damaged ({error}); restore the file.") from None
        if not isinstance(row, dict) or not row.keys() >= set(keys):
            raise WorkspaceError(f"{path}, line {number} is damaged: it lacks {', '.join(keys)}; restore the file.")
        found.append(row)
    return found


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block has filled it."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in (found for found in partial.rglob("*") if found.is_file()):
            with open(file, "rb") as written:
                os.fsync(written.fileno())  # else a power cut may leave the new name with nothing behind it
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
