"""No objective takes tensors whose shapes differ: broadcasting [B] against [B, 1] gives a number that means nothing."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import Tensor

from plaudit import objectives

AXES = {
    "lagrangian_advantages": "B T", "policy_gradient": "B T", "clipped_value_error": "B T",
    "generalised_advantages": "B T",
    "kl_penalised_rewards": "B T", "masked_mean": "B T", "masked_variance": "B T", "whiten": "B T", "rescale": "B T",
    "clipped_surrogate": "B T", "clipped_weight_gradient": "B T", "k1": "B T", "k2": "B T", "k3": "B T",
    "plackett_luce": "B T",
    "leave_one_out_advantages": "B T", "group_relative_advantages": "B T", "worst_case": "B T",
    "mean_minus_deviation": "B T", "last_true": "B T",
}  # fmt: skip
"""Of all tensors of an objective; those that are not named have one axis."""
TRUTHS = {"mask", "present", "safe", "tagged", "desirable", "harmful_first", "harmful_second"}
SCALARS = {("davidson", "log_tie"), ("kto", "reference_point")}
MORE = {
    "lagrangian_advantages": {"multiplier": 1.0}, "kl_penalised_rewards": {"coefficient": 0.1},
    "best_of_n_distribution": {"n": 2}, "best_of_n_estimate": {"n": 2},
    "group_relative_advantages": {"standardise": True},
    "response_weights": {"reduction": "token_mean", "longest": 9},
}  # fmt: skip
ANY_SHAPE = {"log_odds", "smoothed", "last_true"}
"""Of one tensor, each number by itself or any rows."""


def functions():
    """Every objective that takes a tensor."""
    found = {}
    for module in pkgutil.iter_modules(objectives.__path__):
        of_module = importlib.import_module(f"plaudit.objectives.{module.name}")
        for name, function in inspect.getmembers(of_module, inspect.isfunction):
            if function.__module__ == of_module.__name__ and not name.startswith("_") and tensors_of(function):
                found[name] = function
    return found


def tensors_of(function):
    """Names of the parameters that are tensors, the optional ones too."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if "Tensor" in str(p.annotation) and p.kind is not p.VAR_POSITIONAL]


def arguments(name, function):
    """Which it takes."""
    given = dict(MORE.get(name, {}))
    for key in tensors_of(function):
        shape = (4, 3) if AXES.get(name) == "B T" or (name, key) == ("scores_at_the_end", "mask") else (4,)
        if (name, key) in SCALARS:
            given[key] = torch.tensor(0.5)
        elif key in TRUTHS:
            given[key] = torch.ones(shape, dtype=torch.bool)
        elif key in ("ranks", "ranking") or key.endswith("lengths"):
            given[key] = torch.arange(shape[-1]).expand(shape) + (0 if key.startswith("rank") else 1)
        elif key == "preference_first":
            given[key] = torch.ones(shape)
        else:
            numbers = torch.linspace(0.1, 0.9, torch.Size(shape).numel()).view(shape)
            given[key] = -numbers if key in ("chosen", "rejected") else numbers
    return given


CASES = [
    (name, key)
    for name, function in functions().items() if name not in ANY_SHAPE
    for key in tensors_of(function) if (name, key) not in SCALARS
]  # fmt: skip


def test_every_objective_is_looked_at():
    assert len(functions()) > 30
    assert set(AXES) <= set(functions())


@pytest.mark.parametrize(("name", "key"), CASES)
def test_tensors_of_other_shapes_are_refused(name, key):
    function = functions()[name]
    given = arguments(name, function)
    assert function(**given) is not None
    several = sum(isinstance(value, Tensor) and value.dim() > 0 for value in given.values()) > 1
    wrong = [given[key].unsqueeze(-1), *([given[key][:1]] if several else [])]
    for other in wrong:
        with pytest.raises(ValueError, match="expected equal shapes"):
            function(**given | {key: other})
