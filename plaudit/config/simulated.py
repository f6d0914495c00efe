"""Settings of simulated annotators: what they like, how they err, and ready ones that agree as published people did."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from plaudit.config.section import Rate, Section, Share
from plaudit.errors import nearest

NotNegativeNumber = Annotated[float, Field(ge=0)]
PRESET = "preset:"
MEDIAN_SECONDS = 36.8
"""Seconds of a comparison by AlpacaFarm's workers (Dubois et al. 2023, arXiv:2305.14387)."""


class RuleSettings(Section):
    """One rule that adds to the utility of an answer: a weight on a fact of it, or on a pattern that it has."""

    fact: Literal["words", "finished", "answers", "tone", "length", "repetition"] | None = None
    """`words`: their number; the others are the guideline preference's, as under `judge.guideline_preference`; null
    for a rule on a pattern."""
    pattern: str | None = None
    """A regular expression, small and large letters alike: 1 where the answer has it, else 0."""
    weight: float
    """Nats of preference per unit of the fact; below 0 for what is disliked."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> RuleSettings:
        if (self.fact is None) == (self.pattern is None):
            raise ValueError("a rule is on a `fact` or on a `pattern`, one of the two")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(f"`{self.pattern}` is not a regular expression: {error}") from None
        return self

    @property
    def name(self) -> str:
        """What it is about: two rules may not be about the same."""
        return self.fact or f"/{self.pattern}/"


class SimulatedAnnotatorSettings(Section):
    """One simulated annotator: P(first) = sigmoid((utility_first - utility_second) / noise + biases), then lapses."""

    name: str
    """How it appears in the store and in reports."""
    noise: Rate
    """Bradley-Terry temperature, nats of utility: 0.1 is nearly always right, 3 is nearly a coin."""
    own_opinion: NotNegativeNumber = 0.0
    """Standard deviation of what the annotator alone adds to a response's utility, nats; the same whenever asked."""
    own_weights: NotNegativeNumber = 0.0
    """Standard deviation of the logarithms of the factors by which the annotator's own weights differ from those of the
    guideline preference or the rules."""
    flip_rate: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of choices turned the other way round; 0.25 is a fair coin in every other judgment (AlpacaFarm)."""
    position_bias: float = 0.0
    """Nats added to the log-odds of the response that is shown first."""
    length_bias: float = 0.0
    """Nats of log-odds for every unit of the logarithm of the ratio of lengths in words."""
    tie_band: NotNegativeNumber = 0.0
    """Utilities that are less than this apart, nats, are a tie."""
    noise_drift: NotNegativeNumber = 0.0
    """Growth of the noise with work: at 1 it has doubled after 1,000 judgments."""
    position_drift: float = 0.0
    """Nats by which the position bias grows in every 1,000 judgments."""
    lazy_share: Share = 0.0
    """Share of judgments given without reading."""
    lazy_answer: Literal["first", "random"] = "first"
    """What those are: the response shown first, or either by chance."""
    grade_thresholds: Annotated[list[Rate], Field(min_length=3, max_length=3)] | None = None
    """Apparent gaps of utility, noise included, nats, from which a preference is of grade 2, 3 and 4; null for none."""
    median_seconds: Rate | None = None
    """Median time for a judgment, seconds; 36.8 were measured of AlpacaFarm's workers; null keeps no times."""
    seconds_spread: NotNegativeNumber = 0.6
    """Standard deviation of the logarithm of the time."""
    lazy_speed: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What a judgment without reading takes, as a part of the time that it would have taken."""

    @model_validator(mode="after")
    def _grades_grow(self) -> SimulatedAnnotatorSettings:
        thresholds = self.grade_thresholds or []
        if any(low >= high for low, high in pairwise(thresholds)):
            raise ValueError(f"grade_thresholds must grow, but are {', '.join(f'{t:g}' for t in thresholds)}")
        return self


def _alike(prefix: str, count: int, *, noise: float, flip_rate: float = 0.0) -> list[SimulatedAnnotatorSettings]:
    names = [f"{prefix}-{number:02d}" for number in range(1, count + 1)]
    return [
        SimulatedAnnotatorSettings(name=name, noise=noise, flip_rate=flip_rate, median_seconds=MEDIAN_SECONDS)
        for name in names
    ]


PRESETS: dict[str, list[SimulatedAnnotatorSettings]] = {
    "alpacafarm": _alike("alpacafarm", 13, noise=0.135, flip_rate=0.25),
    "alpacafarm-people": _alike("worker", 4, noise=0.274, flip_rate=0.22),
    "instructgpt": _alike("labeler", 5, noise=0.774),
    "stiennon": _alike("researcher", 3, noise=0.755),
    "anthropic-hh": _alike("crowdworker", 3, noise=1.395),
}
"""Annotators whose agreement on the quickstart's pairs is that of published people (`plaudit.judges.calibration`):

alpacafarm         agree with the majority of three of alpacafarm-people on 65 % (Dubois et al. 2023)
alpacafarm-people  each with the majority of the three others on 65.7 %
instructgpt        two of them on 72.6 % (Ouyang et al. 2022: 72.6 +- 1.5)
stiennon           73 % (Stiennon et al. 2020: researchers, 73 +- 4)
anthropic-hh       63 % (Bai et al. 2022: researchers with crowdworkers, about 63)

On other pairs they agree more or less, as those are easier or harder; `judge.agreement` scales their noise to a share.
"""


def expand_presets(annotators: object) -> object:
    """`preset:NAME`, by itself or in a list, as the annotators that it stands for; anything else as it is.

    Raises ValueError for an unknown name.
    """
    if isinstance(annotators, str):
        annotators = [annotators]
    if not isinstance(annotators, list):
        return annotators
    expanded: list[object] = []
    for annotator in annotators:
        expanded += _preset(annotator) if isinstance(annotator, str) else [annotator]
    return expanded


def _preset(text: str) -> list[SimulatedAnnotatorSettings]:
    name = text.removeprefix(PRESET)
    if not text.startswith(PRESET) or name not in PRESETS:
        raise ValueError(f"`{text}`: write preset:NAME. Known: {', '.join(PRESETS)}.{nearest(name, PRESETS)}")
    return PRESETS[name]
