"""How often a policy's answers beat the baseline's to the same prompt."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from plaudit.statistics.intervals import Interval, share


def win_rate(policy: Sequence[float], baseline: Sequence[float], prompts: Sequence[Hashable]) -> Interval:
    """Mean over prompts of (wins + ties / 2) / comparisons, with `intervals.share`'s interval.

    policy    utility or score of each of the policy's answers
    baseline  of the baseline's answer that it is compared with
    prompts   the prompt of each comparison

    Comparisons on one prompt are alike, so they count for less than as many prompts would. `n` in the result is the
    number of prompts.

    Raises ValueError without any comparison.
    """
    won = [0.5 if ours == theirs else float(ours > theirs) for ours, theirs in zip(policy, baseline, strict=True)]
    if not won:
        raise ValueError("the win rate of no comparison has no value")
    return share(won, prompts, clusters_alike=True)
