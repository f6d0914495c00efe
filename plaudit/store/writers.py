"""Rows into files, a few thousand at a time: JSONL, Parquet, and what the package `datasets` loads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from plaudit.errors import DataError

ROWS_AT_ONCE = 5000
FIRST_BYTES = 1_000_000
"""Lines of a JSONL file: `datasets` looks at ten times as many for the types of columns."""
Schema = dict[str, str]
"""Column -> text, number, whole, yes_or_no, messages, texts, wholes, shown or json."""

_to_line = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """One object a line, null for what has no value. Returns how many.

    The package `datasets` takes the type of a column from the first megabytes. Rows that are the first to have a value
    in one of theirs, and stand further behind, are therefore written at the head of the file.
    """
    count = written = 0
    without: set[str] | None = None
    late: list[int] = []
    with open(path, "wb", buffering=1 << 20) as file:
        for row in rows:
            line = (_to_line(row) + "\n").encode()
            without = set(row) if without is None else without
            if without and (having := {name for name in without if row[name] is not None}):
                without -= having
                if written > FIRST_BYTES:
                    late.append(count)
            file.write(line)
            count, written = count + 1, written + len(line)
        file.flush()
        os.fsync(file.fileno())
    if late:
        _move_to_the_front(path, late)
    return count


def _move_to_the_front(path: Path, lines: list[int]) -> None:
    """Lines by number, in their order; the others follow in theirs."""
    moved, aside = set(lines), path.with_name(path.name + ".partial")
    with open(path, "rb") as source, open(aside, "wb", buffering=1 << 20) as target:
        target.writelines(line for number, line in enumerate(source) if number in moved)
        source.seek(0)
        target.writelines(line for number, line in enumerate(source) if number not in moved)
        target.flush()
        os.fsync(target.fileno())
    os.replace(aside, path)


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], schema: Schema) -> int:
    """A row group for every few thousand rows. Returns how many rows."""
    import pyarrow
    import pyarrow.parquet

    columns = pyarrow.schema([(name, _arrow_type(kind)) for name, kind in schema.items()])
    nested = [name for name, kind in schema.items() if kind == "json"]
    count, waiting = 0, iter(rows)
    with pyarrow.parquet.ParquetWriter(path, columns) as writer:
        while some := list(islice(waiting, ROWS_AT_ONCE)):
            for name in nested:
                for row in some:
                    row[name] = None if row.get(name) is None else _to_line(row[name])
            writer.write_table(pyarrow.Table.from_pylist(some, columns))
            count += len(some)
    return count


def write_dataset(path: Path, rows: Iterable[dict[str, Any]], schema: Schema) -> int:
    """A folder for `datasets.load_from_disk`. Returns how many rows. Raises DataError where `datasets` is missing."""
    try:
        import datasets
    except ImportError:
        raise DataError("--format datasets needs the package `datasets`: pip install 'plaudit[datasets]'.") from None
    import shutil

    table, cache = path.with_name(path.name + ".parquet"), path.with_name(path.name + ".cache")
    count = write_parquet(table, rows, schema)
    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        datasets.Dataset.from_parquet(str(table), cache_dir=str(cache)).save_to_disk(str(path))
    finally:
        if bars:
            datasets.enable_progress_bars()
        table.unlink(missing_ok=True)
        shutil.rmtree(cache, ignore_errors=True)
    return count


def file_facts(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path within the folder, its bytes and SHA-256) of every file, in order."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield path.relative_to(folder).as_posix(), {"bytes": path.stat().st_size, "sha256": digest}


def _arrow_type(kind: str) -> Any:
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "json": pa.string(),
        "number": pa.float64(),
        "whole": pa.int64(),
        "yes_or_no": pa.bool_(),
        "texts": pa.list_(pa.string()),
        "wholes": pa.list_(pa.int64()),
        "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        "shown": pa.list_(pa.struct([("id", pa.string()), ("text", pa.string())])),
    }
    return types[kind]
