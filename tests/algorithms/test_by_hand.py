"""Advantages and losses of small batches worked by hand: what stands where, and what padding may hold."""

import math

import pytest
import torch
from exact import ONLINE, algorithm, group

from plaudit.algorithms.base import Piece, Rollouts
from plaudit.methods import ALGORITHMS

NAN = float("nan")


def grid(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def rollouts(**more):
    """Four responses, two to a prompt, of 2, 1, 2 and 2 tokens."""
    given = {
        "sequences": [], "group_size": 2, "mask": torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]]).bool(),
        "scores": torch.tensor([2.0, 1.0, 0.0, 4.0], dtype=torch.float64),
        "rewards": grid([0, 2], [1, 0], [0.5, -0.5], [1, 3]),
        "log_probs": grid([-1, -2], [-0.5, 0], [-1, -1], [-2, -1]),
        "reference_log_probs": grid([-1.5, -2], [-1, 0], [-1, -0.5], [-2.5, -2]),
        "values": {
            "reward": grid([0.1, 0.2], [0.3, 0], [0.5, 0.5], [1, 2]), "cost": grid([0, 1], [0, 0], [1, 0], [0, 0]),
        },
        "costs": grid([0, 1], [2, 0], [0, -1], [0, 0.5]), "episode_costs": torch.tensor([1.0, 2.0, -1.0, 0.5]),
    }  # fmt: skip
    return Rollouts(**(given | more))


def piece_of(batch, learnt, **more):
    given = {
        "group_size": batch.group_size, "mask": batch.mask, "old_log_probs": batch.log_probs,
        "advantages": learnt.policy, "returns": batch.returns, "scores": batch.scores,
        "reference_log_probs": batch.reference_log_probs, "cost_advantages": learnt.cost,
    }  # fmt: skip
    return Piece(**(given | more))


def masked(values, mask):
    return values[mask].tolist()


def test_ppo_whitens_advantages_only_where_asked_and_its_targets_never():
    """With lambda 1 and discount 1 an advantage is the reward to go less the value."""
    batch = rollouts()
    plain, white = (algorithm("ppo", gae_lambda=1.0, whiten_advantages=on).advantages(batch) for on in (False, True))
    expected = [2 - 0.1, 2 - 0.2, 1 - 0.3, 0 - 0.5, -0.5 - 0.5, 4 - 1, 3 - 2]
    assert masked(plain.policy, batch.mask) == pytest.approx(expected)
    mean = sum(expected) / 7
    deviation = math.sqrt(sum((a - mean) ** 2 for a in expected) / 7)
    assert masked(white.policy, batch.mask) == pytest.approx([(a - mean) / deviation for a in expected], abs=1e-6)
    for found in (plain, white):
        assert masked(found.targets["reward"], batch.mask) == pytest.approx([2, 2, 1, 0, -0.5, 4, 3])


def test_ppo_discounts_and_damps_by_its_settings():
    """delta_1 = 0 + 0.9 * 0.2 - 0.1, delta_2 = 2 - 0.2; advantage_1 = delta_1 + 0.9 * 0.5 * delta_2."""
    found = algorithm("ppo", gae_lambda=0.5, discount=0.9).advantages(rollouts()).policy[0]
    assert found.tolist() == pytest.approx([0.08 + 0.45 * 1.8, 1.8])


def test_ppos_dual_clip_is_its_setting():
    batch = rollouts()
    advantages = algorithm("ppo").advantages(batch)
    piece = piece_of(batch, advantages, advantages=torch.full_like(batch.rewards, -1.0))
    moved = batch.log_probs + math.log(10)
    for dual, loss in ((None, 10.0), (3.0, 3.0)):
        found, _ = algorithm("ppo", dual_clip=dual).loss(moved, piece)
        assert found[0, 0].item() == pytest.approx(loss)


def online_dpo(log_probs, batch, **settings):
    made = algorithm("online-dpo", online_dpo={"beta": 0.5} | settings.pop("online_dpo", {}), **settings)
    return made.loss(log_probs, piece_of(batch, made.advantages(batch)))


def test_online_dpo_compares_the_best_with_the_worst_against_the_references_gap():
    """Prompt 1: the first wins by 1; prompt 2: the second by 4. Gaps are of whole responses, the policy's moved."""
    batch = rollouts()
    log_probs = batch.log_probs + grid([0.3, 0.1], [0.2, 0], [0, 0.4], [0.5, 0.5])
    ours = [(-0.7 - 1.9) - (-0.3), (-1.5 - 0.5) - (-1 - 0.6)]
    theirs = [(-1.5 - 2) - (-1), (-2.5 - 2) - (-1 - 0.5)]
    found, clipped = online_dpo(log_probs, batch, online_dpo={"labels": "hard"})
    losses = [math.log1p(math.exp(-0.5 * (own - reference))) for own, reference in zip(ours, theirs, strict=True)]
    assert found.tolist() == pytest.approx([losses[0]] * 2 + [losses[1]] * 2)
    assert clipped.tolist() == [False] * 4
    soft, _ = online_dpo(log_probs, batch)
    for prompt, lead in enumerate((1.0, 4.0)):
        right, h = 1 / (1 + math.exp(-lead)), 0.5 * (ours[prompt] - theirs[prompt])
        expected = right * math.log1p(math.exp(-h)) + (1 - right) * math.log1p(math.exp(h))
        assert soft[2 * prompt].item() == pytest.approx(expected)


@pytest.mark.parametrize(("loss", "value"), [("ipo", (0.3 - 1.0) ** 2), ("hinge", 1 - 0.5 * 0.3)])
def test_online_dpos_other_losses_are_those_of_the_gap(loss, value):
    """One prompt, one token each: policy gap 0.5, reference gap 0.2; tau = beta = 0.5, IPO's target 1 / (2 tau) = 1."""
    batch = rollouts(
        mask=torch.ones(2, 1).bool(), scores=grid([3.0, 1.0])[0], rewards=grid([3.0], [1.0]),
        log_probs=grid([-1.0], [-1.0]), reference_log_probs=grid([-1.0], [-1.2]),
    )  # fmt: skip
    found, _ = online_dpo(grid([-0.5], [-1.0]), batch, online_dpo={"labels": "hard", "loss": loss})
    assert found.tolist() == pytest.approx([value] * 2)


def test_online_dpo_learns_nothing_from_a_draw_under_hard_labels_and_a_coins_loss_under_soft_ones():
    batch = rollouts(scores=torch.tensor([1.0, 1.0, 0.0, 4.0], dtype=torch.float64))
    log_probs = batch.log_probs.clone().requires_grad_()
    hard, _ = online_dpo(log_probs, batch, online_dpo={"labels": "hard"})
    assert hard[:2].tolist() == [0, 0]
    assert hard[2:].gt(0).all()
    (gradient,) = torch.autograd.grad(hard.sum(), log_probs)
    assert gradient[:2].eq(0).all()
    soft, _ = online_dpo(batch.log_probs, batch)
    assert soft[0].item() == pytest.approx(math.log(2))  # the same response stands on both sides


def test_online_dpo_needs_the_reference_whole_groups_and_no_advantage():
    assert (ALGORITHMS["online-dpo"].reference, ALGORITHMS["online-dpo"].whole_groups) == (True, True)
    assert ALGORITHMS["online-dpo"].critics == ()
    batch = rollouts()
    found = algorithm("online-dpo").advantages(batch)
    assert found.policy.shape == batch.rewards.shape
    assert (found.policy.abs().sum().item(), found.targets, found.cost) == (0, {}, None)


@pytest.mark.parametrize("name", ONLINE)
def test_what_stands_in_the_padding_changes_no_loss_and_no_gradient(name):
    """Behind the mask there may be anything."""
    batch = rollouts(group_size=group(name))
    made = algorithm(name)
    made.observe(batch)
    advantages = made.advantages(batch)
    found = []
    for filler in (0.0, 7.0, -50.0):
        log_probs = (batch.log_probs + 0.05).masked_fill(~batch.mask, filler).requires_grad_()
        loss, clipped = made.loss(log_probs, piece_of(batch, advantages))
        own = loss if loss.dim() == 1 else loss.masked_fill(~batch.mask, 0.0)
        (gradient,) = torch.autograd.grad(own.sum(), log_probs)
        assert gradient[~batch.mask].eq(0).all()
        seen = clipped if clipped.dim() == 1 else clipped & batch.mask
        found.append((own.detach(), gradient, seen))
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            assert torch.equal(one, another)


@pytest.mark.parametrize("name", ONLINE)
def test_advantages_are_nothing_in_the_padding(name):
    batch = rollouts(group_size=group(name))
    made = algorithm(name)
    found = made.advantages(batch)
    assert found.policy[~batch.mask].eq(0).all()
    for target in found.targets.values():
        assert torch.isfinite(target).all()


def lagrangian(**settings):
    return algorithm(
        "ppo-lagrangian", lagrangian={"cost": "reward-001", "multiplier": 1.0, "clipping": "separate"} | settings
    )


def test_the_lagrangians_clip_fraction_counts_either_clip():
    """Ratios of e^.5 and e^-.5; the reward's surrogate clips what gains by going on, the cost's the same of -A_C."""
    batch = rollouts(group_size=1)
    made = lagrangian()
    signs = grid([1, 1], [-1, 0], [-1, 1], [-1, -1])  # of the advantage
    costs = grid([1, -1], [1, 0], [-1, 1], [1, -1])  # of the cost's
    ratio = grid([0.5, 0.5], [0.5, 0], [0.5, 0.0], [-0.5, -0.5])
    piece = piece_of(batch, made.advantages(batch), advantages=signs, cost_advantages=costs)
    _, clipped = made.loss(batch.log_probs + ratio, piece)
    # up: the reward's where A > 0, the cost's where A_C < 0; down: the reward's where A < 0, the cost's where A_C > 0
    assert clipped.tolist() == [[True, True], [False, False], [True, False], [True, True]]
    _, of_reward = made.loss(batch.log_probs + ratio, piece_of(batch, made.advantages(batch), advantages=signs,
                                                               cost_advantages=None))  # fmt: skip
    assert of_reward.tolist() == [[True, True], [False, False], [False, False], [True, True]]


def test_separate_clipping_combines_after_the_clip_as_in_the_paper():
    """lambda 1: half of (clipped loss of A) and of (clipped loss of -A_C)."""
    batch = rollouts(group_size=1)
    made = lagrangian()
    piece = piece_of(batch, made.advantages(batch), advantages=torch.ones_like(batch.rewards),
                     cost_advantages=torch.full_like(batch.rewards, 2.0))  # fmt: skip
    found, _ = made.loss(batch.log_probs + math.log(1.5), piece)
    assert found[0, 0].item() == pytest.approx((-1.2 + 2 * 1.5) / 2)


def test_the_lagrangians_two_streams_have_their_own_values_and_targets():
    batch = rollouts(group_size=1)
    joint = lagrangian(clipping="joint").advantages(batch)
    apart = lagrangian().advantages(batch)
    assert joint.cost is None
    assert apart.policy.tolist() != joint.policy.tolist()
    assert torch.allclose(joint.policy, (apart.policy - apart.cost) / 2)
    for found in (joint, apart):
        assert torch.allclose(found.targets["cost"], apart.cost + batch.values["cost"])
        assert torch.allclose(found.targets["reward"], apart.policy + batch.values["reward"])
    white = algorithm("ppo-lagrangian", whiten_rewards=True, lagrangian={"cost": "reward-001", "clipping": "separate"})
    assert not torch.allclose(white.advantages(batch).cost, apart.cost)
    assert not torch.allclose(white.advantages(batch).policy, apart.policy)


def test_the_multiplier_moves_by_the_mean_cost_of_the_last_episodes():
    made = lagrangian(window=3, rate=0.5, threshold=0.25, maximum=10.0)
    figures = made.observe(rollouts())
    recent = (2.0 - 1.0 + 0.5) / 3
    assert figures["cost"] == pytest.approx(0.625)
    assert figures["recent_cost"] == pytest.approx(recent)
    assert figures["multiplier"] == pytest.approx(math.exp(0.5 * (recent - 0.25)))


def test_gspo_clips_a_response_by_the_geometric_mean_of_its_ratios():
    """Token ratios e^.4 and e^-.2 make e^.1; e^.5 of one token is beyond 1.2, and its gain is ignored."""
    batch = rollouts()
    made = algorithm("gspo", clip=0.2)
    piece = piece_of(batch, made.advantages(batch), advantages=grid([2, 2], [3, 0], [-1, -1], [0, 0]))
    moved = batch.log_probs + grid([0.4, -0.2], [0.5, 9], [0.5, 0.5], [0, 0])
    moved.requires_grad_()
    loss, clipped = made.loss(moved, piece)
    assert loss.tolist() == pytest.approx([-2 * math.exp(0.1), -3 * 1.2, math.exp(0.5), 0])
    assert clipped.tolist() == [False, True, False, False]
    (gradient,) = torch.autograd.grad(loss.sum(), moved)
    assert gradient[0].tolist() == pytest.approx([-math.exp(0.1)] * 2)  # each token's share of the mean is a half
    assert gradient[1].tolist() == [0, 0]


def test_cispo_weighs_each_token_by_its_ratio_up_to_its_bound():
    batch = rollouts()
    made = algorithm("cispo")
    piece = piece_of(batch, made.advantages(batch), advantages=torch.ones_like(batch.rewards))
    moved = (batch.log_probs + math.log(7)).requires_grad_()
    loss, clipped = made.loss(moved, piece)
    (gradient,) = torch.autograd.grad(loss[batch.mask].sum(), moved)
    assert gradient[batch.mask].tolist() == pytest.approx([-5.0] * 7)
    assert clipped.all()
