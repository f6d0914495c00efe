"""Which plots the report has of each stage, and what to look for in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from plaudit.methods import ALGORITHMS, OnlineAlgorithm
from plaudit.reporting.drawing import (
    MARK,
    TEXT,
    Level,
    Plot,
    Rows,
    bars,
    bars_height,
    draw,
    draw_curve,
    duration,
    percent,
    reliability,
    score_against_kl,
    values_at_the_right,
    whole_share,
)
from plaudit.reporting.text import bounds

CHANCE_LOSS = math.log(2)
"""Loss of a reward model that knows nothing, nats."""


def pretrain_plots(run: str, rows: Rows) -> list[Plot]:
    """The loss on the text that is learnt, and on documents that are not.

    run   its name: keeps the drawings of several runs apart
    """
    return [
        draw_curve(
            run,
            "Pretraining loss",
            rows,
            {"loss": "training", "held_out_loss": "held out"},
            unit="loss (nats a token)",
            look_for="Both should fall together; a held-out loss that turns up while training falls on means that the "
            "text is being memorised.",
        )
    ]


def sft_plots(run: str, rows: Rows, result: Mapping[str, Any]) -> list[Plot]:
    """The loss of fine-tuning, beside the held-out loss before and after.

    run   its name: keeps the drawings of several runs apart
    """
    return [
        draw_curve(
            run,
            "Fine-tuning loss",
            rows,
            {"loss": "training"},
            unit="loss (nats a token)",
            levels=[
                Level("held out before", result.get("held_out_loss_before")),
                Level("held out after", result.get("held_out_loss_after")),
            ],
            look_for="The curve should fall and flatten, and the held-out loss after should lie below the one before; "
            "a training loss far below the held-out one means memorising.",
        )
    ]


def reward_plots(run: str, rows: Rows, result: Mapping[str, Any]) -> list[Plot]:
    """Training loss and accuracy of a reward model, and how well its confidence holds on held-out prompts."""
    held_out = result.get("accuracy")
    errors = list((result.get("rating_error") or {}).values())
    unit, levels = "loss (nats a judgment)", [Level("chance, 0.693", CHANCE_LOSS)]
    levels.append(Level("held out after", result.get("log_loss")))
    if "train_ratings" in result:
        unit, levels = "squared error (variances of the ratings)", [Level("their mean alone, 1", 1.0)]
        levels.append(Level("held out after", float(np.mean(errors)) if errors else None))
    return [
        draw_curve(
            run,
            "Reward model loss",
            rows,
            {"loss": "training"},
            unit=unit,
            levels=levels,
            look_for="The loss should fall below chance; a held-out loss well above the last training losses means "
            "over-fitting.",
        ),
        draw_curve(
            run,
            "Reward model accuracy",
            rows,
            {"accuracy": "training"},
            unit="judgments ranked right",
            levels=[
                Level("ceiling", result.get("ceiling")),
                Level("held out", held_out["value"] if held_out else None),
            ],
            share=True,
            look_for="It should climb from one half towards the ceiling, which is what a perfect model would reach "
            "against judgments as noisy as these.",
        ),
        reliability(run, result.get("reliability") or []),
    ]


OF_SOME_ALGORITHMS: dict[str, Callable[[OnlineAlgorithm], bool]] = {
    "Value loss": lambda entry: bool(entry.critics),
    "Explained variance of the returns": lambda entry: bool(entry.critics),
    "Cost": lambda entry: entry.constrained,
    "Multiplier of the constraint": lambda entry: entry.constrained,
    "Best and median of the samples": lambda entry: not entry.algorithm,
    "Price of KL": lambda entry: False,
    "Loss on pretraining texts": lambda entry: False,
}
"""Plots that only some algorithms always have: for others they are left out where there is nothing to draw."""
NOT_OF_REJECTION = {"KL from the reference", "Score against distance", "Entropy", "Clipping", "Gradient norms",
                    "Sampler against trainer"}  # fmt: skip


def entry_of(settings: Mapping[str, Any]) -> OnlineAlgorithm:
    """The algorithm that a run's `rl` settings name; PPO's entry where they name none that is known."""
    return ALGORITHMS.get(str(settings.get("algorithm")), ALGORITHMS["ppo"])


def rl_plots(run: str, rows: Rows, settings: Mapping[str, Any]) -> list[Plot]:
    """Everything that policy optimisation logs and that can go wrong.

    settings   the `rl` section of the run's configuration
    """
    reward_unit = "standard deviations" if settings.get("normalise_reward") else "units of the reward model"
    if str(settings.get("reward")).startswith(("function:", "judge:", "[")):
        reward_unit = "units of the reward"
    plots = [
        draw_curve(
            run,
            "Score and reward",
            rows,
            {"score": "score", "reward": "reward: score − price of KL"},
            unit=f"mean ({reward_unit})",
            look_for="Both should rise; a score that rises while the reward does not is bought with too much KL.",
        ),
        draw_curve(
            run,
            "KL from the reference",
            rows,
            {"kl": "KL"},
            unit="KL (nats a response)",
            look_for="It should grow slowly and smoothly from 0; a sudden rise means that the policy is leaving the "
            "reference to exploit the reward model. It is an estimate from samples, so it can dip below 0.",
        ),
        score_against_kl(run, rows, f"score ({reward_unit})"),
        draw_curve(
            run,
            "Entropy",
            rows,
            {"entropy": "entropy"},
            unit="entropy (nats a token)",
            look_for="A gentle fall is normal; a fall towards 0 means that the policy gives the same answers over and "
            "over, and has stopped exploring.",
        ),
        draw_curve(
            run,
            "Clipping",
            rows,
            {"clip_fraction": "policy", "value_clip_fraction": "value model"},
            unit="tokens clipped",
            share=True,
            look_for="A few per cent is healthy for the policy; far more means that its steps are too large, none at "
            "all that they could be larger.",
        ),
        draw_curve(
            run,
            "Response length",
            rows,
            {"length": "mean length"},
            unit="length (tokens)",
            levels=[Level("limit", settings.get("max_new_tokens"))],
            look_for="A steady drift, or a mean at the limit, means that the reward model pays for length.",
        ),
        draw_curve(
            run,
            "Finished responses",
            rows,
            {"finished_rate": "ended by themselves"},
            unit="responses",
            share=True,
            look_for="It should stay or become high: the others were cut off at the length limit.",
        ),
        draw_curve(
            run,
            "Value loss",
            rows,
            {"value_loss": "value loss"},
            unit="squared error / 2",
            look_for="It should fall as the value model learns what a response is going to be worth.",
        ),
        draw_curve(
            run,
            "Explained variance of the returns",
            rows,
            {"explained_variance": "explained variance"},
            unit="explained variance",
            levels=[Level("no better than a constant", 0.0)],
            look_for="It should rise above 0, towards 1; below 0 the value model adds noise to the advantages.",
        ),
        draw_curve(
            run,
            "Gradient norms",
            rows,
            {
                "policy_gradient_norm": "policy",
                "value_gradient_norm": "value model",
                "pretraining_gradient_norm": "texts' part",
                "reward_gradient_norm": "reward's part",
            },
            unit="norm before clipping",
            look_for="They should stay of one size; a rise by factors comes before a collapse.",
        ),
        draw_curve(
            run,
            "Cost",
            rows,
            {"cost": "of this batch", "recent_cost": "of recent episodes"},
            unit="mean cost of an episode",
            levels=[Level("threshold", (settings.get("lagrangian") or {}).get("threshold"))],
            look_for="It should settle at the threshold or below; swings around it that grow call for a smaller rate.",
        ),
        draw_curve(
            run,
            "Multiplier of the constraint",
            rows,
            {"multiplier": "lambda"},
            unit="lambda",
            levels=[Level("cap", (settings.get("lagrangian") or {}).get("maximum"))],
            look_for="It grows while the cost is over its threshold; at the cap the constraint cannot be met.",
        ),
        draw_curve(
            run,
            "Price of KL",
            rows,
            {"kl_coefficient": "coefficient"},
            unit="reward a nat",
            look_for="The controller raises it while the KL is over its target and lowers it while under.",
        ),
        draw_curve(
            run,
            "Loss on pretraining texts",
            rows,
            {"pretraining_loss": "texts"},
            unit="loss (nats a token)",
            look_for="It should stay where it began: a rise is what the policy unlearns of language.",
        ),
        draw_curve(
            run,
            "Best and median of the samples",
            rows,
            {"best_score": "best", "median_score": "median"},
            unit=f"mean over prompts ({reward_unit})",
            look_for="The distance between the two is what imitating the best can gain in a round.",
        ),
        draw_curve(
            run,
            "Sampler against trainer",
            rows,
            {"sampler_gap": "sampler gap"},
            unit="|difference| (nats a token)",
            look_for="How far log-probs while sampling are from those while training: rounding error alone, so it "
            "should stay tiny and not grow.",
        ),
    ]
    entry = entry_of(settings)
    left_out = {title for title, always in OF_SOME_ALGORITHMS.items() if not always(entry)}
    left_out |= NOT_OF_REJECTION if not entry.algorithm else set()
    return [plot for plot in plots if plot.svg or plot.title not in left_out]


def prefer_plots(run: str, rows: Rows, result: Mapping[str, Any]) -> list[Plot]:
    """What learning straight from preferences logs."""
    before, after = result.get("before") or {}, result.get("after") or {}
    plots = [
        draw_curve(
            run,
            "Preference loss",
            rows,
            {"loss": "training"},
            unit=f"loss ({result.get('loss', 'as chosen')})",
            levels=[Level("held out before", before.get("loss")), Level("held out after", after.get("loss"))],
            look_for="It should fall, and the held-out loss after should lie below the one before.",
        ),
        draw_curve(
            run,
            "Preferences ranked as people did",
            rows,
            {"accuracy": "training"},
            unit="preferences",
            levels=[Level("held out after", (after.get("accuracy") or {}).get("value"))],
            share=True,
            look_for="It should rise from about one half; a training share far above the held-out one is memorising.",
        ),
        draw_curve(
            run,
            "Log-probs of chosen and rejected",
            rows,
            {"chosen_log_prob": "chosen", "rejected_log_prob": "rejected"},
            unit="log-prob (nats a response)",
            look_for="The two should part. Both may fall; a chosen one that falls fast is being unlearnt as well.",
        ),
        draw_curve(
            run,
            "Margin",
            rows,
            {"margin": "chosen − rejected"},
            unit="nats beyond the reference",
            look_for="It should grow and flatten.",
        ),
        draw_curve(
            run,
            "Gradient norm",
            rows,
            {"gradient_norm": "policy"},
            unit="norm before clipping",
            look_for="It should stay of one size.",
        ),
    ]
    return [plot for plot in plots if plot.svg or plot.title != "Margin"]


def win_rate_plot(rates: Mapping[str, Mapping[str, Any]]) -> Plot:
    """Win rates with their intervals, where they have one.

    rates   what judged -> {value, low, high}
    """
    values = [rate["value"] for rate in rates.values()]
    errors = [[0.0 if r[end] is None else r["value"] - r[end] for r in rates.values()] for end in ("low", "high")]

    def paint(axes: Any) -> None:
        bars(axes, list(rates), values)
        axes.errorbar(values, range(len(values)), xerr=np.abs(errors), fmt="none", ecolor=TEXT, capsize=4)
        values_at_the_right(axes, [percent(value) for value in values])
        axes.axvline(0.5, color=MARK, linestyle="--")
        whole_share(axes)
        axes.set_xlabel("won by the policy, with 95 % interval")

    label = "; ".join(f"{name} {percent(r['value'])} ({bounds(r, percent)})" for name, r in rates.items())
    return Plot(
        "Win rate",
        "The whole interval should lie to the right of one half; a reward model far above the guideline "
        "preference means that the "
        "policy has learnt to please the reward model alone.",
        draw(paint, "win-rate", f"Bar chart, win rate: {label}", height=bars_height(len(values))),
    )


def agreement_plot(run: str, agreement: Mapping[str, Any]) -> Plot:
    """Raw agreement by pair of annotators, beside that of all."""
    pairs = dict(agreement["by_annotators"])
    mean = agreement["raw"]["value"]

    def paint(axes: Any) -> None:
        bars(axes, list(pairs), list(pairs.values()))
        values_at_the_right(axes, [percent(value) for value in pairs.values()])
        axes.axvline(mean, color=MARK, linestyle="--")
        whole_share(axes)
        axes.set_xlabel("same choice on a pair (dashed: all together)")

    label = ", ".join(f"{pair} {percent(value)}" for pair, value in pairs.items())
    return Plot(
        "Agreement of annotators",
        "Bars near one half say that two annotators agree no more than two coins would; an annotator whose bars are "
        "all short is the noisy one.",
        draw(paint, f"{run}-agreement", f"Bar chart, agreement: {label}", height=bars_height(len(pairs))),
    )


def time_plot(seconds: Mapping[str, float]) -> Plot:
    """Seconds of every run of the lineage, in order."""
    names, values = list(seconds), list(seconds.values())

    def paint(axes: Any) -> None:
        bars(axes, names, values)
        for place, value in enumerate(values):
            axes.annotate(duration(value), (value, place), (5, 0), textcoords="offset points", va="center")
        axes.margins(x=0.18)
        axes.set_xlim(left=0)
        axes.set_xlabel("time (seconds)")

    label = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())
    return Plot(
        "Time by stage",
        "The longest bar is where a larger batch, a smaller model or a faster machine pays.",
        draw(paint, "time", f"Bar chart, time by stage: {label}", height=bars_height(len(names))),
    )
