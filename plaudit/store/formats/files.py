"""Files and folders as rows, a few at a time: JSON lines and lists, plain or gzipped, Parquet, saved datasets."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from plaudit.errors import DataError

ROWS_AT_ONCE = 1000
"""Rows of Parquet files and datasets that are Python objects at a time."""
CHARACTERS_AT_ONCE = 1 << 16
GZIP, PARQUET, ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
COLUMNS = {
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "response",
    "instruction",
    "question",
    "answer",
    "text",
    "messages",
}
"""Column names, by one of which the first line of a table is known, whatever the file is called."""
FOLDER_SIGNS = ("state.json", "dataset_info.json")

Rows = Generator[tuple[str, dict[str, Any]], None, None]


@dataclass
class RowFile:
    """Rows of one file or folder, each with where it stands ("line 3").

    size   of the whole, bytes
    done   how many of them have been read
    """

    path: Path
    size: int
    rows: Callable[[RowFile], Rows]
    done: int = 0

    def __iter__(self) -> Rows:
        return self.rows(self)


def open_rows(path: Path) -> RowFile:
    """The rows of a file, whose form is seen from its first bytes, or of a folder that `datasets` saved.

    Raises DataError for one that is missing or cannot be read; while it is read, for broken rows.
    """
    if path.is_dir():
        return RowFile(path, _folder_size(path), _dataset)
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if start == PARQUET:
        return RowFile(path, size, _parquet)
    if start == ZIP:
        raise DataError(f"{path} is a spreadsheet or a zip file, which is not read: save it as Parquet or JSONL.")
    return RowFile(path, size, _json)


def _json(source: RowFile) -> Rows:
    with open(source.path, "rb") as raw, _unreadable(source.path):
        zipped = raw.read(2) == GZIP
        raw.seek(0)
        binary: IO[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
        text = io.TextIOWrapper(binary, encoding="utf-8-sig")  # some tools begin a file with a byte order mark
        start = text.readline(CHARACTERS_AT_ONCE)
        while start and not start.strip():
            start = text.readline(CHARACTERS_AT_ONCE)
        _refuse_tables(source.path, start)
        listed = start.lstrip()[:1] == "[" and _starts_a_list(start, text)
        text.seek(0)
        for where, row in _items(source.path, text) if listed else _lines(source.path, text):
            source.done = raw.tell()
            if not isinstance(row, dict):
                raise DataError(f"{source.path}, {where}: expected a JSON object, found {type(row).__name__}.")
            yield where, _present(row)
        text.detach()


def _refuse_tables(path: Path, start: str) -> None:
    """Raise DataError for a table of values between commas, which is no JSON with a mistake in it.

    start   its first line
    """
    line = start.strip()
    names = [name.strip(' "') for name in re.split(r"[,;\t]", line)]
    named_so = {path.suffix, *path.suffixes[-2:-1]} & {".csv", ".tsv"}
    is_header = len(names) > 1 and (named_so or COLUMNS & {name.lower() for name in names})
    if is_header and line[:1] not in ("{", "["):
        raise DataError(
            f"{path} is a table (CSV) with the columns {', '.join(names[:6])}, which is not read: save it as Parquet "
            "or as JSONL, one JSON object a line with these columns. Nothing was imported."
        )


def _starts_a_list(start: str, text: IO[str]) -> bool:
    """Whether objects follow the bracket, so that it is one list of them rather than a line that is no object."""
    following = start.lstrip()[1:].lstrip()
    while not following:
        more = text.readline(CHARACTERS_AT_ONCE)
        if not more:
            return False
        following = more.lstrip()
    return following[0] == "{"


def _lines(path: Path, text: IO[str]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text, start=1):
        if line.isspace():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: {_what_is_wrong(error)}. "
                "Nothing was imported; mend the line and run the same command again."
            ) from None


def _what_is_wrong(error: Exception) -> str:
    """Why JSON cannot be read; the reader has limits of its own beside the grammar."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg} at column {error.colno})"
    if isinstance(error, RecursionError):
        return "lists or objects within each other too deeply to be read"
    return "a number of thousands of digits, which cannot be read"


def _items(path: Path, text: IO[str]) -> Iterator[tuple[str, Any]]:
    """Rows of JSON lists of objects, and of objects between and after them, one by one, without holding the whole."""
    decode, number, in_list = json.JSONDecoder().raw_decode, 0, False
    rest, wanted, at_end = "", CHARACTERS_AT_ONCE, False
    while True:
        rest = rest.lstrip(", \t\r\n" if in_list else " \t\r\n")
        if rest[:1] in ("[", "]"):
            if (rest[0] == "[") == in_list:
                raise DataError(f"{path}, item {number + 1}: expected a JSON object, found a bracket.")
            rest, in_list = rest[1:], not in_list
            continue
        if rest:
            try:
                item, end = decode(rest)
            except json.JSONDecodeError:
                end = 0
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, item {number + 1}: {_what_is_wrong(error)}. Nothing was imported.") from None
            if end:
                number, rest, wanted = number + 1, rest[end:], CHARACTERS_AT_ONCE
                yield f"item {number}", item
                continue
        if at_end:
            if rest or in_list:
                raise DataError(f"{path}, item {number + 1}: not valid JSON, or the list does not end.")
            return
        more = text.read(wanted)
        at_end = not more
        rest, wanted = rest + more, 2 * wanted  # twice as much each time: an item is decoded few times over


def _parquet(source: RowFile) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(source.path)
        number, total = 0, file.metadata.num_rows
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", _present(row)
            source.done = source.size * number // max(total, 1)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source.path} is not a Parquet file that can be read: {error}") from None


def _dataset(source: RowFile) -> Rows:
    path = source.path
    if (path / "dataset_dict.json").exists():
        splits = ", ".join(sorted(folder.name for folder in path.iterdir() if folder.is_dir()))
        raise DataError(f"{path} holds several datasets; name one of them, such as {path}/NAME ({splits}).")
    if not all((path / sign).exists() for sign in FOLDER_SIGNS):
        raise DataError(f"{path} is a folder; name a file, or a folder that `datasets` saved with save_to_disk.")
    try:
        import datasets
    except ImportError:
        raise DataError(f"{path} needs the package `datasets`: pip install 'plaudit[datasets]'.") from None
    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is not a dataset that can be read: {error}") from None
    number = 0
    for table in saved.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        for row in table.to_pylist():
            number += 1
            yield f"row {number}", _present(row)
        source.done = source.size * number // max(len(saved), 1)


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """Tables hold a null for what a row does not say."""
    return {name: value for name, value in row.items() if value is not None}


def _folder_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """Say what is wrong with the bytes, rather than with a row."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}).") from None
