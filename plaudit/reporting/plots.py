"""The plots of the report, as SVG that lies inside the page and takes its colours from the page's style sheet."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

CHANCE_LOSS = math.log(2)
"""Loss of a reward model that knows nothing, nats."""
SMOOTHED_FROM = 40
"""Steps from which a curve is drawn faintly, with a running mean over it."""

WIDTH, HEIGHT = 4.9, 2.8
"""Inches of a curve's plot."""

# Stand-ins that matplotlib draws with, each replaced by a variable of the page: one drawing serves light and dark.
TEXT, GRID, FIRST, SECOND, MARK = (f"#0a0b0{digit}" for digit in range(1, 6))
VARIABLES = {TEXT: "--plot-text", GRID: "--plot-grid", FIRST: "--first", SECOND: "--second", MARK: "--mark"}
STYLE = {
    "axes.prop_cycle": f"cycler(color=['{FIRST}'])",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9.5,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}
LINES = ((FIRST, "-"), (SECOND, (0, (4, 1.6))))
LEVELS = ((MARK, ":"), (TEXT, "--"))

Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Plot:
    """A drawing with what is said around it.

    look_for   one plain sentence on how to read it
    svg        None when the run measured nothing to draw
    """

    title: str
    look_for: str
    svg: Markup | None


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare a curve with."""

    label: str
    value: float | None


def sft_plots(run: str, rows: Rows, result: Mapping[str, Any]) -> list[Plot]:
    """The loss of fine-tuning, beside the held-out loss before and after.

    run   its name: keeps the drawings of several runs apart
    """
    return [
        _curve(
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
    return [
        _curve(
            run,
            "Reward model loss",
            rows,
            {"loss": "training"},
            unit="loss (nats a judgment)",
            levels=[Level("chance, 0.693", CHANCE_LOSS), Level("held out after", result.get("log_loss"))],
            look_for="The loss should fall below chance; a held-out loss well above the last training losses means "
            "over-fitting.",
        ),
        _curve(
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
        _reliability(run, result.get("reliability") or []),
    ]


WITH_CRITIC = ("ppo", "ppo-lagrangian")
OF_SOME_ALGORITHMS = {
    "Value loss": WITH_CRITIC,
    "Explained variance of the returns": WITH_CRITIC,
    "Cost": ("ppo-lagrangian",),
    "Multiplier of the constraint": ("ppo-lagrangian",),
    "Best and median of the samples": ("rejection",),
    "Price of KL": (),
    "Loss on pretraining texts": (),
}
"""Plots that only these algorithms always have: for others they are left out where there is nothing to draw."""
NOT_OF_REJECTION = {"KL from the reference", "Score against distance", "Entropy", "Clipping", "Gradient norms",
                    "Sampler against trainer"}  # fmt: skip


def rl_plots(run: str, rows: Rows, settings: Mapping[str, Any]) -> list[Plot]:
    """Everything that policy optimisation logs and that can go wrong.

    settings   the `rl` section of the run's configuration
    """
    reward_unit = "standard deviations" if settings.get("normalise_reward") else "units of the reward model"
    if str(settings.get("reward")).startswith(("function:", "judge:", "[")):
        reward_unit = "units of the reward"
    plots = [
        _curve(
            run,
            "Score and reward",
            rows,
            {"score": "score", "reward": "reward: score − price of KL"},
            unit=f"mean ({reward_unit})",
            look_for="Both should rise; a score that rises while the reward does not is bought with too much KL.",
        ),
        _curve(
            run,
            "KL from the reference",
            rows,
            {"kl": "KL"},
            unit="KL (nats a response)",
            look_for="It should grow slowly and smoothly from 0; a sudden rise means that the policy is leaving the "
            "reference to exploit the reward model. It is an estimate from samples, so it can dip below 0.",
        ),
        _score_against_kl(run, rows, f"score ({reward_unit})"),
        _curve(
            run,
            "Entropy",
            rows,
            {"entropy": "entropy"},
            unit="entropy (nats a token)",
            look_for="A gentle fall is normal; a fall towards 0 means that the policy gives the same answers over and "
            "over, and has stopped exploring.",
        ),
        _curve(
            run,
            "Clipping",
            rows,
            {"clip_fraction": "policy", "value_clip_fraction": "value model"},
            unit="tokens clipped",
            share=True,
            look_for="A few per cent is healthy for the policy; far more means that its steps are too large, none at "
            "all that they could be larger.",
        ),
        _curve(
            run,
            "Response length",
            rows,
            {"length": "mean length"},
            unit="length (tokens)",
            levels=[Level("limit", settings.get("max_new_tokens"))],
            look_for="A steady drift, or a mean at the limit, means that the reward model pays for length.",
        ),
        _curve(
            run,
            "Finished responses",
            rows,
            {"finished_rate": "ended by themselves"},
            unit="responses",
            share=True,
            look_for="It should stay or become high: the others were cut off at the length limit.",
        ),
        _curve(
            run,
            "Value loss",
            rows,
            {"value_loss": "value loss"},
            unit="squared error / 2",
            look_for="It should fall as the value model learns what a response is going to be worth.",
        ),
        _curve(
            run,
            "Explained variance of the returns",
            rows,
            {"explained_variance": "explained variance"},
            unit="explained variance",
            levels=[Level("no better than a constant", 0.0)],
            look_for="It should rise above 0, towards 1; below 0 the value model adds noise to the advantages.",
        ),
        _curve(
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
        _curve(
            run,
            "Cost",
            rows,
            {"cost": "of this batch", "recent_cost": "of recent episodes"},
            unit="mean cost of an episode",
            levels=[Level("threshold", (settings.get("lagrangian") or {}).get("threshold"))],
            look_for="It should settle at the threshold or below; swings around it that grow call for a smaller rate.",
        ),
        _curve(
            run,
            "Multiplier of the constraint",
            rows,
            {"multiplier": "lambda"},
            unit="lambda",
            levels=[Level("cap", (settings.get("lagrangian") or {}).get("maximum"))],
            look_for="It grows while the cost is over its threshold; at the cap the constraint cannot be met.",
        ),
        _curve(
            run,
            "Price of KL",
            rows,
            {"kl_coefficient": "coefficient"},
            unit="reward a nat",
            look_for="The controller raises it while the KL is over its target and lowers it while under.",
        ),
        _curve(
            run,
            "Loss on pretraining texts",
            rows,
            {"pretraining_loss": "texts"},
            unit="loss (nats a token)",
            look_for="It should stay where it began: a rise is what the policy unlearns of language.",
        ),
        _curve(
            run,
            "Best and median of the samples",
            rows,
            {"best_score": "best", "median_score": "median"},
            unit=f"mean over prompts ({reward_unit})",
            look_for="The distance between the two is what imitating the best can gain in a round.",
        ),
        _curve(
            run,
            "Sampler against trainer",
            rows,
            {"sampler_gap": "sampler gap"},
            unit="|difference| (nats a token)",
            look_for="How far log-probs while sampling are from those while training: rounding error alone, so it "
            "should stay tiny and not grow.",
        ),
    ]
    algorithm = "rejection" if "rejection" in str(settings.get("algorithm")) else settings.get("algorithm", "ppo")
    left_out = {title for title, having in OF_SOME_ALGORITHMS.items() if algorithm not in having}
    left_out |= NOT_OF_REJECTION if algorithm == "rejection" else set()
    return [plot for plot in plots if plot.svg or plot.title not in left_out]


def prefer_plots(run: str, rows: Rows, result: Mapping[str, Any]) -> list[Plot]:
    """What learning straight from preferences logs."""
    before, after = result.get("before") or {}, result.get("after") or {}
    plots = [
        _curve(
            run,
            "Preference loss",
            rows,
            {"loss": "training"},
            unit=f"loss ({result.get('loss', 'as chosen')})",
            levels=[Level("held out before", before.get("loss")), Level("held out after", after.get("loss"))],
            look_for="It should fall, and the held-out loss after should lie below the one before.",
        ),
        _curve(
            run,
            "Preferences ranked as people did",
            rows,
            {"accuracy": "training"},
            unit="preferences",
            levels=[Level("held out after", (after.get("accuracy") or {}).get("value"))],
            share=True,
            look_for="It should rise from about one half; a training share far above the held-out one is memorising.",
        ),
        _curve(
            run,
            "Log-probs of chosen and rejected",
            rows,
            {"chosen_log_prob": "chosen", "rejected_log_prob": "rejected"},
            unit="log-prob (nats a response)",
            look_for="The two should part. Both may fall; a chosen one that falls fast is being unlearnt as well.",
        ),
        _curve(
            run,
            "Margin",
            rows,
            {"margin": "chosen − rejected"},
            unit="nats beyond the reference",
            look_for="It should grow and flatten.",
        ),
        _curve(
            run,
            "Gradient norm",
            rows,
            {"gradient_norm": "policy"},
            unit="norm before clipping",
            look_for="It should stay of one size.",
        ),
    ]
    return [plot for plot in plots if plot.svg or plot.title != "Margin"]


def win_rate_plot(rates: Mapping[str, Mapping[str, float]]) -> Plot:
    """Win rates with their intervals.

    rates   what judged -> {value, low, high}
    """
    values = [rate["value"] for rate in rates.values()]
    errors = [[r["value"] - r["low"] for r in rates.values()], [r["high"] - r["value"] for r in rates.values()]]

    def paint(axes: Any) -> None:
        _bars(axes, list(rates), values)
        axes.errorbar(values, range(len(values)), xerr=np.abs(errors), fmt="none", ecolor=TEXT, capsize=4)
        _values_at_the_right(axes, [percent(value) for value in values])
        axes.axvline(0.5, color=MARK, linestyle="--")
        _whole_share(axes)
        axes.set_xlabel("won by the policy, with 95 % interval")

    label = "; ".join(
        f"{name} {percent(r['value'])} ({percent(r['low'])} to {percent(r['high'])})" for name, r in rates.items()
    )
    return Plot(
        "Win rate",
        "The whole interval should lie to the right of one half; a reward model far above the taste means that the "
        "policy has learnt to please the reward model alone.",
        _draw(paint, "win-rate", f"Bar chart, win rate: {label}", height=_bars_height(len(values))),
    )


def agreement_plot(run: str, agreement: Mapping[str, Any]) -> Plot:
    """Raw agreement by pair of annotators, beside that of all."""
    pairs = dict(agreement["by_annotators"])
    mean = agreement["raw"]["value"]

    def paint(axes: Any) -> None:
        _bars(axes, list(pairs), list(pairs.values()))
        _values_at_the_right(axes, [percent(value) for value in pairs.values()])
        axes.axvline(mean, color=MARK, linestyle="--")
        _whole_share(axes)
        axes.set_xlabel("same choice on a pair (dashed: all together)")

    label = ", ".join(f"{pair} {percent(value)}" for pair, value in pairs.items())
    return Plot(
        "Agreement of annotators",
        "Bars near one half say that two annotators agree no more than two coins would; an annotator whose bars are "
        "all short is the noisy one.",
        _draw(paint, f"{run}-agreement", f"Bar chart, agreement: {label}", height=_bars_height(len(pairs))),
    )


def time_plot(seconds: Mapping[str, float]) -> Plot:
    """Seconds of every run of the lineage, in order."""
    names, values = list(seconds), list(seconds.values())

    def paint(axes: Any) -> None:
        _bars(axes, names, values)
        for place, value in enumerate(values):
            axes.annotate(duration(value), (value, place), (5, 0), textcoords="offset points", va="center")
        axes.margins(x=0.18)
        axes.set_xlim(left=0)
        axes.set_xlabel("time (seconds)")

    label = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())
    return Plot(
        "Time by stage",
        "The longest bar is where a larger batch, a smaller model or a faster machine pays.",
        _draw(paint, "time", f"Bar chart, time by stage: {label}", height=_bars_height(len(names))),
    )


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60, 1)
    return f"{minutes:.1f} min" if minutes < 60 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """A share as a percentage, one decimal."""
    return f"{100 * share:.1f}\u202f%"


def _curve(
    run: str,
    title: str,
    rows: Rows,
    names: Mapping[str, str],
    *,
    unit: str,
    look_for: str,
    levels: Sequence[Level] = (),
    share: bool = False,
) -> Plot:
    """Metrics against steps.

    names   metric -> its label
    share   the values are in [0, 1]
    """
    series = {label: found for key, label in names.items() if (found := _series(rows, key))[0]}
    if not series:
        return Plot(title, look_for, None)
    known = [level for level in levels if level.value is not None]

    steps = max(len(found[0]) for found in series.values())
    window = _window(steps)

    def paint(axes: Any) -> None:
        for (label, (at, values)), (color, dashes) in zip(series.items(), LINES, strict=False):
            _line(axes, at, values, label=label, color=color, dashes=dashes)
        for level, (color, dashes) in zip(known, LEVELS, strict=False):
            axes.axhline(level.value, label=level.label, color=color, linestyle=dashes, linewidth=1.4)
        axes.set_xlabel(f"step (strong line: mean of {window} steps)" if window else "step")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        if share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="\u202f%"))
            _bound_share(axes)
        else:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
        if len(series) + len(known) > 1:
            _legend_above(axes)

    label = f"Line plot, {title}, {unit}, over {steps} steps: {_in_words(series, known)}"
    return Plot(title, look_for, _draw(paint, f"{run}-{title}", label))


def _series(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the rows that have a finite value."""
    found = [(row["step"], row[key]) for row in rows if key in row and math.isfinite(row[key])]
    return [step for step, _ in found], [value for _, value in found]


def _line(axes: Any, steps: list[float], values: list[float], *, label: str, color: str, dashes: Any) -> None:
    window = _window(len(steps))
    if not window:
        marker = "o" if len(steps) <= 25 else None
        axes.plot(steps, values, color=color, linestyle=dashes, marker=marker, label=label)
        return
    axes.plot(steps, values, color=color, alpha=0.35, linewidth=0.8)
    axes.plot(steps, running_mean(values, window), color=color, linestyle=dashes, label=label)


def _window(steps: int) -> int:
    """Steps in a running mean; 0 for none."""
    return max(5, steps // 20) | 1 if steps >= SMOOTHED_FROM else 0


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over a centred window of odd width, narrower at the ends."""
    half = window // 2
    return [float(np.mean(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]


def _score_against_kl(run: str, rows: Rows, unit: str) -> Plot:
    title = "Score against distance"
    look_for = (
        "How much score each bit of distance buys, later steps larger: a curve that bends down is a reward model "
        "being over-optimised."
    )
    found = [r for r in rows if all(math.isfinite(r.get(key, math.nan)) for key in ("kl", "score"))]
    if not found:
        return Plot(title, look_for, None)
    roots = [math.sqrt(max(0.0, r["kl"])) for r in found]
    scores = [r["score"] for r in found]
    below = sum(r["kl"] < 0 for r in found)

    def paint(axes: Any) -> None:
        many = len(found) >= SMOOTHED_FROM
        sizes = [(4 if many else 8) + (8 if many else 22) * i / len(found) for i in range(len(found))]
        axes.plot(roots, scores, color=FIRST, linewidth=0.0 if many else 0.8, alpha=0.5)
        axes.scatter(roots, scores, color=FIRST, s=sizes, alpha=0.6 if many else 1.0, zorder=3)
        for place in sorted({0, len(found) - 1}):
            point = (roots[place], scores[place])
            axes.scatter(*point, color=MARK, s=30, zorder=4)
            axes.annotate(f"step {found[place]['step']:g}", point, (4, 6), textcoords="offset points", color=MARK)
        axes.set_xlabel("√KL from the reference (√nats)")
        axes.set_ylabel(unit)
        axes.margins(0.12)

    if below:
        look_for += f" {below} of {len(found)} steps have an estimate below 0, drawn at 0."
    label = f"Scatter plot of score against the square root of KL: from {_point(roots[0], scores[0])} "
    label += f"at step {found[0]['step']:g} to {_point(roots[-1], scores[-1])} at step {found[-1]['step']:g}"
    return Plot(title, look_for, _draw(paint, f"{run}-score-kl", label))


def _reliability(run: str, bins: Sequence[Mapping[str, float]]) -> Plot:
    """Confidence against accuracy, with the count of each bin."""
    title = "Held-out reliability"
    look_for = (
        "Points on the diagonal mean that the model knows how sure to be; points below it mean that it is too sure."
    )
    if not bins:
        return Plot(title, look_for, None)
    confidence, accuracy = [row["confidence"] for row in bins], [row["accuracy"] for row in bins]
    counts = [row["count"] for row in bins]
    size = f"{min(counts):g}" if min(counts) == max(counts) else f"{min(counts):g} to {max(counts):g}"

    def paint(axes: Any) -> None:
        axes.plot([0.5, 1], [0.5, 1], color=MARK, linestyle="--", linewidth=1.4, label="confidence = accuracy")
        axes.plot(confidence, accuracy, color=FIRST, marker="o", linewidth=0, label=f"bin of {size} judgments")
        axes.set_xlim(0.49, 1.01)
        axes.set_ylim(min(0.45, *accuracy) - 0.05, 1.08)
        axes.set_xlabel("confidence, mean of the bin")
        axes.set_ylabel("judgments ranked right")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol="\u202f%"))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="\u202f%"))
        _legend_above(axes)

    label = ", ".join(
        f"{row['count']:g} at {percent(row['confidence'])} right {percent(row['accuracy'])}" for row in bins
    )
    label = f"Reliability plot, judgments by confidence: {label}"
    return Plot(title, look_for, _draw(paint, f"{run}-reliability", label))


def _bars(axes: Any, names: list[str], values: Sequence[float]) -> None:
    axes.barh(range(len(names)), values, color=FIRST, height=0.62, alpha=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def _bars_height(count: int) -> float:
    return 0.75 + 0.34 * max(2, count)


def _values_at_the_right(axes: Any, values: Sequence[str]) -> None:
    for place, value in enumerate(values):
        axes.annotate(value, (1, place), xycoords=("axes fraction", "data"), ha="right", va="center")


def _whole_share(axes: Any) -> None:
    """From 0 to 100 %, with room for values behind it."""
    axes.set_xlim(0, 1.22)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol="\u202f%"))


def _legend_above(axes: Any) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, columnspacing=1.0, handlelength=2.1, borderpad=0.2
    )


def _bound_share(axes: Any) -> None:
    """Keep the range of a share within [0, 1], and wide enough to say something."""
    low, high = axes.get_ylim()
    high = min(1.03, max(high, 0.05))
    axes.set_ylim(max(-0.03 * high, low), high)


def _tick(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _point(root: float, score: float) -> str:
    return f"({root:.3g}, {score:.3g})"


def _in_words(series: Mapping[str, tuple[list[float], list[float]]], levels: Sequence[Level]) -> str:
    lines = [f"{label} from {values[0]:.3g} to {values[-1]:.3g}" for label, (_, values) in series.items()]
    return "; ".join([*lines, *(f"{level.label} {level.value:.3g}" for level in levels)])


def _draw(paint: Callable[[Any], None], name: str, label: str, *, height: float = HEIGHT) -> Markup:
    """An SVG element; `label` is what a reader who cannot see it is told."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({**STYLE, "svg.hashsalt": slug}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return Markup(_inline(file.getvalue(), slug, label))


def _inline(svg: str, slug: str, label: str) -> str:
    """matplotlib's SVG file as an element of an HTML page: no prolog, ids of its own, colours by variable."""
    body = svg[svg.index("<svg") :]
    opening, body = body[: body.index(">")], body[body.index(">") + 1 :]
    box = re.search(r'viewBox="([^"]+)"', opening)
    assert box is not None
    body = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{slug}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{slug}-", body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]+;? ?", "", body)
    for color, variable in VARIABLES.items():
        body = body.replace(color, f"var({variable})")
    return f'<svg role="img" aria-label="{escape(label)}" viewBox="{box[1]}" class="plot">{body}'
