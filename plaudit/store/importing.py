"""Reading prompts, demonstrations and comparisons from JSONL, in TRL's column conventions.

    prompts          prompt                               text, or a message list
    demonstrations   prompt + completion, or messages     text or message lists
    comparisons      prompt + chosen + rejected           text or message lists; without `prompt`, chosen and
                                                          rejected are whole conversations that share a beginning
    labels           prompt + completion + label          liked (true) or not (false), one response a line

Either every line is used, or the file is refused with the number of the first bad line. Repeated rows are
counted, not hidden.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plaudit.errors import DataError, nearest
from plaudit.records import (
    Annotator,
    Comparison,
    Demonstration,
    Label,
    Message,
    Prompt,
    Response,
    Split,
    content_id,
    unit_interval,
)
from plaudit.store.database import Store

Kind = Literal["prompts", "demonstrations", "comparisons", "labels"]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Imported:
    """What became of a file."""

    kind: Kind
    rows: int
    added: int
    repeated: int


def import_file(store: Store, path: Path | str, *, kind: Kind, held_out_share: float = 0.25) -> Imported:
    """Read a JSONL file into the store, whole or not at all.

    held_out_share   part of the prompts to keep out of training, chosen by a hash of the prompt alone

    Raises DataError, naming file and line, for a missing file, broken JSON, a missing column or an empty text.
    """
    path = Path(path)
    readers: dict[Kind, Callable[[_Row], list[Any]]] = {
        "prompts": _read_prompt,
        "demonstrations": _read_demonstrations,
        "comparisons": _read_comparison,
        "labels": _read_label,
    }
    rows: list[Any] = []
    lines = 0
    for number, row in _read_lines(path):
        lines += 1
        rows.extend(readers[kind](_Row(row, f"{path}, line {number}", held_out_share)))
    if not lines:
        raise DataError(f"{path} is empty: expected one JSON object a line. See `plaudit import --help`.")
    if kind == "prompts":
        added = store.add_prompts(rows)
    elif kind == "demonstrations":
        added = store.add_demonstrations(rows)
    elif kind == "comparisons":
        added = _add_comparisons(store, rows, run=f"import-{content_id(path.name)[:8]}")
    else:
        added = _add_labels(store, rows, run=f"import-{content_id(path.name)[:8]}")
    return Imported(kind=kind, rows=lines, added=added, repeated=len(rows) - added)


def split_of(messages: list[Message], held_out_share: float) -> Split:
    """The split that a prompt belongs to: depends on its text and on the share alone."""
    return "held_out" if unit_interval("split", messages) < held_out_share else "train"


@dataclass(frozen=True)
class _Row:
    """One line, with where it stands for error messages."""

    values: dict[str, Any]
    where: str
    held_out_share: float

    def column(self, name: str) -> Any:
        if name not in self.values:
            found = ", ".join(sorted(self.values)) or "none"
            hint = nearest(name, self.values)
            raise DataError(f"{self.where}: column `{name}` is missing (columns: {found}).{hint}")
        return self.values[name]

    def messages(self, name: str, *, role: str) -> list[Message]:
        """The column as messages; plain text becomes one message of the given role."""
        value = self.column(name)
        if isinstance(value, str):
            value = [{"role": role, "content": value}]
        if not isinstance(value, list) or not value:
            raise DataError(f"{self.where}: `{name}` must be text or a list of messages.")
        for message in value:
            if not isinstance(message, dict) or not isinstance(message.get("content"), str):
                raise DataError(f"{self.where}: each message of `{name}` needs `role` and a text `content`.")
            if message.get("role") not in ROLES:
                raise DataError(f"{self.where}: role {message.get('role')!r} in `{name}`; known: {', '.join(ROLES)}.")
        if not value[-1]["content"].strip():
            raise DataError(f"{self.where}: `{name}` is empty.")
        return [{"role": message["role"], "content": message["content"]} for message in value]

    def prompt(self, messages: list[Message]) -> Prompt:
        if not messages or messages[-1]["role"] == "assistant":
            raise DataError(f"{self.where}: a prompt must end with a user's turn.")
        split = split_of(messages, self.held_out_share)
        return Prompt(messages, split, source=str(self.values.get("source", "import")))


def _read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}). "
                        "Nothing was imported; mend the line and run the same command again."
                    ) from None
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}.")
                yield number, row
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name a JSONL file.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from None


def _read_prompt(row: _Row) -> list[Prompt]:
    return [row.prompt(row.messages("prompt", role="user"))]


def _read_demonstrations(row: _Row) -> list[Demonstration]:
    """One demonstration for each assistant turn of a conversation: every answer is learnt, nothing else."""
    if "messages" in row.values:
        conversation = row.messages("messages", role="user")
    else:
        conversation = row.messages("prompt", role="user") + row.messages("completion", role="assistant")
    turns = [i for i, message in enumerate(conversation) if message["role"] == "assistant" and i > 0]
    if not turns:
        raise DataError(f"{row.where}: there is no assistant turn to learn from.")
    source = str(row.values.get("source", "import"))
    return [Demonstration(row.prompt(conversation[:i]), conversation[i]["content"], source) for i in turns]


def _read_comparison(row: _Row) -> list[tuple[Prompt, str, str]]:
    chosen = row.messages("chosen", role="assistant")
    rejected = row.messages("rejected", role="assistant")
    if "prompt" in row.values:
        context = row.messages("prompt", role="user")
        if chosen[: len(context)] == context:  # whole conversations given beside the prompt
            chosen, rejected = chosen[len(context) :], rejected[len(context) :]
    elif isinstance(row.values["chosen"], str) and isinstance(row.values["rejected"], str):
        context, chosen, rejected = _shared_text(row, chosen[0]["content"], rejected[0]["content"])
    else:
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        context, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not context:
            raise DataError(f"{row.where}: there is no `prompt`, and chosen and rejected share no beginning.")
    if [m["role"] for m in chosen] != ["assistant"] or [m["role"] for m in rejected] != ["assistant"]:
        raise DataError(f"{row.where}: chosen and rejected must each end in exactly one assistant turn of their own.")
    if chosen == rejected:
        raise DataError(f"{row.where}: chosen and rejected are the same text, so there is nothing to learn.")
    return [(row.prompt(context), chosen[0]["content"], rejected[0]["content"])]


def _read_label(row: _Row) -> list[tuple[Prompt, str, bool]]:
    completion = row.messages("completion", role="assistant")
    if [m["role"] for m in completion] != ["assistant"]:
        raise DataError(f"{row.where}: `completion` must be exactly one assistant turn.")
    label = row.column("label")
    if not isinstance(label, bool):
        raise DataError(f"{row.where}: `label` must be true or false, not {label!r}.")
    return [(row.prompt(row.messages("prompt", role="user")), completion[0]["content"], label)]


def _shared_text(row: _Row, chosen: str, rejected: str) -> tuple[list[Message], list[Message], list[Message]]:
    """Two plain texts without a prompt column: the prompt is what they share, up to the last whole word."""
    prompt = os.path.commonprefix([chosen, rejected])
    prompt = prompt[: prompt.rfind(" ") + 1]
    if not prompt.strip():
        raise DataError(f"{row.where}: there is no `prompt`, and chosen and rejected share no beginning.")
    replies = ([{"role": "assistant", "content": text[len(prompt) :]}] for text in (chosen, rejected))
    return [{"role": "user", "content": prompt.strip()}], *replies  # type: ignore[return-value]


def _add_comparisons(store: Store, rows: list[tuple[Prompt, str, str]], run: str) -> int:
    store.add_annotators([Annotator("imported", "imported")])
    store.add_prompts([prompt for prompt, _, _ in rows])
    responses: list[Response] = []
    comparisons: list[Comparison] = []
    for prompt, chosen, rejected in rows:
        ids = [f"{run}:{content_id(prompt.id, text)}" for text in (chosen, rejected)]
        responses += [Response(i, prompt.id, text, run) for i, text in zip(ids, (chosen, rejected), strict=True)]
        comparisons.append(Comparison(prompt.id, ids[0], ids[1], "imported", "first", run))
    store.add_responses(responses)
    return store.add_comparisons(comparisons)


def _add_labels(store: Store, rows: list[tuple[Prompt, str, bool]], run: str) -> int:
    store.add_annotators([Annotator("imported", "imported")])
    store.add_prompts([prompt for prompt, _, _ in rows])
    ids = [f"{run}:{content_id(prompt.id, text)}" for prompt, text, _ in rows]
    store.add_responses([Response(i, prompt.id, text, run) for i, (prompt, text, _) in zip(ids, rows, strict=True)])
    return store.add_labels(
        [Label(prompt.id, i, "imported", liked, run) for i, (prompt, _, liked) in zip(ids, rows, strict=True)]
    )
