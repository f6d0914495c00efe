"""Recipes: stages one after the other, each working on the runs of those before it."""

from __future__ import annotations

from typing import Any

from plaudit.config import Config, StageSettings
from plaudit.config.staging import check_recipe, names_of, stage_config
from plaudit.errors import ConfigError
from plaudit.judges.stage import AskPerson
from plaudit.progress import say
from plaudit.sampling.preparing import prepared
from plaudit.stages import STAGES
from plaudit.workspace import Run, Workspace


def run_recipe(
    workspace: Workspace, config: Config | None = None, *, ask: AskPerson | None = None, fresh: bool = False
) -> list[Run]:
    """Run the stages of `recipe.stages` in their order, and return their runs.

    A stage works on the recipe's own runs: `latest:KIND` anywhere in the settings is the newest of that kind that the
    recipe has made before it, whatever else is in the workspace, and `stage:NAME` the run of the stage of that name.
    The newest run of the stage with the settings that it reads, the same parents and the same data is kept if it is
    complete, and gone on with if it is not. So the same call goes on where it was stopped, and after a change of
    settings or data does again what the change touches.

    ask     how to put pairs before a person, of `judge` stages with `judge.people`
    fresh   make every run anew

    Raises ConfigError, before anything is run, for a stage whose settings are wrong or that works on a run that will
    not be there; and whatever a stage raises.
    """
    config = config or workspace.config()
    check_recipe(config, workspace.complete_kinds())
    if config.judge.people and ask is not None and not any(s.stage == "judge" for s in config.recipe.stages):
        raise ConfigError("`judge.people`: the recipe has no `judge` stage in which a person could judge.")
    made: dict[str, str] = {}
    runs = []
    with prepared(config.model):
        for number, stage in enumerate(config.recipe.stages, start=1):
            run = _finish(workspace, stage, stage_config(config, number, made), ask, fresh=fresh)
            made |= names_of(stage, run.name)
            runs.append(run)
    return runs


def _finish(workspace: Workspace, stage: StageSettings, config: Config, ask: AskPerson | None, *, fresh: bool) -> Run:
    """The stage's run: kept, resumed or made."""
    kind = STAGES[stage.stage]
    more: dict[str, Any] = {"ask": ask} if kind.asks_people else {}
    say(f"\n{stage.name or stage.stage}: {kind.purpose}")
    complete = {run.name for run in workspace.runs(stage.stage) if run.status == "complete"}
    run: Run = kind.load()(workspace, config, keep=not fresh, **more)
    kept = run.name in complete
    say(f"{run.name} is complete and kept." if kept else f"{run.name} took {run.info['seconds']:.0f} s")
    return run
