"""The stages on a tiny model: they run, they repeat, they survive being stopped, and they learn."""

import json

import pytest
import torch
from conftest import JUDGES, make_model, write_lines
from safetensors.torch import load_file

import plaudit
from plaudit.config import resolve
from plaudit.errors import ConfigError, DataError, ModelError, WorkspaceError
from plaudit.training.steps import optimiser as step_module


def weights(run):
    return load_file(run.model_folder / "model.safetensors")


def same_weights(one, other):
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(first[k].equal(second[k]) for k in first)


def rows(run, *left_out):
    return [{k: v for k, v in row.items() if k not in left_out} for row in run.metrics()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workspace in which every stage has run."""
    from conftest import TINY, WORDS

    base = tmp_path_factory.mktemp("finished")
    model = make_model(base / "model")
    nouns = WORDS[10:]
    questions = [f"What should I do about my {a} and {b} today?" for a in nouns[:6] for b in nouns[6:11]]
    prompts = write_lines(base / "p.jsonl", [{"prompt": q} for q in questions])
    answers = write_lines(
        base / "d.jsonl", [{"prompt": q, "completion": "a good happy answer"} for q in questions[:24]]
    )
    prose = write_lines(base / "prose.jsonl", [{"text": "the garden grows well and water helps it"}] * 3)
    changes = [*TINY, f"model.name={model}", f"evaluate.perplexity_text={prose}", "sft.optimiser.learning_rate=0.01"]
    workspace = plaudit.init(base / "workspace", config=resolve(overrides=changes))
    plaudit.import_file(workspace.store, prompts, kind="prompts")
    plaudit.import_file(workspace.store, answers, kind="demonstrations")
    for stage in (plaudit.sft, plaudit.sample, plaudit.judge, plaudit.reward, plaudit.rl, plaudit.evaluate):
        stage(workspace)
    return workspace


def test_every_run_is_complete_and_knows_where_it_came_from(finished):
    runs = {run.kind: run for run in finished.runs()}
    assert {run.status for run in runs.values()} == {"complete"}
    assert runs["sample"].parents == {"policy": "sft-001"}
    assert runs["reward"].parents == {"model": "sft-001"}
    assert runs["reward"].sources.by_kind == {"comparisons": ["judge-001"]}
    assert runs["rl"].parents == {"policy": "sft-001", "reward": "reward-001"}
    assert runs["evaluate"].parents == {"policy": "rl-001", "baseline": "sft-001", "reward": "reward-001"}
    for run in runs.values():
        assert run.info["versions"]["torch"]
        (data,) = run.info["data"].values()
        assert data["count"] > 0
        assert len(data["sha256"]) == 64
        assert run.config().seed == run.info["seed"]
    assert any((runs["rl"].path / "tensorboard").iterdir())
    assert not list(finished.path.rglob("checkpoint.pt"))


def test_fine_tuning_lowers_the_held_out_loss(finished):
    result = finished.run("latest:sft").result
    assert result["held_out_loss_after"] < 0.7 * result["held_out_loss_before"]


def test_samples_keep_their_ids_and_log_probs(finished):
    responses = finished.store.responses("sample-001")
    assert len(responses) == 120
    for response in responses:
        assert len(response.token_ids) == len(response.log_probs) > 0
        assert max(response.log_probs) <= 0


def test_at_step_0_the_policy_is_the_reference_and_the_ratio_is_1(finished):
    """KL exactly 0, log-ratio exactly 0 before the first update of every step, sampler within 1e-4 of trainer."""
    steps = finished.run("latest:rl").metrics()
    assert steps[0]["kl"] == 0.0
    assert steps[-1]["kl"] != 0.0
    assert all(row["first_ratio_gap"] == 0.0 for row in steps)
    assert all(row["sampler_gap"] < 1e-4 for row in steps)


def test_evaluation_reports_every_figure_with_an_interval(finished):
    result = finished.run("latest:evaluate").result
    for figure in (result["win_rate"], result["win_rate_by_reward"], result["perplexity"]["ratio"]):
        assert figure["low"] <= figure["value"] <= figure["high"]
    for side in ("policy", "baseline"):
        assert {"length", "finished_rate", "utility", "tone", "answers", "repetition"} <= result[side].keys()


def test_a_policy_against_itself_has_no_kl_and_no_perplexity_cost(finished):
    run = plaudit.evaluate(
        finished, finished.config(overrides=["evaluate.policy=sft-001", "evaluate.baseline=sft-001"])
    )
    assert run.result["win_rate"]["value"] == 0.5
    assert run.result["kl"]["value"] == 0.0
    assert run.result["perplexity"]["ratio"]["value"] == 1.0


@pytest.mark.parametrize("kind", ["sft", "reward", "rl"])
def test_the_same_seed_gives_the_same_run_twice_and_another_seed_another(finished, kind):
    stage = getattr(plaudit, kind)
    first = finished.run(f"{kind}-001")
    pinned = ["sample.policy=sft-001", "reward.model=sft-001", "rl.policy=sft-001", "rl.reward=reward-001"]
    again = stage(finished, finished.config(overrides=pinned))
    assert same_weights(first, again)
    assert rows(first) == rows(again)
    assert not same_weights(first, stage(finished, finished.config(overrides=[*pinned, "seed=1"])))


@pytest.mark.parametrize("kind", ["sft", "reward", "rl"])
def test_the_size_of_micro_batches_changes_nothing(finished, kind):
    """Losses and gradient norms of the first step, and the weights in the end; answers are of uneven length."""
    pinned = ["reward.model=sft-001", "rl.policy=sft-001", "rl.reward=reward-001", "model.tokens_per_micro_batch=60"]
    small = getattr(plaudit, kind)(finished, finished.config(overrides=pinned))
    whole = finished.run(f"{kind}-001")
    assert small.metrics()[0] == pytest.approx(whole.metrics()[0], rel=1e-3, abs=1e-5)
    for name, value in weights(small).items():
        torch.testing.assert_close(value, weights(whole)[name], atol=2e-3, rtol=1e-2)


def test_the_first_ratio_is_exactly_1_in_bfloat16_too(finished):
    """There a token's log-prob depends on its batch mates, so the first update must see the batches measured."""
    changes = ["model.dtype=bfloat16", "rl.policy=sft-001", "rl.reward=reward-001", "rl.prompts_per_step=20"]
    run = plaudit.rl(
        finished, finished.config(overrides=[*changes, "rl.minibatches=3", "model.tokens_per_micro_batch=200"])
    )
    steps = run.metrics()
    assert [row["first_ratio_gap"] for row in steps] == [0.0] * len(steps)
    assert steps[0]["kl"] == 0.0


@pytest.mark.parametrize("kind", ["sft", "reward", "rl"])
def test_a_run_stopped_between_two_steps_resumes_to_the_very_same_weights(finished, kind, monkeypatch):
    """Stopped by Ctrl-C after the second optimiser step of the policy; the checkpoint before it is used."""
    pinned = ["reward.model=sft-001", "rl.policy=sft-001", "rl.reward=reward-001"]
    taken = 0
    take = step_module.Optimiser.step

    def stop_at_the_fourth(self):
        nonlocal taken
        taken += 1
        if taken == 4:
            raise KeyboardInterrupt
        return take(self)

    monkeypatch.setattr(step_module.Optimiser, "step", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        getattr(plaudit, kind)(finished, finished.config(overrides=pinned))
    monkeypatch.undo()
    stopped = finished.runs(kind)[-1]
    assert stopped.status == "interrupted"
    with pytest.raises(WorkspaceError, match="Go on with it"):
        finished.run(stopped.name)
    resumed = getattr(plaudit, kind)(finished, resume=stopped.name)
    assert resumed.status == "complete"
    assert same_weights(finished.run(f"{kind}-001"), resumed)
    assert rows(finished.run(f"{kind}-001")) == rows(resumed)


def test_an_interrupted_sampling_run_goes_on_where_it_stopped(workspace, monkeypatch):
    from plaudit.store.database import Store

    config = workspace.config(
        overrides=["sample.policy=" + workspace.config().model.name, "sample.sequences_per_batch=16"]
    )
    add, calls = Store.add_responses, 0

    def stop_at_the_third(self, responses):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return add(self, responses)

    monkeypatch.setattr(Store, "add_responses", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        plaudit.sample(workspace, config)
    monkeypatch.undo()
    kept = workspace.store.responses("sample-001")
    assert len(kept) == 32
    run = plaudit.sample(workspace, resume="sample-001")
    assert run.result["responses"] == 120
    assert kept == [r for r in workspace.store.responses("sample-001") if r in kept]


def test_supervised_loss_is_that_of_the_answers_tokens_alone(workspace, tiny_model):
    """Against transformers' own loss with the prompt's labels masked out."""
    from transformers import AutoModelForCausalLM

    from plaudit.config import ModelSettings
    from plaudit.models.loading import load_causal
    from plaudit.text.chat import TokenSequence
    from plaudit.training.steps.supervised import mean_loss

    model = load_causal(str(tiny_model), ModelSettings(dtype="float32"))
    demonstration = workspace.store.demonstrations()[0]
    sequence = TokenSequence(
        model.format.encode_prompt(demonstration.prompt.messages), model.format.encode_response(demonstration.text)
    )
    ids = torch.tensor([sequence.prompt_ids + sequence.response_ids])
    labels = ids.clone()
    labels[0, : len(sequence.prompt_ids)] = -100
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model)(ids, labels=labels).loss.item()
    assert mean_loss(model.network, [sequence], workspace.config()) == pytest.approx(theirs, abs=1e-5)
    assert sequence.response_ids[-1] == model.format.end_id


def test_a_reward_model_uses_the_comparisons_it_is_told_to(finished):
    others = "judge.annotators=[{name: one, noise: 0.3}, {name: two, noise: 0.6}, {name: three, noise: 1.2}]"
    judged = plaudit.judge(finished, finished.config(overrides=[others]))
    one = plaudit.reward(
        finished, finished.config(overrides=["reward.comparisons=[judge-001]", "reward.model=sft-001"])
    )
    assert same_weights(finished.run("reward-001"), one)
    assert one.info["data"] == finished.run("reward-001").info["data"]
    both = plaudit.reward(finished, finished.config(overrides=["reward.model=sft-001"]))
    assert set(both.parents.values()) == {"sft-001"}
    assert both.sources.comparisons == tuple(sorted(["judge-001", judged.name]))
    assert both.info["data"]["comparisons"]["count"] == 2 * one.info["data"]["comparisons"]["count"]
    with pytest.raises(DataError, match="no comparisons of import-1"):
        plaudit.reward(finished, finished.config(overrides=["reward.comparisons=[import-1]"]))


@pytest.fixture
def good_and_bad(workspace, tmp_path):
    """Comparisons that always prefer the answer with happy words."""
    prompts = workspace.store.prompts()
    pairs = [
        {"prompt": p.messages, "chosen": f"a good kind {w} answer", "rejected": f"a bad awful {w} answer"}
        for p in prompts
        for w in ("tea", "moon")
    ]
    plaudit.import_file(workspace.store, write_lines(tmp_path / "c.jsonl", pairs), kind="comparisons")
    return workspace


def test_a_reward_model_learns_from_imported_comparisons(good_and_bad):
    changes = [
        "reward.model=" + good_and_bad.config().model.name,
        "reward.epochs=4",
        "reward.optimiser.learning_rate=0.01",
    ]
    run = plaudit.reward(good_and_bad, good_and_bad.config(overrides=changes))
    assert run.result["accuracy"]["value"] > 0.95
    assert run.result["ceiling"] is None  # one judgment a pair: no way to know


def test_nothing_to_work_on_is_said(tmp_path, tiny_model):
    empty = plaudit.init(tmp_path / "empty", config=resolve(overrides=[f"model.name={tiny_model}"]))
    for stage in (plaudit.sft, plaudit.sample, plaudit.reward, plaudit.rl):
        with pytest.raises(DataError, match="plaudit import"):
            stage(empty)
    with pytest.raises(WorkspaceError, match="no complete `sample` run"):
        plaudit.judge(empty, empty.config(overrides=[JUDGES]))
    with pytest.raises(ConfigError, match="there is nobody to judge"):
        plaudit.judge(empty)
    assert empty.runs() == []


def test_a_policy_and_a_reward_model_of_different_vocabularies_are_refused(finished, tmp_path):
    other = make_model(tmp_path / "other", vocab_size=400)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ModelError, match="different vocabularies"):
        plaudit.rl(finished, finished.config(overrides=[f"rl.policy={other}"]))
    assert finished.runs("rl")[-1].status == "failed"


def test_a_run_of_the_wrong_kind_is_refused(finished):
    with pytest.raises(WorkspaceError, match="of kind `sft`, but a `reward` run is needed"):
        plaudit.rl(finished, finished.config(overrides=["rl.reward=sft-001"]))
    with pytest.raises(WorkspaceError, match=r"no run `sft-01`. Did you mean `sft-001`"):
        finished.run("sft-01")


def test_metrics_and_results_are_valid_json(finished):
    for run in finished.runs():
        json.loads((run.path / "run.json").read_text())
        assert all(isinstance(v, int | float) for row in run.metrics() for v in row.values())


def test_best_of_n_is_better_by_the_reward_that_chose_and_says_its_bound(finished):
    # most answers end at the first space: what did not finish is never preferred, whatever its score
    changes = ["evaluate.policy=sft-001", 'model.stop_strings=[" "]']
    plain = plaudit.evaluate(finished, finished.config(overrides=changes)).result
    best = plaudit.evaluate(finished, finished.config(overrides=[*changes, "evaluate.best_of=8"])).result
    assert best["policy"]["reward_score"]["value"] > plain["policy"]["reward_score"]["value"] + 0.5
    assert best["baseline"] == plain["baseline"]
    assert best["kl"] is None
    assert best["best_of_kl_bound"] == pytest.approx(1.204442, abs=1e-6)
    with pytest.raises(ConfigError, match="to choose by"):
        finished.config(overrides=["evaluate.best_of=2", "evaluate.reward=null"])


def test_a_policy_from_preferences_is_evaluated_and_reported_like_any_other(finished):
    run = plaudit.prefer(finished, finished.config(overrides=["prefer.policy=sft-001"]))
    evaluation = plaudit.evaluate(finished, finished.config(overrides=["evaluate.policy=latest:prefer"]))
    assert evaluation.parents["policy"] == run.name
    page = plaudit.report(finished, evaluation).read_text()
    assert "Policy from preferences" in page
    assert "Log-probs of chosen and rejected" in page
    assert "no such run led to this evaluation" not in page


@pytest.mark.parametrize("algorithm", ["rloo", "rejection", "ppo-lagrangian"])
def test_the_report_shows_what_an_algorithm_has_and_nothing_it_cannot_have(finished, algorithm):
    changes = [f"rl.algorithm={algorithm}", "rl.samples_per_prompt=2", "rl.policy=sft-001", "rl.reward=reward-001"]
    changes += ["rl.lagrangian.cost=reward-001", "rl.rejection.rounds=1", "rl.rejection.samples_per_prompt=8"]
    run = plaudit.rl(finished, finished.config(overrides=changes))
    evaluation = plaudit.evaluate(finished, finished.config(overrides=[f"evaluate.policy={run.name}"]))
    page = plaudit.report(finished, evaluation).read_text()
    assert ("Value loss" in page) == (algorithm == "ppo-lagrangian")
    assert ("Multiplier of the constraint" in page) == (algorithm == "ppo-lagrangian")
    assert ("Best and median of the samples" in page) == (algorithm == "rejection")


def test_llama_2s_rule_over_two_reward_runs_gives_whitened_scores(finished):
    config = finished.config(overrides=["rl.policy=sft-001", "rl.steps=1", "rl.missing_eos_score=null"])
    sources = [{"source": "reward-001"}, {"source": "reward-001"}]
    changed = {**config.rl.model_dump(), "reward": sources, "combine": "safety-gated", "safety_sources": ["import"]}
    run = plaudit.rl(finished, config.model_validate({**config.model_dump(), "rl": changed}))
    (row,) = run.metrics()
    assert row["score"] == pytest.approx(0.0, abs=1e-5)
    assert row["score_std"] == pytest.approx(1.0, abs=1e-4)
    assert run.parents == {"policy": "sft-001", "reward_0": "reward-001", "reward_1": "reward-001"}


def test_a_cost_models_zero_keeps_its_meaning(finished):
    """Rewards are normalised, costs are not: the threshold is in the cost model's own units."""
    from plaudit.config import ModelSettings
    from plaudit.models.loading import load_reward

    changes = ["rl.algorithm=ppo-lagrangian", "rl.lagrangian.cost=reward-001", "rl.policy=sft-001", "rl.steps=1"]
    run = plaudit.rl(
        finished, finished.config(overrides=[*changes, "rl.reward=reward-001", "rl.missing_eos_score=null"])
    )
    (row,) = run.metrics()
    facts = load_reward(str(finished.run("reward-001").model_folder), ModelSettings()).scores
    assert row["cost"] == pytest.approx(row["score"] * facts.std[0] + facts.mean[0], abs=1e-4)
    assert abs(row["cost"] - row["score"]) > 1e-3


def test_how_rewards_are_combined_says_nothing_of_the_cost(finished):
    both = "rl.reward=[{source: reward-001}, {source: reward-001, weight: 2.0}]"
    changes = ["rl.algorithm=ppo-lagrangian", "rl.lagrangian.cost=reward-001", "rl.policy=sft-001", "rl.steps=1", both]
    run = plaudit.rl(finished, finished.config(overrides=[*changes, "rl.combine=worst-case"]))
    assert "cost" in run.metrics()[0]
    with pytest.raises(
        ModelError, match=r"single head, which has no name: `rl\.lagrangian\.cost: head=wit` is not there"
    ):
        plaudit.rl(finished, finished.config(overrides=[*changes, "rl.lagrangian.cost_head=wit"]))


@pytest.mark.parametrize("kind", ["sft", "reward", "rl", "prefer"])
def test_a_run_does_not_go_on_with_other_data_than_it_began_with(good_and_bad, kind, monkeypatch, tmp_path):
    """Prompts, demonstrations or comparisons that were added meanwhile would shift every later draw in silence."""
    name = good_and_bad.config().model.name
    pinned = [f"reward.model={name}", f"rl.policy={name}", f"prefer.policy={name}"]
    if kind == "rl":
        plaudit.reward(good_and_bad, good_and_bad.config(overrides=pinned))

    def stop(self, *args, **facts):
        raise KeyboardInterrupt

    monkeypatch.setattr(plaudit.Run, "log", stop)
    with pytest.raises(KeyboardInterrupt):
        getattr(plaudit, kind)(good_and_bad, good_and_bad.config(overrides=pinned))
    monkeypatch.undo()
    stopped = good_and_bad.runs(kind)[-1].name
    more = [
        {"prompt": f"Why is the sky blue {i}?", "chosen": "a good answer", "rejected": "a bad one"} for i in range(9)
    ]
    file = tmp_path / "c.jsonl"  # the same file, grown
    plaudit.import_file(good_and_bad.store, write_lines(file, more), kind="comparisons")
    added = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in more]
    plaudit.import_file(good_and_bad.store, write_lines(tmp_path / "new.jsonl", added), kind="demonstrations")
    with pytest.raises(WorkspaceError, match="would not be the same run"):
        getattr(plaudit, kind)(good_and_bad, resume=stopped)
