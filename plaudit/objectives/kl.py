"""The price of departing from the reference policy: estimates of it, and where they enter."""

from __future__ import annotations

from torch import Tensor

from plaudit.objectives.reductions import check_shapes, last_true

CONTROLLER_CLIP = 0.2


def k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """log pi - log pi_ref: unbiased for KL(pi, pi_ref) under samples of pi, high variance, may be negative.

    Schulman 2020, "Approximating KL divergence". In the reward (detached) it has the gradient of the KL;
    differentiated as a loss it has none in expectation.

    log_probs, reference_log_probs  equal shapes, nats
    """
    check_shapes(" ".join("x" * log_probs.dim()), log_probs, reference_log_probs)
    return log_probs - reference_log_probs.detach()


def k2(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """(log pi - log pi_ref)^2 / 2: biased by the third order, low variance.

    Schulman 2020. Differentiated as a loss under samples of pi it has exactly the gradient of KL(pi, pi_ref), token
    by token; what early tokens do to later states is not in it.
    """
    return 0.5 * k1(log_probs, reference_log_probs).square()


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """exp(log pi_ref - log pi) - 1 + log pi - log pi_ref: unbiased, never negative.

    Schulman 2020; the penalty of Shao et al. 2024 (arXiv:2402.03300) eq. 4. Differentiated as a loss it has the
    gradient of the *forward* KL(pi_ref, pi): another regulariser, with another optimum. Its variance is low only
    near the reference.
    """
    gap = k1(log_probs, reference_log_probs)
    return (-gap).exp() - 1 + gap


def kl_penalised_rewards(
    rewards: Tensor, log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, *, coefficient: float
) -> Tensor:
    """Per-token reward: the task's, minus the KL price at each token.

        r_t = task reward_t - coefficient * (log pi(y_t) - log pi_ref(y_t))

    Ziegler et al. 2019 (arXiv:1909.08593) eq. 2; Ouyang et al. 2022 (arXiv:2203.02155) eq. 2, where the task's
    reward is the score at the last token (`scores_at_the_end`). The sum of the log-ratios over a response is the
    unbiased estimate k1 of the sequence KL, nats. It enters the reward detached: there it has the gradient of the
    KL, while differentiated as a loss it would have none.

    rewards              [B, T]  of the task, where it falls
    log_probs            [B, T]  of the sampled tokens under the policy that sampled them, nats
    reference_log_probs  [B, T]  under the reference at the same temperature, nats
    mask                 [B, T]  bool, true on the policy's tokens
    coefficient                  reward per nat

    Returns [B, T], zero outside the mask, without gradient.
    """
    check_shapes("B T", rewards, log_probs, reference_log_probs)
    check_shapes("B T", rewards, mask)
    price = coefficient * k1(log_probs, reference_log_probs)
    return (rewards - price).detach().masked_fill(~mask, 0.0)


def scores_at_the_end(scores: Tensor, mask: Tensor) -> Tensor:
    """[B, T] each score at the last true slot of its row, zero elsewhere, without gradient.

    scores  [B]
    mask    [B, T] bool
    """
    check_shapes("B", scores, mask[:, 0])
    rewards = scores.new_zeros(mask.shape)
    return rewards.scatter(1, last_true(mask)[:, None], scores.detach()[:, None]).masked_fill(~mask, 0.0)


def next_kl_coefficient(coefficient: float, kl: float, *, target: float, episodes: int, horizon: int) -> float:
    """The adaptive controller: raise the price when the KL is over its target, lower it when under.

        error           = clip((kl - target) / target, -0.2, 0.2)
        new coefficient = coefficient * (1 + error * episodes / horizon)

    Ziegler et al. 2019 (arXiv:1909.08593) section 2.2 and released code. Linear in the error, not exponential.

    kl        mean over the batch of the log-ratio summed over a response (k1), nats a response
    target    nats a response
    episodes  responses in the batch
    horizon   responses over which a saturated error would change the coefficient by a fifth of itself
    """
    error = max(-CONTROLLER_CLIP, min(CONTROLLER_CLIP, (kl - target) / target))
    return coefficient * (1 + error * episodes / horizon)
