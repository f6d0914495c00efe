"""From episodes to rollouts: scores, and every log-prob and value before the first update.

B episodes, T tokens after the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise

import torch
from torch import Tensor

from plaudit.algorithms.base import Algorithm, Rollouts
from plaudit.config import Config
from plaudit.objectives import k1, kl_penalised_rewards, masked_mean
from plaudit.rewards.scoring import Scorer
from plaudit.sampling.episodes import Episode
from plaudit.text.batches import TokenBatch, by_token_budget, collate, micro_batches, packed_size, shuffled_batches
from plaudit.text.chat import TokenSequence
from plaudit.training.actors import Actors


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


@dataclass(frozen=True)
class PolicyPass:
    """The policy's way through a micro-batch, to go back on.

    states     [M, D]
    log_probs  [b, T]
    """

    states: Tensor
    log_probs: Tensor


@torch.no_grad()
def measure(
    actors: Actors,
    algorithm: Algorithm,
    episodes: list[Episode],
    batching: Batching,
    *,
    step: int,
    kl_coefficient: float,
) -> tuple[Rollouts, dict[str, float], PolicyPass | None]:
    """Rollouts, the step's figures, and the policy's pass where it is what the only update would do again.

    The reference is run only where something needs it. A pass is kept where one micro-batch is all there is to learn
    from; beside it only the critics are run, without gradients.
    """
    config, settings = batching.config, batching.config.rl
    sequences = [episode.sequence for episode in episodes]
    longest = max(len(s.response_ids) for s in sequences)
    needs_reference = algorithm.needs.reference or kl_coefficient > 0
    names = ["policy", "entropy", *(["reference"] if needs_reference else []), *actors.critics]
    grids = {name: torch.zeros(len(sequences), longest) for name in names}
    rewards, scores, raw_scores = _task_rewards(actors.score, episodes, longest, config, unfinished=True)
    costs = episode_costs = None
    if actors.cost is not None:
        costs, episode_costs, _ = _task_rewards(actors.cost, episodes, longest, config, unfinished=False)
    minibatches = batching.minibatches(len(sequences), step, epoch=0)
    pieces = (piece for rows in minibatches for piece in batching.micro(sequences, rows))
    begun = list(islice(pieces, 2))
    once = len(begun) == 1 and settings.epochs == 1 and not config.model.compile  # compiled only where it learns
    for indices, batch in chain(begun, pieces):
        found = {}
        if needs_reference:
            found["reference"] = actors.reference.log_probs(batch, temperature=settings.temperature)[0]
        with torch.set_grad_enabled(once):
            states = actors.policy.states(batch)
            log_probs, entropy = actors.policy.log_probs_of(
                states, batch, temperature=settings.temperature, with_entropy=True
            )
        assert entropy is not None
        found |= {"policy": log_probs.detach(), "entropy": entropy}
        found |= {name: critic.values(batch, states) for name, critic in actors.critics.items()}
        for name, values in found.items():
            grids[name][indices, : values.shape[1]] = values.float().cpu()
    kept = PolicyPass(states, log_probs) if once else None
    mask = _mask(sequences, longest)
    grids = {name: grid.masked_fill(~mask, 0.0) for name, grid in grids.items()}
    in_reward = settings.kl_placement == "reward"
    priced = rewards
    if needs_reference and in_reward:
        priced = kl_penalised_rewards(rewards, grids["policy"], grids["reference"], mask, coefficient=kl_coefficient)
    if costs is not None and needs_reference and settings.lagrangian.rescale:
        # the price of KL is then the coefficient for every lambda
        costs = kl_penalised_rewards(costs, grids["policy"], grids["reference"], mask, coefficient=-kl_coefficient)
    rollouts = Rollouts(
        sequences=sequences,
        group_size=batching.group_size,
        mask=mask,
        scores=scores,
        rewards=priced,
        log_probs=grids["policy"],
        reference_log_probs=grids.get("reference"),
        costs=costs,
        episode_costs=episode_costs,
        values={name: grids[name] for name in actors.critics},
    )
    return rollouts, _facts(rollouts, episodes, raw_scores, grids["entropy"]), kept


def _mask(sequences: Sequence[TokenSequence], longest: int) -> Tensor:
    """[B, T] bool: the policy's tokens."""
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        learnt = [True] * len(sequence.response_ids) if sequence.learnt is None else sequence.learnt
        mask[row, : len(learnt)] = torch.tensor(learnt)
    return mask


def _task_rewards(
    scorer: Scorer, episodes: list[Episode], longest: int, config: Config, *, unfinished: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """([B, T] scores where they fall, [B] their sum by episode, [answers] scores as the scorer gave them).

    unfinished  whether the settings' rule for unfinished answers applies
    """
    settings = config.rl
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
    return rewards, rewards.sum(dim=1), raw


def _facts(rollouts: Rollouts, episodes: list[Episode], raw_scores: Tensor, entropy: Tensor) -> dict[str, float]:
    mask = rollouts.mask
    sampled = torch.zeros(mask.shape)
    for row, episode in enumerate(episodes):
        sampled[row, : len(episode.log_probs)] = torch.tensor(episode.log_probs)
    facts = {
        "reward": float(rollouts.returns.mean()),
        "score": float(rollouts.scores.mean()),
        "score_std": float(rollouts.scores.std(correction=0)),
        "raw_score": float(raw_scores.mean()),
        "entropy": float(masked_mean(entropy, mask)),
        "length": float(mask.sum(dim=1).float().mean()),
        "finished_rate": sum(episode.finished for episode in episodes) / len(episodes),
        "sampler_gap": float(masked_mean((sampled - rollouts.log_probs).abs(), mask)),
    }
    if rollouts.reference_log_probs is not None:
        facts["kl"] = float(k1(rollouts.log_probs, rollouts.reference_log_probs).sum(dim=1).mean())  # nats a response
    if any(len(episode.ends) > 1 for episode in episodes):
        facts["turns"] = sum(len(episode.ends) for episode in episodes) / len(episodes)
        facts["cut_by_context"] = sum(episode.cut for episode in episodes) / len(episodes)
    return facts
