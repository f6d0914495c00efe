"""How a reward model's quality grows with comparisons and weights: laws fitted to a grid of trained models.

Stiennon et al. 2020 (arXiv:2009.01325) found accuracy to grow by about as much with every doubling of comparisons, and
of weights. C models of the grid, P held-out prompts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plaudit.files import read_json_lines

CELLS = "cells.jsonl"
"""A line for each model of the grid, in the study's folder."""
LEVEL = 0.95
RESAMPLES = 1000
MOST_DOUBLINGS = 40
"""Beyond the largest grid point; an accuracy that takes more is out of reach."""
EXPONENTS = np.geomspace(0.02, 3.0, 120)
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One trained reward model of a grid.

    model        what its body started from
    weights      of the body, without its embeddings
    prompts      that it learnt from
    comparisons  of those prompts
    held_out     prompt -> (judgments ranked right, sum of their log losses in nats, judgments), ties left out
    """

    model: str
    weights: int
    prompts: int
    comparisons: int
    seed: int
    held_out: dict[str, tuple[float, float, float]]


def read_cells(folder: Path) -> list[Cell]:
    """What a study has measured so far; none where nothing is complete. A last line that was cut off is left out."""
    names = [field.name for field in fields(Cell)]
    rows = read_json_lines(folder / CELLS, names, may_be_cut=True)
    return [Cell(**{name: row[name] for name in names}) for row in rows]


def fit_scaling(
    cells: Sequence[Cell],
    *,
    target: float | None = None,
    ceiling: float | None = None,
    seed: int = 0,
    log_odds: bool = True,
) -> dict[str, Any]:
    """The laws with their 95 % intervals, by drawing seeds and held-out prompts anew.

    target    an accuracy, in order to say how many comparisons it takes
    ceiling   the accuracy that a perfect model would have against the annotators' noise
    log_odds  whether differences of scores are such; without, a log loss means nothing and has no law

    Returns
        models          [{"model", "weights", "comparisons", "accuracy", "log_loss", "seeds"}], means over seeds
        accuracy_law    accuracy = level + per_doubling_of_comparisons * log2(D / D_0)
                        + per_doubling_of_weights * log2(N / N_0), D_0 and N_0 the largest of the grid, by least squares
                        with the binomial variances as weights; a factor that does not vary has no term
        loss_law        {"comparisons": {model: law}, "weights": law of the most comparisons}, each where it has four
                        points or more: log loss = floor + scale * x^-exponent, floor and scale at least 0
        needed          of each model {"value", "low", "high"}: comparisons for the target by the accuracy law, None
                        where no number is enough; None altogether where the target is at or above the ceiling
        intervals       what they draw anew: with a single seed the held-out prompts alone, and they are too narrow

    A figure of a law that cannot be told from the grid is None.

    Raises ValueError when neither prompts nor weights vary.
    """
    grid = _Grid(cells)
    if not grid.varies:
        raise ValueError("a law needs at least two numbers of prompts, or two models of different size")
    drawn = [grid.draw(np.random.default_rng([seed, i])) for i in range(RESAMPLES)]
    law = grid.accuracy_law(grid.everything)
    laws = [grid.accuracy_law(sample) for sample in drawn]
    fitted = {name: _interval(law[name], [other[name] for other in laws]) for name in law}
    result: dict[str, Any] = {
        "models": [point if log_odds else {**point, "log_loss": None} for point in grid.means()],
        "accuracy_law": fitted | {"D_0": grid.most_comparisons, "N_0": grid.most_weights},
        "loss_law": grid.loss_laws(drawn) if log_odds else None,
        "ceiling": ceiling,
        "intervals": "seeds and held-out prompts" if grid.seeds > 1 else "held-out prompts alone, for want of seeds",
    }
    if target is not None:
        reachable = ceiling is None or target < ceiling
        result["target_accuracy"] = target
        result["needed"] = {
            model: _interval(
                grid.comparisons_for(target, law, size), [grid.comparisons_for(target, other, size) for other in laws]
            )
            if reachable
            else None
            for model, size in grid.sizes.items()
        }
    return result


@dataclass(frozen=True)
class _Sample:
    """Which cells of the grid count, by index and as often as listed, and how often each prompt does."""

    cells: NDArray[np.int64]
    prompts: Numbers


class _Grid:
    def __init__(self, cells: Sequence[Cell]):
        self._cells = cells
        names = sorted({name for cell in cells for name in cell.held_out})
        place = {name: i for i, name in enumerate(names)}
        table = np.zeros((3, len(cells), len(names)))
        for row, cell in enumerate(cells):
            for name, sums in cell.held_out.items():
                table[:, row, place[name]] = sums
        self._right, self._losses, self._counts = table  # [C, P] each
        self._prompts = np.array([float(cell.prompts) for cell in cells])
        self._comparisons = np.array([float(cell.comparisons) for cell in cells])
        self._weights = np.array([float(cell.weights) for cell in cells])
        self.most_comparisons, self.most_weights = int(self._comparisons.max()), int(self._weights.max())
        self.sizes = {cell.model: cell.weights for cell in sorted(cells, key=lambda cell: cell.weights)}
        self._groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        for i, cell in enumerate(cells):
            self._groups[cell.model, cell.prompts].append(i)
        self.everything = _Sample(np.arange(len(cells)), np.ones(len(names)))

    @property
    def varies(self) -> bool:
        return len(set(self._prompts)) > 1 or len(set(self._weights)) > 1

    @property
    def seeds(self) -> int:
        return min(len(group) for group in self._groups.values())

    def draw(self, generator: np.random.Generator) -> _Sample:
        """Seeds anew within each point of the grid; held-out prompts anew, the same for all."""
        rows = [generator.choice(group, size=len(group)) for group in self._groups.values()]
        count = self._right.shape[1]
        prompts = np.bincount(generator.integers(count, size=count), minlength=count)
        return _Sample(np.concatenate(rows), prompts.astype(float))

    def _mean(self, table: Numbers, sample: _Sample, rows: NDArray[np.int64]) -> Numbers:
        return (table[rows] @ sample.prompts) / np.maximum(self._counts[rows] @ sample.prompts, 1e-9)

    def accuracy_law(self, sample: _Sample) -> dict[str, float]:
        rows = sample.cells
        accuracy = self._mean(self._right, sample, rows)
        counts = self._counts[rows] @ sample.prompts
        columns = {"level": np.ones(len(rows))}
        if len(set(self._prompts)) > 1:
            columns["per_doubling_of_comparisons"] = np.log2(self._comparisons[rows] / self.most_comparisons)
        if len(set(self._weights)) > 1:
            columns["per_doubling_of_weights"] = np.log2(self._weights[rows] / self.most_weights)
        design = np.stack(list(columns.values()), axis=1)
        expected = design @ np.linalg.lstsq(design, accuracy, rcond=None)[0]
        expected = expected.clip(0.02, 0.98)  # the law's own: a cell that is high by luck must not weigh more for it
        root = np.sqrt(counts / (expected * (1 - expected)))
        found = np.linalg.lstsq(design * root[:, None], accuracy * root, rcond=None)[0]
        return dict(zip(columns, found.tolist(), strict=True))

    def comparisons_for(self, target: float, law: dict[str, float], weights: int) -> float:
        """D at which the law reaches the target; infinite where comparisons do not help."""
        slope = law.get("per_doubling_of_comparisons", 0.0)
        of_weights = law.get("per_doubling_of_weights", 0.0) * math.log2(weights / self.most_weights)
        gap = target - law["level"] - of_weights
        if slope <= 0 or gap > MOST_DOUBLINGS * slope:
            return math.inf
        return max(1.0, self.most_comparisons * 2.0 ** (gap / slope))

    def loss_laws(self, drawn: Sequence[_Sample]) -> dict[str, Any]:
        of_models: dict[str, Any] = {}
        for model in self.sizes:
            rows = np.array([i for i, cell in enumerate(self._cells) if cell.model == model])
            law = self._loss_law(self._comparisons, rows, drawn)
            if law is not None:
                of_models[model] = law
        most = np.flatnonzero(self._prompts == self._prompts.max())
        return {"comparisons": of_models, "weights": self._loss_law(self._weights, most, drawn)}

    def _loss_law(self, sizes: Numbers, rows: NDArray[np.int64], drawn: Sequence[_Sample]) -> dict[str, Any] | None:
        if min(len(set(sizes[rows])), len({(self._prompts[i], self._weights[i]) for i in rows})) < 4:
            return None

        def fit(sample: _Sample) -> dict[str, float]:
            chosen = sample.cells[np.isin(sample.cells, rows)]
            return power_law(sizes[chosen], self._mean(self._losses, sample, chosen))

        law, laws = fit(self.everything), [fit(sample) for sample in drawn]
        return {name: _interval(law[name], [other[name] for other in laws]) for name in law}

    def means(self) -> list[dict[str, Any]]:
        sample = self.everything
        return [
            {
                "model": model,
                "weights": self.sizes[model],
                "comparisons": float(self._comparisons[rows].mean()),
                "accuracy": float(self._mean(self._right, sample, np.array(rows)).mean()),
                "log_loss": float(self._mean(self._losses, sample, np.array(rows)).mean()),
                "seeds": len(rows),
            }
            for (model, _), rows in sorted(self._groups.items(), key=lambda item: (item[0][1], item[0][0]))
        ]


def power_law(sizes: Numbers, losses: Numbers) -> dict[str, float]:
    """floor + scale * size^-exponent by least squares, floor and scale at least 0.

    For a given exponent it is linear, and solved exactly; the exponent is the best of 120 between 0.02 and 3. Scale and
    exponent are NaN where the losses do not fall, or fall so that the best exponent is at an end of the search.
    """
    middle = math.exp(np.log(sizes).mean())
    falling = (sizes / middle)[None] ** -EXPONENTS[:, None]  # [120, n]
    spread = falling - falling.mean(axis=1, keepdims=True)
    scales = np.maximum(0.0, spread @ losses / (spread**2).sum(axis=1))
    floors = losses.mean() - scales * falling.mean(axis=1)
    scales = np.where(floors < 0, falling @ losses / (falling**2).sum(axis=1), scales)
    floors = np.maximum(0.0, floors)
    errors = ((floors[:, None] + scales[:, None] * falling - losses) ** 2).sum(axis=1)
    best = int(errors.argmin())
    exponent = float(EXPONENTS[best])
    if scales[best] == 0 or best in (0, len(EXPONENTS) - 1):
        return {"floor": float(floors[best]), "scale": math.nan, "exponent": math.nan}
    return {"floor": float(floors[best]), "scale": float(scales[best]) * middle**exponent, "exponent": exponent}


def _interval(value: float, resampled: Sequence[float]) -> dict[str, float | None]:
    # Order statistics: interpolation would make nonsense of infinities. Resamples without a value have no place.
    known = [number for number in resampled if not math.isnan(number)] or [math.nan]
    low, high = np.quantile(known, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], method="nearest")
    return {
        name: float(number) if math.isfinite(number) else None
        for name, number in (("value", value), ("low", low), ("high", high))
    }
