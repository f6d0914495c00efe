"""Plaudit: the whole RLHF loop as one program.

The stages are functions that take a workspace and return a run:

    import plaudit
    workspace = plaudit.init("my-workspace")
    plaudit.import_file(workspace.store, "prompts.jsonl", kind="prompts")
    run = plaudit.sft(workspace)

A stage resumes an interrupted run with `resume="sft-001"`. With `keep=True` it makes no new run where there is one with
the same settings, parents and data: that is returned, or resumed first.

Names are loaded on first use, so that `import plaudit` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from plaudit.stages import STAGES

if TYPE_CHECKING:
    from plaudit.config import Config, resolve
    from plaudit.errors import ConfigError, DataError, ModelError, PlauditError, WorkspaceError
    from plaudit.evaluation.stage import evaluate
    from plaudit.judges.revising import revise
    from plaudit.judges.stage import judge
    from plaudit.reporting.page import report
    from plaudit.rounds.quickstart import quickstart
    from plaudit.rounds.recipes import run_recipe
    from plaudit.sampling.stage import sample_responses as sample
    from plaudit.store.exporting import export_data
    from plaudit.store.importing import import_file
    from plaudit.store.snapshots import make_snapshot
    from plaudit.studies.reward_scaling import reward_scaling
    from plaudit.training.online import rl
    from plaudit.training.preference import prefer
    from plaudit.training.pretraining import pretrain
    from plaudit.training.reward import reward
    from plaudit.training.sft import sft
    from plaudit.workspace import Run, Workspace, init

__version__ = "0.1.0"

_WHERE = {
    "Config": "plaudit.config:Config",
    "ConfigError": "plaudit.errors:ConfigError",
    "DataError": "plaudit.errors:DataError",
    "ModelError": "plaudit.errors:ModelError",
    "PlauditError": "plaudit.errors:PlauditError",
    "Run": "plaudit.workspace:Run",
    "Workspace": "plaudit.workspace:Workspace",
    "WorkspaceError": "plaudit.errors:WorkspaceError",
    "export_data": "plaudit.store.exporting:export_data",
    "import_file": "plaudit.store.importing:import_file",
    "init": "plaudit.workspace:init",
    "make_snapshot": "plaudit.store.snapshots:make_snapshot",
    "quickstart": "plaudit.rounds.quickstart:quickstart",
    "report": "plaudit.reporting.page:report",
    "resolve": "plaudit.config:resolve",
    "run_recipe": "plaudit.rounds.recipes:run_recipe",
} | {stage.name: stage.function for stage in STAGES.values()}

__all__ = [
    "Config",
    "ConfigError",
    "DataError",
    "ModelError",
    "PlauditError",
    "Run",
    "Workspace",
    "WorkspaceError",
    "evaluate",
    "export_data",
    "import_file",
    "init",
    "judge",
    "make_snapshot",
    "prefer",
    "pretrain",
    "quickstart",
    "report",
    "resolve",
    "revise",
    "reward",
    "reward_scaling",
    "rl",
    "run_recipe",
    "sample",
    "sft",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'plaudit' has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
