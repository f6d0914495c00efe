"""Comparisons from the store, as tokens: what reward models and preference losses learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.models.loading import LoadedModel
from plaudit.progress import say
from plaudit.records import DESIRABLE, SAFE, Comparison, Label, Response
from plaudit.store.database import snapshot
from plaudit.text.batches import by_token_budget, packed_size
from plaudit.text.chat import TokenSequence
from plaudit.workspace import Run, Workspace

SOURCE = "comparisons_"
"""In a run's parents, the roles of the judge runs and imports that its comparisons come from."""
LABELS = "labels_"
"""Of the imports that its labels come from."""


class Judgment(NamedTuple):
    """Which of two responses of a prompt is better.

    first, second   their places among the prompt's responses
    preference      for the first: 1, 0, 0.5 for a tie, or between where somebody is unsure or several differ
    grade           how much better, 1 to 4; None where nobody said
    ranking         of a pair that is part of a ranking: which one
    """

    first: int
    second: int
    preference: float
    grade: float | None = None
    ranking: str | None = None


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt's responses as tokens, and every judgment between two of them.

    comparisons   what the judgments were made of; one each, unless several annotators' became one
    safe          of each response whether it was labelled safe; None where nobody said
    """

    prompt_id: str
    response_ids: list[str]
    sequences: list[TokenSequence]
    judgments: list[Judgment]
    comparisons: list[Comparison]
    safe: tuple[bool | None, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence) for sequence in self.sequences)


@dataclass(frozen=True)
class LabelledResponse:
    """One response that somebody liked or did not; of a comparison each side is one."""

    prompt_id: str
    response_id: str
    sequence: TokenSequence
    desirable: bool


def choose_comparisons(
    workspace: Workspace, wanted: Sequence[str] | None, *, setting: str, criterion: str | None = None
) -> list[Comparison]:
    """The comparisons of these judge runs and imports, of all where None; by one criterion.

    setting     where they were named, for messages
    criterion   None for the only one there is

    Raises DataError when there are none, or by several criteria and none was named.
    """
    comparisons = workspace.store.comparisons()
    if wanted is not None:
        names = {workspace.lineage_name(name) for name in wanted}
        unknown = sorted(names - {c.run for c in comparisons})
        if unknown:
            known = ", ".join(sorted({c.run for c in comparisons})) or "none yet"
            raise DataError(f"`{setting}`: no comparisons of {', '.join(unknown)} in the store ({known}).")
        comparisons = [c for c in comparisons if c.run in names]
    if not comparisons:
        raise DataError(
            f"{workspace.path} has no comparisons to learn from. Make some with `plaudit judge`, "
            "or add your own with `plaudit import FILE --kind comparisons`."
        )
    criteria = sorted({c.criterion for c in comparisons})
    if criterion is None and len(criteria) > 1:
        named = ", ".join(name or '"" (none named)' for name in criteria)
        raise DataError(
            f"the comparisons are by several criteria: {named}. One model learns one: name it by "
            f"`{setting.rpartition('.')[0]}.criterion`."
        )
    if criterion is not None and criterion not in criteria:
        raise DataError(f"no comparisons by criterion `{criterion}`; there are: {', '.join(criteria) or 'none'}.")
    return comparisons if criterion is None else [c for c in comparisons if c.criterion == criterion]


def data_snapshot(comparisons: Sequence[Comparison], labels: Sequence[Label] = ()) -> dict[str, Any]:
    """What a run that learns from these was made from."""
    data = snapshot("comparisons", (c.id for c in comparisons))
    return data | (snapshot("labels", (label.id for label in labels)) if labels else {})


def _sources(run: Run, role: str) -> set[str]:
    """The runs and imports that stand in a run's parents in one role."""
    return {name for key, name in run.parents.items() if key.startswith(role)}


def _labels_of(workspace: Workspace, run: Run) -> list[Label]:
    names = _sources(run, LABELS)
    return [label for label in workspace.store.labels(DESIRABLE) if label.run in names]


def source_parents(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """Role -> run, for the lineage."""
    return {f"{SOURCE}{i}": name for i, name in enumerate(sorted({c.run for c in comparisons}))}


def load_judged_prompts(
    workspace: Workspace,
    run: Run,
    model: LoadedModel,
    config: Config,
    *,
    most_tokens: int,
    criterion: str | None = None,
) -> tuple[list[JudgedPrompt], list[JudgedPrompt]]:
    """(training, held-out) prompts with their responses and the judgments of the run's sources, by one criterion.

    Judgments with a response of over `most_tokens`, or that does not fit the model's context, are counted and said.
    """
    prompts = {prompt.id: prompt for prompt in workspace.store.prompts()}
    sources = _sources(run, SOURCE)
    comparisons = [c for c in workspace.store.comparisons() if c.run in sources and criterion in (None, c.criterion)]
    run.check_data(data_snapshot(comparisons, _labels_of(workspace, run)))
    by_prompt: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        by_prompt[comparison.prompt_id].append(comparison)
    responses = {response.id: response for response in workspace.store.responses()}
    same_ids = sampled_with(workspace, model)
    safe = _safety_labels(workspace)
    limit = model.prompt_limit(config.data.max_prompt_tokens, 1)
    found: dict[str, list[JudgedPrompt]] = {"train": [], "held_out": []}
    dropped = 0
    for prompt_id, judged in sorted(by_prompt.items()):
        prompt_ids = model.format.encode_prompt(prompts[prompt_id].messages, limit=limit)
        wanted = sorted({side for c in judged for side in (c.first, c.second)})
        encoded = {r: TokenSequence(prompt_ids, encode_stored(model, responses[r], same_ids)) for r in wanted}
        kept = [r for r in wanted if fits(encoded[r], model, most_tokens)]
        usable = [c for c in judged if c.first in kept and c.second in kept]
        dropped += len(judged) - len(usable)
        if usable:
            place = {r: i for i, r in enumerate(kept)}
            judgments = [
                Judgment(place[c.first], place[c.second], c.preference_first, c.grade, c.ranking) for c in usable
            ]
            known = tuple(safe.get(r) for r in kept)
            item = JudgedPrompt(prompt_id, kept, [encoded[r] for r in kept], judgments, usable, known)
            found[prompts[prompt_id].split].append(item)
    if dropped:
        say(f"{dropped} comparisons have a response over {most_tokens} tokens: left out.")
    return found["train"], found["held_out"]


def _safety_labels(workspace: Workspace) -> dict[str, bool]:
    """Response -> whether most of those who said so find it safe; one that they disagree on evenly is not."""
    votes: dict[str, list[float]] = defaultdict(list)
    for label in workspace.store.labels(SAFE):
        votes[label.response].append(label.value)
    return {response: sum(values) > len(values) / 2 for response, values in votes.items()}


def sampled_with(workspace: Workspace, model: LoadedModel) -> set[str]:
    """Sampling runs whose stored ids mean the same tokens to this model."""
    return {run.name for run in workspace.runs("sample") if run.info.get("vocabulary") == model.format.vocabulary_id}


def encode_stored(model: LoadedModel, response: Response, same_ids: set[str]) -> list[int]:
    """The ids as sampled where this tokenizer sampled them; else the text, encoded, with its end token."""
    if response.token_ids is not None and response.run in same_ids:
        return model.format.scored_ids(response.token_ids, finished=response.finished)
    return model.format.encode_response(response.text, finished=response.finished)


def fits(sequence: TokenSequence, model: LoadedModel, most_tokens: int) -> bool:
    """Whether the response is within the setting, and the whole within the context."""
    return len(sequence.response_ids) <= most_tokens and len(sequence) <= model.context_length


def prompt_groups(batch: Sequence[JudgedPrompt], budget: int) -> list[list[JudgedPrompt]]:
    """Groups of whole prompts, since a judgment needs both of its responses in one graph."""
    costs, lengths = [packed_size(p.sequences) for p in batch], [p.longest for p in batch]
    return [[batch[i] for i in group] for group in by_token_budget(costs, budget, lengths=lengths)]


def side_by_side(group: Sequence[JudgedPrompt], device: torch.device | str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All judgments of a group of prompts whose responses stand in one batch, prompt by prompt.

    Returns ([N] row of the first, [N] row of the second, [N] preference for the first, [N] which prompt).
    """
    first, second, preference, prompt, start = [], [], [], [], 0
    for number, item in enumerate(group):
        for judgment in item.judgments:
            first.append(start + judgment.first)
            second.append(start + judgment.second)
            preference.append(judgment.preference)
            prompt.append(number)
        start += len(item.sequences)
    return (
        torch.tensor(first, device=device),
        torch.tensor(second, device=device),
        torch.tensor(preference, device=device),
        torch.tensor(prompt, device=device),
    )


def without_ties(prompts: Sequence[JudgedPrompt]) -> list[JudgedPrompt]:
    """A tie has no chosen side: left out, counted and said."""
    ties = sum(judgment.preference == 0.5 for prompt in prompts for judgment in prompt.judgments)
    if ties:
        say(f"{ties} comparisons are ties: left out.")
    kept = []
    for prompt in prompts:
        decided = [(j, c) for j, c in zip(prompt.judgments, prompt.comparisons, strict=True) if j.preference != 0.5]
        if decided:
            judgments, comparisons = zip(*decided, strict=True)
            kept.append(replace(prompt, judgments=list(judgments), comparisons=list(comparisons)))
    return kept


def load_labelled_responses(
    workspace: Workspace,
    run: Run,
    model: LoadedModel,
    config: Config,
    train: Sequence[JudgedPrompt],
    held_out: Sequence[JudgedPrompt],
) -> tuple[list[LabelledResponse], list[LabelledResponse]]:
    """(training, held-out) labels of the run's sources, and the two sides of every comparison as labels."""
    found: dict[str, list[LabelledResponse]] = {"train": [], "held_out": []}
    for split, prompts in (("train", train), ("held_out", held_out)):
        for prompt in prompts:
            for judgment in prompt.judgments:
                sides = (judgment.first, judgment.preference > 0.5), (judgment.second, judgment.preference < 0.5)
                for place, desirable in sides:
                    found[split].append(
                        LabelledResponse(
                            prompt.prompt_id, prompt.response_ids[place], prompt.sequences[place], desirable
                        )
                    )
    labels = _labels_of(workspace, run)
    by_id = {prompt.id: prompt for prompt in workspace.store.prompts()} if labels else {}
    responses = {response.id: response for response in workspace.store.responses()} if labels else {}
    same_ids = sampled_with(workspace, model)
    limit = model.prompt_limit(config.data.max_prompt_tokens, 1)
    dropped = 0
    for label in labels:
        prompt_ids = model.format.encode_prompt(by_id[label.prompt_id].messages, limit=limit)
        sequence = TokenSequence(prompt_ids, encode_stored(model, responses[label.response], same_ids))
        if fits(sequence, model, config.prefer.max_response_tokens):
            item = LabelledResponse(label.prompt_id, label.response, sequence, label.value > 0.5)
            found[by_id[label.prompt_id].split].append(item)
        else:
            dropped += 1
    if dropped:
        say(f"{dropped} labelled responses are over {config.prefer.max_response_tokens} tokens: left out.")
    return found["train"], found["held_out"]
