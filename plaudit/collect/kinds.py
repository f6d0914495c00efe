"""The kinds of task: what an answer is, whether it is right where the answer is known, and what is learnt from it.

    kind          what a person does                          the answer, as kept
    compare       says which of two answers is better         {"choice": RESPONSE | "tie" | "both_bad", "grade": 1..4}
    rank          orders 3 to 9 answers, ties allowed         {"ranks": {RESPONSE: 1, ...}}, 1 the best
    rate          rates each answer on a scale                {"ratings": {RESPONSE: 5, ...}}
    safety        says of each answer whether it is safe      {"safe": {RESPONSE: true, ...}}
    demonstrate   writes an answer                            {"text": ...}
    edit          makes an answer better                      {"text": ...}

A page never learns the ids of responses, which name the model that gave them: it speaks of places, 0 for the answer
shown first. `read` turns places into ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from plaudit.errors import DataError
from plaudit.records import (
    GRADES,
    SAFE,
    Choice,
    Comparison,
    Demonstration,
    JudgmentKind,
    Label,
    Prompt,
    Response,
    content_id,
)
from plaudit.store.database import CAMPAIGN

MOST_CHARACTERS = 50_000
"""Most characters of a text that somebody writes."""
RIGHT_ORDER = 0.75
"""Share of a ranking's known pairs that must be ordered as known; Ouyang et al. 2022 screened at 75 % agreement."""
Answer = dict[str, Any]
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Derived:
    """What the stages learn from a judgment."""

    comparisons: list[Comparison] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    demonstrations: list[Demonstration] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)


@dataclass(frozen=True)
class Said:
    """A judgment in its context, from which records are made."""

    prompt: Prompt
    shown: Sequence[str]
    answer: Answer
    campaign: str
    criterion: str
    annotator: str
    judgment: str
    seconds: float | None
    texts: Mapping[str, str]
    """Response id -> its text."""

    @property
    def run(self) -> str:
        """Where it comes from, as the stages see it."""
        return CAMPAIGN + self.campaign


@dataclass(frozen=True)
class Kind:
    """What differs between kinds of task."""

    read: Callable[[Facts, Sequence[str], Facts], Answer]
    """(form fields by place, response ids as shown, the campaign's settings) -> the answer; DataError if bad"""
    derive: Callable[[Said], Derived]
    is_right: Callable[[Answer, Answer], bool] | None
    """(answer, known answer); None where no answer is the right one"""
    fewest: int
    most: int
    """Responses of a task."""


def _place(value: Any, shown: Sequence[str]) -> str:
    if isinstance(value, str) and value.isdecimal() and len(value) < 9 and int(value) < len(shown):
        return shown[int(value)]
    raise DataError("choose one of the answers shown.")


def _whole(value: Any, what: str, least: int, most: int) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 9 and least <= int(value) <= most:
        return int(value)
    raise DataError(f"{what} must be a whole number from {least} to {most}.")


def _read_comparison(form: Facts, shown: Sequence[str], settings: Facts) -> Answer:
    choice = form.get("choice")
    if choice in ("tie", "both_bad"):
        return {"choice": choice}
    return {"choice": _place(choice, shown), "grade": _whole(form.get("grade"), "how much better", 1, max(GRADES))}


def _read_ranking(form: Facts, shown: Sequence[str], settings: Facts) -> Answer:
    ranks = [_whole(form.get(f"rank-{i}"), f"the rank of answer {i + 1}", 1, len(shown)) for i in range(len(shown))]
    order = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}  # 1, 3, 3 is kept as 1, 2, 2
    return {"ranks": {response: order[rank] for response, rank in zip(shown, ranks, strict=True)}}


def _read_ratings(form: Facts, shown: Sequence[str], settings: Facts) -> Answer:
    low, high = settings["scale"]
    ratings = {
        r: _whole(form.get(f"rating-{i}"), f"the rating of answer {i + 1}", low, high) for i, r in enumerate(shown)
    }
    return {"ratings": ratings}


def _read_safety(form: Facts, shown: Sequence[str], settings: Facts) -> Answer:
    said = {response: form.get(f"safe-{i}") for i, response in enumerate(shown)}
    if not set(said.values()) <= {"yes", "no"}:
        raise DataError("say of every answer whether it is safe.")
    return {"safe": {response: value == "yes" for response, value in said.items()}}


def _as_written(text: str) -> str:
    """Without what forms add: two characters a line end, empty lines around. The first line keeps its indentation."""
    return text.replace("\r\n", "\n").strip("\n").rstrip()


def _read_text(form: Facts, shown: Sequence[str], settings: Facts) -> Answer:
    text = form.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError("the answer is empty; write one, or skip the task.")
    text = _as_written(text)
    if len(text) > MOST_CHARACTERS:
        raise DataError(f"the answer has {len(text)} characters; at most {MOST_CHARACTERS} are kept. Shorten it.")
    if "\0" in text:
        raise DataError("the answer has a NUL character, which no text should.")
    return {"text": text}


def _compared(said: Said, first: str, second: str, choice: Choice, **more: Any) -> Comparison:
    return Comparison(
        said.prompt.id, first, second, said.annotator, choice, said.run, seconds=said.seconds,
        criterion=said.criterion, judgment=said.judgment, **more,
    )  # fmt: skip


def _from_comparison(said: Said) -> Derived:
    first, second = said.shown
    chosen = said.answer["choice"]
    choice: Choice = "first" if chosen == first else "second" if chosen == second else "tie"
    return Derived([_compared(said, first, second, choice, grade=said.answer.get("grade"))])


def _from_ranking(said: Said) -> Derived:
    ranks, found = said.answer["ranks"], []
    ranking = content_id(said.run, said.annotator, said.criterion, said.judgment)
    for first, second in combinations(said.shown, 2):
        gap = ranks[second] - ranks[first]
        choice: Choice = "first" if gap > 0 else "second" if gap < 0 else "tie"
        found.append(_compared(said, first, second, choice, ranking=ranking))
    return Derived(found)


def _labelled(said: Said, values: Mapping[str, float], criterion: str) -> Derived:
    labels = [
        Label(said.prompt.id, response, said.annotator, float(value), said.run, criterion, judgment=said.judgment)
        for response, value in values.items()
    ]
    return Derived(labels=labels)


def _written(said: Said) -> Demonstration:
    return Demonstration(said.prompt, said.answer["text"], said.run, said.annotator, said.judgment)


def _from_edit(said: Said) -> Derived:
    """A demonstration, and that it is better than what was edited, unless nothing was changed."""
    (original,) = said.shown
    text = said.answer["text"]
    if text == _as_written(said.texts[original]):
        return Derived(demonstrations=[_written(said)])
    edited = Response(f"{said.run}:{content_id(said.prompt.id, text, said.judgment)}", said.prompt.id, text, said.run)
    return Derived([_compared(said, edited.id, original, "first")], [], [_written(said)], [edited])


def _right_order(answer: Answer, known: Answer) -> bool:
    pairs = [(a, b) for a, b in combinations(known["ranks"], 2) if known["ranks"][a] != known["ranks"][b]]
    given = answer["ranks"]
    same = [math.copysign(1, known["ranks"][b] - known["ranks"][a]) * (given[b] - given[a]) > 0 for a, b in pairs]
    return sum(same) >= RIGHT_ORDER * len(pairs)


def _right_ratings(answer: Answer, known: Answer) -> bool:
    return all(abs(answer["ratings"][response] - value) <= 1 for response, value in known["ratings"].items())


KINDS: dict[str, Kind] = {
    JudgmentKind.COMPARISONS.task: Kind(
        _read_comparison, _from_comparison, lambda answer, known: answer["choice"] == known["choice"], 2, 2
    ),
    JudgmentKind.RANKINGS.task: Kind(_read_ranking, _from_ranking, _right_order, 3, 9),
    JudgmentKind.RATINGS.task: Kind(
        _read_ratings, lambda said: _labelled(said, said.answer["ratings"], said.criterion or "rating"),
        _right_ratings, 1, 9,
    ),
    JudgmentKind.LABELS.task: Kind(
        _read_safety, lambda said: _labelled(said, said.answer["safe"], SAFE),
        lambda answer, known: answer["safe"] == known["safe"], 1, 2,
    ),
    "demonstrate": Kind(_read_text, lambda said: Derived(demonstrations=[_written(said)]), None, 0, 0),
    "edit": Kind(_read_text, _from_edit, None, 1, 1),
}  # fmt: skip
