"""The store into files: the training set that the standing judgments make, and the log of all that people submitted.

The training set is in TRL's columns, with Plaudit's own beside them, and `plaudit import` reads it back. The log has
every judgment, corrected and taken back ones too. Annotators go by their pseudonyms throughout, never by an e-mail
address; nothing of accounts, invitations or sessions is read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Select, Table, and_, exists, func, null, or_, select

from plaudit.errors import DataError, nearest
from plaudit.files import whole_folder, write_json
from plaudit.progress import Advance, progress
from plaudit.records import DESIRABLE, SAFE
from plaudit.store import tables
from plaudit.store.database import Store
from plaudit.store.people import names_outside
from plaudit.store.rows import MOST_RANKED
from plaudit.store.standing import not_excluded
from plaudit.store.writers import Schema, file_facts, write_dataset, write_jsonl, write_parquet

ExportKind = Literal["prompts", "demonstrations", "ratings", "labels", "comparisons", "rankings", "judgments"]
"""Files in the order in which to import them: the labels bring the time of what the comparisons say of safety."""
EVERYTHING = "everything"
ExportFormat = Literal["jsonl", "parquet", "datasets", "trl"]
ROWS_AT_ONCE = 2000
LARGE = 50_000
"""Rows of a kind from which on progress is shown."""

RULE = "each-standing-judgment/1"
RULE_IN_WORDS = (
    "Every judgment that stands is a row of its own: one that its author has not corrected or taken back, of an author "
    "whom the newest decision does not leave out; or, of a snapshot, every judgment in it. Chosen is the side that was "
    "preferred, of a tie the one shown first. margin = (grade - 1) / 3. The pairs of a ranking share a group_id."
)

_PROMPT: Schema = {"prompt": "messages", "prompt_split": "text", "prompt_source": "text"}
_FROM: Schema = {"criterion": "text", "annotator": "text", "annotator_kind": "text", "created": "text"}
_FROM |= {"run": "text", "judgment": "text"}
SCHEMAS: dict[ExportKind, Schema] = {
    "prompts": _PROMPT,
    "demonstrations": _PROMPT | {"completion": "messages", "source": "text", "annotator": "text", "judgment": "text"},
    "comparisons": _PROMPT
    | {"chosen": "messages", "rejected": "messages", "tie": "yes_or_no", "grade": "whole", "margin": "number"}
    | {"preference": "number", "soft_preference": "number", "shown_first": "text", "group_id": "text"}
    | {"chosen_safe": "yes_or_no", "rejected_safe": "yes_or_no", "seconds": "number", "probability_first": "number"}
    | _FROM,
    "rankings": _PROMPT | {"responses": "texts", "ranks": "wholes", "group_id": "text", "seconds": "number"} | _FROM,
    "ratings": _PROMPT | {"completion": "messages", "rating": "number"} | _FROM,
    "labels": _PROMPT | {"completion": "messages", "label": "yes_or_no"} | _FROM,
    "judgments": {"number": "whole", "id": "text", "supersedes": "text", "campaign": "text", "task": "text"}
    | {"kind": "text", "criterion": "text", "annotator": "text", "prompt": "messages", "shown": "shown"}
    | {"answer": "json", "seconds": "number", "comment": "text", "flags": "json", "is_gold": "yes_or_no"}
    | {"gold": "json", "is_right": "yes_or_no", "guideline": "text", "version": "text", "created": "text"},
}
TRL_COLUMNS: dict[ExportKind, tuple[str, ...]] = {
    "prompts": ("prompt",),
    "demonstrations": ("prompt", "completion"),
    "comparisons": ("prompt", "chosen", "rejected"),
    "labels": ("prompt", "completion", "label"),
}


def export_data(
    store: Store, folder: Path | str, *, kind: str = EVERYTHING, format: str = "jsonl", held_out: bool = False
) -> dict[str, Any]:
    """Write a file for each kind, and manifest.json, to a new folder, whole or not at all. Returns the manifest.

    kind      one of ExportKind; everything: all of them that the format and the store's snapshot allow
    format    trl: JSONL of TRL's columns alone, which cannot hold ties or what was asked; of training prompts
    held_out  of trl: write what is on held-out prompts too, to files of their own (`held_out_comparisons.jsonl`, ...)

    Rows are in the order of their ids (rankings: of the rankings' ids; judgments: as submitted), so equal stores give
    equal files. What cannot be written is counted in the manifest's `left_out`.

    Raises DataError when the folder is there already, or nothing of the kind can be written so.
    """
    folder = Path(folder)
    kinds = _kinds(store, kind, format)
    if held_out and format != "trl":
        raise DataError("--held-out is of --format trl; in other formats `prompt_split` says what is held out.")
    if folder.exists():
        raise DataError(f"{folder} exists already; name a folder that does not.")
    with whole_folder(folder) as partial, store.database.reading() as connection:
        reader = _Reader(store, connection)
        rows = {each: _write(partial, reader, each, format) for each in kinds}
        apart = {each: _write(partial, reader, each, format, "held_out") for each in kinds} if held_out else {}
        manifest = {
            "format": format,
            "rule": RULE,
            "rule_in_words": RULE_IN_WORDS,
            "snapshot": None if store.snapshot is None else reader.snapshot(),
            "rows": rows,
            "held_out": _held_out_in_words(format, apart),
            "excluded": store.excluded(),
            "left_out": {each: dict(sorted(why.items())) for each, why in reader.left_out.items() if why},
            "campaigns": reader.campaigns() if "judgments" in kinds else [],
            "files": dict(file_facts(partial)),
        }
        write_json(partial / "manifest.json", manifest)
    return manifest


def _kinds(store: Store, kind: str, format: str) -> list[ExportKind]:
    known: tuple[ExportKind, ...] = get_args(ExportKind)
    if kind not in (*known, EVERYTHING):
        raise DataError(f"--kind {kind}: unknown. Known: {', '.join(known)}, {EVERYTHING}.{nearest(kind, known)}")
    if format not in get_args(ExportFormat):
        raise DataError(f"--format {format}: unknown. Known: {', '.join(get_args(ExportFormat))}.")
    possible = [each for each in known if format != "trl" or each in TRL_COLUMNS]
    possible = [each for each in possible if store.snapshot is None or each != "judgments"]
    if kind == EVERYTHING:
        return possible
    if kind == "judgments" and store.snapshot is not None:
        raise DataError("the log of judgments is only ever written whole; leave out --snapshot.")
    chosen = [each for each in possible if each == kind]
    if not chosen:
        raise DataError(f"TRL has no columns for {kind}; use --format jsonl. With trl: {', '.join(TRL_COLUMNS)}.")
    return chosen


def _held_out_in_words(format: str, apart: dict[ExportKind, int]) -> Any:
    """What became of rows on prompts that are held out of training."""
    if format != "trl":
        return "among the others: prompt_split says which"
    return {f"held_out_{kind}.jsonl": number for kind, number in apart.items()} or "left out"


def _write(folder: Path, reader: _Reader, kind: ExportKind, format: str, split: str = "train") -> int:
    rows, total = reader.rows(kind), reader.count(kind)
    if format == "trl" and split != "train":
        rows = _in_trl((row for row in rows if row["prompt_split"] == split), kind, Counter())
        return write_jsonl(folder / f"{split}_{kind}.jsonl", rows)
    if format == "trl":
        rows = _in_trl(_training(rows, reader.left_out[kind]), kind, reader.left_out[kind])
    with _shown(kind, total) as advance:
        rows = _followed(rows, advance)
        if format in ("jsonl", "trl"):
            return write_jsonl(folder / f"{kind}.jsonl", rows)
        if format == "parquet":
            return write_parquet(folder / f"{kind}.parquet", rows, SCHEMAS[kind])
        return write_dataset(folder / kind, rows, SCHEMAS[kind])


@contextmanager
def _shown(kind: str, total: int) -> Iterator[Advance]:
    if total < LARGE:
        yield lambda count: None
        return
    with progress(f"exporting {kind}", total) as advance:
        yield advance


def _followed(rows: Iterator[dict[str, Any]], advance: Advance) -> Iterator[dict[str, Any]]:
    number = 0
    for number, row in enumerate(rows, start=1):
        yield row
        if number % ROWS_AT_ONCE == 0:
            advance(ROWS_AT_ONCE)
    advance(number % ROWS_AT_ONCE)


def _training(rows: Iterator[dict[str, Any]], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """What is not held out: TRL's columns cannot say it, and a model must not be measured on what it has learnt."""
    for row in rows:
        if row["prompt_split"] == "train":
            yield row
        else:
            left_out[f"on prompts of the split {row['prompt_split']}"] += 1


def _in_trl(rows: Iterator[dict[str, Any]], kind: ExportKind, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row.get("tie"):
            left_out["ties"] += 1
        elif kind == "labels" and row.get("criterion", DESIRABLE) != DESIRABLE:
            left_out[f"labels of another criterion than {DESIRABLE}"] += 1
        else:
            yield {name: row[name] for name in TRL_COLUMNS[kind]}


@dataclass
class _Reader:
    """Rows of one state of the store, in the columns of an export, a few in memory at a time."""

    store: Store
    connection: Connection
    left_out: dict[ExportKind, Counter[str]] = field(
        default_factory=lambda: {kind: Counter() for kind in get_args(ExportKind)}
    )

    def __post_init__(self) -> None:
        columns = tables.annotators.c
        self._kinds = dict(self.connection.execute(select(columns.name, columns.kind)).tuples().all())
        self._outside = names_outside(self.connection)

    def _who(self, annotator: str | None) -> str | None:
        """What an annotator is called in files."""
        return annotator if annotator is None else self._outside.get(annotator, annotator)

    def _origin(self, row: Any) -> dict[str, Any]:
        who = {"annotator": self._who(row.annotator), "annotator_kind": self._kinds[row.annotator]}
        when = {"created": _time(row.created), "run": row.run, "judgment": row.judgment}
        return {"criterion": row.criterion or None, **who, **when}

    def rows(self, kind: ExportKind) -> Iterator[dict[str, Any]]:
        """Every row of the kind, in order."""
        readers: dict[ExportKind, Callable[[], Iterator[dict[str, Any]]]] = {
            "prompts": self._prompts,
            "demonstrations": self._demonstrations,
            "comparisons": self._comparisons,
            "rankings": self._rankings,
            "ratings": lambda: self._labels("ratings"),
            "labels": lambda: self._labels("labels"),
            "judgments": self._judgments,
        }
        return readers[kind]()

    def count(self, kind: ExportKind) -> int:
        """About how many rows there are, for the progress bar."""
        table = {"ratings": "labels", "rankings": "annotators"}.get(kind, kind)
        query = select(func.count()).select_from(tables.metadata.tables[table])
        return int(self.connection.scalar(query) or 0)

    def snapshot(self) -> dict[str, Any]:
        """The name and the description of the snapshot that is read."""
        query = select(tables.snapshots.c.description).where(tables.snapshots.c.name == self.store.snapshot)
        return {"name": self.store.snapshot, **(self.connection.scalar(query) or {})}

    def campaigns(self) -> list[dict[str, Any]]:
        """What was asked."""
        columns = (tables.campaigns.c[name] for name in ("name", "kind", "criterion", "guideline"))
        query = select(*columns).order_by(tables.campaigns.c.name)
        return [dict(row) for row in self.connection.execute(query).mappings()]

    def _stream(self, query: Select[Any]) -> Iterator[Any]:
        yield from self.connection.execute(query, execution_options={"yield_per": ROWS_AT_ONCE})

    def _chosen(self, table: Table) -> Any:
        return self.store.chosen(self.connection, table)

    def _prompts(self) -> Iterator[dict[str, Any]]:
        prompts = tables.prompts
        query = select(*_prompt_columns()).order_by(prompts.c.id)
        if self.store.snapshot is None:
            query = query.where(*not_excluded(self.connection, prompts))
        else:
            judged = (tables.comparisons, tables.labels, tables.demonstrations)
            used = (prompts.c.id.in_(select(t.c.prompt_id).where(self._chosen(t))) for t in judged)
            query = query.where(or_(*used))
        for row in self._stream(query):
            yield _of_prompt(row)

    def _demonstrations(self) -> Iterator[dict[str, Any]]:
        table = tables.demonstrations
        query = select(*table.c, *_prompt_columns()).join(tables.prompts, tables.prompts.c.id == table.c.prompt_id)
        for row in self._stream(query.where(self._chosen(table)).order_by(table.c.id)):
            if not row.text.strip():
                self.left_out["demonstrations"]["answers that are empty"] += 1
                continue
            found = {"completion": _answer(row.text), "source": row.source, "annotator": self._who(row.annotator)}
            yield _of_prompt(row) | found | {"judgment": row.judgment}

    def _labels(self, kind: Literal["ratings", "labels"]) -> Iterator[dict[str, Any]]:
        table, responses = tables.labels, tables.responses
        query = select(*table.c, responses.c.text, *_prompt_columns())
        query = query.join(responses, responses.c.id == table.c.response)
        query = query.join(tables.prompts, tables.prompts.c.id == table.c.prompt_id)
        yes_or_no = table.c.criterion.in_([DESIRABLE, SAFE])
        wanted = yes_or_no if kind == "labels" else ~yes_or_no
        for row in self._stream(query.where(self._chosen(table), wanted).order_by(table.c.id)):
            value = {"label": row.value > 0.5} if kind == "labels" else {"rating": row.value}
            yield _of_prompt(row) | {"completion": _answer(row.text)} | value | self._origin(row)

    def _comparisons(self) -> Iterator[dict[str, Any]]:
        query = self._pairs(with_safety=True).order_by(tables.comparisons.c.id)
        for row in self._stream(query):
            if row.first_text == row.second_text:
                self.left_out["comparisons"]["pairs of equal answers"] += 1
            else:
                yield _comparison(row) | self._origin(row)

    def _pairs(self, *, with_safety: bool) -> Select[Any]:
        """Comparisons with the texts of both sides, and what the same judgment says of their safety."""
        table = tables.comparisons
        first, second = tables.responses.alias("one"), tables.responses.alias("other")
        joined = table.join(first, first.c.id == table.c.first).join(second, second.c.id == table.c.second)
        joined = joined.join(tables.prompts, tables.prompts.c.id == table.c.prompt_id)
        safe: list[Any] = [null(), null()]
        if with_safety and self.connection.scalar(select(exists().where(tables.labels.c.criterion == SAFE))):
            for number, side in enumerate(("first", "second")):
                labels = self._safety_labels().subquery(f"safe_{side}")
                same = [labels.c[name] == table.c[name] for name in ("run", "annotator")]
                same.append(func.coalesce(labels.c.judgment, "") == func.coalesce(table.c.judgment, ""))
                joined = joined.outerjoin(labels, and_(labels.c.response == table.c[side], *same))
                safe[number] = labels.c.value
        texts = (first.c.text.label("first_text"), second.c.text.label("second_text"))
        columns = (*table.c, *texts, safe[0].label("first_safe"), safe[1].label("second_safe"), *_prompt_columns())
        return select(*columns).select_from(joined).where(self._chosen(table))

    def _safety_labels(self) -> Select[Any]:
        return select(tables.labels).where(tables.labels.c.criterion == SAFE, self._chosen(tables.labels))

    def _rankings(self) -> Iterator[dict[str, Any]]:
        table = tables.comparisons
        query = self._pairs(with_safety=False).where(table.c.ranking.is_not(None)).order_by(table.c.ranking, table.c.id)
        for _, pairs in groupby(self._stream(query), key=lambda row: row.ranking):
            several = list(pairs)
            found = _ranking(several)
            if isinstance(found, str):
                self.left_out["rankings"][found] += 1
            else:
                yield found | self._origin(_first_said(several))

    def _judgments(self) -> Iterator[dict[str, Any]]:
        judgments, tasks = tables.judgments, tables.tasks
        hidden = ("assignment", "submission")  # made by the pages, and of use to nobody else
        query = select(*(c for c in judgments.c if c.name not in hidden), tasks.c.gold, *_prompt_columns())
        query = query.join(tasks, tasks.c.id == judgments.c.task)
        query = query.join(tables.prompts, tables.prompts.c.id == tasks.c.prompt_id).order_by(judgments.c.number)
        result = self.connection.execute(query, execution_options={"yield_per": ROWS_AT_ONCE})
        for some in result.partitions(ROWS_AT_ONCE):
            texts = self._texts({response for row in some for response in row.shown})
            for row in some:
                values = {name: getattr(row, name, None) for name in SCHEMAS["judgments"]}
                shown = [{"id": response, "text": texts.get(response)} for response in row.shown]
                yield values | {"annotator": self._who(row.annotator), "prompt": row.messages, "shown": shown}

    def _texts(self, ids: set[str]) -> dict[str, str]:
        ordered, found = sorted(ids), {}
        for start in range(0, len(ordered), ROWS_AT_ONCE):
            some = ordered[start : start + ROWS_AT_ONCE]
            query = select(tables.responses.c.id, tables.responses.c.text).where(tables.responses.c.id.in_(some))
            found.update({row.id: row.text for row in self.connection.execute(query)})
        return found


def _prompt_columns() -> tuple[Any, ...]:
    prompts = tables.prompts
    return prompts.c.messages, prompts.c.split, prompts.c.source.label("prompt_source")


def _of_prompt(row: Any) -> dict[str, Any]:
    return {"prompt": row.messages, "prompt_split": row.split, "prompt_source": row.prompt_source}


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _time(created: str) -> str | None:
    """None for what is no time: imports did not always check it."""
    try:
        datetime.fromisoformat(created)
    except ValueError:
        return None
    return created


def _comparison(row: Any) -> dict[str, Any]:
    """Chosen and rejected, and in what order they were shown."""
    chosen_is_first = row.choice != "second"
    texts, soft = (row.first_text, row.second_text), row.soft_preference
    safe = [None if value is None else value > 0.5 for value in (row.first_safe, row.second_safe)]
    if not chosen_is_first:
        texts, safe = texts[::-1], safe[::-1]
    return _of_prompt(row) | {
        "chosen": _answer(texts[0]),
        "rejected": _answer(texts[1]),
        "tie": True if row.choice == "tie" else None,
        "grade": row.grade,
        "margin": None if row.grade is None else (row.grade - 1) / 3,
        "preference": None if soft is None else soft if chosen_is_first else 1 - soft,
        "soft_preference": soft,
        "shown_first": "chosen" if chosen_is_first else "rejected",
        "group_id": row.ranking,
        "chosen_safe": safe[0],
        "rejected_safe": safe[1],
        "seconds": row.seconds,
        "probability_first": row.probability_first,
    }


def _ranking(pairs: list[Any]) -> dict[str, Any] | str:
    """The pairs of a ranking as one row, or why they are none."""
    texts = {row.first: row.first_text for row in pairs} | {row.second: row.second_text for row in pairs}
    if len(pairs) != len(texts) * (len(texts) - 1) // 2 or len(texts) > MOST_RANKED:
        return "rankings that are not of all pairs"
    if len(set(texts.values())) < len(texts) or not all(text.strip() for text in texts.values()):
        return "rankings with equal or empty answers"
    times_first = Counter(row.first for row in pairs)
    ordered = sorted(texts, key=lambda response: (-times_first[response], response))
    better = Counter(dict.fromkeys(texts, 0))
    better.update(row.second if row.choice == "first" else row.first for row in pairs if row.choice != "tie")
    ranks = {response: 1 + better[response] for response in texts}
    if not all(_as_ranked(row, ranks) for row in pairs):
        return "rankings whose pairs contradict each other, or say more than an order"
    said = {"responses": [texts[r] for r in ordered], "ranks": [ranks[r] for r in ordered]}
    first = _first_said(pairs)
    return _of_prompt(first) | said | {"group_id": first.ranking, "seconds": first.seconds}


def _first_said(pairs: list[Any]) -> Any:
    return min(pairs, key=lambda row: (row.created, row.id))


def _as_ranked(row: Any, ranks: dict[str, int]) -> bool:
    one, other = ranks[row.first], ranks[row.second]
    expected = "tie" if one == other else "first" if one < other else "second"
    return row.choice == expected and row.grade is None and row.soft_preference is None
