import pytest
import yaml

from plaudit.config import Config, describe, recipe_file, resolve, shipped_recipes
from plaudit.config.staging import check_recipe
from plaudit.errors import ConfigError
from plaudit.methods import ALGORITHMS


def test_later_sources_win(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 3\nrl: {clip: 0.3, steps: 7}\n")
    config = resolve(file, overrides=["rl.clip=0.1", "rl.optimiser.learning_rate=3e-6"])
    assert (config.seed, config.rl.clip, config.rl.steps) == (3, 0.1, 7)
    assert config.rl.optimiser.learning_rate == 3e-6  # YAML reads 3e-6 as text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rl.kl_coeficient=0.1", "unknown setting `rl.kl_coeficient`. Did you mean `rl.kl_coefficient`?"),
        ("rll.clip=0.1", "unknown setting `rll`. Did you mean `rl`?"),
        ("model.lora.rnk=3", "Did you mean `model.lora.rank`?"),
        ("rl.clip=2", "`rl.clip` = 2: input should be less than 1"),
        ("rl.steps=many", "`rl.steps` = 'many': input should be a valid integer"),
        ("rl.clip", "is not an override"),
        ("rl.algorithm=pppo", "`rl.algorithm`"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(override, message):
    with pytest.raises(ConfigError) as caught:
        resolve(overrides=[override])
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2\n", "seed: {a: 1}\n"])
def test_a_broken_file_is_refused(tmp_path, content):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError):
        resolve(file)
    with pytest.raises(ConfigError, match="no such"):
        resolve(tmp_path / "none.yaml")


def test_the_resolved_configuration_reads_back_equal(tmp_path):
    config = resolve(recipe_file(), overrides=["seed=5"])
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert resolve(tmp_path / "c.yaml") == config
    (tmp_path / "d.yaml").write_text(describe(config))
    assert resolve(tmp_path / "d.yaml") == config


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_the_quickstarts_workspace_another_algorithm_is_one_word_away(algorithm):
    more = ["rl.lagrangian.cost=cost-001"] if ALGORITHMS[algorithm].constrained else []
    assert resolve(recipe_file(), overrides=[f"rl.algorithm={algorithm}", *more]).rl.algorithm == algorithm


def test_every_setting_has_a_meaning():
    def undescribed(section, where=""):
        for name, field in type(section).model_fields.items():
            value = getattr(section, name)
            if hasattr(type(value), "model_fields"):
                yield from undescribed(value, f"{where}{name}.")
            elif not field.description:
                yield where + name

    assert list(undescribed(Config())) == []


def test_a_group_keeps_its_own_defaults_beside_what_is_given():
    plain = resolve()
    assert plain.rl.optimiser.warmup_share != plain.rl.value_optimiser.warmup_share
    faster = resolve(overrides=["rl.optimiser.learning_rate=0.001", "rl.value_optimiser.schedule=constant"]).rl
    assert faster.optimiser == plain.rl.optimiser.model_copy(update={"learning_rate": 0.001})
    assert faster.value_optimiser == plain.rl.value_optimiser.model_copy(update={"schedule": "constant"})
    rated = resolve(values={"reward": {"optimiser": {"learning_rate": 0.001}}}).reward.optimiser
    assert rated.epsilon == plain.reward.optimiser.epsilon != plain.rl.optimiser.epsilon


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().rl.clip = 0.3


def test_the_recipe_only_names_known_settings():
    assert set(yaml.safe_load(recipe_file().read_text())) <= set(Config.model_fields)


def test_settings_of_a_list_are_explained_beside_it_and_read_back():
    config = resolve(overrides=["judge.annotators=[preset:stiennon, {name: tired, noise: 1, noise_drift: 2}]"])
    text = describe(config)
    with pytest.raises(ConfigError, match=r"Did you mean `judge\.annotators\.0\.tie_band`\?"):
        resolve(overrides=["judge.annotators=[{name: a, noise: 1, tieband: 3}]"])
    for name in type(config.judge.annotators[0]).model_fields:
        assert f"  #   {name}" in text
    assert "flip_rate (default 0.0): Share of choices turned the other way round" in text
    assert Config.model_validate(yaml.safe_load(text)) == config
    assert Config.model_validate(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=3", "unknown setting `steps`. Did you mean `pretrain.steps` or `rl.steps`?"),
        ("sft.steps=3", "unknown setting `sft.steps`. Did you mean `pretrain.steps` or `rl.steps`?"),
        ("sft.learning_rate=1", "Did you mean `sft.optimiser.learning_rate`?"),
        (
            "rl.reward=[{source: a, wieght: 2}]",
            "unknown setting `rl.reward.0.wieght`. Did you mean `rl.reward.0.weight`?",
        ),
        (
            "rl.reward={a: b}",
            "`rl.reward` = {'a': 'b'}: input should be a valid string, or input should be a valid list.",
        ),
        ("rl.reward=[3]", "input should be {setting: value}"),
        ("seed=-1", "`seed` = -1: input should be greater than or equal to 0"),
        ("sft.epochs=1" + "0" * 50, "`sft.epochs`"),
        ("sft.optimiser.learning_rate=.inf", "`sft.optimiser.learning_rate` = inf: input should be a finite number"),
        ("rl.missing_eos_score=.nan", "input should be a finite number"),
        ("model.name=[", "is not valid YAML"),
        ("seed=" + "9" * 6000, "is not valid YAML (Exceeds the limit"),
        ("seed=2024-13-45", "is not valid YAML (month must be in 1..12)"),
        ("model.name=" + "[" * 5000, "YAML"),
        ("seed=9" + "9" * 400, "`seed`"),
        ("=3", "is not an override"),
        ("rl..steps=3", "unknown setting `rl.`"),
        ("rl.steps.x=3", "`rl.steps` = {'x': 3}"),
        ("sft=3", "`sft` = 3"),
        ("model.name=x\0y", "model.name"),
    ],
)
def test_a_mistake_is_one_line_a_setting_without_the_insides_of_libraries(override, message):
    with pytest.raises(ConfigError) as caught:
        resolve(overrides=[override])
    said = str(caught.value)
    assert message in said
    assert len(said) < 1000
    for insides in ("RewardSource", "list[", "pydantic", "function-", "Traceback"):
        assert insides not in said


def test_names_in_a_list_are_rewards():
    found = resolve(overrides=["rl.reward=[reward-001, {source: reward-002, weight: 2}]"]).rl.reward
    assert [(one.source, one.weight) for one in found] == [("reward-001", 1.0), ("reward-002", 2.0)]


@pytest.mark.parametrize("text", ["/data/run #3/model", "#first", "a # b", "a#b"])
def test_a_hash_in_a_value_is_part_of_it(text):
    assert resolve(overrides=[f"model.name={text}"]).model.name == text
    assert resolve(overrides=[f"model.name='{text}'"]).model.name == text


def test_lists_keep_their_signs():
    assert resolve(overrides=["model.stop_strings=['#', a]"]).model.stop_strings == ["#", "a"]


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "p3o", "online-dpo"])
def test_algorithms_that_compare_responses_take_four_of_a_prompt(algorithm):
    assert resolve(overrides=[f"rl.algorithm={algorithm}"]).rl.group_size == 4
    assert resolve(overrides=[f"rl.algorithm={algorithm}", "rl.samples_per_prompt=3"]).rl.group_size == 3
    assert resolve(overrides=["rl.algorithm=ppo"]).rl.group_size == 1
    with pytest.raises(ConfigError, match=r"samples_per_prompt to 2 or more, or to null for 4"):
        resolve(overrides=[f"rl.algorithm={algorithm}", "rl.samples_per_prompt=1"])


def test_nobody_judges_unless_named_but_every_shipped_recipe_with_judgments_names_who(tmp_path):
    assert not resolve().judge.has_judges
    for name in shipped_recipes():
        config = resolve(recipe_file(name))
        assert config.judge.has_judges
        check_recipe(config)
