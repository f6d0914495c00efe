"""The commands of the stages, one for each entry of `plaudit.stages`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plaudit.cli.options import (
    DEFAULT_WORKSPACE,
    ConfigFile,
    DryRun,
    Json,
    Overrides,
    WorkspaceOption,
    open_workspace,
    show,
)
from plaudit.stages import Shortcut, Stage

if TYPE_CHECKING:
    from plaudit.config import Config

Resume = Annotated[str | None, typer.Option("--resume", help="Resume this interrupted run.", metavar="RUN")]


def stage_command(stage: Stage) -> Callable[..., None]:
    """The function of a stage's command, with the options that all stages have and its own shortcuts."""

    def command(
        workspace: Path, config: Path | None, dry_run: bool, as_json: bool, overrides: list[str] | None, **given: Any
    ) -> None:
        resume = given.pop("resume", None)
        own = [setting for shortcut in stage.shortcuts for setting in _said(shortcut, given[_parameter(shortcut)])]
        _run(stage, workspace, config, [*(overrides or []), *own], dry_run, as_json, resume)

    parameters = list(_parameters(stage))
    command.__name__ = stage.kind
    command.__doc__ = stage.help
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameters(stage: Stage) -> Iterator[inspect.Parameter]:
    """What Typer reads."""
    yield _option("workspace", WorkspaceOption, DEFAULT_WORKSPACE)
    yield _option("config", ConfigFile, None)
    for shortcut in stage.shortcuts:
        kind = bool if shortcut.type is bool else shortcut.type | None
        yield _option(
            _parameter(shortcut),
            Annotated[kind, typer.Option(shortcut.option, help=shortcut.help)],
            False if shortcut.type is bool else None,
        )
    if stage.is_resumable:
        yield _option("resume", Resume, None)
    yield _option("dry_run", DryRun, False)
    yield _option("as_json", Json, False)
    yield _option("overrides", Overrides, None)


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _parameter(shortcut: Shortcut) -> str:
    return shortcut.option.lstrip("-").replace("-", "_")


def _said(shortcut: Shortcut, value: Any) -> list[str]:
    """The override that a shortcut stands for, if it was given."""
    if shortcut.type is bool:
        return [f"{shortcut.setting}=true"] if value else []
    return [] if value is None else [f"{shortcut.setting}={value}"]


def _run(
    stage: Stage,
    folder: Path,
    file: Path | None,
    overrides: list[str],
    dry_run: bool,
    as_json: bool,
    resume: str | None,
) -> None:
    """Run a stage and show its result. The settings are checked before anything heavy is imported."""
    opened = open_workspace(folder)
    settings: Config | None = None
    if resume is None:
        settings = opened.config(file, overrides)
    else:
        _refuse_settings_beside(resume, file, overrides)
    if dry_run:
        shown = settings or opened.begun(str(resume)).config()
        typer.echo(shown.to_yaml(), nl=False)
        return
    more: dict[str, Any] = {} if resume is None else {"resume": resume}
    if stage.asks_people:
        from plaudit.collect.terminal import ask_person

        more["ask"] = ask_person
    run = stage.load()(opened, settings, **more)
    from plaudit.reporting.text import result_lines

    warnings = [f"WARNING: {warning}" for warning in run.warnings]
    lines = [f"{run.name}: {run.path}", *result_lines(run.result), *warnings]
    show({"run": run.name, **run.info}, as_json, "\n".join(lines))


def _refuse_settings_beside(resumed: str, file: Path | None, overrides: list[str]) -> None:
    from plaudit.errors import ConfigError

    given = [*overrides, *([f"--config {file}"] if file is not None else [])]
    if given:
        raise ConfigError(
            f"--resume {resumed} resumes with the settings that the run began with, so {', '.join(given)} would be "
            "ignored. Leave it out, or start a new run without --resume."
        )
