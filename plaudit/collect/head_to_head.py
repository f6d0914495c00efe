"""Two or more policies against each other, judged blind: who wins, how surely, and whether one may stop."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from evalica import Winner, bradley_terry

from plaudit.statistics.intervals import Interval, share
from plaudit.statistics.sequential import ConfidenceSequence


@dataclass(frozen=True)
class Match:
    """One policy against another."""

    one: str
    other: str
    win_rate: Interval
    """Win rate of `one`: ties are halves; a task that several people judged counts once, by their mean. The interval
    is by
    prompts (`intervals.share`), and holds at a number of tasks that was fixed beforehand."""
    tasks: int
    wins: float
    ties: int
    at_any_time: tuple[float, float]
    """95 % interval that holds however often one has looked."""
    may_stop: bool


@dataclass
class HeadToHead:
    """Kept up to date as judgments come."""

    people_per_task: int
    _scores: dict[tuple[str, str], dict[str, dict[str, float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    """(policy, policy) -> task -> annotator -> score of the first policy."""
    _means: dict[tuple[str, str], dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    """(policy, policy) -> task -> mean of its scores."""
    _prompts: dict[str, str] = field(default_factory=dict)

    def put(self, task: str, prompt: str, annotator: str, policies: tuple[str, str], score: float) -> None:
        """A judgment, or its correction: the score is of the first policy, 1, 1/2 or 0."""
        one, other = sorted(policies)
        scores = self._scores[one, other][task]
        scores[annotator] = score if policies[0] == one else 1 - score
        self._means[one, other][task] = sum(scores.values()) / len(scores)
        self._prompts[task] = prompt

    @property
    def policies(self) -> list[str]:
        """All that were judged."""
        return sorted({policy for pair in self._scores for policy in pair})

    def matches(self) -> list[Match]:
        """Each pair of policies by name."""
        return [self._match(*pair) for pair in sorted(self._scores)]

    def _match(self, one: str, other: str) -> Match:
        tasks = self._scores[one, other]
        means = self._means[one, other]
        values = list(means.values())
        # Only tasks that everybody has judged, in the order in which they were begun: what is left out and what comes
        # next must not depend on how it was judged.
        finished = [means[task] for task, scores in tasks.items() if len(scores) >= self.people_per_task]
        sequence = ConfidenceSequence().extend(finished)
        rate = share(values, [self._prompts[task] for task in means])
        return Match(
            one, other, rate, len(values), sum(values), sum(value == 0.5 for value in values),
            (sequence.low, sequence.high), sequence.decides,
        )  # fmt: skip

    def strengths(self) -> dict[str, float] | None:
        """Bradley-Terry strength of each of three or more policies, which sum to 1; None for fewer.

        Bradley and Terry 1952: P(a beats b) = s_a / (s_a + s_b); ties are half a win each. By evalica. None too where
        some policies have never lost to the others, which would be infinitely strong.
        """
        if len(self.policies) < 3:
            return None
        rows = [
            (one, other, score)
            for (one, other), tasks in self._scores.items()
            for scores in tasks.values()
            for score in scores.values()
        ]
        beaten = [(one, other) for one, other, score in rows if score > 0] + [
            (other, one) for one, other, score in rows if score < 1
        ]
        if not _all_reach_all(self.policies, beaten):
            return None
        winners = [Winner.Draw if score == 0.5 else Winner.X if score > 0.5 else Winner.Y for *_, score in rows]
        found = bradley_terry([row[0] for row in rows], [row[1] for row in rows], winners, limit=10_000).scores
        total = float(found.sum())
        return {str(policy): float(score) / total for policy, score in sorted(found.items())}


def _all_reach_all(policies: list[str], beaten: list[tuple[str, str]]) -> bool:
    """Whether each has beaten each other at least through others (Ford 1957: then the strengths exist)."""
    for forward in (True, False):
        edges = set(beaten) if forward else {(loser, winner) for winner, loser in beaten}
        reached, front = {policies[0]}, [policies[0]]
        while front:
            here = front.pop()
            new = {there for one, there in edges if one == here} - reached
            reached |= new
            front += new
        if reached != set(policies):
            return False
    return True
