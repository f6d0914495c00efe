"""What a rollout batch holds, for every algorithm, and what an algorithm is to the loop.

P prompts with K responses each make B = P K responses, those of a prompt side by side; T response tokens (the
longest response of the batch). Grids are zero outside the mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict

from torch import Tensor

from plaudit.config import RlSettings
from plaudit.objectives import Reduction
from plaudit.text.chat import TokenSequence


@dataclass(frozen=True)
class Rollouts:
    """Sampled responses with everything measured before the first update.

    mask                  [B, T] bool, true on the policy's tokens, stop tokens included; the user's turns of an
                          episode are gaps
    scores                [B]    task reward of the whole response or episode, without any KL price
    rewards               [B, T] task reward where it falls, minus the KL price at each token if it is in the reward
    costs                 [B, T] the same for the cost (plus the KL price where the algorithm wants it); None without
    episode_costs         [B]    cost of the whole response, without any KL price; None without a cost model
    log_probs             [B, T] under the policy before the first update, nats
    reference_log_probs   [B, T] nats; None where nothing needs them
    values                critic -> [B, T] of the state before each token
    """

    sequences: list[TokenSequence]
    group_size: int
    mask: Tensor
    scores: Tensor
    rewards: Tensor
    log_probs: Tensor
    reference_log_probs: Tensor | None = None
    costs: Tensor | None = None
    episode_costs: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)

    @property
    def returns(self) -> Tensor:
        """[B] sum of a response's rewards, KL price included where it is in the reward."""
        return self.rewards.sum(dim=1)

    @property
    def grouped_returns(self) -> Tensor:
        """[P, K] returns by prompt."""
        return self.returns.view(-1, self.group_size)

    def at_each_token(self, values: Tensor) -> Tensor:
        """[B, T] one number a response, spread over its tokens.

        values  [B] or [P, K]
        """
        return values.reshape(-1, 1) * self.mask


@dataclass(frozen=True)
class Advantages:
    """What the policy and the critics are to learn from a rollout batch.

    policy   [B, T]
    targets  critic -> [B, T] return targets
    cost     [B, T] where the cost is clipped by itself; else None
    """

    policy: Tensor
    targets: dict[str, Tensor] = field(default_factory=dict)
    cost: Tensor | None = None


@dataclass(frozen=True)
class Piece:
    """Rows of the rollouts that one micro-batch trains on, b of them; columns cut to its longest response.

    mask, old_log_probs, reference_log_probs, advantages   [b, T]
    cost_advantages                                        [b, T] or None
    returns, scores                                        [b]
    """

    group_size: int
    mask: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    scores: Tensor
    reference_log_probs: Tensor | None = None
    cost_advantages: Tensor | None = None

    def log_ratio(self, log_probs: Tensor) -> Tensor:
        """[b] log pi(y) - log pi_old(y), nats a response."""
        return (log_probs - self.old_log_probs).masked_fill(~self.mask, 0.0).sum(dim=1)


class Bounds(TypedDict):
    """Bounds of a probability ratio: see `objectives.clipped_surrogate`."""

    clip: float | None
    clip_high: float | None


class Algorithm:
    """An online algorithm: its advantages, its loss. What it needs stands in `plaudit.methods.ALGORITHMS`.

    Subclasses give `advantages` and `loss`; the rest has defaults. The loop does everything else.
    """

    reduction: Reduction = "token_mean"
    """How losses per token become one number; a loss per response is always averaged over responses."""

    def __init__(self, settings: RlSettings):
        self.settings = settings
        self.needs = settings.needs
        low, high = settings.clip_range
        self.bounds = Bounds(clip=low, clip_high=high)

    def observe(self, rollouts: Rollouts) -> dict[str, float]:
        """See a new rollout batch before anything is learnt from it; returns figures to log."""
        return {}

    def advantages(self, rollouts: Rollouts) -> Advantages:
        """What to learn from the batch, fixed for all its epochs."""
        raise NotImplementedError

    def loss(self, log_probs: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """(loss, bool: where it is clipped), [b, T] per token or [b] per response.

        log_probs  [b, T]  under the policy being trained, with gradient
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What it has learnt about itself, for a checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
