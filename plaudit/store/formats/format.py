"""What a format is: how its rows look, and the rows in TRL's columns that they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plaudit.records import Message
from plaudit.store.rows import Kind, text_of

Values = dict[str, Any]


class LeftOut(str):
    """Why a row, or a part of one, is not used; as it is counted and said: "answers that are empty"."""

    __slots__ = ()


@dataclass(frozen=True)
class Format:
    """A kind of file that others write.

    kinds      what can be read from it
    columns    those that are looked at; others are counted and said
    looks_so   whether a row is of this format
    convert    a row -> rows in TRL's columns, and what had to be left out
    within     column -> keys that are looked at within it, at any depth; others are counted and said too. A column that
               has none may hold anything
    """

    name: str
    kinds: tuple[Kind, ...]
    columns: frozenset[str]
    looks_so: Callable[[Values], bool]
    convert: Callable[[Values, Kind], Iterable[Values | LeftOut]]
    within: Mapping[str, frozenset[str]] = field(default_factory=dict)


MESSAGE = frozenset({"role", "content", "type", "text"})
"""Keys of a message, and of a text part of its content."""
EMPTY = LeftOut("answers that are empty")
SAME = LeftOut("pairs of equal answers")
PARTED = LeftOut("pairs whose conversations part before the last answer")
NO_TEXTS = LeftOut("conversations with messages that are no text, such as images")


def pair_of(one: Sequence[Message], other: Sequence[Message], **more: Any) -> Values | LeftOut:
    """Two conversations as prompt, chosen (the one) and rejected (the other), if they differ in the last turn alone."""
    if len(one) < 2 or list(one[:-1]) != list(other[:-1]) or one[-1]["role"] != "assistant" != other[-1]["role"]:
        return PARTED
    if not one[-1]["content"].strip() or not other[-1]["content"].strip():
        return EMPTY
    if one[-1] == other[-1]:
        return SAME
    return {"prompt": list(one[:-1]), "chosen": [one[-1]], "rejected": [other[-1]], **more}


def answer_pair(prompt: Any, one: str, other: str, **more: Any) -> Values | LeftOut:
    """Two texts that answer a prompt, the one the better."""
    if not one.strip() or not other.strip():
        return EMPTY
    if one == other:
        return SAME
    return {"prompt": prompt, "chosen": one, "rejected": other, **more}


def ranking_of(prompt: Any, texts: Sequence[str], ranks: Sequence[int], **more: Any) -> Values | LeftOut:
    """Texts with their ranks, 1 the best."""
    if not all(text.strip() for text in texts):
        return LeftOut("rankings with an empty answer")
    if len(set(texts)) < len(texts):
        return LeftOut("rankings with the same answer twice")
    if len(texts) < 2:
        return LeftOut("rankings of a single answer")
    return {"prompt": prompt, "responses": list(texts), "ranks": list(ranks), **more}


def messages_of(value: Any) -> list[Message] | None:
    """A list of messages with a role and a text, or text parts, as the whole of one; None for anything else."""
    if not isinstance(value, list) or not value:
        return None
    found = []
    for message in value:
        text = text_of(message.get("content")) if isinstance(message, dict) and "role" in message else None
        if text is None:
            return None
        found.append({"role": message["role"], "content": text})
    return found


def with_source(rows: Iterable[Values | LeftOut], name: str) -> Iterator[Values | LeftOut]:
    """Each row says where it comes from."""
    for row in rows:
        yield row if isinstance(row, LeftOut) else {"source": name, **row}
