"""A reward model against a file: how good it is on comparisons, and what it gives any answers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from plaudit.config import Config
from plaudit.errors import DataError, ModelError
from plaudit.files import write_text
from plaudit.models.loading import load_reward, one_head
from plaudit.models.score_facts import ScoreFacts, score_by
from plaudit.progress import say
from plaudit.records import Prompt
from plaudit.rewards.answers import score_answers
from plaudit.statistics.reward_quality import ScoredPair, calibrated_quality, reward_quality
from plaudit.store.importing import read_answers, read_comparisons


def evaluate_reward(source: str, comparisons: Path, config: Config, *, head: str | None = None) -> dict[str, Any]:
    """How a reward model ranks the comparisons or rankings of a file; see `reward_quality` for the figures.

    source        a Hugging Face folder or hub name of a sequence classifier with one output, or one for each head
    comparisons   JSONL as `plaudit import` takes it, or as RewardBench has it (with `subset`)
    head          of a model of several criteria the one to judge all comparisons by; None for each comparison's own

    Besides: `prompts`, `left_out` (judgments with a response beyond the model's context), and `length_correlation`,
    Spearman's between scores and words over all responses. Where the model was calibrated in training also
    `stored_temperature`, and `calibrated_log_loss` and `calibrated_error` of the differences over it. Of an ensemble
    `disagreement`: the standard deviation between its members' differences, mean over judgments; an ensemble scores by
    their mean. Of a cost model lower is better, which it knows by itself.

    Raises DataError for a file that cannot be read or has nothing but ties, ModelError for a model that cannot, or
    has no head for a comparison's criterion.
    """
    rows = read_comparisons(comparisons)
    model = load_reward(source, config.model)
    if head is not None:
        model = one_head(model, head, normalised=False, setting="--head")
    facts = model.scores
    asked = {row.comparison.criterion for row in rows}
    if facts.criteria is not None and (missing := asked - set(facts.criteria)):
        unknown = ", ".join(map(repr, sorted(missing)))
        raise ModelError(
            f"{source} scores {', '.join(facts.heads)}; {comparisons} has comparisons by {unknown}. Name the head to "
            "judge them all by with --head."
        )
    wanted: dict[tuple[str, str], tuple[Prompt, str]] = {}
    for row in rows:
        for response, text in row.texts.items():
            wanted[row.prompt.id, response] = (row.prompt, text)
    by_heads = dict(zip(wanted, score_answers(model, list(wanted.values()), config), strict=True))
    judged, left_out, disagreements = [], 0, []
    for row in rows:
        c = row.comparison
        of_first, of_second = by_heads[row.prompt.id, c.first], by_heads[row.prompt.id, c.second]
        if of_first is None or of_second is None:
            left_out += 1
            continue
        one, other = (score_by(facts.criteria, c.criterion, values) for values in (of_first, of_second))
        disagreements.append(statistics.pstdev(a - b for a, b in zip(of_first, of_second, strict=True)))
        judged.append(
            ScoredPair.of(
                c,
                difference=facts.sign * (one - other),
                longer_first=len(row.texts[c.first].split()) - len(row.texts[c.second].split()),
                probability_first=c.soft_preference,
                subset=row.subset,
            )
        )
    if left_out:
        say(f"{left_out} of {len(rows)} comparisons are beyond the model's context: left out.")
    if all(j.preference_first == 0.5 for j in judged):
        raise DataError(f"{comparisons}: there is no comparison that is not a tie, so nothing can be ranked right.")
    return {
        **reward_quality(judged),
        **_at_stored_temperature(judged, facts),
        **({"disagreement": statistics.fmean(disagreements)} if facts.is_ensemble else {}),
        "length_correlation": _length_correlation(by_heads, wanted, facts),
        "prompts": len({j.cluster for j in judged}),
        "left_out": left_out,
    }


def _at_stored_temperature(judged: Sequence[ScoredPair], facts: ScoreFacts) -> dict[str, Any]:
    """Nothing where none is stored; no calibrated figures where a criterion that was asked about has none."""
    by_criterion = len(facts.temperatures) > 1
    temperatures = dict(zip(facts.heads if by_criterion else ("",), facts.temperatures, strict=False))
    stored = [temperatures.get(j.criterion if by_criterion else "") for j in judged]
    known = [temperature for temperature in stored if temperature is not None]
    if not known:
        return {}
    found = calibrated_quality(judged, known) if len(known) == len(stored) else {}
    return {**found, "stored_temperature": temperatures if by_criterion else known[0]}


def _length_correlation(
    scores: dict[tuple[str, str], list[float] | None],
    texts: dict[tuple[str, str], tuple[Prompt, str]],
    facts: ScoreFacts,
) -> float | dict[str, float | None] | None:
    """Correlations of the score; {head: its own} for heads of several criteria."""
    words = [len(texts[key][1].split()) for key, found in scores.items() if found is not None]
    known = [found for found in scores.values() if found is not None]
    if facts.criteria is not None:
        return {head: _spearman([found[i] for found in known], words) for i, head in enumerate(facts.criteria)}
    return _spearman([facts.sign * statistics.fmean(found) for found in known], words)


def _spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    correlation = stats.spearmanr(one, other).statistic if len(one) > 2 else float("nan")
    return float(correlation) if correlation == correlation else None


def score_file(source: str, data: Path, config: Config, output: Path | None) -> list[dict[str, Any]]:
    """Every line of a file with two more columns: `score`, and `normalised_score` as RL sees it by default.

    Of several heads both are {head: score}; of an ensemble's there are also `mean_score` and `disagreement`, the mean
    and the standard deviation between its members' normalised scores. A model that learnt from ratings adds `rating`,
    on their scale. An answer beyond the model's context has no scores (null), and is counted and said. Written to
    `output`, whole or not at all, where one is named.

    Raises as `evaluate_reward`.
    """
    rows = read_answers(data)
    model = load_reward(source, config.model)
    facts = model.scores
    scored = []
    scores = score_answers(model, [(prompt, text) for _, prompt, text in rows], config)
    for (values, _, _), score in zip(rows, scores, strict=True):
        scored.append({**values, **_columns(score, facts)})
    missing = sum(score is None for score in scores)
    if missing:
        say(f"{missing} of {len(rows)} answers are beyond the model's context: no score.")
    if output is not None:
        write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scored))
    return scored


def _columns(scores: Sequence[float] | None, facts: ScoreFacts) -> dict[str, Any]:
    names = ["score", "normalised_score", *(["rating"] if facts.rating_mean else [])]
    if scores is None:
        return dict.fromkeys([*names, *(["mean_score", "disagreement"] if facts.is_ensemble else [])])
    normalised = facts.normalised(torch.tensor(scores, dtype=torch.float64)).tolist()
    ratings = (
        [mean + std * s for s, mean, std in zip(scores, facts.rating_mean, facts.rating_std, strict=True)]
        if facts.rating_mean
        else []
    )
    found: dict[str, Any] = {
        name: dict(zip(facts.heads, values, strict=True)) if len(values) > 1 else values[0]
        for name, values in zip(names, (scores, normalised, ratings), strict=False)
    }
    if facts.is_ensemble:
        found |= {"mean_score": statistics.fmean(normalised), "disagreement": statistics.pstdev(normalised)}
    return found
