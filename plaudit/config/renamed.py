"""Settings that had another name once: refused where they are typed, read under the new one where they were kept."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from plaudit.errors import ConfigError


@dataclass(frozen=True)
class Renamed:
    """A setting that is gone.

    old   its name
    new   what it is called now; empty where nothing took its place
    says  what to write in its place, where the name alone does not say it
    """

    old: str
    new: str = ""
    says: str = ""

    @property
    def advice(self) -> str:
        """One clause for a message."""
        now = f"is now `{self.new}`" if self.new else "is gone"
        return f"`{self.old}` {now}{f': {self.says}' if self.says else ''}"


RENAMED = (
    Renamed("rl.kl_placement", "rl.kl_term", "reward, or k2 or k3 to add that estimate to the loss"),
    Renamed("rl.kl_estimator", "rl.kl_term", "reward, or k2 or k3 to add that estimate to the loss"),
    Renamed("rl.top_p", says="policies are trained on samples of their whole distribution, as they always were"),
    Renamed("rl.grpo.divide_by_deviation", "rl.grpo.scale_by_std"),
    Renamed("judge.taste", "judge.guideline_preference"),
    Renamed("evaluate.taste", "evaluate.guideline_preference"),
)


def refuse(given: dict[str, Any]) -> None:
    """Raise ConfigError for old names, with the new ones. Whatever else is wrong with them is not looked at."""
    found = [setting.advice for setting in RENAMED if _holds(given, setting.old)]
    judge = given.get("judge")
    if isinstance(judge, dict) and judge.get("utility") == "taste":
        found.append("`judge.utility`: taste is now called guideline")
    if found:
        raise ConfigError("; ".join(dict.fromkeys(found)) + ".")


def translated(kept: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(settings that an earlier version wrote, under the names of this one; what was renamed in them)."""
    found = copy.deepcopy(kept)
    old = [setting for setting in RENAMED if _holds(found, setting.old)]
    values = {setting.old: _take(found, setting.old) for setting in old}
    if "rl.kl_placement" in values or "rl.kl_estimator" in values:
        _from_two_settings_of_kl(found["rl"], values)
    judge = found.get("judge")
    if isinstance(judge, dict) and judge.get("utility") == "taste":
        judge["utility"] = "guideline"
    for setting in old:
        if setting.new and setting.new != "rl.kl_term":
            _put(found, setting.new, values[setting.old])
    return found, [f"{setting.old} is {setting.new}" if setting.new else f"{setting.old} is gone" for setting in old]


def _from_two_settings_of_kl(rl: dict[str, Any], values: dict[str, Any]) -> None:
    """What was so while the KL had two settings: its price was online DPO's beta, and all clipped at 0.2."""
    in_loss = values.get("rl.kl_placement") == "loss"
    rl["kl_term"] = values.get("rl.kl_estimator", "k2") if in_loss else "reward"
    if rl.get("kl_coefficient") and isinstance(rl.setdefault("online_dpo", {}), dict):
        rl["online_dpo"].setdefault("beta", rl["kl_coefficient"])
    if rl.get("clip") == 0.2:
        del rl["clip"]


def _holds(settings: dict[str, Any], name: str) -> bool:
    *path, last = name.split(".")
    for part in path:
        settings = settings.get(part, {})
        if not isinstance(settings, dict):
            return False
    return last in settings


def _take(settings: dict[str, Any], name: str) -> Any:
    *path, last = name.split(".")
    for part in path:
        settings = settings[part]
    return settings.pop(last)


def _put(settings: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        settings = settings.setdefault(part, {})
    settings[last] = value
