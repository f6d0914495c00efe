"""Ratings of single answers by several attributes: HelpSteer2 and UltraFeedback.

HelpSteer2 (Wang et al. 2024, arXiv:2406.08673): `prompt`, `response` and five numbers, 0 to 4. Its preferences have
`response_1`, `response_2` and `preference_strength`, -3 (the first is much better) to 3.
UltraFeedback (Cui et al. 2023, arXiv:2310.01377): `instruction` and `completions`, each with `response`,
`overall_score` and `annotations`, an attribute -> {"Rating": "4"}. GPT-4 gave them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from plaudit.records import Message
from plaudit.store.formats.format import EMPTY, Format, LeftOut, Values, answer_pair, with_source
from plaudit.store.rows import Kind

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
TURN = "<extra_id_1>"
"""Before a turn's role, in HelpSteer2's prompts of several turns."""
OVERALL = "overall"
GPT_4 = {"annotator": "gpt-4", "annotator_kind": "model"}
NO_NUMBER = LeftOut("ratings that are no number")


def is_helpsteer(row: Values) -> bool:
    """A response with HelpSteer's attributes, or two with a strength."""
    pair = {"prompt", "response_1", "response_2", "preference_strength"}
    return {"prompt", "response", *ATTRIBUTES} <= row.keys() or pair <= row.keys()


def helpsteer(row: Values, kind: Kind) -> Iterator[Values | LeftOut]:
    """A rating for each attribute, or a comparison with a grade, or the prompt."""
    prompt = _turns(str(row["prompt"]))
    if kind == "prompts":
        yield {"prompt": prompt}
    elif kind == "comparisons":
        yield _preference(prompt, row) if "preference_strength" in row else LeftOut("ratings, which are no comparison")
    elif "response" not in row:
        yield LeftOut("comparisons, which are no rating")
    elif not str(row["response"]).strip():
        yield EMPTY
    else:
        for name in ATTRIBUTES:
            yield _rating(prompt, str(row["response"]), row[name], name)


def _turns(prompt: str) -> list[Message]:
    """Turns after the first begin with their role on a line of its own."""
    first, *others = prompt.split(TURN)
    turns = [{"role": "user", "content": first.strip()}]
    for other in others:
        role, _, text = other.partition("\n")
        turns.append({"role": role.strip().lower(), "content": text.strip()})
    return turns


def _preference(prompt: list[Message], row: Values) -> Values | LeftOut:
    strength, first, second = row["preference_strength"], str(row["response_1"]), str(row["response_2"])
    if strength not in range(-3, 4):
        return LeftOut("preferences whose strength is not -3 to 3")
    if strength == 0:
        return answer_pair(prompt, first, second, tie=True)
    grade = abs(strength) + 1  # slightly better is the second of our four grades
    if strength < 0:
        return answer_pair(prompt, first, second, grade=grade)
    return answer_pair(prompt, second, first, grade=grade, shown_first="rejected")


def is_ultrafeedback(row: Values) -> bool:
    """An instruction with several completions."""
    return "instruction" in row and isinstance(row.get("completions"), list)


def ultrafeedback(row: Values, kind: Kind) -> Iterator[Values | LeftOut]:
    """For each completion its overall score and the rating of each attribute, or the prompt."""
    prompt = str(row["instruction"])
    if kind == "prompts":
        yield {"prompt": prompt}
        return
    for completion in row["completions"]:
        text = str(completion.get("response") or "")
        if not text.strip():
            yield EMPTY
            continue
        if completion.get("overall_score") is not None:
            yield _rating(prompt, text, completion["overall_score"], OVERALL, GPT_4)
        for name, said in sorted((completion.get("annotations") or {}).items()):
            rating = said.get("Rating") if isinstance(said, dict) else None
            if isinstance(said, dict):
                yield _rating(prompt, text, rating, name, GPT_4)


def _rating(prompt: Any, text: str, value: Any, criterion: str, who: Values | None = None) -> Values | LeftOut:
    """Numbers are often written as text."""
    try:
        rating = float(value)
    except (TypeError, ValueError, OverflowError):
        return NO_NUMBER
    if not math.isfinite(rating):
        return NO_NUMBER
    return {"prompt": prompt, "completion": text, "rating": rating, "criterion": criterion, **(who or {})}


HELPSTEER = Format(
    "helpsteer",
    ("ratings", "comparisons", "prompts"),
    frozenset({"prompt", "response", "response_1", "response_2", "preference_strength", *ATTRIBUTES}),
    is_helpsteer,
    lambda row, kind: with_source(helpsteer(row, kind), "helpsteer"),
)
ULTRAFEEDBACK = Format(
    "ultrafeedback",
    ("ratings", "prompts"),
    frozenset({"instruction", "completions"}),
    is_ultrafeedback,
    lambda row, kind: with_source(ultrafeedback(row, kind), "ultrafeedback"),
    {"completions": frozenset({"response", "overall_score", "annotations"})},
)
