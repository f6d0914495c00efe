"""Is a reward model right, does it know how sure to be, and how good could it be?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from plaudit.records import GRADES, Comparison
from plaudit.statistics.intervals import share

BINS = 10


@dataclass(frozen=True)
class ScoredPair:
    """One judgment beside a reward model's opinion of the same two responses.

    cluster            the prompt
    pair               the two responses, the first one first
    difference         score of the first minus score of the second, nats
    preference_first   1, 0, or 0.5 for a tie
    probability_first  the annotator's own probability of choosing the first, where it is known
    longer_first       words of the first minus words of the second
    grade              how much better, 1 to 4, where somebody said
    criterion, subset  what was asked, and which part of the data it is from; empty where nobody said
    """

    cluster: str
    annotator: str
    pair: tuple[str, ...]
    difference: float
    preference_first: float
    probability_first: float | None
    longer_first: float
    grade: int | None = None
    criterion: str = ""
    subset: str = ""

    @classmethod
    def of(
        cls,
        comparison: Comparison,
        *,
        difference: float,
        longer_first: float,
        probability_first: float | None,
        subset: str = "",
    ) -> ScoredPair:
        """A comparison beside the difference of the scores that its two responses have."""
        return cls(
            cluster=comparison.prompt_id,
            annotator=comparison.annotator,
            pair=(comparison.first, comparison.second),
            difference=difference,
            preference_first=comparison.preference_first,
            probability_first=probability_first,
            longer_first=longer_first,
            grade=comparison.grade,
            criterion=comparison.criterion,
            subset=subset,
        )


LENGTHS = (
    (-math.inf, -20, "over 20 words shorter"),
    (-20, -3, "shorter"),
    (-3, 4, "within 3 words"),
    (4, 21, "longer"),
    (21, math.inf, "over 20 words longer"),
)
"""The preferred response against the other: from, below, and what that is called."""


def reward_quality(judged: Sequence[ScoredPair]) -> dict[str, Any]:
    """Accuracy with interval, calibration, noise ceiling and baselines that know length alone; ties left out.

    accuracy           share of judgments whose preferred response has the higher score; a soft preference counts
                       for the side it leans to
    log_loss           mean -log sigmoid(difference towards the preferred), nats; chance is 0.693
    brier              mean (1 - sigmoid(difference towards the preferred))^2; chance is 0.25
    calibration_error  ECE over 10 bins of equal count of the confidence max(p, 1 - p)
    temperature        the T that minimises the log loss of sigmoid(difference / T); 1 is calibrated
    ceiling            see `noise_ceiling`
    longer_wins        accuracy of always preferring the longer response; of the shorter, 1 minus that
    scores_longer      share of judgments in which the model prefers the longer response, ties in length left out;
                       None when there are only such
    reliability        [{"confidence", "accuracy", "count"}], one row a bin
    accuracy_by_annotator, _by_grade, _by_criterion, _by_subset, _by_length
                       {name: interval}; those with a single group of no name are left out

    Raises ValueError when every judgment is a tie.
    """
    decided = [j for j in judged if j.preference_first != 0.5]
    if not decided:
        raise ValueError("every held-out judgment is a tie")
    signs = np.array([1.0 if j.preference_first > 0.5 else -1.0 for j in decided])
    toward = margins(decided)
    right = ranked_right(toward)
    clusters = [j.cluster for j in decided]
    longer = signs * np.array([j.longer_first for j in decided])
    longer_wins = ranked_right(longer)
    uneven = longer != 0
    scores_longer = ((toward > 0) == (longer > 0))[uneven]
    error, rows = calibration(toward)
    return {
        "accuracy": share(right.tolist(), clusters),
        "log_loss": float(log_losses(toward).mean()),
        "brier": float(((1 / (1 + np.exp(toward.clip(-500, 500)))) ** 2).mean()),
        "calibration_error": error,
        "temperature": fitted_temperature(toward),
        "reliability": rows,
        "ceiling": noise_ceiling(decided),
        "longer_wins": share(longer_wins.tolist(), clusters),
        "scores_longer": float(scores_longer.mean()) if uneven.any() else None,
        **_by_group(decided, right, longer),
        "judgments": len(decided),
        "ties": len(judged) - len(decided),
    }


def rating_quality(rated: Sequence[tuple[str, float, float]]) -> dict[str, Any]:
    """How well scores predict ratings, criterion by criterion.

    rated   (criterion, rating, score), in standard deviations of the training ratings

    Returns `rating_error`, the mean squared error, of which the mean alone has about 1, and `rating_correlation`,
    Pearson's, each {criterion: value}; nothing where there are fewer than three ratings or all are equal.
    """
    found: dict[str, dict[str, float]] = {"rating_error": {}, "rating_correlation": {}}
    for criterion in sorted({name for name, _, _ in rated}):
        ratings, scores = np.array([(rating, score) for name, rating, score in rated if name == criterion]).T
        if len(ratings) > 2 and ratings.std() > 0 and scores.std() > 0:
            found["rating_error"][criterion] = float(((ratings - scores) ** 2).mean())
            found["rating_correlation"][criterion] = float(np.corrcoef(ratings, scores)[0, 1])
    return {name: values for name, values in found.items() if values}


def _by_group(decided: Sequence[ScoredPair], right: np.ndarray, longer: np.ndarray) -> dict[str, Any]:
    names: dict[str, list[str]] = {
        "annotator": [j.annotator for j in decided],
        "grade": [GRADES[j.grade] if j.grade else "" for j in decided],
        "criterion": [j.criterion for j in decided],
        "subset": [j.subset for j in decided],
        "length": [next(name for low, high, name in LENGTHS if low <= words < high) for words in longer],
    }
    order = {"grade": ["", *GRADES.values()], "length": [name for _, _, name in LENGTHS]}
    found: dict[str, Any] = {}
    for kind, of_each in names.items():
        groups = [name for name in order.get(kind, sorted(set(of_each))) if name in of_each]
        if groups == [""]:
            continue
        members = {name: [i for i, own in enumerate(of_each) if own == name] for name in groups}
        found[f"accuracy_by_{kind}"] = {
            name or "none given": share(right[rows].tolist(), [decided[i].cluster for i in rows])
            for name, rows in members.items()
        }
    return found


def calibration(toward: np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error and its bins.

    toward  [n] score margin of the preferred response; the model's confidence is sigmoid(|margin|)
    """
    confidence = 1 / (1 + np.exp(-np.abs(toward)))
    correct = ranked_right(toward)
    order = np.argsort(confidence, kind="stable")
    rows = [
        {"confidence": float(confidence[b].mean()), "accuracy": float(correct[b].mean()), "count": len(b)}
        for b in np.array_split(order, min(BINS, len(order)))
    ]
    error = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(toward)
    return float(error), rows


def fitted_temperature(toward: np.ndarray) -> float | None:
    """argmin over T of the mean of -log sigmoid(margin / T); None when no finite T > 0 minimises it."""
    found = minimize_scalar(
        lambda log_t: float(log_losses(toward / np.exp(log_t)).mean()), bounds=(-6, 6), method="bounded"
    )
    return float(np.exp(found.x)) if -5.9 < found.x < 5.9 else None


def ranked_right(toward: np.ndarray) -> np.ndarray:
    """[n] 1 where the margin is for the preferred response, 1/2 where there is none, else 0."""
    return (toward > 0) + 0.5 * (toward == 0)


def log_losses(toward: np.ndarray) -> np.ndarray:
    """[n] -log sigmoid(margin), nats."""
    return np.logaddexp(0.0, -toward)


def margins(judged: Sequence[ScoredPair]) -> np.ndarray:
    """[n] score margins of the preferred responses; ties are not to be among them."""
    return np.array([math.copysign(1, j.preference_first - 0.5) * j.difference for j in judged])


def calibrated_quality(judged: Sequence[ScoredPair], temperatures: Sequence[float]) -> dict[str, float]:
    """`calibrated_log_loss`, nats, and `calibrated_error` of sigmoid(difference / its temperature); ties left out."""
    decided = [(j, t) for j, t in zip(judged, temperatures, strict=True) if j.preference_first != 0.5]
    toward = margins([j for j, _ in decided]) / np.array([t for _, t in decided])
    return {
        "calibrated_log_loss": float(log_losses(toward).mean()),
        "calibrated_error": calibration(toward)[0],
    }


def noise_ceiling(judged: Sequence[ScoredPair]) -> float | None:
    """The accuracy that a perfect model would have against these noisy judgments.

    With the annotators' own probabilities: the mean over pairs of max(p, 1 - p), where p is the mean
    probability of the pair's judgments. Without: from the raw agreement a of two judgments of a pair,
    (1 + sqrt(2a - 1)) / 2, which assumes equally noisy annotators and a common truth. None when neither
    probabilities nor repeated judgments exist, or agreement is below chance.
    """
    by_pair: dict[tuple[str, ...], list[tuple[float, float | None]]] = defaultdict(list)
    for j in judged:
        key = sorted(j.pair)
        flip = list(j.pair) != key  # one orientation a pair, whichever was shown first
        chosen = 1 - j.preference_first if flip else j.preference_first
        p = None if j.probability_first is None else (1 - j.probability_first if flip else j.probability_first)
        by_pair[(j.criterion, *key)].append((chosen, p))
    known = [[p for _, p in row if p is not None] for row in by_pair.values()]
    if all(len(p) == len(row) for p, row in zip(known, by_pair.values(), strict=True)):
        best = [max(float(np.mean(p)), 1 - float(np.mean(p))) for p in known]
        return float(np.average(best, weights=[len(p) for p in known]))
    same, total = 0.0, 0.0
    for row in by_pair.values():
        ones, n = sum(choice for choice, _ in row), len(row)
        same += ones * (ones - 1) / 2 + (n - ones) * (n - ones - 1) / 2
        total += n * (n - 1) / 2
    if total == 0 or same / total <= 0.5:
        return None
    return float((1 + (2 * same / total - 1) ** 0.5) / 2)
