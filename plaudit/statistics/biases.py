"""Habits of annotators that are no opinion: liking the side shown first, or length, and changing over time."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from plaudit.records import Comparison
from plaudit.statistics.intervals import Interval, difference_of_rates, excludes, rate, share
from plaudit.statistics.logistic import by_clusters, logistic_fit, wald


def position_bias(first: int, second: int) -> dict[str, Any] | None:
    """Whether the response shown first was chosen more, or less, than half of the time. Ties do not count.

    first, second  judgments that chose the response shown there

    Returns None for no judgments, else
        share    of them that chose the first, an Interval as of independent judgments: the sides are by lot
        p_value  two-sided exact binomial test against 1/2, where the sides were assigned at random
    """
    decided = first + second
    if not decided:
        return None
    return {"share": rate(first, decided), "p_value": float(stats.binomtest(first, decided).pvalue)}


def position_biases(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """Biases in judgments as they were shown.

    all            `position_bias` of all together
    by_annotator   {annotator: share that chose the first, an Interval; None where all were ties}
    """
    chosen: dict[str, Counter[str]] = {}
    for comparison in comparisons:
        chosen.setdefault(comparison.annotator, Counter())[comparison.choice] += 1
    together = sum(chosen.values(), Counter())
    return {
        "all": position_bias(together["first"], together["second"]),
        "by_annotator": {name: _first_share(counts) for name, counts in sorted(chosen.items())},
    }


def choice_habits(
    comparisons: Iterable[Comparison],
    words: Mapping[str, int],
    utilities: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Biases per annotator, sorted by name. Ties count among the judgments alone.

    words      response -> its number of words
    utilities  annotator -> response -> what it is worth to them, nats; where that is known

    judgments, ties   numbers
    first             share that chose the response shown first, an Interval; None where all were ties
    longer            share that chose the longer one, of those that differ in length; its interval is by prompts
    log_odds          of logistic regression of the choice on what was shown first (`position`, nats), the logarithm of
                      the ratio of lengths (`length`, nats per unit), and, where utilities are known, their difference
                      (`utility`, 1 / noise). Without them, length stands for all the quality that goes with it too, and
                      both habits look weaker than they are. So they do where judgments were given without reading, or
                      turned round. None where there are too few judgments to tell. Without utilities the intervals are
                      by prompts
    seconds           median; None where not known
    """
    by_annotator: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        by_annotator[comparison.annotator].append(comparison)
    return {
        name: _habits_of(rows, words, None if utilities is None else utilities.get(name))
        for name, rows in sorted(by_annotator.items())
    }


def _habits_of(
    comparisons: Sequence[Comparison], words: Mapping[str, int], utilities: Mapping[str, float] | None
) -> dict[str, Any]:
    decided = [c for c in comparisons if c.choice != "tie"]
    firsts = np.array([c.choice == "first" for c in decided], dtype=np.float64)
    prompts = np.array([c.prompt_id for c in decided], dtype=object)
    ratios = np.array([math.log(max(1, words[c.first]) / max(1, words[c.second])) for c in decided])
    uneven = ratios != 0
    longer = (firsts == (ratios > 0))[uneven]
    columns = {"position": np.ones(len(decided)), "length": ratios}
    if utilities is not None:
        columns["utility"] = np.array([utilities[c.first] - utilities[c.second] for c in decided])
    try:
        design = np.stack(list(columns.values()), axis=1)
        found, covariance = logistic_fit(design, firsts)
        if utilities is None:  # answers are compared several times, and what is liked about them is not known
            numbers = np.unique(prompts.astype(str), return_inverse=True)[1]
            intervals = by_clusters(design, firsts, found, covariance, numbers)
        else:
            deviations = np.sqrt(np.diag(covariance)).tolist()
            intervals = [wald(*pair, len(decided)) for pair in zip(found.tolist(), deviations, strict=True)]
        log_odds = dict(zip(columns, intervals, strict=True))
    except ValueError:
        log_odds = None
    return {
        "judgments": len(comparisons),
        "ties": len(comparisons) - len(decided),
        "first": rate(float(firsts.sum()), len(decided)) if decided else None,
        "longer": share(longer.astype(float).tolist(), prompts[uneven].tolist()) if len(longer) else None,
        "log_odds": log_odds,
        "seconds": _median([c.seconds for c in comparisons]),
    }


def drift(
    agreed: Sequence[float], *, window: int = 100, seconds: Sequence[float | None] | None = None
) -> dict[str, Any] | None:
    """Whether an annotator agrees less, or more, of late: the last `window` judgments against all before.

    agreed   1 where a judgment agreed (with a known answer, or with the others) and 0 where not, in order of time
    seconds  what each judgment took, in the same order; None where that is not known

    Returns None where there is nothing before the window, else
        difference      share that agreed in the window less that before, an Interval of two rates
        flagged         whether the interval excludes 0. Looked at after every judgment, it will do so by chance more
                        often than once in twenty times: a flag asks for a look, it proves nothing
        seconds_before, seconds_in_window  medians; None where not known

    Raises ValueError for a window of less than one judgment.
    """
    if window < 1:
        raise ValueError("the window must have a judgment")
    before, late = agreed[:-window], agreed[-window:]
    if not before:
        return None
    difference = difference_of_rates(sum(late), len(late), sum(before), len(before))
    took: Sequence[float | None] = seconds if seconds is not None else []
    return {
        "difference": difference,
        "flagged": excludes(difference, 0.0),
        "seconds_before": _median(took[:-window]),
        "seconds_in_window": _median(took[-window:]),
    }


def _first_share(counts: Counter[str]) -> Interval | None:
    decided = counts["first"] + counts["second"]
    return rate(counts["first"], decided) if decided else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
