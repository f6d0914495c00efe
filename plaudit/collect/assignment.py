"""Who gets which task: each to as many people as were asked for, never twice to one, never one slot to two.

A task has slots, one for each person who shall judge it. A slot is leased, and the lease expires when nobody works on
it. Two unique indexes make the promise true whatever this code does: a task and an annotator meet in one row, and a
slot has one row that is leased or submitted.
"""

from __future__ import annotations

import secrets
import time
import zlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)

from plaudit.collect import audit
from plaudit.collect.campaigns import Campaign, find_campaign
from plaudit.errors import DataError
from plaudit.records import unit_interval
from plaudit.statistics.intervals import Interval, rate
from plaudit.store import Store, tables
from plaudit.store.engine import lock
from plaudit.store.standing import decided, excluded_ids
from plaudit.timing import now

LEASED, SUBMITTED, SKIPPED, EXPIRED = "leased", "submitted", "skipped", "expired"
_tasks, _assignments, _judgments = tables.tasks.c, tables.assignments.c, tables.judgments.c


@dataclass(frozen=True)
class Assignment:
    """A task in somebody's hands."""

    id: str
    task: str
    campaign: str
    annotator: str
    slot: int | None
    state: str
    shown: list[str]
    created: float
    expires: float
    reason: str | None


@dataclass(frozen=True)
class Screening:
    """How somebody stands with the test before the work."""

    tasks: int
    """How many there are to answer; 0 for no test."""
    right: int
    answered: int
    is_admitted: bool
    """May work now."""
    reason: str
    """Why not, or by what; empty without a test."""

    @property
    def interval(self) -> Interval | None:
        """Standard error of the accuracy; None before the first answer."""
        return rate(self.right, self.answered) if self.answered else None


def claim(store: Store, campaign: str, annotator: str, *, at: float | None = None) -> Assignment | None:
    """The next task for somebody, or the one in hand; None when there is none for them.

    at   seconds since 1970, now if None

    First the test, then now and then gold, else open work: by `random_share` from the part set apart by chance,
    otherwise what has the highest priority.
    """
    at = time.time() if at is None else at
    with store.database.writing() as connection:
        lock(connection, zlib.crc32(annotator.encode()))  # two requests of one person at once get one task
        _sweep(connection, at)
        found = find_campaign(connection, campaign)
        held = _held(connection, found, annotator, at)
        if held is not None:
            return held
        if not found.is_open:
            return None
        if _is_researcher(connection, annotator):
            take = _take_check if found.settings.researchers_check else _take_work
            return take(connection, found, annotator, at)
        screening = screening_of(connection, found, annotator)
        if screening.answered < screening.tasks:
            return _take_gold(connection, found, annotator, at, screening=True)
        if not screening.is_admitted:
            return None
        return _take_work(connection, found, annotator, at)


def _held(connection: Connection, campaign: Campaign, annotator: str, at: float) -> Assignment | None:
    mine = and_(
        _assignments.annotator == annotator, _assignments.campaign == campaign.name, _assignments.state == LEASED
    )
    row = connection.execute(select(tables.assignments).where(mine).order_by(_assignments.created)).mappings().first()
    return None if row is None else _renewed(connection, Assignment(**row), campaign, at)


def _renewed(connection: Connection, assignment: Assignment, campaign: Campaign, at: float) -> Assignment:
    expires = at + 60 * campaign.settings.lease_minutes
    connection.execute(update(tables.assignments).where(_assignments.id == assignment.id).values(expires=expires))
    return Assignment(**{**vars(assignment), "expires": expires})


def renew(store: Store, assignment: str, annotator: str, *, at: float | None = None) -> bool:
    """Hold a task longer; False when it is no longer held by this annotator."""
    at = time.time() if at is None else at
    with store.database.writing() as connection:
        found = held_by(connection, assignment, annotator)
        if found is None or found.state != LEASED or found.expires < at:
            return False
        _renewed(connection, found, find_campaign(connection, found.campaign), at)
        return True


def held_by(connection: Connection, assignment: str, annotator: str) -> Assignment | None:
    """An assignment, if it is this annotator's: nobody learns even that others exist."""
    mine = and_(_assignments.id == assignment, _assignments.annotator == annotator)
    row = connection.execute(select(tables.assignments).where(mine)).mappings().first()
    return None if row is None else Assignment(**row)


def _sweep(connection: Connection, at: float) -> None:
    """Give back the slots of leases that have run out."""
    late = select(tables.assignments).where(_assignments.state == LEASED, _assignments.expires < at)
    for row in connection.execute(late.with_for_update(skip_locked=True)).mappings().all():
        free(connection, Assignment(**row), EXPIRED)


def free(connection: Connection, assignment: Assignment, state: str, reason: str | None = None) -> None:
    """End an assignment without a judgment, and give its slot back."""
    ended = update(tables.assignments).where(_assignments.id == assignment.id, _assignments.state == LEASED)
    if connection.execute(ended.values(state=state, reason=reason)).rowcount and assignment.slot is not None:
        connection.execute(
            update(tables.tasks).where(_tasks.id == assignment.task).values(open_slots=_tasks.open_slots + 1)
        )


def skip(store: Store, assignment: str, annotator: str, reason: str) -> bool:
    """Give a task back for good; somebody else will get it. False when it is not in this annotator's hands.

    Raises DataError for a task of the test before the work, which cannot be skipped.
    """
    with store.database.writing_in_turn() as connection:
        found = held_by(connection, assignment, annotator)
        if found is None or found.state != LEASED:
            return False
        if connection.scalar(select(_tasks.is_screening).where(_tasks.id == found.task)):
            raise DataError("a task of the test cannot be skipped; answer as well as you can.")
        free(connection, found, SKIPPED, reason)
        audit.record(connection, annotator, "task skipped", assignment=assignment, task=found.task, reason=reason)
        return True


def _take_work(connection: Connection, campaign: Campaign, annotator: str, at: float) -> Assignment | None:
    settings = campaign.settings
    if settings.gold_every and secrets.randbelow(settings.gold_every) == 0:
        gold = _take_gold(connection, campaign, annotator, at, screening=False)
        if gold is not None:
            return gold
    by_chance = secrets.randbelow(1_000_000) < 1_000_000 * settings.random_share
    for is_random in (by_chance, not by_chance):
        task = _open_task(connection, campaign, annotator, is_random)
        if task is not None:
            return lease(connection, campaign, annotator, at, task, _free_slot(connection, campaign, task.id))
    return None


def _is_researcher(connection: Connection, annotator: str) -> bool:
    role = connection.scalar(select(tables.accounts.c.role).where(tables.accounts.c.annotator == annotator))
    return role is not None and role != "annotator"


def _take_check(connection: Connection, campaign: Campaign, annotator: str, at: float) -> Assignment | None:
    """A task that an annotator has judged, in random order; it takes no slot from anybody."""
    judged = exists().where(_assignments.task == _tasks.id, _assignments.state == SUBMITTED)
    mine = select(tables.tasks).where(
        _tasks.campaign == campaign.name, _tasks.gold.is_(None), judged, _unmet(annotator), *_kept(connection)
    )
    task = connection.execute(mine.order_by(_tasks.draw).limit(1)).first()
    return None if task is None else lease(connection, campaign, annotator, at, task, None)


def _open_task(connection: Connection, campaign: Campaign, annotator: str, is_random: bool) -> Row[Any] | None:
    open_to_me = select(tables.tasks).where(
        _tasks.campaign == campaign.name, _tasks.open_slots > 0, _tasks.is_random == is_random, _unmet(annotator),
        *_kept(connection),
    )  # fmt: skip
    first = open_to_me.order_by(_tasks.priority.desc(), _tasks.draw.desc()).limit(1)
    return connection.execute(first.with_for_update(skip_locked=True)).first()


def _kept(connection: Connection) -> list[Any]:
    """Conditions that neither the prompt of a task nor one of its responses is excluded; none where nothing is."""
    kinds = set(connection.scalars(select(tables.exclusion_members.c.kind).distinct()))
    conditions: list[Any] = []
    if "prompts" in kinds:
        conditions.append(_tasks.prompt_id.not_in(excluded_ids("prompts")))
    if "responses" in kinds:
        gone = excluded_ids("responses").subquery()
        named = cast(_tasks.responses, Text).contains(literal('"') + gone.c.id + '"')
        conditions.append(not_(exists(select(gone.c.id).where(named))))
    return conditions


def _unmet(annotator: str) -> Any:
    """A task that the annotator has not had; one whose lease ran out may come again."""
    met = and_(_assignments.task == _tasks.id, _assignments.annotator == annotator, _assignments.state != EXPIRED)
    return not_(exists().where(met))


def _free_slot(connection: Connection, campaign: Campaign, task: str) -> int:
    taken = select(_assignments.slot).where(_assignments.task == task, _assignments.state.in_((LEASED, SUBMITTED)))
    used = set(connection.scalars(taken))
    return min(set(range(campaign.settings.people_per_task)) - used)


def _take_gold(
    connection: Connection, campaign: Campaign, annotator: str, at: float, *, screening: bool
) -> Assignment | None:
    golden = select(tables.tasks).where(
        _tasks.campaign == campaign.name, _tasks.gold.is_not(None), _tasks.is_screening == screening, _unmet(annotator),
        *_kept(connection),
    )  # fmt: skip
    tasks = connection.execute(golden).all()
    if not tasks:
        return None
    # In an order of each annotator's own, so that nobody can tell gold by when it comes.
    task = min(tasks, key=lambda task: unit_interval("gold", annotator, task.id))
    return lease(connection, campaign, annotator, at, task, None)


def lease(
    connection: Connection, campaign: Campaign, annotator: str, at: float, task: Row[Any], slot: int | None
) -> Assignment:
    """Put a task into somebody's hands, in an order of answers of their own; the caller has seen that it is free."""
    shown = sorted(task.responses, key=lambda response: unit_interval("order", annotator, task.id, response))
    values = {
        "annotator": annotator, "task": task.id, "campaign": campaign.name, "slot": slot, "state": LEASED,
        "shown": shown, "created": at, "expires": at + 60 * campaign.settings.lease_minutes, "reason": None,
    }  # fmt: skip
    mine = and_(_assignments.task == task.id, _assignments.annotator == annotator)
    again = connection.execute(
        update(tables.assignments).where(mine, _assignments.state == EXPIRED).values(**values)
    ).rowcount
    if not again:
        connection.execute(tables.assignments.insert().values(id=secrets.token_urlsafe(20), **values))
    if slot is not None:
        connection.execute(update(tables.tasks).where(_tasks.id == task.id).values(open_slots=_tasks.open_slots - 1))
    return Assignment(**connection.execute(select(tables.assignments).where(mine)).mappings().one())


def take_back(connection: Connection, assignment: Assignment, campaign: Campaign, at: float) -> bool:
    """Lease an assignment again whose time ran out while it was worked on; False when its slot has gone to another."""
    if assignment.state != EXPIRED:
        return False
    slot = None
    if assignment.slot is not None:
        task = select(tables.tasks).where(_tasks.id == assignment.task, _tasks.open_slots > 0).with_for_update()
        if connection.execute(task).first() is None:
            return False
        slot = _free_slot(connection, campaign, assignment.task)
        connection.execute(
            update(tables.tasks).where(_tasks.id == assignment.task).values(open_slots=_tasks.open_slots - 1)
        )
    values = {"state": LEASED, "slot": slot, "expires": at + 60 * campaign.settings.lease_minutes}
    connection.execute(update(tables.assignments).where(_assignments.id == assignment.id).values(**values))
    return True


def _of_test(campaign: Campaign) -> tuple[ColumnElement[bool], ...]:
    return (_tasks.campaign == campaign.name, _tasks.gold.is_not(None), _tasks.is_screening.is_(True))


def length_of_test(connection: Connection, campaign: Campaign) -> int:
    """How many tasks the test before the work has."""
    there = connection.scalar(select(func.count()).where(*_of_test(campaign))) or 0
    return min(there, campaign.settings.screening_tasks)


def counts_of_test(
    connection: Connection, campaign: Campaign, annotator: str | None = None
) -> dict[str, tuple[int, int]]:
    """Annotator -> (right, answered) of the test, by the first answer to each task; of one person, or of all."""
    mine = () if annotator is None else (_judgments.annotator == annotator,)
    right = func.sum(case((_judgments.is_right.is_(True), 1), else_=0))
    query = (
        select(_judgments.annotator, right, func.count())
        .join(tables.tasks, _tasks.id == _judgments.task)
        .where(*_of_test(campaign), _judgments.supersedes.is_(None), *mine)
        .group_by(_judgments.annotator)
    )
    return {who: (int(good), answered) for who, good, answered in connection.execute(query).tuples()}


def has_passed(campaign: Campaign, right: int, answered: int) -> bool:
    """Whether enough of what was answered of the test is right."""
    return right >= campaign.settings.pass_mark * answered


def screening_of(connection: Connection, campaign: Campaign, annotator: str) -> Screening:
    """How an annotator stands with a campaign's test, by the first answer to each of its tasks.

    A researcher's decision goes before the test, and before the pause that bad gold brings.
    """
    tasks = length_of_test(connection, campaign)
    right, answered = counts_of_test(connection, campaign, annotator).get(annotator, (0, 0)) if tasks else (0, 0)
    if _is_researcher(connection, annotator):
        return Screening(0, right, answered, True, "")
    decisions = decided(connection, "admission")
    decision = decisions.get((annotator, campaign.name), decisions.get((annotator, "")))
    if decision is not None:
        # Told to work without the test: none is left to answer.
        tasks = min(tasks, answered) if decision else tasks
        return Screening(tasks, right, answered, decision, "decision")
    passed = answered >= tasks and (not tasks or has_passed(campaign, right, answered))
    return Screening(tasks, right, answered, passed, "test" if tasks else "")


def pause_if_gold_goes_wrong(connection: Connection, campaign: Campaign, annotator: str) -> bool:
    """Stop somebody whose newest gold answers are too often wrong to be chance; a researcher may admit them again.

    Paused when the upper end of the 95 % interval of the last `pause_window` answers is below `pause_below`.
    """
    since = select(func.max(tables.decisions.c.created)).where(
        tables.decisions.c.annotator == annotator,
        tables.decisions.c.about == "admission",
        or_(tables.decisions.c.campaign == campaign.name, tables.decisions.c.campaign == ""),
    )
    newest = (
        select(_judgments.is_right)
        .join(tables.tasks, _tasks.id == _judgments.task)
        .where(
            _judgments.annotator == annotator, _judgments.campaign == campaign.name, _judgments.is_gold.is_(True),
            _tasks.is_screening.is_(False), _judgments.supersedes.is_(None),
            _judgments.created > func.coalesce(since.scalar_subquery(), ""),
        )
        .order_by(_judgments.number.desc())
        .limit(campaign.settings.pause_window)
    )  # fmt: skip
    results = [bool(result) for result in connection.scalars(newest)]
    high = rate(sum(results), len(results))["high"] if results else None
    if high is None or high >= campaign.settings.pause_below:
        return False
    reason = f"{sum(results)} of the newest {len(results)} gold tasks right"
    connection.execute(
        tables.decisions.insert().values(
            annotator=annotator, about="admission", campaign=campaign.name, is_included=False, reason=reason,
            decided_by="plaudit", created=now(),
        )
    )  # fmt: skip
    audit.record(connection, "plaudit", "annotator paused", annotator=annotator, campaign=campaign.name, reason=reason)
    return True
