"""How often a policy's answers beat the baseline's to the same prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from plaudit.evaluation.statistics import Interval, wilson


def win_rate(policy: Sequence[float], baseline: Sequence[float], prompts: Sequence[Hashable]) -> Interval:
    """Mean over prompts of (wins + ties / 2) / comparisons, with Wilson's interval at the effective sample size.

    policy    utility or score of each of the policy's answers
    baseline  of the baseline's answer that it is compared with
    prompts   the prompt of each comparison

    Comparisons on one prompt are alike, so they count for less than as many prompts would: Wilson's n is
    p (1 - p) / Var(mean over prompts), at least the number of prompts and at most that of comparisons (Kish's
    design effect). `n` in the result is the number of prompts.

    Raises ValueError without any comparison.
    """
    shares: dict[Hashable, list[float]] = defaultdict(list)
    for ours, theirs, prompt in zip(policy, baseline, prompts, strict=True):
        shares[prompt].append(0.5 if ours == theirs else float(ours > theirs))
    means = [sum(wins) / len(wins) for wins in shares.values()]
    if not means:
        raise ValueError("the win rate of no comparison has no value")
    rate, count = sum(means) / len(means), len(means)
    effective = float(count)
    if count > 1 and 0 < rate < 1:
        variance = sum((mean - rate) ** 2 for mean in means) / (count - 1) / count
        effective = min(max(count, rate * (1 - rate) / variance if variance else len(prompts)), len(prompts))
    return {**wilson(rate * effective, effective), "n": count}
