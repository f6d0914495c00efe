"""The losses of preferences over one optimiser step, micro-batch by micro-batch.

R responses of a micro-batch, N pairs of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plaudit import objectives
from plaudit.config import PreferSettings
from plaudit.methods import PREFERENCE_LOSSES
from plaudit.models.network import Network
from plaudit.objectives import kto, kto_reference_point, log_odds
from plaudit.text.batches import collate, micro_batches
from plaudit.text.chat import TokenSequence
from plaudit.training.data.judged_prompts import LabelledResponse, prompt_groups, side_by_side


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
    context_length: int

    def reference_sums(self, response_ids: Sequence[str]) -> Tensor:
        """[R] on the policy's device; zeros without a reference."""
        values = [self.known.get(r, 0.0) if self.reference is None else self.known[r] for r in response_ids]
        return torch.tensor(values, device=self.policy.device)


@dataclass(frozen=True)
class Part:
    """What one micro-batch adds to an optimiser step: losses and figures are the step's once summed.

    right  (prompt, 1 where the policy ranks the pair or places the response as people did, 1/2 where it has no
           preference, else 0), for each of them
    """

    loss: Tensor
    figures: dict[str, float]
    right: list[tuple[str, float]]


def parts_of_a_step(learner: Learner, batch: Sequence[Any]) -> Iterator[Part]:
    """The loss of one optimiser step, micro-batch by micro-batch."""
    kind = PREFERENCE_LOSSES[learner.settings.loss]
    if kind.unpaired:
        yield from _kto_losses(learner, batch)
        return
    pairs = sum(len(prompt.judgments) for prompt in batch)  # the one denominator of this step
    settings = learner.settings
    weight = settings.likelihood_coefficient
    if weight is None:
        weight = kind.likelihood
    for group in prompt_groups(batch, learner.budget):
        tokens = collate([s for prompt in group for s in prompt.sequences], device=learner.policy.device)
        own = learner.policy.log_probs(tokens)[0].sum(dim=1)  # [R]
        reference = learner.reference_sums([r for prompt in group for r in prompt.response_ids])  # [R]
        first, second, preference, _ = side_by_side(group, own.device)
        chosen = torch.where(preference > 0.5, first, second)  # [N]
        rejected = torch.where(preference > 0.5, second, first)
        lengths = tokens.response_lengths.float()  # [R]
        losses = pair_losses(settings, own, reference, lengths, chosen, rejected)
        sure = torch.maximum(preference, 1 - preference)
        if bool((sure < 1).any()):  # an annotator who is unsure is right by either side with that chance
            losses = sure * losses + (1 - sure) * pair_losses(settings, own, reference, lengths, rejected, chosen)
        likelihood = -(own / lengths)[chosen]
        total = (losses + weight * likelihood).sum() / pairs
        worth = compared(settings, own, reference, lengths)
        margin = worth[chosen] - worth[rejected]
        names = [prompt.prompt_id for prompt in group for _ in prompt.judgments]
        right = (margin.detach().sign() + 1) / 2
        figures = {
            "loss": float(total.detach()),
            "accuracy": float(right.sum()) / pairs,
            "margin": float(margin.detach().sum()) / pairs,
            "chosen_log_prob": float(own.detach()[chosen].sum()) / pairs,
            "rejected_log_prob": float(own.detach()[rejected].sum()) / pairs,
        }
        yield Part(total, figures, list(zip(names, right.tolist(), strict=True)))


def compared(settings: PreferSettings, own: Tensor, reference: Tensor, lengths: Tensor) -> Tensor:
    """[R] what the loss compares of two responses, nats: the loss of a pair falls with the difference of theirs.

    The log-ratio to the reference (the log-prob where there is none), or its mean a token; of orpo the log-odds of the
    mean probability of a token.
    """
    if PREFERENCE_LOSSES[settings.loss].compares == "log-odds":
        return log_odds(own / lengths)
    return (own - reference) / lengths if _is_per_token(settings) else own - reference


def pair_losses(
    settings: PreferSettings, own: Tensor, reference: Tensor, lengths: Tensor, chosen: Tensor, rejected: Tensor
) -> Tensor:
    """[N] the chosen loss of each pair: its objective, whose arguments are filled by their names.

    own, reference    [R]  log-probs of whole responses, nats
    lengths           [R]  tokens
    chosen, rejected  [N]  rows of the two sides
    """
    loss = PREFERENCE_LOSSES[settings.loss]
    objective = getattr(objectives, loss.objective)
    per = lengths if _is_per_token(settings) else torch.ones_like(lengths)
    known = {
        "chosen": own[chosen],
        "rejected": own[rejected],
        "chosen_lengths": lengths[chosen],
        "rejected_lengths": lengths[rejected],
        "chosen_log_ratio": ((own - reference) / per)[chosen],
        "rejected_log_ratio": ((own - reference) / per)[rejected],
        "policy_gap": (own / per)[chosen] - (own / per)[rejected],
        "reference_gap": (reference / per)[chosen] - (reference / per)[rejected],
        "beta": settings.beta,
        "tau": settings.beta,
        "flip_rate": settings.flip_rate,
        "gamma_over_beta": settings.gamma_over_beta,
    }
    losses: Tensor = objective(**{name: known[name] for name in inspect.signature(objective).parameters})
    return losses if loss.scaled_by is None else getattr(settings, loss.scaled_by) * losses


def _is_per_token(settings: PreferSettings) -> bool:
    per_token = PREFERENCE_LOSSES[settings.loss].per_token
    return per_token == "always" or (per_token == "asked" and settings.per_token)


def _kto_losses(learner: Learner, batch: Sequence[LabelledResponse]) -> Iterator[Part]:
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
        right = ((ratio.detach() - point).sign() * (2.0 * desirable - 1) + 1) / 2
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
def _kto_point(learner: Learner, batch: Sequence[LabelledResponse]) -> Tensor:
    """z0 from each prompt with the response to the next different prompt of the step (that fits the context)."""
    assert learner.reference is not None
    mismatched = []
    for i, item in enumerate(batch):
        others = (batch[(i + k) % len(batch)] for k in range(1, len(batch)))
        pairs = (
            TokenSequence(item.sequence.prompt_ids, other.sequence.response_ids)
            for other in others
            if other.prompt_id != item.prompt_id
        )
        fitting = next((pair for pair in pairs if len(pair) <= learner.context_length), None)
        if fitting is not None:
            mismatched.append(fitting)
    ratios = [
        (learner.policy.log_probs(tokens)[0] - learner.reference.log_probs(tokens)[0]).sum(dim=1)
        for _, tokens in micro_batches(mismatched, learner.budget, learner.policy.device)
    ]
    return kto_reference_point(torch.cat(ratios)) if ratios else torch.zeros((), device=learner.policy.device)
