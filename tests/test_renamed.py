"""Settings under old names: refused where typed, read where kept."""

import pytest
import yaml

from plaudit.config import Config, RlSettings, recipe_file, resolve
from plaudit.config.renamed import RENAMED, translated
from plaudit.errors import ConfigError
from plaudit.workspace import CONFIG_NAME, Workspace

OLD = {
    "seed": 3,
    "judge": {"taste": {"tone": 3.0}, "utility": "taste"},
    "rl": {
        "algorithm": "online-dpo",
        "kl_coefficient": 0.2,
        "kl_placement": "reward",
        "kl_estimator": "k1",
        "top_p": 1.0,
        "clip": 0.2,
        "grpo": {"divide_by_deviation": True},
    },
}


def known(name):
    section = Config
    for part in name.split("."):
        section = section.model_fields[part].annotation
    return True


@pytest.mark.parametrize("setting", RENAMED, ids=lambda setting: setting.old)
def test_an_old_name_is_refused_with_the_new_one_wherever_it_is_typed(setting, tmp_path):
    assert not setting.new or known(setting.new)
    with pytest.raises(KeyError):
        known(setting.old)
    file = tmp_path / "own.yaml"
    tree = "x"
    for part in reversed(setting.old.split(".")):
        tree = {part: tree}
    file.write_text(yaml.safe_dump(tree))
    message = f"`{setting.old}` is now `{setting.new}`" if setting.new else f"`{setting.old}` is gone"
    for typed in ({"overrides": [f"{setting.old}=x"]}, {"values": tree}):
        with pytest.raises(ConfigError, match=message):
            resolve(recipe_file(), **typed)
    with pytest.raises(ConfigError, match=message):
        resolve(file)


def test_a_value_with_a_new_name_is_refused_with_it():
    with pytest.raises(ConfigError, match="taste is now called guideline"):
        resolve(overrides=["judge.utility=taste"])


@pytest.mark.parametrize(
    ("placement", "estimator", "term"),
    [("reward", "k1", "reward"), ("loss", "k2", "k2"), ("loss", "k3", "k3"), (None, "k1", "reward")],
)
def test_two_settings_of_the_kl_are_one_now(placement, estimator, term):
    rl = {"kl_placement": placement, "kl_estimator": estimator}
    found, changes = translated({"rl": {name: value for name, value in rl.items() if value}})
    assert resolve(values=found).rl.kl_term == term
    assert len(changes) == 2 - (placement is None)


def test_what_was_so_under_old_names_stays_so():
    """The price of KL was online DPO's beta, and every algorithm clipped at 0.2 unless told otherwise."""
    before = yaml.safe_dump(OLD)
    found, _ = translated(OLD)
    rl = resolve(values=found).rl
    assert (rl.kl_price, rl.online_dpo.beta, rl.clip, rl.grpo.scale_by_std) == (0.2, 0.2, None, True)
    judge = resolve(values=found).judge
    assert (judge.guideline_preference.tone, judge.utility) == (3.0, "guideline")
    assert yaml.safe_dump(OLD) == before
    assert translated(found) == (found, [])
    assert RlSettings(clip=0.2).clip_range == RlSettings().clip_range == (0.2, 0.2)


def test_an_old_workspace_opens_says_so_once_and_keeps_its_file(tmp_path, capsys):
    Workspace.create(tmp_path / "w")
    file = tmp_path / "w" / CONFIG_NAME
    file.write_text(yaml.safe_dump(OLD))
    capsys.readouterr()
    config = Workspace(tmp_path / "w").config()
    said = capsys.readouterr()
    assert "rl.kl_placement is rl.kl_term" in said.out + said.err
    assert (config.seed, config.rl.grpo.scale_by_std) == (3, True)
    assert yaml.safe_load((tmp_path / "w" / "plaudit.old.yaml").read_text()) == OLD
    again = Workspace(tmp_path / "w")
    assert "new names" not in "".join(capsys.readouterr())
    assert again.config() == config


def test_the_settings_of_an_old_run_are_read_as_they_were(workspace):
    with workspace.new_run("rl", workspace.config(), parents={}) as run:
        pass
    path = run.path / "config.yaml"
    path.write_text(yaml.safe_dump(OLD))
    assert workspace.run(run.name).config().rl.kl_price == 0.2
    assert yaml.safe_load(path.read_text()) == OLD
