"""Recipes: stages one after the other, each working on the runs of those before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plaudit.config import Config, StageKind, StageSettings
from plaudit.config.staging import check_recipe, names_of, read_by, stage_config
from plaudit.errors import ConfigError
from plaudit.evaluation.stage import evaluate
from plaudit.judges.revising import revise
from plaudit.judges.stage import AskPerson, judge
from plaudit.progress import say
from plaudit.sampling.preparing import prepared
from plaudit.sampling.stage import sample_responses
from plaudit.training.online import rl, second_part
from plaudit.training.preference import prefer
from plaudit.training.pretraining import pretrain
from plaudit.training.reward import reward
from plaudit.training.sft import sft
from plaudit.workspace import Run, Workspace

STAGES: dict[StageKind, tuple[Callable[..., Run], str]] = {
    "pretrain": (pretrain, "learn a language from plain text"),
    "sft": (sft, "learn from demonstrations"),
    "sample": (sample_responses, "sample responses"),
    "judge": (judge, "collect comparisons"),
    "revise": (revise, "criticise and revise"),
    "reward": (reward, "learn a reward model"),
    "rl": (rl, "optimise the policy"),
    "prefer": (prefer, "optimise the policy from comparisons"),
    "evaluate": (evaluate, "judge the result on held-out prompts"),
}


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
    """The stage's run, kept, gone on with, or made."""
    function, purpose = STAGES[stage.stage]
    more: dict[str, Any] = {"ask": ask} if stage.stage == "judge" else {}
    say(f"\n{stage.name or stage.stage}: {purpose}")
    try:
        run = function(workspace if fresh else _Remembering(workspace), config, **more)
    except _Known as known:
        begun = known.run
        if begun.status == "complete":
            say(f"{begun.name} is complete and kept.")
            rest = second_part(begun, config) if stage.stage == "rl" else None
            return begun if rest is None else _finish(workspace, stage, rest, ask, fresh=False)
        say(f"{begun.name} is gone on with.")
        run = function(workspace, None, resume=begun.name, **more)
    say(f"{run.name} took {run.info['seconds']:.0f} s")
    return run


class _Known(Exception):
    """There is a run of just this kind, or the beginning of one."""

    def __init__(self, run: Run):
        super().__init__(run.name)
        self.run = run


class _Remembering(Workspace):
    """A workspace in which no run is begun that is there already: the stage that asks for it stops with `_Known`."""

    def __init__(self, workspace: Workspace):
        self.path, self.store = workspace.path, workspace.store

    def new_run(self, kind: str, config: Config, *, parents: dict[str, str], data: dict[str, Any] | None = None) -> Any:
        """A new run, unless there is one with the settings that its stage reads, these parents and these data."""
        for run in reversed(self.runs(kind)):
            resumable = run.status != "complete" and kind != "evaluate"
            if (run.status == "complete" or resumable) and _same(run, config, parents, data or {}):
                raise _Known(run)
        return super().new_run(kind, config, parents=parents, data=data)


def _same(run: Run, config: Config, parents: dict[str, str], data: dict[str, Any]) -> bool:
    if (run.parents, run.info["data"]) != (parents, data):
        return False
    then, now = _without_threads(run.config()), _without_threads(config)
    return all(getattr(then, name) == getattr(now, name) for name in read_by(run.kind))  # type: ignore[arg-type]


def _without_threads(config: Config) -> Config:
    """On how many threads something was computed does not make it another thing."""
    return config.model_copy(update={"model": config.model.model_copy(update={"threads": "auto"})})
