"""Plots of how much feedback a question takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from plaudit.reporting.drawing import FIRST, MARK, SECOND, Plot, draw, percent


def power_plot(result: Mapping[str, Any]) -> Plot:
    """Power against judgments: simulated, with intervals, and by the normal approximation.

    result   of `power.power_study`
    """
    plan = result["plan"]
    return _curve(
        result["curve"], "judgments", plan["power"],
        title="Power by judgments", wanted=f"wanted: {percent(plan['power'])}",
        ylabel=f"power to tell {percent(plan['win_rate'])} from one half",
    )  # fmt: skip


def accuracy_plot(result: Mapping[str, Any]) -> Plot:
    """Accuracy of simulated reward models against judgments, with intervals, and by the asymptotic covariance.

    result   of `reward_power.reward_power`
    """
    return _curve(
        result["curve"], "judgments", result["accuracy"],
        title="Accuracy by judgments", wanted=f"wanted: {percent(result['accuracy'])}",
        ylabel=f"judgments ranked right ({result['features']} features)", ceiling=result["ceiling"],
    )  # fmt: skip


def _curve(
    points: Sequence[Mapping[str, Any]], across: str, level: float, *,
    title: str, wanted: str, ylabel: str, ceiling: float | None = None,
) -> Plot:  # fmt: skip
    at = [point[across] for point in points]
    values = [point["simulated"]["value"] for point in points]
    errors = [
        [point["simulated"]["value"] - point["simulated"]["low"] for point in points],
        [point["simulated"]["high"] - point["simulated"]["value"] for point in points],
    ]

    def paint(axes: Any) -> None:
        axes.plot(at, [point["normal"] for point in points], color=SECOND, label="closed form")
        axes.errorbar(at, values, yerr=errors, color=FIRST, fmt="o", elinewidth=1.2, label="simulated, 95 %")
        axes.axhline(level, color=MARK, linestyle="--", linewidth=1.4, label=wanted)
        if ceiling is not None:
            axes.axhline(ceiling, color=MARK, linestyle=":", linewidth=1.4, label="ceiling")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="\u202f%", decimals=0))
        axes.set_xlabel(across)
        axes.set_ylabel(ylabel)
        axes.legend(loc="lower right")

    first, last = points[0], points[-1]
    label = f"{title}: {percent(values[0])} at {first[across]}, {percent(values[-1])} at {last[across]}; {wanted}"
    look_for = "Where the points cross the dashed line is what is needed; the line through them is theory."
    return Plot(title, look_for, draw(paint, title, label))
