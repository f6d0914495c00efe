"""All settings together: merged from files and overrides, checked, explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from plaudit.config import renamed
from plaudit.config.recipe import RecipeSettings
from plaudit.config.rl import RlSettings
from plaudit.config.section import Section, Seed
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

UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What reading YAML raises; ValueError for what is no UTF-8, and for dates and numbers that cannot be."""
LONGEST = 100
"""Letters of a value that a message shows."""
GROUP = ("model_type", "model_attributes_type", "dict_type")
"""Kinds of mistakes in the place of a group of settings."""
TAG = re.compile(r"(str|int|float|bool|none|[a-z-]+\[.*|constrained-.*|[A-Z]\w*)")
"""What pydantic puts into the place of a mistake for each form that a value may have; no setting is called so."""


class Config(Section):
    """Everything a workspace's stages read."""

    seed: Seed = 0
    """Seed of every random choice: the same seed gives the same run."""
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


def resolve(
    *files: Path | None,
    overrides: list[str] | None = None,
    values: dict[str, Any] | None = None,
    below: dict[str, Any] | None = None,
) -> Config:
    """Merge YAML files, then `values`, then dotted overrides, and check the result.

    below   in place of the defaults, where nothing else is said

    Raises ConfigError for a missing or broken file, an unknown key, an old name, or a value out of range.
    """
    given = [read_yaml(path) for path in files if path is not None]
    given += [values or {}, *(_parse_override(override) for override in overrides or [])]
    merged: dict[str, Any] = below or {}
    for settings in given:
        renamed.refuse(settings)
        merged = merge(merged, settings)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A file of settings, as it stands. Raises ConfigError for one that is missing or broken."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; name the YAML file in it.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UNREADABLE as error:
        raise ConfigError(f"{path} is not valid YAML: {_reason(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold `section: {{key: value}}`, but holds a {type(content).__name__}.")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    """`rl.clip=0.1` -> {"rl": {"clip": 0.1}}."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"`{_shortened(text)}` is not an override: write SECTION.KEY=VALUE, for example rl.kl_coefficient=0.02."
        )
    nested = read_value(value, text)
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return nested


def read_value(value: str, text: str) -> Any:
    """What stands after the equals sign of a setting on the command line.

    text   the whole, for the message

    Raises ConfigError for what is no YAML.
    """
    try:
        return value.strip() if _is_plain_with_hash(value) else yaml.safe_load(value)
    except UNREADABLE as error:
        reason = "" if isinstance(error, yaml.YAMLError) else f" ({_reason(error)})"
        raise ConfigError(
            f"`{_shortened(text)}`: the value is not valid YAML{reason}. A text with signs of YAML's own goes in "
            "quotes, as in key='\"value\"'."
        ) from None


def _is_plain_with_hash(value: str) -> bool:
    """A path or text with a `#` is whole: on the command line there are no comments."""
    text = value.strip()
    return ("#" in text) and not text.startswith(("[", "{", "'", '"', "|", ">", "&", "*", "!"))


def _reason(error: BaseException) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _shortened(value: object) -> str:
    """The value as it would be written, truncated where it is long."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a nest
        return "..."
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings key by key; whatever else `update` has goes before `base`."""
    merged = dict(base)
    for key, value in update.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _explain(error: ValidationError) -> str:
    """One line per setting that is wrong, with the nearest known name for an unknown key."""
    lines: dict[str, str] = {}
    for mistake in error.errors():
        *place, last = mistake["loc"]
        is_key = mistake["type"] == "extra_forbidden"  # which may be called anything
        named = [part for part in place if isinstance(part, int) or not TAG.fullmatch(part)]
        named += [last] if is_key or isinstance(last, int) or not TAG.fullmatch(last) else []
        has_forms = len(named) < len(mistake["loc"])
        where = ".".join(str(part) for part in named)
        if is_key:
            lines[where] = f"unknown setting `{where}`.{_nearest_setting(tuple(named))}"
            continue
        given = (
            repr(_shortened(mistake["input"])) if isinstance(mistake["input"], str) else _shortened(mistake["input"])
        )
        subject = f"`{where}` = {given}"
        if mistake["type"] == "literal_error":
            known = str(mistake["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
            near = nearest(str(mistake["input"])[:LONGEST], known)
            reason = f"unknown.{near} Known: {', '.join(known)}"
        elif mistake["type"] == "value_error":
            subject, reason = f"`{where}`", mistake["msg"].removeprefix("Value error, ")
        else:
            reason = "input should be {setting: value}" if mistake["type"] in GROUP else mistake["msg"]
            reason = reason[:1].lower() + reason[1:]
        if has_forms and where in lines:
            lines[where] = f"{lines[where].removesuffix('.')}, or {reason}."
        else:
            lines[where] = f"{subject}: {reason}."
    return "\n".join(lines.values()) + "\nAll settings, with their meaning: plaudit config."


def settings_named(name: str) -> list[str]:
    """Where there are settings of this name, as `section.name`; of the shortest way first."""
    found = [path for path in _paths(Config) if path.rpartition(".")[2] == name]
    return sorted(found, key=lambda path: path.count("."))


def _paths(section: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        kind = type(field.default)
        if issubclass(kind, Section):
            yield from _paths(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def _nearest_setting(location: tuple[int | str, ...]) -> str:
    section: Any = Config
    for part in location[:-1]:
        if isinstance(part, int):
            continue  # a place in a list, whose items are of the section found already
        annotation = section.model_fields[part].annotation if part in getattr(section, "model_fields", {}) else None
        section = next(_sections_in(annotation), None)
        if section is None:
            return ""
    prefix = ".".join(str(part) for part in location[:-1])
    last = str(location[-1])[:LONGEST]
    elsewhere = settings_named(last)
    if elsewhere := [path for path in elsewhere if path.startswith(f"{prefix}.")] or elsewhere:
        return f" Did you mean {_either(elsewhere)}?"
    hint = nearest(last, section.model_fields)
    return hint.replace("`", f"`{prefix}.", 1) if hint and prefix else hint


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    """Those that a setting may be, or be a list of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _sections_in(inner)


def _either(names: list[str]) -> str:
    *first, last = (f"`{name}`" for name in names[:4])
    return f"{', '.join(first)} or {last}" if first else last


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
