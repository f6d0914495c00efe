"""Results as lines for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from plaudit.store.importing import Imported
from plaudit.workspace import Run

MOST_LINES = 10
"""Most lines of a list by name, such as one of annotators; --json has all."""
ONE = "of a single one, so without an interval"
NO_RANGE = "no interval of one"


def result_lines(result: dict[str, Any], *, indent: int = 2) -> Iterator[str]:
    """One line a figure; intervals as `value (95 % low to high)` or `(no interval)`; lists are left to the report."""
    for key, value in result.items():
        label = " " * indent + key.replace("_", " ")
        if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
            yield f"{label}: {with_interval(value, lambda number: f'{number:.4g}')}"
        elif isinstance(value, dict):
            yield f"{label}:"
            cut = len(value) > MOST_LINES and _is_by_name(value)
            shown = dict(islice(value.items(), MOST_LINES)) if cut else value
            yield from result_lines(shown, indent=indent + 2)
            if cut:
                yield " " * (indent + 2) + _and_more(len(value))
        elif isinstance(value, float):
            yield f"{label}: {value:.4g}"
        elif isinstance(value, list) and value and not isinstance(value[0], dict):
            more = [_and_more(len(value))] if len(value) > MOST_LINES else []
            yield f"{label}: {', '.join([*map(str, value[:MOST_LINES]), *more])}"
        elif not isinstance(value, list):
            yield f"{label}: {'not measured' if value is None else value}"


def imported_lines(imported: Imported) -> Iterator[str]:
    """What became of a file."""
    kind = imported.kind
    pairs = f" ({imported.pairs} pairs)" if imported.pairs else ""
    again = f" {imported.repeated} were there already." if imported.repeated else ""
    yield f"{imported.rows} rows read, {imported.added} {kind}{pairs} added.{again}"
    told = {
        "Further votes on the same, of people who are not named": imported.votes,
        "Corrections of what the same annotator said before, which no longer counts": imported.corrected,
        "Such as the same annotator corrected later, which do not count": imported.overruled,
    }
    yield from (f"{what}: {number} of those added." for what, number in told.items() if number)
    yield from (f"Left out: {number} {why}." for why, number in sorted(imported.left_out.items()))
    yield from (f"{number} {what}." for what, number in sorted(imported.guessed.items()))
    if imported.moved:
        yield f"{imported.moved} prompts stay in the split (training or held out) that they have here."
    if imported.restored:
        yield f"{imported.restored} rows and prompts are taken in again that were excluded with an import."
    if imported.excluded:
        yield f"{imported.excluded} of them are excluded, and stay so: plaudit data list, plaudit data restore."
    for column, number in sorted(imported.prompts.items()):
        yield f"`{column}` was not read, though it could be part of the prompt ({number} rows)."
    if imported.unread:
        yield "Columns that were not read: " + ", ".join(sorted(imported.unread)) + "."
    if kind not in ("prompts", "demonstrations"):
        yield f"Its name, as in reward.comparisons=[{imported.run}]: {imported.run}"
    yield f"To undo: plaudit data exclude --import {imported.number}"


def with_interval(interval: Mapping[str, Any], shown: Callable[[float], str]) -> str:
    """`value (95 % low to high)`, or that the value has no interval, as where a single prompt is behind it."""
    value = "none" if interval["value"] is None else shown(interval["value"])
    if interval["low"] is None and interval.get("n") == 1:
        return f"{value} ({ONE})"
    return f"{value} ({bounds(interval, shown, before='95 % ')})"


def bounds(interval: Mapping[str, Any], shown: Callable[[float], str], *, before: str = "") -> str:
    """`low to high`, or that there is no interval."""
    if interval["low"] is None or interval["high"] is None:
        return NO_RANGE if interval.get("n") == 1 else "no interval"
    return f"{before}{shown(interval['low'])} to {shown(interval['high'])}"


def agreement_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """What `agreement_report` found, criterion by criterion."""
    for criterion, found in report.items():
        yield (
            f"{criterion}: judgments {found['judgments']}, pairs {found['pairs']} (judged twice or more: "
            f"{found['pairs_judged_twice']}), annotators {found['annotators']}"
            + (f", and {found['unnamed']} judgments that name nobody" if found["unnamed"] else "")
        )
        yield from _coefficient_lines(found["coefficients"])
        if found["with_the_rest"]:
            yield "  each with the rest"
        for name, rest in islice(found["with_the_rest"].items(), MOST_LINES):
            yield f"    {name}: {_bounds(rest, 'raw')}; cohen {_bounds(rest, 'cohen')}; {rest['judgments']} judgments"
        if len(found["with_the_rest"]) > MOST_LINES:
            yield f"    {_and_more(len(found['with_the_rest']))}"
        yield from _position_lines(found["position"])


def _coefficient_lines(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield "  agreement: not measured, since no pair was judged twice"
        return
    for name in ("raw", "fleiss", "alpha", "gwet_ac1"):
        yield f"  {name.replace('_', ' ')}: {_bounds(found, name)}"
    if "few" in found:
        yield f"  {found['few']}"
    if found["graded"]:
        yield f"  graded, on nine points: {found['graded']['pairs']} pairs"
        for name in ("alpha_ordinal", "alpha_interval", "gwet_ac2_linear", "gwet_ac2_quadratic", "gwet_ac2_ordinal"):
            yield f"    {name.replace('_', ' ')}: {_bounds(found['graded'], name)}"


def _position_lines(position: Mapping[str, Any]) -> Iterator[str]:
    if position["all"] is None:
        yield "  first side chosen: not measured"
        return
    by_chance = position["all"]["p_value"]
    yield f"  first side chosen: {_bounds(position['all'], 'share')}; p {by_chance:.3g} against one half"
    for name in islice(position["by_annotator"], MOST_LINES):
        yield f"    {name}: {_bounds(position['by_annotator'], name)}"
    if len(position["by_annotator"]) > MOST_LINES:
        yield f"    {_and_more(len(position['by_annotator']))}"


def _and_more(number: int) -> str:
    return f"and {number - MOST_LINES} more (--json has all)"


def _is_by_name(value: Mapping[str, Any]) -> bool:
    """Whether all items are of one form, as of annotators, and not figures of several kinds."""
    forms = {tuple(item) if isinstance(item, dict) else type(item).__name__ for item in value.values()}
    return len(forms) == 1


def _bounds(found: Mapping[str, Any], name: str) -> str:
    """An interval, or why there is none."""
    interval = found[name]
    if interval is None:
        return f"no value ({found['reasons'][name]})" if "reasons" in found else "no value"
    return with_interval(interval, lambda number: f"{number:.3f}")


def _two_digits(number: float) -> str:
    return f"{number:.2f}"


def outcome_lines(evaluation: Run, summary: Mapping[str, Any]) -> list[str]:
    """The figures of a chain of stages in a few lines; those of a stage that it did not have are left out."""

    def interval(key: str) -> str:
        found = summary[key]
        return with_interval(found, _two_digits) if found else "not measured"

    def change(key: str) -> str:
        return f"{summary[key]['before']['value']:.2f} -> {summary[key]['after']['value']:.2f}"

    lines = []
    if agreement := summary["agreement"]:
        alpha = agreement["alpha"]
        beyond = f" (alpha {alpha['value']:.2f}, {bounds(alpha, _two_digits, before='95 % ')})" if alpha else ""
        lines.append(f"Annotators agree on {agreement['raw']['value']:.2f} of pairs{beyond}.")
    if summary["reward_accuracy"]:
        ceiling = summary["reward_accuracy_ceiling"]
        limit = f"; a perfect one would reach {ceiling:.2f}, given the annotators' noise" if ceiling is not None else ""
        lines += [
            f"Reward model: held-out accuracy {interval('reward_accuracy')}{limit};",
            f"  calibration error {summary['reward_calibration_error']:.3f}, "
            f"trained on {summary['judgments']} judgments, {summary['judgments_by_people']} of them by people.",
        ]
    policy, baseline = evaluation.parents["policy"], evaluation.parents["baseline"]
    by_reward = f", {interval('win_rate_by_reward')} by the reward model" if summary["win_rate_by_reward"] else ""
    return [
        *lines,
        f"{policy} against {baseline}, held-out prompts: win rate {interval('win_rate')} by the "
        f"guideline preference{by_reward};",
        f"  KL {interval('kl')} nats, length {change('mean_length')} tokens, finished {change('finished_rate')}, "
        f"perplexity on plain text x {interval('perplexity_ratio')}.",
        f"Took {sum(summary['seconds'].values()) / 60:.1f} minutes, {summary['peak_memory_gb']:.1f} GB at most.",
    ]
