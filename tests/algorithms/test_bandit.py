"""Where each algorithm ends on a bandit of four arms, in float64 and exact expectations.

The optimum of E[R] - beta KL is reference * exp(R / beta) / Z. Those that must reach it do; for those that must not
the fixed point is solved for by hand.
"""

import pytest
import torch
from exact import BETA, ONLINE, OPTIMUM, REFERENCE, REWARD, Draws, algorithm, climb, group

from plaudit.algorithms.grpo import Grpo
from plaudit.algorithms.online_dpo import OnlineDPO
from plaudit.methods import ALGORITHMS
from plaudit.objectives import k1, k2, k3


@pytest.mark.parametrize(
    ("made", "size"),
    [
        (algorithm("reinforce", reinforce={"baseline": "none"}), 1),
        (algorithm("reinforce", reinforce={"baseline": "value"}), 1),
        (algorithm("reinforce", reinforce={"baseline": "none", "clip_ratio": True}), 1),
        (algorithm("rloo"), 2),
        (algorithm("rloo", rloo={"clip_ratio": True}), 2),
        (algorithm("grpo"), 2),
        (algorithm("gspo"), 2),
        (algorithm("cispo"), 2),
        (algorithm("ppo"), 1),
        (algorithm("p3o"), 2),
        (algorithm("p3o", p3o={"clipping": "joint"}), 2),
        (algorithm("p3o"), 3),
        (algorithm("online-dpo", online_dpo={"beta": BETA}), 2),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_it_reaches_the_kl_regularised_optimum(made, size):
    """The four arms of the published case."""
    fast = 12.0 if isinstance(made, Grpo) else 6.0  # its gradient is a half of the others'
    rate = 60.0 if isinstance(made, OnlineDPO) else fast  # and this one's about beta / 8
    found, _ = climb(made, iterations=1500 if rate == 60.0 else 800, rate=rate, size=size)
    assert found.tolist() == pytest.approx(OPTIMUM, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in ONLINE if not ALGORITHMS[name].constrained])
def test_it_reaches_the_optimum_of_another_bandit(name):
    """Three arms, two of equal reward that the reference likes differently; from a start other than the reference."""
    reference = torch.tensor([0.05, 0.6, 0.35], dtype=torch.float64)
    reward = torch.tensor([0.7, 0.7, -0.4], dtype=torch.float64)
    optimum = reference * (reward / 0.5).exp() / (reference * (reward / 0.5).exp()).sum()
    settings = {"reinforce": {"baseline": "none"}, "online_dpo": {"beta": 0.5}}
    found, _ = climb(
        algorithm(name, **settings),
        iterations=1400 if name == "online-dpo" else 700,
        rate=60.0 if name == "online-dpo" else 6.0,
        start=torch.tensor([0.4, 0.2, 0.4], dtype=torch.float64),
        size=group(name),
        reward=reward,
        reference=reference,
    )
    assert found.tolist() == pytest.approx(optimum.tolist(), abs=1e-4)
    assert (found[0] / found[1]).item() == pytest.approx(0.05 / 0.6, rel=1e-2)


@pytest.mark.parametrize(
    ("made", "size"),
    [
        (algorithm("ppo"), 1),
        (algorithm("grpo"), 2),
        (algorithm("gspo", clip=0.2), 2),
        (algorithm("cispo", clip_high=0.2), 2),
        (algorithm("rloo", rloo={"clip_ratio": True}), 2),
        (algorithm("p3o"), 2),
        (algorithm("p3o", p3o={"clipping": "joint"}), 2),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_it_gets_there_with_the_clipping_at_work(made, size):
    """Steps of 2 and twenty passes over each batch, decayed to nothing: a good part of the updates is clipped."""
    rate = 4.0 if isinstance(made, Grpo) else 2.0
    found, share = climb(made, iterations=200, epochs=20, rate=rate, decay=True, size=size)
    assert share > 0.03
    assert found.tolist() == pytest.approx(OPTIMUM, abs=1e-3)


def test_without_decay_large_clipped_steps_do_not_converge():
    """Why the case above decays its steps: the clip holds each update but not the sequence of them."""
    found, _ = climb(algorithm("ppo"), iterations=200, epochs=20, rate=2.0)
    assert max(abs(a - b) for a, b in zip(found.tolist(), OPTIMUM, strict=True)) > 0.01


def test_k2_as_a_loss_reaches_the_same_optimum():
    found, _ = climb(algorithm("rloo"), iterations=700, rate=6.0, size=2, coefficient=0.0, kl_loss=k2)
    assert found.tolist() == pytest.approx(OPTIMUM, abs=1e-4)


def test_k3_as_a_loss_ends_elsewhere():
    """p_i = beta ref_i / (beta + mean R - R_i): the forward KL's optimum, solved by bisection on mean R."""
    low, high = REWARD.max().item() - BETA + 1e-12, REWARD.max().item()
    for _ in range(200):
        middle = (low + high) / 2
        excess = float((BETA * REFERENCE / (BETA + middle - REWARD)).sum()) - 1
        low, high = (middle, high) if excess > 0 else (low, middle)
    expected = (BETA * REFERENCE / (BETA + low - REWARD)).tolist()
    assert expected == pytest.approx([0.176125, 0.070239, 0.737690, 0.015946], abs=1e-6)
    found, _ = climb(algorithm("rloo"), iterations=700, rate=6.0, size=2, coefficient=0.0, kl_loss=k3)
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_k1_as_a_loss_holds_nothing_back():
    found, _ = climb(algorithm("rloo"), iterations=700, rate=6.0, size=2, coefficient=0.0, kl_loss=k1)
    assert found[2] > 0.998  # the best arm alone; the optimum gives it 0.77


def test_grpo_as_first_published_ends_elsewhere():
    """Advantages over the group's deviation and k3 as a loss: neither the optimum nor k3's own."""
    made = algorithm("grpo", grpo={"scale_by_std": True}, kl_term="k3")
    found, _ = climb(made, iterations=1500, rate=1.0, size=4, coefficient=0.0, kl_loss=k3)
    assert found.tolist() == pytest.approx([0.149, 0.089, 0.735, 0.027], abs=2e-3)


def test_online_dpo_with_hard_labels_goes_past_the_optimum():
    made = algorithm("online-dpo", online_dpo={"beta": BETA, "labels": "hard"})
    found, _ = climb(made, iterations=1500, rate=20.0, size=2)
    assert found[2] > 0.95


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", [name for name in ONLINE if ALGORITHMS[name].compares])
def test_a_shift_of_all_rewards_of_a_prompt_changes_nothing(name, size):
    logits = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
    made = algorithm(name)
    plain = Draws(logits, REWARD, size=size).gradient(made, logits)
    shifted = Draws(logits, REWARD + 100, size=size).gradient(made, logits)
    torch.testing.assert_close(shifted, plain, atol=1e-11, rtol=0)
