"""The offline loop: a policy straight from preferences, by DPO and its family.

Every pair of a prompt shares one forward per response, and a loss is divided by the pairs (KTO: responses) of the
whole optimiser step. Reference log-probs are computed once, before anything is learnt, and kept in the run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from plaudit.config import Config, PreferSettings
from plaudit.errors import DataError, ModelError
from plaudit.files import read_json, write_text
from plaudit.judgments import exact_name, mixture
from plaudit.methods import PREFERENCE_LOSSES
from plaudit.models.loading import LoadedModel, load_causal
from plaudit.models.named import named_policy
from plaudit.models.network import Network, make_trainable
from plaudit.models.saving import rehearse_causal, save_causal
from plaudit.progress import progress
from plaudit.records import Comparison, Label
from plaudit.stages import POLICIES
from plaudit.statistics.enough import few_prompts, few_steps, smaller_batches
from plaudit.statistics.intervals import share
from plaudit.text.batches import batches_by_weight, micro_batches
from plaudit.training.data.choosing import (
    COMPARISONS,
    JudgmentSet,
    check_kinds,
    choose,
    choose_labels,
    data_snapshot,
    has_comparisons,
)
from plaudit.training.data.encoding import load_judged_prompts, load_labelled_responses
from plaudit.training.data.judged_prompts import JudgedPrompt, LabelledResponse, without_ties
from plaudit.training.rl.watch import Watch
from plaudit.training.steps.optimiser import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint
from plaudit.training.steps.preference import Learner, parts_of_a_step
from plaudit.workspace import Run, Sources, Workspace


def prefer(workspace: Workspace, config: Config | None = None, *, resume: str | None = None, keep: bool = False) -> Run:
    """Optimise `prefer.policy` on the workspace's comparisons by `prefer.loss`; kto also on its labels.

    Returns the run; its `model/` is the new policy, its result the loss and the share of held-out preferences that the
    policy ranks as people did, before and after, with how chosen and rejected log-probs moved (nats a response): both
    may fall while their difference grows.

    Raises DataError when there is nothing to learn from, ModelError when policy and reference do not fit together.
    """
    if resume is not None:
        with workspace.resume_run(resume, "prefer", config) as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    settings = config.prefer
    loss = PREFERENCE_LOSSES[settings.loss]
    wanted = settings.comparisons
    labels: JudgmentSet[Label] = JudgmentSet([])
    if loss.unpaired:
        labels = choose_labels(workspace, wanted, setting="prefer.comparisons")
    comparisons = _comparisons_beside(workspace, settings, labels)
    if wanted is None:
        both: list[Comparison | Label] = [*comparisons.rows, *labels.rows]
        check_kinds(workspace, both, "comparisons and labels", "prefer.comparisons")
    parents = {"policy": named_policy(workspace, settings.policy, setting="prefer.policy")}
    if loss.reference:
        reference = settings.reference or settings.policy
        parents["reference"] = named_policy(workspace, reference, setting="prefer.reference")
    sources = Sources(comparisons=comparisons.sources, labels=labels.sources)
    data = data_snapshot(comparisons.rows, labels.rows)
    if (
        keep
        and (known := workspace.find_run("prefer", config, parents=parents, sources=sources, data=data)) is not None
    ):
        return known if known.status == "complete" else prefer(workspace, resume=known.name)
    with workspace.new_run("prefer", config, parents=parents, sources=sources, data=data) as run:
        return _run(workspace, run, config)


def _comparisons_beside(
    workspace: Workspace, settings: PreferSettings, labels: JudgmentSet[Label]
) -> JudgmentSet[Comparison]:
    """The comparisons that are asked for; none where labels are all that the named sources, or the workspace, have."""
    wanted = settings.comparisons
    if wanted is None:
        only_labels = bool(labels.rows) and not workspace.store.comparisons()
    else:
        names = {exact_name(workspace, name) for name in wanted}
        wanted = sorted(names - {name for name in labels.sources if not has_comparisons(workspace, name)})
        only_labels = bool(labels.rows) and not wanted
    if only_labels:
        return JudgmentSet([])
    return choose(workspace, COMPARISONS, wanted, setting="prefer.comparisons", criteria=settings.wanted_criteria)


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.prefer
    model = load_causal(workspace.model_source(run.parents["policy"], kind=POLICIES), config.model)
    train, held_out = load_judged_prompts(
        workspace, run, model, config, most_tokens=settings.max_response_tokens, criteria=settings.wanted_criteria
    )
    train, held_out = without_ties(train), without_ties(held_out)
    policy = make_trainable(model.network, config.model.lora, role="policy", seed=config.seed)
    liked: list[LabelledResponse] = []
    held_out_liked: list[LabelledResponse] = []
    if PREFERENCE_LOSSES[settings.loss].unpaired:
        liked, held_out_liked = load_labelled_responses(workspace, run, model, config, train, held_out)
    reference = _reference(workspace, run, model, config)
    budget = config.model.tokens_per_micro_batch
    known = _reference_log_probs(run, reference, [*liked, *held_out_liked], [*train, *held_out], budget)
    learner = Learner(policy, reference, known, settings, budget, model.context_length)

    by_response = PREFERENCE_LOSSES[settings.loss].unpaired
    items: Sequence[Any] = liked if by_response else train
    held_out_items: Sequence[Any] = held_out_liked if by_response else held_out
    if not items:
        raise DataError("there is no preference on a training prompt to learn from; all prompts are held out or tied.")
    weights = [1 if by_response else len(item.judgments) for item in items]
    batches = [
        rows
        for epoch in range(settings.epochs)
        for rows in batches_by_weight(
            weights, settings.batch_size, settings.comparisons_per_batch, seed=f"{config.seed}:prefer:{epoch}"
        )
    ]
    total = len(batches)
    through = f"{len(items)} labelled responses"
    if not by_response:
        through = f"{sum(weights)} comparisons of {len(items)} prompts"
    for warning in [
        *few_steps(total, through, smaller_batches("prefer", settings.batch_size)),
        *few_prompts(len({item.prompt_id for item in held_out_items})),
    ]:
        run.warn(warning)
    optimiser = Optimiser(policy, settings.optimiser, total)
    parts = {"policy": (policy, optimiser)}
    checkpoint = load_checkpoint(run, parts)
    first = checkpoint["step"]
    if first == 0:
        rehearse_causal(policy, model, config.model, run.path)
    before = checkpoint["before"] if first else _quality(learner, held_out_items, config)

    with progress(settings.loss, total) as advance:
        advance(first)
        for step in range(first, total):
            batch = [items[i] for i in batches[step]]
            metrics = {"learning_rate": optimiser.learning_rate}
            for part in parts_of_a_step(learner, batch):
                part.loss.backward()
                metrics |= {name: metrics.get(name, 0.0) + value for name, value in part.figures.items()}
            metrics["gradient_norm"] = optimiser.step()
            run.log(step + 1, **metrics)
            if (step + 1) % settings.save_every == 0:
                save_checkpoint(run, step + 1, parts, before=before)
            advance(1)

    after = _quality(learner, held_out_items, config)
    if before is not None and after is not None:
        Watch(run).held_out(before["loss"], after["loss"])
    save_causal(policy, model, run.model_folder)
    reference_name = run.parents.get("reference")
    by_kind = mixture(workspace, [c for prompt in train for c in prompt.comparisons])
    run.update(
        result={
            "loss": settings.loss,
            "reference": None if reference is None else f"{reference_name}, unchanged throughout",
            "judgments": {kind: sum(runs.values()) for kind, runs in by_kind.items()},
            "train_items": len(items),
            "held_out_items": len(held_out_items),
            "before": before,
            "after": after,
        }
    )
    drop_checkpoint(run)
    return run


@torch.no_grad()
def _quality(learner: Learner, items: Sequence[Any], config: Config) -> dict[str, Any] | None:
    """Loss and accuracy on held-out preferences, the accuracy with an interval over prompts; None without any."""
    if not items:
        return None
    sums: dict[str, float] = {}
    right: list[tuple[str, float]] = []
    for part in parts_of_a_step(learner, items):
        right += part.right
        for name, value in part.figures.items():
            sums[name] = sums.get(name, 0.0) + value
    accuracy = share([value for _, value in right], [prompt for prompt, _ in right])
    return {**sums, "accuracy": accuracy}


def _reference(workspace: Workspace, run: Run, model: LoadedModel, config: Config) -> Network | None:
    """The frozen policy itself, another model, or nothing."""
    name = run.parents.get("reference")
    if name is None:
        return None
    if name == run.parents["policy"]:
        return model.network
    other = load_causal(workspace.model_source(name, kind=POLICIES), config.model)
    if other.format.vocabulary_id != model.format.vocabulary_id:
        raise ModelError(
            f"the reference {name} and the policy {run.parents['policy']} have different vocabularies, so their "
            "log-probs cannot be compared. Name a reference of the same family."
        )
    return other.network


@torch.no_grad()
def _reference_log_probs(
    run: Run,
    reference: Network | None,
    labelled: Sequence[LabelledResponse],
    prompts: Sequence[JudgedPrompt],
    budget: int,
) -> dict[str, float]:
    """Log-prob of every response under the reference, nats; computed once, and read again when the run is resumed."""
    if reference is None:
        return {}
    path = run.path / "reference_log_probs.json"
    if path.exists():
        return dict(read_json(path))
    sequences = {r: s for prompt in prompts for r, s in zip(prompt.response_ids, prompt.sequences, strict=True)}
    sequences |= {item.response_id: item.sequence for item in labelled}
    names = list(sequences)
    known: dict[str, float] = {}
    with progress("reference", len(names)) as advance:
        for rows, tokens in micro_batches([sequences[n] for n in names], budget, reference.device):
            sums = reference.log_probs(tokens)[0].sum(dim=1).tolist()
            known |= {names[row]: value for row, value in zip(rows, sums, strict=True)}
            advance(len(rows))
    write_text(path, json.dumps(known))
    return known
