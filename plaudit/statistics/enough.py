"""What is too little to learn from or to measure by, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FEWEST_STEPS = 16
"""Optimiser steps below which a run learns next to nothing: most of them are warm-up and decay."""
FEWEST_PROMPTS = 10
"""Held-out prompts below which figures say next to nothing."""
FEWEST_ANSWERS = 4
"""Answers below which it may be chance that they are alike."""
CHANCE = 0.5


def few_steps(steps: int, of: str, remedy: str) -> list[str]:
    """A sentence, or none.

    steps    optimiser steps of the whole run
    of       what they go through, such as `26 prompts`
    remedy   what gives more of them
    """
    if steps >= FEWEST_STEPS:
        return []
    one = "1 optimiser step" if steps == 1 else f"{steps} optimiser steps"
    return [f"{one} through {of}: too few to learn much. {remedy}."]


def smaller_batches(section: str, size: int) -> str:
    """The remedy where a section of the settings has a batch size and epochs."""
    return f"Lower {section}.batch_size (now {size}), raise {section}.epochs, or add data"


def few_prompts(prompts: int, what: str = "The figures") -> list[str]:
    """A sentence about too few held-out prompts, or none."""
    if prompts >= FEWEST_PROMPTS:
        return []
    if prompts == 0:
        return [f"{what} are of the training prompts alone: nothing is held out, so nothing shows what was learnt."]
    return [
        f"{what} are of {prompts} held-out prompt{'s' if prompts > 1 else ''}: too few to tell a good model from a bad "
        "one. Import more prompts, or raise data.held_out_share before importing."
    ]


def weak_reward(quality: Mapping[str, Any]) -> list[str]:
    """Why a reward model is not fit to be optimised for, as clauses that follow its name; none where nothing is shown.

    quality   a reward run's result, with `accuracy` and `longer_wins` on held-out judgments

    Its accuracy is to be above 1/2 with its whole interval, and above that of always preferring the longer answer, or
    the shorter one, whichever ranks more of the same judgments right.
    """
    accuracy = quality.get("accuracy")
    if accuracy is None:
        return []
    value, low, high = accuracy["value"], accuracy["low"], accuracy["high"]
    found = []
    if low is None or low <= CHANCE:
        bounds = f"95 % {low:.2f} to {high:.2f}" if low is not None else "of a single prompt"
        found.append(f"ranks {value:.2f} of held-out judgments right ({bounds}), not shown to be better than chance")
    longer = (quality.get("longer_wins") or {"value": CHANCE})["value"]
    rule, word = max((longer, "longer"), (1 - longer, "shorter"))
    if value <= rule and rule > CHANCE:
        found.append(f"ranks {value:.2f} right where always preferring the {word} answer ranks {rule:.2f} right")
    return found


def unsure_reward(quality: Mapping[str, Any]) -> list[str]:
    """A sentence about probabilities that are no better than a coin's, or none."""
    loss = quality.get("log_loss")
    if loss is None or loss < math.log(2):
        return []
    return [f"The held-out log loss is {loss:.3f} nats, no better than a coin's {math.log(2):.3f}."]


def alike(answers: Sequence[Sequence[object]], prompts: int) -> list[str]:
    """What is too much alike in answers that are to differ, a clause each; none where nothing is.

    answers   token ids, the end token among them
    prompts   how many different ones they answer
    """
    if len(answers) < FEWEST_ANSWERS or prompts < 2:
        return []
    if all(len(answer) <= 1 for answer in answers):
        return ["Every answer is a single token"]
    bodies = {token for answer in answers for token in answer[:-1]}
    if len(bodies) == 1:
        return ["Every answer repeats one and the same token"]
    if len({tuple(answer) for answer in answers}) == 1:
        return ["Every answer is the same"]
    return []


def unfinished(finished_rate: float, limit: int, setting: str) -> list[str]:
    """A sentence about answers that were all cut off, or none."""
    if finished_rate > 0:
        return []
    return [f"No answer finished within {limit} tokens: every one was cut off. Raise {setting}."]
