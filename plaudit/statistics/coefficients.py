"""Coefficients of agreement, with their intervals, from how often each pattern of judgments occurs.

What several annotators said of an item matters only by how many of them gave each category: its pattern. Few patterns
are possible, so all that is computed here costs the same for a thousand items as for a million. So does the jackknife:
what is left without one item depends on the item's pattern alone.

P patterns, K categories (in their order, where they have one), B = 1 + the kinds of items (or of clusters of items)
that differ in what they add: index 0 is the data themselves, the others are the data without one item of a kind.
Every coefficient is 1 - observed disagreement / disagreement expected by chance: 1 perfect, 0 chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plaudit.statistics.intervals import Interval, agresti_coull, effective_number, student

Level = Literal["nominal", "ordinal", "interval"]
Weighting = Literal["identity", "linear", "quadratic", "ordinal"]
Numbers = NDArray[np.float64]

FEW = 10
"""Items (or clusters of items) judged twice below which results say that there are few."""


class Undefined(ValueError):
    """A coefficient has no value; the text says why."""


@dataclass(frozen=True)
class Patterns:
    """How often each pattern of judgments occurs.

    counts    [P, K]  annotators who gave each category to an item of this pattern; one or more altogether
    weights   [P]     items that have the pattern
    clusters  [P]     what the items are drawn by (their prompt, say), where they are not independent; None: items
    """

    counts: NDArray[np.int64]
    weights: NDArray[np.int64]
    clusters: NDArray[Any] | None = None

    @classmethod
    def of(cls, counts: ArrayLike, weights: ArrayLike | None = None, clusters: ArrayLike | None = None) -> Patterns:
        """Totals of any rows of counts; without weights every row is one item. Rows without a judgment are left out.

        Raises ValueError where the shapes do not fit.
        """
        table = np.asarray(counts, dtype=np.int64)
        number = np.ones(len(table), dtype=np.int64) if weights is None else np.asarray(weights, dtype=np.int64)
        groups = None if clusters is None else np.asarray(clusters)
        if table.ndim != 2 or number.shape != (len(table),) or (groups is not None and groups.shape != number.shape):
            raise ValueError("patterns are a table [P, K], with [P] weights and [P] clusters")
        if (table < 0).any() or (number < 0).any():
            raise ValueError("counts and weights of patterns are zero or more")
        kept = (table.sum(axis=1) > 0) & (number > 0)
        # A fixed order: the numbers that the bootstrap draws must not depend on that of the items.
        if groups is not None:
            order = np.lexsort(table[kept].T)
            return cls(table[kept][order], number[kept][order], groups[kept][order])
        distinct, place = np.unique(table[kept], axis=0, return_inverse=True)
        total = np.bincount(place.reshape(-1), weights=number[kept], minlength=len(distinct))
        return cls(distinct, total.astype(np.int64))

    def used(self) -> Patterns:
        """Without the categories that nobody gave."""
        return Patterns(self.counts[:, self.counts.any(axis=0)], self.weights, self.clusters)

    @property
    def judgments(self) -> int:
        """All of them, of all items."""
        return int(self.counts.sum(axis=1) @ self.weights)

    @property
    def items(self) -> int:
        """Judged once or more."""
        return int(self.weights.sum())

    @property
    def shared_items(self) -> int:
        """Judged twice or more."""
        return int(self.weights[self.counts.sum(axis=1) > 1].sum())


@dataclass(frozen=True)
class Cross:
    """Judgments of one side against those of another: two annotators, one and the rest, two roles.

    left, right  [P, K]  annotators of either side who gave each category to an item of this pattern
    weights      [P]     items that have the pattern
    clusters     [P]     what the items are drawn by (their prompt, say), where they are not independent; None: items
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    weights: NDArray[np.int64]
    clusters: NDArray[Any] | None = None

    @classmethod
    def of_confusion(cls, matrix: ArrayLike) -> Cross:
        """Counts of two annotators: matrix [K, K], items to which one gave the row and the other the column."""
        cells = np.asarray(matrix, dtype=np.int64)
        if cells.ndim != 2 or cells.shape[0] != cells.shape[1] or (cells < 0).any():
            raise ValueError("a confusion matrix is [K, K], zero or more")
        one = np.eye(len(cells), dtype=np.int64)
        rows, columns = np.nonzero(cells)
        return cls(one[rows], one[columns], cells[rows, columns])


@dataclass(frozen=True)
class Sample:
    """How far the sums over the data are known.

    kinds        [B - 1]  items (or clusters) of each kind, one of which is left out
    clusters              independent items (or clusters) that have a pair of judgments
    even                  as many of equal size would be known as well, where all pairs of a cluster are the same
    comparisons           judgments that say something of others: of those of an item, all but one
    """

    kinds: NDArray[np.int64]
    clusters: int
    even: float
    comparisons: float


@dataclass(frozen=True)
class Totals:
    """Sums over the items, of all and without one; pairs are ordered, of two judgments of one item.

    agreeing, pairs  [B]        pairs of the same category, and all
    coincidences     [B, K, K]  pairs by category, each item's divided by its judgments less one (Krippendorff's)
    item_pairs       [B, K, K]  pairs by category, each item's adding up to one
    shares           [B, K]     categories of all items, also of those judged once, each item's adding up to one
    """

    agreeing: Numbers
    pairs: Numbers
    coincidences: Numbers
    item_pairs: Numbers
    shares: Numbers
    sample: Sample


@dataclass(frozen=True)
class CrossTotals:
    """Sums over the items, of all and without one.

    pairs  [B, K, K]  judgments of the left against judgments of the right
    """

    pairs: Numbers
    sample: Sample


def leave_one_out(patterns: Patterns) -> Totals:
    """What the coefficients are made of, for the data and without one item (or cluster) of each kind.

    Raises Undefined where no item was judged twice.
    """
    if not patterns.shared_items:
        raise Undefined("no item was judged twice")
    count = patterns.counts.astype(float)
    people = count.sum(axis=1)[:, None, None]
    kinds = count.shape[1]
    ordered = count[:, :, None] * count[:, None, :] - count[:, :, None] * np.eye(kinds)
    others = np.maximum(people - 1, 1)  # of an item judged once there are no pairs
    rows = np.concatenate(
        [
            np.trace(ordered, axis1=1, axis2=2)[:, None],
            (people * (people - 1))[:, :, 0],
            (ordered / others).reshape(len(count), -1),
            (ordered / (people * others)).reshape(len(count), -1),
            count / people[:, :, 0],
        ],
        axis=1,
    )
    comparisons = float((people[:, 0, 0] - 1) @ patterns.weights)
    sums, sample = _without_one(rows, patterns.weights, patterns.clusters, rows[:, 1], comparisons)
    coincidences, item_pairs, shares = np.split(sums[:, 2:], [kinds**2, 2 * kinds**2], axis=1)
    square = (len(sums), kinds, kinds)
    return Totals(sums[:, 0], sums[:, 1], coincidences.reshape(square), item_pairs.reshape(square), shares, sample)


def leave_one_out_of(cross: Cross) -> CrossTotals:
    """What the coefficients of two sides are made of, for the data and without one item (or cluster) of each kind.

    Raises Undefined where no item was judged by both.
    """
    both = (cross.left.sum(axis=1) > 0) & (cross.right.sum(axis=1) > 0) & (cross.weights > 0)
    if not both.any():
        raise Undefined("no item was judged by both")
    left, right, weights = cross.left[both], cross.right[both], cross.weights[both]
    clusters = None if cross.clusters is None else cross.clusters[both]
    kinds = left.shape[1]
    pairs = (left[:, :, None] * right[:, None, :]).reshape(len(left), -1).astype(float)
    comparisons = float((left.sum(axis=1) + right.sum(axis=1) - 1) @ weights)
    sums, sample = _without_one(pairs, weights, clusters, pairs.sum(axis=1), comparisons)
    return CrossTotals(sums.reshape(-1, kinds, kinds), sample)


def weights_of(weighting: Weighting, kinds: int) -> Numbers:
    """[K, K] how much two categories agree: 1 on the diagonal, 0 for the two ends of the scale.

    Gwet 2014, Handbook of Inter-Rater Reliability, 4th ed., ch. 3, of categories k and l:
        linear     1 - |k - l| / (K - 1)
        quadratic  1 - (k - l)^2 / (K - 1)^2
        ordinal    1 - M(k, l) / M(1, K), M = d (d + 1) / 2 the pairs of categories from k to l, d = |k - l|
    """
    places = np.arange(kinds)
    apart = np.abs(places[:, None] - places[None, :]).astype(float)
    if weighting == "identity":
        return np.eye(kinds)
    distance = {"linear": apart, "quadratic": apart**2, "ordinal": apart * (apart + 1) / 2}[weighting]
    return 1 - distance / max(distance.max(), 1.0)


def pairwise_agreement(totals: Totals) -> Interval:
    """Share of pairs of judgments of an item that are the same; every pair counts alike, so busy items count more."""
    return _interval(1 - _ratio(totals.agreeing, totals.pairs), np.ones_like(totals.pairs), totals.sample)


def fleiss_kappa(totals: Totals) -> Interval:
    """Fleiss' kappa, also where the number of annotators varies.

    Fleiss 1971, generalised as in Gwet 2014, section 2.4: observed is the mean over the items judged twice or more of
    their agreeing share of pairs; expected is the sum of p_k^2, p_k the mean over all items, those judged once too, of
    the share of their judgments in category k. Every item counts alike. With equal numbers it is Fleiss' own.
    """
    _several_categories(totals.shares)
    share = _normalised(totals.shares)
    same = np.trace(totals.item_pairs, axis1=1, axis2=2)
    observed = 1 - _ratio(same, totals.item_pairs.sum(axis=(1, 2)))
    return _interval(observed, 1 - (share**2).sum(axis=1), totals.sample)


def gwet_ac(totals: Totals, *, weighting: Weighting = "identity") -> Interval:
    """Gwet's AC1 (identity) or AC2: agreement beyond chance that does not collapse where one category is rare.

    Gwet 2008 (Br. J. Math. Stat. Psychol. 61) and 2014, ch. 3 and 5: with weights w,
        expected agreement = sum(w) / (K (K - 1)) * sum over k of p_k (1 - p_k)
    p_k and the observed agreement as of `fleiss_kappa`. K counts all categories that were on offer, used or not.
    """
    _several_categories(totals.shares)
    kinds = totals.shares.shape[1]
    weights = weights_of(weighting, kinds)
    share = _normalised(totals.shares)
    observed, square = _mean_distance(totals.item_pairs, 1 - weights)
    chance = weights.sum() / (kinds * (kinds - 1)) * (share * (1 - share)).sum(axis=1)
    return _interval(observed, 1 - chance, totals.sample, square)


def krippendorff_alpha(totals: Totals, *, level: Level = "nominal") -> Interval:
    """Krippendorff's alpha over the items judged twice or more, whatever their number of annotators.

    Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability": with o_kl the coincidences, n_k = sum over l of
    o_kl, n = sum of n_k and distances d_kl,
        alpha = 1 - (n - 1) sum(o_kl d_kl) / sum(n_k n_l d_kl)
    d is 1 for different categories (nominal), (k - l)^2 (interval), or the squared difference of the categories' mean
    ranks, which every sum without an item has its own of (ordinal).
    """
    margins = totals.coincidences.sum(axis=2)
    _several_categories(margins)
    distance = _distances(margins, level)
    number = margins.sum(axis=1)
    observed, square = _mean_distance(totals.coincidences, distance)
    pairs = margins[:, :, None] * margins[:, None, :]
    expected = _ratio((pairs * distance).sum(axis=(1, 2)), number * (number - 1))
    return _interval(observed, expected, totals.sample, square)


def cross_agreement(totals: CrossTotals) -> Interval:
    """Share of the pairs of a judgment of the left and one of the right that are the same."""
    same = np.trace(totals.pairs, axis1=1, axis2=2)
    observed = 1 - _ratio(same, totals.pairs.sum(axis=(1, 2)))
    return _interval(observed, np.ones_like(same), totals.sample)


def cohen_kappa(totals: CrossTotals, *, weighting: Weighting = "identity") -> Interval:
    """Cohen's kappa of two sides: each keeps its own leaning by chance.

    Cohen 1960; weighted: Cohen 1968. With p_kl the share of pairs in category k of the left and l of the right, and
    v = 1 - weights: 1 - sum(v_kl p_kl) / sum(v_kl p_k. p_.l). A side that gave one category alone has no kappa: the
    formula would be 0 whatever the other side gave.
    """
    left, right = totals.pairs.sum(axis=2), totals.pairs.sum(axis=1)
    _several_categories(left + right)
    if min((left[0] > 0).sum(), (right[0] > 0).sum()) < 2:
        raise Undefined("one side gave a single category, so that chance alone would agree as much")
    return _of_margins(totals, left, right, weighting)


def scott_pi(totals: CrossTotals) -> Interval:
    """Scott's pi of two sides (Scott 1955): by chance both have the leaning of the two together."""
    together = totals.pairs.sum(axis=2) + totals.pairs.sum(axis=1)
    _several_categories(together)
    return _of_margins(totals, together, together, "identity")


def nominal_coefficients(patterns: Patterns) -> dict[str, Any]:
    """All that need no order of the categories.

    raw, fleiss, alpha, gwet_ac1  an Interval each, or None where there is no value
    reasons                       of each that is None: why
    few                           what to know of the intervals, only where there are few items or clusters
    """
    wanted = {
        "raw": pairwise_agreement,
        "fleiss": fleiss_kappa,
        "alpha": krippendorff_alpha,
        "gwet_ac1": gwet_ac,
    }
    return _measured(wanted, lambda: leave_one_out(patterns))


def ordinal_coefficients(patterns: Patterns) -> dict[str, Any]:
    """All that respect the order of the categories, as `nominal_coefficients` gives them.

    alpha_ordinal, alpha_interval, gwet_ac2_linear, gwet_ac2_quadratic, gwet_ac2_ordinal, reasons, few
    """
    wanted: dict[str, Callable[[Totals], Interval]] = {
        "alpha_ordinal": lambda totals: krippendorff_alpha(totals, level="ordinal"),
        "alpha_interval": lambda totals: krippendorff_alpha(totals, level="interval"),
        "gwet_ac2_linear": lambda totals: gwet_ac(totals, weighting="linear"),
        "gwet_ac2_quadratic": lambda totals: gwet_ac(totals, weighting="quadratic"),
        "gwet_ac2_ordinal": lambda totals: gwet_ac(totals, weighting="ordinal"),
    }
    return _measured(wanted, lambda: leave_one_out(patterns))


def cross_coefficients(cross: Cross, *, ordered: bool = False) -> dict[str, Any]:
    """Coefficients of two sides, as `nominal_coefficients` gives them: raw, cohen, scott, reasons, few.

    With ordered categories also cohen_linear and cohen_quadratic.
    """
    wanted: dict[str, Callable[[CrossTotals], Interval]] = {
        "raw": cross_agreement,
        "cohen": cohen_kappa,
        "scott": scott_pi,
    }
    if ordered:
        wanted["cohen_linear"] = lambda totals: cohen_kappa(totals, weighting="linear")
        wanted["cohen_quadratic"] = lambda totals: cohen_kappa(totals, weighting="quadratic")
    return _measured(wanted, lambda: leave_one_out_of(cross))


def _measured(wanted: Mapping[str, Callable[[Any], Interval]], sums: Callable[[], Any]) -> dict[str, Any]:
    try:
        totals = sums()
    except Undefined as missing:
        return {**dict.fromkeys(wanted), "reasons": dict.fromkeys(wanted, str(missing))}
    found: dict[str, Any] = {}
    reasons = {}
    for name, coefficient in wanted.items():
        try:
            found[name] = coefficient(totals)
        except Undefined as missing:
            found[name], reasons[name] = None, str(missing)
    return {**found, "reasons": reasons, **_few(totals.sample.clusters)}


def _few(clusters: int) -> dict[str, str]:
    """What to know of intervals from few independent items or clusters; nothing of many."""
    if clusters >= FEW:
        return {}
    if clusters < 2:
        return {"few": "one independent item says nothing of how others would differ: no interval"}
    return {"few": f"{clusters} independent items are few: the intervals are wide, and rough"}


def _without_one(
    rows: Numbers, weights: NDArray[np.int64], clusters: NDArray[Any] | None, pairs: Numbers, comparisons: float
) -> tuple[Numbers, Sample]:
    """[B, S] sums of rows [P, S] over the data, and without one item or cluster of each kind.

    pairs [P] of an item of each pattern
    """
    rows = np.concatenate([rows, pairs[:, None]], axis=1)
    if clusters is not None:
        rows, weights = _by_cluster(rows * weights[:, None], clusters)
    rows, pairs = rows[:, :-1], rows[:, -1]
    total = weights @ rows
    sample = Sample(
        kinds=weights,
        clusters=int(weights[pairs > 0].sum()),
        even=float((weights @ pairs) ** 2 / (weights @ pairs**2)),
        comparisons=comparisons,
    )
    return np.concatenate([total[None], total - rows]), sample


def _by_cluster(rows: Numbers, clusters: NDArray[Any]) -> tuple[Numbers, NDArray[np.int64]]:
    """The sums of each cluster, equal ones once, and how many clusters have them."""
    _, place = np.unique(clusters, return_inverse=True)
    sums = np.zeros((place.max() + 1, rows.shape[1]))
    np.add.at(sums, place, rows)
    distinct, number = np.unique(sums, axis=0, return_counts=True)
    return distinct, number


def _mean_distance(pairs: Numbers, distance: Numbers) -> tuple[Numbers, float]:
    """[B] the mean distance of pairs [B, K, K], and the mean of its square in the data."""
    number = pairs.sum(axis=(1, 2))
    observed = _ratio((pairs * distance).sum(axis=(1, 2)), number)
    in_data = distance if distance.ndim == 2 else distance[0]
    return observed, float((pairs[0] * in_data**2).sum() / number[0])


def _distances(margins: Numbers, level: Level) -> Numbers:
    """[B, K, K] between categories, at most 1."""
    batch, kinds = margins.shape
    if level == "nominal":
        return np.broadcast_to(1 - np.eye(kinds), (batch, kinds, kinds))
    places = np.broadcast_to(np.arange(float(kinds)), margins.shape)
    if level == "ordinal":
        places = np.cumsum(margins, axis=1) - margins / 2  # a category's mean rank
    squared = (places[:, :, None] - places[:, None, :]) ** 2
    return _ratio(squared, squared.max(axis=(1, 2))[:, None, None])


def _of_margins(totals: CrossTotals, left: Numbers, right: Numbers, weighting: Weighting) -> Interval:
    apart = 1 - weights_of(weighting, left.shape[1])
    observed, square = _mean_distance(totals.pairs, apart)
    chance = _normalised(left)[:, :, None] * _normalised(right)[:, None, :]
    return _interval(observed, (chance * apart).sum(axis=(1, 2)), totals.sample, square)


def _several_categories(margins: Numbers) -> None:
    if (margins[0] > 0).sum() < 2:
        raise Undefined("all judgments are of one category, which chance alone would give")


def _normalised(margins: Numbers) -> Numbers:
    return _ratio(margins, margins.sum(axis=1, keepdims=True))


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    """NaN where there is nothing to divide by: without its only pair the data have none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _interval(observed: Numbers, expected: Numbers, sample: Sample, square: float | None = None) -> Interval:
    """1 - observed / expected disagreement, [B] each, with the interval of the observed at its effective number.

    square  mean square distance of pairs in the data; None is the observed, as where all distances are 0 and 1

    The jackknife's differences of both give the variance V of observed / expected, as if they were linear in them
    (Gwet 2014, ch. 5, has the same variances in closed form). With o and e of the data, o is then as well known as
    n = o (1 - o) / (V e^2) coins: `intervals.effective_number`, at least the even clusters where all agree, at most
    the comparisons. Its `agresti_coull` interval, divided by e, is the coefficient's. Where V is made of few large
    squares it is not well known: its degrees of freedom are Satterthwaite's 2 / Var(V / its mean) = 2 C / (kurtosis -
    1) of C clusters, at most C - 1. What the kurtosis of independent coins is above 3 does not count: their variance is
    known.
    """
    if not expected[0] > 0:
        raise Undefined("chance alone would agree on every item")
    value = float(1 - observed[0] / expected[0])
    if sample.clusters < 2:
        return {"value": value, "low": None, "high": None, "n": sample.clusters}
    apart = min(max(float(observed[0]), 0.0), 1.0)
    coin, square = apart * (1 - apart), apart if square is None else square
    kinds, count = sample.kinds, int(sample.kinds.sum())
    gaps = (observed[1:] - observed[0]) - apart / expected[0] * (expected[1:] - expected[0])
    gaps = gaps - kinds @ gaps / count
    squares = float(kinds @ gaps**2)
    n = effective_number(
        apart, (count - 1) / count * squares, square - apart**2,
        fewest=sample.even if coin == 0 else 1.0, most=sample.comparisons,
    )  # fmt: skip
    freedom = float(sample.clusters - 1)
    if coin > 0 and squares > 0:
        kurtosis = count * float(kinds @ gaps**4) / squares**2
        is_coins = math.isclose(square, apart)
        of_coins = 3 + max(0.0, 1 / coin - 6) * count / sample.comparisons if is_coins else 3.0
        freedom = min(max(2 * count / (2 + max(0.0, kurtosis - of_coins)), 1.0), freedom)
    low, high = agresti_coull(apart, n, student(freedom))
    ends = float(1 - high / expected[0]), float(1 - low / expected[0])
    return {"value": value, "low": ends[0], "high": ends[1], "n": sample.clusters}
