"""Reward and cost models from comparisons, all comparisons of a prompt in one batch element.

    loss = mean over prompts of [ mean over the prompt's judgments of their loss ]

Ouyang et al. 2022 (arXiv:2203.02155) section 3.5: K forward passes serve all C(K, 2) pairs; shuffled into a
flat list of pairs each answer would appear in K - 1 updates, and the model over-fits within an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.evaluation.reward_quality import Judged, reward_quality
from plaudit.models.loading import LoadedModel, load_causal, reward_from_causal, save_reward
from plaudit.models.network import Network, make_trainable
from plaudit.progress import progress, say
from plaudit.records import unit_interval
from plaudit.text.batches import collate, micro_batches, shuffled_batches
from plaudit.text.chat import TokenSequence
from plaudit.training.annotators import combine_annotators
from plaudit.training.comparisons import (
    JudgedPrompt,
    choose_comparisons,
    data_snapshot,
    load_judged_prompts,
    prompt_groups,
    source_parents,
)
from plaudit.training.reward_parts import LOG_TIE, group_losses
from plaudit.training.step import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint
from plaudit.training.supervised import encode_demonstrations
from plaudit.workspace import Run, Workspace

NORMALISING_RESPONSES = 256
"""Training responses whose scores set the stored mean and standard deviation, as in Ziegler et al. 2019."""


def reward(workspace: Workspace, config: Config | None = None, *, resume: str | None = None) -> Run:
    """Train a reward model on the comparisons of `reward.comparisons` whose prompt is in the training split.

    Returns the run; its `model/` is a Hugging Face sequence classifier, its result the quality on held-out
    prompts: `accuracy` with interval, `log_loss`, `calibration_error`, `temperature`, `ceiling`, and the
    accuracy of always preferring the longer answer.

    Raises DataError when there are no comparisons to learn from.
    """
    if resume is not None:
        with workspace.resume_run(resume, "reward") as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    comparisons = choose_comparisons(
        workspace, config.reward.comparisons, setting="reward.comparisons", criterion=config.reward.criterion
    )
    parents = {"model": workspace.lineage_name(config.reward.model)} | source_parents(comparisons)
    with workspace.new_run("reward", config, parents=parents, data=data_snapshot(comparisons)) as run:
        return _run(workspace, run, config)


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.reward
    causal = load_causal(workspace.model_source(run.parents["model"]), config.model)
    start = reward_from_causal(causal, seed=config.seed, head_scale=settings.head_scale)
    judged, held_out = load_judged_prompts(
        workspace, run, start, config, most_tokens=settings.max_response_tokens, criterion=settings.criterion
    )
    if settings.loss == "cost":
        judged, held_out = _with_safety_labels(judged), _with_safety_labels(held_out)
    if not judged:
        raise DataError("there are no comparisons on training prompts; all prompts are in the held-out split.")
    train = combine_annotators(judged, settings.annotators)
    scorer = make_trainable(start.network, config.model.lora, role="reward", seed=config.seed, train_head=True)
    if settings.loss == "davidson":
        scorer.head.register_parameter(LOG_TIE, nn.Parameter(torch.zeros((), device=scorer.device)))
    steps_per_epoch = math.ceil(len(train) / settings.batch_size)
    total = steps_per_epoch * settings.epochs
    optimiser = Optimiser(scorer, settings.optimiser, total)
    parts = {"reward": (scorer, optimiser)}
    first = load_checkpoint(run, parts)["step"]

    with progress("reward model", total) as advance:
        advance(first)
        for step in range(first, total):
            epoch, place = divmod(step, steps_per_epoch)
            rows = shuffled_batches(len(train), settings.batch_size, seed=f"{config.seed}:reward:{epoch}")[place]
            batch = [train[i] for i in rows]
            rate, loss, right, decided = optimiser.learning_rate, 0.0, 0.0, 0
            for group in prompt_groups(batch, config.model.tokens_per_micro_batch):
                scores = _score_together(scorer, group)
                part = group_losses(settings, scores, group, scorer.head)
                (part.total / len(batch)).backward()  # the one denominator: prompts in this step
                loss += part.total.item() / len(batch)
                right, decided = right + part.right, decided + part.decided
            norm = optimiser.step()
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

    mean, std = _score_statistics(workspace, scorer, start, train, config)
    save_reward(scorer, start, run.model_folder, mean=mean, std=std, is_cost=settings.loss == "cost")
    annotators = {a.name: a.kind for a in workspace.store.annotators()}
    lengths = {r.id: len(r.text.split()) for r in workspace.store.responses()}
    judged_pairs = _judge_held_out(scorer, held_out, lengths, config)
    quality = reward_quality(judged_pairs, seed=config.seed) if judged_pairs else {}
    if settings.loss == "davidson":
        quality["tie_parameter"] = math.exp(float(getattr(scorer.head, LOG_TIE).detach()))
    used = [c.annotator for prompt in train for c in prompt.comparisons]
    run.update(
        result={
            **quality,
            "train_prompts": len(train),
            "train_judgments": len(used),
            "train_judgments_by_people": sum(annotators.get(name) == "person" for name in used),
            "held_out_prompts": len(held_out),
            "score_mean": mean,
            "score_std": std,
        }
    )
    drop_checkpoint(run)
    return run


def _score_together(scorer: Network, group: Sequence[JudgedPrompt]) -> Tensor:
    return scorer.scores(collate([s for prompt in group for s in prompt.sequences], device=scorer.device))


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


@torch.no_grad()
def _score_statistics(
    workspace: Workspace, scorer: Network, model: LoadedModel, train: Sequence[JudgedPrompt], config: Config
) -> tuple[float, float]:
    """(what is to score 0, standard deviation) for whoever normalises the scores. Costs keep their own 0."""
    settings = config.reward
    if settings.loss == "cost":
        return 0.0, 1.0
    chosen = [
        (unit_interval("normalise", r), s) for p in train for r, s in zip(p.response_ids, p.sequences, strict=True)
    ]
    scores = _score_some(scorer, chosen, config)
    mean, std = float(scores.mean()), max(float(scores.std(correction=0)), 1e-6) if settings.unit_variance else 1.0
    if settings.zero == "demonstrations":
        demonstrations = workspace.store.demonstrations("train")
        answers = encode_demonstrations(model, demonstrations, config)
        if not answers:
            raise DataError("`reward.zero=demonstrations`, and the workspace has no demonstrations to train on.")
        keyed = [(unit_interval("zero", answer.prompt_ids, answer.response_ids), answer) for answer in answers]
        mean = float(_score_some(scorer, keyed, config).mean())
    return mean, std


def _score_some(scorer: Network, keyed: Sequence[tuple[float, TokenSequence]], config: Config) -> Tensor:
    """[n] scores of at most `NORMALISING_RESPONSES`, those with the smallest keys."""
    sequences = [sequence for _, sequence in sorted(keyed, key=lambda pair: pair[0])[:NORMALISING_RESPONSES]]
    parts = micro_batches(sequences, config.model.tokens_per_micro_batch, scorer.device)
    return torch.cat([scorer.scores(batch) for _, batch in parts])


@torch.no_grad()
def _judge_held_out(
    scorer: Network, held_out: Sequence[JudgedPrompt], lengths: dict[str, int], config: Config
) -> list[Judged]:
    """Every held-out judgment beside the scores of the two responses, higher for better."""
    scores: dict[str, float] = {}
    with progress("held-out scores", len(held_out)) as advance:
        for group in prompt_groups(held_out, config.model.tokens_per_micro_batch) if held_out else []:
            values = _score_together(scorer, group).tolist()
            scores |= dict(zip((r for prompt in group for r in prompt.response_ids), values, strict=True))
            advance(len(group))
    sign = -1.0 if config.reward.loss == "cost" else 1.0  # the less harmful is preferred
    return [
        Judged(
            cluster=prompt.prompt_id,
            annotator=c.annotator,
            pair=tuple(sorted((c.first, c.second))),
            difference=sign * (scores[c.first] - scores[c.second]),
            preference_first=c.preference_first,
            probability_first=c.probability_first,
            longer_first=lengths[c.first] - lengths[c.second],
            grade=c.grade,
            criterion=c.criterion,
        )
        for prompt in held_out
        for c in prompt.comparisons
    ]
