"""Losses that learn a policy from preferences without a reward model, per pair (KTO: per response).

Throughout:

    policy_gap     [B]  log pi(chosen) - log pi(rejected), each summed over the response's tokens, nats
    reference_gap  [B]  the same under the frozen reference
    h              [B]  policy_gap - reference_gap: how far the policy's preference has moved, nats
    beta                implied reward per nat of departure from the reference

Each returns [B]: the caller chooses how to average. References carry no gradient.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from plaudit.objectives.reductions import check_shapes


def dpo(policy_gap: Tensor, reference_gap: Tensor, *, beta: float = 0.1) -> Tensor:
    """Negative log-likelihood that the implied reward ranks the pair as people did: -log sigmoid(beta h).

    Rafailov et al. 2023 (arXiv:2305.18290) eq. 7. Under Bradley-Terry preferences its minimiser is the
    KL-regularised optimum pi_ref exp(R / beta) / Z, whatever the distribution of pairs.
    """
    return -logsigmoid(beta * _moved(policy_gap, reference_gap))


def conservative_dpo(policy_gap: Tensor, reference_gap: Tensor, *, beta: float = 0.1, flip_rate: float = 0.1) -> Tensor:
    """DPO with smoothed labels: -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h).

    Mitchell 2023, "A note on DPO with noisy preferences". Stops at beta h = log((1 - e) / e) on labels that never
    contradict each other; on clean but random labels it stays too near the reference.

    flip_rate  e: share of labels taken to be the wrong way round, below 0.5
    """
    h = beta * _moved(policy_gap, reference_gap)
    return -(1 - flip_rate) * logsigmoid(h) - flip_rate * logsigmoid(-h)


def robust_dpo(policy_gap: Tensor, reference_gap: Tensor, *, beta: float = 0.1, flip_rate: float = 0.1) -> Tensor:
    """DPO's loss on clean labels, estimated without bias from labels flipped at a known rate.

        [-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)] / (1 - 2 e)

    Chowdhury et al. 2024 (arXiv:2403.00409) eq. 12. May be negative.

    flip_rate  e: share of labels that are the wrong way round, below 0.5
    """
    h = beta * _moved(policy_gap, reference_gap)
    return (-(1 - flip_rate) * logsigmoid(h) + flip_rate * logsigmoid(-h)) / (1 - 2 * flip_rate)


def hinge(policy_gap: Tensor, reference_gap: Tensor, *, beta: float = 0.1) -> Tensor:
    """max(0, 1 - beta h): no more push once the pair is ranked with a margin.

    Zhao et al. 2023 (arXiv:2305.10425, SLiC-HF) in the form of Liu et al. 2023 (arXiv:2309.06657) eq. 9.
    """
    return relu(1 - beta * _moved(policy_gap, reference_gap))


def ipo(policy_gap: Tensor, reference_gap: Tensor, *, tau: float = 0.1) -> Tensor:
    """(h - 1 / (2 tau))^2: a finite target for the gap even where people never disagree.

    Azar et al. 2023 (arXiv:2310.12036) eq. 17, with sums of log-probs as in the paper; give it means over tokens
    for the length-normalised variant. Its optimum depends on how pairs were drawn.

    tau  the price of departing from the reference
    """
    return (_moved(policy_gap, reference_gap) - 1 / (2 * tau)).square()


def apo_zero(chosen_log_ratio: Tensor, rejected_log_ratio: Tensor, *, beta: float = 0.1) -> Tensor:
    """sigmoid(-beta r_w) + sigmoid(beta r_l): the chosen response is made likelier and the rejected one less likely.

    D'Oosterlinck et al. 2024 (arXiv:2408.06266), APO-zero, with 1 added so that the least loss is 0. For chosen
    responses that are better than the policy's own.

    chosen_log_ratio, rejected_log_ratio  [B]  r = log pi(y) - log pi_ref(y), summed over the response, nats
    """
    check_shapes("B", chosen_log_ratio, rejected_log_ratio)
    return (-beta * chosen_log_ratio).sigmoid() + (beta * rejected_log_ratio).sigmoid()


def apo_down(chosen_log_ratio: Tensor, rejected_log_ratio: Tensor, *, beta: float = 0.1) -> Tensor:
    """sigmoid(beta r_w) + sigmoid(-beta (r_w - r_l)): both responses become less likely, the rejected one more so.

    D'Oosterlinck et al. 2024 (arXiv:2408.06266), APO-down, with 1 added so that the least loss is 0. For chosen
    responses that are worse than the policy's own. Arguments as `apo_zero`.
    """
    check_shapes("B", chosen_log_ratio, rejected_log_ratio)
    return (beta * chosen_log_ratio).sigmoid() + (-beta * (chosen_log_ratio - rejected_log_ratio)).sigmoid()


def simpo(
    chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, *, beta: float = 2.0,
    gamma_over_beta: float = 0.5,
) -> Tensor:  # fmt: skip
    """-log sigmoid(beta (LP_w / len_w - LP_l / len_l - gamma_over_beta)): no reference, log-probs per token.

    Meng et al. 2024 (arXiv:2405.14734) eq. 6, gamma = beta * gamma_over_beta.

    chosen, rejected                  [B]  log-probs summed over the response, nats
    chosen_lengths, rejected_lengths  [B]  tokens
    gamma_over_beta                        target margin between the two, nats a token
    """
    check_shapes("B", chosen, rejected, chosen_lengths, rejected_lengths)
    return -logsigmoid(beta * (chosen / chosen_lengths - rejected / rejected_lengths - gamma_over_beta))


def orpo_odds(chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor) -> Tensor:
    """-log sigmoid(log odds_w - log odds_l), odds = p / (1 - p), p = exp(mean log-prob of a token).

    Hong et al. 2024 (arXiv:2403.07691) eq. 7. ORPO's loss is the negative log-likelihood of the chosen response
    plus lambda times this.

    Arguments as `simpo`.
    """
    check_shapes("B", chosen, rejected, chosen_lengths, rejected_lengths)
    return -logsigmoid(log_odds(chosen / chosen_lengths) - log_odds(rejected / rejected_lengths))


def cpo(policy_gap: Tensor, *, beta: float = 0.1) -> Tensor:
    """-log sigmoid(beta policy_gap): DPO with a uniform reference.

    Xu et al. 2024 (arXiv:2401.08417) eq. 3; its second term is the negative log-likelihood of the chosen response.
    """
    check_shapes("B", policy_gap)
    return -logsigmoid(beta * policy_gap)


def kto(
    log_ratio: Tensor, desirable: Tensor, reference_point: Tensor, *, beta: float = 0.1,
    desirable_weight: float = 1.0, undesirable_weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """Prospect-theoretic loss of single responses that people liked or did not.

        desirable    w_D (1 - sigmoid(beta (a - z0)))
        undesirable  w_U (1 - sigmoid(beta (z0 - a)))

    Ethayarajh et al. 2024 (arXiv:2402.01306) eq. 8.

    log_ratio        [B]  a = log pi(y) - log pi_ref(y), summed over the response, nats
    desirable        [B]  bool
    reference_point  []   z0: KL of policy and reference, see `kto_reference_point`; no gradient

    Returns [B].
    """
    check_shapes("B", log_ratio, desirable)
    beyond = beta * (log_ratio - reference_point.detach())
    liked = desirable_weight * (1 - beyond.sigmoid())
    return liked.where(desirable, undesirable_weight * (1 - (-beyond).sigmoid()))


def kto_reference_point(mismatched_log_ratio: Tensor) -> Tensor:
    """z0 = max(0, mean over the optimiser step of log pi(y') - log pi_ref(y')), y' the responses to *other* prompts.

    Ethayarajh et al. 2024, section 4.1. Taken over the whole step: per micro-batch it would be another number.

    mismatched_log_ratio  [B]  nats
    """
    check_shapes("B", mismatched_log_ratio)
    return mismatched_log_ratio.detach().mean().clamp(min=0)


def _moved(policy_gap: Tensor, reference_gap: Tensor) -> Tensor:
    check_shapes("B", policy_gap, reference_gap)
    return policy_gap - reference_gap.detach()


def log_odds(mean_log_prob: Tensor) -> Tensor:
    """log(p / (1 - p)) for p = exp(mean_log_prob), in nats, of the same shape.

    log(1 - p) is computed by whichever form keeps its digits. Hong et al. 2024 (arXiv:2403.07691) eq. 4.

    mean_log_prob  any shape, nats a token, at most 0
    """
    capped = mean_log_prob.clamp(max=-1e-7)  # p = 1 would have infinite odds
    near_one = (-capped.expm1()).log()  # p near 1
    return capped - near_one.where(capped > -0.6931472, (-capped.exp()).log1p())
