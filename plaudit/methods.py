"""What `rl.algorithm`, `prefer.loss`, `reward.loss`, `judge.models` and metrics name: an entry says what each needs.

Settings, help texts, the loops, reports and the tests read these entries. A new preference loss is a function in
`objectives/`, an entry here, and a row of docs/algorithms.md; a new online algorithm is a file in `algorithms/`, an
entry here, and a row there.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal


def _named(place: str) -> Any:
    """What "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class OnlineAlgorithm:
    """An optimiser of the policy against a reward.

    algorithm     "module:class" of what turns rollouts into advantages and a loss; none for rejection sampling, which
                  fine-tunes on its best samples
    critics       value models beside the policy: of the "reward", of the "cost"
    compares      whether it needs several responses to each prompt
    whole_groups  whether its loss needs all responses to a prompt in one micro-batch
    reference     whether its loss needs the reference's log-probs even where the KL has no price
    own_kl        the setting under `rl` that is its price of KL, in place of `kl_coefficient`
    kl_in_reward  whether the KL can only be charged in the reward
    clip          (below, above): change of a probability ratio past which gain is ignored, unless `rl.clip` and
                  `rl.clip_high` say otherwise; None for no bound on that side
    constrained   whether it keeps a cost under a threshold
    then          the algorithm of a second run, which starts from this one
    """

    algorithm: str = ""
    critics: tuple[str, ...] = ()
    compares: bool = False
    whole_groups: bool = False
    reference: bool = False
    own_kl: str | None = None
    kl_in_reward: bool = False
    clip: tuple[float | None, float] = (0.2, 0.2)
    constrained: bool = False
    then: str | None = None

    def load(self) -> Any:
        """Its class, imported when it is asked for."""
        return _named(f"plaudit.algorithms.{self.algorithm}")


ALGORITHMS: dict[str, OnlineAlgorithm] = {
    "reinforce": OnlineAlgorithm("reinforce:Reinforce"),
    "rloo": OnlineAlgorithm("rloo:Rloo", compares=True),
    "grpo": OnlineAlgorithm("grpo:Grpo", compares=True),
    "gspo": OnlineAlgorithm("gspo:GSPO", compares=True, clip=(3e-4, 4e-4)),
    "cispo": OnlineAlgorithm("cispo:CISPO", compares=True, clip=(None, 4.0)),
    "ppo": OnlineAlgorithm("ppo:PPO", critics=("reward",)),
    "p3o": OnlineAlgorithm("p3o:P3O", compares=True, whole_groups=True),
    "ppo-lagrangian": OnlineAlgorithm(
        "lagrangian:PPOLagrangian", critics=("reward", "cost"), kl_in_reward=True, constrained=True
    ),
    "online-dpo": OnlineAlgorithm(
        "online_dpo:OnlineDPO",
        compares=True,
        whole_groups=True,
        reference=True,
        own_kl="online_dpo.beta",
        kl_in_reward=True,
    ),
    "rejection": OnlineAlgorithm(),
    "rejection-then-ppo": OnlineAlgorithm(then="ppo"),
}


@dataclass(frozen=True)
class PreferenceLoss:
    """A loss that learns a policy from preferences.

    objective   the function of `plaudit.objectives` that computes it. Its arguments are filled by their names; see
                `training/steps/preference.py`
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


@dataclass(frozen=True)
class JudgeKind:
    """A kind of judge that `judge.models` may have.

    source      how its `source` is written
    judge       "module:function" of `plaudit.judges`: f(workspace, settings, config, folder) gives what judges pairs
    reads_words whether it is asked in words, so that it can rate, rank, reason and follow a constitution
    """

    source: str
    judge: str
    reads_words: bool = False

    def load(self) -> Any:
        """Its function, imported when it is asked for."""
        return _named(f"plaudit.judges.{self.judge}")


JUDGES: dict[str, JudgeKind] = {
    "model": JudgeKind(
        "a run, a Hugging Face folder, a hub name or the built-in model",
        "models:language_model_judge",
        reads_words=True,
    ),
    "endpoint": JudgeKind("`endpoint` with `endpoint` below", "models:language_model_judge", reads_words=True),
    "reward": JudgeKind("`reward:RUN` for a reward model", "models:reward_model_judge"),
    "function": JudgeKind("function:FILE.py:NAME", "models:function_judge"),
}


@dataclass(frozen=True)
class Metric:
    """A figure of one answer, which `evaluate` gives for policy and baseline, with its interval.

    title            as a report calls it
    function         "module:function" of `plaudit.evaluation`: f(answers, references) gives a number of each
    needs_reference  whether an answer is compared with the prompt's demonstration, so that only such prompts count
    digits           decimals in a report
    """

    title: str
    function: str
    needs_reference: bool = True
    digits: int = 3

    def load(self) -> Any:
        """Its function, imported when it is asked for."""
        return _named(f"plaudit.evaluation.{self.function}")


METRICS: dict[str, Metric] = {
    "rouge_l": Metric("ROUGE-L against demonstrations", "overlap:rouge_l"),
}
