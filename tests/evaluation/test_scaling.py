"""Scaling laws: known ones are recovered, with intervals that hold them."""

import math

import numpy as np
import pytest

from plaudit.evaluation.scaling import EXPONENTS, Cell, _Grid, _interval, fit_scaling, power_law

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


def test_two_models_of_one_number_of_prompts_have_a_law_of_weights_alone():
    rows = [(f"m{weights}", weights, 10, 40, 0, {"p": (right, 1.0, 10.0)}) for weights, right in ((1, 6.0), (2, 7.0))]
    law = fit_scaling(cells_of(*rows))["accuracy_law"]
    assert law.keys() == {"level", "per_doubling_of_weights", "D_0", "N_0"}
    assert law["per_doubling_of_weights"]["value"] == pytest.approx(0.1)
    alike = [("a", 5, 10, 40, 0, {"p": (6.0, 1.0, 10.0)}), ("b", 5, 10, 40, 0, {"p": (7.0, 1.0, 10.0)})]
    with pytest.raises(ValueError, match="two models of different size"):
        fit_scaling(cells_of(*alike))


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


def cells_of(*rows):
    """(model, weights, prompts, comparisons, seed, {prompt: (right, loss, judgments)})."""
    return [Cell(*row) for row in rows]


def test_an_accuracy_is_right_over_judged_of_the_prompts_that_a_cell_has():
    """A prompt that a cell has no judgments of counts for nothing in it, whatever others have."""
    found = fit_scaling(cells_of(
        ("m", 100, 10, 40, 0, {"p": (3.0, 2.0, 4.0), "q": (1.0, 4.0, 2.0)}),
        ("m", 100, 10, 44, 1, {"p": (4.0, 1.0, 4.0)}),
        ("m", 100, 20, 80, 0, {"p": (4.0, 1.0, 4.0), "q": (2.0, 0.5, 2.0)}),
    ))["models"]  # fmt: skip
    assert found[0] == {
        "model": "m", "weights": 100, "comparisons": 42.0, "accuracy": pytest.approx((4 / 6 + 1) / 2),
        "log_loss": pytest.approx((6 / 6 + 1 / 4) / 2), "seeds": 2,
    }  # fmt: skip
    assert (found[1]["accuracy"], found[1]["log_loss"], found[1]["seeds"]) == (1.0, pytest.approx(1.5 / 6), 1)


def test_cells_count_by_their_binomial_variances_at_the_laws_own_accuracies():
    """Two points are met exactly; of three in a line's way, one of a hundred times the judgments nearly is."""

    def cell(prompts, accuracy, judgments):
        held_out = {f"p{i}": (accuracy * judgments, judgments * 0.5, judgments) for i in range(2)}
        return ("m", 100, prompts, prompts * 4, 0, held_out)

    law = fit_scaling(cells_of(cell(10, 0.6, 10.0), cell(20, 0.7, 1000.0), cell(40, 0.7, 10.0)))["accuracy_law"]
    fitted = law["level"]["value"] - law["per_doubling_of_comparisons"]["value"]
    assert fitted == pytest.approx(0.7, abs=2e-3)
    alike = fit_scaling(cells_of(cell(10, 0.6, 10.0), cell(20, 0.7, 10.0), cell(40, 0.7, 10.0)))["accuracy_law"]
    x, y = np.array([-2.0, -1.0, 0.0]), np.array([0.6, 0.7, 0.7])
    plain = np.polyval(np.polyfit(x, y, 1), x)
    slope, level = np.polyfit(x, y, 1, w=1 / np.sqrt(plain * (1 - plain)))
    assert alike["per_doubling_of_comparisons"]["value"] == pytest.approx(slope)
    assert alike["level"]["value"] == pytest.approx(level)


def test_doublings_are_counted_from_the_largest_of_the_grid_and_from_each_models_size():
    """Accuracy 0.8 at 80 comparisons of 400 weights, 0.1 less for each halving of either."""
    rows = [
        (f"m{weights}", weights, prompts, prompts * 4, 0, {"p": (accuracy * 1000, 1.0, 1000.0)})
        for weights, less in ((100, 0.2), (400, 0.0))
        for prompts, accuracy in ((10, 0.7 - less), (20, 0.8 - less))
    ]
    found = fit_scaling(cells_of(*rows), target=0.9)
    law = found["accuracy_law"]
    assert (law["D_0"], law["N_0"]) == (80, 400)
    for name, value in (("level", 0.8), ("per_doubling_of_comparisons", 0.1), ("per_doubling_of_weights", 0.1)):
        assert law[name]["value"] == pytest.approx(value), name
    assert found["needed"]["m400"]["value"] == pytest.approx(160)
    assert found["needed"]["m100"]["value"] == pytest.approx(640)
    assert found["target_accuracy"] == 0.9
    least = fit_scaling(cells_of(*rows), target=0.8 - 0.1 * math.log2(80) - 0.5)["needed"]["m400"]
    assert least["value"] == 1.0


def test_an_accuracy_out_of_forty_doublings_reach_is_none():
    def needed(slope):
        rows = [("m", 100, p, p * 4, 0, {"p": ((0.7 + slope * x) * 1e6, 1.0, 1e6)}) for p, x in ((10, -1), (20, 0))]
        return fit_scaling(cells_of(*rows), target=0.741)["needed"]["m"]["value"]

    assert needed(0.041 / 41) is None
    assert needed(0.041 / 39) == pytest.approx(80 * 2.0**39, rel=1e-3)
    assert needed(0.0) is None


def test_a_drawn_grid_has_as_many_cells_of_each_point_and_as_many_prompts():
    grid_ = _Grid(grid(prompts=7, seeds=3, counts=(500, 1000)))
    sample = grid_.draw(np.random.default_rng(0))
    assert sorted(sample.cells // 3) == sorted(np.repeat(range(6), 3))
    assert (sample.prompts.sum(), len(sample.prompts)) == (7, 7)
    again, other = (grid_.draw(np.random.default_rng(seed)) for seed in (0, 1))
    assert np.array_equal(again.cells, sample.cells)
    assert not np.array_equal(other.prompts, sample.prompts)


def test_a_power_law_is_the_best_of_its_exponents_by_least_squares():
    """Against each of the exponents solved by nnls; floor and scale may not be negative."""
    from scipy.optimize import nnls

    random = np.random.default_rng(3)
    for trial in range(6):
        sizes = np.geomspace(50, 5000, 6)
        losses = (0.4, 0.0)[trial % 2] + 2 * sizes ** -(0.3, 0.7, 1.5)[trial % 3] * (1 + 0.002 * random.normal(size=6))
        errors = [nnls(np.stack([np.ones(6), sizes**-exponent], axis=1), losses) for exponent in EXPONENTS]
        best = int(np.argmin([error for _, error in errors]))
        found = power_law(sizes, losses)
        assert found["exponent"] == pytest.approx(EXPONENTS[best])
        assert (found["floor"], found["scale"]) == pytest.approx(tuple(errors[best][0]), rel=1e-6, abs=1e-9)


def test_a_loss_law_takes_four_sizes_of_as_many_points():
    """Comparisons differ between seeds of one point: four seeds of a single number of prompts are no four sizes."""
    three = grid(noise=False, prompts=3, models={"small": 10_000_000}, counts=(500, 1000, 2000))
    assert fit_scaling(three)["loss_law"] == {"comparisons": {}, "weights": None}
    four = grid(noise=False, prompts=3, models={"small": 10_000_000}, counts=(500, 1000, 2000, 4000))
    laws = fit_scaling(four)["loss_law"]["comparisons"]["small"]
    assert laws["exponent"]["value"] == pytest.approx(0.4, rel=0.05)
    models = {name: 10_000_000 * 4**i for i, name in enumerate("abcd")}
    many = [
        Cell(c.model, c.weights, c.prompts, c.comparisons, c.seed, {"p": (1.0, 20 * (0.3 + 9 * c.weights**-0.2), 20.0)})
        for c in grid(noise=False, prompts=3, models=models, counts=(500, 1000))
    ]
    assert fit_scaling(many)["loss_law"]["weights"]["exponent"]["value"] == pytest.approx(0.2, rel=0.05)


def test_ends_of_an_interval_are_order_statistics_of_what_has_a_value():
    found = _interval(3.0, [math.nan, *map(float, range(1, 41)), math.inf])
    assert found == {"value": 3.0, "low": 2.0, "high": 40.0}
    assert _interval(math.inf, [math.inf] * 9) == {"value": None, "low": None, "high": None}
    assert _interval(1.0, [math.nan]) == {"value": 1.0, "low": None, "high": None}
