"""Who the simulated annotators of a judge run were, and what they turned out to be like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from plaudit.reporting.drawing import percent
from plaudit.reporting.text import bounds


def annotator_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each, as text; none for a run without simulated annotators.

    result   of a judge run
    """
    return [_row(name, parameters, result) for name, parameters in (result.get("simulated") or {}).items()]


def liked(result: Mapping[str, Any]) -> str:
    """What decided the utilities, in words."""
    match result.get("utility"):
        case str() as source:
            return f"the scores of {_without_folder(source)}"
        case list() as rules:
            told = [f"{rule['weight']:+g} × {rule.get('fact') or '/' + rule['pattern'] + '/'}" for rule in rules]
            return "the rules " + ", ".join(told)
    return "the guideline preference whose facts stand below"


def _without_folder(source: str) -> str:
    """A page may be shown to others, whom the folders of this machine do not concern."""
    path = PurePath(source.removeprefix("function:"))
    return path.name if path.is_absolute() else source


def _row(name: str, parameters: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, str]:
    habits = (result.get("habits") or {}).get(name) or {}
    couples = ((result.get("agreement") or {}).get("by_annotators") or {}).items()
    with_others = [share for couple, share in couples if name in couple.split(" / ")]
    seconds = habits.get("seconds")
    return {
        "name": name,
        "set_to": ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in parameters.items()),
        "agreement": percent(sum(with_others) / len(with_others)) if with_others else "not measured",
        **_share("first", habits.get("first")),
        **_share("longer", habits.get("longer")),
        "seconds": f"{seconds:.1f} s" if seconds is not None else "not kept",
    }


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _share(name: str, interval: Mapping[str, Any] | None) -> dict[str, str]:
    if interval is None:
        return {name: "not measured", f"{name}_interval": ""}
    return {name: percent(interval["value"]), f"{name}_interval": bounds(interval, percent)}
