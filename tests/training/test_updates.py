"""What is measured of sampled episodes and what is learnt from them, on networks whose numbers are known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tabular import Tabular

from plaudit.algorithms import make
from plaudit.algorithms.base import Advantages
from plaudit.config import OptimiserSettings, resolve
from plaudit.methods import ALGORITHMS
from plaudit.records import Prompt
from plaudit.rewards.scoring import Answered
from plaudit.sampling.episodes import Episode
from plaudit.text.batches import TokenBatch
from plaudit.text.chat import TokenSequence
from plaudit.training.rl.actors import Critic
from plaudit.training.rl.rollouts import Batching, PolicyPasses, charge_kl, figures, measure, score
from plaudit.training.rl.updates import learn
from plaudit.training.steps.optimiser import Optimiser

TOKEN, LEAD = [0, 0, 0, 0, 0, -1.1, -1.4, -0.6], [0, -0.2, 0.1, 0, 0, 0, 0, 0]
REFERENCE = [0, 0, 0, 0, 0, -0.5, -1.7, -0.5]
VALUE = [0, 0, 0, 0, 0, 0.2, -0.3, 0.7]
TEMPERATURE = 2.0


def config(*changes):
    given = [
        "rl.samples_per_prompt=2", "rl.prompts_per_step=2", f"rl.temperature={TEMPERATURE}", "rl.max_new_tokens=4",
        "rl.kl_coefficient=0.3", "rl.minibatches=1", "rl.epochs=1", "rl.algorithm=rloo", "rl.missing_eos_score=null",
        "rl.episodes={reward: turn}",
    ]  # fmt: skip
    return resolve(overrides=[*given, *changes])


def episode(lead, turns, scores, *, finished=True):
    """Turns of the policy, lists of ids, with two ids of the user between them; the scores are found by the texts."""
    made = Episode(Prompt([{"role": "user", "content": f"{lead}"}]), [lead, 3], [])
    for number, (ids, worth) in enumerate(zip(turns, scores, strict=True)):
        if number:
            made._extend([4, 4], [0.0, 0.0], loss_mask=False)
        made.answers.append(Answered([], TokenSequence(made.context, ids), f"{worth}", finished, ""))
        made._extend(ids, [-1.0] * len(ids), loss_mask=True)
        made.ends.append(len(made.token_ids))
    return made


EPISODES = [
    lambda: episode(1, [[5, 6, 7]], [1.0]),
    lambda: episode(1, [[7]], [0.5]),
    lambda: episode(2, [[5], [6, 6]], [2.0, -1.0]),
    lambda: episode(2, [[6, 7]], [3.0], finished=False),
]


def scorer(answers):
    return torch.tensor([float(answer.text) for answer in answers])


def stage(name="rloo", *changes, cost=None):
    """(actors, algorithm, batching, its config)."""
    settings = config(f"rl.algorithm={name}", *changes)
    made = make(settings.rl)
    policy, reference = Tabular(TOKEN, LEAD, torch.float32), Tabular(REFERENCE, None, torch.float32)
    critics = {name: Critic(Tabular(VALUE, None, torch.float32), mean=0.1, std=2.0) for name in made.needs.critics}
    actors = SimpleNamespace(policy=policy, reference=reference, score=scorer, cost=cost, critics=critics)
    batching = Batching(settings, settings.rl.samples_per_prompt, made.needs.whole_groups, torch.device("cpu"))
    return actors, made, batching, settings


def measured(name="rloo", *changes, coefficient=0.3, **more):
    actors, made, batching, settings = stage(name, *changes, **more)
    passes, episodes = PolicyPasses(actors.policy, TEMPERATURE), [one() for one in EPISODES]
    scored = score(actors, episodes, settings.rl)
    grids = measure(actors, passes, episodes, scored.mask, batching, step=1, with_reference=coefficient > 0)
    sequences = [one.sequence for one in episodes]
    rollouts = charge_kl(sequences, scored, grids, settings.rl, kl_coefficient=coefficient)
    return SimpleNamespace(
        actors=actors, algorithm=made, batching=batching, config=settings, rollouts=rollouts, passes=passes,
        facts=figures(rollouts, scored, grids, episodes),
    )  # fmt: skip


MASK = [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 1, 1], [1, 1, 0, 0, 0]]
IDS = [[5, 6, 7], [7], [5, 4, 4, 6, 6], [6, 7]]


def by_hand(table, lead=None, *, scale=1 / TEMPERATURE):
    """[B, T] of each of the policy's tokens, 0 elsewhere."""
    grid = torch.zeros(4, 5)
    for row, ids in enumerate(IDS):
        for column, token in enumerate(ids):
            if MASK[row][column]:
                grid[row, column] = (table[token] + (lead[1 if row < 2 else 2] if lead else 0)) * scale
    return grid


@pytest.mark.parametrize("changes", [[], ["model.tokens_per_micro_batch=6"], ["rl.minibatches=2"]])
def test_grids_have_the_policys_tokens_and_nothing_at_the_users_or_in_the_padding(changes):
    found = measured("ppo", "rl.samples_per_prompt=2", *changes).rollouts
    assert found.mask.tolist() == [[bool(cell) for cell in row] for row in MASK]
    torch.testing.assert_close(found.log_probs, by_hand(TOKEN, LEAD))
    torch.testing.assert_close(found.reference_log_probs, by_hand(REFERENCE))
    torch.testing.assert_close(found.values["reward"], torch.where(
        found.mask, (by_hand(VALUE, scale=1.0) - 0.1) / 2.0, torch.zeros(4, 5)
    ))  # fmt: skip


def test_scores_fall_at_the_end_of_each_turn_and_the_price_at_each_token():
    found = measured()
    assert found.rollouts.scores.tolist() == [1.0, 0.5, 1.0, 3.0]
    task = torch.zeros(4, 5)
    task[0, 2], task[1, 0], task[2, 0], task[2, 4], task[3, 1] = 1.0, 0.5, 2.0, -1.0, 3.0
    gap = by_hand(TOKEN, LEAD) - by_hand(REFERENCE)
    torch.testing.assert_close(found.rollouts.rewards, task - 0.3 * gap)
    assert found.facts["reward"] == pytest.approx(float((task - 0.3 * gap).sum(dim=1).mean()), rel=1e-5)
    assert found.facts["kl"] == pytest.approx(float(gap.sum(dim=1).mean()), rel=1e-5, abs=1e-6)
    assert abs(found.facts["kl"]) > 0.01


def test_the_last_turn_alone_is_scored_where_asked():
    found = measured("rloo", "rl.episodes={reward: end}").rollouts
    assert found.scores.tolist() == [1.0, 0.5, -1.0, 3.0]


def test_an_unfinished_answer_has_the_score_or_the_penalty_of_the_settings():
    assert measured("rloo", "rl.missing_eos_penalty=0.75").rollouts.scores.tolist() == [1.0, 0.5, 1.0, 2.25]
    replaced = measured("rloo", "rl.missing_eos_score=-2.0")
    assert replaced.rollouts.scores.tolist() == [1.0, 0.5, 1.0, -2.0]
    assert replaced.facts["raw_score"] == pytest.approx((1 + 0.5 + 2 - 1 + 3) / 5)


def test_the_steps_figures_are_means_over_what_they_say():
    facts = measured().facts
    assert facts["score"] == pytest.approx(1.375)
    assert facts["score_std"] == pytest.approx(math.sqrt(sum((s - 1.375) ** 2 for s in (1, 0.5, 1, 3)) / 4))
    assert facts["length"] == pytest.approx(9 / 4)
    assert facts["entropy"] == pytest.approx((0.5 + 0.6 + 0.7 + 0.7 + 0.5 + 0.6 + 0.6 + 0.6 + 0.7) / 9)
    assert facts["finished_rate"] == 0.75
    assert facts["turns"] == 5 / 4
    own = by_hand(TOKEN, LEAD)
    gaps = [abs(-1.0 - float(own[row, column])) for row in range(4) for column in range(5) if MASK[row][column]]
    assert facts["sampler_gap"] == pytest.approx(sum(gaps) / 9)


def test_without_a_price_the_reference_is_not_run_and_has_no_grid():
    found = measured(coefficient=0.0)
    assert found.actors.reference.passes == 0
    assert found.rollouts.reference_log_probs is None
    assert "kl" not in found.facts


def test_costs_bear_the_price_with_the_other_sign_where_the_two_are_rescaled():
    settings = "rl.lagrangian={cost: 'function:x.py:f', rescale: %s}"
    gap = by_hand(TOKEN, LEAD) - by_hand(REFERENCE)
    for rescale in ("true", "false"):
        found = measured("ppo-lagrangian", settings % rescale, cost=lambda answers: 2 * scorer(answers)).rollouts
        assert found.episode_costs.tolist() == [2.0, 1.0, 2.0, 6.0]
        task = torch.zeros(4, 5)
        task[0, 2], task[1, 0], task[2, 0], task[2, 4], task[3, 1] = 2.0, 1.0, 4.0, -2.0, 6.0
        torch.testing.assert_close(found.costs, task + (0.3 * gap if rescale == "true" else 0))


# Learning


def learnt(found, *, optimiser=None, coefficient=0.3):
    settings = OptimiserSettings(learning_rate=0.05, warmup_share=0.0, **(optimiser or {}))
    roles = {"policy": found.actors.policy} | {name: critic.network for name, critic in found.actors.critics.items()}
    optimisers = {name: Optimiser(network, settings, 100) for name, network in roles.items()}
    advantages = found.algorithm.advantages(found.rollouts)
    facts = learn(
        found.actors, found.passes, found.algorithm, found.rollouts, advantages, found.batching, optimisers, texts=[],
        step=found.config.rl.value_warmup_steps, kl_coefficient=coefficient,
    )  # fmt: skip
    return facts, optimisers


@pytest.mark.parametrize(("epochs", "pieces"), [(1, 1), (3, 1), (2, 2)])
def test_updates_are_counted_over_minibatches_and_epochs(epochs, pieces):
    facts, optimisers = learnt(measured("rloo", f"rl.epochs={epochs}", f"rl.minibatches={pieces}"))
    assert facts["updates"] == epochs * pieces == optimisers["policy"].steps_taken


def test_the_figures_of_the_first_update_are_those_of_the_sampling_policy():
    facts, _ = learnt(measured("rloo"))
    assert facts["first_ratio_gap"] == pytest.approx(0.0, abs=1e-6)
    assert facts["largest_log_ratio"] == pytest.approx(0.0, abs=1e-6)
    assert facts["approximate_kl"] == pytest.approx(0.0, abs=1e-10)
    assert facts["learning_rate"] == pytest.approx(0.05)


def test_a_later_update_moves_the_ratio_and_its_largest_is_kept():
    found = measured("rloo", "rl.epochs=2")
    facts, _ = learnt(found)
    assert facts["first_ratio_gap"] == pytest.approx(0.0, abs=1e-6)
    assert facts["largest_log_ratio"] > 0.01
    assert facts["approximate_kl"] > 0


@pytest.mark.parametrize("budget", [1000, 6])
@pytest.mark.parametrize("name", ["rloo", "p3o"])
def test_the_policys_gradient_is_that_of_the_loss_over_the_whole_step(name, budget):
    """RLOO: minus the mean over responses of advantage times the log-probs' gradient, at half temperature.

    Of two responses P3O's is the same where nothing has moved yet; it needs both in one micro-batch.
    """
    found = measured(name, f"model.tokens_per_micro_batch={budget}")
    seen = {}
    take = Optimiser.step

    def step(self):
        seen["gradient"] = [gradient.clone() for gradient in self.gradients()]
        return take(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimiser, "step", step)
        facts, _ = learnt(found)
    returns = found.rollouts.returns.view(2, 2)
    advantages = (returns - returns.flip(1)).flatten()
    expected = torch.zeros(8)
    for row, ids in enumerate(IDS):
        for column, token in enumerate(ids):
            if MASK[row][column]:
                expected[token] -= float(advantages[row]) / TEMPERATURE / 4
    assert seen["gradient"][0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert facts["policy_gradient_norm"] == pytest.approx(
        math.sqrt(sum(float(gradient.square().sum()) for gradient in seen["gradient"]))
    )


def test_a_price_in_the_loss_is_added_with_its_coefficient_and_logged():
    """k2 at the first update: half the squared log-ratio a token, reduced as the loss is."""
    changes = ["rl.kl_term=k2"]
    facts, _ = learnt(measured("rloo", *changes))
    gap = by_hand(TOKEN, LEAD) - by_hand(REFERENCE)
    assert facts["kl_loss"] == pytest.approx(float(0.5 * gap.square().sum()) / 4, rel=1e-5)


def test_the_critic_learns_returns_and_its_figures_are_over_the_policys_tokens():
    found = measured("ppo", "rl.samples_per_prompt=1", "rl.prompts_per_step=4", "rl.gae_lambda=1.0",
                     "rl.whiten_rewards=false", "rl.value_clip=null", coefficient=0.0)  # fmt: skip
    facts, optimisers = learnt(found, coefficient=0.0)
    to_go = torch.tensor([[1, 1, 1, 0, 0], [0.5, 0, 0, 0, 0], [1, 0, 0, -1, -1], [3, 3, 0, 0, 0]])
    mask = torch.tensor(MASK).bool()
    errors = (found.rollouts.values["reward"] - to_go)[mask]
    assert facts["value_loss"] == pytest.approx(0.5 * float(errors.square().mean()), rel=1e-5)
    targets = to_go[mask]
    spread = float((targets - targets.mean()).square().mean())
    assert facts["explained_variance"] == pytest.approx(1 - float(errors.square().mean()) / spread, rel=1e-5)
    assert optimisers["reward"].steps_taken == 1
    assert facts["value_gradient_norm"] > 0


def test_in_the_critics_warm_up_the_policy_stays_and_its_schedule_goes_on():
    found = measured("ppo", "rl.samples_per_prompt=1", "rl.prompts_per_step=4", "rl.value_warmup_steps=2")
    before = found.actors.policy.token.detach().clone()
    settings = OptimiserSettings(learning_rate=0.05)
    optimisers = {
        "policy": Optimiser(found.actors.policy, settings, 10),
        "reward": Optimiser(found.actors.critics["reward"].network, settings, 10),
    }
    advantages = found.algorithm.advantages(found.rollouts)
    for step in range(3):
        learn(
            found.actors, found.passes, found.algorithm, found.rollouts, advantages, found.batching, optimisers,
            texts=[], step=step, kl_coefficient=0.3,
        )  # fmt: skip
        assert torch.equal(before, found.actors.policy.token) == (step < 2)
        assert optimisers["policy"].steps_taken == optimisers["reward"].steps_taken == step + 1


def test_an_update_that_would_go_too_far_is_dropped_and_ends_the_step():
    found = measured("rloo", "rl.epochs=5", "rl.max_approximate_kl=0.000001")
    facts, optimisers = learnt(found)
    assert facts["updates"] == 1
    assert optimisers["policy"].steps_taken == 2  # the second was discarded, and the schedule goes on


def spoilt(grid, mask=None, gap=7.0):
    """Not a number past a response's end. In its gaps, which a network's pass goes through, a number of no meaning."""
    if grid is None:
        return None
    mask = torch.tensor(MASK).bool() if mask is None else mask
    ends = mask.flip(1).cumsum(dim=1).flip(1) == 0
    return grid.masked_fill(~mask, gap).masked_fill(ends, math.nan)


def spoilt_rollouts(found):
    """Rewards too, but where an algorithm sums them up as they are."""
    given = found.rollouts
    changed = {
        "log_probs": spoilt(given.log_probs), "reference_log_probs": spoilt(given.reference_log_probs),
        "values": {name: spoilt(grid) for name, grid in given.values.items()},
    }  # fmt: skip
    if found.algorithm.needs.critics:
        changed |= {"rewards": spoilt(given.rewards), "costs": spoilt(given.costs)}
    return replace(given, **changed)


def spoilt_advantages(given):
    targets = {name: spoilt(grid, gap=-7.0) for name, grid in given.targets.items()}  # far from the old values
    return Advantages(spoilt(given.policy), targets, cost=spoilt(given.cost))


LAGRANGIAN = "rl.lagrangian={cost: 'function:x.py:f', clipping: %s}"


VARIANTS = [
    ("reinforce", []),
    ("reinforce", ["rl.reinforce={baseline: value, clip_ratio: true}"]),
    ("rloo", []),
    ("rloo", ["rl.rloo.clip_ratio=true"]),
    ("grpo", ["rl.kl_term=k2"]),
    ("grpo", ["rl.kl_term=k3", "rl.grpo.reduction=response_mean"]),
    ("gspo", []),
    ("cispo", ["rl.clip_high=0.01"]),
    ("ppo", ["rl.whiten_rewards=true", "rl.dual_clip=3"]),
    ("ppo", ["rl.whiten_advantages=false", "rl.value_clip=null"]),
    ("p3o", []),
    ("p3o", ["rl.p3o.clipping=joint"]),
    ("ppo-lagrangian", [LAGRANGIAN % "separate", "rl.whiten_rewards=true"]),
    ("ppo-lagrangian", [LAGRANGIAN % "joint"]),
    ("online-dpo", []),
]


def test_every_online_algorithm_is_among_the_variants():
    assert {name for name, _ in VARIANTS} == {name for name, entry in ALGORITHMS.items() if entry.algorithm}


@pytest.mark.parametrize("budget", [1000, 6])
@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_what_stands_behind_the_mask_changes_no_gradient_and_no_figure(name, changes, budget, monkeypatch):
    """Of networks, of what was measured and of advantages; in two updates, so that ratios move."""
    changes = [*changes, "rl.epochs=2", f"model.tokens_per_micro_batch={budget}"]
    gradients = []
    take = Optimiser.step
    monkeypatch.setattr(
        Optimiser, "step", lambda self: (gradients.extend(g.clone() for g in self.gradients()), take(self))[1]
    )

    def run(spoil):
        gradients.clear()
        found = measured(name, *changes, cost=lambda answers: 2 * scorer(answers))
        if spoil:
            found.rollouts = spoilt_rollouts(found)
            own = found.algorithm.advantages
            found.algorithm.advantages = lambda rollouts: spoilt_advantages(own(rollouts))
        facts = learnt(found)[0]
        return found.facts | facts, list(gradients)

    facts, wanted = run(spoil=False)
    monkeypatch.setattr(
        TokenBatch,
        "to_grid",
        lambda self, values: spoilt(values.new_zeros(self.response_mask.shape), self.response_mask).masked_scatter(
            self.response_mask, values
        ),
    )
    again, found = run(spoil=True)
    assert again == facts
    assert len(found) == len(wanted) > 0
    assert any(gradient.abs().sum() > 0 for gradient in wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.equal(other)


def test_texts_are_mixed_in_by_their_coefficient_and_cost_a_token():
    """The gradient of coefficient * mean -log p of the texts' tokens, beside that of the reward."""
    found = measured("rloo", "rl.pretraining={texts_per_step: 2, coefficient: 3.0}")
    texts = [TokenSequence([1], [5, 6]), TokenSequence([2], [7])]
    optimisers = {"policy": Optimiser(found.actors.policy, OptimiserSettings(learning_rate=0.01), 10)}
    policy = found.actors.policy
    loss = -sum(policy.of(text) for text in texts) / 3
    facts = learn(
        found.actors, found.passes, found.algorithm, found.rollouts, found.algorithm.advantages(found.rollouts),
        found.batching, optimisers, texts=texts, step=0, kl_coefficient=0.3,
    )  # fmt: skip
    assert facts["pretraining_loss"] == pytest.approx(loss, rel=1e-6)
    # d/d token: -1/3 each of 5, 6, 7; d/d lead: -2/3 and -1/3
    assert facts["pretraining_gradient_norm"] == pytest.approx(3 * math.sqrt(3 / 9 + 4 / 9 + 1 / 9), rel=1e-6)
    assert facts["reward_gradient_norm"] > 0
    assert facts["policy_gradient_norm"] != pytest.approx(facts["reward_gradient_norm"])
