"""The online loop: sample, score, price the departure from the reference, learn; again.

The loop alone samples, scores, shapes rewards, makes minibatches, reduces and steps; an algorithm says
what it needs, turns rollouts into advantages, and gives a loss per token. Every loss is summed over tokens
and divided by the response tokens of the whole optimiser step.

B responses of a rollout batch, T response tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plaudit.algorithms import ALGORITHMS
from plaudit.algorithms.ppo import PPO
from plaudit.algorithms.rollouts import Rollouts
from plaudit.config import Config
from plaudit.errors import ConfigError, DataError, ModelError
from plaudit.models.loading import LoadedModel, load_causal, load_reward, save_causal
from plaudit.models.network import Network, make_trainable
from plaudit.objectives import kl_penalised_rewards, masked_mean, masked_variance
from plaudit.progress import progress, say
from plaudit.sampling.in_process import Completion, sample
from plaudit.store.database import snapshot
from plaudit.text.batches import TokenBatch, draw_without_replacement, micro_batches, shuffled_batches
from plaudit.text.chat import TokenSequence
from plaudit.training.step import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint
from plaudit.workspace import Run, Workspace


@dataclass(frozen=True)
class Actors:
    """The four networks of the loop, and how their text is formed."""

    policy: Network
    reference: Network
    value: Network
    reward: Network
    model: LoadedModel
    reward_model: LoadedModel
    config: Config


def rl(workspace: Workspace, config: Config | None = None, *, resume: str | None = None) -> Run:
    """Optimise `rl.policy` against `rl.reward` on the workspace's training prompts.

    Returns the run; its `model/` is the new policy, its result the reward, KL (nats a response), length
    (tokens) and finished rate of the first and of the last steps.

    Raises DataError without training prompts, ModelError when policy and reward model do not fit together,
    WorkspaceError when either is missing.
    """
    if resume is not None:
        with workspace.resume_run(resume, "rl") as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    prompts = workspace.store.prompts("train")
    if not prompts:
        raise DataError(
            f"{workspace.path} has no training prompts. Add some with `plaudit import FILE --kind prompts`."
        )
    parents = {
        "policy": workspace.lineage_name(config.rl.policy),
        "reward": workspace.lineage_name(config.rl.reward),
    }
    workspace.model_source(parents["reward"], kind="reward")
    with workspace.new_run("rl", config, parents=parents, data=snapshot("prompts", (p.id for p in prompts))) as run:
        return _run(workspace, run, config)


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.rl
    algorithm = ALGORITHMS[settings.algorithm](settings)
    if settings.samples_per_prompt < algorithm.needs.smallest_group:
        raise ConfigError(
            f"`rl.algorithm={settings.algorithm}` compares responses to one prompt: set "
            f"`rl.samples_per_prompt` to {algorithm.needs.smallest_group} or more."
        )
    actors = _load_actors(workspace, run, config)
    limit = actors.model.prompt_limit(config.data.max_prompt_tokens, settings.max_new_tokens)
    prompts = [actors.model.format.encode_prompt(p.messages, limit=limit) for p in workspace.store.prompts("train")]
    updates = settings.steps * settings.epochs * settings.minibatches
    policy_optimiser = Optimiser(actors.policy, settings.optimiser, updates)
    value_optimiser = Optimiser(actors.value, settings.value_optimiser, updates)
    parts = {"policy": (actors.policy, policy_optimiser), "value": (actors.value, value_optimiser)}
    first = load_checkpoint(run, parts)["step"]

    say("step  reward    score     KL  entropy  clipped  length  finished  value error")
    with progress("policy optimisation", settings.steps) as advance:
        advance(first)
        for step in range(first, settings.steps):
            drawn = draw_without_replacement(len(prompts), settings.prompts_per_step, step, seed=config.seed)
            completions = sample(
                actors.policy,
                [prompts[i] for i in drawn],
                stop_ids=actors.model.format.stop_ids,
                max_new_tokens=settings.max_new_tokens,
                seed=config.seed * 100_003 + step,
                samples_per_prompt=settings.samples_per_prompt,
                temperature=settings.temperature,
            )
            rollouts, facts = _measure(actors, [prompts[i] for i in drawn], completions, step)
            advantages, returns = algorithm.advantages(rollouts)
            facts |= _learn(actors, algorithm, rollouts, advantages, returns, policy_optimiser, value_optimiser, step)
            run.log(step + 1, **facts)
            say(_live_line(step + 1, facts))
            if (step + 1) % settings.save_every == 0:
                save_checkpoint(run, step + 1, parts)
            advance(1)

    save_causal(actors.policy, actors.model, run.model_folder)
    run.update(result=_summary(run.metrics()))
    drop_checkpoint(run)
    return run


def _load_actors(workspace: Workspace, run: Run, config: Config) -> Actors:
    model = load_causal(workspace.model_source(run.parents["policy"]), config.model)
    reward_model = load_reward(workspace.model_source(run.parents["reward"]), config.model)
    if model.format.vocabulary_id != reward_model.format.vocabulary_id:
        raise ModelError(
            f"the reward model {run.parents['reward']} and the policy {run.parents['policy']} have different "
            "vocabularies, so the value model cannot start from the reward model. Train the reward model from "
            "the same family: `plaudit reward reward.model=...`."
        )
    lora = config.model.lora
    return Actors(
        policy=make_trainable(model.network, lora, role="policy", seed=config.seed),
        reference=model.network,
        value=make_trainable(reward_model.network, lora, role="value", seed=config.seed + 1, train_head=True),
        reward=reward_model.network,
        model=model,
        reward_model=reward_model,
        config=config,
    )


def _measure(
    actors: Actors, prompts: list[list[int]], completions: list[list[Completion]], step: int
) -> tuple[Rollouts, dict[str, float]]:
    """Score the responses, and take every log-prob and value before the first update."""
    settings = actors.config.rl
    flat = [(prompt, c) for prompt, group in zip(prompts, completions, strict=True) for c in group]
    sequences = [TokenSequence(prompt, completion.token_ids) for prompt, completion in flat]
    finished = torch.tensor([completion.finished for _, completion in flat])
    longest = max(len(s.response_ids) for s in sequences)
    grids = {name: torch.zeros(len(sequences), longest) for name in ("policy", "reference", "value", "entropy")}
    raw_scores = torch.zeros(len(sequences))
    # The first pass's minibatches, so that the first update sees the very batches that are measured here:
    # its probability ratios are then exactly 1.
    with torch.no_grad():
        for rows in _minibatches(len(sequences), settings.minibatches, actors.config.seed, step, epoch=0):
            for indices, batch in _micro(actors, sequences, rows):
                log_probs, entropy = actors.policy.log_probs(batch, temperature=settings.temperature, with_entropy=True)
                _put(grids["policy"], indices, log_probs)
                _put(grids["entropy"], indices, entropy)
                _put(
                    grids["reference"],
                    indices,
                    actors.reference.log_probs(batch, temperature=settings.temperature)[0],
                )
                _put(grids["value"], indices, actors.value.values(batch))
                raw_scores[indices] = actors.reward.scores(batch).cpu()
    mask = torch.arange(longest) < torch.tensor([len(s.response_ids) for s in sequences])[:, None]
    mean, std = actors.reward_model.score_normaliser if settings.normalise_reward else (0.0, 1.0)
    scores = (raw_scores - mean) / std
    grids["value"] = ((grids["value"] - mean) / std).masked_fill(~mask, 0.0)
    if settings.missing_eos_score is not None:
        scores = torch.where(finished, scores, torch.tensor(settings.missing_eos_score))
    rewards = kl_penalised_rewards(
        scores, grids["policy"], grids["reference"], mask, coefficient=settings.kl_coefficient
    )
    rollouts = Rollouts(
        sequences=sequences,
        mask=mask,
        scores=scores,
        rewards=rewards,
        log_probs=grids["policy"],
        reference_log_probs=grids["reference"],
        values=grids["value"],
    )
    sampled = torch.zeros(len(sequences), longest)
    for row, (_, completion) in enumerate(flat):
        sampled[row, : len(completion.log_probs)] = torch.tensor(completion.log_probs)
    kl = (rollouts.log_probs - rollouts.reference_log_probs).sum(dim=1)  # k1 a response, nats
    facts = {
        "reward": float(rewards.sum(dim=1).mean()),
        "score": float(scores.mean()),
        "score_std": float(scores.std(correction=0)),
        "kl": float(kl.mean()),
        "entropy": float(masked_mean(grids["entropy"], mask)),
        "length": float(mask.sum(dim=1).float().mean()),
        "finished_rate": float(finished.float().mean()),
        "sampler_gap": float(masked_mean((sampled - rollouts.log_probs).abs(), mask)),
    }
    return rollouts, facts


def _learn(
    actors: Actors,
    algorithm: PPO,
    rollouts: Rollouts,
    advantages: Tensor,
    returns: Tensor,
    policy_optimiser: Optimiser,
    value_optimiser: Optimiser,
    step: int,
) -> dict[str, float]:
    """Several passes over the rollouts in minibatches; one optimiser step of each model a minibatch."""
    settings = actors.config.rl
    mean, std = actors.reward_model.score_normaliser if settings.normalise_reward else (0.0, 1.0)
    totals: dict[str, float] = {}
    tokens_seen, updates = 0, 0
    facts: dict[str, float] = {"learning_rate": policy_optimiser.learning_rate}
    stopped = False
    for epoch in range(settings.epochs):
        for rows in _minibatches(len(rollouts.sequences), settings.minibatches, actors.config.seed, step, epoch):
            tokens = int(rollouts.mask[rows].sum())  # the one denominator of this optimiser step
            sums = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction", "kl_step"), 0.0)
            largest = 0.0
            for indices, batch in _micro(actors, rollouts.sequences, rows):
                cut = _Cut(indices, int(batch.response_lengths.max()), batch.input_ids.device)
                mask = cut(rollouts.mask)
                log_probs, _ = actors.policy.log_probs(batch, temperature=settings.temperature)
                old = cut(rollouts.log_probs)
                loss, clipped = algorithm.loss(log_probs, old, cut(advantages))
                (loss * mask).sum().div(tokens).backward()
                values = (actors.value.values(batch) - mean) / std
                value_loss, value_clipped = algorithm.value_loss(values, cut(rollouts.values), cut(returns))
                (value_loss * mask).sum().div(tokens).backward()
                ratio = (log_probs - old).detach().masked_fill(~mask, 0.0)
                largest = max(largest, float(ratio.abs().max()))
                sums["policy_loss"] += float((loss.detach() * mask).sum())
                sums["value_loss"] += float((value_loss.detach() * mask).sum())
                sums["clip_fraction"] += float((clipped & mask).sum())
                sums["value_clip_fraction"] += float((value_clipped & mask).sum())
                sums["kl_step"] += float(0.5 * ratio.square().sum())
            if updates == 0:
                facts["first_ratio_gap"] = largest  # |log ratio| before any update: 0 unless something is wrong
            if settings.max_approximate_kl is not None and sums["kl_step"] / tokens > settings.max_approximate_kl:
                policy_optimiser.discard()
                value_optimiser.discard()
                stopped = True
                break
            if step < settings.value_warmup_steps:
                policy_optimiser.discard()
            else:
                facts["policy_gradient_norm"] = policy_optimiser.step()
            facts["value_gradient_norm"] = value_optimiser.step()
            totals = {name: totals.get(name, 0.0) + value for name, value in sums.items()}
            tokens_seen, updates = tokens_seen + tokens, updates + 1
            facts["largest_log_ratio"] = max(largest, facts.get("largest_log_ratio", 0.0))
        if stopped:
            break
    facts |= {name: value / max(tokens_seen, 1) for name, value in totals.items()}
    error = masked_mean((rollouts.values - returns).square(), rollouts.mask)
    variance = masked_variance(returns, rollouts.mask)
    facts["explained_variance"] = float(1 - error / variance.clamp(min=1e-8))
    facts["updates"] = float(updates)
    return facts


@dataclass(frozen=True)
class _Cut:
    """Rows and columns of a [B, T] grid that belong to a micro-batch, on its device."""

    rows: list[int]
    width: int
    device: torch.device

    def __call__(self, grid: Tensor) -> Tensor:
        return grid[self.rows, : self.width].to(self.device)


def _put(grid: Tensor, rows: list[int], values: Tensor | None) -> None:
    assert values is not None
    grid[rows, : values.shape[1]] = values.float().cpu()


def _minibatches(count: int, pieces: int, seed: int, step: int, epoch: int) -> list[list[int]]:
    size = -(-count // pieces)
    return shuffled_batches(count, size, seed=f"{seed}:minibatches:{step}:{epoch}")


def _micro(actors: Actors, sequences: list[TokenSequence], rows: list[int]) -> list[tuple[list[int], TokenBatch]]:
    """Micro-batches of one minibatch, with indices into the whole rollout batch."""
    chosen = [sequences[i] for i in rows]
    budget = actors.config.model.tokens_per_micro_batch
    return [
        ([rows[i] for i in indices], batch) for indices, batch in micro_batches(chosen, budget, actors.policy.device)
    ]


def _live_line(step: int, facts: dict[str, float]) -> str:
    return (
        f"{step:4d}  {facts['reward']:6.3f}  {facts['score']:7.3f}  {facts['kl']:5.2f}  {facts['entropy']:7.3f}  "
        f"{facts.get('clip_fraction', 0.0):7.3f}  {facts['length']:6.1f}  {facts['finished_rate']:8.2f}  "
        f"{facts.get('value_loss', 0.0):11.3f}"
    )


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the first and the last tenth of the steps (at least one)."""
    part = max(1, len(rows) // 10)
    names = ("reward", "score", "kl", "length", "finished_rate", "entropy")
    return {
        "steps": len(rows),
        "first": {name: sum(r[name] for r in rows[:part]) / part for name in names},
        "last": {name: sum(r[name] for r in rows[-part:]) / part for name in names},
    }
