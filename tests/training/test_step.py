"""The optimiser's schedule, and that its settings reach Adam."""

import math

import pytest
import torch
from torch import nn

import plaudit
from plaudit.config import Config, OptimiserSettings
from plaudit.errors import ModelError, WorkspaceError
from plaudit.models.network import Network
from plaudit.training.steps.optimiser import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint, total_norm


def network(*, rows=2, columns=3):
    torch.manual_seed(0)
    return Network(nn.Linear(columns, rows), nn.Identity())


def optimiser(steps=10, made=None, **settings):
    return Optimiser(made or network(), OptimiserSettings(**({"learning_rate": 0.1} | settings)), steps)


def rates(steps, **settings):
    """Of every step, and of one beyond the last."""
    made = optimiser(steps, **settings)
    found = []
    for _ in range(steps + 1):
        found.append(made.learning_rate)
        made.discard()
    return found


def test_the_rate_rises_linearly_and_is_not_0_at_the_first_step():
    found = rates(10, warmup_share=0.35, schedule="constant")  # four steps of warm-up
    assert found[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert found[5:] == pytest.approx([0.1] * 6)
    assert rates(10, warmup_share=0.0, schedule="constant") == pytest.approx([0.1] * 11)
    assert rates(10, warmup_share=0.05, schedule="constant") == pytest.approx([0.1] * 11)  # one step, at the whole rate


def test_the_rate_falls_from_the_end_of_the_warm_up_to_0_at_the_end():
    linear = rates(6, warmup_share=0.34, schedule="linear")  # three steps of warm-up
    assert linear == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.2 / 3, 0.1 / 3, 0.0])
    cosine = rates(4, warmup_share=0.0, schedule="cosine")
    assert cosine == pytest.approx([0.05 * (1 + math.cos(math.pi * done / 4)) for done in range(5)])


def test_a_run_that_is_all_warm_up_or_goes_on_too_long_has_a_rate_all_the_same():
    assert rates(2, warmup_share=1.0) == pytest.approx([0.05, 0.1, 0.1])
    made = optimiser(3, warmup_share=0.0)
    made.move_schedule_to(7)
    assert made.learning_rate == 0.0
    made.move_schedule_to(1)
    assert made.learning_rate == pytest.approx(0.1 * 2 / 3)


def test_the_settings_reach_adam_and_only_matrices_decay():
    made = optimiser(second_moment_decay=0.9, epsilon=0.03, weight_decay=0.2)
    matrices, others = made._adam.param_groups
    assert [p.dim() for p in matrices["params"]] == [2]
    assert [p.dim() for p in others["params"]] == [1]
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.2, 0.0)
    for group in (matrices, others):
        assert (group["betas"], group["eps"], group["lr"]) == ((0.9, 0.9), 0.03, 0.1)


def test_a_step_is_loshchilov_and_hutters_at_the_rate_of_the_schedule():
    """The first step moves w by rate * (g / (|g| + eps) + decay w): the corrected moments are g and g^2."""
    body = network()
    made = optimiser(
        10, body, second_moment_decay=0.9, epsilon=0.5, weight_decay=0.2, warmup_share=0.2, max_gradient_norm=100.0
    )
    before = [p.detach().clone() for p in body.body.parameters()]
    for parameter, value in zip(body.body.parameters(), (1.5, -2.0), strict=True):
        parameter.grad = torch.full_like(parameter, value)
    norm = made.step()
    assert norm == pytest.approx(math.sqrt(6 * 1.5**2 + 2 * 2.0**2))
    weight, bias = body.body.parameters()
    torch.testing.assert_close(weight.data, before[0] - 0.05 * (1.5 / 2.0 + 0.2 * before[0]))
    torch.testing.assert_close(bias.data, before[1] + 0.05 * 2.0 / 2.5)
    assert all(gradient is None for gradient in made.gradients())
    assert made.steps_taken == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_scaled_down_to_the_norm_and_never_up(dtype):
    """With an epsilon far above the gradients a step is nearly proportional to them."""
    moves = []
    for size in (0.5, 1.0, 4.0):
        body = Network(nn.Linear(1, 1, bias=False).to(dtype), nn.Identity())
        made = optimiser(10, body, epsilon=1000.0, warmup_share=0.0, schedule="constant", learning_rate=100.0)
        (weight,) = body.body.parameters()
        before = weight.item()
        weight.grad = torch.full_like(weight, size)
        assert made.step() == pytest.approx(size)
        moves.append((before - weight.item()) / 0.1)
    assert moves == pytest.approx([0.5, 1.0, 1.0], rel=0.01)


def test_a_gradient_that_is_no_number_changes_nothing_and_names_the_step():
    body = network()
    made = optimiser(10, body)
    before = [p.detach().clone() for p in body.body.parameters()]
    for parameter in body.body.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    with pytest.raises(ModelError, match="optimiser step 1 is inf"):
        made.step()
    assert all(torch.equal(one, other) for one, other in zip(before, body.body.parameters(), strict=True))


def test_the_norm_is_of_all_numbers_together_in_either_precision():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0], [12.0]])]
    for dtype in (torch.float32, torch.float64):
        assert total_norm([gradient.to(dtype) for gradient in gradients]) == pytest.approx(13.0)
    assert total_norm([]) == 0


def test_a_state_goes_on_where_it_was():
    made = optimiser()
    made.discard()
    other = optimiser()
    other.load_state(made.state())
    assert (other.steps_taken, other.learning_rate) == (1, made.learning_rate)


@pytest.fixture
def run(tmp_path):
    """Of three logged steps."""
    with plaudit.init(tmp_path / "w").new_run("sft", Config(), parents={}) as made:
        for step in (1, 2, 3):
            made.log(step, loss=1.0)
        yield made


def steps_of(run):
    return [row["step"] for row in run.metrics()]


def test_a_checkpoint_puts_weights_and_schedule_back_and_what_was_logged_after_it_is_forgotten(run):
    body = network()
    made = optimiser(10, body)
    made.move_schedule_to(2)
    save_checkpoint(run, 2, {"policy": (body, made)}, before=0.25)
    kept = [parameter.detach().clone() for parameter in body.body.parameters()]
    with torch.no_grad():
        for parameter in body.body.parameters():
            parameter += 1
    made.move_schedule_to(3)
    found = load_checkpoint(run, {"policy": (body, made)})
    assert (found["step"], found["before"], made.steps_taken) == (2, 0.25, 2)
    assert all(torch.equal(one, other) for one, other in zip(kept, body.body.parameters(), strict=True))
    assert steps_of(run) == [1, 2]
    with pytest.raises(WorkspaceError, match="of another kind of run"):
        load_checkpoint(run, {"policy": (body, made), "reward": (body, made)})
    assert [path.name for path in run.path.glob("checkpoint*")] == ["checkpoint.pt"]


def test_without_a_checkpoint_nothing_of_the_run_is_left_and_one_that_goes_on_says_so(run, capsys):
    body = network()
    assert load_checkpoint(run, {"policy": (body, optimiser(10, body))}) == {"step": 0}
    assert steps_of(run) == []
    assert "begins again" not in capsys.readouterr().err
    run.update(resumed=["now"])
    load_checkpoint(run, {"policy": (body, optimiser(10, body))})
    assert f"{run.name} has no checkpoint yet: it starts again" in capsys.readouterr().err


def test_a_checkpoint_is_gone_once_it_is_dropped_and_none_need_be_there(run):
    body = network()
    save_checkpoint(run, 1, {"policy": (body, optimiser(10, body))})
    assert (run.path / "checkpoint.pt").exists()
    for _ in range(2):
        drop_checkpoint(run)
        assert not (run.path / "checkpoint.pt").exists()
