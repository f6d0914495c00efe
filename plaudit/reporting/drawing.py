"""How the report draws: SVG that lies inside the page and takes its colours from the page's style sheet."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

SMOOTHED_FROM = 40
"""Steps from which a curve is drawn faintly, with a running mean over it."""

WIDTH, HEIGHT = 4.9, 2.8
"""Inches of a curve's plot."""
LEGEND_LINE = 0.19
"""Inches that a line of a legend above the axes takes."""

# Stand-ins that matplotlib draws with, each replaced by a variable of the page: one drawing serves light and dark.
TEXT, GRID, FIRST, SECOND, MARK = (f"#0a0b0{digit}" for digit in range(1, 6))
VARIABLES = {TEXT: "--plot-text", GRID: "--plot-grid", FIRST: "--first", SECOND: "--second", MARK: "--mark"}
LIGHT = {
    "--plot-text": "#465163",
    "--plot-grid": "#e6eaef",
    "--first": "#2463b0",
    "--second": "#b4530f",
    "--mark": "#8a3f8f",
}
"""Their values on a white page, as in the report's style sheet."""
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
LINES = ((FIRST, "-"), (SECOND, (0, (4, 1.6))), (FIRST, (0, (1, 1.4))), (SECOND, (0, (6, 1.5, 1, 1.5))))
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


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60, 1)
    return f"{minutes:.1f} min" if minutes < 60 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """A share as a percentage, one decimal."""
    return f"{100 * share:.1f}\u202f%"


def draw_curve(
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
        for (label, (at, values)), (color, dashes) in zip(series.items(), LINES[: len(series)], strict=True):
            _line(axes, at, values, label=label, color=color, dashes=dashes)
        for level, (color, dashes) in zip(known, LEVELS[: len(known)], strict=True):
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
    return Plot(title, look_for, draw(paint, f"{run}-{title}", label))


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


def score_against_kl(run: str, rows: Rows, unit: str) -> Plot:
    """Score of every step against the root of its KL."""
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
    return Plot(title, look_for, draw(paint, f"{run}-score-kl", label))


def reliability(run: str, bins: Sequence[Mapping[str, float]]) -> Plot:
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
    return Plot(title, look_for, draw(paint, f"{run}-reliability", label))


def scaling(run: str, result: Mapping[str, Any]) -> Plot:
    """Accuracy of a study's models against the comparisons they learnt from, with the fitted law."""
    title = "Accuracy by comparisons"
    law, points = result["accuracy_law"], result["models"]
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for point in sorted(points, key=lambda point: (point["weights"], point["comparisons"])):
        by_model.setdefault(point["model"], []).append(point)

    def paint(axes: Any) -> None:
        for number, (model, rows) in enumerate(by_model.items()):
            color, dashes = LINES[number % len(LINES)]
            at = [row["comparisons"] for row in rows]
            axes.plot(at, [row["accuracy"] for row in rows], color=color, marker="os^D"[number % 4], linewidth=0)
            fitted = [_on_law(law, x, rows[0]["weights"]) for x in at]
            label = f"{Path(model).name[:24]} ({_millions(rows[0]['weights'])})"
            axes.plot(at, fitted, color=color, linestyle=dashes, label=label)
        if result.get("ceiling") is not None:
            axes.axhline(result["ceiling"], color=MARK, linestyle=":", label="annotators' ceiling")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="\u202f%"))
        axes.set_xlabel("comparisons learnt from")
        axes.set_ylabel("held-out judgments ranked right")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0.2)

    label = "; ".join(f"{model}: {_points(rows)}" for model, rows in by_model.items())
    look_for = "Points that leave their line to the right bend towards the ceiling: the law no longer holds there."
    height = HEIGHT + LEGEND_LINE * len(by_model)
    return Plot(title, look_for, draw(paint, f"{run}-scaling", f"Accuracy by comparisons, {label}", height=height))


def _points(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{percent(row['accuracy'])} at {row['comparisons']:g}" for row in rows)


def _on_law(law: Mapping[str, Any], comparisons: float, weights: float) -> float:
    found = float(law["level"]["value"])
    for name, size, largest in (("comparisons", comparisons, law["D_0"]), ("weights", weights, law["N_0"])):
        if f"per_doubling_of_{name}" in law:
            found += law[f"per_doubling_of_{name}"]["value"] * math.log2(size / largest)
    return found


def _millions(weights: float) -> str:
    return f"{weights / 1e6:.3g}M weights"


def standalone(plot: Plot) -> str:
    """A plot as a file of its own, in the page's light colours on white; empty where there is nothing to draw."""
    if plot.svg is None:
        return ""
    opening = '<svg xmlns="http://www.w3.org/2000/svg" style="background: white; font-family: sans-serif"'
    drawing = str(plot.svg).replace("<svg", opening, 1)
    for variable, color in LIGHT.items():
        drawing = drawing.replace(f"var({variable})", color)
    return drawing + "\n"


def bars(axes: Any, names: list[str], values: Sequence[float]) -> None:
    """Horizontal bars, the first on top."""
    axes.barh(range(len(names)), values, color=FIRST, height=0.62, alpha=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def bars_height(count: int) -> float:
    """Inches of a plot with so many bars."""
    return 0.75 + 0.34 * max(2, count)


def values_at_the_right(axes: Any, values: Sequence[str]) -> None:
    """Each bar's value, as text at the right edge."""
    for place, value in enumerate(values):
        axes.annotate(value, (1, place), xycoords=("axes fraction", "data"), ha="right", va="center")


def whole_share(axes: Any) -> None:
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


def draw(paint: Callable[[Any], None], name: str, label: str, *, height: float = HEIGHT) -> Markup:
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
