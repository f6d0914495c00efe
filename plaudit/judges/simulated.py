"""Annotators with a known taste and known noise, to rehearse a study with, and to test the rest against."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plaudit.config import SimulatedAnnotatorSettings, TasteSettings
from plaudit.judges.taste import utility
from plaudit.records import Annotator, Choice, Comparison, Prompt, Response, unit_interval


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Prefers the response of higher utility, with Bradley-Terry noise.

        P(first chosen) = sigmoid((utility_first - utility_second) / noise)

    Its choice depends on the seed, its name and the two texts alone, not on when or in which order it is asked.
    """

    settings: SimulatedAnnotatorSettings
    taste: TasteSettings
    seed: int

    @property
    def annotator(self) -> Annotator:
        """How it stands in the store."""
        parameters = {"noise": self.settings.noise, "taste": self.taste.model_dump(), "seed": self.seed}
        return Annotator(self.settings.name, "simulated", parameters)

    def compare(self, prompt: Prompt, first: Response, second: Response, *, run: str) -> Comparison:
        """Judge two responses, shown in a random order of this annotator's own."""
        first, second = sorted((first, second), key=lambda response: response.id)
        if unit_interval("order", self.seed, self.settings.name, first.id, second.id) < 0.5:
            first, second = second, first
        gap = self._utility(prompt, first) - self._utility(prompt, second)
        probability = 1 / (1 + math.exp(-max(-500.0, min(500.0, gap / self.settings.noise))))
        draw = unit_interval("choice", self.seed, self.settings.name, first.id, second.id)
        choice: Choice = "first" if draw < probability else "second"
        return Comparison(
            prompt.id, first.id, second.id, self.settings.name, choice, run, probability_first=probability
        )

    def _utility(self, prompt: Prompt, response: Response) -> float:
        return utility(prompt.text, response.text, finished=response.finished, taste=self.taste)
