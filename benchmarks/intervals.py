"""How often Plaudit's 95 % intervals hold the truth, and how wide they are beside others.

    python benchmarks/intervals.py [--repetitions 2000] [--seed 0] [--only WORDS]

Simulates what each kind of estimate is made of, at 10, 30, 65 and 300 prompts with 1, 2, 4 or 1 to 4 answers each that
are alike within a prompt, and counts. Writes intervals.json and intervals.md beside this file: about half an hour on
one core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit

from plaudit.collect.head_to_head import HeadToHead
from plaudit.statistics import coefficients as agreement
from plaudit.statistics.coefficients import Cross, Patterns, leave_one_out, leave_one_out_of
from plaudit.statistics.intervals import Interval, agresti_coull, difference, difference_of_rates, mean, rate, share
from plaudit.statistics.logistic import by_clusters, logistic_fit, wald
from plaudit.statistics.win_rate import win_rate

HERE = Path(__file__).parent
PROMPTS = (10, 30, 65, 300)
RATES = (0.5, 0.9, 0.99)
ANSWERS = ("1", "2", "4", "1 to 4")
CORRELATIONS = (0.1, 0.3, 0.6)
"""Of two answers to one prompt; one answer a prompt has none."""
RESAMPLES = 400
NEAR = 0.94
THEIRS = {
    "percentile bootstrap", "Student's t", "Wilson, effective n", "Clopper-Pearson, effective n",
    "Wilson, prompts", "Wald",
}  # fmt: skip
"""Ways of others, beside ours."""
Ends = tuple[float, float]
Random = np.random.Generator
Case = tuple[dict[str, Any], Callable[[Random], Iterable[tuple[str, Ends, float]]]]
"""(what is simulated, a draw: (whose interval, its ends, the truth) of each)."""


def sizes(prompts: int, answers: str) -> np.ndarray:
    """[prompts] answers to each."""
    return 1 + np.arange(prompts) % 4 if answers == "1 to 4" else np.full(prompts, int(answers))


def settings() -> Iterator[tuple[int, str, float]]:
    """(prompts, answers to each, correlation)."""
    for prompts in PROMPTS:
        for answers in ANSWERS:
            yield from ((prompts, answers, correlation) for correlation in (CORRELATIONS if answers != "1" else (0.0,)))


def alike(random: Random, count: np.ndarray, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """(standard normal numbers, of which those of a cluster correlate; the cluster of each)."""
    clusters = np.repeat(np.arange(len(count)), count)
    own = random.normal(size=len(count))[clusters]
    return math.sqrt(correlation) * own + math.sqrt(1 - correlation) * random.normal(size=len(clusters)), clusters


def coins(random: Random, p: float, count: np.ndarray, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """(0 and 1, of which those of a cluster correlate by a Beta-distributed share; the cluster of each)."""
    clusters = np.repeat(np.arange(len(count)), count)
    if not correlation:
        return (random.random(len(clusters)) < p).astype(float), clusters
    odds = 1 / correlation - 1
    own = random.beta(p * odds, (1 - p) * odds, size=len(count))
    return (random.random(len(clusters)) < own[clusters]).astype(float), clusters


def of(interval: Interval) -> Ends:
    """The ends of an interval that is known."""
    low, high = interval["low"], interval["high"]
    assert low is not None
    assert high is not None
    return low, high


def percentile_bootstrap(random: Random, values: np.ndarray, clusters: np.ndarray) -> Ends:
    """What was used before: quantiles of the mean over whole clusters drawn with replacement."""
    sums, count = np.bincount(clusters, values), np.bincount(clusters)
    rows = random.integers(len(sums), size=(RESAMPLES, len(sums)))
    return tuple(np.quantile(sums[rows].sum(axis=1) / count[rows].sum(axis=1), [0.025, 0.975]))  # type: ignore[return-value]


def effective(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """(the mean, its standard error by linearisation, the effective number, between clusters and values)."""
    count, p = np.bincount(clusters), values.mean()
    gaps = np.bincount(clusters, values - p) / len(values)
    variance = len(count) / (len(count) - 1) * float((gaps**2).sum())
    fewest, coin = len(values) ** 2 / float((count**2).sum()), p * (1 - p)
    number = coin / variance if variance > 0 else fewest
    return p, math.sqrt(variance), min(max(number, fewest), len(values))


def wilson(p: float, n: float) -> Ends:
    """Wilson 1927."""
    z = stats.norm.ppf(0.975)
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def clopper_pearson(p: float, n: float) -> Ends:
    """Clopper and Pearson 1934, at any n, as Korn and Graubard 1998 have it."""
    x = p * n
    low = 0.0 if x < 1e-9 else float(stats.beta.ppf(0.025, x, n - x + 1))
    return low, 1.0 if n - x < 1e-9 else float(stats.beta.ppf(0.975, x + 1, n - x))


def shares() -> Iterator[Case]:
    """Accuracies, finished rates, and all that a reward model or judge gets right."""
    for prompts, answers, correlation in settings():
        for p in RATES:
            count = sizes(prompts, answers)

            def draw(random: Random, p: float = p, count: np.ndarray = count, alike: float = correlation) -> Any:
                values, clusters = coins(random, p, count, alike)
                value, error, n = effective(values, clusters)
                freedom = len(count) - 1
                shrunk = max(n * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, freedom)) ** 2, min(n, len(count)))
                half = stats.t.ppf(0.975, freedom) * error
                yield "ours", of(share(values, clusters)), p
                yield "percentile bootstrap", percentile_bootstrap(random, values, clusters), p
                yield "Student's t", (value - half, value + half), p
                yield "Wilson, effective n", wilson(value, n), p
                yield "Clopper-Pearson, effective n", clopper_pearson(value, shrunk), p

            yield {"prompts": prompts, "answers": answers, "correlation": correlation, "rate": p}, draw


def win_rates() -> Iterator[Case]:
    """The policy's answers against the baseline's, a tenth of them ties, as the mean over prompts."""
    for prompts, answers, correlation in settings():
        for p in RATES:
            count, tie = sizes(prompts, answers), min(0.1, 2 * (1 - p))

            def draw(
                random: Random, p: float = p, count: np.ndarray = count, rho: float = correlation, tie: float = tie
            ) -> Any:
                u, clusters = alike(random, count, rho)
                u = stats.norm.cdf(u)
                ours = np.where(u < p - tie / 2, 2.0, np.where(u < p + tie / 2, 1.0, 0.0))
                value = float(np.mean([ours[clusters == c].mean() / 2 for c in range(len(count))]))
                yield "ours", of(win_rate(ours, np.ones(len(u)), clusters)), p
                yield "Wilson, prompts", wilson(value, len(count)), p

            yield {"prompts": prompts, "answers": answers, "correlation": correlation, "rate": p}, draw


def duels() -> Iterator[Case]:
    """People's head-to-head: two people a task, a fifth of their judgments ties where the rate allows it."""
    for prompts, answers, correlation in settings():
        for p in RATES:
            count, tie = sizes(prompts, answers), min(0.2, 2 * (1 - p))

            def draw(
                random: Random, p: float = p, count: np.ndarray = count, rho: float = correlation, tie: float = tie
            ) -> Any:
                u, clusters = alike(random, np.repeat(2, count.sum()), 0.4)  # two people of a task agree more or less
                own = random.normal(size=len(count))[np.repeat(np.arange(len(count)), count)][clusters]
                u = stats.norm.cdf(math.sqrt(rho) * own + math.sqrt(1 - rho) * u)
                score = np.where(u < p - tie / 2, 1.0, np.where(u < p + tie / 2, 0.5, 0.0))
                match, prompt_of = HeadToHead(people_per_task=2), np.repeat(np.arange(len(count)), count)
                for i, value in enumerate(score):
                    task = clusters[i]
                    match.put(f"{task}", f"{prompt_of[task]}", "ab"[i % 2], ("new", "old"), float(value))
                means = (score[::2] + score[1::2]) / 2
                yield "ours", of(match.matches()[0].win_rate), p
                yield "percentile bootstrap", percentile_bootstrap(random, means, prompt_of), p

            yield {"prompts": prompts, "answers": answers, "correlation": correlation, "rate": p}, draw


def differences() -> Iterator[Case]:
    """Of what a judge and people prefer of the same pairs: -1, 0 or 1 each."""
    for prompts, answers, correlation in settings():
        for more, less in ((0.25, 0.25), (0.1, 0.05), (0.02, 0.0)):
            count = sizes(prompts, answers)

            def draw(
                random: Random,
                more: float = more,
                less: float = less,
                count: np.ndarray = count,
                rho: float = correlation,
            ) -> Any:
                u, clusters = alike(random, count, rho)
                u = stats.norm.cdf(u)
                gaps = (u < more).astype(float) - (u > 1 - less)
                yield "ours", of(difference(gaps, clusters)), more - less
                yield "percentile bootstrap", percentile_bootstrap(random, gaps, clusters), more - less

            yield {"prompts": prompts, "answers": answers, "correlation": correlation, "apart": more + less}, draw


def means() -> Iterator[Case]:
    """Scores, log-ratios (normal), lengths (exponential up to a limit, or without), and a heavier tail."""
    shapes: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
        "normal": (lambda z: z, 0.0),
        "exponential up to twice its mean": (
            lambda z: np.minimum(-np.log(stats.norm.sf(z)), 2.0), 1 - math.exp(-2),
        ),
        "exponential": (lambda z: -np.log(stats.norm.sf(z)), 1.0),
        "log-normal, deviation 0.5": (lambda z: np.exp(z / 2), math.exp(1 / 8)),
    }  # fmt: skip
    for prompts, answers, correlation in settings():
        for shape, (turn, truth) in shapes.items():
            count = sizes(prompts, answers)

            def draw(
                random: Random,
                turn: Any = turn,
                truth: float = truth,
                count: np.ndarray = count,
                rho: float = correlation,
            ) -> Any:
                z, clusters = alike(random, count, rho)
                values = turn(z)
                value, error, _ = effective(values, clusters)
                half = stats.t.ppf(0.975, len(count) - 1) * error
                yield "ours", of(mean(values, clusters, seed=int(random.integers(1 << 30)))), truth
                yield "Student's t", (value - half, value + half), truth
                yield "percentile bootstrap", percentile_bootstrap(random, values, clusters), truth

            yield {"prompts": prompts, "answers": answers, "correlation": correlation, "shape": shape}, draw


def judged(random: Random, count: np.ndarray, what: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """([items, people] categories, the prompt of each item): people say what it is, or by chance one like or near it.

    Some prompts are harder: the chance of saying what it is is Beta-distributed over prompts.
    """
    clusters, kinds = np.repeat(np.arange(len(count)), count), len(what["prevalence"])
    faithful, rho = what["faithful"], what["correlation"]
    odds = (1 / rho - 1) if rho else math.inf
    own = random.beta(faithful * odds, (1 - faithful) * odds, size=len(count)) if rho else np.full(len(count), faithful)
    truth = random.choice(kinds, size=len(clusters), p=what["prevalence"])
    shape = (len(clusters), what["people"])
    if kinds > 3:  # an ordered scale: mistakes are near
        other = np.clip(
            truth[:, None] + random.choice([-2, -1, 1, 2], p=[0.1, 0.4, 0.4, 0.1], size=shape), 0, kinds - 1
        )
    else:
        other = random.choice(kinds, size=shape, p=what["prevalence"])
    return np.where(random.random(shape) < own[clusters][:, None], truth[:, None], other), clusters


NOMINAL = {
    "raw": agreement.pairwise_agreement, "Fleiss' kappa": agreement.fleiss_kappa,
    "Krippendorff's alpha": agreement.krippendorff_alpha, "Gwet's AC1": agreement.gwet_ac,
}  # fmt: skip
ORDINAL = {
    "alpha, ordinal": lambda totals: agreement.krippendorff_alpha(totals, level="ordinal"),
    "AC2, quadratic": lambda totals: agreement.gwet_ac(totals, weighting="quadratic"),
}
CROSS = {"Cohen's kappa": agreement.cohen_kappa, "Scott's pi": agreement.scott_pi}


def measured(said: np.ndarray, clusters: np.ndarray | None, kinds: int) -> dict[str, Interval]:
    """Coefficients of ratings, where they have a value."""
    given = np.eye(kinds, dtype=int)[said]
    totals = leave_one_out(Patterns.of(given.sum(axis=1), clusters=clusters))
    cross = Cross(given[:, 0], given[:, 1:].sum(axis=1), np.ones(len(said), dtype=int), clusters)
    sides = leave_one_out_of(cross)
    wanted = [(NOMINAL | (ORDINAL if kinds > 3 else {}), totals), (CROSS, sides)]
    found = {}
    for functions, sums in wanted:
        for name, function in functions.items():
            try:
                found[name] = function(sums)  # type: ignore[operator]
            except agreement.Undefined:
                continue
    return found


def coefficients() -> Iterator[Case]:
    """Of agreement, where they have a value: two categories, even and not, three, and a scale of nine."""
    prevalences = {
        "even": [0.5, 0.5], "one of 85 %": [0.85, 0.15], "three": [0.45, 0.4, 0.15],
        "scale of nine": [0.05, 0.08, 0.12, 0.15, 0.2, 0.15, 0.12, 0.08, 0.05],
    }  # fmt: skip
    exactly = np.random.default_rng(0)
    for prompts in PROMPTS:
        for name, prevalence in prevalences.items():
            for people, faithful in ((2, 0.5), (2, 0.95), (3, 0.8)):
                for answers, rho in (("1", 0.0), ("1 to 4", 0.3)):
                    what = {"prevalence": prevalence, "people": people, "faithful": faithful, "correlation": rho}
                    many, _ = judged(exactly, np.ones(200_000, dtype=int), what)
                    truth = {key: one["value"] for key, one in measured(many, None, len(prevalence)).items()}
                    count = sizes(prompts, answers)

                    def draw(random: Random, what: Any = what, truth: Any = truth, count: np.ndarray = count) -> Any:
                        said, clusters = judged(random, count, what)
                        for key, one in measured(said, clusters, len(what["prevalence"])).items():
                            yield key, of(one), truth[key]

                    setting = {"prompts": prompts, "answers": answers, "people": people, "faithful": faithful}
                    yield setting | {"categories": name}, draw


def habits() -> Iterator[Case]:
    """The log-odds of length, where four answers to each prompt are compared in pairs and qualities are not known."""

    def compared(random: Random, prompts: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lengths, qualities = random.normal(0, 0.6, (prompts, 4)), random.normal(0, spread, (prompts, 4))
        one, other = np.array(list(combinations(range(4), 2))).T
        gaps, better = (side[:, one] - side[:, other] for side in (lengths, qualities))
        outcomes = (random.random(gaps.shape) < expit(0.7 * gaps + better)).astype(float).ravel()
        return np.stack([np.ones(gaps.size), gaps.ravel()], axis=1), outcomes, np.repeat(np.arange(prompts), 6)

    exactly = np.random.default_rng(0)
    for prompts in PROMPTS:
        for spread in (0.5, 2.0):
            design, outcomes, _ = compared(exactly, 50_000, spread)
            truth = float(logistic_fit(design, outcomes)[0][1])

            def draw(random: Random, prompts: int = prompts, spread: float = spread, truth: float = truth) -> Any:
                design, outcomes, clusters = compared(random, prompts, spread)
                found, covariance = logistic_fit(design, outcomes)
                yield "ours", of(by_clusters(design, outcomes, found, covariance, clusters)[1]), truth
                yield "Wald", of(wald(float(found[1]), math.sqrt(covariance[1, 1]), len(design))), truth

            yield {"prompts": prompts, "answers": "4", "spread": spread}, draw


def exact() -> dict[str, list[dict[str, Any]]]:
    """Of independent trials, by summing the binomial: a rate, and a difference of two of different numbers."""
    rates, apart = [], []
    for n in PROMPTS:
        for p in RATES:
            wins = np.arange(n + 1)
            weights = stats.binom.pmf(wins, n, p)
            ways = {
                "ours": [of(rate(int(k), n)) for k in wins],
                "Wilson": [wilson(k / n, n) for k in wins],
                "Agresti-Coull": [agresti_coull(k / n, n, stats.norm.ppf(0.975)) for k in wins],
            }
            rates.append({"prompts": n, "rate": p} | {name: _weighed(ends, weights, p) for name, ends in ways.items()})
    for n, other in ((10, 10), (10, 300), (30, 65), (65, 300), (300, 300)):
        for p, q in ((0.5, 0.5), (0.5, 0.99), (0.9, 0.9), (0.9, 0.99), (0.99, 0.99)):
            pairs = [(i, j) for i in range(n + 1) for j in range(other + 1)
                     if stats.binom.pmf(i, n, p) > 1e-5 and stats.binom.pmf(j, other, q) > 1e-5]  # fmt: skip
            weights = np.array([stats.binom.pmf(i, n, p) * stats.binom.pmf(j, other, q) for i, j in pairs])
            ways = {
                "ours": [of(difference_of_rates(i, n, j, other)) for i, j in pairs],
                "Newcombe": [_newcombe(i / n, n, j / other, other) for i, j in pairs],
            }
            row = {name: _weighed(ends, weights, p - q) for name, ends in ways.items()}
            apart.append({"prompts": min(n, other), "others": max(n, other), "rate": p, "other_rate": q} | row)
    return {"a rate of independent trials": rates, "a difference of two such rates": apart}


def _newcombe(p: float, n: int, q: float, m: int) -> Ends:
    (low, high), (other_low, other_high) = wilson(p, n), wilson(q, m)
    return p - q - math.hypot(p - low, other_high - q), p - q + math.hypot(high - p, q - other_low)


def _weighed(ends: list[Ends], weights: np.ndarray, truth: float) -> list[float]:
    """[coverage, mean width]."""
    held = np.array([low - 1e-12 <= truth <= high + 1e-12 for low, high in ends])
    total = weights.sum()
    return [float(held @ weights / total), float(np.array([high - low for low, high in ends]) @ weights / total)]


KINDS: dict[str, tuple[Callable[[], Iterator[Case]], float]] = {
    "a share of answers (accuracy, finished rate, ...)": (shares, 0.5),
    "the policy's win rate": (win_rates, 0.5),
    "people's head-to-head win rate": (duels, 0.25),
    "a difference of two shares of the same pairs": (differences, 0.5),
    "a mean (length, score, KL)": (means, 0.25),
    "coefficients of agreement": (coefficients, 0.25),
    "log-odds of an annotator's liking for length": (habits, 0.5),
}
"""What is estimated: (its cases, the share of the repetitions that are enough)."""


def simulate(kind: str, cases: Iterator[Case], repetitions: int, seed: int) -> list[dict[str, Any]]:
    """A row for each case: what was simulated and, of each way, [coverage, mean width].

    One in which an interval of ours seems to hold less than NEAR of the truths is simulated again, four times as long.
    """
    rows = []
    for number, (setting, draw) in enumerate(cases):
        ways, many = _simulated(draw, np.random.default_rng([seed, *kind.encode(), number]), repetitions), repetitions
        if any(held < NEAR for name, (held, _) in ways.items() if name not in THEIRS):
            many = 4 * repetitions
            ways = _simulated(draw, np.random.default_rng([seed, *kind.encode(), number, 1]), many)
        rows.append(setting | {"repetitions": many} | ways)
    return rows


def _simulated(draw: Callable[[Random], Any], random: Random, repetitions: int) -> dict[str, list[float]]:
    found: dict[str, list[tuple[bool, float]]] = {}
    for _ in range(repetitions):
        for name, (low, high), truth in draw(random):
            found.setdefault(name, []).append((low - 1e-9 <= truth <= high + 1e-9, high - low))
    return {name: [float(np.mean(column)) for column in zip(*of_way, strict=True)] for name, of_way in found.items()}


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """One line for each kind, way and number of prompts."""
    lines = [
        "| estimate | interval | prompts | cases | least coverage | mean coverage | mean width |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, rows in results.items():
        ways = list(dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, list)))
        for way in ways:
            for prompts in PROMPTS:
                known = [row[way] for row in rows if row["prompts"] == prompts and way in row]
                if known:
                    held, width = np.array(known).T
                    lines.append(
                        f"| {kind} | {way} | {prompts} | {len(known)} | {held.min():.3f} | {held.mean():.3f} | "
                        f"{width.mean():.3f} |"
                    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="estimates with these words; others stay as they are"
    )
    asked = parser.parse_args()
    began, path = time.monotonic(), HERE / "intervals.json"
    before = json.loads(path.read_text(encoding="utf-8"))["results"] if asked.only and path.exists() else {}
    results = before | exact()
    for kind, (cases, part) in KINDS.items():
        if asked.only not in kind:
            continue
        results[kind] = simulate(kind, cases(), int(asked.repetitions * part), asked.seed)
        own = [row.get("ours") for row in results[kind] if "ours" in row]
        print(
            f"{time.monotonic() - began:.0f} s",
            kind,
            f"least {min(one[0] for one in own):.3f}" if own else "",
            flush=True,
        )
        written = {"repetitions": asked.repetitions, "seed": asked.seed, "results": results}
        path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
