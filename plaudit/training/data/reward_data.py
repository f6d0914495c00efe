"""What reward and cost models learn from and are measured on, as `reward.*` asks for it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.methods import REWARD_LOSSES
from plaudit.models.loading import LoadedModel
from plaudit.progress import say
from plaudit.records import unit_interval
from plaudit.training.data.annotators import combine_annotators
from plaudit.training.data.choosing import COMPARISONS, RATINGS, choose, data_snapshot
from plaudit.training.data.encoding import load_judged_prompts, load_rated_prompts
from plaudit.training.data.judged_prompts import JudgedPrompt
from plaudit.workspace import Run, Sources, Workspace


@dataclass(frozen=True)
class RewardData:
    """What a reward model learns from and is measured on.

    scales   of ratings: criterion -> mean and standard deviation of those in training; all ratings here are less the
             mean and over the deviation, which a head that starts near 0 can learn
    """

    train: list[JudgedPrompt]
    held_out: list[JudgedPrompt]
    scales: dict[str, tuple[float, float]]


def choose_judgments(workspace: Workspace, config: Config) -> tuple[Sources, dict[str, Any]]:
    """(sources, snapshot) of what `reward` asks for. Raises DataError when there is nothing."""
    settings = config.reward
    wanted: dict[str, Any] = {"setting": "reward.comparisons", "criteria": settings.wanted_criteria}
    if REWARD_LOSSES[settings.loss].learns_from == "ratings":
        ratings = choose(workspace, RATINGS, settings.comparisons, **wanted)
        return Sources(labels=ratings.sources), data_snapshot([], ratings.rows)
    comparisons = choose(workspace, COMPARISONS, settings.comparisons, **wanted)
    return Sources(comparisons=comparisons.sources), data_snapshot(comparisons.rows)


def load_reward_data(workspace: Workspace, run: Run, model: LoadedModel, config: Config) -> RewardData:
    """The judgments of the run's sources as this model's tokens. Raises DataError when there are none to learn from."""
    settings = config.reward
    load = load_rated_prompts if REWARD_LOSSES[settings.loss].learns_from == "ratings" else load_judged_prompts
    train, held_out = load(
        workspace, run, model, config, most_tokens=settings.max_response_tokens, criteria=settings.wanted_criteria
    )
    if REWARD_LOSSES[settings.loss].needs_labels:
        train, held_out = _with_safety_labels(train), _with_safety_labels(held_out)
    if not train:
        raise DataError("there are no judgments on training prompts; all prompts are in the held-out split.")
    if settings.most_prompts is not None:
        train = draw_prompts(train, settings.most_prompts, seed=config.seed)
    scales = _rating_scales(train)
    train, held_out = ([_in_deviations(prompt, scales) for prompt in prompts] for prompts in (train, held_out))
    return RewardData(combine_annotators(train, settings.annotators), held_out, scales)


def draw_prompts(prompts: Sequence[JudgedPrompt], count: int, *, seed: int) -> list[JudgedPrompt]:
    """A random draw of `count`; a smaller draw is part of a larger one."""
    return sorted(prompts, key=lambda prompt: unit_interval("most_prompts", seed, prompt.prompt_id))[:count]


def _rating_scales(train: Sequence[JudgedPrompt]) -> dict[str, tuple[float, float]]:
    """Criterion -> mean and standard deviation of the ratings that are learnt from."""
    values: dict[str, list[float]] = defaultdict(list)
    for prompt in train:
        for rating in prompt.ratings:
            values[rating.criterion].append(rating.value)
    flat = [name for name, found in values.items() if max(found) == min(found)]
    if flat:
        raise DataError(f"all ratings by `{flat[0]}` are {values[flat[0]][0]:g}: there is nothing to learn from them.")
    return {name: (statistics.fmean(found), statistics.pstdev(found)) for name, found in sorted(values.items())}


def _in_deviations(prompt: JudgedPrompt, scales: dict[str, tuple[float, float]]) -> JudgedPrompt:
    rescaled = [
        rating._replace(value=(rating.value - scales[rating.criterion][0]) / scales[rating.criterion][1])
        for rating in prompt.ratings
        if rating.criterion in scales
    ]
    return replace(prompt, ratings=tuple(rescaled))


def _with_safety_labels(prompts: Sequence[JudgedPrompt]) -> list[JudgedPrompt]:
    """A cost needs to know of both sides whether they harm: judgments of others are left out, counted and said."""
    kept, dropped = [], 0
    for prompt in prompts:
        pairs = [
            (judgment, comparison)
            for judgment, comparison in zip(prompt.judgments, prompt.comparisons, strict=True)
            if prompt.safe[judgment.first] is not None and prompt.safe[judgment.second] is not None
        ]
        dropped += len(prompt.judgments) - len(pairs)
        if pairs:
            kept.append(replace(prompt, judgments=[j for j, _ in pairs], comparisons=[c for _, c in pairs]))
    if dropped:
        say(f"{dropped} comparisons have a response without a `safe` label: left out.")
    return kept
