"""From what a model said to what it means. What cannot be read is None, and never a tie."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

SMALLEST_SHARE = 0.1
"""Least probability of all labels together; with less the model did not answer what was asked."""


def label_probabilities(log_probs: Mapping[str, float], labels: Sequence[str]) -> tuple[float, ...] | None:
    """Probabilities of the labels among themselves, from those of a first token's alternatives.

    log_probs  text of a token -> log-probability, nats; spaces around it do not count. An endpoint gives the likeliest
               few: a label that is not among them is given the least of those, which it cannot exceed

    None where the labels have less than a tenth of the probability together.
    """
    found: dict[str, float] = dict.fromkeys(labels, -math.inf)
    for token, value in log_probs.items():
        if (text := token.strip()) in found:
            found[text] = _log_sum((found[text], value))
    if _log_sum(found.values()) < math.log(SMALLEST_SHARE):
        return None
    least = min(log_probs.values())
    kept = [value if value > -math.inf else least for value in found.values()]
    whole = _log_sum(kept)
    return tuple(math.exp(value - whole) for value in kept)


def _log_sum(values: Iterable[float]) -> float:
    listed = list(values)
    most = max(listed)
    return most if most == -math.inf else most + math.log(sum(math.exp(value - most) for value in listed))


def verdict(text: str, labels: Sequence[str]) -> str | None:
    """The label that a text names: its only word, or the only label that it says."""
    said = re.findall(rf"(?<![\w.])(?:{'|'.join(map(re.escape, labels))})(?!\w|\.\w)", text)
    return said[0] if len(set(said)) == 1 else None


def both_orders(first: Sequence[float], swapped: Sequence[float]) -> float:
    """P(the first answer is better), from the label probabilities as shown and with the answers exchanged.

    Lee et al. 2023, section 2.2: P = (P_shown("1") + P_swapped("2")) / 2, so that a liking for a place cancels.
    """
    return (first[0] + swapped[1]) / 2


def expected_score(probabilities: Sequence[float]) -> float:
    """The mean rating from 1 to 10, by the probabilities of the ten (Lee et al. 2023, direct RLAIF)."""
    if len(probabilities) != 10:
        raise ValueError("a rating has ten steps")
    return sum((place + 1) * p for place, p in enumerate(probabilities)) / sum(probabilities)


def normalised_score(score: float) -> float:
    """A rating from 1 to 10 in [-1, 1]."""
    return (score - 5.5) / 4.5


def clamped(probability: float, low: float = 0.4, high: float = 0.6) -> float:
    """A soft label kept near 1/2: what reasoning makes too sure of (Bai et al. 2022b, section 4.1: 40 to 60 %)."""
    return min(high, max(low, probability))


def ranking(text: str, count: int) -> list[int] | None:
    """Ranks of `count` answers, 1 the best, from an order as in "2 > 1 = 3"; None unless each is named once."""
    match = re.search(r"\d+(?:\s*[>=]\s*\d+)+", text)
    if match is None:
        return None
    groups = [[int(place) for place in re.findall(r"\d+", group)] for group in match.group(0).split(">")]
    if sorted(place for group in groups for place in group) != list(range(1, count + 1)):
        return None
    ranks = {place: rank for rank, group in enumerate(groups, start=1) for place in group}
    return [ranks[place] for place in range(1, count + 1)]
