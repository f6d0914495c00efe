"""The settings of each stage of a recipe, with its references to other runs made exact."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from plaudit.config.recipe import RecipeSettings, StageSettings
from plaudit.config.resolve import Config, merge, resolve
from plaudit.config.stages import WHO_CAN_JUDGE
from plaudit.errors import ConfigError, nearest
from plaudit.references import LATEST, OF_OTHERS, STAGE, Reference, is_of, parse
from plaudit.stages import STAGES


def stage_config(config: Config, number: int, made: Mapping[str, str]) -> Config:
    """What the recipe's stage of that number, from 1, runs with: its own settings on top, references made exact.

    made   reference (`latest:KIND` or `stage:NAME`) -> run

    The recipe itself is left out. Raises ConfigError for settings that are wrong or that the stage does not read, and
    for a `stage:NAME` among those that it reads that is none before it.
    """
    stage = config.recipe.stages[number - 1]
    where, sections = _where(config, number), STAGES[stage.stage].reads
    for section in stage.settings:
        if section not in sections:
            raise ConfigError(
                f"{where}: it does not read `{section}`.{nearest(section, sections)} "
                f"Its settings are those of {', '.join(sections)}."
            )
    plain = config.model_copy(update={"recipe": RecipeSettings()}).model_dump(mode="json")
    values = _exact(merge(plain, stage.settings), made)
    for section in sections:
        for reference in _references(values[section], STAGE):
            known = ", ".join(name for name in made if is_of(STAGE, name)) or "none before it has a name"
            raise ConfigError(f"{where}: `{reference}` in `{section}` is no stage before it ({known}).")
    try:
        return resolve(values=values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_recipe(config: Config, there: Collection[str] = ()) -> None:
    """Raises ConfigError for a stage whose settings are wrong, or that works on a run that will not be there.

    there   kinds of which the workspace has a complete run
    """
    made: dict[str, str] = {}
    for number, stage in enumerate(config.recipe.stages, start=1):
        found = stage_config(config, number, made)
        if stage.stage == "judge" and not found.judge.has_judges:
            raise ConfigError(f"{_where(config, number)}: there is nobody to judge.\n{WHO_CAN_JUDGE}")
        section = getattr(found, stage.stage).model_dump(mode="json")
        for reference in _references(section, LATEST):
            kind = _to_a_run(reference).name
            if kind not in there:
                raise ConfigError(
                    f"{_where(config, number)}: `{reference}` in `{stage.stage}`, but no stage before it makes a "
                    f"`{kind}` run and the workspace has none. Add the stage, or set what refers to it (null for none)."
                )
        made |= names_of(stage, f"{stage.stage}-000")


def names_of(stage: StageSettings, run: str) -> dict[str, str]:
    """What later stages may call the run of a stage."""
    named = {} if stage.name is None else {Reference(STAGE, stage.name).text: run}
    return {Reference(LATEST, stage.stage).text: run} | named


def _where(config: Config, number: int) -> str:
    stage = config.recipe.stages[number - 1]
    return f"stage {number} of the recipe, {stage.name or stage.stage}"


def _exact(value: Any, made: Mapping[str, str]) -> Any:
    """The same settings with the recipe's runs in place of what refers to them."""
    if isinstance(value, dict):
        return {key: _exact(one, made) for key, one in value.items()}
    if isinstance(value, list):
        return [_exact(one, made) for one in value]
    if not isinstance(value, str) or (run := _to_a_run(value)).kind not in (LATEST, STAGE):
        return value
    return value.removesuffix(run.text) + made.get(run.text, run.text)


def _to_a_run(text: str) -> Reference:
    """The reference itself, or the one within: the judge:, reward: or model: before it aside."""
    found = parse(text)
    return parse(found.name) if found.kind in OF_OTHERS else found


def _references(value: Any, kind: str) -> Iterator[str]:
    """Those to stages, or to the latest runs, that are still there."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _references(one, kind)
    elif isinstance(value, str) and _to_a_run(value).kind == kind:
        yield value
