"""A step of preferences on log-probs that are known: each loss gets the numbers that it is about."""

import math

import pytest
import torch
from tabular import Tabular

from plaudit.config import PreferSettings
from plaudit.methods import PREFERENCE_LOSSES
from plaudit.objectives import (
    apo_down,
    apo_zero,
    conservative_dpo,
    cpo,
    dpo,
    hinge,
    ipo,
    kto,
    orpo_odds,
    robust_dpo,
    simpo,
)
from plaudit.text.chat import TokenSequence
from plaudit.training.data.judged_prompts import JudgedPrompt, LabelledResponse, PairJudgment
from plaudit.training.steps.preference import Learner, parts_of_a_step

PROMPT_ONE, PROMPT_TWO = [1, 5], [2, 5, 6]
ANSWERS = {
    "a": TokenSequence(PROMPT_ONE, [7, 8]), "b": TokenSequence(PROMPT_ONE, [9]),
    "c": TokenSequence(PROMPT_ONE, [8, 8, 9]),
    "d": TokenSequence(PROMPT_TWO, [7]), "e": TokenSequence(PROMPT_TWO, [9, 7, 8, 8]),
}  # fmt: skip
REFERENCE = {"a": -3.1, "b": -1.2, "c": -4.0, "d": -1.6, "e": -5.5}
BETA = 0.4


def policy():
    return Tabular([0, 0, 0, 0, 0, 0, 0, -1.1, -1.4, -0.6], [0, -0.2, 0.1, 0, 0, 0, 0, 0, 0, 0])


def batch(*preferences):
    """Prompt one has three answers, judged a against b and c against a; prompt two d against e."""
    first, second, third = preferences or (1.0, 0.0, 1.0)
    one, two = (
        [PairJudgment(0, 1, first), PairJudgment(2, 0, second)], [PairJudgment(0, 1, third)],
    )  # fmt: skip
    return [
        JudgedPrompt("p", ["a", "b", "c"], [ANSWERS[r] for r in "abc"], one, []),
        JudgedPrompt("q", ["d", "e"], [ANSWERS[r] for r in "de"], two, []),
    ]


def step(settings, items=None, *, network=None, budget=1000):
    """(loss, figures, right, the policy) of all micro-batches of a step together."""
    network = network or policy()
    reference = None if not PREFERENCE_LOSSES[settings.loss].reference else Tabular([0] * 10, [0] * 10)
    learner = Learner(network, reference, {} if reference is None else REFERENCE, settings, budget, 100)
    figures, right, total = {}, [], torch.zeros((), dtype=torch.float64)
    for part in parts_of_a_step(learner, items or batch()):
        total = total + part.loss
        right += part.right
        for name, value in part.figures.items():
            figures[name] = figures.get(name, 0.0) + value
    return total, figures, right, network


def settings(loss="dpo", **more):
    return PreferSettings(loss=loss, beta=BETA, **more)


PAIRS = [("a", "b"), ("a", "c"), ("d", "e")]
"""Chosen and rejected, as `batch` has it."""


def number(value):
    return torch.tensor([value], dtype=torch.float64)


def by_hand(loss, pairs=PAIRS):
    """[] the mean over pairs of what a loss makes of (own of either, reference of either, lengths)."""
    network, losses = policy(), []
    for chosen, rejected in pairs:
        own, known = ([number(where(r)) for r in (chosen, rejected)] for where in (
            lambda r: network.of(ANSWERS[r]), REFERENCE.get,
        ))  # fmt: skip
        lengths = [number(float(len(ANSWERS[r].response_ids))) for r in (chosen, rejected)]
        losses.append(loss(own, known, lengths).item())
    return sum(losses) / len(losses)


EACH = {
    "dpo": lambda own, known, _: dpo(own[0] - own[1], known[0] - known[1], beta=BETA),
    "conservative-dpo": lambda own, known, _: conservative_dpo(
        own[0] - own[1], known[0] - known[1], beta=BETA, flip_rate=0.1
    ),
    "robust-dpo": lambda own, known, _: robust_dpo(own[0] - own[1], known[0] - known[1], beta=BETA, flip_rate=0.1),
    "hinge": lambda own, known, _: hinge(own[0] - own[1], known[0] - known[1], beta=BETA),
    "ipo": lambda own, known, _: ipo(own[0] - own[1], known[0] - known[1], tau=BETA),
    "apo-zero": lambda own, known, _: apo_zero(own[0] - known[0], own[1] - known[1], beta=BETA),
    "apo-down": lambda own, known, _: apo_down(own[0] - known[0], own[1] - known[1], beta=BETA),
    "sigmoid-norm": lambda own, known, lengths: dpo(
        own[0] / lengths[0] - own[1] / lengths[1], known[0] / lengths[0] - known[1] / lengths[1], beta=BETA
    ),
    "simpo": lambda own, _, lengths: simpo(*own, *lengths, beta=BETA, gamma_over_beta=0.5),
    "orpo": lambda own, _, lengths: 0.1 * orpo_odds(*own, *lengths) - own[0] / lengths[0],
    "cpo": lambda own, _, lengths: cpo(own[0] - own[1], beta=BETA) - own[0] / lengths[0],
}


def test_every_loss_of_pairs_is_worked_by_hand():
    assert set(EACH) == {name for name, loss in PREFERENCE_LOSSES.items() if not loss.unpaired}


@pytest.mark.parametrize("budget", [1000, 12])
@pytest.mark.parametrize("loss", EACH)
def test_each_loss_is_of_the_chosen_against_the_rejected_over_all_pairs_of_the_step(loss, budget):
    total, figures, _, _ = step(settings(loss), budget=budget)
    assert total.item() == figures["loss"] == pytest.approx(by_hand(EACH[loss]))


def test_ipo_a_token_divides_policy_and_reference_by_the_length_of_each():
    total, *_ = step(settings("ipo", per_token=True))
    assert total.item() == pytest.approx(by_hand(
        lambda own, known, lengths: ipo(
            own[0] / lengths[0] - own[1] / lengths[1], known[0] / lengths[0] - known[1] / lengths[1], tau=BETA
        )
    ))  # fmt: skip


def test_the_likelihood_is_of_the_chosen_a_token_with_its_weight():
    plain, weighted = (step(settings(likelihood_coefficient=w))[0].item() for w in (None, 0.3))
    assert weighted - plain == pytest.approx(0.3 * by_hand(lambda own, _, lengths: -own[0] / lengths[0]))
    without = step(settings("orpo", likelihood_coefficient=0.0))[0].item()
    assert without == pytest.approx(by_hand(lambda own, _, lengths: 0.1 * orpo_odds(*own, *lengths)))


def test_an_annotator_who_is_unsure_is_right_by_either_side_with_that_chance():
    """0.8 for the first of the first pair, 0.3 for the first of the second, so 0.7 for its second."""
    total, *_ = step(settings(), batch(0.8, 0.3, 1.0))
    losses = [by_hand(EACH["dpo"], [pair]) for pair in PAIRS]
    flipped = [by_hand(EACH["dpo"], [pair[::-1]]) for pair in PAIRS]
    expected = 0.8 * losses[0] + 0.2 * flipped[0] + 0.7 * losses[1] + 0.3 * flipped[1] + losses[2]
    assert total.item() == pytest.approx(expected / 3)


def test_the_figures_are_means_over_pairs_of_what_they_are_called():
    _, figures, right, network = step(settings())
    own = {r: network.of(ANSWERS[r]) for r in ANSWERS}
    margins = [own[c] - REFERENCE[c] - own[r] + REFERENCE[r] for c, r in PAIRS]
    assert figures["margin"] == pytest.approx(sum(margins) / 3)
    assert figures["accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / 3)
    assert figures["chosen_log_prob"] == pytest.approx(sum(own[c] for c, _ in PAIRS) / 3)
    assert figures["rejected_log_prob"] == pytest.approx(sum(own[r] for _, r in PAIRS) / 3)
    assert right == [(name, float(margin > 0)) for name, margin in zip("ppq", margins, strict=True)]
    assert len({margin > 0 for margin in margins}) == 2  # both kinds are among them


@pytest.mark.parametrize(("loss", "more", "worth"), [
    ("cpo", {}, lambda own, known, length: own),
    ("simpo", {}, lambda own, known, length: own / length),
    ("ipo", {}, lambda own, known, length: own - known),
    ("apo-zero", {}, lambda own, known, length: own - known),
    ("sigmoid-norm", {}, lambda own, known, length: (own - known) / length),
    ("ipo", {"per_token": True}, lambda own, known, length: (own - known) / length),
    ("orpo", {}, lambda own, known, length: own / length - math.log1p(-math.exp(own / length))),
])  # fmt: skip
def test_the_margin_is_of_what_the_loss_compares(loss, more, worth):
    _, figures, _, network = step(settings(loss, **more))
    of = {r: worth(network.of(ANSWERS[r]), REFERENCE[r], len(ANSWERS[r].response_ids)) for r in ANSWERS}
    margins = [of[c] - of[r] for c, r in PAIRS]
    assert figures["margin"] == pytest.approx(sum(margins) / 3, abs=1e-6)
    assert figures["accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / 3)


def test_a_pair_without_a_preference_of_the_policy_is_half_right():
    even = Tabular([0] * 10, [0] * 10)
    learner = Learner(even, even, dict.fromkeys("abcde", 0.0), settings(), 1000, 100)
    (part,) = parts_of_a_step(learner, batch())
    assert part.right == [("p", 0.5), ("p", 0.5), ("q", 0.5)]
    assert part.figures["accuracy"] == pytest.approx(0.5)


def test_the_gradient_raises_the_chosen_and_lowers_the_rejected():
    """Only token 9 and token 7 tell d from e: prompts' own numbers count for what the lengths differ by."""
    network = policy()
    step(settings(), [batch()[1]], network=network)[0].backward()
    h = BETA * (network.of(ANSWERS["d"]) - network.of(ANSWERS["e"]) - REFERENCE["d"] + REFERENCE["e"])
    slope = -BETA / (1 + math.exp(h))  # of the loss, for the gap
    assert network.token.grad[[7, 8, 9]].tolist() == pytest.approx([0.0, -2 * slope, -slope])
    assert network.prompt.grad[2].item() == pytest.approx((1 - 4) * slope)


# KTO

LABELS = [
    LabelledResponse("p", "a", ANSWERS["a"], True), LabelledResponse("p", "b", ANSWERS["b"], False),
    LabelledResponse("q", "d", ANSWERS["d"], True), LabelledResponse("q", "e", ANSWERS["e"], False),
]  # fmt: skip


def kto_step(token_shift=0.0, *, budget=1000, labels=LABELS, **more):
    network, reference = policy(), policy()
    with torch.no_grad():
        network.token += token_shift
        network.prompt[1] += 0.05
    learner = Learner(network, reference, REFERENCE, settings("kto", **more), budget, 100)
    return list(parts_of_a_step(learner, labels)), network, reference


def point_by_hand(network, reference):
    """Each prompt with the next other prompt's response: a and b meet d, d and e meet a."""
    pairs = [("p", "d"), ("p", "d"), ("q", "a"), ("q", "a")]
    mixed = [TokenSequence(PROMPT_ONE if own == "p" else PROMPT_TWO, ANSWERS[r].response_ids) for own, r in pairs]
    return max(0.0, sum(network.of(s) - reference.of(s) for s in mixed) / 4)


@pytest.mark.parametrize("budget", [1000, 12])
def test_ktos_reference_point_is_measured_on_the_steps_mismatched_pairs(budget):
    parts, network, reference = kto_step(0.2, budget=budget)
    point = point_by_hand(network, reference)
    assert point == pytest.approx((2 * 0.25 + 4 * 0.2) / 4)
    assert sum(part.figures["reference_point"] for part in parts) == pytest.approx(point)
    ratios = number(0.0).new_tensor([network.of(item.sequence) - REFERENCE[item.response_id] for item in LABELS])
    expected = kto(ratios, torch.tensor([True, False] * 2), torch.tensor(point), beta=BETA).mean()
    assert sum(part.loss.item() for part in parts) == pytest.approx(expected.item())
    assert sum(part.figures["loss"] for part in parts) == pytest.approx(expected.item())


def test_ktos_reference_point_is_nothing_where_the_policy_moved_away():
    parts, network, reference = kto_step(-0.2)
    assert point_by_hand(network, reference) == 0
    assert parts[0].figures["reference_point"] == 0


def test_kto_is_right_where_liked_responses_are_above_the_point_and_disliked_ones_below():
    parts, network, reference = kto_step(0.9)
    point = point_by_hand(network, reference)
    above = [network.of(item.sequence) - REFERENCE[item.response_id] > point for item in LABELS]
    right = [float(up == item.desirable) for up, item in zip(above, LABELS, strict=True)]
    assert sorted(pair for part in parts for pair in part.right) == sorted(zip("ppqq", right, strict=True))
    assert sum(part.figures["accuracy"] for part in parts) == pytest.approx(sum(right) / 4)
    assert 0 < sum(right) < 4


def test_ktos_log_probs_are_means_over_each_side_and_its_weights_are_those_of_the_sides():
    labels = LABELS[:3]
    parts, network, _ = kto_step(0.2, labels=labels, desirable_weight=2.0, undesirable_weight=0.5)
    own = {item.response_id: network.of(item.sequence) for item in labels}
    assert sum(part.figures["chosen_log_prob"] for part in parts) == pytest.approx((own["a"] + own["d"]) / 2)
    assert sum(part.figures["rejected_log_prob"] for part in parts) == pytest.approx(own["b"])
    point = sum(part.figures["reference_point"] for part in parts)
    beyond = [BETA * (own[r] - REFERENCE[r] - point) for r in "abd"]
    one, other, third = (1 / (1 + math.exp(x)) for x in (beyond[0], -beyond[1], beyond[2]))
    assert sum(part.loss.item() for part in parts) == pytest.approx((2 * one + 0.5 * other + 2 * third) / 3)


@pytest.mark.parametrize(("kept", "missing"), [([0, 2], "rejected_log_prob"), ([1, 3], "chosen_log_prob")])
def test_a_step_of_one_side_has_no_figure_of_the_other(kept, missing):
    parts, *_ = kto_step(labels=[LABELS[i] for i in kept])
    assert missing not in parts[0].figures
    assert parts[0].figures.keys() & {"chosen_log_prob", "rejected_log_prob"}


def test_a_step_of_one_prompt_has_no_mismatched_pair_and_the_point_zero():
    parts, *_ = kto_step(5.0, labels=LABELS[:2])
    assert parts[0].figures["reference_point"] == 0
