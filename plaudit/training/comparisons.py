"""Comparisons from the store, as tokens: what reward models and preference losses learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.judgments import SNAPSHOT, Found, exact_name, is_of, judgments_of, mixture, mixture_lines, parts_of
from plaudit.models.loading import LoadedModel
from plaudit.progress import say
from plaudit.records import DESIRABLE, SAFE, Comparison, Label, Response, implied_comparisons
from plaudit.store import Store
from plaudit.store.database import snapshot
from plaudit.text.batches import by_token_budget, packed_size
from plaudit.text.chat import TokenSequence
from plaudit.text.prompts import encode_prompts
from plaudit.workspace import Run, Workspace

SOURCE = "comparisons_"
"""In a run's parents, the roles of the judge runs and imports that its comparisons come from."""
LABELS = "labels_"
"""Of the imports that its labels come from."""
Asked = TypeVar("Asked", Comparison, Label)


class Judgment(NamedTuple):
    """Which of two responses of a prompt is better.

    first, second   their places among the prompt's responses
    preference      for the first: 1, 0, 0.5 for a tie, or between where somebody is unsure or several differ
    grade           how much better, 1 to 4; None where nobody said
    ranking         of a pair that is part of a ranking: which one
    criterion       what was asked; empty for which is better altogether
    """

    first: int
    second: int
    preference: float
    grade: float | None = None
    ranking: str | None = None
    criterion: str = ""


class Rating(NamedTuple):
    """How good a response is by itself: its place among the prompt's responses, the number, and what was asked."""

    response: int
    value: float
    criterion: str


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt's responses as tokens, and every judgment between two of them.

    comparisons   what the judgments were made of; one each, unless several annotators' became one
    safe          of each response whether it was labelled safe; None where nobody said
    ratings       where it is those that are learnt from: the judgments then say what they say of pairs
    """

    prompt_id: str
    response_ids: list[str]
    sequences: list[TokenSequence]
    judgments: list[Judgment]
    comparisons: list[Comparison]
    safe: tuple[bool | None, ...] = ()
    ratings: tuple[Rating, ...] = ()

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
    workspace: Workspace, wanted: Sequence[str] | None, *, setting: str, criteria: Sequence[str] | None = None
) -> list[Comparison]:
    """The comparisons of these judge runs, imports and snapshots, all that stand where None; by these criteria.

    Says what kinds of annotators they are by, and what was passed over.

    setting    where they were named, for messages
    criteria   None for the only one there is

    Raises DataError when there are none, by annotators of several kinds and nothing was named, or by several criteria
    and none was named.
    """
    _check_names(workspace, wanted)
    found = judgments_of(workspace, wanted, Store.comparisons)
    if not found.rows and not workspace.store.comparisons():
        raise DataError(
            f"{workspace.path} has no comparisons to learn from. Make some with `plaudit judge`, "
            "or add your own with `plaudit import FILE --kind comparisons`."
        )
    return _choose(found, workspace, wanted, criteria, "comparisons", setting)


def choose_ratings(
    workspace: Workspace, wanted: Sequence[str] | None, *, setting: str, criteria: Sequence[str] | None = None
) -> list[Label]:
    """As `choose_comparisons`, the ratings of single responses on scales."""
    _check_names(workspace, wanted)
    found = judgments_of(workspace, wanted, _ratings)
    if not found.rows and not _ratings(workspace.store):
        raise DataError(
            f"{workspace.path} has no ratings to learn from. Add some with `plaudit import FILE --kind ratings`."
        )
    return _choose(found, workspace, wanted, criteria, "ratings", setting)


def choose_labels(workspace: Workspace, wanted: Sequence[str] | None, *, setting: str) -> list[Label]:
    """As `choose_comparisons`, whether responses were liked; there need not be any."""
    _check_names(workspace, wanted)
    found = judgments_of(workspace, wanted, _liked)
    found.say()
    if wanted is None:
        check_kinds(workspace, found.rows, "labels", setting)
    for line in mixture_lines(mixture(workspace, found.rows)):
        say(f"Learning from labels: {line}.")
    return found.rows


def _choose(
    found: Found[Asked],
    workspace: Workspace,
    wanted: Sequence[str] | None,
    criteria: Sequence[str] | None,
    what: str,
    setting: str,
) -> list[Asked]:
    judgments = found.rows
    found.say()
    if wanted is not None:
        named = [name for name in wanted if not name.startswith(SNAPSHOT)]
        unknown = sorted({exact_name(workspace, name) for name in named if not _has(workspace, judgments, name)})
        if unknown:
            known = ", ".join(sorted(_runs_of(workspace, what))) or "none yet"
            raise DataError(f"`{setting}`: no {what} of {', '.join(unknown)} in the store ({known}).")
    if not judgments and found.unfinished:
        raise DataError(f"`{setting}`: all {what} are of judge runs that are not complete, so none count yet.")
    if not judgments:
        raise DataError(f"`{setting}` names nothing to learn from; null is for all in the workspace.")
    there = sorted({c.criterion for c in judgments})
    listed = ", ".join(name or '"" (none named)' for name in there)
    missing = [criterion for criterion in criteria or () if criterion not in there]
    if missing:
        raise DataError(f"no {what} by criterion `{missing[0]}`; there are: {listed}.")
    chosen = judgments if criteria is None else [c for c in judgments if c.criterion in criteria]
    if wanted is None:
        check_kinds(workspace, chosen, what, setting)
    if criteria is None and len(there) > 1:
        section = setting.rpartition(".")[0]
        several = f", or all by `{section}.criteria`" if section == "reward" else ""
        raise DataError(
            f"the {what} are by several criteria: {listed}. Name the one to learn by `{section}.criterion`{several}."
        )
    for line in mixture_lines(mixture(workspace, chosen)):
        say(f"Learning from {what}: {line}.")
    return chosen


def check_kinds(workspace: Workspace, judgments: Sequence[Comparison | Label], what: str, setting: str) -> None:
    """Raises DataError where people, models and simulated annotators judged: they are mixed on request alone."""
    found = mixture(workspace, judgments)
    if len(found) < 2:
        return
    lines = "\n".join(f"  {line}" for line in mixture_lines(found))
    example = ", ".join(sorted(next(iter(found.values())))[:3])
    raise DataError(
        f"the {what} in {workspace.path} are by annotators of several kinds:\n{lines}\n"
        f"Name those to learn from, as in `{setting}=[{example}]`; name all of them to learn from the mixture."
    )


def _check_names(workspace: Workspace, wanted: Sequence[str] | None) -> None:
    """Raises WorkspaceError for a run that is missing or incomplete."""
    for name in wanted or ():
        if not name.startswith(SNAPSHOT):
            workspace.lineage_name(name)


def _has(workspace: Workspace, judgments: Sequence[Comparison] | Sequence[Label], name: str) -> bool:
    parts = parts_of(workspace, exact_name(workspace, name))
    return any(is_of(judgment, parts) for judgment in judgments)


def _runs_of(workspace: Workspace, what: str) -> set[str]:
    rows: Sequence[Comparison | Label] = (
        workspace.store.comparisons() if what == "comparisons" else _ratings(workspace.store)
    )
    return {row.run for row in rows}


def has_comparisons(workspace: Workspace, name: str) -> bool:
    """Whether a run, import or snapshot has any."""
    return bool(judgments_of(workspace, [name], Store.comparisons).rows)


def _liked(store: Store) -> list[Label]:
    return store.labels(DESIRABLE)


def _ratings(store: Store) -> list[Label]:
    return [label for label in store.labels() if label.criterion not in (DESIRABLE, SAFE)]


def data_snapshot(comparisons: Sequence[Comparison], labels: Sequence[Label] = ()) -> dict[str, Any]:
    """What a run that learns from these was made from."""
    data = snapshot("comparisons", (c.id for c in comparisons))
    return data | (snapshot("labels", (label.id for label in labels)) if labels else {})


def _sources(run: Run, role: str) -> set[str]:
    """The runs and imports that stand in a run's parents in one role."""
    return {name for key, name in run.parents.items() if key.startswith(role)}


def _labels_of(workspace: Workspace, run: Run) -> list[Label]:
    return judgments_of(workspace, _sources(run, LABELS), _liked).rows


def source_parents(
    workspace: Workspace, comparisons: Sequence[Comparison], wanted: Sequence[str] | None
) -> dict[str, str]:
    """Role -> run, import or snapshot, for the lineage."""
    return {f"{SOURCE}{i}": name for i, name in enumerate(_names(workspace, comparisons, wanted))}


def label_parents(workspace: Workspace, labels: Sequence[Label], wanted: Sequence[str] | None) -> dict[str, str]:
    """As `source_parents`, of labels and ratings."""
    return {f"{LABELS}{i}": name for i, name in enumerate(_names(workspace, labels, wanted))}


def _names(
    workspace: Workspace, judgments: Sequence[Comparison] | Sequence[Label], wanted: Sequence[str] | None
) -> list[str]:
    """What the judgments came from: by the names that were asked for, snapshots too; else their runs and imports."""
    if wanted is None:
        return sorted({judgment.run for judgment in judgments})
    names = {exact_name(workspace, name) for name in wanted}
    return sorted(
        name for name in names if judgments and (name.startswith(SNAPSHOT) or _has(workspace, judgments, name))
    )


def load_judged_prompts(
    workspace: Workspace,
    run: Run,
    model: LoadedModel,
    config: Config,
    *,
    most_tokens: int,
    criteria: Sequence[str] | None = None,
) -> tuple[list[JudgedPrompt], list[JudgedPrompt]]:
    """(training, held-out) prompts with their responses and the judgments of the run's sources, by these criteria.

    Judgments with a response of over `most_tokens`, or that does not fit the model's context, are counted and said.
    """
    sources = _sources(run, SOURCE)
    found = [c for c in judgments_of(workspace, sources, Store.comparisons).rows if _asked(c, criteria)]
    run.check_data(data_snapshot(found, _labels_of(workspace, run)))
    return _judged_prompts(workspace, model, config, found, [], most_tokens, sources)


def load_rated_prompts(
    workspace: Workspace,
    run: Run,
    model: LoadedModel,
    config: Config,
    *,
    most_tokens: int,
    criteria: Sequence[str] | None = None,
) -> tuple[list[JudgedPrompt], list[JudgedPrompt]]:
    """As `load_judged_prompts`, from ratings; of two responses that somebody rated, the higher is the better one."""
    sources = _sources(run, LABELS)
    ratings = [label for label in judgments_of(workspace, sources, _ratings).rows if _asked(label, criteria)]
    run.check_data(data_snapshot([], ratings))
    return _judged_prompts(workspace, model, config, implied_comparisons(ratings), ratings, most_tokens, sources)


def _asked(judgment: Comparison | Label, criteria: Sequence[str] | None) -> bool:
    return criteria is None or judgment.criterion in criteria


def _judged_prompts(
    workspace: Workspace,
    model: LoadedModel,
    config: Config,
    comparisons: Sequence[Comparison],
    ratings: Sequence[Label],
    most_tokens: int,
    sources: set[str],
) -> tuple[list[JudgedPrompt], list[JudgedPrompt]]:
    prompts = {prompt.id: prompt for prompt in workspace.store.prompts(excluded=True)}
    by_prompt: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        by_prompt[comparison.prompt_id].append(comparison)
    rated: dict[str, list[Label]] = defaultdict(list)
    for rating in ratings:
        rated[rating.prompt_id].append(rating)
    responses = {response.id: response for response in workspace.store.responses(excluded=True)}
    same_ids = sampled_with(workspace, model)
    safe = _safety_labels(workspace, sources)
    limit = model.prompt_limit(config.data.max_prompt_tokens, 1)
    found: dict[str, list[JudgedPrompt]] = {"train": [], "held_out": []}
    dropped = 0
    encoded_prompts = encode_prompts(
        model.format, (prompts[prompt_id] for prompt_id in sorted({*by_prompt, *rated})), limit=limit
    )
    for prompt_id, prompt_ids in encoded_prompts.items():
        judged = by_prompt[prompt_id]
        wanted = sorted({side for c in judged for side in (c.first, c.second)} | {r.response for r in rated[prompt_id]})
        encoded = {r: TokenSequence(prompt_ids, encode_stored(model, responses[r], same_ids)) for r in wanted}
        kept = [r for r in wanted if fits(encoded[r], model, most_tokens)]
        usable = [c for c in judged if c.first in kept and c.second in kept]
        place = {r: i for i, r in enumerate(kept)}
        values = tuple(Rating(place[r.response], r.value, r.criterion) for r in rated[prompt_id] if r.response in place)
        dropped += len(rated[prompt_id]) - len(values) if ratings else len(judged) - len(usable)
        if usable or values:
            judgments = [
                Judgment(place[c.first], place[c.second], c.preference_first, c.grade, c.ranking, c.criterion)
                for c in usable
            ]
            known = tuple(safe.get(r) for r in kept)
            item = JudgedPrompt(prompt_id, kept, [encoded[r] for r in kept], judgments, usable, known, values)
            found[prompts[prompt_id].split].append(item)
    if dropped:
        what = "ratings are of" if ratings else "comparisons have"
        say(f"{dropped} {what} a response over {most_tokens} tokens, or beyond the context: left out.")
    for note in model.format.take_notes():
        say(note)
    return found["train"], found["held_out"]


def _safety_labels(workspace: Workspace, sources: set[str]) -> dict[str, bool]:
    """Response -> whether most of those who said so find it safe; one that they disagree on evenly is not.

    From the snapshots alone where there is no other source: what was said later must not change the run.
    """
    votes: dict[str, list[float]] = defaultdict(list)
    fixed = bool(sources) and all(name.startswith(SNAPSHOT) for name in sources)
    labels = judgments_of(workspace, sources if fixed else None, lambda store: store.labels(SAFE))
    for label in labels.rows:
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
        torch.tensor(first, device=device, dtype=torch.long),
        torch.tensor(second, device=device, dtype=torch.long),
        torch.tensor(preference, device=device),
        torch.tensor(prompt, device=device, dtype=torch.long),
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
    by_id = {prompt.id: prompt for prompt in workspace.store.prompts(excluded=True)} if labels else {}
    responses = {r.id: r for r in workspace.store.responses(excluded=True)} if labels else {}
    same_ids = sampled_with(workspace, model)
    limit = model.prompt_limit(config.data.max_prompt_tokens, 1)
    dropped = 0
    labelled = dict.fromkeys(label.prompt_id for label in labels)
    prompt_ids = encode_prompts(model.format, (by_id[prompt] for prompt in labelled), limit=limit)
    for label in labels:
        if label.prompt_id not in prompt_ids:
            continue
        sequence = TokenSequence(prompt_ids[label.prompt_id], encode_stored(model, responses[label.response], same_ids))
        if fits(sequence, model, config.prefer.max_response_tokens):
            item = LabelledResponse(label.prompt_id, label.response, sequence, label.value > 0.5)
            found[by_id[label.prompt_id].split].append(item)
        else:
            dropped += 1
    if dropped:
        say(f"{dropped} labelled responses are over {config.prefer.max_response_tokens} tokens: left out.")
    return found["train"], found["held_out"]
