"""Commands that run several stages: the quickstart, and any recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    summary_of,
)


def quickstart(
    workspace: Annotated[
        Path | None,
        typer.Option("--workspace", "-w", help="Folder of the workspace; named after the recipe by default."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice; 0 by default.")] = None,
    annotate: Annotated[bool, typer.Option("--annotate", help="Judge the first pairs yourself.")] = False,
    recipe: Annotated[
        str, typer.Option(help="Another recipe that ships: rlaif, direct-rlaif, constitutional-ai.")
    ] = "quickstart",
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """The whole loop once, on SmolLM2-135M-Instruct, in about six minutes on two CPU cores."""
    from plaudit.config import recipe_file, resolve
    from plaudit.config.staging import check_recipe

    changes = [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]
    settings = resolve(recipe_file(recipe), overrides=changes)
    if dry_run:
        check_recipe(settings)
        typer.echo(settings.to_yaml(), nl=False)
        return
    from plaudit.collect.terminal import ask_person
    from plaudit.rounds.quickstart import closing_words
    from plaudit.rounds.quickstart import quickstart as run_quickstart

    ask = ask_person if annotate else None
    opened, evaluation = run_quickstart(workspace or Path(recipe), overrides=changes, recipe=recipe, ask=ask)
    summary = summary_of(opened)
    show(summary, as_json, closing_words(opened, evaluation, summary))


def run_(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigFile = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make every run again, also those that are complete.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Run the stages of a recipe (recipe.stages) one after the other; what is complete with its settings is kept.

    Without more: sft, sample, judge, reward, rl, evaluate. recipes/ has others to copy. It writes the
    report where `evaluate` is the last.
    """
    opened = open_workspace(workspace)
    settings = opened.config(config, overrides)
    if dry_run:
        from plaudit.config.staging import check_recipe

        check_recipe(settings, opened.complete_kinds())
        typer.echo(settings.to_yaml(), nl=False)
        return
    from plaudit.collect.terminal import ask_person
    from plaudit.reporting.page import report as write_report
    from plaudit.reporting.text import outcome_lines
    from plaudit.rounds.recipes import run_recipe

    runs = run_recipe(opened, settings, ask=ask_person, fresh=fresh)
    found: dict[str, Any] = {"runs": [run.name for run in runs]}
    lines = ["", f"Runs: {', '.join(found['runs'])}"]
    if runs[-1].kind == "evaluate":
        page = write_report(opened, runs[-1])
        found["summary"] = summary_of(opened)
        lines += [*outcome_lines(runs[-1], found["summary"]), f"Wrote {page}."]
    show(found, as_json, "\n".join(lines))
