"""A run's result as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def result_lines(result: dict[str, Any], *, indent: int = 2) -> Iterator[str]:
    """One line a figure; intervals as `value (95 % low to high)`; lists are left to the report."""
    for key, value in result.items():
        label = " " * indent + key.replace("_", " ")
        if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
            shown = {name: "none" if value[name] is None else f"{value[name]:.4g}" for name in ("value", "low", "high")}
            yield f"{label}: {shown['value']} (95 % {shown['low']} to {shown['high']})"
        elif isinstance(value, dict):
            yield f"{label}:"
            yield from result_lines(value, indent=indent + 2)
        elif isinstance(value, float):
            yield f"{label}: {value:.4g}"
        elif isinstance(value, list) and value and not isinstance(value[0], dict):
            yield f"{label}: {', '.join(str(item) for item in value)}"
        elif not isinstance(value, list):
            yield f"{label}: {'not measured' if value is None else value}"
