"""Several passes over the rollouts in minibatches; one optimiser step of each network a minibatch.

Every loss is reduced over the whole optimiser step, whatever its micro-batches. b rows of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from plaudit.algorithms.base import Advantages, Algorithm, Piece, Rollouts
from plaudit.models.network import Network
from plaudit.objectives import clipped_value_error, k2, k3, masked_mean, masked_variance, response_weights
from plaudit.text.batches import draw_without_replacement, micro_batches
from plaudit.text.chat import TokenSequence
from plaudit.training.rl.actors import Actors
from plaudit.training.rl.rollouts import Batching, PolicyPasses
from plaudit.training.steps.optimiser import Optimiser, total_norm

KL_LOSSES = {"k2": k2, "k3": k3}


@dataclass
class _Totals:
    """Sums over what one optimiser step, or all of a rollout batch, has seen."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, total: float | Tensor, count: float | Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(total)
        self.counts[name] = self.counts.get(name, 0.0) + float(count)

    def merge(self, other: _Totals) -> None:
        for name in other.sums:
            self.add(name, other.sums[name], other.counts[name])

    def means(self) -> dict[str, float]:
        return {name: self.sums[name] / self.counts[name] for name in self.sums if self.counts[name]}


def learn(
    actors: Actors,
    passes: PolicyPasses,
    algorithm: Algorithm,
    rollouts: Rollouts,
    advantages: Advantages,
    batching: Batching,
    optimisers: dict[str, Optimiser],
    *,
    texts: list[TokenSequence],
    step: int,
    kl_coefficient: float,
) -> dict[str, float]:
    """Train the policy and the critics on one rollout batch; returns the step's figures.

    optimisers  "policy" and each critic's
    texts       pretraining texts to mix in; none for no mix
    """
    settings = batching.config.rl
    policy_optimiser = optimisers["policy"]
    metrics: dict[str, float] = {"learning_rate": policy_optimiser.learning_rate}
    totals, updates, stopped = _Totals(), 0, False
    for epoch in range(settings.epochs):
        for rows in batching.minibatches(len(rollouts.sequences), step, epoch):
            found, largest = _accumulate(
                actors, passes, algorithm, rollouts, advantages, batching, rows, kl_coefficient
            )
            if updates == 0:
                metrics["first_ratio_gap"] = largest  # |log ratio| before any update: 0 unless something is wrong
            moved = found.means()["approximate_kl"]
            if settings.max_approximate_kl is not None and moved > settings.max_approximate_kl:
                for optimiser in optimisers.values():
                    optimiser.discard()
                stopped = True
                break
            if step < settings.value_warmup_steps:
                policy_optimiser.discard()
            else:
                metrics |= _mix_in_texts(actors, batching, policy_optimiser, texts)
                metrics["policy_gradient_norm"] = policy_optimiser.step()
            for name in actors.critics:
                metrics[f"{_prefix(name)}value_gradient_norm"] = optimisers[name].step()
            totals.merge(found)
            updates += 1
            metrics["largest_log_ratio"] = max(largest, metrics.get("largest_log_ratio", 0.0))
        if stopped:
            break
    metrics |= totals.means() | {"updates": float(updates)}
    for name in actors.critics:
        error = masked_mean((rollouts.values[name] - advantages.targets[name]).square(), rollouts.mask)
        variance = masked_variance(advantages.targets[name], rollouts.mask)
        metrics[f"{_prefix(name)}explained_variance"] = float(1 - error / variance.clamp(min=1e-8))
    return metrics


def _accumulate(
    actors: Actors,
    passes: PolicyPasses,
    algorithm: Algorithm,
    rollouts: Rollouts,
    advantages: Advantages,
    batching: Batching,
    rows: list[int],
    kl_coefficient: float,
) -> tuple[_Totals, float]:
    """Sum up the gradients of one minibatch; (its figures, largest |log ratio|)."""
    settings = batching.config.rl
    lengths = rollouts.mask[rows].sum(dim=1)
    tokens = int(lengths.sum())
    longest = settings.max_new_tokens * (settings.episodes.turns if settings.episodes.user is not None else 1)
    by_row = torch.zeros(len(rollouts.sequences), dtype=torch.float64)
    by_row[rows] = response_weights(lengths, algorithm.reduction, longest=longest)
    found, largest = _Totals(), 0.0
    for indices, batch in batching.micro(rollouts.sequences, rows):
        cut = _Cut(indices, int(batch.response_lengths.max()), batch.token_ids.device)
        mask = cut(rollouts.mask)
        weights = by_row[indices].to(mask.device, torch.float32)  # [b]

        def reduce(values: Tensor, mask: Tensor = mask, weights: Tensor = weights) -> Tensor:
            if values.dim() == 1:
                return values.sum() / len(rows)
            return (values.masked_fill(~mask, 0.0) * weights[:, None]).sum()

        states, log_probs = passes.learn(batch)
        piece = _piece(rollouts, advantages, cut, indices)
        loss, clipped = algorithm.loss(log_probs, piece)
        objective = reduce(loss)
        found.add("policy_loss", objective.detach() * len(rows), len(indices))
        if settings.kl_term != "reward" and piece.reference_log_probs is not None:
            price = reduce(KL_LOSSES[settings.kl_term](log_probs, piece.reference_log_probs))
            objective = objective + kl_coefficient * price
            found.add("kl_loss", price.detach() * len(rows), len(indices))
        head_coefficient = settings.value_head_coefficient  # its gradient goes back in one pass with the policy's
        if head_coefficient is None:
            _back(objective, actors.policy)
        seen = mask if clipped.dim() == 2 else torch.ones_like(clipped)
        found.add("clip_fraction", (clipped & seen).sum(), seen.sum())
        for name, critic in actors.critics.items():
            value_loss, value_clipped = clipped_value_error(
                critic.values(batch, states),
                cut(rollouts.values[name]),
                cut(advantages.targets[name]),
                clip=settings.value_clip,
            )
            value_loss = value_loss.masked_fill(~mask, 0.0)
            value_objective = value_loss.sum() / tokens
            if head_coefficient is None:
                _back(value_objective, critic.network)
            else:
                objective = objective + head_coefficient * value_objective
            found.add(f"{_prefix(name)}value_loss", value_loss.detach().sum(), mask.sum())
            found.add(f"{_prefix(name)}value_clip_fraction", (value_clipped & mask).sum(), mask.sum())
        if head_coefficient is not None:
            _back(objective, actors.policy)
        log_ratio = (log_probs.detach() - piece.old_log_probs).masked_fill(~mask, 0.0)
        found.add("approximate_kl", 0.5 * log_ratio.square().sum(), mask.sum())
        largest = max(largest, float(log_ratio.abs().max()))
    return found, largest


def _back(objective: Tensor, network: Network) -> None:
    """Gradients of the role's weights, whichever role has been at work since its pass."""
    with network.active():
        objective.backward()


def _piece(rollouts: Rollouts, advantages: Advantages, cut: _Cut, indices: list[int]) -> Piece:
    device = cut.device
    reference = rollouts.reference_log_probs
    return Piece(
        group_size=rollouts.group_size,
        mask=cut(rollouts.mask),
        old_log_probs=cut(rollouts.log_probs),
        advantages=cut(advantages.policy),
        returns=rollouts.returns[indices].to(device),
        scores=rollouts.scores[indices].to(device),
        reference_log_probs=None if reference is None else cut(reference),
        cost_advantages=None if advantages.cost is None else cut(advantages.cost),
    )


def _mix_in_texts(
    actors: Actors, batching: Batching, optimiser: Optimiser, texts: list[TokenSequence]
) -> dict[str, float]:
    """Add coefficient * gradient of the texts' mean negative log-likelihood to the policy's; both norms are returned.

    Ouyang et al. 2022 (arXiv:2203.02155) eq. 2, PPO-ptx: two backward passes into one buffer.
    """
    if not texts:
        return {}
    settings = batching.config.rl.pretraining
    drawn = draw_without_replacement(
        len(texts), settings.texts_per_step, optimiser.steps_taken, seed=batching.config.seed
    )
    chosen = [texts[i] for i in drawn]
    tokens = sum(len(sequence.response_ids) for sequence in chosen)
    before = [None if gradient is None else gradient.clone() for gradient in optimiser.gradients()]
    total = 0.0
    for _, batch in micro_batches(chosen, batching.config.model.tokens_per_micro_batch, actors.policy.device):
        log_probs, _ = actors.policy.log_probs(batch)
        (-settings.coefficient * log_probs.sum() / tokens).backward()
        total -= float(log_probs.detach().sum())
    own = [
        after if earlier is None else after - earlier
        for after, earlier in zip(optimiser.gradients(), before, strict=True)
        if after is not None
    ]
    return {
        "pretraining_loss": total / tokens,
        "pretraining_gradient_norm": total_norm(own),
        "reward_gradient_norm": total_norm([earlier for earlier in before if earlier is not None]),
    }


def _prefix(critic: str) -> str:
    """Figures of the reward's critic have no prefix."""
    return "" if critic == "reward" else f"{critic}_"


@dataclass(frozen=True)
class _Cut:
    """Rows and columns of a [B, T] grid that belong to a micro-batch, on its device."""

    rows: list[int]
    width: int
    device: torch.device

    def __call__(self, grid: Tensor) -> Tensor:
        return grid[self.rows, : self.width].to(self.device)
