"""What is listed once is the same everywhere: settings, help texts and tables of the documentation."""

import re
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from plaudit import objectives
from plaudit.algorithms import make
from plaudit.algorithms.base import Algorithm
from plaudit.cli import app
from plaudit.collect.kinds import KINDS as TASK_KINDS
from plaudit.config import Config, JudgeSettings, PreferSettings, RewardSettings, RlSettings
from plaudit.config.model_judges import ModelJudgeSettings
from plaudit.methods import ALGORITHMS, JUDGES, METRICS, PREFERENCE_LOSSES, REWARD_LOSSES
from plaudit.records import JudgmentKind
from plaudit.stages import STAGES
from plaudit.store import exporting, rows

DOCS = Path(__file__).parents[1] / "docs"


def rows_after(page, heading):
    """First cells of the first table under a heading."""
    text = (DOCS / page).read_text(encoding="utf-8")
    table = text[text.index(heading) :].split("|---", 1)[1]
    found = []
    for line in table.splitlines()[1:]:
        if not line.startswith("|"):
            break
        found.append(line.split("|")[1].strip().strip("`"))
    return found


def test_preference_losses_are_the_settings_choice_and_have_a_row_each():
    assert get_args(PreferSettings.model_fields["loss"].annotation) == tuple(PREFERENCE_LOSSES)
    assert sorted(rows_after("algorithms.md", "## Offline")) == sorted(PREFERENCE_LOSSES)
    for loss in PREFERENCE_LOSSES.values():
        assert callable(getattr(objectives, loss.objective))
        assert loss.scaled_by is None or loss.scaled_by in PreferSettings.model_fields


def test_online_algorithms_are_the_settings_choice_and_have_a_row_each():
    assert get_args(RlSettings.model_fields["algorithm"].annotation) == tuple(ALGORITHMS)
    assert sorted(rows_after("algorithms.md", "## Online")) == sorted(ALGORITHMS)
    compared = [name for name, entry in ALGORITHMS.items() if entry.compares]
    assert ", ".join(compared) in re.sub(r"\s+", " ", RlSettings.model_fields["samples_per_prompt"].description)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_online_algorithm_is_what_its_entry_says(name):
    entry = ALGORITHMS[name]
    cost = {"lagrangian": {"cost": "reward-001"}} if entry.constrained else {}
    settings = RlSettings(algorithm=name, **cost)
    assert settings.group_size == (4 if entry.compares else 1)
    assert settings.kl_price > 0
    assert entry.then is None or ALGORITHMS[entry.then].algorithm
    if entry.algorithm:
        made = make(settings)
        assert isinstance(made, Algorithm)
        assert type(made).loss is not Algorithm.loss
        assert made.bounds == {"clip": entry.clip[0], "clip_high": entry.clip[1]}
        assert made.needs == entry


def test_reward_losses_are_the_settings_choice_and_are_described():
    assert get_args(RewardSettings.model_fields["loss"].annotation) == tuple(REWARD_LOSSES)
    described = RewardSettings.model_fields["loss"].description
    page = (DOCS / "reward-models.md").read_text(encoding="utf-8")
    for name in REWARD_LOSSES:
        assert f"{name}:" in described
        assert f"`{name}`" in page or f"reward.loss={name}" in page


def test_every_kind_of_judge_is_described_and_can_be_loaded():
    described = " ".join(ModelJudgeSettings.model_fields["source"].description.split())
    sources = {"model": "sft-001", "reward": "reward:reward-001", "function": "function:judges.py:prefer"}
    for name, kind in JUDGES.items():
        assert kind.source.lower() in described.lower()
        assert callable(kind.load())
        if name != "endpoint":
            assert ModelJudgeSettings(name="one", source=sources[name]).kind is kind
            if not kind.reads_words:
                with pytest.raises(ValueError, match="does not read or write words"):
                    ModelJudgeSettings(name="one", source=sources[name], form="rank")


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gives_a_number_of_each_answer_and_the_most_to_the_reference_itself(name):
    metric = METRICS[name]
    reference = "Rain fell on the garden all night."
    same, other, nothing = metric.load()([reference, "The garden is dry.", ""], [reference] * 3)
    assert 0 <= nothing < other < same
    page = (DOCS.parent / "plaudit" / "reporting" / "page.py").read_text(encoding="utf-8")
    assert metric.title not in page  # it comes from the entry


def test_the_four_kinds_of_judgment_have_one_word_each_in_files_and_one_verb_for_their_task():
    kinds, tasks = {str(kind) for kind in JudgmentKind}, {kind.task for kind in JudgmentKind}
    for files in (rows.Kind, exporting.ExportKind):
        assert kinds <= set(get_args(files))
    assert set(get_args(JudgeSettings.model_fields["form"].annotation)) < kinds
    assert set(get_args(ModelJudgeSettings.model_fields["form"].annotation)) < tasks
    assert tasks < set(TASK_KINDS)


def test_every_stage_has_its_command_and_each_shortcut_sets_what_it_says():
    defaults = Config()
    for stage in STAGES.values():
        words = [*stage.typed.split(), *(["policy"] if stage.kind == "evaluate" else []), "--help"]
        shown = CliRunner().invoke(app, words).output
        assert " ".join(stage.help.split("\n\n")[0].split())[:40] in " ".join(shown.split())
        assert ("--resume" in shown) == stage.is_resumable
        for shortcut in stage.shortcuts:
            assert shortcut.option in shown
            section, key = shortcut.setting.split(".")
            assert key in type(getattr(defaults, section)).model_fields


def test_help_names_every_loss_and_algorithm():
    for words, names in ((["prefer"], PREFERENCE_LOSSES), (["reward"], REWARD_LOSSES), (["rl"], ALGORITHMS)):
        shown = re.sub(r"\s+", " ", CliRunner().invoke(app, [*words, "--help"]).output)
        assert ", ".join(names) in re.sub(r"- ", "-", shown)
