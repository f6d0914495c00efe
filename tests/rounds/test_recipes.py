"""Recipes: stages that work on the runs of those before them, each kept, gone on with, or done again."""

import json

import pytest
from conftest import JUDGES, TINY, write_lines

import plaudit
from plaudit.config import recipe_file, resolve, shipped_recipes
from plaudit.config.staging import check_recipe, stage_config
from plaudit.errors import ConfigError
from plaudit.store.rows import split_of

NO_JUDGES = [change for change in TINY if change != JUDGES]
"""Shipped recipes name their own."""
SMALL = ["sft.epochs=1", "sft.batch_size=16", "sample.samples_per_prompt=2", "sample.max_new_tokens=8"]


def staged(*stages, overrides=()):
    return resolve(values={"recipe": {"stages": list(stages)}}, overrides=list(overrides))


@pytest.fixture
def workspace(tmp_path, tiny_model):
    workspace = plaudit.init(tmp_path / "w", config=resolve(overrides=[*TINY, *SMALL, f"model.name={tiny_model}"]))
    rows = [{"prompt": f"What about {a} {b}?", "completion": "Tea."} for a in "abcdef" for b in "uvwxyz"]
    file = write_lines(tmp_path / "d.jsonl", rows)
    plaudit.import_file(workspace.store, file, kind="demonstrations", held_out_share=0.25)
    plaudit.import_file(workspace.store, file, kind="prompts", held_out_share=0.25)
    return workspace


def run_stages(workspace, *stages, overrides=(), **more):
    content = workspace.config().model_dump(mode="json") | {"recipe": {"stages": list(stages)}}
    return [
        one.name for one in plaudit.run_recipe(workspace, resolve(values=content, overrides=list(overrides)), **more)
    ]


def test_a_stage_works_on_the_runs_of_its_own_recipe_and_not_on_newer_ones(workspace):
    stages = ["sft", "sample"]
    assert run_stages(workspace, *stages) == ["sft-001", "sample-001"]
    plaudit.sft(workspace, workspace.config(overrides=["sft.optimiser.learning_rate=0.5"]))
    assert run_stages(workspace, *stages, "judge") == ["sft-001", "sample-001", "judge-001"]
    assert run_stages(workspace, *stages, overrides=["sample.temperature=0.7"]) == ["sft-001", "sample-002"]
    assert workspace.run("sample-002").parents["policy"] == "sft-001"
    assert workspace.run("judge-001").config().judge.samples == "sample-001"
    assert run_stages(workspace, *stages, overrides=["seed=1"]) == ["sft-003", "sample-003"]


def test_a_stage_may_have_a_name_and_settings_of_its_own(workspace):
    first = {"stage": "sft", "name": "plain"}
    second = {"stage": "sft", "name": "fast", "settings": {"sft": {"optimiser": {"learning_rate": 0.01}}}}
    of_first = {"stage": "sample", "settings": {"sample": {"policy": "stage:plain"}}}
    names = run_stages(workspace, first, second, of_first, "sample")
    assert names == ["sft-001", "sft-002", "sample-001", "sample-002"]
    assert workspace.run("sft-002").config().sft.optimiser.learning_rate == 0.01
    assert workspace.run("sft-001").config().sft.optimiser.learning_rate != 0.01
    assert [workspace.run(f"sample-00{i}").parents["policy"] for i in (1, 2)] == ["sft-001", "sft-002"]


def test_what_a_change_touches_is_done_again_and_nothing_else(workspace):
    stages = ["sft", {"stage": "sample", "name": "drafts"}, {"stage": "judge", "name": "people"}]
    assert run_stages(workspace, *stages) == run_stages(workspace, *stages) == ["sft-001", "sample-001", "judge-001"]
    changed = {"stage": "sample", "name": "drafts", "settings": {"sample": {"temperature": 0.5}}}
    assert run_stages(workspace, "sft", changed, stages[2]) == ["sft-001", "sample-002", "judge-002"]
    assert run_stages(workspace, *stages) == ["sft-001", "sample-001", "judge-001"]
    assert run_stages(workspace, *stages, fresh=True) == ["sft-002", "sample-003", "judge-003"]
    assert workspace.run("judge-003").parents["samples"] == "sample-003"


def test_an_unfinished_stage_is_gone_on_with(workspace, monkeypatch):
    from plaudit.store.database import Store

    add, calls = Store.add_responses, []

    def stop(self, responses):
        add(self, responses)
        calls.append(len(responses))
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "add_responses", stop)
    with pytest.raises(KeyboardInterrupt):
        run_stages(workspace, "sft", "sample")
    monkeypatch.undo()
    assert workspace.runs("sample")[0].status == "interrupted"
    assert run_stages(workspace, "sft", "sample") == ["sft-001", "sample-001"]
    assert workspace.run("sample-001").info["resumed"]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["sft", "smaple"], "smaple.*Did you mean `sample`"),
        ([{"stage": "sft", "settings": {"sft": {"epoch": 1}}}], "stage 1 of the recipe, sft: unknown setting"),
        ([{"stage": "sample", "settings": {"sample": {"policy": "stage:first"}}}, {"stage": "sft", "name": "first"}],
         "stage 1 of the recipe, sample: `stage:first` in `sample` is no stage before it"),
        ([{"stage": "sft", "settings": {"model": {"name": "stage:first"}}}], "`stage:first` in `model` is no stage"),
        (["sft", "evaluate"], "`latest:rl` in `evaluate`, but no stage before it makes a `rl` run"),
        ([{"stage": "sft", "settings": {"rl": {"steps": 3}}}], "does not read `rl`"),
        ([{"stage": "sft", "name": "a b"}], "pattern"),
        (["sft", "sample", {"stage": "judge", "settings": {"judge": {"annotators": []}}}], "there is nobody to judge"),
        ([{"stage": "sft", "name": "a"}, {"stage": "sample", "name": "a"}], "two stages have the same name"),
        ([{"stage": "sft", "settings": {"recipe": {}}}], "recipe of their own"),
        ([], "at least 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_before_anything_is_run(workspace, stages, message):
    with pytest.raises(ConfigError, match=message):
        run_stages(workspace, *stages)
    assert not workspace.runs()


def test_references_are_made_exact_wherever_they_stand():
    config = staged(
        {"stage": "sft", "name": "a"}, {"stage": "reward", "settings": {"reward": {"comparisons": ["stage:j", "x"]}}},
        overrides=["rl.reward=[{source: judge:latest:sft}, {source: latest:reward}]", "judge.samples=latest:sample"],
    )  # fmt: skip
    made = {"latest:sft": "sft-007", "stage:a": "sft-007", "stage:j": "judge-004"}
    found = stage_config(config, 2, made)
    assert [source.source for source in found.rl.reward] == ["judge:sft-007", "latest:reward"]
    assert found.reward.comparisons == ["judge-004", "x"]
    assert (found.sample.policy, found.judge.samples) == ("sft-007", "latest:sample")
    assert found.recipe == resolve().recipe


def test_judgments_and_demonstrations_that_were_added_are_learnt_from(workspace, tmp_path):
    """Where the settings name none, all in the workspace count, and so what was added makes another run."""
    few = ["sample.samples_per_prompt=2", "reward.epochs=1"]
    stages = ["sft", "sample", "judge", "reward"]
    assert run_stages(workspace, *stages, overrides=few)[-1] == "reward-001"
    assert run_stages(workspace, *stages, overrides=few)[-1] == "reward-001"
    other = "judge.annotators=[{name: other, noise: 0.1}]"
    assert run_stages(workspace, *stages, overrides=[*few, other]) == [
        "sft-001",
        "sample-001",
        "judge-002",
        "reward-002",
    ]
    more = write_lines(tmp_path / "more.jsonl", [{"prompt": "And one more?", "completion": "Coffee."}])
    plaudit.import_file(workspace.store, more, kind="demonstrations", held_out_share=0.0)
    names = run_stages(workspace, *stages, overrides=few)
    assert names == ["sft-002", "sample-002", "judge-003", "reward-003"]
    assert workspace.run("reward-003").parents["model"] == "sft-002"


def test_a_new_run_from_outside_counts_where_a_recipe_makes_none_itself(workspace):
    plaudit.sft(workspace)
    assert run_stages(workspace, "sample") == ["sample-001"]
    plaudit.sft(workspace)
    assert run_stages(workspace, "sample") == ["sample-002"]
    assert workspace.run("sample-002").parents["policy"] == "sft-002"


def test_revisions_are_learnt_from_only_where_they_are_named(workspace):
    last = {"stage": "sft", "settings": {"sft": {"sources": ["given", "latest:revise"]}}}
    tiny = ["revise.rounds=1", "revise.critique_tokens=4", "revise.revision_tokens=6"]
    stages = ["sft", "sample", "revise"]
    names = ["sft-001", "sample-001", "revise-001"]
    assert run_stages(workspace, *stages, last, overrides=tiny) == [*names, "sft-002"]
    assert run_stages(workspace, *stages, "sft", overrides=tiny) == [*names, "sft-001"]
    again = run_stages(workspace, *stages, last, overrides=tiny, fresh=True)
    assert again == ["sft-003", "sample-002", "revise-002", "sft-004"]
    counts = {name: workspace.run(name).info["data"]["demonstrations"]["count"] for name in again if "sft" in name}
    assert counts == {"sft-003": 36, "sft-004": workspace.run("sft-002").info["data"]["demonstrations"]["count"]}
    assert workspace.run("revise-001").result["demonstrations"] == workspace.run("revise-002").result["demonstrations"]


def test_rejection_then_ppo_is_kept_and_gone_on_with_as_two_runs(four_answers):
    changes = ["rl.algorithm=rejection-then-ppo", "rl.steps=1", "rl.rejection.rounds=1", "seed=77"]
    (first,) = run_stages(four_answers, "rl", overrides=changes)
    policy = four_answers.run(first)
    assert policy.config().rl.algorithm == "ppo"
    assert four_answers.run(policy.parents["policy"]).config().rl.algorithm == "rejection-then-ppo"
    assert run_stages(four_answers, "rl", overrides=changes) == [first]
    policy.update(status="interrupted")
    assert run_stages(four_answers, "rl", overrides=changes) == [first]
    assert four_answers.run(first).info["resumed"]


def test_the_command_runs_a_recipe_and_says_what_came_of_it(tiny_quickstart, run):
    workspace, _ = tiny_quickstart("direct-rlaif")
    code, _, error = run("run", "-w", workspace.path, "--dry-run", "recipe.stages=[evaluate, smaple]")
    assert code == 2
    assert "Did you mean `sample`" in error
    code, _, error = run("run", "-w", workspace.path, "--dry-run", "recipe.stages=[judge]")
    assert code == 2
    assert "`latest:sample` in `judge`, but no stage before it makes a `sample` run" in error
    code, out, _ = run("run", "-w", workspace.path, "--json", *NO_JUDGES, *TINY_RECIPES)
    found = json.loads(out)
    assert found["runs"] == ["sft-001", "rl-001", "evaluate-001"]
    assert found["summary"]["win_rate"]["low"] <= found["summary"]["win_rate"]["high"]
    said = run("run", "-w", workspace.path, *NO_JUDGES, *TINY_RECIPES)[1]
    assert "rl-001 against sft-001, held-out prompts: win rate" in said
    assert "Reward model" not in said


@pytest.mark.parametrize("name", shipped_recipes())
def test_what_ships_is_consistent(name):
    config = resolve(recipe_file(name))
    check_recipe(config)
    assert config.recipe.stages[-1].stage == "evaluate"
    assert config.model.name == "smollm2-135m-instruct"


TINY_RECIPES = [
    "sample.samples_per_prompt=2", "sample.max_new_tokens=8", "rl.max_new_tokens=8", "rl.steps=1",
    "rl.prompts_per_step=4", "rl.minibatches=1", "evaluate.samples_per_prompt=1", "evaluate.max_new_tokens=8",
    "sft.epochs=1", "sft.batch_size=32", "revise.rounds=2", "revise.critique_tokens=4", "revise.revision_tokens=6",
]  # fmt: skip


def with_model(content, model):
    if isinstance(content, dict):
        return {key: with_model(value, model) for key, value in content.items()}
    if isinstance(content, list):
        return [with_model(one, model) for one in content]
    return str(model) if content == "smollm2-135m-instruct" else content


@pytest.fixture
def tiny_quickstart(tmp_path, tiny_model, monkeypatch):
    """`plaudit.quickstart` of a shipped recipe with a tiny model in the place of every real one, on few prompts."""
    import yaml

    import plaudit.rounds.quickstart as module

    def run_tiny(name, *changes, ask=None):
        content = with_model(yaml.safe_load(recipe_file(name).read_text()), tiny_model)
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content))
        monkeypatch.setattr(module, "recipe_file", lambda _: file)
        monkeypatch.setattr(module, "_import_shipped", import_few)
        return plaudit.quickstart(
            tmp_path / name, recipe=name, overrides=[*NO_JUDGES, *TINY_RECIPES, *changes], ask=ask
        )

    def import_few(workspace, config):
        rows = [{"prompt": f"What about the {a} {b}?", "completion": "Tea."} for a in FEW for b in FEW]
        assert {split_of([{"role": "user", "content": row["prompt"]}], 0.25) for row in rows} == {"train", "held_out"}
        file = write_lines(workspace.path / "few.jsonl", rows)
        for kind in ("demonstrations", "prompts"):
            plaudit.import_file(workspace.store, file, kind=kind, held_out_share=0.25)

    return run_tiny


FEW = ("dog", "river", "music", "garden", "book")


def test_rlaif_from_its_yaml(tiny_quickstart):
    workspace, evaluation = tiny_quickstart("rlaif")
    assert {c.annotator for c in workspace.store.comparisons("judge-001")} == {"smollm2"}
    assert all(c.soft_preference is not None for c in workspace.store.comparisons("judge-001"))
    summary = json.loads((workspace.path / "summary.json").read_text())
    assert summary["runs"] == ["sft-001", "sample-001", "judge-001", "reward-001", "rl-001", "evaluate-001"]
    assert "smollm2" in (workspace.path / "report.html").read_text()
    assert evaluation.parents == {"policy": "rl-001", "baseline": "sft-001", "reward": "reward-001"}


def test_direct_rlaif_from_its_yaml(tiny_quickstart):
    workspace, _ = tiny_quickstart("direct-rlaif")
    summary = json.loads((workspace.path / "summary.json").read_text())
    assert summary["runs"] == ["sft-001", "rl-001", "evaluate-001"]
    assert summary["reward_accuracy"] is summary["win_rate_by_reward"] is None
    assert "unread_ratings" in workspace.run("rl-001").result


def test_constitutional_ai_from_its_yaml(tiny_quickstart):
    workspace, evaluation = tiny_quickstart("constitutional-ai")
    second, reward, rl = (workspace.run(name) for name in ("sft-002", "reward-001", "rl-001"))
    assert second.sources.demonstrations == ("revise-001",)
    assert second.config().sft.sources == ["given", "revise-001"]
    assert workspace.run("sample-002").parents["policy"] == "sft-002"
    assert reward.config().reward.comparisons == ["judge-001", "judge-002"]
    assert reward.parents["model"] == rl.parents["policy"] == "sft-002"
    assert evaluation.parents | {"reward": ""} == {"policy": "rl-001", "baseline": "sft-001", "reward": ""}
    assert {c.annotator for c in workspace.store.comparisons("judge-002")} == {"constitution"}
    assert len({c.annotator for c in workspace.store.comparisons("judge-001")}) == 3
    summary = json.loads((workspace.path / "summary.json").read_text())
    assert "revise-001" in summary["runs"]


def test_stages_read_no_settings_but_those_that_they_are_known_by(tiny_quickstart, monkeypatch):
    """A stage that read another section would be kept when that section changes."""
    from plaudit.config import Config
    from plaudit.stages import RECIPE_STAGES, STAGES, Stage

    sections = set(Config.model_fields)
    plain = Config.__getattribute__
    reading, read = [], {}

    def watched(self, name):
        if reading and name in sections:
            read.setdefault(reading[-1], set()).add(name)
        return plain(self, name)

    def watch(kind, function):
        def stage(*args, **more):
            reading.append(kind)
            try:
                return function(*args, **more)
            finally:
                reading.pop()

        return stage

    load = Stage.load
    monkeypatch.setattr(Stage, "load", lambda stage: watch(stage.kind, load(stage)))
    monkeypatch.setattr(Config, "__getattribute__", watched)
    tiny_quickstart("constitutional-ai", "reward.zero=demonstrations")
    workspace, _ = tiny_quickstart("direct-rlaif")
    text = write_lines(workspace.path / "text.jsonl", [{"text": f"One day a {a} saw a {b}."} for a in FEW for b in FEW])
    pretrain = [
        f"pretrain.text=[{text}]", "pretrain.steps=2", "pretrain.hidden_size=16", "pretrain.layers=1",
        "pretrain.heads=2", "pretrain.vocabulary_size=300", "pretrain.context_length=32", "pretrain.held_out_share=0.2",
    ]  # fmt: skip
    others = [*pretrain, "judge.models=[]", "recipe.stages=[pretrain, sft, sample, judge, prefer]"]
    plaudit.run_recipe(workspace, workspace.config(overrides=[*TINY, *TINY_RECIPES, *others]))
    assert set(read) == set(RECIPE_STAGES)
    for kind, names in read.items():
        assert names <= set(STAGES[kind].reads)
        assert {"seed", "model", kind} <= names


def test_a_folder_of_another_recipe_is_refused(tiny_quickstart, tmp_path):
    """Also where its stages are the same."""
    tiny_quickstart("quickstart")
    (tmp_path / "quickstart").rename(tmp_path / "rlaif")
    with pytest.raises(ConfigError, match="has another recipe than `rlaif`"):
        tiny_quickstart("rlaif")


def test_a_person_can_judge_only_where_a_stage_asks_for_it(tiny_quickstart, tmp_path):
    asked = []
    with pytest.raises(ConfigError, match="no `judge` stage"):
        tiny_quickstart("direct-rlaif", ask=lambda *_: asked.append(1))
    tiny_quickstart("constitutional-ai", ask=lambda pairs, run, keep: asked.append(run))
    assert asked == ["judge-001"]


def test_a_quickstart_without_an_evaluation_is_refused(tiny_quickstart):
    with pytest.raises(ConfigError, match="ends with `evaluate`"):
        tiny_quickstart("quickstart", "recipe.stages=[sft]")
