"""Handing in a judgment: kept whole, with what is learnt from it, before it is acknowledged; never twice."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from sqlalchemy import Connection, exists, not_, select, update

from plaudit.collect import assignment as assignments
from plaudit.collect import audit
from plaudit.collect.assignment import Assignment
from plaudit.collect.campaigns import Campaign, find_campaign
from plaudit.collect.kinds import KINDS, Answer, Derived, Said
from plaudit.errors import DataError, PlauditError
from plaudit.records import Prompt, content_id
from plaudit.store import Store, tables
from plaudit.store.database import PROMPT_COLUMNS, demonstration_row, insert_rows
from plaudit.timing import now

FLAGS = ("unsafe", "personal", "spam", "broken", "unclear")
MOST_COMMENT = 5_000
LONGEST_SUBMISSION = 64
_judgments = tables.judgments.c


class NotYours(PlauditError):
    """There is no such task in this annotator's hands."""


class TooLate(PlauditError):
    """The task was given to somebody else meanwhile, or was judged already."""


@dataclass(frozen=True)
class Submission:
    """One row of the log."""

    number: int
    id: str
    assignment: str
    task: str
    campaign: str
    annotator: str
    criterion: str
    kind: str
    answer: Answer | None
    shown: list[str]
    seconds: float | None
    comment: str
    flags: list[str]
    is_gold: bool
    is_right: bool | None
    guideline: str
    version: str
    submission: str
    supersedes: str | None
    created: str


def submit(
    store: Store,
    assignment: str,
    annotator: str,
    form: Mapping[str, Any],
    *,
    submission: str,
    seconds: float | None = None,
    comment: str = "",
    flags: Sequence[str] = (),
    at: float | None = None,
) -> Submission:
    """Keep a judgment, or the correction of one.

    form        the fields of the kind of task, by place (see `kinds`)
    submission  made by the page, once for each time that it is shown: the same one again gives the same judgment, and
                for another task none
    seconds     that the page was looked at; never more than the task was in hand
    at          seconds since 1970, now if None

    Raises DataError for an answer that cannot be, NotYours for a task of others, TooLate when the slot is gone or when
    another judgment than the newest would be corrected, or the submission is none of this task's.
    """
    at = time.time() if at is None else at
    with store.database.writing_in_turn() as connection:
        same = _by_submission(connection, annotator, submission)
        if same is not None and same.assignment == assignment:
            return same
        held = assignments.held_by(connection, assignment, annotator)
        if held is None:
            raise NotYours("There is no such task of yours.")
        if same is not None or not 1 <= len(submission) <= LONGEST_SUBMISSION:
            raise TooLate("This page was not made for this task. Load the page again.")
        campaign = find_campaign(connection, held.campaign)
        earlier = _hand_over(connection, held, campaign, at)
        answer = KINDS[campaign.kind].read(form, held.shown, campaign.settings.model_dump())
        task = connection.execute(select(tables.tasks).where(tables.tasks.c.id == held.task)).one()
        is_right = KINDS[campaign.kind].is_right
        row: dict[str, Any] = {
            "id": content_id(annotator, submission), "assignment": held.id, "task": held.task,
            "campaign": campaign.name, "annotator": annotator, "criterion": campaign.criterion, "kind": campaign.kind,
            "answer": answer, "shown": held.shown, "seconds": _seconds(seconds, at - held.created),
            "comment": _comment(comment), "flags": _flags(flags), "is_gold": task.gold is not None,
            "is_right": is_right(answer, task.gold) if task.gold is not None and is_right is not None else None,
            "guideline": campaign.guideline_id, "version": version("plaudit"), "submission": submission,
            "supersedes": earlier, "created": now(),
        }  # fmt: skip
        key = connection.execute(tables.judgments.insert().values(**row)).inserted_primary_key
        if task.gold is None:
            _learn(connection, campaign, row, task.prompt_id)
        digest = hashlib.sha256(json.dumps(row, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        audit.record(connection, annotator, "judgment", judgment=row["id"], sha256=digest)
        if row["is_gold"]:
            assignments.pause_if_gold_goes_wrong(connection, campaign, annotator)
        assert key is not None
        return Submission(number=key[0], **row)


def _hand_over(connection: Connection, held: Assignment, campaign: Campaign, at: float) -> str | None:
    """Mark the assignment as submitted; the judgment that a new one corrects, if it was submitted before."""
    if held.state == assignments.SUBMITTED:
        newest = newest_judgment(connection, held.annotator, campaign.name)
        if newest is None or newest.assignment != held.id:
            raise TooLate("Only the newest judgment can be corrected.")
        return newest.id
    if held.state == assignments.EXPIRED and not assignments.take_back(connection, held, campaign, at):
        raise TooLate("This task was not finished in time and has gone to somebody else.")
    leased = (tables.assignments.c.id == held.id, tables.assignments.c.state == assignments.LEASED)
    done = update(tables.assignments).where(*leased).values(state=assignments.SUBMITTED)
    if not connection.execute(done).rowcount:
        raise TooLate("This task was given back before.")
    return None


def newest_judgment(connection: Connection, annotator: str, campaign: str) -> Submission | None:
    """The one that `undo` opens again. The answers of a test stay as they are."""
    test = exists().where(tables.tasks.c.id == _judgments.task, tables.tasks.c.is_screening.is_(True))
    mine = (_judgments.annotator == annotator, _judgments.campaign == campaign, not_(test))
    query = select(tables.judgments).where(*mine).order_by(_judgments.number.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return None if row is None else Submission(**row)


def _by_submission(connection: Connection, annotator: str, submission: str) -> Submission | None:
    same = (_judgments.annotator == annotator, _judgments.submission == submission)
    row = connection.execute(select(tables.judgments).where(*same)).mappings().first()
    return None if row is None else Submission(**row)


def _learn(connection: Connection, campaign: Campaign, row: dict[str, Any], prompt_id: str) -> None:
    """Write what the stages learn from it, in the same transaction."""
    responses = tables.responses
    prompt = connection.execute(select(*PROMPT_COLUMNS).where(tables.prompts.c.id == prompt_id)).mappings().one()
    texts = connection.execute(select(responses.c.id, responses.c.text).where(responses.c.id.in_(row["shown"])))
    derived: Derived = KINDS[campaign.kind].derive(
        Said(
            Prompt(**prompt), row["shown"], row["answer"], campaign.name, campaign.criterion, row["annotator"],
            row["id"], row["seconds"], dict(texts.tuples().all()),
        )
    )  # fmt: skip
    insert_rows(connection, responses, [asdict(response) for response in derived.responses])
    for table, records in ((tables.comparisons, derived.comparisons), (tables.labels, derived.labels)):
        rows = [{**asdict(record), "id": record.id, "created": row["created"]} for record in records]
        insert_rows(connection, table, rows)
    insert_rows(connection, tables.demonstrations, [demonstration_row(d) for d in derived.demonstrations])


def _seconds(told: float | None, in_hand: float) -> float | None:
    return None if told is None or not math.isfinite(told) else round(min(max(told, 0.0), max(in_hand, 0.0)), 2)


def _comment(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\0", "").strip()
    if len(text) > MOST_COMMENT:
        raise DataError(f"the comment has {len(text)} characters; at most {MOST_COMMENT} are kept. Shorten it.")
    return text


def _flags(flags: Sequence[str]) -> list[str]:
    unknown = sorted(set(flags) - set(FLAGS))
    if unknown:
        raise DataError(f"unknown flag {unknown[0]!r}; known: {', '.join(FLAGS)}.")
    return sorted(set(flags))
