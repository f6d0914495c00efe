"""The offline loop: a policy straight from preferences, by DPO and its family.

Every pair of a prompt shares one forward per response, and a loss is divided by the pairs (KTO: responses) of the
whole optimiser step. Reference log-probs are computed once, before anything is learnt, and kept in the run.

R responses of a micro-batch, N pairs of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plaudit.config import Config, PreferSettings
from plaudit.errors import DataError, ModelError
from plaudit.evaluation.statistics import cluster_bootstrap
from plaudit.files import write_text
from plaudit.models.loading import LoadedModel, load_causal, save_causal
from plaudit.models.network import Network, make_trainable
from plaudit.objectives import (
    conservative_dpo,
    cpo,
    dpo,
    hinge,
    ipo,
    kto,
    kto_reference_point,
    orpo_odds,
    robust_dpo,
    simpo,
)
from plaudit.progress import progress, say
from plaudit.store.database import snapshot
from plaudit.text.batches import collate, micro_batches, shuffled_batches
from plaudit.text.chat import TokenSequence
from plaudit.training.comparisons import (
    JudgedPrompt,
    choose_comparisons,
    encode_stored,
    fits,
    load_judged_prompts,
    prompt_groups,
    sampled_with,
    side_by_side,
    source_parents,
)
from plaudit.training.step import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint
from plaudit.workspace import Run, Workspace

WITHOUT_REFERENCE = ("simpo", "orpo", "cpo")


@dataclass(frozen=True)
class Judged:
    """One response that somebody liked or did not; of a comparison each side is one."""

    prompt_id: str
    response_id: str
    sequence: TokenSequence
    desirable: bool


@dataclass(frozen=True)
class Learner:
    """What every step needs.

    reference   None for the losses that have none
    known       response id -> log-prob of the whole response under the reference, nats
    """

    policy: Network
    reference: Network | None
    known: dict[str, float]
    settings: PreferSettings
    budget: int

    def reference_sums(self, response_ids: Sequence[str]) -> Tensor:
        """[R] on the policy's device; zeros without a reference."""
        values = [self.known.get(r, 0.0) if self.reference is None else self.known[r] for r in response_ids]
        return torch.tensor(values, device=self.policy.device)


def prefer(workspace: Workspace, config: Config | None = None, *, resume: str | None = None) -> Run:
    """Optimise `prefer.policy` on the workspace's comparisons (kto: and labels) by `prefer.loss`.

    Returns the run; its `model/` is the new policy, its result the loss and the share of held-out preferences that the
    policy ranks as people did, before and after, with how chosen and rejected log-probs moved (nats a response): both
    may fall while their difference grows.

    Raises DataError when there is nothing to learn from, ModelError when policy and reference do not fit together.
    """
    if resume is not None:
        with workspace.resume_run(resume, "prefer") as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    settings = config.prefer
    wanted = settings.comparisons
    labels = workspace.store.labels() if settings.loss == "kto" else []
    if wanted is not None:
        names = {workspace.lineage_name(name) for name in wanted}
        labels = [label for label in labels if label.run in names]
        wanted = sorted(names - {label.run for label in labels})
    only_labels = bool(labels) and (wanted == [] or not workspace.store.comparisons())
    comparisons = [] if only_labels else choose_comparisons(workspace, wanted, setting="prefer.comparisons")
    parents = {"policy": workspace.lineage_name(settings.policy)} | source_parents(comparisons)
    workspace.model_source(parents["policy"])
    if settings.loss not in WITHOUT_REFERENCE:
        parents["reference"] = workspace.lineage_name(settings.reference or settings.policy)
        workspace.model_source(parents["reference"])
    parents |= {f"labels_{i}": name for i, name in enumerate(sorted({label.run for label in labels}))}
    data = snapshot("comparisons", (c.id for c in comparisons))
    if labels:
        data |= snapshot("labels", (label.id for label in labels))
    with workspace.new_run("prefer", config, parents=parents, data=data) as run:
        return _run(workspace, run, config)


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.prefer
    model = load_causal(workspace.model_source(run.parents["policy"]), config.model)
    train, held_out = load_judged_prompts(workspace, run, model, config, most_tokens=settings.max_response_tokens)
    train, held_out = _without_ties(train), _without_ties(held_out)
    policy = make_trainable(model.network, config.model.lora, role="policy", seed=config.seed)
    liked, held_out_liked = _judged_responses(workspace, run, model, config, train, held_out)
    reference = _reference(workspace, run, model, config)
    budget = config.model.tokens_per_micro_batch
    known = _reference_log_probs(run, reference, [*liked, *held_out_liked], [*train, *held_out], budget)
    learner = Learner(policy, reference, known, settings, budget)

    by_response = settings.loss == "kto"
    items: Sequence[Any] = liked if by_response else train
    held_out_items: Sequence[Any] = held_out_liked if by_response else held_out
    if not items:
        raise DataError("there is no preference on a training prompt to learn from; all prompts are held out or tied.")
    steps_per_epoch = math.ceil(len(items) / settings.batch_size)
    total = steps_per_epoch * settings.epochs
    optimiser = Optimiser(policy, settings.optimiser, total)
    parts = {"policy": (policy, optimiser)}
    checkpoint = load_checkpoint(run, parts)
    first = checkpoint["step"]
    before = checkpoint["before"] if first else _quality(learner, held_out_items, config)

    with progress(settings.loss, total) as advance:
        advance(first)
        for step in range(first, total):
            epoch, place = divmod(step, steps_per_epoch)
            rows = shuffled_batches(len(items), settings.batch_size, seed=f"{config.seed}:prefer:{epoch}")[place]
            batch = [items[i] for i in rows]
            facts = {"learning_rate": optimiser.learning_rate}
            for part in _losses(learner, batch):
                part.loss.backward()
                facts |= {name: facts.get(name, 0.0) + value for name, value in part.figures.items()}
            facts["gradient_norm"] = optimiser.step()
            run.log(step + 1, **facts)
            if (step + 1) % settings.save_every == 0:
                save_checkpoint(run, step + 1, parts, before=before)
            advance(1)

    after = _quality(learner, held_out_items, config)
    save_causal(policy, model, run.model_folder)
    reference_name = run.parents.get("reference")
    run.update(
        result={
            "loss": settings.loss,
            "reference": None if reference is None else f"{reference_name}, unchanged throughout",
            "train_items": len(items),
            "held_out_items": len(held_out_items),
            "before": before,
            "after": after,
        }
    )
    drop_checkpoint(run)
    return run


@dataclass(frozen=True)
class Part:
    """What one micro-batch adds to an optimiser step: losses and figures are the step's once summed.

    right  (prompt, whether the policy ranks the pair or places the response as people did), for each of them
    """

    loss: Tensor
    figures: dict[str, float]
    right: list[tuple[str, bool]]


def _losses(learner: Learner, batch: Sequence[Any]) -> Iterator[Part]:
    """The loss of one optimiser step, micro-batch by micro-batch."""
    if learner.settings.loss == "kto":
        yield from _kto_losses(learner, batch)
        return
    pairs = sum(len(prompt.judgments) for prompt in batch)  # the one denominator of this step
    settings = learner.settings
    weight = settings.likelihood_coefficient
    if weight is None:
        weight = 1.0 if settings.loss in ("orpo", "cpo") else 0.0
    for group in prompt_groups(batch, learner.budget):
        tokens = collate([s for prompt in group for s in prompt.sequences], device=learner.policy.device)
        own = learner.policy.log_probs(tokens)[0].sum(dim=1)  # [R]
        reference = learner.reference_sums([r for prompt in group for r in prompt.response_ids])  # [R]
        first, second, preference, _ = side_by_side(group, own.device)
        chosen = torch.where(preference > 0.5, first, second)  # [N]
        rejected = torch.where(preference > 0.5, second, first)
        lengths = tokens.response_lengths.float()  # [R]
        losses = pair_losses(settings, own, reference, lengths, chosen, rejected)
        likelihood = -(own / lengths)[chosen]
        total = (losses + weight * likelihood).sum() / pairs
        margin = (own - reference)[chosen] - (own - reference)[rejected]
        if settings.loss == "simpo":
            margin = (own / lengths)[chosen] - (own / lengths)[rejected]
        names = [prompt.prompt_id for prompt in group for _ in prompt.judgments]
        figures = {
            "loss": float(total.detach()),
            "accuracy": float((margin > 0).sum()) / pairs,
            "margin": float(margin.detach().sum()) / pairs,
            "chosen_log_prob": float(own.detach()[chosen].sum()) / pairs,
            "rejected_log_prob": float(own.detach()[rejected].sum()) / pairs,
        }
        yield Part(total, figures, list(zip(names, (margin > 0).tolist(), strict=True)))


def pair_losses(
    settings: PreferSettings, own: Tensor, reference: Tensor, lengths: Tensor, chosen: Tensor, rejected: Tensor
) -> Tensor:
    """[N] the chosen loss of each pair.

    own, reference    [R]  log-probs of whole responses, nats
    lengths           [R]  tokens
    chosen, rejected  [N]  rows of the two sides
    """
    own_gap, reference_gap = own[chosen] - own[rejected], reference[chosen] - reference[rejected]
    beta = settings.beta
    match settings.loss:
        case "dpo":
            return dpo(own_gap, reference_gap, beta=beta)
        case "conservative-dpo":
            return conservative_dpo(own_gap, reference_gap, beta=beta, flip_rate=settings.flip_rate)
        case "robust-dpo":
            return robust_dpo(own_gap, reference_gap, beta=beta, flip_rate=settings.flip_rate)
        case "hinge":
            return hinge(own_gap, reference_gap, beta=beta)
        case "ipo":
            if settings.per_token:
                own, reference = own / lengths, reference / lengths
            return ipo(own[chosen] - own[rejected], reference[chosen] - reference[rejected], tau=beta)
        case "simpo":
            gamma = settings.gamma_over_beta
            return simpo(
                own[chosen], own[rejected], lengths[chosen], lengths[rejected], beta=beta, gamma_over_beta=gamma
            )
        case "orpo":
            odds = orpo_odds(own[chosen], own[rejected], lengths[chosen], lengths[rejected])
            return settings.odds_coefficient * odds
        case "cpo":
            return cpo(own_gap, beta=beta)
    raise AssertionError(f"{settings.loss} is not a loss of pairs")


def _kto_losses(learner: Learner, batch: Sequence[Judged]) -> Iterator[Part]:
    settings = learner.settings
    point = _kto_point(learner, batch)
    liked = sum(item.desirable for item in batch)
    for rows, tokens in micro_batches([item.sequence for item in batch], learner.budget, learner.policy.device):
        own = learner.policy.log_probs(tokens)[0].sum(dim=1)
        ratio = own - learner.reference_sums([batch[i].response_id for i in rows])
        desirable = torch.tensor([batch[i].desirable for i in rows], device=own.device)
        losses = kto(
            ratio,
            desirable,
            point,
            beta=settings.beta,
            desirable_weight=settings.desirable_weight,
            undesirable_weight=settings.undesirable_weight,
        )
        total = losses.sum() / len(batch)
        right = (ratio.detach() > point) == desirable
        figures = {
            "loss": float(total.detach()),
            "accuracy": float(right.sum()) / len(batch),
            "reference_point": float(point) * len(rows) / len(batch),
        }
        detached = own.detach()
        if liked:
            figures["chosen_log_prob"] = float(detached[desirable].sum()) / liked
        if liked < len(batch):
            figures["rejected_log_prob"] = float(detached[~desirable].sum()) / (len(batch) - liked)
        yield Part(total, figures, list(zip([batch[i].prompt_id for i in rows], right.tolist(), strict=True)))


@torch.no_grad()
def _kto_point(learner: Learner, batch: Sequence[Judged]) -> Tensor:
    """z0 from each prompt with the response to the next different prompt of the step."""
    assert learner.reference is not None
    mismatched = []
    for i, item in enumerate(batch):
        others = (batch[(i + k) % len(batch)] for k in range(1, len(batch)))
        other = next((o for o in others if o.prompt_id != item.prompt_id), None)
        if other is not None:
            mismatched.append(TokenSequence(item.sequence.prompt_ids, other.sequence.response_ids))
    ratios = [
        (learner.policy.log_probs(tokens)[0] - learner.reference.log_probs(tokens)[0]).sum(dim=1)
        for _, tokens in micro_batches(mismatched, learner.budget, learner.policy.device)
    ]
    return kto_reference_point(torch.cat(ratios)) if ratios else torch.zeros((), device=learner.policy.device)


@torch.no_grad()
def _quality(learner: Learner, items: Sequence[Any], config: Config) -> dict[str, Any] | None:
    """Loss and accuracy on held-out preferences, the accuracy with an interval over prompts; None without any."""
    if not items:
        return None
    sums: dict[str, float] = {}
    right: list[tuple[str, bool]] = []
    for start in range(0, len(items), learner.settings.batch_size):
        batch = items[start : start + learner.settings.batch_size]
        for part in _losses(learner, batch):
            right += part.right
            for name, value in part.figures.items():
                sums[name] = sums.get(name, 0.0) + value * len(batch) / len(items)
    accuracy = cluster_bootstrap([float(r) for _, r in right], [prompt for prompt, _ in right], seed=config.seed)
    return {**sums, "accuracy": accuracy}


def _without_ties(prompts: Sequence[JudgedPrompt]) -> list[JudgedPrompt]:
    """A tie has no chosen side: left out, counted and said."""
    ties = sum(label == 0.5 for prompt in prompts for _, _, label in prompt.judgments)
    if ties:
        say(f"{ties} comparisons are ties: left out.")
    kept = []
    for prompt in prompts:
        decided = [(j, c) for j, c in zip(prompt.judgments, prompt.comparisons, strict=True) if j[2] != 0.5]
        if decided:
            judgments, comparisons = zip(*decided, strict=True)
            kept.append(
                JudgedPrompt(
                    prompt.prompt_id, prompt.response_ids, prompt.sequences, list(judgments), list(comparisons)
                )
            )
    return kept


def _judged_responses(
    workspace: Workspace,
    run: Run,
    model: LoadedModel,
    config: Config,
    train: Sequence[JudgedPrompt],
    held_out: Sequence[JudgedPrompt],
) -> tuple[list[Judged], list[Judged]]:
    """For kto: (training, held-out) labels, and the two sides of every comparison as labels; else nothing."""
    if config.prefer.loss != "kto":
        return [], []
    found: dict[str, list[Judged]] = {"train": [], "held_out": []}
    for split, prompts in (("train", train), ("held_out", held_out)):
        for prompt in prompts:
            for a, b, preference in prompt.judgments:
                for place, desirable in ((a, preference > 0.5), (b, preference < 0.5)):
                    found[split].append(
                        Judged(prompt.prompt_id, prompt.response_ids[place], prompt.sequences[place], desirable)
                    )
    names = {name for role, name in run.parents.items() if role.startswith("labels_")}
    labels = [label for label in workspace.store.labels() if label.run in names]
    by_id = {prompt.id: prompt for prompt in workspace.store.prompts()} if labels else {}
    responses = {response.id: response for response in workspace.store.responses()} if labels else {}
    same_ids = sampled_with(workspace, model)
    limit = model.prompt_limit(config.data.max_prompt_tokens, 1)
    dropped = 0
    for label in labels:
        prompt_ids = model.format.encode_prompt(by_id[label.prompt_id].messages, limit=limit)
        sequence = TokenSequence(prompt_ids, encode_stored(model, responses[label.response], same_ids))
        if fits(sequence, model, config.prefer.max_response_tokens):
            item = Judged(label.prompt_id, label.response, sequence, label.desirable)
            found[by_id[label.prompt_id].split].append(item)
        else:
            dropped += 1
    if dropped:
        say(f"{dropped} labelled responses are over {config.prefer.max_response_tokens} tokens: left out.")
    return found["train"], found["held_out"]


def _reference(workspace: Workspace, run: Run, model: LoadedModel, config: Config) -> Network | None:
    """The frozen policy itself, another model, or nothing."""
    name = run.parents.get("reference")
    if name is None:
        return None
    if name == run.parents["policy"]:
        return model.network
    other = load_causal(workspace.model_source(name), config.model)
    if other.format.vocabulary_id != model.format.vocabulary_id:
        raise ModelError(
            f"the reference {name} and the policy {run.parents['policy']} have different vocabularies, so their "
            "log-probs cannot be compared. Name a reference of the same family."
        )
    return other.network


@torch.no_grad()
def _reference_log_probs(
    run: Run, reference: Network | None, judged: Sequence[Judged], prompts: Sequence[JudgedPrompt], budget: int
) -> dict[str, float]:
    """Log-prob of every response under the reference, nats; computed once, and read again when the run is resumed."""
    if reference is None:
        return {}
    path = run.path / "reference_log_probs.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    sequences = {r: s for prompt in prompts for r, s in zip(prompt.response_ids, prompt.sequences, strict=True)}
    sequences |= {item.response_id: item.sequence for item in judged}
    names = list(sequences)
    known: dict[str, float] = {}
    with progress("reference", len(names)) as advance:
        for rows, tokens in micro_batches([sequences[n] for n in names], budget, reference.device):
            sums = reference.log_probs(tokens)[0].sum(dim=1).tolist()
            known |= {names[row]: value for row, value in zip(rows, sums, strict=True)}
            advance(len(rows))
    write_text(path, json.dumps(known))
    return known
