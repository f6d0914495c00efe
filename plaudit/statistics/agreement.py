"""Do annotators agree, beyond what chance would give?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from plaudit.records import GRADES, Comparison, is_named
from plaudit.statistics.biases import position_biases
from plaudit.statistics.coefficients import (
    cross_coefficients,
    nominal_coefficients,
    ordinal_coefficients,
)
from plaudit.statistics.tally import Tally

CHOICES = ("first", "second", "tie")
SCALE = (
    *(f"first {GRADES[grade]}" for grade in sorted(GRADES, reverse=True)),
    "tie",
    *(f"second {GRADES[grade]}" for grade in sorted(GRADES)),
)
"""Nine points, from the first significantly better over a tie to the second significantly better."""
VOTE = " vote "
"""Before the number of a vote on an item, of people who are not named."""
ALTOGETHER = "better altogether"
"""What stands for the criterion of comparisons that name none."""

Item = tuple[str, str, str, str]
"""(prompt, criterion, the two responses in the order of their ids)"""


def agreement(comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    """Agreement over the pairs that two or more annotators judged by a criterion, whatever order each of them saw.

    An annotator's later judgment of a pair supersedes the earlier one; each of those that name nobody is another's.

    Returns None when no pair was judged twice, else
        raw        share of annotator pairs with the same choice on a response pair, ties included
        fleiss     Fleiss' kappa, generalised: see `coefficients.fleiss_kappa`
        alpha      Krippendorff's nominal alpha
        gwet_ac1   Gwet's AC1 over the choices that were made (without ties, two)
        reasons    {name: why it is None} of those that have no value
        few        what to know of the intervals, only where there are few prompts
        pairs      response pairs judged by two or more annotators
        by_annotators  {"a / b": raw agreement of a and b}, of those with a name
        graded     of the judgments with a grade, and ties, on the nine points of SCALE: `pairs`, `left_out`
                   (judgments without a grade) and the coefficients of `coefficients.ordinal_coefficients`; None where
                   no pair has two such judgments
    The first four, and those of `graded`, are {value, low, high, n} with 95 % intervals by prompts; 1 is perfect, and 0
    of all but raw is what chance would give.
    """
    latest = _latest(comparisons)
    tally = _tally(map(_choice, latest), CHOICES)
    patterns = tally.patterns(by=_prompt)
    if not patterns.shared_items:
        return None
    return {
        **nominal_coefficients(patterns.used()),
        "pairs": patterns.shared_items,
        "by_annotators": {
            f"{one} / {other}": same / shared
            for (one, other), (same, shared) in tally.pairs().items()
            if not {one, other} & _unnamed(tally)
        },
        "graded": _graded(latest),
    }


def agreement_report(comparisons: Sequence[Comparison], *, order_unknown: Collection[str] = ()) -> dict[str, Any]:
    """What `plaudit agreement` shows: for every criterion, in the order of the names,

    judgments, pairs, pairs_judged_twice, annotators (a number, of those with a name), unnamed (judgments of nobody's)
    coefficients   `agreement`
    with_the_rest  {annotator: {judgments, raw, cohen, scott, reasons, few}}, each judgment against each other one of
                   the same pair; intervals by prompts
    position       `biases.position_biases`, without the runs of `order_unknown`: their pairs came from files that do
                   not say what was shown first
    """
    by_criterion: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in sorted(comparisons, key=lambda judgment: judgment.created):
        by_criterion[comparison.criterion or ALTOGETHER].append(comparison)
    return {name: _criterion_report(rows, order_unknown) for name, rows in sorted(by_criterion.items())}


def _was_shown_as_a_pair(comparison: Comparison) -> bool:
    """Not one of a ranking's pairs, nor an answer beside what the annotator made of it."""
    return comparison.ranking is None and not comparison.first.startswith(f"{comparison.run}:")


def _criterion_report(comparisons: list[Comparison], order_unknown: Collection[str]) -> dict[str, Any]:
    tally = _tally(map(_choice, _latest(comparisons)), CHOICES)
    unnamed = _unnamed(tally)
    named = [name for name in tally.annotators if name not in unnamed]
    crosses = tally.each_with_rest(by=_prompt)
    rest = {name: cross_coefficients(crosses[name]) for name in named}
    return {
        "judgments": tally.judgments,
        "pairs": tally.items,
        "pairs_judged_twice": tally.patterns().shared_items,
        "annotators": len(named),
        "unnamed": sum(tally.judgments_of(name) for name in unnamed),
        "coefficients": agreement(comparisons),
        "with_the_rest": {name: {"judgments": tally.judgments_of(name), **found} for name, found in rest.items()},
        "position": position_biases(c for c in comparisons if c.run not in order_unknown and _was_shown_as_a_pair(c)),
    }


def _latest(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Without those that a later judgment of the same pair, annotator and criterion supersedes."""
    found: dict[tuple[str, ...], Comparison] = {}
    for comparison in votes_apart(comparisons):
        pair = sorted((comparison.first, comparison.second))
        found[comparison.prompt_id, comparison.criterion, *pair, comparison.annotator] = comparison
    return list(found.values())


def _choice(comparison: Comparison) -> tuple[Comparison, str]:
    """The judgment with its choice between the responses in the order of their ids."""
    ordered = comparison.in_order_of_ids()
    return ordered, ordered.choice


def _point(comparison: Comparison) -> tuple[Comparison, str]:
    """The judgment with its place on SCALE."""
    ordered, choice = _choice(comparison)
    return ordered, choice if ordered.grade is None or choice == "tie" else f"{choice} {GRADES[ordered.grade]}"


def _tally(judgments: Iterable[tuple[Comparison, str]], categories: Sequence[str]) -> Tally:
    tally = Tally(categories)
    for comparison, category in judgments:
        item: Item = (comparison.prompt_id, comparison.criterion, comparison.first, comparison.second)
        tally.add(item, comparison.annotator, category)
    return tally


def votes_apart(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The same, with judgments of the same pair that name nobody by annotators of their own: "imported vote 2"."""
    votes: Counter[tuple[Item, str]] = Counter()
    found = []
    for comparison in comparisons:
        if not is_named(comparison.annotator):
            low, high = sorted((comparison.first, comparison.second))
            item: Item = (comparison.prompt_id, comparison.criterion, low, high)
            votes[item, comparison.annotator] += 1
            number = votes[item, comparison.annotator]
            comparison = replace(comparison, annotator=f"{comparison.annotator}{VOTE}{number}")
        found.append(comparison)
    return found


def _unnamed(tally: Tally) -> set[str]:
    """Those of its annotators that stand for people of no name."""
    return {name for name in tally.annotators if is_vote(name)}


def is_vote(annotator: str) -> bool:
    """Whether `votes_apart` made the name."""
    return VOTE in annotator and not is_named(annotator.partition(VOTE)[0])


def _prompt(item: Hashable) -> Hashable:
    """Cluster of an Item. Pairs of responses to one prompt are not independent, so intervals are by prompts."""
    return item[0]  # type: ignore[index]


def _graded(comparisons: list[Comparison]) -> dict[str, Any] | None:
    placed = [(comparison, point) for comparison, point in map(_point, comparisons) if point in SCALE]
    if all(comparison.grade is None for comparison, _ in placed):
        return None
    patterns = _tally(placed, SCALE).patterns(by=_prompt)
    if not patterns.shared_items:
        return None
    return {
        "pairs": patterns.shared_items,
        "left_out": len(comparisons) - len(placed),
        **ordinal_coefficients(patterns),
    }
