"""Scaling laws: known ones are recovered, with intervals that hold them."""

import math

import numpy as np
import pytest

from plaudit.evaluation.scaling import Cell, fit_scaling, power_law

LEVEL, OF_DATA, OF_WEIGHTS = 0.72, 0.011, 0.018  # Stiennon et al. 2020, a doubling each
SIZES = {"small": 10_000_000, "middle": 40_000_000, "large": 160_000_000}


def grid(*, prompts=200, seeds=3, seed=0, models=SIZES, counts=(500, 1000, 2000, 4000, 8000), noise=True, luck=0.0):
    """Cells whose accuracies follow the law, but for the luck of a training; the judgments of a prompt are 20."""
    draw = np.random.default_rng(seed)
    hard = draw.normal(size=prompts) * 0.05 * noise  # the same for all
    cells = []
    for model, weights in models.items():
        for count in counts:
            for number in range(seeds):
                chance = LEVEL + OF_DATA * math.log2(count / 8000) + OF_WEIGHTS * math.log2(weights / 160_000_000)
                chance += luck * draw.normal()
                right = draw.binomial(20, (chance + hard).clip(0, 1)) if noise else np.full(prompts, 20 * chance)
                loss = 20 * (0.55 + 2 * count**-0.4)
                held_out = {f"p{i}": (float(r), loss, 20.0) for i, r in enumerate(right)}
                cells.append(Cell(model, weights, count // 5, count + number, number, held_out))
    return cells


def test_a_law_without_noise_is_found_exactly():
    law = fit_scaling(grid(noise=False, prompts=3))["accuracy_law"]
    assert law["level"]["value"] == pytest.approx(LEVEL, abs=1e-4)
    assert law["per_doubling_of_comparisons"]["value"] == pytest.approx(OF_DATA, abs=1e-4)
    assert law["per_doubling_of_weights"]["value"] == pytest.approx(OF_WEIGHTS, abs=1e-4)
    assert (law["D_0"], law["N_0"]) == (8002, 160_000_000)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(20):
        cells = grid(seed=seed, prompts=60, models={"large": 160_000_000}, counts=(500, 2000, 8000), seeds=5, luck=0.03)
        law = fit_scaling(cells, seed=seed)["accuracy_law"]["per_doubling_of_comparisons"]
        assert law["low"] < law["value"] < law["high"]
        held += law["low"] <= OF_DATA <= law["high"]
    assert held >= 16


def test_luck_is_not_taken_for_evidence():
    """At 0.95 for all, a cell that is right by luck must not weigh more for it."""
    found = []
    for seed in range(30):
        draw = np.random.default_rng(seed)
        cells = [
            Cell(
                "m",
                1_000_000,
                size,
                size * 5,
                number,
                {f"p{i}": (float(draw.random() < 0.95), 0.2, 1.0) for i in range(50)},
            )
            for size in (10, 20, 40)
            for number in range(3)
        ]
        found.append(fit_scaling(cells)["accuracy_law"]["level"]["value"])
    assert np.mean(found) == pytest.approx(0.95, abs=0.006)


def test_a_single_seed_is_said_to_be_too_few():
    assert "alone" in fit_scaling(grid(seeds=1, prompts=3))["intervals"]
    assert fit_scaling(grid(prompts=3))["intervals"] == "seeds and held-out prompts"
    assert fit_scaling(grid(prompts=3), log_odds=False)["loss_law"] is None


def test_how_many_comparisons_an_accuracy_takes():
    result = fit_scaling(grid(noise=False, prompts=3), target=0.731, ceiling=0.8)
    needed = result["needed"]
    assert needed["large"]["value"] == pytest.approx(8000 * 2, rel=0.01)
    assert needed["middle"]["value"] == pytest.approx(8000 * 2 ** (1 + 2 * OF_WEIGHTS / OF_DATA), rel=0.01)
    assert fit_scaling(grid(noise=False, prompts=3), target=0.81, ceiling=0.8)["needed"]["large"] is None
    assert fit_scaling(grid(noise=False, prompts=3), target=0.51)["needed"]["large"]["value"] == 1.0
    noisy = fit_scaling(grid(), target=0.731)["needed"]["large"]
    assert noisy["low"] < noisy["value"] < noisy["high"]


def test_where_more_does_not_help_no_number_is_enough():
    cells = grid(noise=False, prompts=3)
    backwards = [Cell(c.model, c.weights, c.prompts, 9000 - c.comparisons, c.seed, c.held_out) for c in cells]
    assert fit_scaling(backwards, target=0.75)["needed"]["large"]["value"] is None


def test_one_size_has_no_term_and_one_point_no_law():
    alone = {"small": 10_000_000}
    law = fit_scaling(grid(models=alone, prompts=3))["accuracy_law"]
    assert "per_doubling_of_weights" not in law
    assert "per_doubling_of_comparisons" in law
    with pytest.raises(ValueError, match="at least two numbers of prompts"):
        fit_scaling(grid(models=alone, counts=(500,), prompts=3))  # whose seeds differ in comparisons


def test_loss_falls_as_a_power_to_a_floor():
    sizes = np.geomspace(100, 100_000, 9)
    found = power_law(sizes, 0.5 + 3 * sizes**-0.5)
    assert found["floor"] == pytest.approx(0.5, abs=2e-3)
    assert found["exponent"] == pytest.approx(0.5, rel=0.03)
    assert found["scale"] * 100 ** -found["exponent"] == pytest.approx(0.3, rel=0.02)
    assert math.isnan(power_law(sizes, np.linspace(0.5, 0.6, 9))["exponent"])  # it rises: no law falls
    assert power_law(sizes, 3 * sizes**-0.05 - 1.4)["floor"] == 0.0

    laws = fit_scaling(grid(noise=False, prompts=3))["loss_law"]
    assert laws["comparisons"]["small"]["floor"]["value"] == pytest.approx(0.55, abs=0.01)
    assert laws["weights"] is None  # three sizes are too few
