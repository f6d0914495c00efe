"""All settings together: merged from files and overrides, checked, explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from plaudit.config.recipe import RecipeSettings
from plaudit.config.rl import RlSettings
from plaudit.config.section import Section
from plaudit.config.stages import (
    DataSettings,
    EvaluateSettings,
    JudgeSettings,
    ModelSettings,
    PreferSettings,
    PretrainSettings,
    ReviseSettings,
    RewardScalingSettings,
    RewardSettings,
    SampleSettings,
    SftSettings,
)
from plaudit.errors import ConfigError, nearest


class Config(Section):
    """Everything a workspace's stages read."""

    seed: int = 0
    """Of every random choice: the same seed gives the same run."""
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    pretrain: PretrainSettings = PretrainSettings()
    sft: SftSettings = SftSettings()
    sample: SampleSettings = SampleSettings()
    judge: JudgeSettings = JudgeSettings()
    revise: ReviseSettings = ReviseSettings()
    reward: RewardSettings = RewardSettings()
    reward_scaling: RewardScalingSettings = RewardScalingSettings()
    rl: RlSettings = RlSettings()
    prefer: PreferSettings = PreferSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    recipe: RecipeSettings = RecipeSettings()

    def to_yaml(self) -> str:
        """The resolved configuration, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def resolve(*files: Path | None, overrides: list[str] | None = None, values: dict[str, Any] | None = None) -> Config:
    """Merge YAML files, then `values`, then dotted overrides, and check the result.

    Raises ConfigError for a missing or broken file, an unknown key, or a value out of range.
    """
    merged: dict[str, Any] = {}
    for path in files:
        if path is not None:
            merged = merge(merged, _read_yaml(path))
    merged = merge(merged, values or {})
    for override in overrides or []:
        merged = merge(merged, _parse_override(override))
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; name the YAML file in it.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold `section: {{key: value}}`, but holds a {type(content).__name__}.")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    """`rl.clip=0.1` -> {"rl": {"clip": 0.1}}."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"`{text}` is not an override: write SECTION.KEY=VALUE, for example rl.kl_coefficient=0.02.")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"`{text}`: the value is not valid YAML; put it in quotes.") from None
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return nested


def merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings key by key; whatever else `update` has goes before `base`."""
    merged = dict(base)
    for key, value in update.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _explain(error: ValidationError) -> str:
    """One line per mistake, with the nearest known name for an unknown key."""
    lines = []
    for mistake in error.errors():
        where = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            lines.append(f"unknown setting `{where}`.{_nearest_setting(mistake['loc'])}")
        elif mistake["type"] == "literal_error":
            known = str(mistake["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
            lines.append(
                f"`{where}` = {mistake['input']!r}: unknown.{nearest(str(mistake['input']), known)} "
                f"Known: {', '.join(known)}."
            )
        elif mistake["type"] == "value_error":
            lines.append(f"`{where}`: {mistake['msg'].removeprefix('Value error, ')}.")
        else:
            lines.append(f"`{where}` = {mistake['input']!r}: {mistake['msg'][:1].lower()}{mistake['msg'][1:]}.")
    return "\n".join(lines) + "\nAll settings, with their meaning: plaudit config."


def _nearest_setting(location: tuple[int | str, ...]) -> str:
    section: Any = Config
    for part in location[:-1]:
        if isinstance(part, int):
            continue  # a place in a list, whose items are of the section found already
        annotation = section.model_fields[part].annotation if part in getattr(section, "model_fields", {}) else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)
        if section is None:
            return ""
    prefix = ".".join(str(part) for part in location[:-1])
    hint = nearest(str(location[-1]), section.model_fields)
    return hint.replace("`", f"`{prefix}.", 1) if hint and prefix else hint


def describe(config: Config) -> str:
    """YAML of the configuration with each setting's meaning as a comment above it."""
    return "\n".join(_describe_section(config, indent=0))


def _describe_section(section: Section, indent: int) -> list[str]:
    lines, pad = [], "  " * indent
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        lines += [f"{pad}# {line.strip()}" for line in (field.description or "").strip().splitlines()]
        if isinstance(value, Section):
            blank = [""] if indent == 0 else []
            lines += [*blank, f"{pad}# {(type(value).__doc__ or '').strip().splitlines()[0]}"]
            lines += [f"{pad}{name}:", *_describe_section(value, indent + 1)]
        else:
            plain = section.model_dump(mode="json")[name]
            if isinstance(value, list) and value and isinstance(value[0], Section):
                lines += [f"{pad}# {line}" for line in _explain_items(type(value[0]))]
                plain = [item.model_dump(mode="json", exclude_defaults=True) for item in value]
            lines.append(
                f"{pad}{name}: " + yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()
            )
    return lines


def _explain_items(kind: type[Section]) -> list[str]:
    """What each setting of a list's items means: they have no place of their own where it could stand."""
    lines = ["Of each:"]
    for name, field in kind.model_fields.items():
        default = "" if field.is_required() else f" (default {yaml.safe_dump(field.default).splitlines()[0]})"
        first, *rest = (field.description or "").strip().splitlines()
        lines += [f"  {name}{default}: {first}", *(f"    {line.strip()}" for line in rest)]
    return lines
