"""Message trees as Open-Assistant exports them (Köpf et al. 2023, arXiv:2304.07327).

A row has `prompt`, a message with `text`, `role` (prompter or assistant) and `replies`, each of them such a message.
Sibling replies have a `rank`, 0 the best: what several volunteers came to together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plaudit.records import Message
from plaudit.store.formats.format import EMPTY, Format, LeftOut, Values, ranking_of, with_source
from plaudit.store.rows import MOST_RANKED, Kind

ROLES = {"prompter": "user", "assistant": "assistant"}
CONSENSUS = "consensus"
"""The annotator of a ranking that several came to together."""


def looks_so(row: Values) -> bool:
    """A tree."""
    root = row.get("prompt")
    return isinstance(root, dict) and {"text", "role", "replies"} <= root.keys()


def convert(row: Values, kind: Kind) -> Iterator[Values | LeftOut]:
    """Every person's turn with what went before is a prompt; the replies to it are demonstrations and a ranking."""
    for conversation, message in _turns([], row["prompt"]):
        if message.get("deleted"):
            yield LeftOut("messages that were deleted")
        elif not all(turn["content"].strip() for turn in conversation):
            yield EMPTY
        elif message["role"] == "prompter":
            replies = [m for m in message.get("replies") or [] if m.get("role") == "assistant" and not m.get("deleted")]
            if kind == "prompts":
                yield {"prompt": conversation}
            elif kind == "rankings" and replies:
                yield _ranking(conversation, replies)
        elif kind == "demonstrations" and message.get("synthetic"):
            yield LeftOut("answers that a model wrote")
        elif kind == "demonstrations":
            yield {"prompt": conversation[:-1], "completion": conversation[-1:]}


def _turns(before: list[Message], message: dict[str, Any]) -> Iterator[tuple[list[Message], dict[str, Any]]]:
    """Every message of a tree with the conversation up to and with it."""
    waiting = [(before, message)]
    while waiting:
        so_far, message = waiting.pop()
        role = ROLES.get(str(message.get("role")), str(message.get("role")))
        conversation = [*so_far, {"role": role, "content": str(message.get("text", ""))}]
        yield conversation, message
        waiting += [(conversation, reply) for reply in reversed(message.get("replies") or [])]


def _ranking(conversation: list[Message], replies: list[dict[str, Any]]) -> Values | LeftOut:
    ranked = [reply for reply in replies if isinstance(reply.get("rank"), int)]
    if len(ranked) < 2:
        return LeftOut("turns with fewer than two ranked replies")
    if len(ranked) > MOST_RANKED:
        return LeftOut(f"rankings of over {MOST_RANKED} answers")
    texts, ranks = [str(reply["text"]) for reply in ranked], [reply["rank"] + 1 for reply in ranked]
    return ranking_of(conversation, texts, ranks, annotator=CONSENSUS)


FORMAT = Format(
    "open-assistant",
    ("prompts", "demonstrations", "rankings"),
    frozenset({"prompt", "message_tree_id", "tree_state"}),
    looks_so,
    lambda row, kind: with_source(convert(row, kind), "open-assistant"),
    {"prompt": frozenset({"text", "role", "replies", "rank", "deleted", "synthetic"})},
)
