"""How much feedback a question takes: found by simulation, beside the closed form.

Items are pairs of responses that k people judge each, on prompts with m items each. Of the judgments that are no tie, a
share d prefers the policy; in all it wins w = (1 - t) d + t / 2, ties (a share t) as halves. The k judgments of an item
are alike, and by how much the people's agreement a says. With items' own shares p_i around d, two people agree on

    E[p^2 + (1 - p)^2] = 1 - 2 d (1 - d) (1 - rho),    rho = Var(p) / (d (1 - d)),

so that a, measured where neither side is the better one (d = 1/2), gives the correlation rho = 2 a - 1. Items of one
prompt are alike with a correlation r of their own. The mean over a prompt's k m judgments, each 1, 1/2 or 0, has the
variance

    s1^2 = (v + (k - 1) c + k (m - 1) c') / (k m),   v = w (1 - w) - t / 4,
    c = (1 - t)^2 d (1 - d) rho,  c' = (1 - t)^2 d (1 - d) r,

without ties v / (k m) times the design effect 1 + (k - 1) rho + k (m - 1) r. The test is the score test of w = 1/2 on
prompts' means, whose power at n prompts is, with delta = w - 1/2 and s0^2 = s1^2 + delta^2,

    Phi((|delta| sqrt(n) - z s0) / s1),    and    n = ((z s0 + z_power s1) / delta)^2.

Of one judgment an item, an item a prompt and no ties, that is the textbook's formula for a proportion against 1/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from plaudit.errors import ConfigError
from plaudit.statistics.intervals import rate

Numbers = NDArray[np.float64]
LEAST_DELTA = 0.01
"""Closer to 1/2 a simulation takes more than seconds."""
MOST_DRAWS = 6_000_000
"""Items that a simulation draws at most: with more of them it has fewer repetitions."""
MOST_AT_ONCE = 2_000_000
POINTS = 25
PEOPLE = (1, 2, 3, 5)
SECONDS = 36.8
"""Seconds of a judgment: the median of AlpacaFarm's workers (Dubois et al. 2023, arXiv:2305.14387)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A head-to-head: what is expected of it, and how it is judged."""

    win_rate: float = 0.55
    """w: ties as halves, as people like these would measure it on endless items."""
    power: float = 0.8
    """Wanted probability of telling it from 1/2."""
    alpha: float = 0.05
    """Two-sided probability of a false alarm."""
    agreement: float = 0.726
    """a: share of pairs of judgments of an item that are the same, where neither side is favoured, without ties;
    InstructGPT's labelers by default."""
    people_per_item: int = 1
    """k."""
    items_per_prompt: int = 1
    """m."""
    prompt_correlation: float = 0.0
    """r: between judgments of different items of one prompt."""
    ties: float = 0.0
    """t: share of judgments that are ties."""

    def __post_init__(self) -> None:
        """Raises ConfigError for what cannot be."""
        _require(
            LEAST_DELTA <= abs(self.win_rate - 0.5) < 0.5, "win-rate", self.win_rate,
            f"between 0 and 1, and at least {LEAST_DELTA:g} away from 1/2",
        )  # fmt: skip
        _require(0 < self.alpha < 1, "alpha", self.alpha, "between 0 and 1")
        _require(self.alpha < self.power < 1, "power", self.power, f"between alpha ({self.alpha:g}) and 1")
        _require(self.people_per_item >= 1, "people-per-item", self.people_per_item, "at least 1")
        _require(self.items_per_prompt >= 1, "items-per-prompt", self.items_per_prompt, "at least 1")
        _require(0 <= self.ties < 1, "ties", self.ties, "at least 0 and below 1")
        _require(
            0 < self.decided < 1, "ties", self.ties,
            f"less: with so many the win rate cannot be {self.win_rate:g}",
        )  # fmt: skip
        _require(0.5 <= self.agreement <= 1, "agreement", self.agreement, "between 1/2, that of coins, and 1")
        _require(
            0 <= self.prompt_correlation <= self.rho, "prompt-correlation", self.prompt_correlation,
            f"between 0 and the correlation within an item, {self.rho:.4g} at this agreement",
        )  # fmt: skip

    @property
    def decided(self) -> float:
        """d: share of the judgments that are no tie that prefer the policy."""
        return (self.win_rate - self.ties / 2) / (1 - self.ties)

    @property
    def rho(self) -> float:
        """Correlation of two judgments of one item that are no tie."""
        return 2 * self.agreement - 1

    @property
    def judgments_per_prompt(self) -> int:
        """k m."""
        return self.people_per_item * self.items_per_prompt

    @property
    def variance(self) -> float:
        """s1^2: of a prompt's mean."""
        k, m = self.people_per_item, self.items_per_prompt
        one = self.win_rate * (1 - self.win_rate) - self.ties / 4
        shared = (1 - self.ties) ** 2 * self.decided * (1 - self.decided)
        within, between = (k - 1) * shared * self.rho, k * (m - 1) * shared * self.prompt_correlation
        return (one + within + between) / (k * m)

    @property
    def design_effect(self) -> float:
        """How many times more judgments are needed than if each were of an item and a prompt of its own."""
        one = self.win_rate * (1 - self.win_rate) - self.ties / 4
        return self.variance * self.judgments_per_prompt / one


def normal_prompts(plan: Plan) -> int:
    """n by the normal approximation: the least whole number of prompts."""
    delta = abs(plan.win_rate - 0.5)
    z, z_power = stats.norm.ppf(1 - plan.alpha / 2), stats.norm.ppf(plan.power)
    root = math.sqrt(plan.variance)
    return max(2, math.ceil(((z * math.hypot(root, delta) + z_power * root) / delta) ** 2))


def normal_power(plan: Plan, prompts: Numbers) -> Numbers:
    """[...] the power at numbers of prompts [...] by the normal approximation, either side counted."""
    delta, root = abs(plan.win_rate - 0.5), math.sqrt(plan.variance)
    critical = stats.norm.ppf(1 - plan.alpha / 2) * math.hypot(root, delta)
    reach = delta * np.sqrt(prompts)
    return np.asarray(stats.norm.cdf((reach - critical) / root) + stats.norm.cdf((-reach - critical) / root))


def binomial_power(win_rate: float, alpha: float, n: Numbers) -> Numbers:
    """[...] the power of the exact two-sided binomial test of 1/2 with n [...] judgments."""
    edge = stats.binom.ppf(alpha / 2, n, 0.5)
    critical = edge - (stats.binom.cdf(edge, n, 0.5) > alpha / 2)  # the largest c with P(X <= c) <= alpha / 2
    return np.asarray(stats.binom.cdf(critical, n, win_rate) + stats.binom.sf(n - critical - 1, n, win_rate))


def binomial_judgments(plan: Plan) -> int | None:
    """The least n from which on the exact binomial test always has the power, which goes up and down with n.

    None where it is no answer: there are ties, or several judgments of an item or prompt.
    """
    if plan.ties or plan.judgments_per_prompt > 1:
        return None
    about = normal_prompts(plan)
    numbers = np.arange(1, 2 * about + 200, dtype=np.float64)
    short = np.flatnonzero(binomial_power(plan.win_rate, plan.alpha, numbers) < plan.power)
    return int(numbers[short[-1]]) + 1


def simulated_power(plan: Plan, prompts: NDArray[np.int64], *, repetitions: int, seed: int) -> NDArray[np.int64]:
    """[len(prompts)] in how many of the repetitions the win rate was told from 1/2.

    prompts  numbers of prompts, ascending; a repetition with fewer of them is the beginning of that with more

    Items' shares are Beta-distributed around their prompt's, and those around d.
    """
    generator = np.random.default_rng([seed, plan.people_per_item, plan.items_per_prompt])
    critical = float(stats.norm.ppf(1 - plan.alpha / 2))
    most, found = int(prompts[-1]), np.zeros(len(prompts), dtype=np.int64)
    at_once = max(1, MOST_AT_ONCE // (most * plan.items_per_prompt))
    for start in range(0, repetitions, at_once):
        means = _prompt_means(plan, (min(at_once, repetitions - start), most), generator) - 0.5
        sums = np.add.accumulate(means, axis=1)[:, prompts - 1]
        squares = np.add.accumulate(means**2, axis=1)[:, prompts - 1]
        found += (np.abs(sums) > critical * np.sqrt(squares)).sum(axis=0)
    return found


def _prompt_means(plan: Plan, shape: tuple[int, int], generator: np.random.Generator) -> Numbers:
    """[repetitions, prompts] mean of each prompt's judgments, 1, 1/2 or 0 each."""
    k, m = plan.people_per_item, plan.items_per_prompt
    if k * m == 1:
        won = generator.random(shape) < plan.decided
        return np.where(generator.random(shape) < plan.ties, 0.5, won)
    of_prompt = _around(np.full((*shape, 1), plan.decided), plan.prompt_correlation, generator)
    rest = (plan.rho - plan.prompt_correlation) / max(1e-12, 1 - plan.prompt_correlation)
    of_item = _around(np.broadcast_to(of_prompt, (*shape, m)), rest, generator)
    ties = generator.binomial(k, plan.ties, size=of_item.shape) if plan.ties else np.zeros(of_item.shape, np.int64)
    wins = generator.binomial(k - ties, of_item)
    return np.asarray((wins + ties / 2).sum(axis=-1) / (k * m))


def _around(mean: Numbers, correlation: float, generator: np.random.Generator) -> Numbers:
    """Beta variables with these means and variances of correlation * mean * (1 - mean)."""
    if correlation <= 0:
        return mean
    if correlation >= 1:
        return (generator.random(mean.shape) < mean).astype(np.float64)
    size = 1 / correlation - 1
    inner = np.clip(mean, 1e-9, 1 - 1e-9)
    return generator.beta(inner * size, (1 - inner) * size)


def power_study(plan: Plan, *, per_annotator: int = 200, repetitions: int = 2000, seed: int = 0) -> dict[str, Any]:
    """How many prompts, items, judgments and annotators the plan takes.

    per_annotator  judgments that one person is asked for

    Returns
        plan           what was asked, and its correlation within an item `rho`
        needed         `_needed` of the plan
        by_people      the same for 1, 2, 3 and 5 people an item, and the plan's
        curve          [{"prompts", "judgments", "simulated": {value, low, high, n}, "normal"}] around what is needed

    Raises ConfigError for bad numbers of judgments or repetitions.
    """
    _require(per_annotator >= 1, "per-annotator", per_annotator, "at least 1")
    _require(repetitions >= 100, "repetitions", repetitions, "at least 100")
    others = sorted({*PEOPLE, plan.people_per_item})
    curves = {k: _curve(replace(plan, people_per_item=k), repetitions, seed) for k in others}
    by_people = [_needed(replace(plan, people_per_item=k), curves[k], per_annotator) for k in others]
    return {
        "plan": {name: getattr(plan, name) for name in plan.__dataclass_fields__}
        | {"decided": plan.decided, "rho": plan.rho, "seed": seed, "per_annotator": per_annotator},
        "needed": next(row for row in by_people if row["people_per_item"] == plan.people_per_item),
        "by_people": by_people,
        "curve": curves[plan.people_per_item],
    }


def _curve(plan: Plan, repetitions: int, seed: int) -> list[dict[str, Any]]:
    about = normal_prompts(plan)
    prompts = np.unique(np.geomspace(max(2, about / 4), about * 1.6 + 8, POINTS).round().astype(np.int64))
    draws = int(prompts[-1]) * plan.items_per_prompt
    repeated = int(np.clip(MOST_DRAWS // draws, 200, repetitions))
    detected = simulated_power(plan, prompts, repetitions=repeated, seed=seed)
    expected = normal_power(plan, prompts.astype(np.float64))
    return [
        {
            "prompts": int(n),
            "judgments": int(n) * plan.judgments_per_prompt,
            "simulated": rate(int(hits), repeated),
            "normal": float(normal),
        }
        for n, hits, normal in zip(prompts, detected, expected, strict=True)
    ]


def _needed(plan: Plan, curve: list[dict[str, Any]], per_annotator: int) -> dict[str, Any]:
    """What a power takes with so many people an item.

    simulated   {"value", "low", "high"} prompts at which the simulated power, and the ends of its interval, get there
    normal      prompts by the normal approximation; binomial: judgments by the exact test, where that is one
    items, judgments, annotators, hours   of `simulated`, or of `normal` where that has no value
    """
    prompts = [float(point["prompts"]) for point in curve]

    def reached(end: str) -> int | None:
        return _crossing(prompts, [point["simulated"][end] for point in curve], plan.power)

    found = {"value": reached("value"), "low": reached("high"), "high": reached("low")}
    count = found["value"] or normal_prompts(plan)
    judgments = count * plan.judgments_per_prompt
    return {
        "people_per_item": plan.people_per_item,
        "design_effect": plan.design_effect,
        "simulated": found,
        "normal": normal_prompts(plan),
        "binomial": binomial_judgments(plan),
        "items": count * plan.items_per_prompt,
        "judgments": judgments,
        "annotators": max(plan.people_per_item, math.ceil(judgments / per_annotator)),
        "hours": judgments * SECONDS / 3600,
    }


def _crossing(prompts: list[float], powers: list[float], wanted: float) -> int | None:
    """Where a line through the probits of the power over sqrt(n), which theory has straight, gets to what is wanted.

    Points count as their probits are known. None where there is no such line.
    """
    roots, power = np.sqrt(prompts), np.clip(powers, 1e-4, 1 - 1e-4)
    probits = stats.norm.ppf(power)
    weights = stats.norm.pdf(probits) / np.sqrt(power * (1 - power))
    slope, level = np.polyfit(roots, probits, 1, w=weights)
    root = (stats.norm.ppf(wanted) - level) / slope if slope > 0 else math.nan
    return math.ceil(root**2) if root > 0 else None


def _require(holds: bool, option: str, value: float, what: str) -> None:
    if not holds:
        raise ConfigError(f"--{option} {value:g}: must be {what}.")
