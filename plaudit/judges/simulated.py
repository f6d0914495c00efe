"""Annotators with a known guideline preference and known noise, to rehearse a study with, and to test the rest
against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import NormalDist
from typing import Any

from plaudit.config import SimulatedAnnotatorSettings
from plaudit.judges.utilities import UtilityFunction
from plaudit.records import Annotator, Choice, Comparison, Label, Prompt, Response, content_id, unit_interval

QUALITY = "quality"
"""The criterion of simulated ratings."""
MEAN_OF_GUMBEL = 0.5772156649015329
LEAST = 2.0**-57
MOST = 1 - 2.0**-53
PER_DRIFT = 1000
"""Judgments in which drift is measured."""


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Prefers the response of higher utility, with Bradley-Terry noise, biases and lapses.

        log-odds = (utility_first - utility_second) / noise
                   + length_bias * log(words_first / words_second) + position_bias
        P(first) = (1 - lazy_share) (f + (1 - 2 f) sigmoid(log-odds)) + lazy_share P(first | lazy)

    with f the flip rate, and the utility the common one by the annotator's own weights, with an opinion of its own
    added. Its choice depends on the seed, its name and the two texts alone, not on when or in which order it is asked;
    but for drift, which counts the judgments that it has done.
    """

    settings: SimulatedAnnotatorSettings
    utility_function: UtilityFunction
    seed: int

    @property
    def annotator(self) -> Annotator:
        """How it stands in the store."""
        # the key by which stores of earlier versions know annotators
        common = {"taste": self.utility_function.source, "seed": self.seed}
        return Annotator(self.settings.name, "simulated", self.parameters | common)

    @property
    def parameters(self) -> dict[str, Any]:
        """Its noise, and what else is not as it is by default."""
        own = self.settings.model_dump(mode="json", exclude_defaults=True, exclude={"name", "noise"})
        return {"noise": self.settings.noise} | own

    def utility(self, prompt: Prompt, response: Response) -> float:
        """What the response is worth to this annotator, nats."""
        utility = self.utility_function.utility(prompt, response, self._factors)
        if self.settings.own_opinion:
            utility += self.settings.own_opinion * self._normal("opinion", response.id)
        return utility

    def compare(self, prompt: Prompt, first: Response, second: Response, *, run: str, done: int = 0) -> Comparison:
        """Judge two responses, shown in a random order of this annotator's own.

        done  judgments before this one
        """
        first, second = sorted((first, second), key=lambda response: response.id)
        if self._draw("order", first.id, second.id) < 0.5:
            first, second = second, first
        gap = self.utility(prompt, first) - self.utility(prompt, second)
        log_odds = gap / self._noise(done) + self._length(first) - self._length(second) + self._position(done)
        probability = _sigmoid(log_odds)
        draw = self._draw("choice", first.id, second.id)
        choice: Choice = "first" if draw < probability else "second"
        apparent = self._noise(done) * abs(log_odds - _logit(draw))  # the choice is the sign of that difference
        grade = self._grade(apparent)
        lazy = self._happens("lazy", self.settings.lazy_share, first.id, second.id)
        tied = abs(gap) < self.settings.tie_band
        if lazy:
            grade = self._grade_by_chance(first.id, second.id)
            blind = self._draw("blind", first.id, second.id) < 0.5
            choice = "first" if self.settings.lazy_answer == "first" or blind else "second"
        elif tied:
            choice, grade = "tie", None
        elif self._happens("flip", self.settings.flip_rate, first.id, second.id):
            choice = "second" if choice == "first" else "first"
        return Comparison(
            prompt.id, first.id, second.id, self.settings.name, choice, run, grade=grade,
            probability_first=self._with_lapses(0.5 if tied else probability),
            seconds=self._seconds(lazy, first.id, second.id),
        )  # fmt: skip

    def rank(self, prompt: Prompt, responses: Sequence[Response], *, run: str, done: int = 0) -> list[Comparison]:
        """All pairs of a ranking of K responses, each of which knows the ranking that it is part of.

        Plackett-Luce: the order of (utility / noise + biases + Gumbel noise), by which every pair is Bradley-Terry. The
        position bias falls evenly from the response shown first to the last. With probability 2 * flip_rate the
        ranking is drawn by chance: each pair is then turned round with probability flip_rate.
        """
        ids = sorted(response.id for response in responses)
        shown = sorted(responses, key=lambda response: self._draw("order", response.id, *ids))
        last = max(1, len(shown) - 1)
        scores = [
            self.utility(prompt, response) / self._noise(done)
            + self._length(response)
            + self._position(done) * (last - place) / last
            for place, response in enumerate(shown)
        ]
        lazy = self._happens("lazy", self.settings.lazy_share, *ids)
        blind = self._happens("flip", 2 * self.settings.flip_rate, *ids) and not lazy
        keys = [
            (0.0 if lazy or blind else score) + self._gumbel("choice", response.id, *ids)
            for score, response in zip(scores, shown, strict=True)
        ]
        if lazy and self.settings.lazy_answer == "first":
            keys = [-float(place) for place in range(len(shown))]
        ranking = content_id(run, self.settings.name, "", ids)
        took = self._seconds(lazy, *ids)
        pairs = list(combinations(range(len(shown)), 2))
        return [
            Comparison(
                prompt.id, shown[i].id, shown[j].id, self.settings.name, "first" if keys[i] > keys[j] else "second",
                run, probability_first=self._with_lapses(_sigmoid(scores[i] - scores[j])), ranking=ranking,
                seconds=None if took is None else took / len(pairs),
            )
            for i, j in pairs
        ]  # fmt: skip

    def rate(self, prompt: Prompt, responses: Sequence[Response], *, run: str, done: int = 0) -> list[Label]:
        """Each response by itself: its utility with length bias and Gumbel noise, nats, on no bounded scale.

        The higher of two ratings is so the one that is preferred by Bradley-Terry. With probability 2 * flip_rate
        a rating is that of one of the responses by chance; a lazy one is 0, or noise alone for `lazy_answer: random`.
        """
        values = [self._rating(prompt, response, responses, done) for response in responses]
        return [
            Label(prompt.id, response.id, self.settings.name, value, run, QUALITY)
            for response, value in zip(responses, values, strict=True)
        ]  # fmt: skip

    def _rating(self, prompt: Prompt, response: Response, responses: Sequence[Response], done: int) -> float:
        noise = self._noise(done)
        disturbance = noise * (self._gumbel("choice", response.id) - MEAN_OF_GUMBEL)
        if self._happens("lazy", self.settings.lazy_share, response.id):
            return 0.0 if self.settings.lazy_answer == "first" else disturbance
        meant = response
        if self._happens("flip", 2 * self.settings.flip_rate, response.id):
            meant = responses[int(self._draw("blind", response.id) * len(responses))]
        return self.utility(prompt, meant) + noise * self._length(meant) + disturbance

    @cached_property
    def _factors(self) -> Mapping[str, float] | None:
        if not self.settings.own_weights:
            return None
        return {
            n: math.exp(self.settings.own_weights * self._normal("weight", n)) for n in self.utility_function.weights
        }

    def _noise(self, done: int) -> float:
        return self.settings.noise * (1 + self.settings.noise_drift * done / PER_DRIFT)

    def _position(self, done: int) -> float:
        return self.settings.position_bias + self.settings.position_drift * done / PER_DRIFT

    def _length(self, response: Response) -> float:
        return self.settings.length_bias * math.log(max(1, len(response.text.split())))

    def _with_lapses(self, probability: float) -> float:
        flip, lazy = self.settings.flip_rate, self.settings.lazy_share
        read = (1 - flip) * probability + flip * (1 - probability)
        return (1 - lazy) * read + lazy * (1.0 if self.settings.lazy_answer == "first" else 0.5)

    def _grade(self, gap: float) -> int | None:
        thresholds = self.settings.grade_thresholds
        return None if thresholds is None else 1 + sum(gap >= threshold for threshold in thresholds)

    def _grade_by_chance(self, *ids: str) -> int | None:
        return None if self.settings.grade_thresholds is None else 1 + int(4 * self._draw("grade", *ids))

    def _seconds(self, lazy: bool, *ids: str) -> float | None:
        if self.settings.median_seconds is None:
            return None
        took = self.settings.median_seconds * math.exp(self.settings.seconds_spread * self._normal("seconds", *ids))
        return round(took * (self.settings.lazy_speed if lazy else 1.0), 2)

    def _draw(self, what: str, *about: str) -> float:
        """A number in [0, 1) of this annotator's own."""
        return unit_interval(what, self.seed, self.settings.name, *about)

    def _happens(self, what: str, share: float, *about: str) -> bool:
        return share > 0 and self._draw(what, *about) < share

    def _normal(self, what: str, *about: str) -> float:
        return NormalDist().inv_cdf(_inside(self._draw(what, *about)))

    def _gumbel(self, what: str, *about: str) -> float:
        return -math.log(-math.log(_inside(self._draw(what, *about))))


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, log_odds))))


def _inside(share: float) -> float:
    """Strictly between 0 and 1."""
    return min(MOST, max(LEAST, share))


def _logit(share: float) -> float:
    share = _inside(share)
    return math.log(share / (1 - share))
