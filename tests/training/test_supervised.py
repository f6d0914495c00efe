"""The likelihood of given texts: its mean, its step, and which texts are left out."""

from types import SimpleNamespace

import pytest
import torch
from tabular import Tabular

from plaudit.config import OptimiserSettings, resolve
from plaudit.records import Demonstration, Prompt
from plaudit.text.chat import TokenSequence
from plaudit.training.steps.optimiser import Optimiser
from plaudit.training.steps.supervised import encode_demonstrations, likelihood_step, mean_loss

TOKEN, LEAD = [0.0, 0.0, 0.0, -0.5, -1.0, -2.0], [0.0, -0.25, 0.0, 0.0, 0.0, 0.0]
TEXTS = [TokenSequence([1], [3, 4]), TokenSequence([2], [5]), TokenSequence([2, 2], [3, 3, 4])]
TOTAL = 0.75 + 1.25 + 2.0 + 0.5 + 0.5 + 1.0
"""Nats of all six tokens."""


@pytest.mark.parametrize("budget", [1000, 5])
def test_the_loss_is_the_mean_over_all_tokens_and_not_over_texts(budget):
    config = resolve(overrides=[f"model.tokens_per_micro_batch={budget}"])
    assert mean_loss(Tabular(TOKEN, LEAD), TEXTS, config) == pytest.approx(TOTAL / 6)
    assert mean_loss(Tabular(TOKEN, LEAD), [], config) is None


@pytest.mark.parametrize("budget", [1000, 5])
def test_a_step_has_the_gradient_of_the_mean_whatever_its_micro_batches(budget):
    policy = Tabular(TOKEN, LEAD)
    optimiser = Optimiser(policy, OptimiserSettings(learning_rate=0.01, max_gradient_norm=100.0), 10)
    loss, norm = likelihood_step(policy, optimiser, TEXTS, budget=budget)
    assert loss == pytest.approx(TOTAL / 6)
    gradient = torch.tensor([-3, -2, -1, -2, -4]) / 6  # of tokens 3, 4 and 5, and of prompts that begin with 1 and 2
    assert norm == pytest.approx(float(gradient.square().sum().sqrt()))
    assert (policy.token > torch.tensor(TOKEN)).tolist() == [False] * 3 + [True] * 3  # all became likelier


def test_demonstrations_over_the_limit_or_the_context_are_left_out_counted_and_said(capsys):
    """A word is a token; a prompt has one more for its role."""
    form = SimpleNamespace(
        encode_prompt=lambda messages, **_: [0, *map(len, messages[-1]["content"].split())],
        encode_response=lambda text: [*map(len, text.split())],
        take_notes=list,
    )
    model = SimpleNamespace(format=form, context_length=9, prompt_limit=lambda most, response: 100)
    config = resolve(overrides=["sft.max_response_tokens=4"])

    def demonstration(words, response):
        return Demonstration(Prompt([{"role": "user", "content": "a " * words}]), "b " * response)

    given = [demonstration(2, 4), demonstration(2, 5), demonstration(4, 4), demonstration(5, 4), demonstration(5, 3)]
    kept = encode_demonstrations(model, given, config)
    assert [(len(s.prompt_ids), len(s.response_ids)) for s in kept] == [(3, 4), (5, 4), (6, 3)]
    assert "2 of 5 demonstrations are over 4 tokens: left out." in capsys.readouterr().err
    encode_demonstrations(model, given[:1], config)
    assert "left out" not in capsys.readouterr().err
