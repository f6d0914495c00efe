"""The loss of a reward or cost model over some prompts, by `reward.loss`.

Per prompt it is a mean over what was judged: a response stands in K - 1 pairs of its prompt, and a prompt with more
judgments is not worth more. R responses of all prompts, N pairs, C heads.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from plaudit.config import RewardSettings
from plaudit.methods import REWARD_LOSSES
from plaudit.objectives import (
    MARGINS,
    bradley_terry,
    centring_penalty,
    cost_comparison,
    davidson,
    plackett_luce,
    rating_error,
    safety_classification,
    smoothed,
)
from plaudit.records import unit_interval
from plaudit.training.data.judged_prompts import JudgedPrompt, side_by_side

LOG_TIE = "log_tie"
"""Davidson's log nu, learnt as a parameter of the head."""


@dataclass(frozen=True)
class Losses:
    """Losses of a group of prompts.

    total            sum over prompts; nats, or squared units of ratings
    right, decided   judgments whose preferred response has the higher score, and those that are no ties
    """

    total: Tensor
    right: float
    decided: int


def losses_by_head(
    settings: RewardSettings, scores: Tensor, group: Sequence[JudgedPrompt], head: nn.Module, *, seed: int
) -> Losses:
    """From [R] scores `group_losses`; from [R, C] the mean over heads of each one's, on what it learns from.

    A head learns from the judgments by its criterion; or, in an ensemble, from a bootstrap sample of the prompts: one
    counts as often as a Poisson variable of mean 1 says, drawn from the seed, the prompt and the head (Oza and Russell
    2001, Online Bagging and Boosting).
    """
    if scores.dim() == 1:
        return group_losses(settings, scores, group, head)
    starts = [0, *accumulate(len(prompt.sequences) for prompt in group)]
    parts = []
    for number in range(scores.shape[1]):
        chosen: list[JudgedPrompt] = []
        rows: list[int] = []
        for prompt, start in zip(group, starts, strict=False):
            if settings.criteria is not None:
                own, count = by_criterion(prompt, settings.criteria[number]), 1
            else:
                own, count = prompt, _bootstrap_count(unit_interval("member", seed, number, prompt.prompt_id))
            if own.judgments or own.ratings:
                chosen += [own] * count
                rows += list(range(start, start + len(prompt.sequences))) * count
        if chosen:
            parts.append(group_losses(settings, scores[rows, number], chosen, head))
    total = scores.sum() * 0.0  # a group may have nothing for any head, and still needs a gradient
    for part in parts:
        total = total + part.total / scores.shape[1]
    return Losses(total, sum(part.right for part in parts), sum(part.decided for part in parts))


def by_criterion(prompt: JudgedPrompt, criterion: str) -> JudgedPrompt:
    """The prompts with the judgments and ratings by one criterion alone."""
    return replace(
        prompt,
        judgments=[judgment for judgment in prompt.judgments if judgment.criterion == criterion],
        comparisons=[comparison for comparison in prompt.comparisons if comparison.criterion == criterion],
        ratings=tuple(rating for rating in prompt.ratings if rating.criterion == criterion),
    )


def _bootstrap_count(u: float) -> int:
    """The Poisson(1) variable whose distribution function first exceeds u."""
    count, chance = 0, math.exp(-1)
    below = chance
    while below <= u and count < 20:
        count += 1
        chance /= count
        below += chance
    return count


def group_losses(settings: RewardSettings, scores: Tensor, group: Sequence[JudgedPrompt], head: nn.Module) -> Losses:
    """From the [R] scores of the group's responses, prompt by prompt. Costs come as scores: higher is more harmful."""
    first, second, labels, prompt = side_by_side(group, scores.device)
    one, other = scores[first], scores[second]
    loss = REWARD_LOSSES[settings.loss]
    if loss.learns_from == "rankings":
        total = _rankings(scores, group)
    elif loss.learns_from == "ratings":
        total = _rating_errors(scores, group)
    else:
        losses = _pairs(settings, one, other, labels, group, first, second, head)
        total = _mean_by_prompt(losses, prompt, len(group))
    if settings.centring_coefficient:
        total = total + settings.centring_coefficient * _mean_by_prompt(
            centring_penalty(one, other), prompt, len(group)
        )
    if settings.safety_coefficient:
        total = total + settings.safety_coefficient * _safety(scores, group)
    lead = other - one if loss.lower_is_better else one - other  # of a cost the higher one loses
    right = lead.sign() * (labels - 0.5).sign() > 0  # equal scores prefer neither
    return Losses(total, float(right.sum()), int((labels != 0.5).sum()))


def _pairs(
    settings: RewardSettings,
    one: Tensor,
    other: Tensor,
    labels: Tensor,
    group: Sequence[JudgedPrompt],
    first: Tensor,
    second: Tensor,
    head: nn.Module,
) -> Tensor:
    """[N]."""
    loss = REWARD_LOSSES[settings.loss]
    if loss.learns_ties:
        log_tie = getattr(head, LOG_TIE)
        return davidson(one, other, labels, log_tie)
    labels = smoothed(labels, flip_rate=settings.flip_rate)
    if loss.needs_labels:
        safe = torch.tensor([known is True for prompt in group for known in prompt.safe], device=one.device)
        return cost_comparison(one, other, 1 - labels, ~safe[first], ~safe[second])
    margin = None
    if settings.margin != "none":
        table = MARGINS[settings.margin] if isinstance(settings.margin, str) else settings.margin
        grades = [judgment.grade for prompt in group for judgment in prompt.judgments]
        margin = torch.tensor([_margin(table, grade) for grade in grades], device=one.device)
    return bradley_terry(one, other, labels, margin=margin)


def _margin(table: Sequence[float], grade: float | None) -> float:
    """Between two grades, of annotators who differ, linearly between their margins."""
    if grade is None:
        return 0.0
    low = min(int(grade), 3)
    return table[low - 1] + (grade - low) * (table[low] - table[low - 1])


def _rankings(scores: Tensor, group: Sequence[JudgedPrompt]) -> Tensor:
    """[] sum over prompts of the mean over rankings. A pair that is part of none is a ranking of two."""
    total = scores.new_zeros(())
    start = 0
    for prompt in group:
        rankings = ranks_of(prompt)
        width = max(len(ranks) for ranks in rankings)
        rows = torch.tensor([[start + r for r in ranks] + [start] * (width - len(ranks)) for ranks in rankings])
        levels = torch.tensor([[*ranks.values()] + [0] * (width - len(ranks)) for ranks in rankings])
        present = torch.tensor([[True] * len(ranks) + [False] * (width - len(ranks)) for ranks in rankings])
        device = scores.device
        total = total + plackett_luce(scores[rows.to(device)], levels.to(device), present.to(device)).mean()
        start += len(prompt.sequences)
    return total


def _rating_errors(scores: Tensor, group: Sequence[JudgedPrompt]) -> Tensor:
    """[] sum over prompts of the mean over their ratings."""
    places, values, prompts, start = [], [], [], 0
    for number, prompt in enumerate(group):
        places += [start + rating.response for rating in prompt.ratings]
        values += [rating.value for rating in prompt.ratings]
        prompts += [number] * len(prompt.ratings)
        start += len(prompt.sequences)
    errors = rating_error(scores[places], torch.tensor(values, device=scores.device))
    return _mean_by_prompt(errors, torch.tensor(prompts, device=scores.device), len(group))


def ranks_of(prompt: JudgedPrompt) -> list[dict[int, int]]:
    """{place of a response: its rank, 0 the best} for each ranking of a prompt, from the pairs it came as."""
    better: dict[object, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for number, judgment in enumerate(prompt.judgments):
        ranking = better[number if judgment.ranking is None else judgment.ranking]
        # of how many others each one is behind
        ranking[judgment.first] += judgment.preference < 0.5
        ranking[judgment.second] += judgment.preference > 0.5
    return [dict(ranking) for ranking in better.values()]


def _safety(scores: Tensor, group: Sequence[JudgedPrompt]) -> Tensor:
    """[] sum over prompts of the mean over their labelled responses; nothing where there is none."""
    known = [value for prompt in group for value in prompt.safe]
    prompts = [number for number, prompt in enumerate(group) for _ in prompt.safe]
    places = [i for i, value in enumerate(known) if value is not None]
    if not places:
        return scores.new_zeros(())
    safe = torch.tensor([known[i] is True for i in places], device=scores.device)
    owner = torch.tensor([prompts[i] for i in places], device=scores.device)
    return _mean_by_prompt(safety_classification(scores[places], safe), owner, len(group))


def _mean_by_prompt(values: Tensor, prompt: Tensor, prompts: int) -> Tensor:
    """[] sum over prompts of the mean of their values."""
    counts = torch.bincount(prompt, minlength=prompts)
    return (values / counts[prompt]).sum()
