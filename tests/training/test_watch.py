"""Collapse is said, once, and kept with the run."""

import math

import pytest
import torch

import plaudit
from plaudit.config import Config, PreferSettings
from plaudit.statistics.enough import alike, unfinished
from plaudit.training.rl.watch import Watch, signs_of_collapse
from plaudit.training.steps.preference import compared, pair_losses

SOUND = {"kl": 2.8, "entropy": 1.2, "length": 14.0, "finished_rate": 0.9, "reward": 0.3, "value_loss": 0.4}
DIFFERENT = [[5, 6, 2], [7, 2], [5, 8, 9, 2], [6, 2]]


def signs(answers=DIFFERENT, prompts=4, **changes):
    return list(signs_of_collapse({**SOUND, **changes}, SOUND, answers, prompts))


def test_a_sound_step_shows_no_sign():
    assert signs() == []
    assert signs(kl=None) == []
    assert signs(kl=30.0, length=128.0) == []  # long answers depart by more
    assert signs(kl=1.4, length=1.0) == []
    assert signs_of_collapse({**SOUND, "entropy": 0.001}, {**SOUND, "entropy": 0.05}, DIFFERENT, 4) == {}


@pytest.mark.parametrize(
    ("changes", "sign"),
    [
        ({"kl": 338.0, "length": 128.0}, "far from its start"), ({"kl": math.nan}, "far from its start"),
        ({"entropy": 7e-34}, "nothing left to choose"), ({"finished_rate": 0.0}, "No answer finished"),
        ({"reward": 1e6}, "far from the size of 1"), ({"value_loss": 1e15}, "Values are not learnt"),
        ({"answers": [[2]] * 8}, "single token"), ({"answers": [[]] * 8}, "single token"),
        ({"answers": [[5, 5, 5, 2], [5, 2], [5, 5, 2], [5, 5, 5, 5]]}, "one and the same token"),
        ({"answers": [[5, 6, 7, 2]] * 5}, "Every answer is the same"),
    ],
)  # fmt: skip
def test_each_sign_of_collapse_is_seen(changes, sign):
    (found,) = signs(**changes)
    assert sign in found


def test_few_answers_or_one_prompt_may_be_alike_by_chance():
    assert alike([[5, 6, 2]] * 3, 3) == []
    assert alike([[5, 6, 2]] * 9, 1) == []
    assert alike([], 0) == []


def test_answers_of_which_none_finished_are_said():
    assert unfinished(0.01, 32, "x") == []
    assert unfinished(0.0, 32, "rl.max_new_tokens") == [
        "No answer finished within 32 tokens: every one was cut off. Raise rl.max_new_tokens."
    ]


def test_what_was_said_is_kept_and_not_said_again(tmp_path, capsys):
    workspace = plaudit.init(tmp_path / "w")
    with workspace.new_run("rl", Config(), parents={}) as run:
        run.log(1, **SOUND)
        for step in (2, 3):
            Watch(run).step(step, {**SOUND, "entropy": 1e-9, "kl": 400.0}, DIFFERENT, 4)
        watch = Watch(run)
        watch.likelihood(5.0, 420, of="training")
        watch.likelihood(6.5, 420, of="training", step=1)  # as at the start of pretraining
        watch.likelihood(15.2, 420, of="training", step=9)
        watch.likelihood(6.1, 420, of="held-out")
        watch.likelihood(None, 420, of="held-out")
        watch.held_out(0.69, 0.68)
        watch.held_out(0.6931, 13.5)
    assert [warning.partition(" (")[0] for warning in run.warnings] == [
        "The policy has gone far from its start",
        "The policy has nothing left to choose",
        "The training loss is above that of guessing every token",
        "The held-out loss is above that of guessing every token",
        "The held-out loss grew",
    ]
    assert "step 2: KL 400 nats a response, 29 a token" in run.warnings[0]
    assert "step 9: 15.2 nats a token, and 6.04 for guessing" in run.warnings[2]
    assert capsys.readouterr().err.count("WARNING") == 5


def test_a_learning_rate_of_1_is_said_to_have_ruined_the_policy(four_answers):
    changes = ["rl.algorithm=rloo", "rl.optimiser.learning_rate=1.0", "rl.steps=4", "rl.most_sampler_gap=1000"]
    run = plaudit.rl(four_answers, four_answers.config(overrides=changes))
    assert run.status == "complete"
    assert run.warnings


def test_fine_tuning_that_ends_above_guessing_is_said(workspace):
    changes = ["sft.optimiser={learning_rate: 3.0, schedule: constant}", "model.lora=null", "sft.epochs=4"]
    run = plaudit.sft(workspace, workspace.config(overrides=changes))
    assert any("above that of guessing every token" in warning for warning in run.warnings)


@pytest.mark.parametrize(
    "changes",
    [{"loss": loss} for loss in ("dpo", "hinge", "simpo", "orpo", "cpo", "conservative-dpo", "robust-dpo")]
    + [{"loss": "ipo", "per_token": per_token, "beta": 0.001} for per_token in (True, False)],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_a_pair_is_right_exactly_where_its_loss_is_the_lower_way_round(changes):
    """What is printed as accuracy and margin is of what the loss compares, whatever the lengths."""
    settings = PreferSettings(**changes)
    torch.manual_seed(0)
    lengths = torch.randint(1, 40, (60,)).float()
    own = -torch.rand(60) * lengths * 2
    reference = own * (0.5 + torch.rand(60))
    if settings.loss in ("simpo", "orpo", "cpo"):
        reference = torch.zeros(60)
    one, other = torch.arange(0, 60, 2), torch.arange(1, 60, 2)
    worth = compared(settings, own, reference, lengths)
    ahead = pair_losses(settings, own, reference, lengths, one, other)
    behind = pair_losses(settings, own, reference, lengths, other, one)
    clear = (ahead - behind).abs() > 1e-6
    assert clear.sum() > 20
    assert torch.equal((worth[one] > worth[other])[clear], (ahead < behind)[clear])
    by_sums = own - reference
    if settings.loss in ("simpo", "orpo") or settings.per_token:
        assert not torch.equal(worth[one] > worth[other], by_sums[one] > by_sums[other])


def test_orpos_printed_margin_is_the_difference_of_log_odds():
    """p = 1/2 a token: odds 1; p = 1/4: odds 1/3."""
    settings = PreferSettings(loss="orpo")
    own = torch.tensor([3 * math.log(0.5), math.log(0.25)])
    worth = compared(settings, own, torch.zeros(2), torch.tensor([3.0, 1.0]))
    assert (worth[0] - worth[1]).item() == pytest.approx(math.log(3.0), rel=1e-5)
    assert own[0] < own[1]  # the sums say the contrary
