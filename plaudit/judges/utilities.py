"""What simulated annotators have in common: facts of an answer, and the weights by which they add up to its utility."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plaudit.config import GuidelinePreference, RuleSettings
from plaudit.errors import ConfigError, DataError
from plaudit.functions import is_function, load_function
from plaudit.judges.guideline_preference import NOTHING, guideline_facts, guideline_weights
from plaudit.records import Prompt, Response

if TYPE_CHECKING:
    from plaudit.config import Config
    from plaudit.workspace import Workspace

Facts = Mapping[str, float]
GUIDELINE, SCORE = "guideline", "score"


@dataclass(frozen=True)
class UtilityFunction:
    """utility = sum over facts of weight * fact.

    weights  fact -> nats of preference for each unit of it
    facts    of a response to a prompt
    source   how it is named in the store
    """

    weights: Mapping[str, float]
    facts: Callable[[Prompt, Response], Facts]
    source: Any
    _known: dict[tuple[str, str, str, bool], Facts] = field(default_factory=dict, repr=False, compare=False)

    def utility(self, prompt: Prompt, response: Response, factors: Mapping[str, float] | None = None) -> float:
        """Nats of Bradley-Terry preference at noise 1.

        factors  fact -> what its weight is multiplied by; None for 1
        """
        key = (prompt.id, response.id, response.text, response.finished)
        if key not in self._known:
            self._known[key] = self.facts(prompt, response)
        total = 0.0
        for name, amount in self._known[key].items():  # not sum(): it rounds otherwise from Python 3.12 on
            total += self.weights[name] * (factors[name] if factors else 1.0) * amount
        return total


def utility_of_guideline(guideline_preference: GuidelinePreference) -> UtilityFunction:
    """The checkable guideline preference; its utility is `guideline_preference.utility`."""

    def facts(prompt: Prompt, response: Response) -> Facts:
        if not response.text.strip():
            return NOTHING
        return guideline_facts(
            prompt.text, response.text, finished=response.finished, guideline_preference=guideline_preference
        )

    return UtilityFunction(guideline_weights(guideline_preference), facts, guideline_preference.model_dump())


def utility_of_rules(rules: Sequence[RuleSettings], guideline_preference: GuidelinePreference) -> UtilityFunction:
    """Weights on facts and patterns.

    guideline_preference  whose facts the rules are about
    """
    patterns = {rule.name: re.compile(rule.pattern, re.IGNORECASE) for rule in rules if rule.pattern is not None}
    named = [rule.fact for rule in rules if rule.fact is not None]

    def facts(prompt: Prompt, response: Response) -> Facts:
        found = {"words": float(len(response.text.split()))}
        if set(named) - {"words"}:
            found |= guideline_facts(
                prompt.text, response.text, finished=response.finished, guideline_preference=guideline_preference
            )
        held = {name: float(pattern.search(response.text) is not None) for name, pattern in patterns.items()}
        return {name: found[name] for name in named} | held

    weights = {rule.name: rule.weight for rule in rules}
    return UtilityFunction(weights, facts, [rule.model_dump(exclude_none=True) for rule in rules])


def utility_of_scores(scores: Mapping[str, float], source: str) -> UtilityFunction:
    """Utility by scores that are there already.

    scores  response id -> its utility
    """
    return UtilityFunction({SCORE: 1.0}, lambda _, response: {SCORE: scores[response.id]}, source)


def is_model(utility: str | list[RuleSettings]) -> bool:
    """Whether `judge.utility` names a reward model."""
    return isinstance(utility, str) and utility != GUIDELINE and not is_function(utility)


def load_utility(
    workspace: Workspace, config: Config, model: str | None, answers: Sequence[tuple[Prompt, Response]]
) -> UtilityFunction:
    """The utility that `judge.utility` names.

    model    the lineage name of the reward model that it names, if it does
    answers  all that will be judged: functions and reward models score them at once

    Raises ConfigError for a function that cannot be loaded or a model of several heads, DataError for a function that
    fails or returns other than finite numbers, or for an answer beyond a model's context.
    """
    utility, guideline_preference = config.judge.utility, config.judge.guideline_preference
    if utility == GUIDELINE:
        return utility_of_guideline(guideline_preference)
    if not isinstance(utility, str):
        return utility_of_rules(utility, guideline_preference)
    name = model or utility
    scores = _by_model(workspace, name, config, answers) if model else _by_function(name, answers)
    ids = [response.id for _, response in answers]
    return utility_of_scores(dict(zip(ids, scores, strict=True)), name)


def _by_function(name: str, answers: Sequence[tuple[Prompt, Response]]) -> list[float]:
    found = load_function(name, setting="judge.utility").numbers(
        [prompt.messages for prompt, _ in answers],
        [response.text for _, response in answers],
        each="answers",
        shown=lambda row: f"prompt {answers[row][0].text[:60]!r} and answer {answers[row][1].text[:60]!r}",
    )
    return [score for score in found if score is not None]


def _by_model(
    workspace: Workspace, name: str, config: Config, answers: Sequence[tuple[Prompt, Response]]
) -> list[float]:
    from plaudit.models.loading import load_reward
    from plaudit.rewards.answers import score_answers

    model = load_reward(workspace.model_source(name, kind="reward"), config.model)
    if model.scores.criteria is not None:
        raise ConfigError(f"`judge.utility={name}`: it scores {', '.join(model.scores.heads)}; name a model of one.")
    found = score_answers(model, [(prompt, response.text) for prompt, response in answers], config)
    missing = sum(scores is None for scores in found)
    if missing:
        raise DataError(f"{missing} answers are beyond the context of {name}, so it cannot judge them.")
    known = [model.scores.sign * sum(scores) / len(scores) for scores in found if scores is not None]
    if not all(map(math.isfinite, known)):
        raise DataError(f"{name} gives scores that are not finite, so it cannot judge.")
    return known
