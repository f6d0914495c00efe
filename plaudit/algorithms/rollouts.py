"""What a rollout batch holds, for every algorithm.

B responses, T response tokens (the longest response of the batch). Grids are zero outside the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from plaudit.text.chat import TokenSequence


@dataclass(frozen=True)
class Needs:
    """What an algorithm asks of the loop."""

    critic: bool
    """A value model beside the policy."""
    smallest_group: int = 1
    """Responses to each prompt."""


@dataclass(frozen=True)
class Rollouts:
    """Sampled responses with everything measured before the first update.

    mask                  [B, T] bool, true on response tokens, the stop token included
    scores                [B]    reward-model scores as they enter the reward
    rewards               [B, T] scores at the last token minus the KL price at each
    log_probs             [B, T] under the policy before the first update, nats
    reference_log_probs   [B, T] nats
    values                [B, T] of the state before each token; zeros without a critic
    """

    sequences: list[TokenSequence]
    mask: Tensor
    scores: Tensor
    rewards: Tensor
    log_probs: Tensor
    reference_log_probs: Tensor
    values: Tensor
