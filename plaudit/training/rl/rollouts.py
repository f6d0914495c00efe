"""From episodes to rollouts: score, measure, charge the KL. What a step does before the first update.

B episodes, T tokens after the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise

import torch
from torch import Tensor

from plaudit.algorithms.base import Rollouts
from plaudit.config import Config, RlSettings
from plaudit.models.network import Network
from plaudit.objectives import k1, kl_penalised_rewards, masked_mean
from plaudit.rewards.scoring import Scorer
from plaudit.sampling.episodes import Episode
from plaudit.text.batches import TokenBatch, by_token_budget, collate, micro_batches, packed_size, shuffled_batches
from plaudit.text.chat import TokenSequence
from plaudit.training.rl.actors import Actors


@dataclass(frozen=True)
class Batching:
    """Minibatches of whole prompts, and micro-batches within them; the same in measuring as in learning.

    The first pass then sees the very batches that were measured: its probability ratios are exactly 1, also in
    bfloat16, where a token's log-prob depends on its batch mates.
    """

    config: Config
    group_size: int
    whole_groups: bool
    device: torch.device

    def minibatches(self, count: int, step: int, epoch: int) -> list[list[int]]:
        """Rows of each minibatch; those of a prompt stay together, and sizes differ by one prompt at most."""
        prompts, pieces = count // self.group_size, self.config.rl.minibatches
        seed = f"{self.config.seed}:minibatches:{step}:{epoch}"
        (order,) = shuffled_batches(prompts, prompts, seed=seed)
        cuts = [round(piece * prompts / pieces) for piece in range(pieces + 1)]
        groups = [order[start:end] for start, end in pairwise(cuts)]
        return [[p * self.group_size + k for p in chosen for k in range(self.group_size)] for chosen in groups]

    def micro(self, sequences: Sequence[TokenSequence], rows: list[int]) -> Iterator[tuple[list[int], TokenBatch]]:
        """(indices into the whole rollout batch, batch) within the token budget."""
        budget = self.config.model.tokens_per_micro_batch
        chosen = [sequences[i] for i in rows]
        if not self.whole_groups:
            for indices, batch in micro_batches(chosen, budget, self.device):
                yield [rows[i] for i in indices], batch
            return
        groups = [rows[start : start + self.group_size] for start in range(0, len(rows), self.group_size)]
        costs = [packed_size([sequences[i] for i in group]) for group in groups]
        lengths = [max(len(sequences[i]) for i in group) for group in groups]
        for picked in by_token_budget(costs, budget, lengths=lengths):
            indices = [i for number in picked for i in groups[number]]
            yield indices, collate([sequences[i] for i in indices], device=self.device)


class PolicyPasses:
    """The policy's forward passes: one that measured is not done again where the only update would repeat it."""

    def __init__(self, policy: Network, temperature: float):
        self.policy = policy
        self.temperature = temperature
        self._kept: tuple[Tensor, Tensor] | None = None

    def measure(self, batch: TokenBatch, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """([M, D] states, [b, T] log-probs, [b, T] entropy), of numbers alone.

        keep  whether `learn` is asked for this very batch next, before any update
        """
        with torch.set_grad_enabled(keep):
            states = self.policy.states(batch)
            log_probs, entropy = self.policy.log_probs_of(
                states, batch, temperature=self.temperature, with_entropy=True
            )
        assert entropy is not None
        if keep:
            self._kept = states, log_probs
        return states, log_probs.detach(), entropy

    def learn(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """([M, D] states, [b, T] log-probs), with gradient: of the pass that was kept, which is then forgotten."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        states = self.policy.states(batch)
        return states, self.policy.log_probs_of(states, batch, temperature=self.temperature)[0]


@dataclass(frozen=True)
class Scored:
    """What episodes are worth, before any price of KL. T is the length of the longest.

    mask     [B, T] bool: the policy's tokens
    rewards  [B, T] each score at the last token of what it is of
    costs    [B, T] the same of the cost; None without a cost model
    raw      [answers] as the scorer gave them, before the rule for unfinished answers
    """

    mask: Tensor
    rewards: Tensor
    costs: Tensor | None
    raw: Tensor


@dataclass(frozen=True)
class Measured:
    """What the networks say of the episodes' tokens before the first update, zero behind the mask.

    log_probs, entropy   [B, T] of the policy, nats
    reference_log_probs  [B, T] nats; None where nothing needs them
    values               critic -> [B, T]
    """

    log_probs: Tensor
    entropy: Tensor
    reference_log_probs: Tensor | None
    values: dict[str, Tensor]


def score(actors: Actors, episodes: list[Episode], settings: RlSettings) -> Scored:
    """Score episodes by the reward, and by the cost where there is one."""
    mask = _mask([episode.sequence for episode in episodes])
    rewards, raw = _task_rewards(actors.score, episodes, mask.shape[1], settings, unfinished=True)
    costs = None
    if actors.cost is not None:
        costs, _ = _task_rewards(actors.cost, episodes, mask.shape[1], settings, unfinished=False)
    return Scored(mask, rewards, costs, raw)


@torch.no_grad()
def measure(
    actors: Actors,
    passes: PolicyPasses,
    episodes: list[Episode],
    mask: Tensor,
    batching: Batching,
    *,
    step: int,
    with_reference: bool,
) -> Measured:
    """Run every network once over the episodes, in the batches that the first pass of learning will see.

    The policy's pass is kept where one micro-batch is all there is to learn from; beside it only the critics are run,
    without gradients.
    """
    config, settings = batching.config, batching.config.rl
    sequences = [episode.sequence for episode in episodes]
    names = ["policy", "entropy", *(["reference"] if with_reference else []), *actors.critics]
    grids = {name: torch.zeros(mask.shape) for name in names}
    minibatches = batching.minibatches(len(sequences), step, epoch=0)
    pieces = (piece for rows in minibatches for piece in batching.micro(sequences, rows))
    begun = list(islice(pieces, 2))
    once = len(begun) == 1 and settings.epochs == 1 and not config.model.compile  # compiled only where it learns
    for indices, batch in chain(begun, pieces):
        found = {}
        if with_reference:
            found["reference"] = actors.reference.log_probs(batch, temperature=settings.temperature)[0]
        states, found["policy"], found["entropy"] = passes.measure(batch, keep=once)
        found |= {name: critic.values(batch, states) for name, critic in actors.critics.items()}
        for name, values in found.items():
            grids[name][indices, : values.shape[1]] = values.float().cpu()
    grids = {name: grid.masked_fill(~mask, 0.0) for name, grid in grids.items()}
    return Measured(
        log_probs=grids["policy"],
        entropy=grids["entropy"],
        reference_log_probs=grids.get("reference"),
        values={name: grids[name] for name in actors.critics},
    )


def charge_kl(
    sequences: list[TokenSequence], scored: Scored, measured: Measured, settings: RlSettings, *, kl_coefficient: float
) -> Rollouts:
    """Rollouts for the algorithm: with the price of KL in the rewards, where the settings have it there."""
    rewards, costs, reference = scored.rewards, scored.costs, measured.reference_log_probs
    if reference is not None and settings.kl_term == "reward":
        rewards = kl_penalised_rewards(rewards, measured.log_probs, reference, scored.mask, coefficient=kl_coefficient)
    if reference is not None and costs is not None and settings.lagrangian.rescale:
        # the price of KL is then the coefficient for every lambda
        costs = kl_penalised_rewards(costs, measured.log_probs, reference, scored.mask, coefficient=-kl_coefficient)
    return Rollouts(
        sequences=sequences,
        group_size=settings.group_size,
        mask=scored.mask,
        scores=scored.rewards.sum(dim=1),
        rewards=rewards,
        log_probs=measured.log_probs,
        reference_log_probs=reference,
        costs=costs,
        episode_costs=None if scored.costs is None else scored.costs.sum(dim=1),
        values=measured.values,
    )


def _mask(sequences: Sequence[TokenSequence]) -> Tensor:
    """[B, T] bool: the policy's tokens."""
    longest = max(len(sequence.response_ids) for sequence in sequences)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        loss_mask = [True] * len(sequence.response_ids) if sequence.loss_mask is None else sequence.loss_mask
        mask[row, : len(loss_mask)] = torch.tensor(loss_mask)
    return mask


def _task_rewards(
    scorer: Scorer, episodes: list[Episode], longest: int, settings: RlSettings, *, unfinished: bool
) -> tuple[Tensor, Tensor]:
    """([B, T] scores where they fall, [answers] scores as the scorer gave them).

    unfinished  whether the settings' rule for unfinished answers applies
    """
    last_only = settings.episodes.reward == "end"
    scored = [
        (row, end, answer)
        for row, episode in enumerate(episodes)
        for end, answer in list(zip(episode.ends, episode.answers, strict=True))[-1 if last_only else 0 :]
    ]
    raw = scorer([answer for _, _, answer in scored])
    finished = torch.tensor([answer.finished for _, _, answer in scored])
    values = raw
    if unfinished and settings.missing_eos_score is not None:
        values = torch.where(finished, values, torch.tensor(settings.missing_eos_score))
    elif unfinished:
        values = torch.where(finished, values, values - settings.missing_eos_penalty)
    rewards = torch.zeros(len(episodes), longest)
    rewards[[row for row, _, _ in scored], [end - 1 for _, end, _ in scored]] = values
    return rewards, raw


def figures(rollouts: Rollouts, scored: Scored, measured: Measured, episodes: list[Episode]) -> dict[str, float]:
    """What is logged of a rollout batch."""
    mask = rollouts.mask
    sampled = torch.zeros(mask.shape)
    for row, episode in enumerate(episodes):
        sampled[row, : len(episode.log_probs)] = torch.tensor(episode.log_probs)
    metrics = {
        "reward": float(rollouts.returns.mean()),
        "score": float(rollouts.scores.mean()),
        "score_std": float(rollouts.scores.std(correction=0)),
        "raw_score": float(scored.raw.mean()),
        "entropy": float(masked_mean(measured.entropy, mask)),
        "length": float(mask.sum(dim=1).float().mean()),
        "finished_rate": sum(episode.finished for episode in episodes) / len(episodes),
        "sampler_gap": float(masked_mean((sampled - rollouts.log_probs).abs(), mask)),
    }
    if rollouts.reference_log_probs is not None:
        metrics["kl"] = float(k1(rollouts.log_probs, rollouts.reference_log_probs).sum(dim=1).mean())  # nats a response
    if any(len(episode.ends) > 1 for episode in episodes):
        metrics["turns"] = sum(len(episode.ends) for episode in episodes) / len(episodes)
        metrics["truncated_by_context"] = sum(episode.truncated for episode in episodes) / len(episodes)
    return metrics
