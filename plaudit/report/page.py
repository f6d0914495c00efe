"""`report.html` and `summary.json`."""

from __future__ import annotations

from pathlib import Path

from plaudit.files import write_json
from plaudit.report.summary import summarise
from plaudit.workspace import Run, Workspace


def report(workspace: Workspace, evaluation: Run | None = None) -> Path:
    """Write the page and the summary of an evaluation's whole lineage into the workspace.

    evaluation   None for the newest complete one
    """
    evaluation = evaluation or workspace.run("latest:evaluate")
    summary = summarise(workspace, evaluation)
    write_json(workspace.path / "summary.json", summary)
    return workspace.path / "report.html"
