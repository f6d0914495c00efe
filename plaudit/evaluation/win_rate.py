"""How often a policy's answers beat the baseline's to the same prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from plaudit.evaluation.statistics import Interval, wilson


def win_rate(policy: Sequence[float], baseline: Sequence[float], prompts: Sequence[Hashable]) -> Interval:
    """(wins + ties / 2) / comparisons, with Wilson's interval over prompts.

    policy    utility or score of each of the policy's answers
    baseline  of the baseline's answer that it is compared with
    prompts   the prompt of each comparison; repeats of a prompt count as one trial, their mean

    Raises ValueError without any comparison.
    """
    shares: dict[Hashable, list[float]] = defaultdict(list)
    for ours, theirs, prompt in zip(policy, baseline, prompts, strict=True):
        shares[prompt].append(0.5 if ours == theirs else float(ours > theirs))
    means = [sum(wins) / len(wins) for wins in shares.values()]
    return wilson(sum(means), len(means))
