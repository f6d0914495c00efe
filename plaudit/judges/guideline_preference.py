"""A guideline preference that anybody can check: what simulated annotators prefer, and what win rates are measured by.

No part of it is learnt, and no reward model enters it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from plaudit.config import GuidelinePreference

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
FULL_MARKS_AT = 2
"""Content words of the question that an answer must take up for the whole of `answers`."""

STOP_WORDS = frozenset(
    """a about after all also am an and any are as at be been before being but by can could did do does doing
    don't down each few for from get give had has have having he her here his how i i'm i've if in into is it its
    just keep let like make me more most much my no not of off on one only or other our out over own please same
    she should so some such tell than that the their them then there these they this those through to too under
    until up us very want was we were what what's when where which while who why will with without would write
    you your""".split()
)


def guideline_facts(
    prompt: str, response: str, *, finished: bool, guideline_preference: GuidelinePreference
) -> dict[str, float]:
    """The five facts that the guideline preference is made of.

    finished    1 when the response ended by itself, else 0
    answers     share of the question's content words that the response takes up, full at two of them; by
                their first four letters, so that "cook" meets "cooking"
    tone        VADER compound score (Hutto & Gilbert 2014), in [-1, 1]
    length      0 from `fewest_words` to `comfortable_words`; rising to 1 at no words, and at twice as many
    repetition  share of three-word runs that occurred before in the response, in [0, 1)
    """
    words = _WORD.findall(response.lower())
    asked = {word[:4] for word in _WORD.findall(prompt.lower()) if word not in STOP_WORDS}
    taken_up = asked & {word[:4] for word in words}
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return {
        "finished": float(finished),
        "answers": min(1.0, len(taken_up) / max(1, min(FULL_MARKS_AT, len(asked)))) if asked else 1.0,
        "tone": float(_vader().polarity_scores(response)["compound"]),
        "length": min(
            1.0,
            max(
                0.0,
                len(words) / guideline_preference.comfortable_words - 1,
                1 - len(words) / guideline_preference.fewest_words,
            ),
        ),
        "repetition": 1 - len(set(runs)) / len(runs) if runs else 0.0,
    }


NOTHING = {"finished": 0.0, "answers": 0.0, "tone": -1.0, "length": 0.0, "repetition": 1.0}
"""Facts of an empty answer: it has nothing, and the worst tone."""


def guideline_weights(guideline_preference: GuidelinePreference) -> dict[str, float]:
    """Fact -> nats of preference for each unit of it."""
    return {
        "finished": guideline_preference.finished,
        "answers": guideline_preference.answers,
        "tone": guideline_preference.tone,
        "length": -guideline_preference.length,
        "repetition": -guideline_preference.repetition,
    }


def utility(prompt: str, response: str, *, finished: bool, guideline_preference: GuidelinePreference) -> float:
    """How much the guideline preference likes a response, in nats of Bradley-Terry preference at noise 1; empty ones
    least."""
    facts = (
        guideline_facts(prompt, response, finished=finished, guideline_preference=guideline_preference)
        if response.strip()
        else NOTHING
    )
    total = 0.0
    for name, weight in guideline_weights(
        guideline_preference
    ).items():  # not sum(): it rounds otherwise from Python 3.12 on
        total += weight * facts[name]
    return total


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
