"""Do annotators agree, beyond what chance would give?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from evalica import alpha

from plaudit.evaluation.statistics import cluster_bootstrap
from plaudit.records import Comparison


def agreement(comparisons: Sequence[Comparison], *, seed: int = 0) -> dict[str, Any] | None:
    """Agreement over the pairs that two or more annotators judged by a criterion, whatever order each of them saw.

    Returns None when no pair was judged twice, else
        raw        share of annotator pairs with the same choice on a response pair, ties included;
                   95 % interval by drawing prompts with replacement
        alpha      Krippendorff's nominal alpha (Krippendorff 2004): 1 perfect, 0 chance
        pairs      response pairs judged by two or more annotators
        by_annotators  {"a / b": raw agreement of a and b}
    """
    by_pair: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    prompt_of: dict[tuple[str, ...], str] = {}
    for comparison in comparisons:
        low, high = sorted((comparison.first, comparison.second))
        ordered = comparison if comparison.first == low else comparison.swap()
        by_pair[comparison.criterion, low, high][comparison.annotator] = ordered.choice
        prompt_of[comparison.criterion, low, high] = comparison.prompt_id
    shared = {pair: choices for pair, choices in by_pair.items() if len(choices) > 1}
    if not shared:
        return None
    same: list[float] = []
    prompts: list[str] = []
    by_annotators: dict[str, list[float]] = defaultdict(list)
    for pair, choices in sorted(shared.items()):
        for one, other in combinations(sorted(choices), 2):
            equal = float(choices[one] == choices[other])
            same.append(equal)
            prompts.append(prompt_of[pair])
            by_annotators[f"{one} / {other}"].append(equal)
    names = sorted({name for choices in shared.values() for name in choices})
    codes = {"first": 0.0, "second": 1.0, "tie": 2.0}
    table = [[codes[c[name]] if name in c else np.nan for c in shared.values()] for name in names]
    return {
        "raw": cluster_bootstrap(same, prompts, seed=seed),
        "alpha": float(alpha(pd.DataFrame(table), distance="nominal").alpha),
        "pairs": len(shared),
        "by_annotators": {pair: sum(values) / len(values) for pair, values in sorted(by_annotators.items())},
    }
