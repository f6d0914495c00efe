"""The settings files that ship with Plaudit."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def recipe_file(name: str = "quickstart") -> Path:
    """A shipped recipe, as a file that can be copied."""
    return Path(str(resources.files("plaudit") / "recipes" / f"{name}.yaml"))
