"""What every group of settings is made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST = 10**12
"""No count of anything is larger: a number of hundreds of digits is a slip, and libraries fail at it in odd ways."""
Seed = Annotated[int, Field(ge=0, lt=2**46)]
Positive = Annotated[int, Field(ge=1, le=MOST)]
NotNegative = Annotated[int, Field(ge=0, le=MOST)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Reduction = Literal["token_mean", "response_mean", "response_sum", "constant_length"]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults_of_groups(cls, given: Any) -> Any:
        """A group of which some settings are given keeps its own defaults in the others, not those of its kind."""
        if not isinstance(given, dict):
            return given
        own = {
            name: field.default.model_dump(exclude_unset=True) | given[name]
            for name, field in cls.model_fields.items()
            if isinstance(field.default, Section) and isinstance(given.get(name), dict)
        }
        return given | own


class OptimiserSettings(Section):
    """AdamW and its schedule."""

    learning_rate: Rate
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Decay after warm-up: none, linearly to 0, or by a half cosine to 0."""
    warmup_share: Share = 0.05
    """Part of all steps in which the learning rate rises linearly from 0."""
    second_moment_decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Adam's beta_2; 0.95 is usual in pretraining."""
    epsilon: Rate = 1e-5
    """Adam's epsilon; 1e-5 as in the published RLHF code, larger than PyTorch's own."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of matrices; norms and biases have none."""
    max_gradient_norm: Rate = 1.0
    """Gradients are scaled down to this global norm."""
