"""What one row says: the columns of TRL, and Plaudit's own beside them, checked and made into records.

    prompts          prompt                               text, or a message list
    demonstrations   prompt + completion, or messages     text or message lists; turns of weight 0, and those that call
                                                          a tool, are not learnt
    comparisons      prompt + chosen + rejected           text or message lists; without `prompt`, chosen and
                                                          rejected are whole conversations that share a beginning
    rankings         prompt + responses + ranks           2 to 9 texts, and a rank of each: 1 the best, equal for ties
    ratings          prompt + completion + rating         a number, one response a line
    labels           prompt + completion + label          liked (true) or not (false), one response a line
                     (of both: or messages, whose last turn is the response)

Judgments may have `annotator` and `criterion` columns. A comparison may also have `grade` (1 to 4, or its words),
`tie` (true: neither is better), `preference` (0 to 1: how sure that chosen is better), `chosen_safe` and
`rejected_safe` (true or false); labels with criterion "safe" say the same of one response.

What `plaudit export data` writes beside these is read back: `shown_first` (chosen or rejected), `soft_preference` (for
the one shown first), `group_id` of a ranking, `run`, `judgment`, `seconds`, `created`, `probability_first`,
`prompt_split` and `prompt_source`. `margin` follows from the grade and is not read.

The content of a message is a text, or a list of text parts ({"type": "text", "text": ...}), one to a line.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal, get_args

from plaudit.errors import DataError, nearest
from plaudit.records import (
    DESIRABLE,
    GRADES,
    SAFE,
    UNNAMED,
    AnnotatorKind,
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

Kind = Literal["prompts", "demonstrations", "comparisons", "rankings", "ratings", "labels"]
ROLES = ("system", "user", "assistant")
LONGEST_KEY = 16
LONGEST_NAME, LONGEST_CRITERION = 128, 64
MOST_SECONDS = 31_536_000.0
"""A year: what is longer was not spent on a judgment."""
MOST_RANKED = 9
"""Responses of one ranking: what a person can still hold apart (Ouyang et al. 2022 asked for 4 to 9)."""
IS_LEARNT = ("weight", "train", "trainable", "loss")
"""Keys of a turn by which files of several tools say whether it is to be learnt."""
TOOL_CALLS = ("tool_calls", "function_call")
PROMPT_WORDS = frozenset(
    "prompt question questions instruction instructions input inputs query context system user human post history "
    "conversation conversations message messages dialog dialogue document article passage problem task text title body "
    "request".split()
)
"""Words in the name of a column that could hold the prompt, or a part of it."""
ABOUT_IT = frozenset(
    "id ids hash type len length tokens lang language name url index idx category count time date score source split "
    "label meta metadata model".split()
)
"""Last words of the names of columns that are about a prompt and do not hold it."""

_OF_ALL = {"prompt", "source", "run", "prompt_split", "prompt_source"}
_OF_JUDGMENTS = _OF_ALL | {"annotator", "annotator_kind", "criterion", "judgment", "created", "subset"}
_OF_PAIRS = {"chosen", "rejected", "grade", "margin", "tie", "preference", "chosen_safe", "rejected_safe", "group_id"}
COLUMNS: dict[Kind, set[str]] = {
    "prompts": _OF_ALL,
    "demonstrations": _OF_ALL | {"completion", "messages", "annotator", "judgment"},
    "comparisons": _OF_JUDGMENTS | _OF_PAIRS | {"shown_first", "soft_preference", "seconds", "probability_first"},
    "rankings": _OF_JUDGMENTS | {"responses", "ranks", "group_id", "seconds"},
    "ratings": _OF_JUDGMENTS | {"completion", "messages", "rating"},
    "labels": _OF_JUDGMENTS | {"completion", "messages", "label"},
}
"""Columns that are read; any other is counted and said."""


@dataclass
class Notes:
    """What has to be said about rows that were read.

    left_out   why -> how many rows, or parts of rows, are not used
    unread     column, or column.key of something in it -> how many rows have it although nothing reads it
    prompts    column that nothing reads, though it could hold the prompt or a part of it -> how many rows have it
    guessed    what was taken for granted -> in how many rows
    """

    left_out: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)
    guessed: Counter[str] = field(default_factory=Counter)


class NotUsed(Exception):
    """A row cannot be used, for a reason that is no mistake in it: it is counted, and the others are read."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of a file.

    reason   why it is not to be learnt, as it is counted: "turns of weight 0"; None where it may be
    """

    message: Message
    reason: str | None


def could_hold_prompt(name: str, value: Any) -> bool:
    """Whether a column that nothing reads might be what was asked, by its name and by what it holds."""
    if not value or not isinstance(value, str | list | dict) or (isinstance(value, str) and value.isspace()):
        return False
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return not PROMPT_WORDS.isdisjoint(words) and words[-1] not in ABOUT_IT


def text_of(content: Any) -> str | None:
    """The text of a message's content: its own, or those of its parts, one to a line; None where it has others."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "\n".join(texts) if all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]


NOT_LOOKED_INTO = frozenset({"annotations", "completed_by"})
"""Keys whose inside is free."""


def keys_within(value: Any, known: Iterable[str]) -> set[str]:
    """Keys of the mappings in a value, at any depth, that are not known and have a value."""
    found: set[str] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            found.update(key for key, inner in one.items() if key not in known and inner is not None)
            waiting += [inner for key, inner in one.items() if key in known and key not in NOT_LOOKED_INTO]
    return found


def split_of(messages: list[Message], held_out_share: float) -> Split:
    """The split that a prompt belongs to: depends on its text and on the share alone."""
    return "held_out" if unit_interval("split", messages) < held_out_share else "train"


@dataclass(slots=True)
class Row:
    """One row, with where it stands for error messages.

    default_run   what its judgments belong to where it names no run
    notes         where it is counted what is not used or read
    pseudonym     what an annotator is called whose name is an address
    judges        what annotators are where the row does not say
    """

    values: dict[str, Any]
    where: str
    held_out_share: float
    default_run: str = "import"
    notes: Notes = field(default_factory=Notes)
    pseudonym: Callable[[str], str] = str
    judges: AnnotatorKind = "imported"

    def column(self, name: str) -> Any:
        """A column that must be there."""
        if name not in self.values:
            found = ", ".join(sorted(self.values)) or "none"
            hint = nearest(name, self.values)
            raise DataError(f"{self.where}: column `{name}` is missing (columns: {found}).{hint}")
        return self.values[name]

    def messages(self, name: str, *, role: str, may_be_empty: bool = False) -> list[Message]:
        """The column as messages; plain text becomes one message of the given role.

        may_be_empty   a message list, which nobody writes by oversight, may end in an empty answer

        Raises NotUsed where the last of them calls a tool, which no text says.
        """
        turns = self.turns(name, role=role)
        if turns[-1].reason == "turns that call a tool":
            raise NotUsed(f"rows whose `{name}` ends in a call of a tool")
        if not may_be_empty and not turns[-1].message["content"].strip():
            raise DataError(f"{self.where}: `{name}` is empty.")
        return [turn.message for turn in turns]

    def turns(self, name: str, *, role: str, weighed: bool = False) -> list[Turn]:
        """Messages, as by `messages`, with what is not to be learnt.

        weighed   whether a turn may say so itself, by one of IS_LEARNT
        """
        value = self.column(name)
        if isinstance(value, str):
            if not value or value.isspace():
                raise DataError(f"{self.where}: `{name}` is empty.")
            return [Turn({"role": role, "content": value}, None)]
        if not isinstance(value, list) or not value:
            raise DataError(f"{self.where}: `{name}` must be text or a list of messages.")
        turns = [self._turn(name, message, weighed) for message in value]
        if any(len(message) > 2 or not isinstance(message.get("content"), str) for message in value):
            known = {"role", "content", "type", "text", *(IS_LEARNT if weighed else ())}
            self.notes.unread.update(f"{name}.{key}" for key in keys_within(value, known))
        return turns

    def _turn(self, name: str, message: Any, weighed: bool) -> Turn:
        if not isinstance(message, dict):
            raise DataError(f"{self.where}: each message of `{name}` needs `role` and a text `content`.")
        calls = any(message.get(key) for key in TOOL_CALLS)
        content = message.get("content")
        text = "" if content is None and calls else text_of(content)
        if text is None:
            what = "a list with parts that are no text" if isinstance(content, list) else f"{content!r:.60}"
            wanted = "needs `role` and a text `content`" if "content" not in message else f"has as `content` {what}"
            raise DataError(f"{self.where}: a message of `{name}` {wanted}; content is text, or a list of text parts.")
        if message.get("role") not in ROLES:
            raise DataError(f"{self.where}: role {message.get('role')!r} in `{name}`; known: {', '.join(ROLES)}.")
        reason = None
        if calls:
            reason = "turns that call a tool"
        elif weighed and not self._is_learnt(name, message):
            reason = "turns of weight 0"
        elif not text.strip():
            reason = "turns that are empty"
        return Turn({"role": message["role"], "content": text}, reason)

    def _is_learnt(self, name: str, message: Mapping[str, Any]) -> bool:
        for key in IS_LEARNT:
            value = message.get(key)
            if value is not None and value not in (0, 1):
                raise DataError(f"{self.where}: `{key}` of a turn in `{name}` is {value!r}; 1 for learnt, 0 for not.")
            if value is not None and not value:
                return False
        return True

    def annotator(self) -> str | None:
        """Who said it, where the row says so: by a pseudonym if the name is an address."""
        name = self.text_or_none("annotator")
        if name is not None and len(name) > LONGEST_NAME:
            raise DataError(f"{self.where}: `annotator` has over {LONGEST_NAME} characters.")
        return name if name is None or "@" not in name else self.pseudonym(name)

    def annotator_kind(self) -> AnnotatorKind:
        """What the annotator is."""
        kind = self.values.get("annotator_kind")
        if kind is not None and kind not in get_args(AnnotatorKind):
            known = ", ".join(get_args(AnnotatorKind))
            raise DataError(f"{self.where}: `annotator_kind` is {kind!r:.60}; known: {known}.")
        return kind or self.judges

    def criterion(self, default: str) -> str:
        """What was asked."""
        name = self.text("criterion", default)
        if len(name) > LONGEST_CRITERION:
            raise DataError(f"{self.where}: `criterion` has over {LONGEST_CRITERION} characters.")
        return name

    def time(self) -> str:
        """When it was said, in UTC; empty where the row does not say."""
        given = self.values.get("created")
        if given is None:
            return ""
        try:
            moment = datetime.fromisoformat(given)
            return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC).isoformat()
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{self.where}: `created` is {given!r:.60}; write a time by ISO 8601, as in 2026-01-31T12:00:00Z."
            ) from None

    def seconds(self) -> float | None:
        """Time taken."""
        return self.number("seconds", 0.0, MOST_SECONDS)

    def run(self) -> str:
        """The import that its judgments belong to: one of its own for each run that an export names."""
        name = self.values.get("run")
        return self.default_run if name is None else _imported_run(self.text("run", ""))

    def text_or_none(self, name: str) -> str | None:
        """A column that may be missing."""
        return None if self.values.get(name) is None else self.text(name, "")

    def key(self, name: str) -> str | None:
        """A column that may be missing: an id as the store makes them."""
        value = self.text_or_none(name)
        if value is not None and len(value) > LONGEST_KEY:
            raise DataError(f"{self.where}: `{name}` has over {LONGEST_KEY} characters.")
        return value

    def text(self, name: str, default: str) -> str:
        """A column that may be missing."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{self.where}: `{name}` must be text, not {value!r:.60}.")
        return value

    def number(self, name: str, least: float = -math.inf, most: float = math.inf) -> float | None:
        """A column that may be missing."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{self.where}: `{name}` must be a number, not {value!r:.60}.")
        try:
            number = float(value)
        except OverflowError:
            raise DataError(f"{self.where}: `{name}` is a number of over 300 digits.") from None
        if not math.isfinite(number):
            raise DataError(f"{self.where}: `{name}` must be a number, not {value!r}.")
        if not least <= number <= most:
            raise DataError(f"{self.where}: `{name}` must be from {least:g} to {most:g}, not {value}.")
        return number

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
        if isinstance(value, str) and value in words:
            return words[value]
        known = ", ".join(f"{number} ({name})" for number, name in GRADES.items())
        raise DataError(f"{self.where}: `grade` is {value!r:.60}; known: {known}.")

    def answer(self) -> tuple[Prompt, list[str]]:
        """`prompt` and `completion`, or `messages` whose last turn is the answer."""
        if "messages" in self.values and "completion" not in self.values:
            messages = self.messages("messages", role="user", may_be_empty=True)
            if messages[-1]["role"] != "assistant":
                raise DataError(f"{self.where}: `messages` must end with the assistant's answer that is meant.")
            return self.prompt(messages[:-1]), [messages[-1]["content"]]
        completion = self.messages("completion", role="assistant", may_be_empty=True)
        if [message["role"] for message in completion] != ["assistant"]:
            raise DataError(f"{self.where}: `completion` must be exactly one assistant turn.")
        return self.prompt(self.messages("prompt", role="user")), [completion[0]["content"]]

    def prompt(self, messages: list[Message]) -> Prompt:
        """The messages as a prompt, with its split."""
        if not messages or messages[-1]["role"] == "assistant":
            raise DataError(f"{self.where}: a prompt must end with a user's turn.")
        split = self.values.get("prompt_split")
        if split is not None and split not in get_args(Split):
            raise DataError(f"{self.where}: `prompt_split` is one of {', '.join(get_args(Split))}, not {split!r}.")
        source = self.values.get("prompt_source", self.values.get("source", "import"))
        return _prompt(tuple((m["role"], m["content"]) for m in messages), split, self.held_out_share, str(source))


@lru_cache(maxsize=256)
def _prompt(turns: tuple[tuple[str, str], ...], split: Split | None, held_out_share: float, source: str) -> Prompt:
    """Kept for a while, since many files have the comparisons of a prompt one after the other."""
    messages = [{"role": role, "content": content} for role, content in turns]
    return Prompt(messages, split or split_of(messages, held_out_share), source)


@lru_cache(maxsize=1024)
def _imported_run(name: str) -> str:
    """Depends on the name alone, so that the files of one export agree."""
    return f"import-{content_id('run', name)[:8]}"


def _read_prompt(row: Row) -> list[Prompt]:
    return [row.prompt(row.messages("prompt", role="user"))]


def _read_demonstrations(row: Row) -> list[Demonstration]:
    """Demonstrations of a row: of `messages` every assistant turn is one; of `prompt` and `completion` those of the
    completion are."""
    for verdict, kind in (("label", "labels"), ("rating", "ratings")):
        if verdict in row.values:
            raise DataError(
                f"{row.where}: `{verdict}` says how good the answer is, but demonstrations are learnt whatever it is. "
                f"Import the file with --kind {kind}, or leave the column out of rows that are to be learnt."
            )
    if "messages" in row.values:
        given, turns = 1, row.turns("messages", role="user", weighed=True)
        if not turns[-1].message["content"].strip() and turns[-1].reason == "turns that are empty":
            raise DataError(f"{row.where}: `messages` is empty at its end.")
    else:
        prompt = row.messages("prompt", role="user")
        given = len(prompt)
        turns = [Turn(message, None) for message in prompt] + row.turns("completion", role="assistant", weighed=True)
        if not turns[-1].message["content"].strip() and turns[-1].reason == "turns that are empty":
            raise DataError(f"{row.where}: `completion` is empty.")
    answers = [i for i, turn in enumerate(turns) if turn.message["role"] == "assistant"]
    if not any(i >= given for i in answers):
        raise DataError(f"{row.where}: there is no assistant turn to learn from.")
    if "messages" in row.values and answers[0] == 0:
        row.notes.left_out["first turns, which answer nothing"] += 1
    row.notes.left_out.update(reason for i in answers if i >= given for reason in [turns[i].reason] if reason)
    source = str(row.values.get("source", "import"))
    who, judgment = row.annotator(), row.key("judgment")
    conversation = [turn.message for turn in turns]
    return [
        Demonstration(row.prompt(conversation[:i]), conversation[i]["content"], source, who, judgment)
        for i in answers
        if i >= given and turns[i].reason is None
    ]


@dataclass(slots=True)
class JudgedRow:
    """What a row says: responses, and judgments of them."""

    prompt: Prompt
    responses: list[Response]
    annotator: str
    annotator_kind: AnnotatorKind
    run: str
    judgment: str | None
    created: str
    comparisons: list[Comparison]
    labels: list[Label]

    def under(self, judgment: str) -> JudgedRow:
        """The same as a judgment of its own, beside another in the same place."""

        def own(ranking: str | None) -> str | None:
            return None if ranking is None else content_id(ranking, judgment)

        pairs = [replace(pair, judgment=judgment, ranking=own(pair.ranking)) for pair in self.comparisons]
        labels = [replace(label, judgment=judgment) for label in self.labels]
        return replace(self, judgment=judgment, comparisons=pairs, labels=labels)

    def label(self, response: str, value: float, criterion: str) -> None:
        """Add a judgment of one response."""
        self.labels.append(
            Label(self.prompt.id, response, self.annotator, value, self.run, criterion, self.created, self.judgment)
        )


def _judged(row: Row, prompt: Prompt, texts: list[str]) -> JudgedRow:
    """The responses of a row, which nobody has judged yet."""
    run = row.run()
    ids = [f"{run}:{content_id(prompt.id, text)}" for text in texts]
    responses = [Response(i, prompt.id, text, run) for i, text in zip(ids, texts, strict=True)]
    kind = row.annotator_kind()
    annotator = row.annotator() or UNNAMED.get(kind, UNNAMED["imported"])
    return JudgedRow(prompt, responses, annotator, kind, run, row.key("judgment"), row.time(), [], [])


def _read_comparison(row: Row) -> list[JudgedRow]:
    prompt, chosen, rejected = _sides(row)
    chosen_is_first = _shown_first(row)
    judged = _judged(row, prompt, [chosen, rejected] if chosen_is_first else [rejected, chosen])
    first, second = (response.id for response in judged.responses)
    choice, soft = _choice(row, chosen_is_first)
    judged.comparisons.append(
        Comparison(
            prompt.id, first, second, judged.annotator, choice, judged.run, row.grade(),
            row.number("probability_first", 0.0, 1.0), row.seconds(), judged.created,
            row.criterion(""), soft, row.key("group_id"), judged.judgment,
        )
    )  # fmt: skip
    for is_first, column in ((chosen_is_first, "chosen_safe"), (not chosen_is_first, "rejected_safe")):
        safe = row.yes_or_no(column)
        if safe is not None:
            judged.label(first if is_first else second, float(safe), SAFE)
    return [judged]


def _shown_first(row: Row) -> bool:
    """Whether chosen stood before rejected."""
    shown = row.values.get("shown_first", "chosen")
    if shown not in ("chosen", "rejected"):
        raise DataError(f"{row.where}: `shown_first` is chosen or rejected, not {shown!r}.")
    return bool(shown == "chosen")


def _choice(row: Row, chosen_is_first: bool) -> tuple[Choice, float | None]:
    """(which was chosen, the degree of preference for the first where there is one)."""
    exact = row.number("soft_preference", 0.0, 1.0)  # as the store had it, beside a choice that need not follow from it
    soft = row.number("preference", 0.0, 1.0) if exact is None else None
    tie = row.yes_or_no("tie") or soft == 0.5
    if tie and soft not in (None, 0.5):
        raise DataError(f"{row.where}: a tie with a `preference` of {soft} contradicts itself.")
    if tie:
        return "tie", soft if exact is None else exact
    first_is_better = chosen_is_first == (soft is None or soft > 0.5)
    if soft is not None and not chosen_is_first:
        soft = 1 - soft
    return "first" if first_is_better else "second", soft if exact is None else exact


def _read_ranking(row: Row) -> list[JudgedRow]:
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
    judged = _judged(row, prompt, texts)
    criterion, seconds = row.criterion(""), row.seconds()
    made = content_id(judged.run, judged.annotator, criterion, sorted(response.id for response in judged.responses))
    ranking = row.key("group_id") or made
    for i, j in combinations(range(len(texts)), 2):
        first, second = judged.responses[i].id, judged.responses[j].id
        choice: Choice = "tie" if ranks[i] == ranks[j] else "first" if ranks[i] < ranks[j] else "second"
        judged.comparisons.append(
            Comparison(
                prompt.id, first, second, judged.annotator, choice, judged.run, seconds=seconds,
                created=judged.created, criterion=criterion, ranking=ranking, judgment=judged.judgment,
            )
        )  # fmt: skip
    return [judged]


def _read_rating(row: Row) -> list[JudgedRow]:
    judged = _judged(row, *row.answer())
    rating, criterion = row.number("rating"), row.criterion("rating")
    if rating is None:
        row.column("rating")  # says which columns there are
        raise DataError(f"{row.where}: `rating` must be a number, not None.")
    if criterion in (DESIRABLE, SAFE):
        raise DataError(f"{row.where}: criterion `{criterion}` is yes or no; import it with --kind labels.")
    judged.label(judged.responses[0].id, rating, criterion)
    return [judged]


def _read_label(row: Row) -> list[JudgedRow]:
    judged = _judged(row, *row.answer())
    criterion = row.criterion(DESIRABLE)
    if criterion not in (DESIRABLE, SAFE):
        raise DataError(f"{row.where}: a label's criterion is `{DESIRABLE}` or `{SAFE}`, not `{criterion}`.")
    value = row.column("label")
    if not isinstance(value, bool):
        raise DataError(f"{row.where}: `label` must be true or false, not {value!r}.")
    judged.label(judged.responses[0].id, float(value), criterion)
    return [judged]


READERS: dict[Kind, Callable[[Row], list[Any]]] = {
    "prompts": _read_prompt,
    "demonstrations": _read_demonstrations,
    "comparisons": _read_comparison,
    "rankings": _read_ranking,
    "ratings": _read_rating,
    "labels": _read_label,
}
"""Kind -> what makes prompts, demonstrations, or a JudgedRow of the others."""


def _sides(row: Row) -> tuple[Prompt, str, str]:
    """(prompt, chosen, rejected) of a comparison in any of its forms."""
    chosen = row.messages("chosen", role="assistant", may_be_empty=True)
    rejected = row.messages("rejected", role="assistant", may_be_empty=True)
    if "prompt" in row.values:
        context = row.messages("prompt", role="user")
        if chosen[: len(context)] == context:  # whole conversations given beside the prompt
            chosen, rejected = chosen[len(context) :], rejected[len(context) :]
    elif isinstance(row.values["chosen"], str) and isinstance(row.values["rejected"], str):
        context, chosen, rejected = _shared_text(row, chosen[0]["content"], rejected[0]["content"])
        row.notes.guessed["rows have no `prompt`: how chosen and rejected both begin was taken for it"] += 1
    else:
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        context, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not context:
            raise _no_prompt(row)
    if [m["role"] for m in chosen] != ["assistant"] or [m["role"] for m in rejected] != ["assistant"]:
        raise DataError(f"{row.where}: chosen and rejected must each end in exactly one assistant turn of their own.")
    if chosen == rejected:
        raise DataError(f"{row.where}: chosen and rejected are the same text, so there is nothing to learn.")
    return row.prompt(context), chosen[0]["content"], rejected[0]["content"]


def _no_prompt(row: Row) -> DataError:
    """Names the columns that could be it."""
    others = [name for name, value in row.values.items() if name not in COLUMNS["comparisons"]]
    others = [name for name in others if could_hold_prompt(name, row.values[name])]
    if not others:
        return DataError(f"{row.where}: there is no `prompt`, and chosen and rejected share no beginning.")
    there = " and ".join(f"`{name}`" for name in sorted(others))
    return DataError(
        f"{row.where}: there is no `prompt`, but {there} could be it. Name the column `prompt`; a system message and a "
        'question together are a list: "prompt": [{"role": "system", "content": ...}, {"role": "user", ...}].'
    )


def _shared_text(row: Row, chosen: str, rejected: str) -> tuple[list[Message], list[Message], list[Message]]:
    """Two plain texts without a prompt column: the prompt is what they share, up to the last whole word."""
    if any(could_hold_prompt(name, row.values[name]) for name in row.values.keys() - COLUMNS["comparisons"]):
        raise _no_prompt(row)
    prompt = os.path.commonprefix([chosen, rejected])
    prompt = prompt[: prompt.rfind(" ") + 1]
    if not prompt.strip():
        raise _no_prompt(row)
    replies = ([{"role": "assistant", "content": text[len(prompt) :]}] for text in (chosen, rejected))
    return [{"role": "user", "content": prompt.strip()}], *replies  # type: ignore[return-value]
