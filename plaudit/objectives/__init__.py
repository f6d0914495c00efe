"""The mathematics: pure functions of tensors, per item, so that the caller chooses the reduction.

Axis letters: B sequences or pairs, T response tokens, P prompts, K responses to one prompt, N ordered pairs.
All logarithms are natural; KL is in nats.
"""

from plaudit.objectives.advantages import (
    generalised_advantages,
    group_relative_advantages,
    leave_one_out_advantages,
)
from plaudit.objectives.best_of_n import best_of_n_distribution, best_of_n_estimate, best_of_n_kl_bound
from plaudit.objectives.combining import (
    mean_minus_deviation,
    safety_gated_scores,
    whitened_safety_gated_scores,
    worst_case,
)
from plaudit.objectives.kl import k1, k2, k3, kl_penalised_rewards, next_kl_coefficient, scores_at_the_end
from plaudit.objectives.lagrangian import lagrangian_advantages, next_log_multiplier
from plaudit.objectives.policy_losses import (
    clipped_surrogate,
    clipped_value_error,
    clipped_weight_gradient,
    pairwise_surrogate_joint,
    pairwise_surrogate_separate,
    policy_gradient,
)
from plaudit.objectives.preference_losses import (
    apo_down,
    apo_zero,
    conservative_dpo,
    cpo,
    dpo,
    hinge,
    ipo,
    kto,
    kto_reference_point,
    log_odds,
    orpo_odds,
    robust_dpo,
    simpo,
)
from plaudit.objectives.reductions import (
    Reduction,
    last_true,
    masked_mean,
    masked_variance,
    rescale,
    response_weights,
    whiten,
)
from plaudit.objectives.reward_losses import (
    MARGINS,
    bradley_terry,
    centring_penalty,
    cost_comparison,
    davidson,
    plackett_luce,
    rating_error,
    safety_classification,
    smoothed,
)

__all__ = [
    "MARGINS",
    "Reduction",
    "apo_down",
    "apo_zero",
    "best_of_n_distribution",
    "best_of_n_estimate",
    "best_of_n_kl_bound",
    "bradley_terry",
    "centring_penalty",
    "clipped_surrogate",
    "clipped_value_error",
    "clipped_weight_gradient",
    "conservative_dpo",
    "cost_comparison",
    "cpo",
    "davidson",
    "dpo",
    "generalised_advantages",
    "group_relative_advantages",
    "hinge",
    "ipo",
    "k1",
    "k2",
    "k3",
    "kl_penalised_rewards",
    "kto",
    "kto_reference_point",
    "lagrangian_advantages",
    "last_true",
    "leave_one_out_advantages",
    "log_odds",
    "masked_mean",
    "masked_variance",
    "mean_minus_deviation",
    "next_kl_coefficient",
    "next_log_multiplier",
    "orpo_odds",
    "pairwise_surrogate_joint",
    "pairwise_surrogate_separate",
    "plackett_luce",
    "policy_gradient",
    "rating_error",
    "rescale",
    "response_weights",
    "robust_dpo",
    "safety_classification",
    "safety_gated_scores",
    "scores_at_the_end",
    "simpo",
    "smoothed",
    "whiten",
    "whitened_safety_gated_scores",
    "worst_case",
]
