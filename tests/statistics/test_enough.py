"""What is too little to learn from or to measure by is said, and a weak reward model is not optimised for."""

import json

import pytest
from conftest import as_classifier, write_lines

import plaudit
from plaudit.errors import ConfigError
from plaudit.reporting.text import result_lines
from plaudit.statistics.enough import few_prompts, few_steps, unsure_reward, weak_reward
from plaudit.statistics.intervals import share


def quality(value, low, high, longer=0.5):
    return {
        "accuracy": {"value": value, "low": low, "high": high, "n": 40},
        "longer_wins": {"value": longer, "low": longer - 0.1, "high": longer + 0.1, "n": 40},
    }


def test_a_reward_model_is_weak_unless_its_whole_interval_is_above_chance():
    assert weak_reward(quality(0.65, 0.55, 0.75)) == []
    for value, low, high in ((0.44, 0.37, 0.52), (0.56, 0.48, 0.64), (0.6, 0.5, 0.7), (0.2, 0.1, 0.3)):
        (why,) = weak_reward(quality(value, low, high))
        assert why == (
            f"ranks {value:.2f} of held-out judgments right (95 % {low:.2f} to {high:.2f}), "
            "not shown to be better than chance"
        )
    (why,) = weak_reward(quality(1.0, None, None))
    assert "of a single prompt" in why


@pytest.mark.parametrize(("longer", "word", "rule"), [(0.7, "longer", 0.7), (0.25, "shorter", 0.75)])
def test_a_reward_model_is_weak_where_length_alone_does_as_well(longer, word, rule):
    (why,) = weak_reward(quality(0.7, 0.6, 0.8, longer))
    assert why == f"ranks 0.70 right where always preferring the {word} answer ranks {rule:.2f} right"
    assert weak_reward(quality(rule + 0.01, 0.6, 0.8, longer)) == []


def test_a_reward_model_that_nobody_measured_is_not_called_weak():
    assert weak_reward({}) == []


def test_probabilities_no_better_than_a_coins_are_said():
    assert unsure_reward({"log_loss": 0.692}) == []
    assert unsure_reward({"log_loss": 0.70}) == ["The held-out log loss is 0.700 nats, no better than a coin's 0.693."]
    assert unsure_reward({}) == []


def test_few_steps_and_few_prompts_are_said():
    assert few_steps(16, "x", "y") == []
    assert few_steps(2, "26 prompts", "Lower z") == [
        "2 optimiser steps through 26 prompts: too few to learn much. Lower z."
    ]
    assert few_prompts(10) == []
    assert few_prompts(9)[0].startswith("The figures are of 9 held-out prompts: too few")
    assert few_prompts(1)[0].startswith("The figures are of 1 held-out prompt: ")
    assert "nothing is held out" in few_prompts(0)[0]


def test_one_cluster_has_a_value_and_no_interval():
    found = share([1.0, 1.0, 0.0], ["a", "a", "a"])
    assert found == {"value": pytest.approx(2 / 3), "low": None, "high": None, "n": 1}
    assert list(result_lines({"accuracy": found})) == ["  accuracy: 0.6667 (of a single one, so without an interval)"]
    assert share([1.0, 0.0], ["a", "b"])["low"] is not None


@pytest.fixture
def judged(workspace, tmp_path, tiny_model):
    """Six prompts, one of them held out, with forty comparisons each."""
    rows = [
        {"prompt": f"why does {word} help", "chosen": f"good {word} {i}", "rejected": f"bad {word} {i}"}
        for word in ("tea", "moon", "bread", "river", "music", "lamp", "stone", "rain")
        for i in range(40)
    ]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "c.jsonl", rows), kind="comparisons")
    return workspace


def test_few_prompts_with_many_comparisons_are_more_than_two_steps(run, judged, tiny_model):
    code, out, err = run("reward", "-w", judged.path, f"reward.model={tiny_model}", "reward.batch_size=16", "--json")
    assert code == 0
    made = judged.run("reward-001")
    train = made.result["train_prompts"]
    assert len(made.metrics()) == train  # 40 comparisons each, and 64 at most in a step
    assert f"{train} optimiser steps through {40 * train} comparisons of {train} prompts: too few" in err
    assert f"are of {8 - train} held-out prompt" in err
    assert json.loads(out)["warnings"] == made.warnings
    status = run("status", "-w", judged.path)[1]
    assert "! The figures are of" in status
    by_prompts = ["reward.batch_size=16", "reward.comparisons_per_batch=null", f"reward.model={tiny_model}"]
    assert len(plaudit.reward(judged, judged.config(overrides=by_prompts)).metrics()) == 1


def test_preference_losses_count_comparisons_too(judged, tiny_model):
    changes = [f"prefer.policy={tiny_model}", "prefer.batch_size=16", "prefer.loss=simpo"]
    made = plaudit.prefer(judged, judged.config(overrides=changes))
    assert len(made.metrics()) == made.result["train_items"]
    assert any("optimiser steps through" in warning for warning in made.warnings)


def test_a_run_begun_before_comparisons_were_counted_goes_on_as_it_began(judged, tiny_model):
    import yaml

    changes = [f"reward.model={tiny_model}", "reward.batch_size=2", "reward.epochs=2"]
    made = plaudit.reward(judged, judged.config(overrides=changes))
    settings = yaml.safe_load((made.path / "config.yaml").read_text())
    del settings["reward"]["comparisons_per_batch"]
    (made.path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert made.config().reward.comparisons_per_batch is None
    assert judged.config().reward.comparisons_per_batch == 64


def test_a_weak_reward_model_is_optimised_for_only_anyway(run, workspace, tiny_model):
    with workspace.new_run("reward", workspace.config(), parents={"model": str(tiny_model)}) as made:
        as_classifier(made.model_folder)
        made.update(result=quality(0.44, 0.37, 0.52))
    wanted = [f"rl.policy={tiny_model}", "rl.anyway=false"]
    code, _, err = run("rl", "-w", workspace.path, *wanted)
    assert code == 2
    assert "reward-001 ranks 0.44 of held-out judgments right (95 % 0.37 to 0.52), not shown to be better" in err
    assert "--anyway" in err
    assert not workspace.runs("rl")
    changes = ["rl.algorithm=ppo-lagrangian", "rl.reward=function:os:getcwd", "rl.lagrangian.cost=reward-001"]
    with pytest.raises(ConfigError, match=r"reward-001 ranks 0\.44"):
        plaudit.rl(workspace, workspace.config(overrides=[*wanted, *changes]))
    code, out, _ = run("rl", "--dry-run", "-w", workspace.path, *wanted, "--anyway")
    assert code == 0
    assert "anyway: true" in out
