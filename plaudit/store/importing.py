"""Files into the store: prompts, demonstrations and judgments, whole or not at all.

Either every row is used, or the file is refused with the number of the first bad one. Repeated rows, columns that
nothing reads, and (of formats that others write) rows that cannot be used are counted, not hidden.

Rows go into the database by the thousand, all in one transaction: memory does not grow with the file.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plaudit.errors import DataError
from plaudit.progress import progress
from plaudit.records import Annotator, Comparison, Prompt, content_id
from plaudit.store.bulk import BulkWriter, bulk_writing
from plaudit.store.database import Store
from plaudit.store.formats import Source, open_source
from plaudit.store.rows import READERS, Judged, Kind, Row, split_of
from plaudit.timing import now

__all__ = [
    "FileComparison",
    "Imported",
    "Kind",
    "import_file",
    "read_answers",
    "read_comparisons",
    "read_judged",
    "split_of",
]

ROWS_AT_ONCE = 10_000
CHARACTERS_AT_ONCE = 16_000_000
"""Long rows go into the database sooner."""
LARGE = 20_000_000
"""Bytes of a file from which on progress is shown."""


@dataclass(frozen=True)
class Imported:
    """What became of a file.

    left_out   why -> how many rows, or parts of rows, were not used
    unread     column -> how many rows have it although nothing reads it
    """

    kind: Kind
    rows: int
    added: int
    repeated: int
    left_out: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)


def import_file(
    store: Store, path: Path | str, *, kind: Kind, held_out_share: float = 0.25, format: str | None = None
) -> Imported:
    """Read a file into the store, whole or not at all.

    held_out_share   part of the prompts to keep out of training, chosen by a hash of the prompt alone
    format           of the rows; None to see it from the first (see docs/data.md)

    Raises DataError, naming file and line, for a missing file, broken JSON, a missing column or an empty text.
    """
    path = Path(path)
    source = open_source(path, kind, format)
    run = f"import-{content_id(path.name)[:8]}"
    with bulk_writing(store.database) as writer, _without_collector(), _shown(source) as advance:
        sink = _Sink(writer, kind, now("seconds"))
        for where, values in source:
            row = Row(values, f"{path}, {where}", held_out_share, run)
            sink.take(_read(row, kind), row.where)
            advance()
        sink.flush()
        _check_something(source, sink)
    return Imported(kind, source.read, sink.added, sink.given - sink.added, dict(source.left_out), dict(source.unread))


@contextmanager
def _without_collector() -> Iterator[None]:
    """Rows have no cycles, and looking for some in the many that wait takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read(row: Row, kind: Kind) -> list[Any]:
    try:
        return READERS[kind](row)
    except UnicodeEncodeError:
        raise DataError(f"{row.where}: a text has half of a surrogate pair, which is no character.") from None


class _Sink:
    """Records on their way into the database, a chunk at a time."""

    def __init__(self, writer: BulkWriter, kind: Kind, now: str):
        self.writer, self.kind, self.now = writer, kind, now
        self.given = self.added = 0
        self._waiting: list[Any] = []
        self._characters = 0
        self._between = ["", ""]
        self._known: set[str] = set()

    def take(self, records: list[Any], where: str) -> None:
        """Keep what a row came to until there is enough of it."""
        if not self._waiting:
            self._between[0] = where
        self._between[1] = where
        self._waiting += records
        self._characters += sum([_characters(record) for record in records])
        if len(self._waiting) >= ROWS_AT_ONCE or self._characters >= CHARACTERS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        waiting, self._waiting, self._characters = self._waiting, [], 0
        try:
            if self.kind == "prompts":
                self.given += len(waiting)
                self.added += self.writer.prompts(waiting)
            elif self.kind == "demonstrations":
                self._annotators(d.annotator for d in waiting if d.annotator is not None)
                self.writer.prompts(_once(d.prompt for d in waiting))
                self.given += len(waiting)
                self.added += self.writer.demonstrations(waiting)
            else:
                self._judgments(waiting)
        except DataError as error:
            raise DataError(f"{' to '.join(self._between)}: {error}") from None

    def _judgments(self, waiting: list[Judged]) -> None:
        self._annotators(row.annotator for row in waiting)
        self.writer.prompts(_once(row.prompt for row in waiting))
        self.writer.responses([response for row in waiting for response in row.responses])
        comparisons = [comparison for row in waiting for comparison in row.comparisons]
        labels = [label for row in waiting for label in row.labels]
        self.given += len(comparisons) + len(labels)
        self.added += self.writer.comparisons(comparisons, now=self.now) + self.writer.labels(labels, now=self.now)

    def _annotators(self, names: Iterable[str]) -> None:
        new = set(names) - self._known
        self.writer.annotators([Annotator(name, "imported") for name in sorted(new)])
        self._known |= new


def _once(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Each once, the first of equal ones; a prompt often has many comparisons, one after the other."""
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        found.setdefault(prompt.id, prompt)
    return list(found.values())


def _characters(record: Any) -> int:
    prompt = record if isinstance(record, Prompt) else record.prompt
    characters = sum([len(message["content"]) for message in prompt.messages])
    return characters + (sum([len(r.text) for r in record.responses]) if isinstance(record, Judged) else 0)


def _check_something(source: Source, sink: _Sink) -> None:
    if not source.read:
        raise DataError(f"{source.path} is empty: expected one JSON object a line. See `plaudit import --help`.")
    if not sink.given:
        why = "; ".join(f"{number} {reason}" for reason, number in source.left_out.most_common(3)) or "no reason known"
        raise DataError(f"{source.path}: none of its {source.read} rows gives {source.kind} ({why}).")


@contextmanager
def _shown(source: Source) -> Iterator[Any]:
    """A bar of megabytes for a large file."""
    megabyte = 1_000_000
    if source.file.size < LARGE:
        yield lambda: None
        return
    with progress("importing, MB", source.file.size // megabyte) as advance:
        shown = 0

        def follow() -> None:
            nonlocal shown
            now = min(source.file.done, source.file.size) // megabyte
            if now > shown:
                advance(now - shown)
                shown = now

        yield follow


@dataclass(frozen=True)
class FileComparison:
    """A comparison as a row says it, which is in no store."""

    prompt: Prompt
    texts: dict[str, str]
    comparison: Comparison
    subset: str


def read_comparisons(path: Path | str) -> list[FileComparison]:
    """Comparisons and rankings of a file, pair by pair; a `subset` column, as RewardBench has it, is kept.

    Raises DataError as `import_file` does.
    """
    found = []
    for where, values in open_source(Path(path), "comparisons"):
        row = Row(values, f"{path}, {where}", 0.0, "file")
        for judged in _read(row, "rankings" if "ranks" in values else "comparisons"):
            texts = {response.id: response.text for response in judged.responses}
            subset = row.text("subset", "")
            found += [FileComparison(judged.prompt, texts, comparison, subset) for comparison in judged.comparisons]
    if not found:
        raise DataError(f"{path} is empty: expected one JSON object a line with `prompt`, `chosen` and `rejected`.")
    return found


def read_judged(path: Path | str, kind: Kind, *, run: str) -> Iterator[tuple[dict[str, Any], Judged]]:
    """(the row, what it says) of a file of judgments, which are in no store. Raises DataError as imports do."""
    for where, values in open_source(Path(path), kind):
        for judged in _read(Row(values, f"{path}, {where}", 0.0, run), kind):
            yield values, judged


def read_answers(path: Path | str) -> list[tuple[dict[str, Any], Prompt, str]]:
    """(the row, the prompt, the answer to it) for rows of `prompt` + `completion`, or `messages` that end in one.

    Raises DataError as `import_file` does.
    """
    found = []
    for where, values in open_source(Path(path), "demonstrations", "trl"):
        row = Row(values, f"{path}, {where}", 0.0)
        if "messages" in values:
            messages = row.messages("messages", role="user")
            if messages[-1]["role"] != "assistant":
                raise DataError(f"{row.where}: `messages` must end with the assistant's answer that is to be scored.")
            found.append((values, row.prompt(messages[:-1]), messages[-1]["content"]))
        else:
            prompt, texts = row.answer()
            found.append((values, prompt, texts[0]))
    if not found:
        raise DataError(f"{path} is empty: expected one JSON object a line with `prompt` and `completion`.")
    return found
