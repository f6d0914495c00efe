"""What a researcher sees of a campaign, kept up to date judgment by judgment: nothing is counted twice."""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, select

from plaudit.collect.campaigns import Campaign
from plaudit.collect.head_to_head import HeadToHead
from plaudit.statistics.agreement import CHOICES, SCALE
from plaudit.statistics.biases import drift, position_bias
from plaudit.statistics.coefficients import Cross, cross_coefficients, nominal_coefficients, ordinal_coefficients
from plaudit.statistics.intervals import rate
from plaudit.statistics.tally import Tally
from plaudit.store import Store, tables

ROWS_AT_ONCE = 5_000
FRESH_SECONDS = 5.0
"""Figures are computed anew no more often than this,"""
REST = 10
"""nor than after so many times as long as it took, and behind the page where it took longer than"""
MOST_SECONDS = 0.1
MOST_BY_PROMPT = 20_000
"""Judged items up to which intervals of agreement are by prompts, which goes over every item; of more, by items."""
MOST_RECENT = 200
_columns = tables.judgments.c
READ = (
    "number", "task", "annotator", "kind", "answer", "shown", "seconds", "comment", "flags", "is_gold", "is_right",
    "supersedes", "created",
)  # fmt: skip
"""Columns that are counted, or shown beside the figures."""


@dataclass
class Person:
    """What is counted of one annotator in a campaign."""

    judgments: int = 0
    seconds: array[float] = field(default_factory=lambda: array("f"))
    gold: list[bool] = field(default_factory=list)
    agreed: array[float] = field(default_factory=lambda: array("f"))
    """Agreement with those who had judged the same before, in order of time: 1 where half of them or more said the
    same."""
    first: int = 0
    second: int = 0
    last: str = ""


class Figures:
    """Live figures of one campaign. Safe to use from several threads."""

    def __init__(self, campaign: Campaign, roles: dict[str, str]):
        self.campaign = campaign
        self._roles = roles
        low, high = campaign.settings.scale
        categories: dict[str, tuple[Any, ...]] = {
            "compare": CHOICES, "rank": CHOICES, "rate": tuple(range(low, high + 1)), "safety": (True, False),
        }  # fmt: skip
        self.tally = Tally(categories[campaign.kind]) if campaign.kind in categories else None
        self.graded = Tally(SCALE) if campaign.kind == "compare" else None
        self.people: dict[str, Person] = defaultdict(Person)
        self._prompts: dict[str, str] = {}
        """Task -> its prompt."""
        self.hours: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.recent: list[dict[str, Any]] = []
        self.head_to_head = HeadToHead(campaign.settings.people_per_task)
        self._last = 0
        self._turn = threading.Lock()
        self._cached: tuple[float, int, dict[str, Any], float] | None = None
        """(when it was computed, the newest judgment in it, the figures, how long each judgment took)."""
        self._computing: threading.Thread | None = None

    @property
    def judgments(self) -> int:
        """Counted so far, corrections and gold among them."""
        return sum(person.judgments for person in list(self.people.values()))  # another thread may be counting

    def catch_up(self, store: Store, *, most: int | None = None) -> bool:
        """Count what has come since; False when there is more than `most`. Others may ask in between."""
        counted = 0
        while True:
            with self._turn:
                with store.database.reading() as connection:
                    rows = self._next(connection)
                    policies = self._policies(connection, rows) if self.campaign.kind == "compare" else {}
                for row in rows:
                    self._count(row, policies)
            counted += len(rows)
            if len(rows) < ROWS_AT_ONCE:
                return True
            if most is not None and counted >= most:
                return False

    def _next(self, connection: Connection) -> list[Row[Any]]:
        new = (_columns.campaign == self.campaign.name, _columns.number > self._last)
        query = (
            select(*(_columns[name] for name in READ), tables.tasks.c.prompt_id, tables.tasks.c.is_screening)
            .join(tables.tasks, tables.tasks.c.id == _columns.task)
            .where(*new)
            .order_by(_columns.number)
            .limit(ROWS_AT_ONCE)
        )
        rows: list[Row[Any]] = list(connection.execute(query).all())  # type: ignore[arg-type]
        return rows

    def _policies(self, connection: Connection, rows: list[Row[Any]]) -> dict[str, str]:
        """Response -> the run that it comes from."""
        ids = {response for row in rows for response in row.shown}
        columns = tables.responses.c
        return dict(connection.execute(select(columns.id, columns.run).where(columns.id.in_(ids))).tuples().all())

    def _count(self, row: Row[Any], policies: dict[str, str]) -> None:
        self._last = row.number
        person = self.people[row.annotator]
        corrects = row.supersedes is not None
        person.last = row.created
        if row.comment or row.flags:
            self.recent = [*self.recent, dict(row._mapping)][-MOST_RECENT:]
            self.flags.update(row.flags)
        if not corrects:
            person.judgments += 1
            self.hours[row.created[:13]] += 1
            if row.seconds is not None:
                person.seconds.append(row.seconds)
        if row.is_gold:
            if row.is_right is not None and not row.is_screening and not corrects:
                person.gold.append(row.is_right)
            return
        if row.answer is None:
            return
        if row.kind == "compare" and not corrects:
            person.first += row.answer["choice"] == row.shown[0]
            person.second += row.answer["choice"] == row.shown[1]
        self._prompts[row.task] = row.prompt_id
        for item, category in _categories(row):
            self._put(self.tally, item, row.annotator, category, None if corrects else person)
        if self.graded is not None:
            self._put(self.graded, row.task, row.annotator, _point(row), None)
        self._compete(row, policies)

    def _put(self, tally: Tally | None, item: Any, annotator: str, category: Any, person: Person | None) -> None:
        if tally is None:
            return
        if tally.category(item, annotator) is not None:
            tally.replace(item, annotator, category)
            return
        if person is not None:
            others = tally.categories_of(item)
            if others:
                person.agreed.append(float(2 * sum(other == category for other in others) >= len(others)))
        tally.add(item, annotator, category, role=self._roles.get(annotator, "annotator"))

    def _compete(self, row: Row[Any], policies: dict[str, str]) -> None:
        if row.kind != "compare":
            return
        one, other = (policies[response] for response in row.shown)
        if one == other:
            return
        choice = row.answer["choice"]
        score = 1.0 if choice == row.shown[0] else 0.0 if choice == row.shown[1] else 0.5
        self.head_to_head.put(row.task, row.prompt_id, row.annotator, (one, other), score)

    def summary(self, *, at: float | None = None) -> dict[str, Any]:
        """All figures, at most `FRESH_SECONDS` old; where much has been judged, older by what it takes to compute them.

        agreement   coefficients with intervals, of all; `graded` on the nine-point scale or the rating scale;
                    `researchers` against annotators; None where nothing was judged twice
        people      by annotator: judgments, median seconds, gold accuracy, agreement with the others, position, drift
        position    share of decided comparisons that chose the answer shown first
        matches     of policies that were set against each other
        """
        at = time.monotonic() if at is None else at
        cached = self._cached
        if cached is None:
            return self._renew(at)
        computed, last, found, each = cached
        took = each * self.judgments
        if last == self._last or at - computed < max(FRESH_SECONDS, REST * took):
            return found
        if took < MOST_SECONDS:
            if not self._turn.acquire(timeout=MOST_SECONDS):  # much is being counted
                return found
            self._turn.release()
            return self._renew(at)
        if self._computing is None or not self._computing.is_alive():
            self._computing = threading.Thread(target=self._renew, args=(at,), daemon=True)
            self._computing.start()
        return found

    def _renew(self, at: float) -> dict[str, Any]:
        with self._turn:
            began = time.monotonic()
            found = self._compute()
            self._cached = (at, self._last, found, (time.monotonic() - began) / max(1, self.judgments))
            return found

    def _compute(self) -> dict[str, Any]:
        everybody, crosses = list(self.people.values()), self._crosses()
        return {
            "judgments": self.judgments,
            "median_seconds": _median(*(person.seconds for person in everybody)),
            "hours": sorted(self.hours.items())[-48:],
            "flags": self.flags.most_common(),
            "position": position_bias(sum(p.first for p in everybody), sum(p.second for p in everybody)),
            "agreement": self._agreement(),
            "people": {name: self._person(name, crosses.get(name)) for name in sorted(self.people)},
            "matches": self.head_to_head.matches(),
            "strengths": self.head_to_head.strengths(),
        }

    def _agreement(self) -> dict[str, Any] | None:
        if self.tally is None or not self.tally.has_met():
            return None
        by = self._prompt if self.tally.items <= MOST_BY_PROMPT else None
        found = nominal_coefficients(self.tally.patterns(by=by).used())  # as `plaudit agreement` has it
        ordered = self.graded if self.graded is not None else self.tally if self.campaign.kind == "rate" else None
        found["graded"] = ordinal_coefficients(ordered.patterns(by=by)) if ordered is not None else None
        both = {"researcher", "annotator"} <= set(self.tally.roles)
        cross = self.tally.between_roles("researcher", "annotator", by=by) if both else None
        found["researchers"] = cross_coefficients(cross) if cross is not None else None
        return found

    def _prompt(self, item: Any) -> str:
        """Counts of a task, or of what is judged within one."""
        return self._prompts[item if isinstance(item, str) else item[0]]

    def _crosses(self) -> dict[str, Cross]:
        """Each annotator's judgments against the others', of those who have met any."""
        if self.tally is None:
            return {}
        met = [name for name in self.tally.annotators if self.tally.has_met(name)]
        if self.tally.items > MOST_BY_PROMPT:
            return {name: self.tally.with_rest(name) for name in met}
        found = self.tally.each_with_rest(by=self._prompt)
        return {name: found[name] for name in met}

    def _person(self, name: str, cross: Cross | None) -> dict[str, Any]:
        person = self.people[name]
        rest = cross_coefficients(cross) if cross is not None else None
        return {
            "role": self._roles.get(name, "annotator"),
            "judgments": person.judgments,
            "median_seconds": _median(person.seconds),
            "gold": rate(sum(person.gold), len(person.gold)) if person.gold else None,
            "agreement": None if rest is None else rest["raw"],
            "kappa": None if rest is None else rest["cohen"],
            "position": position_bias(person.first, person.second),
            "drift": drift(person.agreed, window=min(100, max(1, len(person.agreed) // 3))) if person.agreed else None,
            "last": person.last,
        }


def _median(*parts: array[float]) -> float | None:
    """Sum of all numbers, rounded as they are kept."""
    together = np.concatenate([np.asarray(part, dtype=np.float32) for part in parts]) if parts else np.empty(0)
    return round(float(np.median(together)), 3) if len(together) else None


def _categories(row: Row[Any]) -> Iterator[tuple[Any, Any]]:
    """(item, category) of a judgment; pairs in the order of their ids, whatever was shown."""
    answer = row.answer
    if row.kind == "compare":
        low, high = sorted(row.shown)
        yield row.task, {low: "first", high: "second"}.get(answer["choice"], "tie")
    elif row.kind == "rank":
        for low, high in combinations(sorted(row.shown), 2):
            gap = answer["ranks"][high] - answer["ranks"][low]
            yield (row.task, low, high), "first" if gap > 0 else "second" if gap < 0 else "tie"
    elif row.kind in ("rate", "safety"):
        values = answer["ratings" if row.kind == "rate" else "safe"]
        for response in row.shown:
            yield (row.task, response), values[response]


def _point(row: Row[Any]) -> Any:
    """Grade on the nine-point scale, by the order of the ids."""
    low, high = sorted(row.shown)
    choice, grade = row.answer["choice"], row.answer.get("grade")
    if choice not in (low, high):
        return SCALE[4]
    return SCALE[4 - grade] if choice == low else SCALE[4 + grade]


class AllFigures:
    """Live figures of every campaign of a store, made when first asked for."""

    def __init__(self, store: Store):
        self._store = store
        self._turn = threading.Lock()
        self._found: dict[str, Figures] = {}
        self._counting: dict[str, threading.Thread] = {}

    def of(self, campaign: Campaign) -> tuple[Figures, bool]:
        """The figures, and whether they are up to date; where very much is new it is counted behind the page."""
        with self._turn:
            figures = self._found.get(campaign.name)
            if figures is None:
                figures = self._found[campaign.name] = Figures(campaign, self._roles())
            counting = self._counting.get(campaign.name)
        if counting is not None and counting.is_alive():
            return figures, False
        if figures.catch_up(self._store, most=ROWS_AT_ONCE):
            return figures, True
        with self._turn:
            thread = threading.Thread(target=figures.catch_up, args=(self._store,), daemon=True)
            self._counting[campaign.name] = thread
            thread.start()
        return figures, False

    def _roles(self) -> dict[str, str]:
        accounts = tables.accounts.c
        with self._store.database.reading() as connection:
            rows = connection.execute(select(accounts.annotator, accounts.role)).tuples().all()
        return {annotator: "researcher" if role != "annotator" else role for annotator, role in rows}
