"""The plain data that stages exchange through the store: no tensors, no database.

A conversation is a list of messages `{"role": "user" | "assistant" | "system", "content": str}`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import combinations
from typing import Any, Literal

from plaudit.stages import RUN

Message = dict[str, str]
Split = Literal["train", "held_out", "aside"]
"""What a prompt is for: to learn from, to measure on, or neither, such as a task whose answer is known beforehand."""
Choice = Literal["first", "second", "tie"]
AnnotatorKind = Literal["person", "simulated", "model", "imported"]
"""Imported: somebody named by a file that does not say what they are, which is taken to be a person."""


class JudgmentKind(StrEnum):
    """The four kinds of judgment, by the word that files, exports and settings have for them.

    COMPARISONS  which of two answers is better
    RANKINGS     an order of several answers
    RATINGS      a number of one answer
    LABELS       yes or no of one answer: whether it is liked, or safe
    """

    COMPARISONS = "comparisons"
    RANKINGS = "rankings"
    RATINGS = "ratings"
    LABELS = "labels"

    @property
    def task(self) -> str:
        """The verb for it, as in campaigns and for judges that are models."""
        return TASKS[self]


TASKS = {
    JudgmentKind.COMPARISONS: "compare",
    JudgmentKind.RANKINGS: "rank",
    JudgmentKind.RATINGS: "rate",
    JudgmentKind.LABELS: "safety",
}

GRADES = {1: "negligibly better", 2: "slightly better", 3: "better", 4: "significantly better"}
"""Llama 2's four grades of a preference (Touvron et al. 2023, section 3.2.1)."""


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
_encode_in_ascii = json.JSONEncoder(sort_keys=True).encode
_quoted = json.encoder.encode_basestring
_quoted_in_ascii = json.encoder.encode_basestring_ascii


def content_id(*parts: object) -> str:
    """The first 16 hex digits of a SHA-256 over the parts: equal content has an equal id on every machine."""
    return hashlib.sha256((_flat(parts, _quoted) or _encode(parts)).encode()).hexdigest()[:16]


def unit_interval(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone: the seed of every split and simulated choice."""
    text = _flat(parts, _quoted_in_ascii) or _encode_in_ascii(parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def _flat(parts: tuple[object, ...], quoted: Callable[[str], str]) -> str | None:
    """JSON of texts and of lists of texts or messages, as the encoder writes it, in a third of its time; else None.

    Imports make five ids a row, which is much of what they do.
    """
    written = []
    for part in parts:
        if type(part) is str:
            written.append(quoted(part))
        elif type(part) is list:
            try:
                written.append(f"[{', '.join([_item(item, quoted) for item in part])}]")
            except (TypeError, KeyError):
                return None
        else:
            return None
    return f"[{', '.join(written)}]"


def _item(item: Any, quoted: Callable[[str], str]) -> str:
    """A text, or a message with its keys in order. Raises TypeError or KeyError for anything else."""
    if type(item) is str:
        return quoted(item)
    if len(item) != 2:
        raise TypeError
    return f'{{"content": {quoted(item["content"])}, "role": {quoted(item["role"])}}}'


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with the turn to be answered."""

    messages: list[Message]
    split: Split = "train"
    source: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.messages))

    @property
    def text(self) -> str:
        """The last turn, which is what a person reads as the question."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Demonstration:
    """An answer that a person wrote to a prompt."""

    prompt: Prompt
    text: str
    source: str = ""
    annotator: str | None = None
    """Who wrote it, where that is known."""
    judgment: str | None = None
    """What was submitted on the pages for people, if it came from there."""

    @property
    def id(self) -> str:
        """Equal for an equal prompt and answer that came the same way."""
        made = (self.source,) if RUN.fullmatch(self.source) else ()
        return content_id(self.prompt.id, self.text, *_handed_in(self.judgment), *made)


@dataclass(frozen=True)
class Response:
    """An answer that a model gave (or that was imported beside a comparison)."""

    id: str
    prompt_id: str
    text: str
    run: str
    """The sampling run, or `import` for imported text."""
    token_ids: list[int] | None = None
    """The ids exactly as sampled, the stop token included; None for imported text."""
    log_probs: list[float] | None = None
    """Log-probs of the sampled tokens under the sampling policy at its temperature, nats."""
    finished: bool = True
    """Whether the answer ended by a stop token rather than at the length limit."""
    temperature: float | None = None


@dataclass(frozen=True)
class Annotator:
    """Somebody, or something, that compares responses."""

    name: str
    kind: AnnotatorKind
    parameters: dict[str, Any] = field(default_factory=dict)


UNNAMED = {"imported": "imported", "model": "imported-model", "simulated": "imported-simulated"}
"""Kind -> who is said to have judged where a file names nobody: each such judgment may be of somebody else."""


def is_named(annotator: str) -> bool:
    """Whether it is one annotator, so that two judgments of the same contradict or repeat each other."""
    return annotator not in UNNAMED.values()


@dataclass(frozen=True)
class Comparison:
    """One judgment: which of two responses is better, in the order in which they were shown."""

    prompt_id: str
    first: str
    second: str
    annotator: str
    choice: Choice
    run: str
    grade: int | None = None
    """How much better, 1 to 4 (see GRADES); None where the annotator gave no grade."""
    probability_first: float | None = None
    """For simulated annotators: the probability with which they choose the first."""
    seconds: float | None = None
    """Time taken, by a person or as simulated."""
    created: str = ""
    """ISO 8601 time in UTC; the store fills it in."""
    criterion: str = ""
    """What was asked, such as "helpfulness"; empty for which is better altogether."""
    soft_preference: float | None = None
    """The annotator's own degree of preference for the first, 0 to 1, where one was given beside the choice."""
    ranking: str | None = None
    """Ranking of several responses that a pair is part of."""
    judgment: str | None = None
    """What was submitted on the pages for people, if it came from there; a correction comes from another."""

    @property
    def id(self) -> str:
        """One judgment per run, annotator, criterion and unordered pair; corrections apart."""
        asked = [self.criterion] if self.criterion else []
        pair = sorted((self.first, self.second))
        return content_id(self.run, self.annotator, pair, *asked, *_handed_in(self.judgment))

    @property
    def preference_first(self) -> float:
        """The soft preference; without one 1 when the first was chosen, 0 when the second was, 0.5 for a tie."""
        if self.soft_preference is not None:
            return self.soft_preference
        return {"first": 1.0, "second": 0.0, "tie": 0.5}[self.choice]

    def in_order_of_ids(self) -> Comparison:
        """The same judgment with the two responses in the order of their ids, whatever was shown."""
        return self if self.first <= self.second else self.swap()

    def swap(self) -> Comparison:
        """The same judgment with the two sides exchanged."""
        choice: Choice = {"first": "second", "second": "first", "tie": "tie"}[self.choice]  # type: ignore[assignment]

        def other(chance: float | None) -> float | None:
            return None if chance is None else 1 - chance

        return replace(
            self, first=self.second, second=self.first, choice=choice,
            probability_first=other(self.probability_first), soft_preference=other(self.soft_preference),
        )  # fmt: skip


DESIRABLE, SAFE = "desirable", "safe"
"""Criteria of labels that are yes or no: 1 for yes, 0 for no. Any other criterion is a rating on a scale of its own."""


@dataclass(frozen=True)
class Label:
    """One judgment of one response by itself: whether it was liked, whether it is safe, or how good it is."""

    prompt_id: str
    response: str
    annotator: str
    value: float
    run: str
    criterion: str = DESIRABLE
    created: str = ""
    """ISO 8601 time in UTC; the store fills it in."""
    judgment: str | None = None
    """Kind of the annotator's answer, as in a Comparison."""

    @property
    def id(self) -> str:
        """One label per run, annotator, criterion and response; corrections apart."""
        asked = [] if self.criterion == DESIRABLE else [self.criterion]
        return content_id(self.run, self.annotator, self.response, *asked, *_handed_in(self.judgment))


def implied_comparisons(ratings: Iterable[Label]) -> list[Comparison]:
    """Comparisons implied by ratings: of two responses that one person rated by one criterion, the higher is better.

    Of people who are not named, whose ratings of a response may be several, each rating stands against each.
    """
    by_rater: dict[tuple[str, ...], list[Label]] = defaultdict(list)
    for rating in ratings:
        by_rater[rating.run, rating.prompt_id, rating.annotator, rating.criterion].append(rating)
    return [
        Comparison(
            one.prompt_id,
            one.response,
            other.response,
            one.annotator,
            "first" if one.value > other.value else "second" if one.value < other.value else "tie",
            one.run,
            criterion=one.criterion,
        )
        for rated in by_rater.values()
        for one, other in combinations(rated, 2)
        if one.response != other.response
    ]


def _handed_in(judgment: str | None) -> list[str]:
    return [] if judgment is None else [f"judgment {judgment}"]
