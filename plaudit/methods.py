"""The losses that `prefer.loss` and `reward.loss` name: an entry says what each needs.

Settings, help texts, the loops and the tests read these entries. A new preference loss is a function in `objectives/`,
an entry here, and a row of docs/algorithms.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PreferenceLoss:
    """A loss that learns a policy from preferences.

    objective   the function of `plaudit.objectives` that computes it. Its arguments are filled by their names; see
                `training/preference_parts.py`
    compares    what makes one response better than another, whose difference is the printed margin: the log-ratio to
                the reference, or the log-odds of the mean probability of a token
    reference   whether it needs a reference
    unpaired    whether it learns from single responses, liked or not, in place of pairs
    per_token   whether log-probs are means over a response's tokens: always, never, or where `prefer.per_token` says so
    scaled_by   the setting under `prefer` that multiplies it
    likelihood  weight of the chosen response's negative log-likelihood a token, unless
                `prefer.likelihood_coefficient` says otherwise
    """

    objective: str
    compares: Literal["log-ratio", "log-odds"] = "log-ratio"
    reference: bool = True
    unpaired: bool = False
    per_token: Literal["never", "asked", "always"] = "never"
    scaled_by: str | None = None
    likelihood: float = 0.0


PREFERENCE_LOSSES: dict[str, PreferenceLoss] = {
    "dpo": PreferenceLoss("dpo"),
    "sigmoid-norm": PreferenceLoss("dpo", per_token="always"),
    "ipo": PreferenceLoss("ipo", per_token="asked"),
    "conservative-dpo": PreferenceLoss("conservative_dpo"),
    "robust-dpo": PreferenceLoss("robust_dpo"),
    "hinge": PreferenceLoss("hinge"),
    "apo-zero": PreferenceLoss("apo_zero"),
    "apo-down": PreferenceLoss("apo_down"),
    "kto": PreferenceLoss("kto", unpaired=True),
    "simpo": PreferenceLoss("simpo", reference=False, per_token="always"),
    "orpo": PreferenceLoss(
        "orpo_odds",
        compares="log-odds",
        reference=False,
        per_token="always",
        scaled_by="odds_coefficient",
        likelihood=1.0,
    ),
    "cpo": PreferenceLoss("cpo", reference=False, likelihood=1.0),
}


@dataclass(frozen=True)
class RewardLoss:
    """A loss that learns a reward or cost model.

    learns_from        comparisons one by one, whole rankings, or ratings of single responses
    smooths            whether `reward.flip_rate` applies
    takes_margins      whether `reward.margin` applies
    several_criteria   whether `reward.criteria` applies
    lower_is_better    whether its score is a cost
    needs_labels       whether every response needs a `safe` label
    learns_ties        whether ties are an outcome of their own, with a parameter for them
    """

    learns_from: Literal["comparisons", "rankings", "ratings"] = "comparisons"
    smooths: bool = False
    takes_margins: bool = False
    several_criteria: bool = True
    lower_is_better: bool = False
    needs_labels: bool = False
    learns_ties: bool = False


REWARD_LOSSES: dict[str, RewardLoss] = {
    "bradley-terry": RewardLoss(smooths=True, takes_margins=True),
    "davidson": RewardLoss(several_criteria=False, learns_ties=True),
    "plackett-luce": RewardLoss(learns_from="rankings"),
    "cost": RewardLoss(smooths=True, several_criteria=False, lower_is_better=True, needs_labels=True),
    "rating": RewardLoss(learns_from="ratings"),
}
