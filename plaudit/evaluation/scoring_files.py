"""A reward model against a file: how good it is on comparisons, and what it gives any answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.evaluation.reward_quality import Judged, reward_quality
from plaudit.files import write_text
from plaudit.models.loading import LoadedModel, load_reward
from plaudit.progress import progress, say
from plaudit.records import Prompt
from plaudit.store.importing import read_answers, read_comparisons
from plaudit.text.batches import micro_batches
from plaudit.text.chat import TokenSequence


def evaluate_reward(source: str, comparisons: Path, config: Config) -> dict[str, Any]:
    """How a reward model ranks the comparisons or rankings of a file; see `reward_quality` for the figures.

    source        a Hugging Face folder or hub name of a sequence classifier with one output
    comparisons   JSONL as `plaudit import` takes it, or as RewardBench has it (with `subset`)

    Besides: `prompts`, `left_out` (judgments with a response beyond the model's context), and `length_correlation`,
    Spearman's between scores and words over all responses. Of a cost model lower is better, which it knows by itself.

    Raises DataError for a file that cannot be read or has nothing but ties, ModelError for a model that cannot.
    """
    rows = read_comparisons(comparisons)
    model = load_reward(source, config.model)
    wanted: dict[tuple[str, str], tuple[Prompt, str]] = {}
    for row in rows:
        for response, text in row.texts.items():
            wanted[row.prompt.id, response] = (row.prompt, text)
    scores = dict(zip(wanted, score_answers(model, list(wanted.values()), config), strict=True))
    sign = -1.0 if model.is_cost else 1.0
    judged, left_out = [], 0
    for row in rows:
        c = row.comparison
        one, other = scores[row.prompt.id, c.first], scores[row.prompt.id, c.second]
        if one is None or other is None:
            left_out += 1
            continue
        judged.append(
            Judged(
                cluster=row.prompt.id,
                annotator=c.annotator,
                pair=tuple(sorted((c.first, c.second))),
                difference=sign * (one - other),
                preference_first=c.preference_first,
                probability_first=c.soft_preference,
                longer_first=len(row.texts[c.first].split()) - len(row.texts[c.second].split()),
                grade=c.grade,
                criterion=c.criterion,
                subset=row.subset,
            )
        )
    if left_out:
        say(f"{left_out} of {len(rows)} comparisons are beyond the model's context: left out.")
    if all(j.preference_first == 0.5 for j in judged):
        raise DataError(f"{comparisons}: there is no comparison that is not a tie, so nothing can be ranked right.")
    known = [(sign * score, len(wanted[key][1].split())) for key, score in scores.items() if score is not None]
    correlation = stats.spearmanr(*zip(*known, strict=True)).statistic if len(known) > 2 else float("nan")
    return {
        **reward_quality(judged, seed=config.seed),
        "length_correlation": float(correlation) if correlation == correlation else None,
        "prompts": len({j.cluster for j in judged}),
        "left_out": left_out,
    }


def score_file(source: str, data: Path, config: Config, output: Path | None) -> list[dict[str, Any]]:
    """Every line of a file with two more columns: `score`, and `normalised_score` as RL sees it by default.

    An answer beyond the model's context has no scores (null), and is counted and said. Written to `output`, whole
    or not at all, where one is named.

    Raises as `evaluate_reward`.
    """
    rows = read_answers(data)
    model = load_reward(source, config.model)
    mean, std = model.score_normaliser
    scored = []
    scores = score_answers(model, [(prompt, text) for _, prompt, text in rows], config)
    for (values, _, _), score in zip(rows, scores, strict=True):
        normalised = None if score is None else (score - mean) / std
        scored.append({**values, "score": score, "normalised_score": normalised})
    missing = sum(score is None for score in scores)
    if missing:
        say(f"{missing} of {len(rows)} answers are beyond the model's context: no score.")
    if output is not None:
        write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scored))
    return scored


@torch.no_grad()
def score_answers(model: LoadedModel, answers: Sequence[tuple[Prompt, str]], config: Config) -> list[float | None]:
    """Raw scores of (prompt, answer); None for those beyond the model's context."""
    form = model.format
    sequences = [TokenSequence(form.encode_prompt(p.messages), form.encode_response(text)) for p, text in answers]
    fitting = [i for i, sequence in enumerate(sequences) if len(sequence) <= model.context_length]
    scores: list[float | None] = [None] * len(answers)
    with progress("scores", len(fitting)) as advance:
        chosen = [sequences[i] for i in fitting]
        for rows, batch in micro_batches(chosen, config.model.tokens_per_micro_batch, model.network.device):
            for row, score in zip(rows, model.network.scores(batch).tolist(), strict=True):
                scores[fitting[row]] = score
            advance(len(rows))
    return scores
