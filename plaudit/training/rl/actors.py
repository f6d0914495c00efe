"""The networks of the online loop, and what scores their samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from plaudit.config import Config, RewardSource
from plaudit.judges.models import spent_by
from plaudit.models.loading import LoadedModel, load_causal, reward_from_causal
from plaudit.models.named import named_policy
from plaudit.models.network import HeadOnly, Network, make_trainable, score_head
from plaudit.rewards.named import LoadedScorer, load_scorer, reward_sources, source_lineage
from plaudit.rewards.rating import RatingScorer
from plaudit.rewards.scoring import Scorer
from plaudit.sampling.episodes import User
from plaudit.sampling.users import load_user
from plaudit.stages import POLICIES
from plaudit.text.batches import TokenBatch
from plaudit.workspace import Run, Workspace


@dataclass(frozen=True)
class Critic:
    """A value model, in the units of the reward or cost that it predicts; or a value head on the policy's body."""

    network: Network
    mean: float
    std: float

    def values(self, batch: TokenBatch, states_of_policy: torch.Tensor) -> torch.Tensor:
        """[B, T] value of the state before each response token; a model of its own runs its body for it."""
        shares = isinstance(self.network, HeadOnly)
        states = states_of_policy if shares else self.network.states(batch)
        return (self.network.values_of(states, batch) - self.mean) / self.std


@dataclass(frozen=True)
class Actors:
    """Everything that runs in the loop.

    reference  the frozen start of the policy; under LoRA the policy's own body with the adapter off
    critics    by what they predict, "reward" or "cost"
    score      the task reward
    cost       for the constrained algorithms
    raters     judges that rate answers directly
    user       the other side of episodes of several turns
    """

    model: LoadedModel
    policy: Network
    reference: Network
    critics: dict[str, Critic]
    score: Scorer
    cost: Scorer | None
    raters: list[RatingScorer]
    user: User | None

    def spent(self) -> dict[str, Any]:
        """What endpoints that rate have taken, by judge."""
        found = {rater.judge.name: spent_by(rater.judge.backend) for rater in self.raters}
        return {"spent": {name: spent for name, spent in found.items() if spent}} if any(found.values()) else {}

    def unread_ratings(self) -> dict[str, float]:
        """How many ratings could not be read since this was last asked; nothing where nobody rates."""
        found = {"unread_ratings": float(sum(rater.unread for rater in self.raters))} if self.raters else {}
        for rater in self.raters:
            rater.unread = 0
        return found


def lineage(workspace: Workspace, config: Config) -> dict[str, str]:
    """Role -> run or model, checked to be there. Raises WorkspaceError when one is missing."""
    parents = {"policy": named_policy(workspace, config.rl.policy, setting="rl.policy")}
    rewards = reward_sources(config)
    alone = len(rewards) == 1
    sources = {"reward" if alone else f"reward_{i}": s.source for i, s in enumerate(rewards)}
    if config.rl.needs.constrained and config.rl.lagrangian.cost is not None:
        sources["cost"] = config.rl.lagrangian.cost
    for role, source in sources.items():
        found = source_lineage(
            workspace, source, config, setting="rl.lagrangian.cost" if role == "cost" else "rl.reward"
        )
        parents |= {role: found.pop(source), **found}
    return parents


def load_actors(workspace: Workspace, run: Run, config: Config, critics_of: tuple[str, ...]) -> Actors:
    """Load and check every network and function before any work starts.

    critics_of  what value models are to predict: "reward", "cost"

    Raises ConfigError, DataError, ModelError or WorkspaceError for whatever is missing or does not fit.
    """
    parents = run.parents
    model = load_causal(workspace.model_source(parents["policy"], kind=POLICIES), config.model)
    user = load_user(workspace, config)
    sources = [
        source.model_copy(update={"source": parents.get("reward", parents.get(f"reward_{i}", ""))})
        for i, source in enumerate(reward_sources(config))
    ]
    normalise = config.rl.normalise_reward
    scorers = {
        "reward": load_scorer(
            workspace,
            run,
            sources,
            config,
            policy=model,
            setting="rl.reward",
            normalise=normalise,
            combine=config.rl.combine,
        )
    }
    if "cost" in parents:
        cost = [RewardSource(source=parents["cost"], head=config.rl.lagrangian.cost_head)]
        scorers["cost"] = load_scorer(
            workspace, run, cost, config, policy=model, setting="rl.lagrangian.cost", normalise=False
        )
    policy = make_trainable(model.network, config.model.lora, role="policy", seed=config.seed)
    critics = {
        name: _make_critic(name, scorers[name], model, policy, config, seed=config.seed + 1 + number)
        for number, name in enumerate(critics_of)
    }
    return Actors(
        model=model,
        policy=policy,
        reference=model.network,
        critics=critics,
        score=scorers["reward"].score,
        cost=scorers["cost"].score if "cost" in scorers else None,
        raters=[rater for scorer in scorers.values() for rater in scorer.raters],
        user=user,
    )


def _make_critic(
    name: str, scorer: LoadedScorer, policy: LoadedModel, trained: Network, config: Config, *, seed: int
) -> Critic:
    """From the reward model (Stiennon et al. 2020); without one from the policy's start under a head of zeros."""
    if config.rl.value_head_coefficient is not None:
        head = score_head(policy.config.get_text_config().hidden_size, seed=seed, scale=0.0).to(trained.device)
        return Critic(HeadOnly(trained.body, head, trained.adapter), mean=0.0, std=1.0)
    start = scorer.model or reward_from_causal(policy, seed=seed, head_scale=0.0)
    role = "value" if name == "reward" else f"{name}_value"
    network = make_trainable(start.network, config.model.lora, role=role, seed=seed, train_head=True)
    normalised = name == "reward" and config.rl.normalise_reward and scorer.model is not None
    metrics = start.scores
    mean, std = (metrics.mean[0], metrics.std[0]) if normalised else (0.0, 1.0)
    return Critic(network, mean, std)
