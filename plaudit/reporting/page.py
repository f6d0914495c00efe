"""`report.html` and `summary.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from plaudit.config import renamed
from plaudit.config.resolve import read_yaml
from plaudit.errors import WorkspaceError
from plaudit.files import read_json_lines, write_json, write_text
from plaudit.methods import METRICS
from plaudit.reporting.annotators import annotator_rows, liked
from plaudit.reporting.drawing import Plot, duration, percent
from plaudit.reporting.plots import (
    agreement_plot,
    entry_of,
    prefer_plots,
    pretrain_plots,
    reward_plots,
    rl_plots,
    sft_plots,
    time_plot,
    win_rate_plot,
)
from plaudit.reporting.summary import lineage, summarise
from plaudit.reporting.text import bounds
from plaudit.stages import STAGES
from plaudit.workspace import Run, Workspace

SAMPLES = 16
"""Held-out answers shown, evenly spaced in the file."""
EXTREMES = 3
"""Largest gains shown, and largest losses."""

FACTS = {
    "utility": "the guideline preference's verdict, the weighted sum of the facts below",
    "finished_rate": "share of answers that ended by themselves",
    "answers": "share of the question's content words taken up, full at two",
    "tone": "VADER compound score, −1 to 1",
    "repetition": "share of three-word runs that occurred before in the answer",
    "words": "words an answer; the guideline preference likes {fewest_words} to {comfortable_words}",
    "length": "tokens an answer",
    "reward_score": "score of the reward model, in standard deviations of its training responses",
}
WEIGHTED = {
    "finished_rate": "finished",
    "answers": "answers",
    "tone": "tone",
    "repetition": "repetition",
    "words": "length",
}
"""Fact in the result -> its weight in the guideline preference's settings."""

SHOWN = {"text", "finished", "tokens", "utility", "reward"}
"""What is known of an answer."""

Interval = Mapping[str, float]


@dataclass(frozen=True)
class Figure:
    """A headline figure.

    value   None when it was not measured
    notes   its interval, and what else is needed to read it
    """

    label: str
    value: str | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Curves:
    """The plots of one run, or of a stage that no run of the lineage belongs to."""

    stage: str
    run: str | None
    facts: list[tuple[str, str]] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


def report(workspace: Workspace, evaluation: Run | None = None) -> Path:
    """Write the page and the summary of an evaluation's whole lineage into the workspace.

    evaluation   None for the newest complete one

    Returns the page's path. What no run of the lineage measured is said to be so on the page.
    """
    evaluation = evaluation or workspace.run("latest:evaluate")
    summary = summarise(workspace, evaluation)
    write_json(workspace.path / "summary.json", summary)
    path = workspace.path / "report.html"
    write_text(path, render(workspace, evaluation, summary))
    return path


def render(workspace: Workspace, evaluation: Run, summary: Mapping[str, Any]) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=PackageLoader("plaudit.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "percent": percent, "number": _number}
    runs = lineage(workspace, evaluation)
    rows = read_samples(evaluation)
    return environment.get_template("report.html.j2").render(
        policy=short_name(evaluation.parents["policy"]),
        baseline=short_name(evaluation.parents["baseline"]),
        evaluation=evaluation,
        verdict=verdict(summary["win_rate"]),
        rate_range=bounds(summary["win_rate"], percent, before="95 % interval "),
        figures=list(headline_figures(summary)),
        curves=[curves for kind, stage in STAGES.items() if stage.title for curves in stage_curves(kind, runs)],
        win_rates=_win_rates(summary),
        agreements=[agreement_plot(run.name, run.result["agreement"]) for run in runs if run.result.get("agreement")],
        simulated=[(run.name, liked(run.result), table) for run in runs if (table := annotator_rows(run.result))],
        facts=fact_rows(evaluation),
        answers=len(rows),
        samples=evenly_spaced(rows, SAMPLES),
        gains=extremes(rows, EXTREMES, sign=1),
        losses=extremes(rows, EXTREMES, sign=-1),
        time=time_plot({run.name: run.info.get("seconds", 0.0) for run in runs}),
        total_time=duration(sum(run.info.get("seconds", 0.0) for run in runs)),
        peak_memory=_number(summary["peak_memory_gb"], 2),
        lineage=[lineage_row(run) for run in runs],
        versions=summary["versions"],
        warnings=[(run.name, warning) for run in runs for warning in run.warnings],
        config=yaml.safe_dump(_without_folders(_settings(evaluation)), sort_keys=False, allow_unicode=True),
    )


def verdict(rate: Interval) -> tuple[str, str]:
    """(better, worse or undecided; what the win rate's interval allows to say)."""
    if rate["low"] is None or rate["high"] is None:
        return "undecided", "a single prompt shows nothing"
    if rate["low"] > 0.5:
        return "better", "the lower end is above 1/2, so the policy is better by this measure"
    if rate["high"] < 0.5:
        return "worse", "even the upper end is below 1/2, so the policy is worse by this measure"
    return "undecided", "the lower end is not above 1/2, so no improvement is shown"


def headline_figures(summary: Mapping[str, Any]) -> Iterator[Figure]:
    """The row of figures under the verdict; those that were not measured have no value."""
    yield _share_figure("Win rate, by the guideline preference", summary["win_rate"])
    yield _share_figure("Win rate, by the reward model", summary["win_rate_by_reward"])
    yield _figure("KL from the baseline", summary["kl"], unit=" nats a response")
    yield _change_figure("Length", summary["mean_length"], unit=" tokens")
    yield _change_figure("Finished answers", summary["finished_rate"], share=True)
    yield _perplexity_figure(summary)
    for name, metric in METRICS.items():
        yield _change_figure(metric.title, summary.get(name), digits=metric.digits)
    yield _reward_figure(summary)
    yield _agreement_figure(summary["agreement"])
    if people := summary["judgments_by_people"]:
        yield Figure("Judgments by people", f"{people}", ["in the reward model's training data"])


def stage_curves(kind: str, runs: Sequence[Run]) -> list[Curves]:
    """The plots of every run of a kind; one without plots when there is no such run but should be."""
    own = [run for run in runs if run.kind == kind]
    kinds = {run.kind for run in runs}
    another_way = {"pretrain", *({"rl", "reward"} if "prefer" in kinds else {"prefer"})}
    return [_run_curves(run) for run in own] or ([] if kind in another_way else [Curves(STAGES[kind].title, None)])


def fact_rows(evaluation: Run) -> list[dict[str, str]]:
    """The guideline preference's facts of baseline and policy, and the other means of an answer."""
    before, after = evaluation.result["baseline"], evaluation.result["policy"]
    guideline_preference = _settings(evaluation).get("evaluate", {}).get("guideline_preference", {})
    names = [*(name for name in FACTS if name in after), *(name for name in after if name not in FACTS)]
    rows = []
    for name in names:
        digits = 1 if name in ("length", "words") else 3
        weight = guideline_preference.get(WEIGHTED.get(name))
        sign = "−" if name in ("repetition", "words") else ""
        rows.append(
            {
                "name": name.replace("_", " "),
                "meaning": FACTS.get(name, "").format(
                    comfortable_words=guideline_preference.get("comfortable_words", "a comfortable length"),
                    fewest_words=guideline_preference.get("fewest_words", "few"),
                ),
                "weight": "" if weight is None else f"{sign}{weight:g}",
                "before": _number(before[name]["value"], digits),
                "before_interval": _range(before[name], digits),
                "after": _number(after[name]["value"], digits),
                "after_interval": _range(after[name], digits),
                "change": _signed(after[name]["value"] - before[name]["value"], digits),
            }
        )
    return rows


def read_samples(evaluation: Run) -> list[dict[str, Any]]:
    """The answers side by side, with their place in the file from 1; none when the file is gone."""
    rows = read_json_lines(evaluation.path / "samples.jsonl", ("prompt", "policy", "baseline"))
    for number, row in enumerate(rows, start=1):
        if not all(isinstance(row[side], dict) and row[side].keys() >= SHOWN for side in ("policy", "baseline")):
            raise WorkspaceError(f"{evaluation.path / 'samples.jsonl'}, line {number} is damaged; restore the file.")
    return [{**row, "place": place} for place, row in enumerate(rows, start=1)]


def evenly_spaced(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` of the rows, or all of fewer: the (i n / count)-th ones, whatever they hold."""
    wanted = min(count, len(rows))
    return [rows[i * len(rows) // wanted] for i in range(wanted)]


def extremes(rows: Sequence[dict[str, Any]], count: int, *, sign: int) -> list[dict[str, Any]]:
    """Up to `count` rows of largest gain in utility (sign 1) or loss (-1); the first in the file among equals."""

    def gain(row: dict[str, Any]) -> float:
        return sign * float(row["policy"]["utility"] - row["baseline"]["utility"])

    return sorted((row for row in rows if gain(row) > 0), key=gain, reverse=True)[:count]


def lineage_row(run: Run) -> dict[str, Any]:
    """What the table of runs says of one."""
    data = [f"{facts['count']} {name}, {facts['sha256'][:8]}" for name, facts in run.info.get("data", {}).items()]
    return {
        "name": run.name,
        "kind": run.kind,
        "parents": [
            *(f"{role}: {short_name(reference)}" for role, reference in run.parents.items()),
            *(f"{kind}: {', '.join(names)}" for kind, names in run.sources.by_kind.items()),
        ],
        "data": data,
        "seed": run.info["seed"],
        "created": run.info["created"][:16].replace("T", " "),
        "time": duration(run.info["seconds"]) if "seconds" in run.info else "not recorded",
        "memory": f"{run.info['peak_memory_gb']:.2f} GB" if "peak_memory_gb" in run.info else "not recorded",
    }


def short_name(reference: str) -> str:
    """A run or hub name as it is; of a folder on this machine the last part."""
    for path in (PurePosixPath(reference), PureWindowsPath(reference)):
        if path.is_absolute() and path.name:
            return path.name
    return reference


def visible(text: str) -> str:
    """Text with its control characters, which HTML forbids, as their symbols."""
    return "".join(_symbol(character) for character in text)


def _symbol(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or code >= 0xA0 or 0x20 <= code < 0x7F:
        return "\ufffd" if 0xD800 <= code < 0xE000 else character
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def _run_curves(run: Run) -> Curves:
    rows, result, title = run.metrics(), run.result, STAGES[run.kind].title
    if run.kind == "pretrain":
        return Curves(title, run.name, _pretrain_facts(result), pretrain_plots(run.name, rows))
    if run.kind == "sft":
        return Curves(title, run.name, _sft_facts(result), sft_plots(run.name, rows, result))
    if run.kind == "reward":
        return Curves(title, run.name, _reward_facts(result), reward_plots(run.name, rows, result))
    if run.kind == "prefer":
        return Curves(title, run.name, _prefer_facts(result), prefer_plots(run.name, rows, result))
    settings = _settings(run).get("rl", {})
    return Curves(
        STAGES[run.kind].title, run.name, _rl_facts(rows, result, settings), rl_plots(run.name, rows, settings)
    )


def _pretrain_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Weights", _number(result.get("parameters"), 0)),
        ("Documents", _number(result.get("documents"), 0)),
        ("Tokens", _number(result.get("tokens"), 0)),
        ("Passes over them", _number(result.get("epochs"), 2)),
        ("Held-out loss", _number(result.get("held_out_loss"), 3, " nats a token")),
        ("Held-out bits a byte", _number(result.get("held_out_bits_per_byte"), 3)),
    ]


def _sft_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Demonstrations", _number(result.get("demonstrations"), 0)),
        ("Held out", _number(result.get("held_out_demonstrations"), 0)),
        ("Training loss, last pass", _number(result.get("train_loss"), 3, " nats a token")),
        ("Held-out loss before", _number(result.get("held_out_loss_before"), 3, " nats a token")),
        ("Held-out loss after", _number(result.get("held_out_loss_after"), 3, " nats a token")),
    ]


def _reward_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    groups = {"judged by": "annotator", "judged": "grade", "by criterion": "criterion", "the preferred": "length"}
    shares = [
        (f"Accuracy, {words} {name}", percent(accuracy["value"]))
        for words, kind in groups.items()
        for name, accuracy in (result.get(f"accuracy_by_{kind}") or {}).items()
    ]
    correlations = result.get("rating_correlation") or {}
    return [
        ("Training prompts", _number(result.get("train_prompts"), 0)),
        *([("Training ratings", _number(result["train_ratings"], 0))] if "train_ratings" in result else []),
        ("Training judgments", _number(result.get("train_judgments"), 0)),
        ("of them by people", _number(result.get("train_judgments_by_people"), 0)),
        ("of them by models", _number(result.get("train_judgments_by_models"), 0)),
        ("of them simulated", _number(result.get("train_judgments_simulated"), 0)),
        ("Held-out prompts", _number(result.get("held_out_prompts"), 0)),
        ("Held-out judgments", _number(result.get("judgments"), 0)),
        ("Ties left out", _number(result.get("ties"), 0)),
        ("Held-out log loss", _number(result.get("log_loss"), 3, " nats")),
        ("Expected calibration error", _number(result.get("calibration_error"), 3)),
        ("Temperature that would calibrate it", _number(result.get("temperature"), 2)),
        ("Brier score", _number(result.get("brier"), 3)),
        ("Scores the longer response higher", _share(result.get("scores_longer"))),
        *shares,
        *((f"Correlation with ratings, {name or 'held out'}", _number(r, 3)) for name, r in correlations.items()),
    ]


def _share(value: float | None) -> str:
    return "not measured" if value is None else percent(value)


def _prefer_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    before, after = result.get("before") or {}, result.get("after") or {}
    accuracies = [(side.get("accuracy") or {}).get("value") for side in (before, after)]
    shares = " → ".join(map(_share, accuracies))
    return [
        ("Loss", str(result.get("loss", "not recorded"))),
        ("Reference", str(result.get("reference") or "none")),
        ("Trained on", _number(result.get("train_items"), 0)),
        ("Held out", _number(result.get("held_out_items"), 0)),
        ("Held-out preferences ranked right", shares),
    ]


def _rl_facts(
    rows: Sequence[Mapping[str, float]], result: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[tuple[str, str]]:
    gaps = [row["first_ratio_gap"] for row in rows if "first_ratio_gap" in row]
    ratios = [row["largest_log_ratio"] for row in rows if "largest_log_ratio" in row]
    first, last = result.get("first", {}), result.get("last", {})
    if not entry_of(settings).algorithm:
        return [
            ("Algorithm", "rejection sampling"),
            ("Rounds", _number(result.get("rounds"), 0)),
            ("Responses kept", _number(result.get("kept"), 0)),
            ("Score, first to last round", _from_to(first.get("score"), last.get("score"), "")),
        ]
    return [
        ("Algorithm", str(settings.get("algorithm", "not recorded"))),
        ("Steps", _number(result.get("steps"), 0)),
        ("Responses a step", _responses(settings)),
        ("Price of KL", _number(_price_of_kl(settings), 3, " a nat")),
        ("Score, first to last tenth", _from_to(first.get("score"), last.get("score"), "")),
        ("KL, first to last tenth", _from_to(first.get("kl"), last.get("kl"), " nats")),
        ("Largest |log ratio| before an update", f"{max(gaps):.2g} (should be 0)" if gaps else "not measured"),
        ("Largest |log ratio| of a token", f"{max(ratios):.2g}" if ratios else "not measured"),
    ]


def _price_of_kl(settings: Mapping[str, Any]) -> float | None:
    found: Any = settings
    for part in (entry_of(settings).own_kl or "kl_coefficient").split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _from_to(first: float | None, last: float | None, unit: str) -> str:
    return "not measured" if first is None or last is None else f"{_number(first, 2)} → {_number(last, 2, unit)}"


def _responses(settings: Mapping[str, Any]) -> str:
    prompts = settings.get("prompts_per_step")
    if prompts is None or "samples_per_prompt" not in settings:
        return "not recorded"
    return f"{prompts} × {settings['samples_per_prompt'] or (4 if entry_of(settings).compares else 1)}"


def _win_rates(summary: Mapping[str, Any]) -> Plot:
    rates = {"by the guideline preference": summary["win_rate"], "by the reward model": summary["win_rate_by_reward"]}
    return win_rate_plot({name: rate for name, rate in rates.items() if rate})


def _figure(label: str, interval: Interval | None, *, unit: str = "", digits: int = 2) -> Figure:
    if not interval:
        return Figure(label, None)
    return Figure(
        label, _number(interval["value"], digits, unit), [f"95 %: {_range(interval, digits)}", _count(interval)]
    )


def _share_figure(label: str, interval: Interval | None) -> Figure:
    if not interval:
        return Figure(label, None)
    return Figure(label, percent(interval["value"]), [f"95 %: {_share_range(interval)}", _count(interval)])


def _change_figure(
    label: str, change: Mapping[str, Interval] | None, *, unit: str = "", digits: int = 1, share: bool = False
) -> Figure:
    if not change:
        return Figure(label, None)
    values = [
        percent(i["value"]) if share else _number(i["value"], digits) for i in (change["before"], change["after"])
    ]
    ranges = [_share_range(i) if share else _range(i, digits) for i in (change["before"], change["after"])]
    notes = [f"before, 95 %: {ranges[0]}", f"after, 95 %: {ranges[1]}"]
    return Figure(label, " → ".join(values) + unit, notes)


def _perplexity_figure(summary: Mapping[str, Any]) -> Figure:
    label = "Perplexity on plain text (alignment tax)"
    values = f"{_number(summary['perplexity']['before'], 2)} → {_number(summary['perplexity']['after'], 2)}"
    ratio = summary["perplexity_ratio"]
    if not ratio:
        return Figure(label, values, ["ratio not measured: the two models split the text into different tokens"])
    return Figure(label, f"× {ratio['value']:.3f}", [f"95 %: {_range(ratio, 3)}", values])


def _reward_figure(summary: Mapping[str, Any]) -> Figure:
    accuracy, longer = summary["reward_accuracy"], summary["reward_accuracy_longer_wins"]
    label = "Reward model's held-out accuracy"
    if not accuracy:
        return Figure(label, None)
    ceiling = summary["reward_accuracy_ceiling"]
    notes = [
        f"95 %: {_share_range(accuracy)}",
        f"ceiling, given the judges' noise: {percent(ceiling)}" if ceiling else "ceiling: not measured",
    ]
    if longer:
        notes.append(f"“longer wins”: {percent(longer['value'])} ({_share_range(longer)})")
    return Figure(label, percent(accuracy["value"]), notes)


def _agreement_figure(agreement: Mapping[str, Any] | None) -> Figure:
    label = "Annotators' agreement"
    if not agreement:
        return Figure(label, None)
    notes = [
        f"95 %: {_share_range(agreement['raw'])}",
        f"Krippendorff's α {_alpha(agreement['alpha'])} (0 is chance)",
        f"on {agreement['pairs']} pairs",
    ]
    return Figure(label, percent(agreement["raw"]["value"]), notes)


def _alpha(alpha: Interval | float | None) -> str:
    """The figure with its interval, which runs of earlier versions do not have; None where it has no value."""
    if alpha is None or isinstance(alpha, float):
        return _number(alpha, 2)
    return f"{_number(alpha['value'], 2)}, 95 %: {_range(alpha, 2)}"


def _count(interval: Interval) -> str:
    return f"{interval['n']:.0f} prompts"


def _number(value: float | None, digits: int, unit: str = "") -> str:
    if value is None:
        return "not measured"
    shown = f"{value:.{digits}f}"
    return ("−" + shown[1:] if float(shown) < 0 else shown.removeprefix("-")) + unit


def _signed(value: float, digits: int) -> str:
    shown = _number(value, digits)
    return f"+{shown}" if float(f"{value:.{digits}f}") > 0 else shown


def _range(interval: Interval, digits: int) -> str:
    return bounds(interval, lambda number: _number(number, digits))


def _share_range(interval: Interval) -> str:
    return bounds(interval, percent)


def _settings(run: Run) -> dict[str, Any]:
    """The run's settings as they were written, under the names of this version: also those of another version."""
    path = run.path / "config.yaml"
    return renamed.translated(read_yaml(path))[0] if path.exists() else {}


def _without_folders(settings: Any, key: str = "") -> Any:
    """Settings with the last part of every path on this machine in its place."""
    if isinstance(settings, dict):
        return {name: _without_folders(value, name) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_without_folders(value) for value in settings]
    return short_name(settings) if isinstance(settings, str) and key != "system_prompt" else settings
