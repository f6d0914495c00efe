"""Signs that a policy has collapsed: said when they are seen, once each, and kept with the run.

Nothing is stopped by them. A run that shows one ends as any other, with a policy that is of little use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from plaudit.statistics.enough import alike
from plaudit.workspace import Run

KL, KL_A_TOKEN = 10.0, 1.0
"""Nats a response, and nats a token, past both of which the policy is another model than its start."""
ENTROPY = 0.01
"""Nats a token, below which nothing is left to be chosen, where there was ten times as much at first."""
LARGE = 1e4
"""Size of rewards and of the value loss: far from the size of 1 for which learning rates and clips are made."""
BEYOND = 1.0
"""Nats a token by which the loss of a single step may be above that of guessing, as at the start of pretraining."""


def signs_of_collapse(
    metrics: Mapping[str, float], first: Mapping[str, float], answers: Sequence[Sequence[int]], prompts: int
) -> dict[str, str]:
    """What is wrong -> its figures.

    metrics     of a step: `kl` (nats a response), `entropy` (nats a token), `length`, `finished_rate`, `reward`, ...
    first     of the first step
    answers   their token ids
    prompts   how many different ones they answer
    """
    found: dict[str, str] = {}
    kl, length = metrics.get("kl"), max(metrics["length"], 1.0)
    if kl is not None and not kl <= max(KL, KL_A_TOKEN * length):
        found["The policy has gone far from its start"] = f"KL {kl:.3g} nats a response, {kl / length:.2g} a token"
    if metrics["entropy"] < ENTROPY and first["entropy"] > 10 * ENTROPY:
        found["The policy has nothing left to choose"] = (
            f"entropy {metrics['entropy']:.2g} nats a token, {first['entropy']:.2g} at first"
        )
    found |= {what: f"{len(answers)} answers" for what in alike(answers, prompts)}
    if metrics["finished_rate"] == 0:
        found["No answer finished, so all have the score of an unfinished one or none of an end"] = (
            f"{metrics['length']:.0f} tokens each: raise rl.max_new_tokens"
        )
    if not abs(metrics["reward"]) <= LARGE:
        found["Rewards are far from the size of 1"] = f"{metrics['reward']:.2g} a response"
    if not metrics.get("value_loss", 0.0) <= LARGE:
        found["Values are not learnt"] = f"value loss {metrics['value_loss']:.2g}"
    return found


class Watch:
    """Watch over one run. What it said already, also before it was resumed, is not said again."""

    def __init__(self, run: Run):
        self.run = run
        self._first: Mapping[str, float] | None = next(iter(run.metrics()), None)

    def step(self, step: int, metrics: Mapping[str, float], answers: Sequence[Sequence[int]], prompts: int) -> None:
        """Look at a step of policy optimisation; as `signs_of_collapse`."""
        self._first = self._first or dict(metrics)
        for what, figures in signs_of_collapse(metrics, self._first, answers, prompts).items():
            self._say(what, f"step {step}: {figures}")

    def likelihood(self, loss: float | None, vocabulary: int, *, of: str, step: int | None = None) -> None:
        """Look at a loss in nats a token, which is log(vocabulary) where every token is guessed.

        of     whose loss it is, for the message
        step   of a single step; None for that of a whole run
        """
        guess = math.log(vocabulary)
        if loss is not None and not loss <= guess + (0.0 if step is None else BEYOND):
            when = "" if step is None else f"step {step}: "
            self._say(
                f"The {of} loss is above that of guessing every token",
                f"{when}{loss:.3g} nats a token, and {guess:.3g} for guessing; lower the learning rate",
            )

    def held_out(self, before: float | None, after: float | None) -> None:
        """Look at a held-out loss that should have fallen."""
        if before is not None and after is not None and not after <= before:
            self._say(
                "The held-out loss grew",
                f"{before:.4g} before, {after:.4g} after: the steps were too large, or the data too few",
            )

    def _say(self, what: str, figures: str) -> None:
        if not any(warning.startswith(what) for warning in self.run.warnings):
            self.run.warn(f"{what} ({figures}).")
