"""From what a setting names to a model that is there, before a run is made for it."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from plaudit.errors import ModelError
from plaudit.models.loading import check_kind
from plaudit.stages import POLICIES
from plaudit.workspace import Workspace


def named_policy(workspace: Workspace, reference: str, *, setting: str) -> str:
    """The name in the lineage of a model that writes answers, found to be there.

    reference   `latest:KIND`, a run's name, a Hugging Face folder, the built-in model, or a hub name
    setting     where it was named, for messages

    Raises WorkspaceError for a run that is missing, incomplete or of a kind without such a model, ModelError for
    anything else that is none.
    """
    name = workspace.lineage_name(reference, setting=setting)
    check_kind(workspace.model_source(name, kind=POLICIES, setting=setting), "policy", setting=setting)
    return name


def named_reward(workspace: Workspace, reference: str, *, setting: str) -> str:
    """The reward model that a setting names; see `named_policy`."""
    name = workspace.lineage_name(reference, setting=setting)
    check_kind(workspace.model_source(name, kind="reward", setting=setting), "reward", setting=setting)
    return name


def check_files(folder: Path) -> None:
    """Raise ModelError unless a model folder's files are whole, as far as their beginnings and sizes say."""
    for path in sorted(folder.rglob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path} is damaged, it is not valid JSON ({error}); restore it.") from None
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").exists() or not weights:
        raise ModelError(f"{folder} lacks its config.json or its weights; restore it.")
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged or cut off ({error}); restore it.") from None
