"""Reading prompts, demonstrations and judgments from JSONL, in TRL's column conventions.

    prompts          prompt                               text, or a message list
    demonstrations   prompt + completion, or messages     text or message lists
    comparisons      prompt + chosen + rejected           text or message lists; without `prompt`, chosen and
                                                          rejected are whole conversations that share a beginning
    rankings         prompt + responses + ranks           2 to 9 texts, and a rank of each: 1 the best, equal for ties
    ratings          prompt + completion + rating         a number, one response a line
    labels           prompt + completion + label          liked (true) or not (false), one response a line

Judgments may have `annotator` and `criterion` columns. A comparison may also have `grade` (1 to 4, or its words),
`tie` (true: neither is better), `preference` (0 to 1: how sure that chosen is better), `chosen_safe` and
`rejected_safe` (true or false); labels with criterion "safe" say the same of one response.

Either every line is used, or the file is refused with the number of the first bad line. Repeated rows are
counted, not hidden.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from plaudit.errors import DataError, nearest
from plaudit.records import (
    DESIRABLE,
    GRADES,
    SAFE,
    Annotator,
    Choice,
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

Kind = Literal["prompts", "demonstrations", "comparisons", "rankings", "ratings", "labels"]
ROLES = ("system", "user", "assistant")
MOST_RANKED = 9
"""Responses of one ranking: what a person can still hold apart (Ouyang et al. 2022 asked for 4 to 9)."""


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
    run = f"import-{content_id(path.name)[:8]}"
    readers = _readers(run)
    rows: list[Any] = []
    lines = 0
    for number, row in _read_lines(path):
        lines += 1
        rows.extend(readers[kind](_Row(row, f"{path}, line {number}", held_out_share)))
    if not lines:
        raise DataError(f"{path} is empty: expected one JSON object a line. See `plaudit import --help`.")
    if kind == "prompts":
        added, given = store.add_prompts(rows), len(rows)
    elif kind == "demonstrations":
        added, given = store.add_demonstrations(rows), len(rows)
    else:
        added, given = _add_judgments(store, rows)
    return Imported(kind=kind, rows=lines, added=added, repeated=given - added)


@dataclass(frozen=True)
class FileComparison:
    """A comparison as a line says it, which is in no store."""

    prompt: Prompt
    texts: dict[str, str]
    comparison: Comparison
    subset: str


def read_comparisons(path: Path | str) -> list[FileComparison]:
    """Comparisons and rankings of a file, pair by pair; a `subset` column, as RewardBench has it, is kept.

    Raises DataError as `import_file` does.
    """
    found = []
    for number, values in _read_lines(Path(path)):
        row = _Row(values, f"{path}, line {number}", 0.0)
        read = _read_ranking if "ranks" in values else _read_comparison
        for judged in read(row, run="file"):
            texts = {response.id: response.text for response in judged.responses}
            subset = row.text("subset", "")
            found += [FileComparison(judged.prompt, texts, comparison, subset) for comparison in judged.comparisons]
    if not found:
        raise DataError(f"{path} is empty: expected one JSON object a line with `prompt`, `chosen` and `rejected`.")
    return found


def read_answers(path: Path | str) -> list[tuple[dict[str, Any], Prompt, str]]:
    """(the line, the prompt, the answer to it) for lines of `prompt` + `completion`, or `messages` that end in one.

    Raises DataError as `import_file` does.
    """
    found = []
    for number, values in _read_lines(Path(path)):
        row = _Row(values, f"{path}, line {number}", 0.0)
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


def _readers(run: str) -> dict[Kind, Callable[[_Row], list[Any]]]:
    return {
        "prompts": _read_prompt,
        "demonstrations": _read_demonstrations,
        "comparisons": partial(_read_comparison, run=run),
        "rankings": partial(_read_ranking, run=run),
        "ratings": partial(_read_rating, run=run),
        "labels": partial(_read_label, run=run),
    }


def read_judged(path: Path | str, kind: Kind, *, run: str) -> Iterator[tuple[dict[str, Any], Judged]]:
    """(the line, what it says) of a file of judgments, which are in no store. Raises DataError as imports do."""
    for number, values in _read_lines(Path(path)):
        for judged in _readers(run)[kind](_Row(values, f"{path}, line {number}", 0.0)):
            yield values, judged


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

    def text(self, name: str, default: str) -> str:
        """A column that may be missing."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{self.where}: `{name}` must be text, not {value!r}.")
        return value

    def number(self, name: str, least: float = -math.inf, most: float = math.inf) -> float | None:
        """A column that may be missing."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"{self.where}: `{name}` must be a number, not {value!r}.")
        if not least <= value <= most:
            raise DataError(f"{self.where}: `{name}` must be from {least:g} to {most:g}, not {value}.")
        return float(value)

    def yes_or_no(self, name: str) -> bool | None:
        """A column that may be missing."""
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise DataError(f"{self.where}: `{name}` must be true or false, not {value!r}.")

    def grade(self) -> int | None:
        """How much better, as a number or in words."""
        value = self.values.get("grade")
        words = {name: number for number, name in GRADES.items()}
        if value is None or (isinstance(value, int) and value in GRADES and not isinstance(value, bool)):
            return value
        if value in words:
            return words[value]
        known = ", ".join(f"{number} ({name})" for number, name in GRADES.items())
        raise DataError(f"{self.where}: `grade` is {value!r}; known: {known}.")

    def answer(self) -> tuple[Prompt, list[str]]:
        """`prompt` and `completion`."""
        completion = self.messages("completion", role="assistant")
        if [message["role"] for message in completion] != ["assistant"]:
            raise DataError(f"{self.where}: `completion` must be exactly one assistant turn.")
        return self.prompt(self.messages("prompt", role="user")), [completion[0]["content"]]

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


@dataclass(frozen=True)
class Judged:
    """What a line says: responses, and judgments of them."""

    prompt: Prompt
    responses: list[Response]
    annotator: str
    comparisons: list[Comparison]
    labels: list[Label]


def _judged(row: _Row, prompt: Prompt, texts: list[str], run: str) -> Judged:
    """The responses of a line, which nobody has judged yet."""
    ids = [f"{run}:{content_id(prompt.id, text)}" for text in texts]
    responses = [Response(i, prompt.id, text, run) for i, text in zip(ids, texts, strict=True)]
    return Judged(prompt, responses, row.text("annotator", "imported"), [], [])


def _read_comparison(row: _Row, *, run: str) -> list[Judged]:
    judged = _judged(row, *_both(_sides(row)), run)
    first, second = (response.id for response in judged.responses)
    soft = row.number("preference", 0.0, 1.0)
    tie = row.yes_or_no("tie") or soft == 0.5
    if tie and soft not in (None, 0.5):
        raise DataError(f"{row.where}: a tie with a `preference` of {soft} contradicts itself.")
    choice: Choice = "tie" if tie else "second" if soft is not None and soft < 0.5 else "first"
    judged.comparisons.append(
        Comparison(
            judged.prompt.id, first, second, judged.annotator, choice, run, row.grade(),
            criterion=row.text("criterion", ""), soft_preference=soft,
        )
    )  # fmt: skip
    for response, column in ((first, "chosen_safe"), (second, "rejected_safe")):
        safe = row.yes_or_no(column)
        if safe is not None:
            judged.labels.append(Label(judged.prompt.id, response, judged.annotator, float(safe), run, SAFE))
    return [judged]


def _both(sides: tuple[Prompt, str, str]) -> tuple[Prompt, list[str]]:
    return sides[0], list(sides[1:])


def _read_ranking(row: _Row, *, run: str) -> list[Judged]:
    """All pairs of it, each of which knows the ranking that it is part of."""
    prompt = row.prompt(row.messages("prompt", role="user"))
    texts, ranks = row.column("responses"), row.column("ranks")
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{row.where}: `responses` must be a list of texts, none of them empty.")
    if not 2 <= len(texts) <= MOST_RANKED or len(set(texts)) < len(texts):
        raise DataError(f"{row.where}: a ranking is of 2 to {MOST_RANKED} different responses; here are {len(texts)}.")
    whole = isinstance(ranks, list) and all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks)
    if not whole or len(ranks) != len(texts):
        raise DataError(f"{row.where}: `ranks` must be {len(texts)} whole numbers, one for each response, 1 the best.")
    judged = _judged(row, prompt, texts, run)
    criterion = row.text("criterion", "")
    ranking = content_id(run, judged.annotator, criterion, sorted(response.id for response in judged.responses))
    for i, j in combinations(range(len(texts)), 2):
        first, second = judged.responses[i].id, judged.responses[j].id
        choice: Choice = "tie" if ranks[i] == ranks[j] else "first" if ranks[i] < ranks[j] else "second"
        judged.comparisons.append(
            Comparison(
                prompt.id, first, second, judged.annotator, choice, run, criterion=criterion, ranking=ranking
            )
        )  # fmt: skip
    return [judged]


def _read_rating(row: _Row, *, run: str) -> list[Judged]:
    judged = _judged(row, *row.answer(), run)
    rating, criterion = row.number("rating"), row.text("criterion", "rating")
    if rating is None:
        row.column("rating")  # says which columns there are
    elif criterion in (DESIRABLE, SAFE):
        raise DataError(f"{row.where}: criterion `{criterion}` is yes or no; import it with --kind labels.")
    else:
        judged.labels.append(Label(judged.prompt.id, judged.responses[0].id, judged.annotator, rating, run, criterion))
    return [judged]


def _read_label(row: _Row, *, run: str) -> list[Judged]:
    judged = _judged(row, *row.answer(), run)
    criterion = row.text("criterion", DESIRABLE)
    if criterion not in (DESIRABLE, SAFE):
        raise DataError(f"{row.where}: a label's criterion is `{DESIRABLE}` or `{SAFE}`, not `{criterion}`.")
    value = row.column("label")
    if not isinstance(value, bool):
        raise DataError(f"{row.where}: `label` must be true or false, not {value!r}.")
    judged.labels.append(
        Label(judged.prompt.id, judged.responses[0].id, judged.annotator, float(value), run, criterion)
    )
    return [judged]


def _sides(row: _Row) -> tuple[Prompt, str, str]:
    """(prompt, chosen, rejected) of a comparison in any of its forms."""
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
    return row.prompt(context), chosen[0]["content"], rejected[0]["content"]


def _shared_text(row: _Row, chosen: str, rejected: str) -> tuple[list[Message], list[Message], list[Message]]:
    """Two plain texts without a prompt column: the prompt is what they share, up to the last whole word."""
    prompt = os.path.commonprefix([chosen, rejected])
    prompt = prompt[: prompt.rfind(" ") + 1]
    if not prompt.strip():
        raise DataError(f"{row.where}: there is no `prompt`, and chosen and rejected share no beginning.")
    replies = ([{"role": "assistant", "content": text[len(prompt) :]}] for text in (chosen, rejected))
    return [{"role": "user", "content": prompt.strip()}], *replies  # type: ignore[return-value]


def _add_judgments(store: Store, rows: list[Judged]) -> tuple[int, int]:
    """(new judgments, judgments given)."""
    store.add_annotators([Annotator(name, "imported") for name in sorted({row.annotator for row in rows})])
    store.add_prompts([row.prompt for row in rows])
    store.add_responses([response for row in rows for response in row.responses])
    comparisons = [comparison for row in rows for comparison in row.comparisons]
    labels = [label for row in rows for label in row.labels]
    added = store.add_comparisons(comparisons) + store.add_labels(labels)
    return added, len(comparisons) + len(labels)
