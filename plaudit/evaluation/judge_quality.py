"""How far a judge can be trusted in the place of people: agreement, habits, calibration, and a test of replacement.

A judge is an annotator of any kind: a model, a simulated one, or a person. Everything is computed on the pairs that
both sides have judged by the same criterion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from plaudit.records import Comparison
from plaudit.statistics.agreement import CHOICES, VOTE, is_vote, votes_apart
from plaudit.statistics.coefficients import cross_coefficients, nominal_coefficients
from plaudit.statistics.intervals import Interval, difference, share
from plaudit.statistics.reward_quality import calibration, log_losses
from plaudit.statistics.tally import Tally

FEWEST_SHARED = 30
"""Pairs that a person must share with the judge to take part in the test of replacement."""
EPSILON = 0.1
"""What a judge may be worse by, for being so much cheaper: 0.1 for crowd workers, 0.15 skilled, 0.2 experts."""
Item = tuple[str, str, str]
"""(criterion, the two responses by id)"""


@dataclass(frozen=True)
class _Said:
    """What one annotator said of a pair, in the order of the responses' ids."""

    choice: str
    preference: float
    prompt: str


def _by_item(comparisons: Sequence[Comparison]) -> dict[Item, dict[str, _Said]]:
    """The newest judgment of each annotator, where somebody judged a pair twice."""
    found: dict[Item, dict[str, _Said]] = defaultdict(dict)
    for c in sorted(comparisons, key=lambda c: c.created):
        o = c.in_order_of_ids()
        found[o.criterion, o.first, o.second][o.annotator] = _Said(o.choice, o.preference_first, o.prompt_id)
    return found


def judge_quality(
    comparisons: Sequence[Comparison],
    judge: str,
    people: Collection[str],
    *,
    lengths: Mapping[str, int],
    runs: Mapping[str, str],
    own_run: str | None = None,
    epsilon: float = EPSILON,
) -> dict[str, Any]:
    """A judge beside people.

    comparisons  of everybody, as shown
    lengths      response -> words
    runs         response -> the run that it was sampled in
    own_run      the run that samples from the judge itself, for self-preference; None where there is none

    Returns
        agreement        of the judge with each person's judgment of the same pair: `raw` with interval (by prompts),
                         `cohen`, `scott`, `reasons` and `few`; None without shared pairs
        people           the same among people, each against the others
        longer           share of decided judgments that prefer the longer response, of the judge and of people on the
                         same pairs, and `difference` with interval
        self_preference  the same for the response of `own_run` against others; None without such pairs
        repeats          share of pairs judged in more than one run in which it said the same, with interval
        calibration      of its soft labels against people's choices: `error` (ECE), `log_loss`, `n`; None without them
        replacement      see `replacement_test`
    """
    named, comparisons = people, votes_apart(comparisons)
    votes = {c.annotator for c in comparisons if is_vote(c.annotator)}
    people = {*people, *(name for name in votes if name.partition(VOTE)[0] in people)}
    items = _by_item(comparisons)
    shared = {item: said for item, said in items.items() if judge in said and said.keys() & set(people) - {judge}}
    return {
        "shared_pairs": len(shared),
        "agreement": _agreement(shared, [judge], people),
        "people": _agreement(items, people, people),
        "longer": _leaning(shared, judge, people, lengths),
        "self_preference": None
        if own_run is None
        else _leaning(shared, judge, people, {r: int(run == own_run) for r, run in runs.items()}),
        "repeats": _repeats(comparisons, judge),
        "calibration": _calibration(shared, judge, people),
        "replacement": replacement_test(items, judge, named, others=people, epsilon=epsilon),
    }


def _agreement(
    items: Mapping[Item, Mapping[str, _Said]], ones: Collection[str], others: Collection[str]
) -> dict[str, Any] | None:
    """Agreement of each of `ones` with each of `others` on the same pair."""
    same: list[float] = []
    prompts: list[str] = []
    tally = Tally(CHOICES)
    symmetric = set(ones) == set(others)
    for item, said in items.items():
        present = [name for name in said if name in ones or name in others]
        pairs = [
            (a, b) for a, b in combinations(sorted(present), 2)
            if (a in ones and b in others) or (b in ones and a in others)
        ]  # fmt: skip
        for one, other in pairs:
            same.append(float(said[one].choice == said[other].choice))
            prompts.append(said[one].prompt)
        if pairs:
            for name in present:
                role = "one" if name in ones and not symmetric else "other"
                tally.add(item, name, said[name].choice, role=role)
    if not same:
        return None
    found: dict[str, Any] = {"raw": share(same, prompts)}
    if symmetric:
        rest = nominal_coefficients(tally.patterns(by=_prompt_of(items)).used())
        return found | {name: rest[name] for name in ("fleiss", "alpha", "gwet_ac1", "reasons", "few") if name in rest}
    rest = cross_coefficients(tally.between_roles("one", "other", by=_prompt_of(items)))
    return found | {name: rest[name] for name in ("cohen", "scott", "reasons", "few") if name in rest}


def _prompt_of(items: Mapping[Item, Mapping[str, _Said]]) -> Callable[[Hashable], Hashable]:
    return lambda item: next(iter(items[item].values())).prompt  # type: ignore[index]


def _leaning(
    shared: Mapping[Item, Mapping[str, _Said]],
    judge: str,
    people: Collection[str],
    weight: Mapping[str, int],
) -> dict[str, Any] | None:
    """How often each side prefers the response of greater weight, where the two differ in it and it is decided."""
    mine: list[float] = []
    theirs: list[float] = []
    gaps: list[float] = []
    prompts: list[str] = []
    for (_, low, high), said in shared.items():
        gap = weight.get(low, 0) - weight.get(high, 0)
        of_people = [s.preference for name, s in said.items() if name in people and name != judge]
        if gap == 0 or said[judge].preference == 0.5:
            continue
        toward = [p if gap > 0 else 1 - p for p in (said[judge].preference, *of_people)]
        mine.append(float(toward[0] > 0.5))
        theirs.append(sum(0.5 if p == 0.5 else float(p > 0.5) for p in toward[1:]) / len(of_people))
        gaps.append(mine[-1] - theirs[-1])
        prompts.append(said[judge].prompt)
    if not mine:
        return None
    return {
        "judge": share(mine, prompts),
        "people": share(theirs, prompts),
        "difference": difference(gaps, prompts),
    }


def _repeats(comparisons: Sequence[Comparison], judge: str) -> Interval | None:
    by_pair: dict[Item, list[tuple[str, str, str]]] = defaultdict(list)
    for c in comparisons:
        if c.annotator == judge:
            o = c.in_order_of_ids()
            by_pair[o.criterion, o.first, o.second].append((o.run, o.choice, o.prompt_id))
    twice = {pair: said for pair, said in by_pair.items() if len({run for run, _, _ in said}) > 1}
    if not twice:
        return None
    same = [
        sum(a[1] == b[1] for a, b in combinations(said, 2)) / (len(said) * (len(said) - 1) / 2)
        for said in twice.values()
    ]
    return share(same, [said[0][2] for said in twice.values()])


def _calibration(
    shared: Mapping[Item, Mapping[str, _Said]], judge: str, people: Collection[str]
) -> dict[str, Any] | None:
    """Calibration of soft labels toward what each person preferred; None where all are 0, 1/2 or 1."""
    toward: list[float] = []
    is_soft = False
    for said in shared.values():
        p = min(1 - 1e-6, max(1e-6, said[judge].preference))
        is_soft |= said[judge].preference not in (0.0, 0.5, 1.0)
        log_odds = float(np.log(p / (1 - p)))
        for name, s in said.items():
            if name in people and name != judge and s.preference != 0.5:
                toward.append(log_odds if s.preference > 0.5 else -log_odds)
    if not is_soft or not toward:
        return None
    margins = np.array(toward)
    error, _ = calibration(margins)
    return {"error": error, "log_loss": float(log_losses(margins).mean()), "n": len(toward)}


def replacement_test(
    items: Mapping[Item, Mapping[str, _Said]],
    judge: str,
    people: Collection[str],
    *,
    others: Collection[str] | None = None,
    epsilon: float = EPSILON,
) -> dict[str, Any] | None:
    """Whether the judge stands in for people: the alternative annotator test.

    Calderon, Reichart and Dror 2025 (arXiv:2501.10970). For each person: on the items shared with the judge and at
    least one other person, how often is the judge at least as close to the others as the person is (rho_f), and the
    reverse (rho_h)? The judge wins against that person when rho_f > rho_h - epsilon at 5 % by a paired t-test, with
    Benjamini-Yekutieli's correction over people; it may replace people when it wins against half of them or more.

    others   whom judge and person are compared with; None for the people, without the person

    Returns `winning_rate` (omega), `advantage` (mean rho_f), `may_replace`, `epsilon`, and `by_person`:
    {name: {judge, person, n, p_value}}; None unless two people share FEWEST_SHARED items or more.
    """
    by_person: dict[str, dict[str, Any]] = {}
    beside = people if others is None else others
    for person in sorted(set(people) - {judge}):
        judge_wins: list[float] = []
        person_wins: list[float] = []
        for said in items.values():
            rest = [name for name in said if name in beside and name not in (person, judge)]
            if judge not in said or person not in said or not rest:
                continue
            of_judge = sum(said[judge].choice == said[name].choice for name in rest)
            of_person = sum(said[person].choice == said[name].choice for name in rest)
            judge_wins.append(float(of_judge >= of_person))
            person_wins.append(float(of_person >= of_judge))
        if len(judge_wins) < FEWEST_SHARED:
            continue
        gaps = np.array(person_wins) - np.array(judge_wins)
        if gaps.std() > 0:
            p_value = float(stats.ttest_1samp(gaps, epsilon, alternative="less").pvalue)
        else:
            p_value = 0.0 if gaps.mean() < epsilon else 1.0
        means = {"judge": float(np.mean(judge_wins)), "person": float(np.mean(person_wins))}
        by_person[person] = {**means, "n": len(gaps), "p_value": p_value}
    if len(by_person) < 2:
        return None
    corrected = stats.false_discovery_control([row["p_value"] for row in by_person.values()], method="by")
    winning_rate = float(np.mean(corrected < 0.05))
    return {
        "winning_rate": winning_rate,
        "advantage": float(np.mean([row["judge"] for row in by_person.values()])),
        "may_replace": winning_rate >= 0.5,
        "epsilon": epsilon,
        "by_person": by_person,
    }
