"""What a model that judges is asked, in words.

The layout follows Lee et al. 2023 (arXiv:2309.00267): a preamble that says what is asked, perhaps examples, the
conversation with the answers, and an ending after which one token says everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plaudit.records import Message

LABELS = ("1", "2")
"""Labels of a comparison: the answer shown first, and the one shown second."""
DIGITS = tuple("0123456789")
"""Labels of a rating: single tokens where "10" would be two. Digit d stands for a rating of d + 1."""


@dataclass(frozen=True)
class Exemplar:
    """A comparison that was judged already, as an example."""

    conversation: list[Message]
    answers: tuple[str, str]
    better: int
    """1 or 2."""
    reasoning: str = ""


def _shown(conversation: Sequence[Message], answers: Sequence[str]) -> str:
    names = {"user": "Person", "assistant": "Assistant", "system": "Setting"}
    turns = "\n".join(f"{names[turn['role']]}: {turn['content']}" for turn in conversation)
    if len(answers) == 1:
        return f"Conversation:\n{turns}\n\nAnswer:\n{answers[0]}"
    listed = "\n\n".join(f"Answer {place}:\n{answer}" for place, answer in enumerate(answers, start=1))
    return f"Conversation:\n{turns}\n\n{listed}"


def compare(
    guideline: str, conversation: Sequence[Message], answers: tuple[str, str], exemplars: Sequence[Exemplar] = ()
) -> list[Message]:
    """Which of two answers is better: to be answered by "1" or "2"."""
    ending = "Which answer is better? Reply with 1 or 2 and nothing else."
    messages: list[Message] = []
    for exemplar in exemplars:
        asked = f"{guideline}\n\n{_shown(exemplar.conversation, exemplar.answers)}\n\n{ending}"
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": str(exemplar.better)}]
    return [*messages, {"role": "user", "content": f"{guideline}\n\n{_shown(conversation, answers)}\n\n{ending}"}]


def think(
    guideline: str, conversation: Sequence[Message], answers: tuple[str, str], exemplars: Sequence[Exemplar] = ()
) -> list[Message]:
    """Reasons for and against, before anything is decided (chain of thought)."""
    ending = "Compare the two answers in a few sentences. Do not say yet which is better."
    messages: list[Message] = []
    for exemplar in exemplars:
        if exemplar.reasoning:
            asked = f"{guideline}\n\n{_shown(exemplar.conversation, exemplar.answers)}\n\n{ending}"
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": exemplar.reasoning}]
    return [*messages, {"role": "user", "content": f"{guideline}\n\n{_shown(conversation, answers)}\n\n{ending}"}]


def conclude(thought: Sequence[Message], reasoning: str) -> list[Message]:
    """After the reasons: which is better, by "1" or "2"."""
    ending = "So which answer is better? Reply with 1 or 2 and nothing else."
    return [*thought, {"role": "assistant", "content": reasoning}, {"role": "user", "content": ending}]


def rate(guideline: str, conversation: Sequence[Message], answer: str) -> list[Message]:
    """How good one answer is: by a digit."""
    ending = "Rate the answer by this, from 0 (the worst) to 9 (the best). Reply with one digit and nothing else."
    return [{"role": "user", "content": f"{guideline}\n\n{_shown(conversation, [answer])}\n\n{ending}"}]


def rank(guideline: str, conversation: Sequence[Message], answers: Sequence[str]) -> list[Message]:
    """The order of several answers, as in "2 > 1 = 3"."""
    example = " > ".join(str(place) for place in range(len(answers), 0, -1))
    ending = (
        "Put the answers in order, the best first, with = between answers that are equally good. Reply with the order "
        f"and nothing else, as in: {example}"
    )
    return [{"role": "user", "content": f"{guideline}\n\n{_shown(conversation, answers)}\n\n{ending}"}]
