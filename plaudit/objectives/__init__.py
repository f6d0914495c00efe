"""The mathematics: pure functions of tensors, per item, so that the caller chooses the reduction.

Axis letters: B sequences or pairs, T response tokens. All logarithms are natural; KL is in nats.
"""

from plaudit.objectives.advantages import generalised_advantages
from plaudit.objectives.kl import kl_penalised_rewards
from plaudit.objectives.policy_losses import clipped_surrogate, clipped_value_error
from plaudit.objectives.reductions import masked_mean, masked_variance, whiten
from plaudit.objectives.reward_losses import bradley_terry

__all__ = [
    "bradley_terry",
    "clipped_surrogate",
    "clipped_value_error",
    "generalised_advantages",
    "kl_penalised_rewards",
    "masked_mean",
    "masked_variance",
    "whiten",
]
