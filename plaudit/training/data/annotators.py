"""Several annotators' judgments of a pair as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from plaudit.errors import DataError
from plaudit.records import Comparison
from plaudit.training.data.judged_prompts import JudgedPrompt, PairJudgment

Pair = tuple[str, str, str]
"""Criterion, and the two responses in order."""


def combine_annotators(
    prompts: Sequence[JudgedPrompt], how: Literal["each", "majority", "skill"]
) -> list[JudgedPrompt]:
    """Prompts whose pairs have one judgment each.

    how   each: as they are. majority: the side that most chose, a tie where as many chose the other. skill: how
          likely the first is the better one, given what every annotator said and how reliable each has shown to be
          (Dawid & Skene 1979); ties count half for either side.

    The grade is the mean of those who chose the side that won. Raises DataError where `skill` is not installed.
    """
    if how == "each":
        return list(prompts)
    by_pair: dict[Pair, list[Comparison]] = defaultdict(list)
    for prompt in prompts:
        for comparison in prompt.comparisons:
            pair = _pair(comparison)
            by_pair[pair].append(comparison.in_order_of_ids())
    preferences = _majorities(by_pair) if how == "majority" else _skilled(by_pair)
    combined = []
    for prompt in prompts:
        place = {response: i for i, response in enumerate(prompt.response_ids)}
        pairs = sorted({_pair(c) for c in prompt.comparisons})
        judgments = [
            PairJudgment(
                place[first],
                place[second],
                preferences[pair],
                _grade(by_pair[pair], preferences[pair]),
                criterion=criterion,
            )
            for pair in pairs
            for criterion, first, second in [pair]
        ]
        combined.append(replace(prompt, judgments=judgments))
    return combined


def _pair(comparison: Comparison) -> Pair:
    low, high = sorted((comparison.first, comparison.second))
    return comparison.criterion, low, high


def _majorities(by_pair: dict[Pair, list[Comparison]]) -> dict[Pair, float]:
    found = {}
    for pair, judged in by_pair.items():
        lead = sum((c.preference_first > 0.5) - (c.preference_first < 0.5) for c in judged)
        found[pair] = 0.5 + 0.5 * ((lead > 0) - (lead < 0))
    return found


def _skilled(by_pair: dict[Pair, list[Comparison]]) -> dict[Pair, float]:
    """[pair] -> posterior probability that the first is better."""
    try:
        import pandas
        from crowdkit.aggregation import DawidSkene
    except ImportError:
        raise DataError("`reward.annotators=skill` needs crowd-kit: pip install 'plaudit[crowd]'.") from None
    decided: Any = [
        {"task": index, "worker": c.annotator, "label": c.preference_first > 0.5}
        for index, judged in enumerate(by_pair.values())
        for c in judged
        if c.preference_first != 0.5
    ]
    found = dict.fromkeys(by_pair, 0.5)
    if not decided:
        return found
    # From either side: which response happens to stand first says nothing about annotators.
    mirrored = [{**row, "task": ~row["task"], "label": not row["label"]} for row in decided]
    probabilities = DawidSkene(n_iter=100).fit_predict_proba(pandas.DataFrame(decided + mirrored))
    pairs = list(by_pair)
    for task, row in probabilities.iterrows():
        if task >= 0:
            found[pairs[task]] = float(row.get(True, 0.0))
    return found


def _grade(judged: Sequence[Comparison], preference: float) -> float | None:
    grades = [c.grade for c in judged if c.grade and (c.preference_first - 0.5) * (preference - 0.5) > 0]
    return sum(grades) / len(grades) if grades else None
