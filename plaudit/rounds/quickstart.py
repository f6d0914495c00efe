"""The whole loop once, on a real model: what `plaudit quickstart` runs. It calls the stages that you would call."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from plaudit.config import Config, recipe_file, resolve
from plaudit.config.staging import check_recipe
from plaudit.errors import ConfigError
from plaudit.judges.stage import AskPerson
from plaudit.progress import say
from plaudit.reporting.page import report
from plaudit.reporting.text import outcome_lines
from plaudit.rounds.recipes import run_recipe
from plaudit.store.importing import Kind, import_file
from plaudit.workspace import CONFIG_NAME, Run, Workspace


def quickstart(
    folder: Path,
    *,
    overrides: list[str] | None = None,
    recipe: str = "quickstart",
    ask: AskPerson | None = None,
    people: int = 8,
) -> tuple[Workspace, Run]:
    """Run a shipped recipe on the shipped data in `folder`, making the workspace if needed; complete stages are kept.

    overrides  changes to the recipe, for example ["seed=1"]
    recipe     which: quickstart, rlaif, direct-rlaif, constitutional-ai
    ask        how to put pairs before a person; None for simulated annotators alone
    people     pairs that the person judges

    Returns the workspace and its evaluation run; `report.html` and `summary.json` are in the folder. Raises ConfigError
    for an unknown recipe, and for a folder in which another one was begun.
    """
    changes = overrides or []
    wanted = resolve(recipe_file(recipe), overrides=[*changes, *([f"judge.people={people}"] if ask else [])])
    if (folder / CONFIG_NAME).exists():
        workspace = Workspace(folder)
        config = workspace.config(overrides=changes)
        if config.recipe.name != recipe:
            raise ConfigError(f"{folder} has another recipe than `{recipe}`; name another folder with --workspace.")
        say(f"Resuming in {folder}: complete stages are kept.")
    else:
        check_recipe(wanted)
        if wanted.recipe.stages[-1].stage != "evaluate":
            raise ConfigError("`recipe.stages`: a quickstart ends with `evaluate`; use `plaudit run` for other stages.")
        config = wanted
        workspace = Workspace.create(folder, config=config)
    _import_shipped(workspace, config)
    evaluation = run_recipe(workspace, config, ask=ask)[-1]
    report(workspace, evaluation)
    return workspace, evaluation


def _import_shipped(workspace: Workspace, config: Config) -> None:
    data = Path(str(resources.files("plaudit") / "data"))
    kinds: tuple[Kind, ...] = ("prompts", "demonstrations")
    for kind in kinds:
        import_file(workspace.store, data / f"{kind}.jsonl", kind=kind, held_out_share=config.data.held_out_share)
    counts = workspace.store.counts()
    say(
        f"{counts['prompts']} prompts ({counts.get('prompts_held_out', 0)} held out), "
        f"{counts['demonstrations']} demonstrations"
    )


def closing_words(workspace: Workspace, evaluation: Run, summary: dict[str, Any]) -> str:
    """What came out, and what to do next."""
    return "\n".join(
        [
            "",
            *outcome_lines(evaluation, summary),
            "",
            f"Read the report:   {workspace.path / 'report.html'}",
            f"Talk with it:      plaudit chat {evaluation.parents['policy']} --workspace {workspace.path}",
            "Your own data:     plaudit init my-workspace",
            "                   plaudit import FILE --kind prompts --workspace my-workspace",
            "                   and then sft, sample, judge, reward, rl, evaluate, report; or all at once: plaudit run",
        ]
    )
