"""Settings of every stage: typed, bounded, documented, checked before anything heavy is loaded.

A configuration is read from YAML (`plaudit.yaml` in the workspace, then `--config FILE`), then from
dotted overrides (`rl.kl_coefficient=0.02`). Later sources win. Unknown keys fail with the nearest name.
"""

from __future__ import annotations

from plaudit.config.endpoint import (
    EndpointSettings,
)
from plaudit.config.model_judges import (
    ModelJudgeSettings,
)
from plaudit.config.recipe import (
    RecipeSettings,
    StageKind,
    StageSettings,
    recipe_file,
    shipped_recipes,
)
from plaudit.config.resolve import (
    Config,
    describe,
    merge,
    resolve,
    settings_named,
)
from plaudit.config.rl import (
    Combine,
    EpisodeSettings,
    GrpoSettings,
    LagrangianSettings,
    OnlineDpoSettings,
    P3OSettings,
    PretrainingSettings,
    ReinforceSettings,
    RejectionSettings,
    RewardSource,
    RlooSettings,
    RlSettings,
)
from plaudit.config.section import (
    OptimiserSettings,
    Reduction,
    Section,
)
from plaudit.config.simulated import (
    PRESETS,
    RuleSettings,
    SimulatedAnnotatorSettings,
)
from plaudit.config.stages import (
    DataSettings,
    EvaluateSettings,
    GuidelinePreference,
    JudgeSettings,
    LoraSettings,
    ModelSettings,
    PreferSettings,
    PretrainSettings,
    ReviseSettings,
    RewardScalingSettings,
    RewardSettings,
    SampleSettings,
    SftSettings,
)

__all__ = [
    "PRESETS",
    "Combine",
    "Config",
    "DataSettings",
    "EndpointSettings",
    "EpisodeSettings",
    "EvaluateSettings",
    "GrpoSettings",
    "GuidelinePreference",
    "JudgeSettings",
    "LagrangianSettings",
    "LoraSettings",
    "ModelJudgeSettings",
    "ModelSettings",
    "OnlineDpoSettings",
    "OptimiserSettings",
    "P3OSettings",
    "PreferSettings",
    "PretrainSettings",
    "PretrainingSettings",
    "RecipeSettings",
    "Reduction",
    "ReinforceSettings",
    "RejectionSettings",
    "ReviseSettings",
    "RewardScalingSettings",
    "RewardSettings",
    "RewardSource",
    "RlSettings",
    "RlooSettings",
    "RuleSettings",
    "SampleSettings",
    "Section",
    "SftSettings",
    "SimulatedAnnotatorSettings",
    "StageKind",
    "StageSettings",
    "describe",
    "merge",
    "recipe_file",
    "resolve",
    "settings_named",
    "shipped_recipes",
]
