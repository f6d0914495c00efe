"""Reward and cost models from comparisons or ratings, all judgments of a prompt in one batch element.

    loss = mean over prompts of [ mean over the prompt's judgments of their loss ]

Ouyang et al. 2022 (arXiv:2203.02155) section 3.5: K forward passes serve all C(K, 2) pairs; shuffled into a
flat list of pairs each answer would appear in K - 1 updates, and the model over-fits within an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plaudit.config import Config, RewardSettings
from plaudit.errors import DataError
from plaudit.judgments import MODELS, PEOPLE, SIMULATED, kinds
from plaudit.methods import REWARD_LOSSES
from plaudit.models.loading import LoadedModel, load_causal, reward_from_causal
from plaudit.models.named import named_policy
from plaudit.models.network import Network, make_trainable
from plaudit.models.saving import rehearse_reward, save_reward
from plaudit.models.score_facts import ScoreFacts, score_by
from plaudit.progress import progress
from plaudit.records import Comparison, unit_interval
from plaudit.stages import POLICIES
from plaudit.statistics.enough import few_prompts, few_steps, smaller_batches, unsure_reward, weak_reward
from plaudit.statistics.reward_quality import ScoredPair, fitted_temperature, margins, rating_quality, reward_quality
from plaudit.text.batches import batches_by_weight, collate, micro_batches
from plaudit.text.chat import TokenSequence
from plaudit.training.data.judged_prompts import JudgedPrompt, prompt_groups
from plaudit.training.data.reward_data import RewardData, choose_judgments, load_reward_data
from plaudit.training.steps.optimiser import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint
from plaudit.training.steps.reward import LOG_TIE, losses_by_head
from plaudit.training.steps.supervised import encode_demonstrations
from plaudit.workspace import Run, Workspace

NORMALISING_RESPONSES = 256
"""Training responses whose scores set the stored mean and standard deviation, as in Ziegler et al. 2019."""


def reward(workspace: Workspace, config: Config | None = None, *, resume: str | None = None, keep: bool = False) -> Run:
    """Train a reward model on the judgments of `reward.comparisons` whose prompt is in the training split.

    Returns the run; its `model/` is a Hugging Face sequence classifier, its result the quality on held-out
    prompts: `accuracy` with interval, `log_loss`, `calibration_error`, `temperature`, `ceiling`, and the
    accuracy of always preferring the longer answer; of ratings also `rating_error` and `rating_correlation`.

    Raises DataError when there are no comparisons or ratings to learn from.
    """
    if resume is not None:
        with workspace.resume_run(resume, "reward", config) as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    sources, data = choose_judgments(workspace, config)
    parents = {"model": named_policy(workspace, config.reward.model, setting="reward.model")}
    if (
        keep
        and (known := workspace.find_run("reward", config, parents=parents, sources=sources, data=data)) is not None
    ):
        return known if known.status == "complete" else reward(workspace, resume=known.name)
    with workspace.new_run("reward", config, parents=parents, sources=sources, data=data) as run:
        return _run(workspace, run, config)


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.reward
    start = fresh_reward_model(workspace.model_source(run.parents["model"], kind=POLICIES), config)
    data = load_reward_data(workspace, run, start, config)
    scorer = fit_scorer(start, data, config, run)
    mean, std = _score_statistics(workspace, scorer, start, data.train, config)
    by = kinds(workspace)
    lengths = {r.id: len(r.text.split()) for r in workspace.store.responses(excluded=True)}
    scores = held_out_scores(scorer, data.held_out, config)
    judged = beside_scores(data.held_out, scores, lengths, settings)
    quality = reward_quality(judged) if any(j.preference_first != 0.5 for j in judged) else {}
    quality |= rating_quality(_ratings_beside_scores(data.held_out, scores, settings.criteria))
    if REWARD_LOSSES[settings.loss].learns_ties:
        quality["tie_parameter"] = math.exp(float(getattr(scorer.head, LOG_TIE).detach()))
    rated = [data.scales[name] for name in settings.criteria or data.scales if name in data.scales] * settings.members
    metrics = ScoreFacts(
        mean=mean,
        std=std,
        temperatures=_temperatures(judged, settings),
        is_cost=REWARD_LOSSES[settings.loss].lower_is_better,
        heads=_heads(settings),
        is_ensemble=settings.members > 1,
        rating_mean=tuple(mean for mean, _ in rated),
        rating_std=tuple(std for _, std in rated),
    )
    save_reward(scorer, start, run.model_folder, metrics)
    for clause in weak_reward(quality):
        run.warn(f"{run.name} {clause}.")
    for warning in [*few_prompts(len(data.held_out)), *unsure_reward(quality)]:
        run.warn(warning)
    used = [] if data.scales else [c.annotator for prompt in data.train for c in prompt.comparisons]
    run.update(
        result={
            **quality,
            "train_prompts": len(data.train),
            "train_judgments": len(used),
            "train_judgments_by_people": sum(by.get(name) == PEOPLE for name in used),
            "train_judgments_by_models": sum(by.get(name) == MODELS for name in used),
            "train_judgments_simulated": sum(by.get(name) == SIMULATED for name in used),
            **({"train_ratings": sum(len(prompt.ratings) for prompt in data.train)} if data.scales else {}),
            "held_out_prompts": len(data.held_out),
            "score_mean": mean if metrics.heads else mean[0],
            "score_std": std if metrics.heads else std[0],
        }
    )
    drop_checkpoint(run)
    return run


def _temperatures(judged: Sequence[ScoredPair], settings: RewardSettings) -> tuple[float | None, ...]:
    """Quality of each criterion's head; a single one otherwise."""
    found: list[float | None] = []
    for criterion in settings.criteria or (None,):
        own = [j for j in judged if criterion in (None, j.criterion) and j.preference_first != 0.5]
        found.append(fitted_temperature(margins(own)) if own else None)
    return tuple(found)


def _heads(settings: RewardSettings) -> tuple[str, ...]:
    if settings.criteria is not None:
        return tuple(settings.criteria)
    return tuple(f"member-{i}" for i in range(settings.members)) if settings.members > 1 else ()


def fresh_reward_model(source: str, config: Config) -> LoadedModel:
    """A causal model's body under new heads, as `reward` asks for them."""
    heads = max(1, len(_heads(config.reward)))
    causal = load_causal(source, config.model)
    return reward_from_causal(causal, seed=config.seed, head_scale=config.reward.head_scale, heads=heads)


def fit_scorer(start: LoadedModel, data: RewardData, config: Config, run: Run | None) -> Network:
    """The trained network.

    run   where the steps and the checkpoints from which it goes on are kept; None for neither
    """
    settings, train = config.reward, data.train
    asked = {j.criterion for p in train for j in p.judgments} | {r.criterion for p in train for r in p.ratings}
    for criterion in settings.criteria or ():
        if criterion not in asked:
            raise DataError(f"no training prompt of {len(train)} is judged by `{criterion}`, so no head can learn it.")
    scorer = make_trainable(start.network, config.model.lora, role="reward", seed=config.seed, train_head=True)
    if REWARD_LOSSES[settings.loss].learns_ties:
        scorer.head.register_parameter(LOG_TIE, nn.Parameter(torch.zeros((), device=scorer.device)))
    weights = [len(prompt.judgments) if not data.scales else len(prompt.ratings) for prompt in train]
    batches = [
        rows
        for epoch in range(settings.epochs)
        for rows in batches_by_weight(
            weights, settings.batch_size, settings.comparisons_per_batch, seed=f"{config.seed}:reward:{epoch}"
        )
    ]
    total = len(batches)
    if run is not None:
        through = f"{sum(weights)} {'ratings' if data.scales else 'comparisons'} of {len(train)} prompts"
        for warning in few_steps(total, through, smaller_batches("reward", settings.batch_size)):
            run.warn(warning)
    optimiser = Optimiser(scorer, settings.optimiser, total)
    parts = {"reward": (scorer, optimiser)}
    first = load_checkpoint(run, parts)["step"] if run is not None else 0
    if run is not None and first == 0:
        count = len(_heads(settings))
        metrics = ScoreFacts(mean=(0.0,) * max(1, count), std=(1.0,) * max(1, count), heads=_heads(settings))
        rehearse_reward(scorer, start, config.model, metrics, run.path)

    with progress("reward model", total) as advance:
        advance(first)
        for step in range(first, total):
            batch = [train[i] for i in batches[step]]
            rate, loss, right, decided = optimiser.learning_rate, 0.0, 0.0, 0
            for group in prompt_groups(batch, config.model.tokens_per_micro_batch):
                scores = _score_together(scorer, group)
                part = losses_by_head(settings, scores, group, scorer.head, seed=config.seed)
                (part.total / len(batch)).backward()  # the one denominator: prompts in this step
                loss += part.total.item() / len(batch)
                right, decided = right + part.right, decided + part.decided
            norm = optimiser.step()
            if run is not None:
                run.log(
                    step + 1,
                    loss=loss,
                    accuracy=right / decided if decided else None,
                    learning_rate=rate,
                    gradient_norm=norm,
                )
                if (step + 1) % settings.save_every == 0:
                    save_checkpoint(run, step + 1, parts)
            advance(1)
    return scorer


def _score_together(scorer: Network, group: Sequence[JudgedPrompt]) -> Tensor:
    return scorer.scores(collate([s for prompt in group for s in prompt.sequences], device=scorer.device))


@torch.no_grad()
def _score_statistics(
    workspace: Workspace, scorer: Network, model: LoadedModel, train: Sequence[JudgedPrompt], config: Config
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(score that becomes 0, standard deviation) of each head, for normalising. Costs keep their own 0."""
    settings = config.reward
    if REWARD_LOSSES[settings.loss].needs_labels:
        return (0.0,) * settings.members, (1.0,) * settings.members
    chosen = [
        (unit_interval("normalise", r), s) for p in train for r, s in zip(p.response_ids, p.sequences, strict=True)
    ]
    scores = _score_some(scorer, chosen, config)  # [n, C]
    means = scores.mean(dim=0)
    deviations = scores.std(dim=0, correction=0).clamp(min=1e-6) if settings.unit_variance else torch.ones_like(means)
    if settings.zero == "demonstrations":
        demonstrations = workspace.store.demonstrations("train")
        answers = encode_demonstrations(model, demonstrations, config)
        if not answers:
            raise DataError("`reward.zero=demonstrations`, and the workspace has no demonstrations to train on.")
        keyed = [(unit_interval("zero", answer.prompt_ids, answer.response_ids), answer) for answer in answers]
        means = _score_some(scorer, keyed, config).mean(dim=0)
    return tuple(means.tolist()), tuple(deviations.tolist())


def _score_some(scorer: Network, keyed: Sequence[tuple[float, TokenSequence]], config: Config) -> Tensor:
    """[n, C] scores of at most `NORMALISING_RESPONSES`, those with the smallest keys."""
    sequences = [sequence for _, sequence in sorted(keyed, key=lambda pair: pair[0])[:NORMALISING_RESPONSES]]
    parts = micro_batches(sequences, config.model.tokens_per_micro_batch, scorer.device)
    scores = torch.cat([scorer.scores(batch) for _, batch in parts])
    return scores if scores.dim() == 2 else scores[:, None]


@torch.no_grad()
def held_out_scores(scorer: Network, held_out: Sequence[JudgedPrompt], config: Config) -> dict[str, list[float]]:
    """Response -> its scores by each head."""
    scores: dict[str, list[float]] = {}
    with progress("held-out scores", len(held_out)) as advance:
        for group in prompt_groups(held_out, config.model.tokens_per_micro_batch) if held_out else []:
            found = _score_together(scorer, group)
            values = (found if found.dim() == 2 else found[:, None]).tolist()
            scores |= dict(zip((r for prompt in group for r in prompt.response_ids), values, strict=True))
            advance(len(group))
    return scores


def beside_scores(
    held_out: Sequence[JudgedPrompt], scores: dict[str, list[float]], lengths: dict[str, int], settings: RewardSettings
) -> list[ScoredPair]:
    """Every held-out judgment beside the scores of the two responses, higher for better.

    By the head of its criterion; of an ensemble by the mean.
    """
    sign = -1.0 if REWARD_LOSSES[settings.loss].lower_is_better else 1.0  # the less harmful is preferred

    def by(comparison: Comparison, response: str) -> float:
        return score_by(settings.criteria, comparison.criterion, scores[response])

    return [
        ScoredPair.of(
            c,
            difference=sign * (by(c, c.first) - by(c, c.second)),
            longer_first=lengths[c.first] - lengths[c.second],
            probability_first=c.probability_first,
        )
        for prompt in held_out
        for c in prompt.comparisons
    ]


def _ratings_beside_scores(
    held_out: Sequence[JudgedPrompt], scores: dict[str, list[float]], criteria: Sequence[str] | None
) -> list[tuple[str, float, float]]:
    """(criterion, rating, score) of every held-out rating, both in standard deviations of the ratings."""
    return [
        (
            rating.criterion,
            rating.value,
            score_by(criteria, rating.criterion, scores[prompt.response_ids[rating.response]]),
        )
        for prompt in held_out
        for rating in prompt.ratings
    ]
