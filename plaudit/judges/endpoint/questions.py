"""What is asked of a chat endpoint, and what comes back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from plaudit.config import EndpointSettings
from plaudit.records import Message

TEMPLATE_TOKENS, MESSAGE_TOKENS = 64, 16
"""Most that a chat template adds to a conversation, and to each of its messages."""


@dataclass(frozen=True)
class Question:
    """One conversation to be answered."""

    messages: list[Message]
    max_tokens: int = 512
    """Length limit of the answer, tokens."""
    temperature: float = 0.0
    """0 for the likeliest answer."""
    top_log_probs: int = 0
    """Alternatives of the answer's first token that are wanted with their log-probabilities."""
    seed: int | None = None
    """Seed of a sampled answer: another seed is another question."""
    stop: tuple[str, ...] = ()
    """Where the answer also ends."""


@dataclass(frozen=True)
class Reply:
    """What the endpoint answered."""

    text: str
    log_probs: tuple[tuple[str, float], ...] | None
    """Alternatives of the first sampled token with their log-probabilities, nats, the likeliest first; None where
    none were asked for or the endpoint gives none."""
    prompt_tokens: int
    """0 where the endpoint does not say; then the worst case counts as spent."""
    completion_tokens: int
    finish_reason: str
    cached: bool
    """Whether it cost nothing this time: it was kept from before, or asked by an equal question at the same time."""


@dataclass(frozen=True)
class Unanswered:
    """A question that no answer came to."""

    reason: str
    """One of a few, by which they are counted."""
    detail: str = ""
    """What the endpoint said, if it said something."""


@dataclass(frozen=True)
class Spent:
    """What a run's folder has paid for, over all restarts, and what became of one endpoint's questions."""

    requests: int
    """Requests sent, those without an answer included."""
    cached: int
    """Answers of this endpoint object that cost nothing."""
    prompt_tokens: int
    completion_tokens: int
    cost: float
    """Cost in the currency of the prices."""
    failures: dict[str, int] = field(default_factory=dict)
    """Questions that this endpoint object left unanswered, by reason."""
    unknown_tokens: int = 0
    """Most that requests may have taken whose answer was lost on the way; counts against the budget."""
    unknown_cost: float = 0.0
    """Their cost at most; counts against the budget."""


@dataclass(frozen=True)
class Request:
    """A question as it is sent."""

    body: dict[str, Any]
    key: str
    """SHA-256 of the address, the model and the whole request."""
    prompt_tokens: int
    """Most that the prompt can be: no token is shorter than a byte."""
    completion_tokens: int
    """Most that the answer can be."""
    wants_log_probs: bool


def request_of(question: Question, settings: EndpointSettings) -> Request:
    """What is sent to the endpoint for a question."""
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": question.messages,
        "max_tokens": question.max_tokens,
        "temperature": question.temperature,
    }
    if question.top_log_probs:
        body |= {"logprobs": True, "top_logprobs": question.top_log_probs}
    if question.seed is not None:
        body["seed"] = question.seed
    if question.stop:
        body["stop"] = list(question.stop)
    body = {name: value for name, value in (body | settings.extra).items() if value is not None}
    whole = json.dumps([settings.base_url.rstrip("/"), settings.model, body, question.seed], sort_keys=True)
    texts = [text for message in question.messages for text in message.values()]
    limits = [body.get(name) for name in ("max_tokens", "max_completion_tokens")]
    return Request(
        body=body,
        key=hashlib.sha256(whole.encode()).hexdigest(),
        prompt_tokens=TEMPLATE_TOKENS
        + MESSAGE_TOKENS * len(question.messages)
        + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
        completion_tokens=max([limit for limit in limits if isinstance(limit, int)], default=question.max_tokens),
        wants_log_probs=question.top_log_probs > 0,
    )
