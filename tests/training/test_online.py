"""Every online algorithm through the real loop, on a tiny language model whose best answer is known."""

import math
from itertools import pairwise

import pytest
import torch
from conftest import write_lines
from tiny_task import WORTH, algorithm, function, rows, train, weights
from torch.nn.utils.rnn import pad_sequence

import plaudit
from plaudit.algorithms.ppo import PPO
from plaudit.errors import ConfigError, DataError, WorkspaceError
from plaudit.methods import ALGORITHMS
from plaudit.models import loading
from plaudit.models.network import Network
from plaudit.text import batches
from plaudit.text.batches import TokenBatch
from plaudit.training.rl.rollouts import PolicyPasses

HEAD = "rl.value_head_coefficient=0.1"
ONLINE = [name for name, entry in ALGORITHMS.items() if entry.algorithm]
EVERY = ONLINE + [f"{name} {HEAD}" for name in ONLINE if ALGORITHMS[name].critics]


def slow(*case):
    """A variant: what is its own is tested in exact expectations, or in another case beside what it shares."""
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("reinforce", []),
        slow("reinforce", ["rl.reinforce.baseline=none"]),
        ("reinforce", ["rl.reinforce.baseline=value", "rl.reinforce.clip_ratio=true"]),
        ("rloo", []),
        slow("rloo", ["rl.rloo.clip_ratio=true"]),
        slow("grpo", []),
        ("grpo", ["rl.grpo={scale_by_std: true, reduction: response_mean}", "rl.kl_term=k3"]),
        ("gspo", []),
        slow("gspo", ["rl.grpo.scale_by_std=true"]),
        ("cispo", []),
        ("ppo", []),
        slow("ppo", ["model.lora=null", "rl.optimiser.learning_rate=0.002"]),
        slow("ppo", [HEAD]),
        ("ppo", [HEAD, "model.lora=null", "rl.optimiser.learning_rate=0.002"]),
        ("p3o", []),
        slow("p3o", ["rl.p3o.clipping=joint"]),
        ("online-dpo", ["rl.online_dpo={beta: 0.5, labels: hard}"]),
        ("rejection", []),
    ],
)  # fmt: skip
def test_it_learns_the_best_of_four_answers(four_answers, name, changes):
    """From about a quarter each to mostly the best one, which alone has a worth of 2; the mean began near 0.5."""
    run = train(four_answers, f"rl.algorithm={name}", *changes)
    first, last = run.result["first"]["score"], run.result["last"]["score"]
    assert first < 1.0
    if name == "rejection":
        check = train(four_answers, f"rl.policy={run.name}", "rl.steps=1", "rl.prompts_per_step=12")
        last = check.metrics()[0]["score"]
    assert last > 1.6


def test_a_constraint_is_kept_at_the_cost_of_reward(four_answers):
    """The best answer costs 1, any other -1. At beta 1 it would be said 64 % of the time (mean cost 0.29); a threshold
    of -0.5 allows 25 %."""
    run = train(
        four_answers, *algorithm(four_answers, "ppo-lagrangian"), "rl.steps=60",
        "rl.kl_coefficient=1.0", "rl.lagrangian.threshold=-0.5", "rl.lagrangian.window=64", "rl.lagrangian.rate=0.2",
    )  # fmt: skip
    late = run.metrics()[30:]
    cost = sum(row["cost"] for row in late) / len(late)
    assert cost == pytest.approx(-0.5, abs=0.2)
    assert late[-1]["multiplier"] > 0.3
    free = train(
        four_answers, "rl.algorithm=ppo", "rl.kl_coefficient=1.0", f"rl.reward={function(four_answers, 'worth')}"
    )
    assert free.result["last"]["score"] > sum(row["score"] for row in late) / len(late) + 0.2


def test_the_price_of_kl_sets_how_far_a_policy_goes(four_answers):
    """RLOO at beta 1 ends near reference * exp(R / beta) / Z: mean worth and KL as the reference's own answers say."""
    steps = ["rl.algorithm=rloo", "rl.steps=60", "rl.kl_coefficient=1.0", "rl.prompts_per_step=12"]
    run = train(four_answers, *steps, "rl.optimiser={learning_rate: 0.01, schedule: linear}")
    start = train(four_answers, "rl.steps=1", "rl.prompts_per_step=12", "rl.samples_per_prompt=64").metrics()[0]
    last = run.metrics()[-10:]
    score, kl = (sum(row[name] for row in last) / len(last) for name in ("score", "kl"))
    uniform = torch.full((4,), 0.25)
    worth = torch.tensor(list(WORTH.values()))
    optimum = uniform * worth.exp() / (uniform * worth.exp()).sum()
    assert start["score"] == pytest.approx(0.5, abs=0.25)
    assert score == pytest.approx(float((optimum * worth).sum()), abs=0.2)
    assert kl == pytest.approx(float((optimum * (optimum / uniform).log()).sum()), abs=0.2)


@pytest.mark.parametrize("minibatches", [1, 2])
@pytest.mark.parametrize("name", EVERY)
def test_the_size_of_micro_batches_changes_no_gradient(four_answers, name, minibatches):
    """The first step's figures, gradient norms among them, and the weights after two steps."""
    common = [*algorithm(four_answers, name), "rl.steps=2", f"rl.minibatches={minibatches}"]
    common += ["rl.prompts_per_step=6", "rl.temperature=1.3"]
    whole = train(four_answers, *common, "model.tokens_per_micro_batch=100000")
    small = train(four_answers, *common, "model.tokens_per_micro_batch=40")
    assert rows(small)[0] == pytest.approx(rows(whole)[0], rel=2e-3, abs=1e-5)
    for key, value in weights(small).items():
        torch.testing.assert_close(value, weights(whole)[key], atol=5e-3, rtol=5e-2)


@pytest.mark.parametrize("how", ["model.lora={rank: 4, alpha: 8, targets: all}", "model.lora=null",
                                 "model.activation_checkpointing=true"])  # fmt: skip
@pytest.mark.parametrize("name", EVERY)
def test_the_only_update_goes_back_on_the_pass_that_was_measured(four_answers, name, how, monkeypatch, without_trials):
    common = [*algorithm(four_answers, name), how, "rl.steps=2", "rl.minibatches=1", "rl.prompts_per_step=6"]
    passes = []
    plain = Network.log_probs_of

    def counted(self, states, batch, **options):
        passes.append(options.get("with_entropy", False))
        return plain(self, states, batch, **options)

    monkeypatch.setattr(Network, "log_probs_of", counted)
    run = train(four_answers, *common)
    assert passes == [False, True] * 2  # reference and policy, which alone is asked for its entropy
    measured = PolicyPasses.measure
    monkeypatch.setattr(PolicyPasses, "measure", lambda self, batch, *, keep: measured(self, batch, keep=False))
    again = train(four_answers, *common)
    assert passes[4:] == [False, True, False] * 2
    for one, other in zip(rows(run), rows(again), strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    for key, value in weights(run).items():
        torch.testing.assert_close(value, weights(again)[key], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_the_first_ratio_is_exactly_1_and_the_start_is_the_reference(four_answers, name):
    run = train(four_answers, *algorithm(four_answers, name), "rl.steps=2")
    first, second = rows(run)
    assert first["kl"] == 0.0
    assert second["kl"] != 0.0
    assert first["first_ratio_gap"] == second["first_ratio_gap"] == 0.0


@pytest.mark.parametrize("name", ["ppo", f"ppo {HEAD}", "p3o", "online-dpo"])
def test_what_stands_in_the_padding_changes_nothing(four_answers, name, monkeypatch, without_trials):
    """Answers of uneven length, one below the other. Places past a sequence's end are the last token's, what networks
    say of them is no number: the same figures and weights."""
    common = [*algorithm(four_answers, name), "rl.steps=2", "rl.temperature=1.5"]
    monkeypatch.setattr(loading, "takes_packed_batches", lambda body: False)
    seen, spoilt = [], []
    plain_ids = TokenBatch.padded_ids.fget
    monkeypatch.setattr(TokenBatch, "padded_ids", property(lambda batch: (seen.append(plain_ids(batch)), seen[-1])[1]))
    plain = train(four_answers, *common)
    before = [ids.clone() for ids in seen]
    seen.clear()

    def with_another_place(places, **more):
        return pad_sequence(places, **more, padding_value=int(max(row.max() for row in places)))

    def with_no_number(batch, values):
        spoilt.append(not batch.response_mask.all())
        grid = values.new_full(batch.response_mask.shape, math.nan)
        return grid.masked_scatter(batch.response_mask, values)

    monkeypatch.setattr(batches, "pad_sequence", with_another_place)
    monkeypatch.setattr(TokenBatch, "to_grid", with_no_number)
    garbage = train(four_answers, *common)
    assert any(not ids.equal(others) for ids, others in zip(seen, before, strict=True))
    assert any(spoilt)
    assert rows(garbage) == rows(plain)
    assert all(value.equal(weights(plain)[key]) for key, value in weights(garbage).items())


@pytest.mark.parametrize("lora", ["{rank: 4, alpha: 8, targets: all}", "null"])
def test_a_value_head_takes_no_pass_of_its_own_and_moves_the_body_by_its_coefficient(four_answers, lora, monkeypatch):
    passes = []
    take = Network._states_at
    monkeypatch.setattr(Network, "_states_at", lambda *a: (passes.append(1), take(*a))[1])
    common = [f"model.lora={lora}", "rl.steps=2", "rl.minibatches=1", "rl.kl_coefficient=0"]
    train(four_answers, "rl.algorithm=rloo", *common)  # which has no values at all
    without = len(passes)
    train(four_answers, *common, HEAD)
    assert len(passes) == 2 * without
    monkeypatch.setattr(PPO, "loss", lambda self, log_probs, piece: (0 * log_probs, log_probs > 0))
    one, ten = (train(four_answers, *common, f"rl.value_head_coefficient={c}") for c in (1.0, 10.0))
    first, second = rows(one)
    assert first["policy_gradient_norm"] == 0.0  # a head of zeros asks nothing of the body
    assert second["policy_gradient_norm"] > 0.0
    assert rows(ten)[1]["policy_gradient_norm"] == pytest.approx(10 * second["policy_gradient_norm"], rel=0.02)


def test_how_values_are_learnt_is_nothing_to_an_algorithm_that_learns_none(four_answers):
    one, other = (train(four_answers, "rl.algorithm=rloo", "rl.steps=2", *head) for head in ([], [HEAD]))
    for row, same in zip(rows(one), rows(other), strict=True):
        assert row == pytest.approx(same, rel=1e-6)


@pytest.mark.parametrize("name", [n for n in ONLINE if ALGORITHMS[n].compares])
def test_a_shift_of_each_prompts_rewards_changes_nothing(four_answers, name):
    common = [f"rl.algorithm={name}", "rl.steps=1", "rl.missing_eos_score=null"]
    plain = train(four_answers, *common)
    shifted = train(four_answers, *common, f"rl.reward={function(four_answers, 'shifted')}")
    assert rows(shifted)[0]["score"] > rows(plain)[0]["score"] + 5
    for key, value in weights(shifted).items():
        torch.testing.assert_close(value, weights(plain)[key], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", [n for n in EVERY if ALGORITHMS[n.split()[0]].own_kl is None])
def test_without_a_price_the_reference_is_never_run(four_answers, name, monkeypatch, without_trials):
    calls = []
    take = Network.log_probs_of
    monkeypatch.setattr(
        Network, "log_probs_of", lambda self, *a, **k: (calls.append(self.adapter), take(self, *a, **k))[1]
    )
    run = train(four_answers, *algorithm(four_answers, name), "rl.steps=1", "rl.kl_coefficient=0")
    assert set(calls) == {"policy"}
    assert "kl" not in rows(run)[0]
    calls.clear()
    train(four_answers, *algorithm(four_answers, name), "rl.steps=1")
    assert set(calls) == {"policy", None}


@pytest.mark.parametrize("name", [*EVERY, "rejection"])
def test_a_stopped_run_resumes_to_the_very_same_weights(four_answers, name, monkeypatch):
    """Multiplier, KL coefficient, value models and kept samples included."""
    common = [*algorithm(four_answers, name), "rl.steps=3", "rl.save_every=1"]
    common += [] if name in ("rejection", "online-dpo") else ["rl.kl_target=0.5", "rl.kl_horizon=100"]
    whole = train(four_answers, *common)
    log, calls = plaudit.Run.log, 0

    def stop_at_the_second(self, *args, **facts):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return log(self, *args, **facts)

    monkeypatch.setattr(plaudit.Run, "log", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(four_answers, *common)
    monkeypatch.undo()
    stopped = four_answers.runs("rl")[-1]
    resumed = plaudit.rl(four_answers, resume=stopped.name)
    assert rows(resumed) == rows(whole)
    assert all(value.equal(weights(whole)[key]) for key, value in weights(resumed).items())


def test_the_controller_steers_the_coefficient_by_its_rule(four_answers):
    run = train(four_answers, "rl.kl_target=0.5", "rl.kl_horizon=100", "rl.steps=3", "rl.algorithm=rloo")
    steps = rows(run)
    for before, after in pairwise(steps):
        error = max(-0.2, min(0.2, before["kl"] / 0.5 - 1))
        assert after["kl_coefficient"] == pytest.approx(before["kl_coefficient"] * (1 + error * 32 / 100))
    assert steps[0]["kl_coefficient"] == 0.1


@pytest.mark.parametrize("name", ["ppo", "rloo", "p3o"])
def test_pretraining_texts_hold_the_language_model(four_answers, name, tmp_path):
    """With the mix the texts get likelier, without it less so; both gradients are logged."""
    texts = write_lines(tmp_path / "t.jsonl", [{"text": "the garden grows well and water helps it"}] * 2)
    mix = f"rl.pretraining={{text: {texts}, coefficient: 5.0, texts_per_step: 2}}"
    run = train(four_answers, f"rl.algorithm={name}", "rl.steps=10", mix)
    first, last = rows(run)[0], rows(run)[-1]
    assert last["pretraining_loss"] < 0.7 * first["pretraining_loss"]
    assert first["pretraining_gradient_norm"] > 0
    assert first["reward_gradient_norm"] > 0


def test_several_rewards_are_summed_with_their_weights(four_answers):
    both = [{"source": function(four_answers, "worth"), "weight": 2.0},
            {"source": function(four_answers, "words"), "weight": -0.5}]  # fmt: skip
    config = four_answers.config(overrides=["rl.steps=1", "rl.missing_eos_score=null"])
    config = config.model_validate({**config.model_dump(), "rl": {**config.rl.model_dump(), "reward": both}})
    run = plaudit.rl(four_answers, config)
    assert run.parents["reward_1"].endswith(":words")
    alone = [
        rows(train(four_answers, "rl.steps=1", "rl.missing_eos_score=null", f"rl.reward={source['source']}"))[0][
            "score"
        ]
        for source in both
    ]
    assert rows(run)[0]["score"] == pytest.approx(2 * alone[0] - 0.5 * alone[1], abs=1e-5)


def test_a_model_can_rate_the_answers_directly(four_answers):
    run = train(four_answers, "rl.reward=judge:sft-001", "rl.steps=1", "rl.missing_eos_score=null")
    assert -1 <= rows(run)[0]["score"] <= 1
    assert run.parents["reward"] == "judge:sft-001"


def test_ppo_after_rejection_sampling_is_two_runs_of_one_command(four_answers):
    run = train(four_answers, "rl.algorithm=rejection-then-ppo", "rl.steps=1", "rl.rejection.rounds=1")
    first = four_answers.run(run.parents["policy"])
    assert first.config().rl.algorithm == "rejection-then-ppo"
    assert run.config().rl.algorithm == "ppo"


def test_rejection_sampling_keeps_the_best_of_all_rounds(four_answers):
    import json

    run = train(four_answers, "rl.algorithm=rejection", "rl.rejection.rounds=2", "rl.rejection.samples_per_prompt=4")
    kept = [json.loads(line) for line in (run.path / "kept.jsonl").read_text().splitlines()]
    assert kept
    assert {row["round"] for row in kept} <= {1, 2}
    assert all(row["score"] == WORTH.get(row["text"], -1.0) for row in kept)
    both = rows(run)
    assert both[1]["score"] > both[0]["score"]
    assert all(row["best_score"] >= row["median_score"] for row in both)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["rl.algorithm=pp0"], "Did you mean `ppo`"),
        (["rl.algorithm=rloo", "rl.samples_per_prompt=1"], "compares responses to one prompt"),
        (["rl.algorithm=ppo-lagrangian"], "needs a cost model"),
        (["rl.kl_term=k1"], "`rl.kl_term` = 'k1': unknown.* Known: reward, k2, k3"),
        (["rl.algorithm=ppo-lagrangian", "rl.lagrangian.cost=reward-001", "rl.kl_term=k2"], "in reward and cost"),
        (["rl.algorithm=p3o", "rl.clip_high=0.3"], "one bound"),
        (["rl.missing_eos_penalty=1"], "either a penalty or a score"),
        (["rl.combine=safety-gated"], "list two runs"),
        (["rl.algorithm=online-dpo", "rl.online_dpo.beta=0"], "`rl.online_dpo.beta`.*greater than 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(four_answers, changes, message):
    with pytest.raises(ConfigError, match=message):
        four_answers.config(overrides=changes)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("broken", DataError, "for 2 of 2|returned nan for"),
        ("short", DataError, "returned 1 numbers for 2 responses"),
        ("nothing", DataError, "returned None for 2 responses. It must return a finite number for each"),
        ("wroth", ConfigError, "Did you mean `worth`"),
        ("not_a_function", ConfigError, "has no function"),
    ],
)
def test_a_reward_function_that_cannot_work_is_said_at_once(four_answers, name, error, message):
    before = len(four_answers.runs("rl"))
    with pytest.raises(error, match=message):
        train(four_answers, f"rl.reward={function(four_answers, name)}")
    failed = four_answers.runs("rl")[before:]
    assert all(run.status == "failed" and not run.metrics() for run in failed)


def test_a_missing_cost_model_and_a_missing_reward_are_named(four_answers):
    with pytest.raises(WorkspaceError, match="no run `reward-007`"):
        train(four_answers, "rl.algorithm=ppo-lagrangian", "rl.lagrangian.cost=reward-007")
    with pytest.raises(WorkspaceError, match="no complete `reward` run"):
        train(four_answers, "rl.reward=latest:reward")
    with pytest.raises(ConfigError, match="no such file"):
        train(four_answers, "rl.reward=function:nowhere.py:f")


def test_math_of_the_optimum_used_above():
    """exp(1) + exp(0) + exp(2) + exp(-1), the best arm's share."""
    assert math.exp(2) / (math.exp(1) + 1 + math.exp(2) + math.exp(-1)) == pytest.approx(0.6439, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["rl.algorithm=online-dpo", "rl.kl_target=3"], "KL in the loss already"),
        (["rl.algorithm=online-dpo", "rl.kl_term=k2"], "KL in the loss already"),
        (["rl.algorithm=rloo", "rl.value_warmup_steps=2"], "rloo has none"),
        (["rl.minibatches=9"], "cannot be made of prompts_per_step: 8"),
        (["rl.algorithm=rejection", "rl.pretraining.text=t.jsonl"], "likelihood training as it is"),
        (["prefer.loss=simpo", "prefer.reference=sft-001"], "has no reference"),
        (["prefer.loss=kto", "prefer.likelihood_coefficient=1"], "no likelihood term"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(four_answers, changes, message):
    with pytest.raises(ConfigError, match=message):
        four_answers.config(overrides=changes)


def test_a_gradient_that_is_no_number_stops_the_run_and_keeps_its_checkpoint(four_answers, monkeypatch):
    from plaudit.errors import ModelError
    from plaudit.training.rl import updates

    accumulate, calls = updates._accumulate, 0

    def poison(actors, *args):
        nonlocal calls
        found = accumulate(actors, *args)
        calls += 1
        if calls == 5:
            next(p for p in actors.policy.trainable_parameters() if p.grad is not None).grad.fill_(float("nan"))
        return found

    monkeypatch.setattr(updates, "_accumulate", poison)
    with pytest.raises(ModelError, match=r"gradient of optimiser step 5 is nan(.|\n)*last checkpoint"):
        train(four_answers, "rl.steps=4", "rl.save_every=1")
    monkeypatch.undo()
    stopped = four_answers.runs("rl")[-1]
    assert stopped.status == "failed"
    assert len(stopped.metrics()) == 2
    assert plaudit.rl(four_answers, resume=stopped.name).status == "complete"


def test_a_resumed_rejection_goes_on_to_ppo(four_answers, monkeypatch):
    changes = ["rl.algorithm=rejection-then-ppo", "rl.steps=1", "rl.rejection.rounds=1"]

    def stop(self, *args, **facts):
        raise KeyboardInterrupt

    monkeypatch.setattr(plaudit.Run, "log", stop)
    with pytest.raises(KeyboardInterrupt):
        train(four_answers, *changes)
    monkeypatch.undo()
    first = four_answers.runs("rl")[-1]
    run = plaudit.rl(four_answers, resume=first.name)
    assert run.parents["policy"] == first.name
    assert run.config().rl.algorithm == "ppo"


@pytest.mark.parametrize(("prompts", "pieces"), [(5, 4), (9, 6), (10, 4), (8, 8), (7, 1)])
def test_minibatches_are_as_many_and_as_equal_as_asked(four_answers, prompts, pieces):
    from plaudit.training.rl.rollouts import Batching

    config = four_answers.config(overrides=[f"rl.minibatches={pieces}", f"rl.prompts_per_step={prompts}"])
    batches = Batching(config, 3, False, torch.device("cpu")).minibatches(3 * prompts, step=2, epoch=1)
    assert len(batches) == pieces
    sizes = [len(batch) // 3 for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(row for batch in batches for row in batch) == list(range(3 * prompts))
    for batch in batches:  # responses to one prompt stand side by side
        assert all(batch[i] + 1 == batch[i + 1] for i in range(0, len(batch), 3))


def test_an_early_stop_leaves_the_schedule_where_it_belongs(four_answers):
    """Linear to 0 over the steps, whatever part of a step's updates was dropped."""
    linear = "rl.optimiser={learning_rate: 0.01, schedule: linear, warmup_share: 0}"
    run = train(four_answers, linear, "rl.steps=4", "rl.epochs=3", "rl.max_approximate_kl=0.000001")
    assert rows(run)[0]["updates"] < 6
    assert [row["learning_rate"] for row in rows(run)] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_scores_by_llama_2s_rule_compare_between_rounds_of_rejection():
    from plaudit.rewards.scoring import Answered, SafetyGated
    from plaudit.text.chat import TokenSequence

    def by_length(answers):
        return torch.tensor([float(len(answer.text)) for answer in answers])

    def answers(*texts):
        return [Answered([], TokenSequence([], []), text, True) for text in texts]

    plain = SafetyGated(by_length, by_length, 0.1, frozenset(), whitened=False)
    assert plain(answers("aaaa", "a"))[0] == plain(answers("aaaa", "aaaaaaaaa"))[0]
    whitened = SafetyGated(by_length, by_length, 0.1, frozenset(), whitened=True)
    assert whitened(answers("aaaa", "a"))[0] != whitened(answers("aaaa", "aaaaaaaaa"))[0]


def test_a_function_that_fails_says_how(four_answers, tmp_path):
    file = tmp_path / "failing.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Weights:\n"
        "    tea: float = 1.0\n\ndef missing(prompts, responses):\n    return [{}['tea'] for _ in responses]\n"
        "def fine(prompts, responses):\n    return [Weights().tea] * len(responses)\n"
        "def reply(conversation):\n    return conversation[0]['text']\n"
    )
    with pytest.raises(DataError, match="failed on 2 responses: KeyError: 'tea'"):
        train(four_answers, f"rl.reward=function:{file}:missing")
    with pytest.raises(DataError, match="reply failed: KeyError: 'text'"):
        train(four_answers, f"rl.episodes.user=function:{file}:reply")
    assert train(four_answers, f"rl.reward=function:{file}:fine", "rl.steps=1").status == "complete"


def test_a_large_seed_is_a_seed(four_answers, tmp_path):
    assert train(four_answers, "seed=1732190000000", "rl.steps=1").status == "complete"


def test_a_price_in_the_loss_is_not_in_the_reward_as_well(four_answers):
    by_loss = train(four_answers, "rl.algorithm=rloo", "rl.steps=3", "rl.kl_term=k2")
    by_reward = train(four_answers, "rl.algorithm=rloo", "rl.steps=3")
    last = rows(by_loss)[-1]
    assert last["reward"] == pytest.approx(last["score"], abs=1e-5)
    assert last["kl_loss"] > 0
    last = rows(by_reward)[-1]
    assert last["reward"] == pytest.approx(last["score"] - 0.1 * last["kl"], abs=1e-4)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_a_higher_price_in_the_loss_keeps_the_policy_nearer(four_answers, estimator):
    common = ["rl.algorithm=grpo", f"rl.kl_term={estimator}", "rl.steps=15"]
    far, near = (
        train(four_answers, *common, f"rl.kl_coefficient={price}").result["last"]["kl"] for price in (0.01, 3.0)
    )
    assert near < 0.3 * far


def test_each_round_of_rejection_sampling_begins_at_the_start(four_answers, monkeypatch):
    """Samples are the newest policy's, weights are the start's: round upon round would forget."""
    from plaudit.models.network import trainable_state
    from plaudit.training import rejection

    imitate, starts, ends = rejection._imitate, [], []

    def look(actors, *args):
        starts.append(trainable_state(actors.policy))
        losses = imitate(actors, *args)
        ends.append(trainable_state(actors.policy))
        return losses

    monkeypatch.setattr(rejection, "_imitate", look)
    train(four_answers, "rl.algorithm=rejection", "rl.rejection.rounds=3")
    assert len(starts) == 3
    for start in starts:
        assert all(a.equal(b) for a, b in zip(start, starts[0], strict=True))
    assert not all(a.equal(b) for a, b in zip(ends[0], starts[0], strict=True))


def test_an_ensemble_of_one_is_refused(four_answers):
    with pytest.raises(ConfigError, match=r"several models of one reward: list them in `rl\.reward`"):
        train(four_answers, "rl.combine=worst-case")


def test_an_ensemble_trusts_what_its_models_agree_on():
    from plaudit.rewards.scoring import Answered, Ensemble
    from plaudit.text.chat import TokenSequence

    answers = [Answered([], TokenSequence([1], [2]), text, True) for text in ("a", "bb")]
    low, high = (lambda given, s=s: torch.tensor([s * len(a.text) for a in given]) for s in (1.0, 3.0))
    parts = [(1.0, low), (2.0, high)]  # 1 and 6 for the first, 2 and 12 for the second
    assert Ensemble(parts, None)(answers).tolist() == [1.0, 2.0]
    assert Ensemble(parts, 0.0)(answers).tolist() == [3.5, 7.0]
    assert Ensemble(parts, 2.0)(answers).tolist() == [3.5 - 5.0, 7.0 - 10.0]
