"""The `judge` stage: what annotators like, the form of their judgments, and what the run says of them."""

import json

import pytest
from conftest import REWARDS

import plaudit
from plaudit.errors import ConfigError, DataError
from plaudit.judgments import judgments_of
from plaudit.store import Store
from plaudit.store.exclusions import Choice, exclude


@pytest.fixture
def sampled(workspace, tiny_model):
    workspace_config = workspace.config(overrides=[f"sample.policy={tiny_model}", "sample.samples_per_prompt=3"])
    plaudit.sample(workspace, workspace_config)
    return workspace


def judged(workspace, *changes):
    return plaudit.judge(workspace, workspace.config(overrides=list(changes)))


def test_a_run_says_who_its_annotators_were_and_what_they_are_like(sampled):
    biased = "{name: left, noise: 1, position_bias: 3, median_seconds: 36.8}"
    run = judged(sampled, f"judge.annotators=[{{name: plain, noise: 0.5}}, {biased}]")
    assert run.result["simulated"] == {
        "plain": {"noise": 0.5},
        "left": {"noise": 1.0, "position_bias": 3.0, "median_seconds": 36.8},
    }
    assert run.result["utility"]["tone"] == 1.5
    habits = run.result["habits"]
    assert habits["left"]["first"]["low"] > habits["plain"]["first"]["high"]
    assert habits["left"]["seconds"] > 10
    assert habits["plain"]["seconds"] is None
    assert run.result["agreement"]["raw"]["value"] < 1
    kept = {a.name: a.parameters for a in sampled.store.annotators()}
    assert kept["left"]["position_bias"] == 3.0
    assert kept["plain"].keys() == {"noise", "taste", "seed"}


def test_noise_is_scaled_to_the_agreement_wanted(sampled):
    run = judged(sampled, "judge.annotators=preset:instructgpt", "judge.agreement=0.66")
    noises = {facts["noise"] for facts in run.result["simulated"].values()}
    assert len(noises) == 1
    raw = run.result["agreement"]["raw"]
    assert raw["low"] < 0.66 < raw["high"]
    with pytest.raises(ConfigError, match="no noise gives an agreement"):
        judged(sampled, "judge.annotators=preset:alpacafarm", "judge.agreement=0.7")


def test_rankings_are_kept_as_pairs_and_ratings_as_labels_that_a_reward_model_can_learn(sampled):
    ranked = judged(sampled, "judge.form=rankings", "judge.annotators=preset:stiennon")
    comparisons = sampled.store.comparisons(ranked.name)
    assert len({c.ranking for c in comparisons}) == 3 * 30
    assert len(comparisons) == ranked.result["judgments"] == 3 * ranked.result["pairs"]
    rated = judged(sampled, "judge.form=ratings", "judge.annotators=preset:stiennon")
    kept = [label for label in sampled.store.labels("quality") if label.run == rated.name]
    assert len(kept) == rated.result["judgments"] == 3 * 30 * 3
    assert 0.5 < rated.result["agreement"]["raw"]["value"] < 1
    model = f"reward.model={sampled.config().model.name}"
    learnt = plaudit.reward(sampled, sampled.config(overrides=["reward.loss=rating", model, "reward.epochs=1"]))
    assert learnt.result["rating_error"]["quality"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("judge.utility=[]", "needs rules"),
        ("judge.utility=[{weight: 1}]", "one of the two"),
        ("judge.utility=[{pattern: '(', weight: 1}]", "not a regular expression"),
        ("judge.annotators=[{name: a, noise: 1, flip_rate: 0.6}]", "less than or equal to 0.5"),
        ("judge.annotators=[{name: a, noise: 1, grade_thresholds: [1, 3, 2]}]", "must grow"),
        ("judge={form: rankings, annotators: [{name: a, noise: 1, tie_band: 1}]}", "not of rankings"),
        ("judge={form: ratings, annotators: [{name: a, noise: 1, position_bias: 1}]}", "ratings are of one response"),
    ],
)
def test_settings_that_make_no_sense_are_refused(sampled, change, message):
    with pytest.raises(ConfigError, match=message):
        judged(sampled, change)


def test_rules_functions_and_reward_models_can_be_what_is_liked(sampled, tmp_path):
    sharp = "judge.annotators=[{name: sharp, noise: 0.001}]"
    responses = {r.id: r.text for r in sampled.store.responses("sample-001")}

    def winners(*changes):
        run = judged(sampled, sharp, *changes)
        rows = sampled.store.comparisons(run.name)
        assert rows
        return run, [(c.first, c.second) if c.choice == "first" else (c.second, c.first) for c in rows]

    _, shorter = winners("judge.utility=[{fact: words, weight: -1}]")
    assert all(len(responses[a].split()) <= len(responses[b].split()) for a, b in shorter)
    _, held = winners("judge.utility=[{pattern: '[aeiou]', weight: 2}, {fact: words, weight: 0}]")
    vowel = {i: any(v in text.lower() for v in "aeiou") for i, text in responses.items()}
    assert all(vowel[a] >= vowel[b] for a, b in held)
    file = tmp_path / "likes.py"
    file.write_text("def most(prompts, responses):\n    return [len(r) for r in responses]\n" + REWARDS)
    run, longest = winners(f"judge.utility=function:{file}:most")
    assert all(len(responses[a]) >= len(responses[b]) for a, b in longest)
    assert run.result["utility"].endswith(":most")
    for name, message in (
        ("short", "1 numbers for"),
        ("nothing", "returned None for"),
        ("broken", "must return a finite number"),
    ):
        with pytest.raises(DataError, match=message):
            judged(sampled, f"judge.utility=function:{file}:{name}")
    model = f"reward.model={sampled.config().model.name}"
    plaudit.reward(sampled, sampled.config(overrides=[model, f"reward.comparisons=[{run.name}]"]))
    by_model, _ = winners("judge.utility=latest:reward")
    assert by_model.parents["utility"] == by_model.result["utility"] == "reward-001"
    assert json.dumps(by_model.result)


PLAIN, OTHER = "{name: plain, noise: 0.5}", "{name: other, noise: 1}"


def test_judging_the_same_samples_again_adds_nothing(sampled):
    first = judged(sampled, f"judge.annotators=[{PLAIN}, {OTHER}]")
    before = sampled.store.comparisons()
    assert judged(sampled, f"judge.annotators=[{PLAIN}, {OTHER}]").name == first.name
    assert judged(sampled, f"judge.annotators=[{OTHER}]").name == first.name
    assert sampled.store.comparisons() == before


def test_only_who_has_not_judged_yet_is_asked_and_the_new_run_stands_for_all(sampled):
    first = judged(sampled, f"judge.annotators=[{PLAIN}]")
    both = judged(sampled, f"judge.annotators=[{PLAIN}, {OTHER}]")
    assert {c.annotator for c in sampled.store.comparisons(both.name)} == {"other"}
    assert both.result["annotators"] == ["other", "plain"]
    assert both.result["judgments"] == 2 * first.result["judgments"]
    model = f"reward.model={sampled.config().model.name}"
    learnt = plaudit.reward(sampled, sampled.config(overrides=[model, "reward.comparisons=[latest:judge]"]))
    assert learnt.sources.comparisons == (both.name,)
    assert learnt.info["data"]["comparisons"]["count"] == both.result["judgments"]


@pytest.mark.parametrize("change", ["seed=5", "judge.guideline_preference.tone=3", "judge.form=rankings"])
def test_a_judge_of_other_settings_is_asked(sampled, change):
    one = f"judge.annotators=[{PLAIN}]"
    assert judged(sampled, one).name != judged(sampled, one, change).name


def test_samples_of_which_some_were_excluded_since_are_judged_afresh(sampled):
    one = judged(sampled, f"judge.annotators=[{PLAIN}]")
    exclude(sampled.store, Choice(ids=(sampled.store.responses()[0].id,)), actor="me")
    other = judged(sampled, f"judge.annotators=[{PLAIN}]")
    assert other.name != one.name
    assert other.result["pairs"] < one.result["pairs"]


def test_another_policys_samples_are_judged_afresh(sampled):
    one = judged(sampled, f"judge.annotators=[{PLAIN}]")
    plaudit.sample(sampled, sampled.config(overrides=["sample.policy=" + sampled.config().model.name, "seed=1"]))
    other = judged(sampled, f"judge.annotators=[{PLAIN}]")
    assert other.name != one.name
    assert other.parents["samples"] == "sample-002"


def test_judgments_of_a_run_that_failed_do_not_count_until_it_is_complete(sampled, capsys):
    """Except those of a person."""
    from plaudit.judges import stage
    from plaudit.records import Comparison

    good = judged(sampled, f"judge.annotators=[{PLAIN}]")
    file = sampled.path / "judges.py"
    file.write_text("def broken(prompts, firsts, seconds):\n    raise OSError('gone')\n")

    def one_pair(pairs, run, keep):
        prompt, first, second = pairs[0]
        keep(Comparison(prompt.id, first.id, second.id, "person:me", "first", run))

    models = f'judge.models=[{{"name": "m", "source": "function:{file}:broken"}}]'
    settings = sampled.config(overrides=[f"judge.annotators=[{OTHER}]", models, "judge.people=1"])
    with pytest.raises(DataError, match="gone"):
        stage.judge(sampled, settings, ask=one_pair)
    (failed,) = [run for run in sampled.runs("judge") if run.status == "failed"]
    there = len(sampled.store.comparisons(failed.name))
    assert there == 1 + good.result["judgments"]
    found = judgments_of(sampled, None, Store.comparisons)
    assert sorted({c.annotator for c in found.rows}) == ["person:me", "plain"]
    assert found.unfinished == {failed.name: there - 1}
    found.say()
    assert f"{failed.name} is not complete: {there - 1} judgments" in capsys.readouterr().err
    anew = judged(sampled, f"judge.annotators=[{OTHER}]")  # what did not count is no reason not to ask
    assert {c.annotator for c in sampled.store.comparisons(anew.name)} == {"other"}
    file.write_text("def broken(prompts, firsts, seconds):\n    return [0.5] * len(prompts)\n")
    stage.judge(sampled, resume=failed.name)
    assert not judgments_of(sampled, None, Store.comparisons).unfinished
