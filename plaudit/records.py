"""The plain data that stages exchange through the store: no tensors, no database.

A conversation is a list of messages `{"role": "user" | "assistant" | "system", "content": str}`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, str]
Split = Literal["train", "held_out"]
Choice = Literal["first", "second", "tie"]

GRADES = {1: "negligibly better", 2: "slightly better", 3: "better", 4: "significantly better"}
"""Llama 2's four grades of a preference (Touvron et al. 2023, section 3.2.1)."""


def content_id(*parts: object) -> str:
    """The first 16 hex digits of a SHA-256 over the parts: equal content has an equal id on every machine."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def unit_interval(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone: the seed of every split and simulated choice."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


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

    @property
    def id(self) -> str:
        """Equal for an equal prompt and answer."""
        return content_id(self.prompt.id, self.text)


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
    """Of each sampled token under the sampling policy at its temperature, nats."""
    finished: bool = True
    """Whether the answer ended by a stop token rather than at the length limit."""
    temperature: float | None = None


@dataclass(frozen=True)
class Annotator:
    """Somebody, or something, that compares responses."""

    name: str
    kind: Literal["person", "simulated", "imported"]
    parameters: dict[str, Any] = field(default_factory=dict)


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
    """Time taken by a person."""
    created: str = ""
    """ISO 8601 time in UTC; the store fills it in."""

    @property
    def id(self) -> str:
        """One judgment per run, annotator and unordered pair."""
        return content_id(self.run, self.annotator, sorted((self.first, self.second)))

    @property
    def preference_first(self) -> float:
        """1 when the first was chosen, 0 when the second was, 0.5 for a tie."""
        return {"first": 1.0, "second": 0.0, "tie": 0.5}[self.choice]

    def swap(self) -> Comparison:
        """The same judgment with the two sides exchanged."""
        choice: Choice = {"first": "second", "second": "first", "tie": "tie"}[self.choice]  # type: ignore[assignment]
        probability = None if self.probability_first is None else 1 - self.probability_first
        return Comparison(
            self.prompt_id, self.second, self.first, self.annotator, choice, self.run,
            self.grade, probability, self.seconds, self.created,
        )  # fmt: skip


@dataclass(frozen=True)
class Label:
    """One judgment of one response: liked, or not."""

    prompt_id: str
    response: str
    annotator: str
    desirable: bool
    run: str
    created: str = ""
    """ISO 8601 time in UTC; the store fills it in."""

    @property
    def id(self) -> str:
        """One label per run, annotator and response."""
        return content_id(self.run, self.annotator, self.response)
