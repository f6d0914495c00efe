"""Rows from files of many forms, in TRL's columns: the columns' own readers stay the only ones that check them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plaudit.errors import DataError, nearest
from plaudit.store.formats import attributes, hh, labelling_tools, lmarena, open_assistant
from plaudit.store.formats.files import RowFile, open_rows
from plaudit.store.formats.format import Format, LeftOut
from plaudit.store.rows import COLUMNS, Kind, Notes, could_hold_prompt, keys_within

FORMATS = {
    found.name: found
    for found in (
        hh.FORMAT,
        open_assistant.FORMAT,
        lmarena.FORMAT,
        attributes.HELPSTEER,
        attributes.ULTRAFEEDBACK,
        labelling_tools.ARGILLA,
        labelling_tools.LABEL_STUDIO,
    )
}
OWN = "trl"
"""TRL's columns, and Plaudit's own beside them: what is read as it stands."""
PLAIN = (OWN, "jsonl", "parquet", "datasets")
"""Names of that; which file it is in shows by itself."""


@dataclass
class Source:
    """The rows of a file that an import of one kind reads.

    read    rows of the file so far
    notes   what of them is not used or read
    """

    path: Path
    kind: Kind
    format: Format | None
    file: RowFile
    read: int = 0
    notes: Notes = field(default_factory=Notes)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(where, columns) of each row that is used."""
        known = COLUMNS[self.kind] if self.format is None else self.format.columns
        for where, row in self.file:
            self.read += 1
            if not row.keys() <= known:
                self._note_unread(row, known)
            if self.format is None:
                yield where, row
                continue
            for column, keys in self.format.within.items():
                if column in row:
                    self.notes.unread.update(f"{column}.{key}" for key in keys_within(row[column], keys))
            for found in self._converted(self.format, where, row):
                if isinstance(found, LeftOut):
                    self.notes.left_out[str(found)] += 1
                else:
                    yield where, found

    def _note_unread(self, row: dict[str, Any], known: Collection[str]) -> None:
        unread = row.keys() - known
        self.notes.unread.update(unread)
        self.notes.prompts.update(name for name in unread if could_hold_prompt(name, row[name]))

    def _converted(self, form: Format, where: str, row: dict[str, Any]) -> Iterator[dict[str, Any] | LeftOut]:
        columns = ", ".join(sorted(row)) or "none"
        if not form.looks_so(row):
            raise DataError(f"{self.path}, {where}: not a row of the format `{form.name}` (columns: {columns}).")
        try:
            yield from form.convert(row, self.kind)
        except (AttributeError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise DataError(
                f"{self.path}, {where}: cannot be read as `{form.name}` ({type(error).__name__}: {error})."
            ) from None


def open_source(path: Path, kind: Kind, name: str | None = None) -> Source:
    """The rows of a file or folder.

    name   the format; None to see it from the first row

    Raises DataError for a missing file, an unknown format, and one that holds nothing of this kind.
    """
    if name is not None and name not in PLAIN and name not in FORMATS:
        known = [*PLAIN, *FORMATS]
        raise DataError(f"--format {name}: unknown. Known: {', '.join(known)}.{nearest(name, known)}")
    file = open_rows(path)
    form = None if name in PLAIN else FORMATS[name] if name else _first_format(file)
    if form is not None and kind not in form.kinds:
        raise DataError(f"{path}: the format `{form.name}` has {', '.join(form.kinds)}; no {kind} are read from it.")
    return Source(path, kind, form, file)


def _first_format(file: RowFile) -> Format | None:
    """What the first row looks like; None for TRL's columns."""
    rows = iter(file)
    _, first = next(rows, ("", None))
    rows.close()
    if first is None:
        return None
    return next((form for form in FORMATS.values() if form.looks_so(first)), None)
