"""Files into the store: prompts, demonstrations and judgments, whole or not at all.

Either every row is used, or the file is refused with the number of the first bad one. Repeated rows, corrections,
columns that nothing reads, and rows that cannot be used for a reason that is no mistake are counted, not hidden.

Rows go into the database by the thousand, all in one transaction: memory grows by some 80 bytes a judgment.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from plaudit.errors import DataError, nearest
from plaudit.progress import progress
from plaudit.records import Annotator, AnnotatorKind, Comparison, Prompt, content_id
from plaudit.store.bulk import BulkWriter, bulk_writing
from plaudit.store.database import Store
from plaudit.store.exclusions import keep
from plaudit.store.formats import OWN, Source, open_source
from plaudit.store.identity import Identities
from plaudit.store.people import Pseudonyms
from plaudit.store.rows import READERS, JudgedRow, Kind, Notes, NotUsed, Row, split_of

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

OF_PEOPLE = ("person", "imported")
By = Literal["people", "models", "simulated"]
JUDGES: dict[By, AnnotatorKind] = {"people": "imported", "models": "model", "simulated": "simulated"}
ROWS_AT_ONCE = 10_000
CHARACTERS_AT_ONCE = 16_000_000
"""Long rows go into the database sooner."""
LARGE = 20_000_000
"""Bytes of a file from which on progress is shown."""


@dataclass(frozen=True)
class Imported:
    """What became of a file.

    run         by which its judgments are named, as in `reward.comparisons`
    number      of this import, by which all that it added can be excluded
    rows        of the file
    added       prompts, demonstrations, comparisons, rankings, ratings or labels that are new
    repeated    that were there already
    pairs       of rankings: the comparisons that they come to
    votes       of those added, further votes on the same by people who are not named
    corrected   of those added, corrections of what the same annotator said before, which no longer counts
    overruled   of those added, such as the same annotator corrected later, which do not count
    moved       prompts that are there in another split than the file says, or than they would have now
    restored    rows, and prompts of rows, that had been excluded with an import, and are in again
    excluded    of those in the file, such as are excluded otherwise, and stay so
    left_out, unread, prompts, guessed   as in `rows.Notes`
    """

    kind: Kind
    run: str
    number: int
    rows: int
    added: int
    repeated: int
    pairs: int = 0
    votes: int = 0
    corrected: int = 0
    overruled: int = 0
    moved: int = 0
    restored: int = 0
    excluded: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    guessed: dict[str, int] = field(default_factory=dict)


def import_file(
    store: Store,
    path: Path | str,
    *,
    kind: Kind,
    held_out_share: float = 0.25,
    format: str | None = None,
    by: By = "people",
) -> Imported:
    """Read a file into the store, whole or not at all.

    held_out_share   part of the prompts to keep out of training, chosen by a hash of the prompt alone
    format           of the rows; None to see it from the first (see docs/data.md)
    by               what the annotators are whose rows do not say: people, models or simulated annotators

    Raises DataError, naming file and line, for a missing file, broken JSON, a missing column or an empty text.
    """
    path = Path(path)
    if by not in JUDGES:
        raise DataError(f"--by {by}: unknown. Known: {', '.join(JUDGES)}.{nearest(by, JUDGES)}")
    judges = JUDGES[by]
    source = open_source(path, kind, format)
    run = f"import-{content_id(path.name)[:8]}"
    with bulk_writing(store.database) as writer, _without_collector(), _shown(source) as advance:
        number = writer.begin(run, str(path.absolute()), kind, source.format.name if source.format else OWN)
        people = Pseudonyms(writer.connection)
        sink = _Sink(writer, kind, people, source.notes)
        for where, values in source:
            row = Row(values, f"{path}, {where}", held_out_share, run, source.notes, people.pseudonym, judges)
            sink.take(_used(row, kind), row.where)
            advance()
        sink.flush()
        _check_something(source, sink)
        if writer.restored:
            keep(writer.connection, writer.restored, False, {"imported": number}, "imported anew", f"import {number}")
        sink.facts["restored"] = sum(len(ids) for ids in writer.restored.values())
    notes: dict[str, Any] = {name: dict(counts) for name, counts in vars(source.notes).items()}
    facts: dict[str, Any] = dict(sink.facts)
    return Imported(kind, run, number, source.read, sink.added, sink.given - sink.added, **facts, **notes)


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
    except RecursionError:
        raise DataError(f"{row.where}: lists or objects within each other too deeply to be read.") from None


def _used(row: Row, kind: Kind) -> list[Any]:
    """What a row comes to; nothing where it cannot be used, which is counted."""
    try:
        return _read(row, kind)
    except NotUsed as reason:
        row.notes.left_out[str(reason)] += 1
        return []


def _must(row: Row, kind: Kind) -> list[Any]:
    """What a row comes to, where every one is needed."""
    try:
        return _read(row, kind)
    except NotUsed as reason:
        raise DataError(f"{row.where}: there are {reason}; leave them out of the file.") from None


class _Sink:
    """Records on their way into the database, a chunk at a time."""

    def __init__(self, writer: BulkWriter, kind: Kind, people: Pseudonyms, notes: Notes):
        self.writer, self.kind, self.people, self.notes = writer, kind, people, notes
        self.identities = Identities(writer.connection)
        self.given = self.added = 0
        self.facts: Counter[str] = Counter()
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
        self.given += len(waiting)
        try:
            if self.kind == "prompts":
                self.added += self._prompts(waiting)
            elif self.kind == "demonstrations":
                self._annotators([(d.annotator, "imported") for d in waiting if d.annotator is not None])
                self._prompts(_once(d.prompt for d in waiting))
                self.added += self.writer.demonstrations(waiting)
                self._count_excluded("demonstrations", {d.id: d.prompt.id for d in waiting})
            else:
                self._judgments(waiting)
        except DataError as error:
            raise DataError(f"{' to '.join(self._between)}: {error}") from None
        except UnicodeEncodeError:
            where = " to ".join(self._between)
            raise DataError(f"{where}: a text has half of a surrogate pair, which is no character.") from None

    def _prompts(self, prompts: list[Prompt]) -> int:
        added = self.writer.prompts(prompts)
        there = self.writer.splits([prompt.id for prompt in prompts]) if added < len(prompts) else {}
        wanted = {prompt.id: prompt.split for prompt in prompts}
        self.facts["moved"] += sum(split != wanted[name] for name, split in there.items())
        if self.kind == "prompts":
            self._count_excluded("prompts", dict.fromkeys(wanted, ""))
        return added

    def _judgments(self, waiting: list[JudgedRow]) -> None:
        self._annotators([(row.annotator, row.annotator_kind) for row in waiting])
        self._prompts(_once(row.prompt for row in waiting))
        self.writer.responses([response for row in waiting for response in row.responses])
        settled = self.identities.settle(waiting)
        self.writer.comparisons(settled.comparisons)
        self.writer.labels(settled.labels)
        self.writer.corrections(settled.corrections)
        self.added += settled.added
        self.facts.update(votes=settled.votes, corrected=settled.corrected, overruled=settled.overruled)
        if self.kind == "rankings":
            self.facts["pairs"] += len(settled.comparisons)
        for table, prompts in settled.prompts.items():
            self._count_excluded(table, prompts)

    def _count_excluded(self, table: str, prompts: dict[str, str]) -> None:
        """Excluded ones among rows, given their ids and those of their prompts."""
        self.facts["excluded"] += self.writer.excluded(table, prompts)

    def _annotators(self, given: list[tuple[str, AnnotatorKind]]) -> None:
        """Add those that are new. Raises DataError where the store knows one of them as something else."""
        there = self.people.kinds
        new: dict[str, AnnotatorKind] = {}
        for name, kind in given:
            known = there.setdefault(name, kind)
            if known == kind and name not in self._known:
                new[name] = kind
            elif known != kind and not {known, kind} <= set(OF_PEOPLE) and kind != "imported":
                raise DataError(
                    f"annotator `{name}` is of kind {known} here, and of kind {kind} in the file: "
                    "rename one of them, or their judgments would be mixed."
                )
            elif known not in (*OF_PEOPLE, kind):
                self.notes.guessed[f"judgments are by `{name}`, who is of kind {known} here"] += 1
        self.writer.annotators([Annotator(name, kind, self.people.parameters(name)) for name, kind in new.items()])
        self._known |= new.keys()


def _once(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Each once, the first of equal ones; a prompt often has many comparisons, one after the other."""
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        found.setdefault(prompt.id, prompt)
    return list(found.values())


def _characters(record: Any) -> int:
    prompt = record if isinstance(record, Prompt) else record.prompt
    characters = sum([len(message["content"]) for message in prompt.messages])
    return characters + (sum([len(r.text) for r in record.responses]) if isinstance(record, JudgedRow) else 0)


def _check_something(source: Source, sink: _Sink) -> None:
    if not source.read:
        raise DataError(f"{source.path} is empty: expected one JSON object a line. See `plaudit import --help`.")
    if not sink.given:
        reasons = source.notes.left_out.most_common(3)
        why = "; ".join(f"{number} {reason}" for reason, number in reasons) or "no reason known"
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
        for judged in _must(row, "rankings" if "ranks" in values else "comparisons"):
            texts = {response.id: response.text for response in judged.responses}
            subset = row.text("subset", "")
            found += [FileComparison(judged.prompt, texts, comparison, subset) for comparison in judged.comparisons]
    if not found:
        raise DataError(f"{path} is empty: expected one JSON object a line with `prompt`, `chosen` and `rejected`.")
    return found


def read_judged(path: Path | str, kind: Kind, *, run: str) -> Iterator[tuple[dict[str, Any], JudgedRow]]:
    """(the row, what it says) of a file of judgments, which are in no store. Raises DataError as imports do."""
    for where, values in open_source(Path(path), kind):
        for judged in _must(Row(values, f"{path}, {where}", 0.0, run), kind):
            yield values, judged


def read_answers(path: Path | str) -> list[tuple[dict[str, Any], Prompt, str]]:
    """(the row, the prompt, the answer to it) for rows of `prompt` + `completion`, or `messages` that end in one.

    Raises DataError as `import_file` does.
    """
    found = []
    for where, values in open_source(Path(path), "demonstrations", "trl"):
        row = Row(values, f"{path}, {where}", 0.0)
        try:
            prompt, texts = row.answer()
        except NotUsed as reason:
            raise DataError(f"{row.where}: there are {reason}; leave them out of the file.") from None
        found.append((values, prompt, texts[0]))
    if not found:
        raise DataError(f"{path} is empty: expected one JSON object a line with `prompt` and `completion`.")
    return found
