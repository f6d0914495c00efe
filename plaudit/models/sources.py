"""What a model reference in a configuration means: a run of the workspace, or a model from elsewhere."""

from __future__ import annotations

from plaudit.workspace import Workspace


def model_source(workspace: Workspace, reference: str, *, kind: str | None = None) -> str:
    """The folder or hub name behind a reference.

    reference   `latest:KIND`, a run's name, a Hugging Face folder, the built-in model, or a hub name
    kind        the kind that a run must be of, when it is one

    Raises WorkspaceError when it names a run that is missing, incomplete or of another kind.
    """
    if workspace.is_run(reference):
        return str(workspace.run(reference, kind=kind).model_folder)
    return reference


def lineage_name(workspace: Workspace, reference: str) -> str:
    """The run's own name for `latest:KIND`; any other reference as it is."""
    return workspace.run(reference).name if workspace.is_run(reference) else reference
