"""What commands share: options, opening a workspace, showing a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from plaudit.workspace import Workspace

WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="The workspace folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
DEFAULT_WORKSPACE = Path(".")


def open_workspace(folder: Path) -> Workspace:
    """Raises WorkspaceError when the folder is none."""
    from plaudit.workspace import Workspace

    return Workspace(folder)


def show(content: dict[str, Any], as_json: bool, text: str) -> None:
    """A result, for a program or for a person."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False) if as_json else text)


def group(help_: str) -> typer.Typer:
    """A group of commands, made as the whole is."""
    return typer.Typer(help=help_, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
