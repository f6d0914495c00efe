"""Simulated annotators agree as often as they are set to, and the ready ones as published people did."""

import math

import numpy as np
import pytest

from plaudit.config import PRESETS, SimulatedAnnotatorSettings, resolve
from plaudit.errors import ConfigError
from plaudit.judges.calibration import (
    QUICKSTART_GAPS,
    accuracy_of_agreement,
    calibrated_noise,
    expected_agreement,
    majority_of_three,
    noise_factor,
    share_right,
)
from plaudit.judges.simulated import SimulatedAnnotator
from plaudit.judges.utilities import utility_of_scores
from plaudit.records import Prompt, Response

PROMPT = Prompt([{"role": "user", "content": "Which?"}])


def annotators(*settings, scores):
    utility_function = utility_of_scores(scores, "scores")
    return [SimulatedAnnotator(s, utility_function, 0) for s in settings]


def prefers_better(annotator, i, gap):
    better, worse = (Response(f"{side}{i}-{gap}", PROMPT.id, "some words", "r") for side in "bw")
    judgment = annotator.compare(PROMPT, better, worse, run="r")
    return (judgment.choice == "first") == (judgment.first == better.id)


def simulated_choices(settings, repeats):
    """[annotators, repeats, gaps] whether the better one of each of the quickstart's pairs was chosen."""
    scores = {f"{s}{i}-{g}": g * (s == "b") for s in "bw" for i in range(repeats) for g in QUICKSTART_GAPS}
    people = annotators(*settings, scores=scores)
    return np.array([[[prefers_better(a, i, g) for g in QUICKSTART_GAPS] for i in range(repeats)] for a in people])


def test_equal_pairs_give_the_textbook_accuracy():
    """72.6 % agreement: q = (1 + sqrt(0.452)) / 2 = 0.836; gaps all alike, so sigmoid(gap / noise) is that."""
    assert accuracy_of_agreement(0.726) == pytest.approx(0.836, abs=5e-4)
    noise = calibrated_noise([2.0, -2.0], 0.726)
    assert 1 / (1 + math.exp(-2 / noise)) == pytest.approx(accuracy_of_agreement(0.726), abs=1e-9)


def test_flips_shrink_agreement_as_the_formula_says():
    """a - 1/2 = (1 - 2 f)^2 (a_without - 1/2), whatever the gaps."""
    plain, flipped = (share_right(QUICKSTART_GAPS, 0.7, flip_rate=f) for f in (0, 0.15))
    assert expected_agreement(flipped, flipped) - 0.5 == pytest.approx(0.49 * (expected_agreement(plain, plain) - 0.5))
    pair = [SimulatedAnnotatorSettings(name=n, noise=0.7, flip_rate=0.15) for n in "ab"]
    one, other = simulated_choices(pair, repeats=100)
    agreed, expected = (one == other).mean(), expected_agreement(flipped, flipped)
    assert agreed == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / one.size))


@pytest.mark.parametrize(
    ("preset", "published", "within"),
    [("instructgpt", 0.726, 0.015), ("stiennon", 0.73, 0.04), ("anthropic-hh", 0.63, 0.02)],
)  # fmt: skip
def test_two_of_a_preset_agree_as_published(preset, published, within):
    settings = PRESETS[preset]
    right = share_right(QUICKSTART_GAPS, settings[0].noise)
    assert expected_agreement(right, right) == pytest.approx(published, abs=0.001)
    one, other = simulated_choices(settings[:2], repeats=120)
    assert (one == other).mean() == pytest.approx(published, abs=within)


def test_the_preset_of_alpacafarm_agrees_with_people_as_people_do_among_themselves():
    """65 % with the majority of three people, who agree with the majority of the others on 65.7 %."""
    simulated, people = PRESETS["alpacafarm"], PRESETS["alpacafarm-people"]
    assert len(simulated) == 13
    assert {a.flip_rate for a in simulated} == {0.25}
    right = share_right(QUICKSTART_GAPS, people[0].noise, flip_rate=people[0].flip_rate)
    assert expected_agreement(right, majority_of_three(right)) == pytest.approx(0.657, abs=0.001)
    chosen = simulated_choices([*people, simulated[0]], repeats=80)
    among = np.mean([chosen[i] == (chosen[[j for j in range(4) if j != i]].sum(0) > 1) for i in range(4)])
    with_people = (chosen[4] == (chosen[:3].sum(0) > 1)).mean()
    assert among == pytest.approx(0.657, abs=0.02)
    assert with_people == pytest.approx(0.65, abs=0.02)


def test_a_factor_brings_different_annotators_to_the_agreement_wanted():
    gaps = np.random.default_rng(0).normal(0, 2, 500)
    noises, flips = [0.5, 1.0, 2.0], [0.0, 0.05, 0.0]
    factor = noise_factor([gaps] * 3, noises, flips, 0.66)
    right = [share_right(gaps, noise * factor, flip_rate=flip) for noise, flip in zip(noises, flips, strict=True)]
    couples = [expected_agreement(right[i], right[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert np.mean(couples) == pytest.approx(0.66, abs=1e-8)


def test_what_no_noise_gives_is_refused():
    with pytest.raises(ConfigError, match=r"between 0\.500 and 0\.625"):
        calibrated_noise([1.0], 0.7, flip_rate=0.25)
    with pytest.raises(ConfigError, match="that of coins"):
        accuracy_of_agreement(0.4)


def test_presets_are_named_in_the_settings_alone_or_beside_others():
    config = resolve(overrides=["judge.annotators=[preset:stiennon, {name: hasty, noise: 2}]"])
    assert [a.name for a in config.judge.annotators] == ["researcher-01", "researcher-02", "researcher-03", "hasty"]
    with pytest.raises(ConfigError, match="Did you mean `alpacafarm`"):
        resolve(overrides=["judge.annotators=preset:alpacafrm"])
    with pytest.raises(ConfigError, match="a name twice"):
        resolve(overrides=["judge.annotators=[preset:stiennon, preset:stiennon]"])
