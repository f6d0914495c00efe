"""The judgments of a run's sources as tokens of its model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from plaudit.config import Config
from plaudit.judgments import judgments_of
from plaudit.models.loading import LoadedModel
from plaudit.progress import say
from plaudit.records import SAFE, Comparison, Label, Response, implied_comparisons
from plaudit.references import SNAPSHOT
from plaudit.references import is_of as is_reference
from plaudit.store import Store
from plaudit.text.chat import TokenSequence
from plaudit.text.prompts import encode_prompts
from plaudit.training.data.choosing import data_snapshot, labels_of_run, ratings_of
from plaudit.training.data.judged_prompts import JudgedPrompt, LabelledResponse, PairJudgment, Rating
from plaudit.workspace import Run, Workspace


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
    sources = set(run.sources.comparisons)
    found = [c for c in judgments_of(workspace, sources, Store.comparisons).rows if _asked(c, criteria)]
    run.check_data(data_snapshot(found, labels_of_run(workspace, run)))
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
    """Load judged prompts from ratings: of two responses that somebody rated, the higher is the better one."""
    sources = set(run.sources.labels)
    ratings = [label for label in judgments_of(workspace, sources, ratings_of).rows if _asked(label, criteria)]
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
                PairJudgment(place[c.first], place[c.second], c.preference_first, c.grade, c.ranking, c.criterion)
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
    fixed = bool(sources) and all(is_reference(SNAPSHOT, name) for name in sources)
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
    labels = labels_of_run(workspace, run)
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
