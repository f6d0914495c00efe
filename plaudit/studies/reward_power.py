"""How many comparisons a reward model needs for an accuracy, were its reward linear in d features.

A pair's features differ by x ~ N(0, I_d), its utilities by s x_1 nats, and each judgment prefers the first with
probability sigmoid(s x_1). The scale s follows from the people's agreement a,

    a = E[q^2 + (1 - q)^2],  q = sigmoid(s z),  z ~ N(0, 1),    and the ceiling is E[sigmoid(s |z|)].

Logistic regression on N judgments finds a direction at an angle phi from the true one. Its covariance is asymptotically
the inverse of the Fisher information N E[sigmoid'(s z) x x^T], so that with J = E[sigmoid'(s z)]

    tan^2(phi) ~ chi^2_{d-1} / (N J s^2),

and such a direction ranks right, of judgments as noisy as those that it learnt from, the share

    E[sigmoid(s |z|) P + sigmoid(-s |z|) (1 - P)],   P = Phi(|z| / tan(phi)).

Several judgments of a pair count there as much as if of several pairs; ties teach nothing. A language model's features
are not Gaussian, not known, and learnt: this shows how accuracy grows, and a study with real models where it stands.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from plaudit.errors import ConfigError
from plaudit.evaluation.scaling import fit_scaling, read_cells
from plaudit.statistics.logistic import logistic_fit, wald

Numbers = NDArray[np.float64]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
NODES = 4.5 * (NODES + 1)
WEIGHTS = 4.5 * WEIGHTS * 2 * stats.norm.pdf(NODES)
"""Points of integrals over |z|: every function here is the same at z and -z, and |z| has a kink at 0."""
QUANTILES = (np.arange(200) + 0.5) / 200
MOST_JUDGMENTS = 40_000
"""Most judgments that a simulated reward model learns from; the closed form goes on."""
REPETITIONS = 30
LEAST_PER_FEATURE = 2


def scale_of_agreement(agreement: float) -> float:
    """s: standard deviation of utility gaps, nats, at which two Bradley-Terry judgments agree on this share of pairs.

    Raises ConfigError unless it is above 1/2 and below 0.98.
    """
    if not 0.5 < agreement < 0.98:
        raise ConfigError(
            f"--agreement {agreement:g}: must be above 1/2 and below 0.98 for the accuracy of a reward model."
        )
    return float(brentq(lambda scale: agreement_of_scale(scale) - agreement, 1e-3, 200.0))


def agreement_of_scale(scale: float) -> float:
    """E[q^2 + (1 - q)^2] with q = sigmoid(scale z)."""
    right = expit(scale * NODES)
    return float(WEIGHTS @ (right**2 + (1 - right) ** 2))


def ceiling_of_scale(scale: float) -> float:
    """E[sigmoid(scale |z|)]: of judgments, what even the true reward ranks right."""
    return float(WEIGHTS @ expit(scale * NODES))


def accuracy_at(tangent: Numbers, scale: float) -> Numbers:
    """[...] share of judgments that directions at these tangents [...] of the angle rank right."""
    size = NODES
    right = ndtr(size / np.maximum(tangent[..., None], 1e-12))
    certain = expit(scale * size)
    return np.asarray((certain * right + (1 - certain) * (1 - right)) @ WEIGHTS)


def expected_accuracy(judgments: float, features: int, scale: float) -> float:
    """Accuracy of a reward model that learnt from so many judgments without ties, asymptotically."""
    information = float(WEIGHTS @ (expit(scale * NODES) * expit(-scale * NODES)))
    squares = stats.chi2.ppf(QUANTILES, features - 1) / (judgments * information * scale**2)
    return float(accuracy_at(np.sqrt(squares), scale).mean())


def reward_power(
    accuracy: float,
    *,
    agreement: float = 0.726,
    features: int = 16,
    people_per_item: int = 1,
    ties: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """How many judgments bring a linear reward model to an accuracy.

    accuracy   share of judgments like these that are no ties to be ranked right
    ties       share of the judgments that are ties

    Returns
        accuracy, features, ceiling   as asked, and what even the true reward reaches
        normal      judgments by the asymptotic covariance
        simulated   {"value", "low", "high"} by fitted models; None where more than are simulated
        curve       [{"judgments", "simulated": {value, low, high, n}, "normal"}]

    Raises ConfigError for an accuracy at or above the ceiling, or at or below 1/2, or fewer than two features.
    """
    if not 2 <= features <= 200:
        raise ConfigError(f"--features {features}: must be between 2 and 200.")
    scale = scale_of_agreement(agreement)
    ceiling = ceiling_of_scale(scale)
    if not 0.5 < accuracy < ceiling:
        raise ConfigError(
            f"--accuracy {accuracy:g}: must be above 1/2 and below {ceiling:.4f}, the share of judgments that even the "
            f"true reward ranks right where people agree on {agreement:g} of pairs."
        )
    used = 1 - ties

    def excess(log_judgments: float) -> float:
        return expected_accuracy(math.exp(log_judgments) * used, features, scale) - accuracy

    needed = math.ceil(math.exp(brentq(excess, math.log(1e-3), math.log(1e13))))
    most = max(16 * features, min(MOST_JUDGMENTS, 4 * needed))
    least = max(LEAST_PER_FEATURE * features, needed // 6)
    sizes = np.unique(np.geomspace(least, most, 9).round().astype(int)).tolist()
    generator = np.random.default_rng([seed, features])
    curve = [_point(size, features, scale, people_per_item, used, generator) for size in sizes]
    found = {
        name: _reached([p["judgments"] for p in curve], [p["simulated"][end] for p in curve], accuracy)
        for name, end in (("value", "value"), ("low", "high"), ("high", "low"))
    }
    return {
        "accuracy": accuracy,
        "features": features,
        "ceiling": ceiling,
        "normal": needed,
        "simulated": found,
        "curve": curve,
    }


def study_needs(folder: Path, result: dict[str, Any], accuracy: float) -> dict[str, Any]:
    """Comparisons for an accuracy by the law that a `study reward-scaling` run fitted, of each of its models.

    folder, result   of the run

    Raises ConfigError where the study has nothing to fit to.
    """
    cells = read_cells(folder)
    try:
        fitted = fit_scaling(cells, target=accuracy, ceiling=result.get("ceiling"), log_odds=False)
    except ValueError as error:
        raise ConfigError(f"--study {folder.name}: {error}.") from None
    return {"study": folder.name, "ceiling": result.get("ceiling"), "comparisons": fitted["needed"]}


def _point(
    judgments: int, features: int, scale: float, people: int, used: float, generator: np.random.Generator
) -> dict[str, Any]:
    """The mean accuracy of models that learn from so many judgments."""
    found = np.array([_fitted(judgments, features, scale, people, used, generator) for _ in range(REPETITIONS)])
    deviation = float(found.std(ddof=1)) / math.sqrt(REPETITIONS)
    return {
        "judgments": judgments,
        "simulated": wald(float(found.mean()), deviation, REPETITIONS),
        "normal": expected_accuracy(judgments * used, features, scale),
    }


def _fitted(
    judgments: int, features: int, scale: float, people: int, used: float, generator: np.random.Generator
) -> float:
    """Accuracy of one model. Of separable judgments, which have no finite fit, by least squares."""
    items = generator.standard_normal((math.ceil(judgments / people), features))
    seen = np.repeat(items, people, axis=0)[:judgments]
    seen = seen[generator.random(judgments) < used]
    prefers = (generator.random(len(seen)) < expit(scale * seen[:, 0])).astype(np.float64)
    try:
        direction, _ = logistic_fit(seen, prefers)
    except ValueError:
        direction = np.linalg.lstsq(seen, prefers - 0.5, rcond=None)[0]
    along, across = float(direction[0]), float(np.linalg.norm(direction[1:]))
    right = float(accuracy_at(np.array([across / max(abs(along), 1e-12)]), scale)[0])
    return right if along > 0 else 1 - right


def _reached(sizes: list[int], accuracies: list[float], wanted: float) -> int | None:
    """Where accuracy gets to what is wanted, linear in the logarithm in between; None beyond what was simulated."""
    rising = np.maximum.accumulate(accuracies)
    if rising[-1] < wanted or rising[0] >= wanted:
        return None
    return math.ceil(float(np.exp(np.interp(wanted, rising, np.log(sizes)))))
