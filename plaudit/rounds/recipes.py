"""Recipes: stages one after the other, each working on the runs of those before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from plaudit.config import Config, RecipeSettings, StageKind, StageSettings, merge, resolve
from plaudit.errors import ConfigError
from plaudit.evaluation.stage import evaluate
from plaudit.judges.revising import revise
from plaudit.judges.stage import AskPerson, judge
from plaudit.progress import say
from plaudit.sampling.stage import sample_responses
from plaudit.training.online import rl
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
COMMON = ("seed", "model", "data")
"""Settings that every stage reads, beside the section of its own name."""
READS_MORE: dict[StageKind, tuple[str, ...]] = {"rl": ("judge",)}
"""Others: the judges that may rate in policy optimisation."""
NAMED = "stage:"
REFERENCE = re.compile(r"(?P<prefix>judge:|reward:)?(?P<run>(?:latest|stage):\S+)")


def run_recipe(
    workspace: Workspace, config: Config | None = None, *, ask: AskPerson | None = None, fresh: bool = False
) -> list[Run]:
    """Run the stages of `recipe.stages` in their order, and return their runs.

    A stage works on the recipe's own runs: `latest:KIND` anywhere in the settings is the newest of that kind that the
    recipe has made before it, whatever else is in the workspace, and `stage:NAME` the run of the stage of that name.
    A stage that is complete with the settings that it reads, on these runs, is kept; an unfinished one is gone on with.
    So the same call goes on where it was stopped, and after a change of settings does again what the change touches.

    ask     how to put pairs before a person, of `judge` stages with `judge.people`
    fresh   make every run anew, as after data were added

    Raises ConfigError, before anything is run, for a stage whose settings are wrong or that names a stage that does not
    come before it; and whatever a stage raises.
    """
    config = config or workspace.config()
    check_recipe(config)
    made: dict[str, str] = {}
    runs = []
    for number, stage in enumerate(config.recipe.stages, start=1):
        settings = stage_config(config, number, made)
        run = None if fresh else _go_on(workspace, stage, settings, ask)
        run = run or _call(workspace, stage, settings, ask=ask)
        made |= _names(stage, run.name)
        runs.append(run)
    return runs


def check_recipe(config: Config) -> None:
    """Raises ConfigError for a stage whose settings are wrong, or that names a stage that does not come before it."""
    made: dict[str, str] = {}
    for number, stage in enumerate(config.recipe.stages, start=1):
        stage_config(config, number, made)
        made |= _names(stage, f"{stage.stage}-000")


def stage_config(config: Config, number: int, made: Mapping[str, str]) -> Config:
    """What the recipe's stage of that number, from 1, runs with: its own settings on top, references made exact.

    made   reference (`latest:KIND` or `stage:NAME`) -> run

    The recipe itself is left out. Raises ConfigError for settings that are wrong, and for a `stage:NAME` in the
    stage's own section that is none before it.
    """
    stage = config.recipe.stages[number - 1]
    where = f"stage {number} of the recipe, {stage.name or stage.stage}"
    plain = config.model_copy(update={"recipe": RecipeSettings()}).model_dump(mode="json")
    values = _exact(merge(plain, stage.settings), made)
    for reference in _unknown(values[stage.stage]):
        known = ", ".join(name for name in made if name.startswith(NAMED)) or "none before it has a name"
        raise ConfigError(f"{where}: `{reference}` in `{stage.stage}` is no stage before it ({known}).")
    try:
        return resolve(values=values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _names(stage: StageSettings, run: str) -> dict[str, str]:
    named = {f"{NAMED}{stage.name}": run} if stage.name is not None else {}
    return {f"latest:{stage.stage}": run} | named


def _exact(value: Any, made: Mapping[str, str]) -> Any:
    """The same settings with the recipe's runs in place of what refers to them."""
    if isinstance(value, dict):
        return {key: _exact(one, made) for key, one in value.items()}
    if isinstance(value, list):
        return [_exact(one, made) for one in value]
    match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return value if match is None else (match["prefix"] or "") + made.get(match["run"], match["run"])


def _unknown(value: Any) -> Iterator[str]:
    """References to stages that are still there."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _unknown(one)
    elif isinstance(value, str) and (match := REFERENCE.fullmatch(value)) and match["run"].startswith(NAMED):
        yield value


def read_by(kind: StageKind, config: Config) -> dict[str, Any]:
    """The settings that a stage of this kind depends on."""
    return {name: getattr(config, name) for name in (*COMMON, kind, *READS_MORE.get(kind, ()))}


def _go_on(workspace: Workspace, stage: StageSettings, config: Config, ask: AskPerson | None) -> Run | None:
    """The stage's newest complete run with these settings; else an unfinished one, finished; None without either."""
    same = [
        run for run in workspace.runs(stage.stage) if read_by(stage.stage, run.config()) == read_by(stage.stage, config)
    ]
    complete = [run for run in same if run.status == "complete"]
    if complete:
        say(f"{complete[-1].name} is complete and kept.")
        return complete[-1]
    if not same or stage.stage == "evaluate":
        return None
    return _call(workspace, stage, None, resume=same[-1].name, ask=ask)


def _call(
    workspace: Workspace, stage: StageSettings, config: Config | None, *, ask: AskPerson | None, **more: Any
) -> Run:
    function, purpose = STAGES[stage.stage]
    say(f"\n{stage.name or stage.stage}: {purpose}")
    run = function(workspace, config, **more, **({"ask": ask} if stage.stage == "judge" else {}))
    say(f"{run.name} took {run.info['seconds']:.0f} s")
    return run
