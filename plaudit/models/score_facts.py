"""What a reward model's config.json says of its scores."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

KEY = "plaudit_reward"


@dataclass(frozen=True)
class ScoreFacts:
    """What the scores of C heads mean; other tools' reward models have one head, and the defaults.

    mean, std     what normalises each head's scores: (score - mean) / std
    temperatures  the T of each head, in an ensemble of the mean, by which differences of scores are best divided to be
                  log-odds, as fitted on held-out comparisons; None, or nothing at all, where nobody did
    is_cost       whether a higher score is worse
    heads         names, where there are several: criteria, or members of an ensemble
    is_ensemble   whether all heads are of the same thing, so that their mean is meant where none is named
    read_at       where a score is read: at the last token of the rendered conversation (`template`), as other tools do,
                  or at the `end` token, as earlier versions of this program did
    rating_mean, rating_std
                  of a model that learnt from ratings: the rating that a score predicts is mean + std * score
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    temperatures: tuple[float | None, ...] = ()
    is_cost: bool = False
    heads: tuple[str, ...] = ()
    is_ensemble: bool = False
    rating_mean: tuple[float, ...] = ()
    rating_std: tuple[float, ...] = ()
    read_at: str = "template"

    @classmethod
    def of(cls, config: Any) -> ScoreFacts:
        """The same in the form that a transformers config holds."""
        kept: dict[str, Any] = getattr(config, KEY, None) or {}
        if kept:
            kept = {"read_at": "end", **kept}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
        return cls(**values)

    def keep(self) -> dict[str, Any]:
        """What to write into a transformers config."""
        return {KEY: {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}}

    @property
    def count(self) -> int:
        """C."""
        return max(1, len(self.heads))

    @property
    def sign(self) -> float:
        """1 where a higher score is better, -1 of a cost model."""
        return -1.0 if self.is_cost else 1.0

    @property
    def temperature(self) -> float:
        """Temperature of the only head, or of an ensemble's mean; 1 where nobody fitted one."""
        return (self.temperatures[0] if self.temperatures else None) or 1.0

    @property
    def criteria(self) -> tuple[str, ...] | None:
        """Names of heads that are of different things; None where there is one score."""
        return self.heads if self.heads and not self.is_ensemble else None

    def normalised(self, scores: Tensor) -> Tensor:
        """[B] or [B, C], of all heads, shifted and scaled."""
        mean, std = (torch.tensor(values, dtype=scores.dtype, device=scores.device) for values in (self.mean, self.std))
        return (scores - mean) / std if self.heads else (scores - mean[0]) / std[0]


def score_by(criteria: Sequence[str] | None, criterion: str, scores: Sequence[float]) -> float:
    """Score of a response from those of each head: the criterion's own, or the mean where all are of one thing."""
    return statistics.fmean(scores) if criteria is None else scores[criteria.index(criterion)]
