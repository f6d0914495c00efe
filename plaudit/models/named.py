"""From what a setting names to a model that is there, before a run is made for it."""

from __future__ import annotations

from plaudit.models.loading import check_kind
from plaudit.workspace import POLICIES, Workspace


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
    """As `named_policy`, of a reward model."""
    name = workspace.lineage_name(reference, setting=setting)
    check_kind(workspace.model_source(name, kind="reward", setting=setting), "reward", setting=setting)
    return name
