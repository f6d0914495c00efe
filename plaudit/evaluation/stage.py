"""The `evaluate` stage: a policy against a baseline on held-out prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from plaudit.config import Config
from plaudit.errors import ConfigError, DataError
from plaudit.files import write_text
from plaudit.judges.guideline_preference import guideline_facts, utility
from plaudit.methods import METRICS
from plaudit.models.loading import LoadedModel, check_head, load_causal, load_reward, one_head
from plaudit.models.named import named_policy, named_reward
from plaudit.models.network import Network
from plaudit.objectives import best_of_n_kl_bound
from plaudit.progress import progress, say
from plaudit.records import Message, Prompt
from plaudit.rewards.scoring import Answered, RewardModelScorer, RewardModelScores
from plaudit.sampling.best_of_n import sample_best_of
from plaudit.sampling.in_process import Completion, sample
from plaudit.stages import POLICIES
from plaudit.statistics.enough import alike, few_prompts, unfinished
from plaudit.statistics.intervals import Interval, mean, share
from plaudit.statistics.win_rate import win_rate
from plaudit.store.choosing import choose_prompts
from plaudit.store.database import fingerprint
from plaudit.text.batches import micro_batches
from plaudit.text.chat import TokenSequence
from plaudit.text.plain import as_sequences, read_texts
from plaudit.text.prompts import fitting
from plaudit.workspace import Run, Workspace

SHARES = ("finished_rate", "answers", "repetition")
"""Figures of an answer that are from 0 to 1, and often at one of these; the others are numbers of any size."""


@dataclass(frozen=True)
class Answer:
    """One sampled answer to a held-out prompt."""

    prompt: Prompt
    sequence: TokenSequence
    text: str
    finished: bool


def evaluate(workspace: Workspace, config: Config | None = None, *, keep: bool = False) -> Run:
    """Compare `evaluate.policy` with `evaluate.baseline` on the held-out prompts, or those that the settings choose.

    Both answer each prompt `evaluate.samples_per_prompt` times at the same temperature and limit; the i-th
    answers are compared. The run's result has, each with a 95 % interval where it is an estimate:
    `win_rate` by the guideline preference, `win_rate_by_reward`, `kl` (nats a response, k1; none for best-of-n, whose
    `best_of_kl_bound` is from the policy itself), `rouge_l` of both against the held-out demonstrations,
    `perplexity` of both on plain text and their ratio, lengths (tokens), finished rates, and the mean of each fact
    of the guideline preference. `samples.jsonl` has the answers side by side.

    Raises DataError without held-out prompts, WorkspaceError when policy or baseline is missing.
    """
    config = config or workspace.config()
    settings = config.evaluate
    prompts = workspace.store.prompts("held_out")
    if not prompts:
        raise DataError(
            f"{workspace.path} has no held-out prompts to judge by. Import more prompts, or raise "
            "`data.held_out_share` before importing."
        )
    prompts = choose_prompts(prompts, settings.sources, settings.most_prompts, setting="evaluate")
    policy_name = named_policy(workspace, settings.policy, setting="evaluate.policy")
    parents = {"policy": policy_name, "baseline": _baseline(workspace, policy_name, settings.baseline)}
    if settings.reward is not None:
        parents["reward"] = named_reward(workspace, settings.reward, setting="evaluate.reward")
        source = workspace.model_source(parents["reward"], kind="reward")
        check_head(source, settings.reward_head, setting="evaluate.reward_head")
    data = fingerprint("prompts", (p.id for p in prompts))
    if keep and (known := workspace.find_run("evaluate", config, parents=parents, data=data)) is not None:
        return known
    with workspace.new_run("evaluate", config, parents=parents, data=data) as run:
        for warning in few_prompts(len(prompts)):
            run.warn(warning)
        policy = load_causal(workspace.model_source(parents["policy"], kind=POLICIES), config.model)
        baseline = load_causal(workspace.model_source(parents["baseline"], kind=POLICIES), config.model)
        scorer = None
        if "reward" in parents:
            reward_model = load_reward(workspace.model_source(parents["reward"], kind="reward"), config.model)
            reward_model = one_head(reward_model, settings.reward_head, normalised=True)
            scores_of = RewardModelScores(reward_model, config.model.tokens_per_micro_batch)
            scorer = RewardModelScorer(scores_of, normalise=True)
        for model in (policy, baseline, *([scorer.scores.model] if scorer is not None else [])):
            limit = model.prompt_limit(config.data.max_prompt_tokens, settings.max_new_tokens)
            prompts = fitting(model.format, prompts, limit=limit)
        ours = _answer(policy, prompts, config, label="policy answers", choose_by=scorer)
        theirs = _answer(baseline, prompts, config, label="baseline answers")
        for side, answers in (("policy", ours), ("baseline", theirs)):
            _warn_of_sameness(run, side, answers, config)
        scores = None
        if scorer is not None:
            ours_scored, theirs_scored = (_reward_scores(scorer, answers) for answers in (ours, theirs))
            scores = (ours_scored, theirs_scored)
        run.update(result=_compare(workspace, policy, baseline, ours, theirs, scores, config))
        _write_samples(run.path / "samples.jsonl", ours, theirs, scores, config)
        return run


def _baseline(workspace: Workspace, policy: str, wanted: str | None) -> str:
    """The name of what the policy is compared with: what it started from, unless another is named.

    Raises ConfigError where nothing is named, and what the policy started from is not known.
    """
    start = workspace.start_of(policy)
    if wanted is None and start is None:
        why = "began with nothing" if workspace.is_run(policy) else "is no run, so what it started from is not known"
        raise ConfigError(f"`evaluate.baseline`: {policy} {why}. Name what to compare it with: evaluate.baseline=...")
    baseline = named_policy(workspace, wanted or str(start), setting="evaluate.baseline")
    if start is not None and baseline != start:
        say(f"The baseline is {baseline}; {policy} started from {start}.")
    return baseline


def _warn_of_sameness(run: Run, side: str, answers: list[Answer], config: Config) -> None:
    rate = sum(answer.finished for answer in answers) / len(answers)
    same = alike([a.sequence.response_ids for a in answers], len({a.prompt.id for a in answers}))
    for warning in [
        *(f"{what}." for what in same),
        *unfinished(rate, config.evaluate.max_new_tokens, "evaluate.max_new_tokens"),
    ]:
        run.warn(f"Of the {side}: {warning}")


def _answer(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    config: Config,
    *,
    label: str,
    choose_by: RewardModelScorer | None = None,
) -> list[Answer]:
    """choose_by  a reward model for the best of `evaluate.best_of` samples; None for plain samples"""
    settings = config.evaluate
    limit = model.prompt_limit(config.data.max_prompt_tokens, settings.max_new_tokens)
    encoded = [model.format.encode_prompt(prompt.messages, limit=limit) for prompt in prompts]
    options: dict[str, Any] = {
        "max_new_tokens": settings.max_new_tokens,
        "seed": config.seed + 1,  # other draws than the training samples'
        "samples_per_prompt": settings.samples_per_prompt,
        "temperature": settings.temperature,
    }
    best_of = settings.best_of if choose_by is not None else 1
    with progress(label, len(prompts) * settings.samples_per_prompt * best_of) as advance:
        if choose_by is not None and best_of > 1:

            def score(answers: Sequence[Answered]) -> torch.Tensor:
                assert choose_by is not None
                own = [
                    _in_tokens_of(choose_by.scores.model, a.conversation, a.text, finished=a.finished) for a in answers
                ]
                return choose_by(own)

            conversations = [prompt.messages for prompt in prompts]
            completions = sample_best_of(
                model, conversations, score, n=best_of, prompt_limit=limit, progress=advance, **options
            )
        else:
            completions = sample(model.network, encoded, stops=model.format.stops, progress=advance, **options)
    return [
        _as_answer(model, prompt, ids, completion)
        for prompt, ids, group in zip(prompts, encoded, completions, strict=True)
        for completion in group
    ]


def _as_answer(model: LoadedModel, prompt: Prompt, prompt_ids: list[int], completion: Completion) -> Answer:
    text = model.format.decode_response(completion.token_ids)
    return Answer(prompt, TokenSequence(prompt_ids, completion.token_ids), text, completion.finished)


def _compare(
    workspace: Workspace,
    policy: LoadedModel,
    baseline: LoadedModel,
    ours: list[Answer],
    theirs: list[Answer],
    scores: tuple[list[float], list[float]] | None,
    config: Config,
) -> dict[str, Any]:
    guideline_preference = config.evaluate.guideline_preference
    ids = [answer.prompt.id for answer in ours]
    utilities = [
        [utility(a.prompt.text, a.text, finished=a.finished, guideline_preference=guideline_preference) for a in side]
        for side in (ours, theirs)
    ]
    return {
        "prompts": len(set(ids)),
        "answers": len(ours),
        "win_rate": win_rate(utilities[0], utilities[1], ids),
        "win_rate_by_reward": win_rate(scores[0], scores[1], ids) if scores else None,
        "kl": _kl(policy, baseline, ours, config) if config.evaluate.best_of == 1 else None,
        "best_of": config.evaluate.best_of,
        "best_of_kl_bound": best_of_n_kl_bound(config.evaluate.best_of),
        "perplexity": _perplexities(policy, baseline, config),
        **_metrics(workspace, ours, theirs),
        "policy": _describe(ours, utilities[0], scores[0] if scores else None, config),
        "baseline": _describe(theirs, utilities[1], scores[1] if scores else None, config),
    }


def _describe(
    answers: list[Answer], utilities: list[float], scores: list[float] | None, config: Config
) -> dict[str, Interval]:
    """Means with intervals by prompts: lengths, finished rate, utility, the guideline preference's facts, the reward
    score."""
    ids = [answer.prompt.id for answer in answers]
    columns: dict[str, list[float]] = {
        "length": [float(len(a.sequence.response_ids)) for a in answers],
        "words": [float(len(a.text.split())) for a in answers],
        "utility": utilities,
    }
    guideline_preference = config.evaluate.guideline_preference
    facts = [
        guideline_facts(a.prompt.text, a.text, finished=a.finished, guideline_preference=guideline_preference)
        for a in answers
    ]
    columns |= {
        ("finished_rate" if name == "finished" else name): [f[name] for f in facts]
        for name in facts[0]
        if name != "length"
    }
    if scores is not None:
        columns["reward_score"] = scores
    return {
        name: share(values, ids) if name in SHARES else mean(values, ids, seed=config.seed)
        for name, values in columns.items()
    }


@torch.no_grad()
def _kl(policy: LoadedModel, baseline: LoadedModel, ours: list[Answer], config: Config) -> Interval | None:
    """KL(policy || baseline) in nats a response: the mean over the policy's samples of the summed log-ratio.

    None when the two have different vocabularies, so that it is not defined.
    """
    if policy.format.vocabulary_id != baseline.format.vocabulary_id:
        return None
    sides = [_log_probs(m.network, [a.sequence for a in ours], config) for m in (policy, baseline)]
    ratios = [float((p - b).sum()) for p, b in zip(*sides, strict=True)]
    return mean(ratios, [a.prompt.id for a in ours], seed=config.seed)


def _log_probs(network: Network, sequences: list[TokenSequence], config: Config) -> list[torch.Tensor]:
    """The response log-probs of each sequence, nats."""
    found: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    for indices, batch in micro_batches(sequences, config.model.tokens_per_micro_batch, network.device):
        log_probs, _ = network.log_probs(batch, temperature=config.evaluate.temperature)
        for row, index in enumerate(indices):
            found[index] = log_probs[row].cpu()
    return found


@torch.no_grad()
def _perplexities(policy: LoadedModel, baseline: LoadedModel, config: Config) -> dict[str, Any]:
    """exp of the mean negative log-likelihood a token of plain text, for both, and their ratio with interval."""
    path = config.evaluate.perplexity_text or str(resources.files("plaudit") / "data" / "prose.jsonl")
    texts = read_texts(path, setting="evaluate.perplexity_text")
    losses, counts = [], []
    for model in (policy, baseline):
        sequences = as_sequences(model.format, texts, limit=model.context_length)
        rows: list[float] = [0.0] * len(sequences)
        for indices, batch in micro_batches(sequences, config.model.tokens_per_micro_batch, model.network.device):
            for index, total in zip(indices, model.network.log_probs(batch)[0].sum(dim=1).tolist(), strict=True):
                rows[index] = -total
        losses.append(rows)
        counts.append([len(s.response_ids) for s in sequences])
    logs = [sum(loss) / sum(count) for loss, count in zip(losses, counts, strict=True)]
    result: dict[str, Any] = {
        "policy": float(torch.tensor(logs[0]).exp()),
        "baseline": float(torch.tensor(logs[1]).exp()),
        "texts": len(counts[0]),
        "tokens": sum(counts[0]),
    }
    if counts[0] == counts[1]:
        tokens = sum(counts[0]) / len(counts[0])
        gaps = [(a - b) / tokens for a, b in zip(losses[0], losses[1], strict=True)]
        logarithm = mean(gaps, range(len(gaps)), seed=config.seed)
        ends = {"value": logarithm["value"], "low": logarithm["low"], "high": logarithm["high"]}
        result["ratio"] = {key: None if end is None else math.exp(end) for key, end in ends.items()}
        result["ratio"]["n"] = logarithm["n"]
    return result


def _metrics(workspace: Workspace, ours: list[Answer], theirs: list[Answer]) -> dict[str, Any]:
    """Each of METRICS for both sides; None where no held-out prompt has the demonstration that it needs."""
    references = {d.prompt.id: d.text for d in workspace.store.demonstrations("held_out")}
    found: dict[str, Any] = {}
    for name, metric in METRICS.items():
        measure = metric.load()
        found[name] = {}
        for side, answers in (("policy", ours), ("baseline", theirs)):
            known = [a for a in answers if a.prompt.id in references or not metric.needs_reference]
            if not known:
                found[name] = None
                break
            values = measure([a.text for a in known], [references.get(a.prompt.id, "") for a in known])
            found[name][side] = mean(values, [a.prompt.id for a in known])
    return found


def _reward_scores(scorer: RewardModelScorer, answers: list[Answer]) -> list[float]:
    """Normalised reward-model scores."""
    return scorer(
        [_in_tokens_of(scorer.scores.model, a.prompt.messages, a.text, finished=a.finished) for a in answers]
    ).tolist()


def _in_tokens_of(model: LoadedModel, conversation: list[Message], text: str, *, finished: bool) -> Answered:
    """An answer's text in the reward model's own tokens: the policy may have other ones."""
    ids = model.format.encode_response(text, finished=finished)
    sequence = TokenSequence(model.format.encode_prompt(conversation), ids)
    return Answered(conversation, sequence, text, finished)


def _write_samples(
    path: Path,
    ours: list[Answer],
    theirs: list[Answer],
    scores: tuple[list[float], list[float]] | None,
    config: Config,
) -> None:
    guideline_preference = config.evaluate.guideline_preference
    lines = []
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        row: dict[str, Any] = {"prompt_id": a.prompt.id, "prompt": a.prompt.text}
        for name, side, answer in (("policy", 0, a), ("baseline", 1, b)):
            row[name] = {
                "text": answer.text,
                "finished": answer.finished,
                "tokens": len(answer.sequence.response_ids),
                "utility": utility(
                    answer.prompt.text, answer.text, finished=answer.finished, guideline_preference=guideline_preference
                ),
                "reward": scores[side][index] if scores else None,
            }
        lines.append(json.dumps(row, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
