"""The clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal


def now(precision: Literal["milliseconds", "seconds"] = "milliseconds") -> str:
    """ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec=precision)
