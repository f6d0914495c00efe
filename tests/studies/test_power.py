"""Simulated power, accuracy and sample sizes beside what is known of them."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from plaudit.cli import app
from plaudit.errors import ConfigError
from plaudit.evaluation.scaling import Cell
from plaudit.studies import power, reward_power
from plaudit.studies.power import (
    Plan,
    binomial_judgments,
    binomial_power,
    normal_power,
    normal_prompts,
    power_study,
    simulated_power,
)

PLANS = [
    Plan(),
    Plan(people_per_item=3),
    Plan(people_per_item=2, ties=0.3),
    Plan(win_rate=0.42, people_per_item=5, agreement=0.63),
    Plan(items_per_prompt=4, prompt_correlation=0.2),
    Plan(people_per_item=2, items_per_prompt=3, prompt_correlation=0.1, ties=0.1, agreement=0.8),
]


@pytest.mark.parametrize(
    ("win_rate", "wanted", "alpha", "size"),
    [
        (0.55, 0.8, 0.05, 783),
        (0.6, 0.8, 0.05, 194),
        (0.6, 0.9, 0.05, 259),
        (0.7, 0.9, 0.01, 88),
        (0.45, 0.8, 0.05, 783),
    ],
)
def test_the_normal_approximation_gives_the_textbook_sizes(win_rate, wanted, alpha, size):
    """((z_a / 2 + z_b sqrt(w (1 - w))) / (w - 1/2))^2: (1.959964 / 2 + 0.841621 * 0.497494)^2 / 0.05^2 = 782.5."""
    z, z_power = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(wanted)
    by_hand = ((z / 2 + z_power * math.sqrt(win_rate * (1 - win_rate))) / (win_rate - 0.5)) ** 2
    plan = Plan(win_rate=win_rate, power=wanted, alpha=alpha, agreement=0.9)
    assert normal_prompts(plan) == math.ceil(by_hand) == size


def test_the_exact_test_agrees_with_scipy_and_its_size_is_the_last_that_fails():
    for n in (20, 57, 150):
        rejects = [k for k in range(n + 1) if stats.binomtest(k, n).pvalue <= 0.05]
        assert float(binomial_power(0.6, 0.05, np.array(float(n)))) == pytest.approx(
            sum(stats.binom.pmf(k, n, 0.6) for k in rejects)
        )
    plan = Plan(win_rate=0.65)
    size = binomial_judgments(plan)
    assert size is not None
    from_there = binomial_power(0.65, 0.05, np.arange(size, size + 300, dtype=float))
    assert from_there.min() >= 0.8 > float(binomial_power(0.65, 0.05, np.array(size - 1.0)))
    assert normal_prompts(plan) <= size < 1.2 * normal_prompts(plan) + 10
    assert binomial_judgments(Plan(people_per_item=2)) is None


@pytest.mark.parametrize("plan", PLANS)
def test_simulated_power_is_the_closed_form_within_its_error(plan):
    sizes = np.array([normal_prompts(plan) // 2, normal_prompts(plan)])
    hits = simulated_power(plan, sizes, repetitions=3000, seed=1) / 3000
    expected = normal_power(plan, sizes.astype(float))
    assert expected[1] == pytest.approx(0.8, abs=0.01)
    assert hits == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 3000))


@pytest.mark.parametrize("plan", PLANS)
def test_prompts_have_the_mean_variance_and_agreement_that_the_plan_says(plan):
    means = power._prompt_means(plan, (400, 500), np.random.default_rng(0)).ravel()
    assert means.mean() == pytest.approx(plan.win_rate, abs=4 * math.sqrt(plan.variance / means.size))
    assert means.var() == pytest.approx(plan.variance, rel=0.02)


def test_two_people_of_the_simulation_agree_as_asked():
    """A mean of 0 or 1 of two judgments is agreement, on 1 - 2 * 0.55 * 0.45 * (1 - 0.4) = 0.703 of items."""
    plan = Plan(people_per_item=2, agreement=0.7)
    means = power._prompt_means(plan, (400, 500), np.random.default_rng(0))
    assert (means != 0.5).mean() == pytest.approx(0.703, abs=0.005)
    assert plan.design_effect == pytest.approx(1 + plan.rho)
    assert Plan(people_per_item=9, agreement=0.5).design_effect == pytest.approx(1)


def test_no_difference_is_found_as_often_as_alpha():
    plan = Plan(people_per_item=3, items_per_prompt=2, prompt_correlation=0.1)
    object.__setattr__(plan, "win_rate", 0.5)
    hits = simulated_power(plan, np.array([150, 300]), repetitions=4000, seed=0) / 4000
    assert hits == pytest.approx([0.05, 0.05], abs=0.014)


def test_more_of_anything_that_helps_needs_less():
    def sizes(name, values, **more):
        return [normal_prompts(Plan(**{name: value}, **more)) for value in values]

    for name, values, more in [
        ("win_rate", (0.52, 0.55, 0.6, 0.7), {}),
        ("power", (0.95, 0.9, 0.8, 0.5), {}),
        ("alpha", (0.01, 0.05, 0.1), {}),
        ("people_per_item", (1, 2, 3, 9), {}),
        ("agreement", (0.9, 0.75, 0.6), {"people_per_item": 3}),
        ("prompt_correlation", (0.3, 0.1, 0.0), {"items_per_prompt": 4}),
    ]:
        found = sizes(name, values, **more)
        assert all(more_than > less for more_than, less in itertools.pairwise(found)), name
    simulated = [point["simulated"]["value"] for point in power_study(Plan(), repetitions=1000)["curve"]]
    assert simulated[-1] > simulated[len(simulated) // 2] > simulated[0]


def test_a_study_says_what_is_needed_and_is_the_same_again_by_seed():
    plan = Plan(win_rate=0.6, people_per_item=2)
    found = power_study(plan, per_annotator=50, repetitions=1500, seed=4)
    assert found == power_study(plan, per_annotator=50, repetitions=1500, seed=4)
    assert found["curve"] != power_study(plan, per_annotator=50, repetitions=1500, seed=5)["curve"]
    needed = found["needed"]
    assert needed["simulated"]["low"] <= needed["normal"] <= needed["simulated"]["high"]
    assert needed["judgments"] == 2 * needed["items"] == 2 * needed["simulated"]["value"]
    assert needed["annotators"] == math.ceil(needed["judgments"] / 50)
    assert [row["people_per_item"] for row in found["by_people"]] == [1, 2, 3, 5]
    items = [row["items"] for row in found["by_people"]]
    judgments = [row["judgments"] for row in found["by_people"]]
    assert items == sorted(items, reverse=True)
    assert judgments == sorted(judgments)
    assert len(found["curve"]) > 2
    for point in found["curve"]:
        assert point["normal"] == pytest.approx(point["simulated"]["value"], abs=0.08)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"win_rate": 0.5}, "--win-rate 0.5: must be"),
        ({"win_rate": 1.2}, "--win-rate 1.2"),
        ({"power": 0.04}, "--power 0.04: must be between alpha"),
        ({"alpha": 0.0}, "--alpha 0"),
        ({"agreement": 0.4}, "--agreement 0.4: must be between 1/2"),
        ({"people_per_item": 0}, "--people-per-item 0"),
        ({"items_per_prompt": 0}, "--items-per-prompt 0"),
        ({"ties": 1.0}, "--ties 1"),
        ({"win_rate": 0.9, "ties": 0.4}, "--ties 0.4"),
        ({"prompt_correlation": 0.9}, "--prompt-correlation 0.9: must be between 0 and the correlation within an item"),
    ],
)
def test_plans_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        Plan(**settings)


def test_agreement_and_ceiling_of_a_gaussian_reward_are_the_known_ones():
    """Gaps N(0, s^2): agreement .528, .587, .647, .697 and ceilings .596, .675, .734, .778 at s = 0.5, 1, 1.5, 2."""
    draws = np.random.default_rng(0).normal(size=2_000_000)
    for scale in (0.5, 1.0, 1.5, 2.0):
        right = 1 / (1 + np.exp(-scale * np.abs(draws)))
        assert reward_power.agreement_of_scale(scale) == pytest.approx((right**2 + (1 - right) ** 2).mean(), abs=5e-4)
        assert reward_power.ceiling_of_scale(scale) == pytest.approx(right.mean(), abs=5e-4)
        again = reward_power.scale_of_agreement(reward_power.agreement_of_scale(scale))
        assert again == pytest.approx(scale, abs=1e-6)


def test_accuracy_of_a_direction_is_what_drawn_pairs_say():
    draws = np.random.default_rng(0).normal(size=(1_000_000, 2))
    right = 1 / (1 + np.exp(-1.5 * np.abs(draws[:, 0])))
    agrees = np.sign(draws @ [1.0, 0.7]) == np.sign(draws[:, 0])
    expected = np.where(agrees, right, 1 - right).mean()
    assert float(reward_power.accuracy_at(np.array([0.7]), 1.5)[0]) == pytest.approx(expected, abs=0.001)


def test_fitted_rewards_are_as_right_as_the_asymptotic_covariance_says():
    found = reward_power.reward_power(0.795, features=12, seed=2)
    assert found == reward_power.reward_power(0.795, features=12, seed=2)
    enough = [point for point in found["curve"] if point["judgments"] >= 30 * 12]
    assert len(enough) >= 4
    for point in enough:
        deviation = (point["simulated"]["high"] - point["simulated"]["value"]) / 1.96
        assert point["normal"] == pytest.approx(point["simulated"]["value"], abs=4 * deviation + 1e-4)
    assert found["simulated"]["low"] < found["normal"] < found["simulated"]["high"] * 1.1
    needed = [reward_power.reward_power(0.79, features=d)["normal"] for d in (4, 8, 16)]
    assert needed == sorted(needed)
    with_ties = reward_power.reward_power(0.79, features=8, ties=0.5)["normal"]
    assert with_ties == pytest.approx(2 * needed[1], abs=1)
    for accuracy, message in ((0.82, "even the true reward"), (0.5, "must be above")):
        with pytest.raises(ConfigError, match=message):
            reward_power.reward_power(accuracy)
    with pytest.raises(ConfigError, match="and below"):
        reward_power.reward_power(0.8, agreement=0.99)


def call(*arguments):
    return CliRunner().invoke(app, ["power", *arguments])


def test_the_command_tells_prints_json_and_draws(tmp_path):
    quick = ["--win-rate", "0.62", "--repetitions", "400"]
    told = call(*quick)
    assert told.exit_code == 0
    assert "normal approximation: " in told.stdout
    assert "exact binomial test" in told.stdout
    drawn = call(*quick, "--accuracy", "0.78", "--features", "6", "--json", "--plot", str(tmp_path / "p.svg"))
    found = json.loads(drawn.stdout)
    assert found["reward"]["normal"] > 0
    assert found["plan"]["win_rate"] == 0.62
    svg = (tmp_path / "p.svg").read_text()
    assert svg.startswith("<svg xmlns=")
    assert "var(--" not in svg
    assert "ceiling" in svg
    call(*quick, "--plot", str(tmp_path / "w.svg"))
    assert "power to tell 62.0" in (tmp_path / "w.svg").read_text()


def test_the_law_of_a_study_is_used_where_one_is_named(workspace):
    """Accuracy 0.6 at 100 comparisons and 0.05 more with every doubling: 0.7 takes 400."""
    config = workspace.config()
    with workspace.new_run("study", config, parents={}) as run:
        lines = []
        for doubling in range(4):
            prompts = 100 * 2**doubling
            held_out = {f"p{i}": ((0.6 + 0.05 * doubling) * 10, 5.0, 10.0) for i in range(30)}
            cells = [Cell("m", 1000, prompts, prompts, seed, held_out) for seed in (0, 1)]
            lines += [json.dumps(vars(cell)) + "\n" for cell in cells]
        (run.path / "cells.jsonl").write_text("".join(lines))
        run.update(result={"ceiling": 0.8})
    arguments = ["--repetitions", "100", "--win-rate", "0.7", "--accuracy", "0.7", "-w", str(workspace.path)]
    found = json.loads(call(*arguments, "--study", "latest:study", "--json").stdout)["reward"]["by_study"]
    assert found["study"] == run.name
    assert found["comparisons"]["m"]["value"] == pytest.approx(400, rel=0.01)
    assert f"by the law of {run.name}, m: 400" in call(*arguments, "--study", run.name).stdout
    assert isinstance(call("--study", "x").exception, ConfigError)
