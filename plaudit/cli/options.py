"""What commands share: options, opening a workspace, showing a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from plaudit.workspace import Workspace

WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="The workspace folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file on top of the workspace's plaudit.yaml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings as SECTION.KEY=VALUE, for example rl.kl_coefficient=0.02.", metavar="[KEY=VALUE]..."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")]
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


def summary_of(workspace: Workspace) -> dict[str, Any]:
    """The figures that the report was written with."""
    from plaudit.files import read_json

    return dict(read_json(workspace.path / "summary.json"))


class WithDefault(TyperGroup):
    """A group of commands one of which is meant where none is named."""

    default = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command that is meant where none is."""
        named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else [self.default, *args])
