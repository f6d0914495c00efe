"""Judgments counted one at a time, so that agreement is known at any moment without going over them again.

A tally keeps what everybody said of each item, and beside it the counts that the coefficients are made of: how often
each pattern of judgments occurs (of all, and of each role), each annotator's category against the others' of the
item, each pair of annotators, and each pair of roles. Adding or taking back a judgment touches the annotators of its
item and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from plaudit.statistics.coefficients import Cross, Patterns

BITS = 16
"""Room for one category's count in a pattern's code: a pattern is one whole number, which is quick to keep and look up.
An item may so have 65,535 judgments."""

Key = TypeVar("Key")
Codes = dict[int, int]
"""Pattern's code -> items that have it."""
ClusterOf = Callable[[Hashable], Hashable]


class Tally:
    """Who gave which category to which item.

    categories  all that are on offer, in their order where they have one; Gwet's coefficients count them all
    """

    def __init__(self, categories: Sequence[Hashable]):
        """Raises ValueError for no categories, or one that occurs twice."""
        self.categories = tuple(categories)
        self._place = {category: place for place, category in enumerate(self.categories)}
        if not self.categories or len(self._place) < len(self.categories):
            raise ValueError(f"categories are one or more, all different: {self.categories}")
        self._unit = [1 << (BITS * place) for place in range(len(self.categories))]
        self._items: dict[Hashable, dict[str, tuple[int, str]]] = {}
        self._patterns: Codes = {}
        self._of_role: dict[str, Codes] = defaultdict(dict)
        self._between_roles: dict[tuple[str, str], dict[tuple[int, int], int]] = defaultdict(dict)
        self._with_rest: dict[str, dict[tuple[int, int], int]] = defaultdict(dict)
        self._pairs: dict[tuple[str, str], dict[int, int]] = {}
        self._judgments: dict[str, int] = {}
        self._given: list[int] = [0] * len(self.categories)

    def add(self, item: Hashable, annotator: str, category: Hashable, *, role: str = "") -> None:
        """Count a judgment. Takes time in proportion to the annotators that the item has.

        Raises ValueError for an unknown category, and where the annotator has judged the item: see `replace`.
        """
        if category not in self._place:
            raise ValueError(f"category {category!r} is not one of {self.categories}")
        judged = self._items.setdefault(item, {})
        if annotator in judged:
            raise ValueError(f"{annotator!r} has judged {item!r} already; `replace` corrects a judgment")
        self._count(judged, annotator, self._place[category], role, 1)
        judged[annotator] = (self._place[category], role)

    def remove(self, item: Hashable, annotator: str) -> None:
        """Take a judgment back. Raises KeyError where there is none."""
        self._take(item, annotator)

    def replace(self, item: Hashable, annotator: str, category: Hashable, *, role: str | None = None) -> None:
        """Put a corrected judgment in the place of the annotator's earlier one; of the same role, unless one is given.

        Raises ValueError for an unknown category, KeyError where there is nothing to correct.
        """
        if category not in self._place:
            raise ValueError(f"category {category!r} is not one of {self.categories}")
        earlier_role = self._take(item, annotator)
        self.add(item, annotator, category, role=earlier_role if role is None else role)

    def category(self, item: Hashable, annotator: str) -> Hashable | None:
        """What the annotator said of the item; None for nothing."""
        judged = self._items.get(item, {}).get(annotator)
        return None if judged is None else self.categories[judged[0]]

    def categories_of(self, item: Hashable) -> list[Hashable]:
        """What everybody said of the item, in the order in which they were counted."""
        return [self.categories[place] for place, _ in self._items.get(item, {}).values()]

    @property
    def annotators(self) -> list[str]:
        """Everybody with a judgment, by name."""
        return sorted(self._judgments)

    @property
    def roles(self) -> list[str]:
        """All that have a judgment, by name."""
        return sorted(role for role, codes in self._of_role.items() if codes)

    @property
    def items(self) -> int:
        """Items with a judgment."""
        return len(self._items)

    @property
    def judgments(self) -> int:
        """All of them."""
        return sum(self._given)

    def judgments_of(self, annotator: str) -> int:
        """Judgments of one annotator; 0 for a stranger."""
        return self._judgments.get(annotator, 0)

    def distribution(self) -> dict[Hashable, int]:
        """Category -> judgments."""
        return dict(zip(self.categories, self._given, strict=True))

    def patterns(self, role: str | None = None, *, by: ClusterOf | None = None) -> Patterns:
        """Agreement of all annotators, or of those of one role among themselves.

        by  an item's cluster (its prompt, say), where items are not independent; goes over all items
        """
        if by is None:
            codes = self._patterns if role is None else self._of_role.get(role, {})
            return Patterns.of(self._decoded(codes), list(codes.values()))
        rows: list[int] = []
        clusters: list[Hashable] = []
        for item, judged in self._items.items():
            code = sum(self._unit[place] for place, theirs in judged.values() if role in (None, theirs))
            if code:
                rows.append(code)
                clusters.append(by(item))
        return Patterns.of(self._decoded(rows), clusters=_numbered(clusters))

    def between(self, one: str, other: str) -> Cross:
        """Two annotators, on the items that both have judged."""
        return Cross.of_confusion(self.confusion(one, other))

    def confusion(self, one: str, other: str) -> NDArray[np.int64]:
        """[K, K] items to which `one` gave the row and `other` the column."""
        kinds = len(self.categories)
        low, high = sorted((one, other))
        matrix = np.zeros((kinds, kinds), dtype=np.int64)
        for cell, number in self._pairs.get((low, high), {}).items():
            matrix[cell // kinds, cell % kinds] = number
        return matrix if one == low else matrix.T.copy()

    def has_met(self, annotator: str | None = None) -> bool:
        """Whether the annotator, or anybody, has judged an item that somebody else has judged too."""
        return bool(self._pairs) if annotator is None else bool(self._with_rest.get(annotator))

    def pairs(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(one, other), who have judged items together, by name -> (items on which they agree, items together)."""
        diagonal = len(self.categories) + 1
        return {
            pair: (sum(number for cell, number in cells.items() if cell % diagonal == 0), sum(cells.values()))
            for pair, cells in sorted(self._pairs.items())
        }

    def with_rest(self, annotator: str) -> Cross:
        """Each of the annotator's judgments (left) against each other judgment of the item (right)."""
        found = self._with_rest.get(annotator, {})
        mine = np.array([place for place, _ in found], dtype=np.int64)
        left = np.eye(len(self.categories), dtype=np.int64)[mine]
        return self._cross(left, self._decoded([rest for _, rest in found]), list(found.values()))

    def each_with_rest(self, *, by: ClusterOf) -> dict[str, Cross]:
        """`with_rest` of every annotator by name, with the clusters of the items; goes over all judgments once.

        by  an item's cluster (its prompt, say)
        """
        found: dict[str, list[tuple[int, int, Hashable]]] = {name: [] for name in self.annotators}
        for item, judged in self._items.items():
            whole, cluster = sum(self._unit[place] for place, _ in judged.values()), by(item)
            for name, (place, _) in judged.items():
                if len(judged) > 1:
                    found[name].append((self._unit[place], whole - self._unit[place], cluster))
        return {name: self._cross_of_items(rows) for name, rows in found.items()}

    def between_roles(self, one: str, other: str, *, by: ClusterOf | None = None) -> Cross:
        """Each judgment by role `one` (left) against each by role `other` of the item (right).

        by  an item's cluster (its prompt, say), where items are not independent; goes over all items

        Raises ValueError for a role against itself: those are `patterns(role)`.
        """
        if one == other:
            raise ValueError(f"role {one!r} against itself: use patterns({one!r})")
        if by is not None:
            rows = []
            for item, judged in self._items.items():
                mine, theirs = (sum(self._unit[p] for p, role in judged.values() if role == r) for r in (one, other))
                if mine and theirs:
                    rows.append((mine, theirs, by(item)))
            return self._cross_of_items(rows)
        low, high = sorted((one, other))
        found = self._between_roles.get((low, high), {})
        sides = [self._decoded([code[place] for code in found]) for place in (0, 1)]
        left, right = sides if one == low else sides[::-1]
        return self._cross(left, right, list(found.values()))

    def _take(self, item: Hashable, annotator: str) -> str:
        """Take a judgment back; returns its role."""
        judged = self._items.get(item, {})
        if annotator not in judged:
            raise KeyError(f"{annotator!r} has not judged {item!r}")
        place, role = judged.pop(annotator)
        self._count(judged, annotator, place, role, -1)
        if not judged:
            del self._items[item]
        return role

    def _count(self, judged: dict[str, tuple[int, str]], annotator: str, place: int, role: str, sign: int) -> None:
        """Bring the counts from an item without (judged) to with one judgment for sign 1, and back for -1."""
        before: dict[str, int] = {}
        for other, (theirs, their_role) in judged.items():
            before[their_role] = before.get(their_role, 0) + self._unit[theirs]
            self._count_pair(annotator, place, other, theirs, sign)
        whole, unit = sum(before.values()), self._unit[place]
        for other, (theirs, _) in judged.items():
            rest = whole - self._unit[theirs]
            _move(self._with_rest[other], (theirs, rest) if rest else None, (theirs, rest + unit), sign)
        if whole:
            _move(self._with_rest[annotator], None, (place, whole), sign)
        _move(self._patterns, whole or None, whole + unit, sign)
        self._count_roles(before, role, unit, sign)
        self._given[place] += sign
        _move(self._judgments, None, annotator, sign)

    def _count_pair(self, annotator: str, place: int, other: str, theirs: int, sign: int) -> None:
        kinds = len(self.categories)
        swap = other < annotator
        pair = (other, annotator) if swap else (annotator, other)
        cells = self._pairs.setdefault(pair, {})
        _move(cells, None, theirs * kinds + place if swap else place * kinds + theirs, sign)
        if not cells:
            del self._pairs[pair]

    def _count_roles(self, before: dict[str, int], role: str, unit: int, sign: int) -> None:
        mine = before.get(role, 0)
        _move(self._of_role[role], mine or None, mine + unit, sign)
        for other, theirs in before.items():
            if other == role:
                continue
            if role < other:
                old, new = (mine, theirs), (mine + unit, theirs)
            else:
                old, new = (theirs, mine), (theirs, mine + unit)
            pair = (role, other) if role < other else (other, role)
            _move(self._between_roles[pair], old if mine else None, new, sign)

    def _decoded(self, codes: Sequence[int] | Codes) -> NDArray[np.int64]:
        """[P, K] counts of pattern codes."""
        most = (1 << BITS) - 1
        rows = [[code >> (BITS * place) & most for place in range(len(self.categories))] for code in codes]
        return np.array(rows, dtype=np.int64).reshape(-1, len(self.categories))

    def _cross_of_items(self, rows: Sequence[tuple[int, int, Hashable]]) -> Cross:
        """Totals from (left code, right code, cluster) of each item."""
        left, right = self._decoded([row[0] for row in rows]), self._decoded([row[1] for row in rows])
        return Cross(left, right, np.ones(len(rows), dtype=np.int64), _numbered([row[2] for row in rows]))

    def _cross(self, left: NDArray[np.int64], right: NDArray[np.int64], weights: list[int]) -> Cross:
        """Items in a fixed order, so that sums round alike whatever the order of the judgments."""
        order = np.lexsort(np.concatenate([left, right], axis=1).T)
        return Cross(left[order], right[order], np.array(weights, dtype=np.int64)[order])


def _numbered(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)


def _move(counts: dict[Key, int], old: Key | None, new: Key, sign: int) -> None:
    """Move one item from `old` to `new`, or back for sign -1; None stands outside. A count of 0 is no entry."""
    source, target = (old, new) if sign > 0 else (new, old)
    if source is not None:
        left = counts[source] - 1
        if left:
            counts[source] = left
        else:
            del counts[source]
    if target is not None:
        counts[target] = counts.get(target, 0) + 1
