"""A model as a judge: which of two answers is better, how good one is, in which order several are.

Every comparison is asked in both orders and averaged after mapping back (Lee et al. 2023), so that a liking for the
first place cancels; what it was is kept, to be reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from plaudit.judges import parsing, prompts
from plaudit.judges.backends import Backend
from plaudit.judges.prompts import DIGITS, LABELS, Exemplar
from plaudit.records import Choice, Comparison, Message, Prompt, Response, content_id, unit_interval

Pair = tuple[Prompt, Response, Response]


class Asked(NamedTuple):
    """A comparison in one order, by one guideline."""

    guideline: str
    conversation: list[Message]
    answers: tuple[str, str]


@dataclass(frozen=True)
class PairVerdict:
    """A pair as a model judged it."""

    preference: float
    """P(the first is better), both orders averaged."""
    shown: float
    """P(the first is better) when it stood first."""
    swapped: float
    """The same when it stood second."""

    @property
    def position_inconsistent(self) -> bool:
        """The same place won in both orders, whatever stood there."""
        return (self.shown > 0.5) != (self.swapped > 0.5)


@dataclass
class AIJudge:
    """A judge with its instructions.

    name        how it stands in the store
    guideline   what is asked; of several, some are drawn for each pair (principles of a constitution)
    guidelines_per_pair   how many are drawn; their verdicts are averaged
    criterion   its name; empty for which is better altogether
    reasoning   think first, in at most `thought_tokens` tokens
    samples     self-consistency: so many chains of thought at temperature 1, averaged; 1 for one at temperature 0
    clamp       keep soft labels between these (Bai et al. 2022b: 0.4 and 0.6 after reasoning); None for no limits
    exemplars   judged comparisons shown before
    """

    name: str
    backend: Backend
    guideline: str | tuple[str, ...]
    criterion: str = ""
    guidelines_per_pair: int = 1
    reasoning: bool = False
    samples: int = 1
    clamp: tuple[float, float] | None = None
    exemplars: Sequence[Exemplar] = ()
    seed: int = 0
    thought_tokens: int = 512
    unread: Counter[str] = field(default_factory=Counter)
    """What could not be judged, by why."""

    def judge(self, pairs: Sequence[Pair]) -> list[PairVerdict | None]:
        """Each pair in both orders; None where an answer could not be read, which is counted in `unread`."""
        drawn = [self._drawn(pair) for pair in pairs]
        asked = [
            Asked(guideline, prompt.messages, texts)
            for swap in (False, True)
            for (prompt, a, b), guidelines in zip(pairs, drawn, strict=True)
            for guideline in guidelines
            for texts in [(b.text, a.text) if swap else (a.text, b.text)]
        ]
        each = iter(self._choose(asked))
        probabilities = [
            _mean([one for one in [next(each) for _ in guidelines] if one is not None])
            for _ in range(2)
            for guidelines in drawn
        ]
        found: list[PairVerdict | None] = []
        for shown, swapped in zip(probabilities[: len(pairs)], probabilities[len(pairs) :], strict=True):
            if shown is None or swapped is None:
                self.unread["no readable verdict"] += 1
                found.append(None)
                continue
            preference = parsing.both_orders(shown, swapped)
            if self.clamp is not None:
                preference = parsing.clamped(preference, *self.clamp)
            found.append(PairVerdict(preference, shown[0], swapped[1]))
        return found

    def _drawn(self, pair: Pair) -> list[str]:
        """What this pair is judged by, in both orders."""
        if isinstance(self.guideline, str):
            return [self.guideline]
        key = (self.seed, *sorted((pair[1].id, pair[2].id)))
        shuffled = sorted(self.guideline, key=lambda text: unit_interval("guideline", *key, text))
        return shuffled[: self.guidelines_per_pair]

    def _choose(self, asked: Sequence[Asked]) -> list[tuple[float, ...] | None]:
        """Label probabilities of each; averaged over chains of thought where there are several."""
        if not self.reasoning:
            plain = [prompts.compare(*one, self.exemplars) for one in asked]
            return self.backend.choose(plain, LABELS, seed=self.seed)
        thoughts = [prompts.think(*one, self.exemplars) for one in asked]
        temperature = 0.0 if self.samples == 1 else 1.0
        chains = [self._concluded(thoughts, temperature, self.seed + i) for i in range(self.samples)]
        return [_mean([chain for chain in of_one if chain is not None]) for of_one in zip(*chains, strict=True)]

    def _concluded(
        self, thoughts: Sequence[list[Message]], temperature: float, seed: int
    ) -> list[tuple[float, ...] | None]:
        said = self.backend.say(thoughts, max_tokens=self.thought_tokens, temperature=temperature, seed=seed)
        places = [place for place, text in enumerate(said) if text is not None and text.strip()]
        asked = [prompts.conclude(thoughts[place], said[place] or "") for place in places]
        found: list[tuple[float, ...] | None] = [None] * len(thoughts)
        for place, probabilities in zip(places, self.backend.choose(asked, LABELS, seed=seed), strict=True):
            found[place] = probabilities
        return found

    @property
    def _whole(self) -> str:
        """All that is asked, where nothing is drawn."""
        return self.guideline if isinstance(self.guideline, str) else " ".join(self.guideline)

    def rate(self, answered: Sequence[tuple[list[Message], str]]) -> list[float | None]:
        """The expected rating of each answer to its conversation, from 1 to 10; None where it could not be read."""
        asked = [prompts.rate(self._whole, conversation, answer) for conversation, answer in answered]
        probabilities = self.backend.choose(asked, DIGITS, seed=self.seed)
        self.unread["no readable rating"] += sum(one is None for one in probabilities)
        return [None if one is None else parsing.expected_score(one) for one in probabilities]

    def rank(self, listed: Sequence[tuple[Prompt, Sequence[Response]]]) -> list[list[float] | None]:
        """Mean rank of each response, listed forwards and backwards; 1 the best."""
        forwards = [prompts.rank(self._whole, p.messages, [r.text for r in rs]) for p, rs in listed]
        backwards = [prompts.rank(self._whole, p.messages, [r.text for r in rs][::-1]) for p, rs in listed]
        said = self.backend.say([*forwards, *backwards], max_tokens=64, temperature=0.0, seed=self.seed)
        found: list[list[float] | None] = []
        for place, (_, responses) in enumerate(listed):
            one = parsing.ranking(said[place] or "", len(responses))
            other = parsing.ranking(said[place + len(listed)] or "", len(responses))
            if one is None or other is None:
                self.unread["no readable order"] += 1
                found.append(None)
            else:
                found.append([(a + b) / 2 for a, b in zip(one, other[::-1], strict=True)])
        return found

    def comparisons_of_ratings(
        self, prompt: Prompt, rated: Sequence[tuple[Response, float]], *, run: str
    ) -> list[Comparison]:
        """All pairs of a prompt's rated responses: the higher rating wins, equal ones tie."""
        return [
            comparison_of(
                self.name, self.criterion, (prompt, a, b), 0.5 if x == y else float(x > y), run=run, is_soft=False
            )
            for (a, x), (b, y) in combinations(rated, 2)
        ]

    def comparisons_of_ranking(
        self, prompt: Prompt, responses: Sequence[Response], ranks: Sequence[float], *, run: str
    ) -> list[Comparison]:
        """All pairs of a ranking, which know that they belong together."""
        ranking = content_id(run, self.name, self.criterion, sorted(response.id for response in responses))
        return [
            comparison_of(
                self.name,
                self.criterion,
                (prompt, a, b),
                0.5 if x == y else float(x < y),
                run=run,
                is_soft=False,
                ranking=ranking,
            )
            for (a, x), (b, y) in combinations(zip(responses, ranks, strict=True), 2)
        ]


def comparison_of(
    name: str, criterion: str, pair: Pair, preference: float, *, run: str, is_soft: bool = True,
    ranking: str | None = None,
) -> Comparison:  # fmt: skip
    """A verdict as the store keeps it, the probability beside the choice if it is one; 1/2 is a tie."""
    prompt, first, second = pair
    choice: Choice = "tie" if preference == 0.5 else "first" if preference > 0.5 else "second"
    soft = preference if is_soft else None
    return Comparison(
        prompt.id, first.id, second.id, name, choice, run, criterion=criterion, soft_preference=soft, ranking=ranking
    )


def _mean(probabilities: Sequence[tuple[float, ...]]) -> tuple[float, ...] | None:
    if not probabilities:
        return None
    return tuple(sum(values) / len(probabilities) for values in zip(*probabilities, strict=True))
