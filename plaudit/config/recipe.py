"""Settings of a recipe: which stages run, in which order; and the recipes that ship with Plaudit."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from plaudit.config.section import Section
from plaudit.errors import ConfigError, nearest
from plaudit.stages import RECIPE_STAGES

if TYPE_CHECKING:
    StageKind = str
else:
    StageKind = Literal[RECIPE_STAGES]


def _by_name(stage: object) -> object:
    return {"stage": stage} if isinstance(stage, str) else stage


class StageSettings(Section):
    """A stage of a recipe; its name alone stands for one without more."""

    stage: StageKind
    """Which."""
    name: Annotated[str, Field(pattern=r"^[\w-]+$")] | None = None
    """What later stages call its run, as `stage:NAME`, in place of a run's name; `latest:KIND` means the recipe's own
    newest of that kind."""
    settings: dict[str, Any] = Field(default={})
    """Settings of this stage alone, by section, on top of all others, as in {sft: {epochs: 1}}."""


Stage = Annotated[StageSettings, BeforeValidator(_by_name)]


class RecipeSettings(Section):
    """Stages one after the other, each working on the runs of those before it: `plaudit run`."""

    name: str = ""
    """Name of the recipe, so that `plaudit quickstart` does not go on with another in the same folder."""
    stages: Annotated[list[Stage], Field(min_length=1)] = Field(
        default=[StageSettings(stage=s) for s in ("sft", "sample", "judge", "reward", "rl", "evaluate")]
    )
    """Names, or {stage, name, settings} for one that has settings of its own."""

    @model_validator(mode="after")
    def _names(self) -> RecipeSettings:
        names = [stage.name for stage in self.stages if stage.name is not None]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have the same name: {', '.join(sorted(names))}")
        for stage in self.stages:
            if "recipe" in stage.settings:
                raise ValueError(f"the settings of stage {stage.name or stage.stage} have a recipe of their own")
        return self


def shipped_recipes() -> list[str]:
    """Names of the recipes that ship with Plaudit."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def recipe_file(name: str = "quickstart") -> Path:
    """A shipped recipe, as a file that can be copied. Raises ConfigError for an unknown name."""
    names = shipped_recipes()
    if name not in names:
        raise ConfigError(f"there is no recipe `{name}`.{nearest(name, names)} Known: {', '.join(names)}.")
    return _folder() / f"{name}.yaml"


def _folder() -> Path:
    return Path(str(resources.files("plaudit") / "recipes"))
