"""The annotator's pages: what there is to do, a task, and the way back."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, HTTPException
from sqlalchemy import Connection, func, select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from plaudit.collect import assignment as assignments
from plaudit.collect import judging
from plaudit.collect.assignment import Assignment, Screening, screening_of
from plaudit.collect.campaigns import Campaign, all_campaigns, find_campaign
from plaudit.collect.judging import FLAGS, NotYours, Submission, TooLate
from plaudit.collect.web.accounts import see
from plaudit.collect.web.rendering import page
from plaudit.collect.web.security import Annotator, field, form_of, store_of
from plaudit.errors import DataError
from plaudit.records import GRADES
from plaudit.store import Store, tables

router = APIRouter()
SKIP_REASONS = ("I do not know enough about this", "I would rather not read this", "The question makes no sense")
LETTERS = "ABCDEFGHI"
"""Labels of the answers on a page, in the order shown."""
_judgments = tables.judgments.c


@dataclass(frozen=True)
class Standing:
    """How a person stands in a campaign."""

    campaign: Campaign
    judged: int
    screening: Screening
    newest: Submission | None
    """The one that can be opened again."""


@dataclass(frozen=True)
class TaskView:
    """What a page shows of a task; nothing here says which model wrote what."""

    assignment: Assignment
    campaign: Campaign
    is_screening: bool
    number: int
    """Number of this person's task in the campaign; the test is counted by itself."""
    screening: Screening
    messages: list[dict[str, str]]
    texts: list[str]
    """The answers in the order shown."""
    newest: Submission | None
    """The one that can be opened again."""

    @property
    def earlier(self) -> Submission | None:
        """The judgment that this page corrects."""
        return self.newest if self.assignment.state == assignments.SUBMITTED else None


def standing(store: Store, annotator: str) -> list[Standing]:
    """The open campaigns, and those in which the person has worked."""
    with store.database.reading() as connection:
        counts: dict[str, int] = dict(
            connection.execute(
                select(_judgments.campaign, func.count())
                .where(_judgments.annotator == annotator, _judgments.supersedes.is_(None))
                .group_by(_judgments.campaign)
            )
            .tuples()
            .all()
        )
        return [
            Standing(
                campaign, counts.get(campaign.name, 0), screening_of(connection, campaign, annotator),
                judging.newest_judgment(connection, annotator, campaign.name),
            )
            for campaign in all_campaigns(connection)
            if campaign.is_open or counts.get(campaign.name)
        ]  # fmt: skip


def view(store: Store, assignment: str, annotator: str) -> TaskView:
    """Raises NotYours for a task that is not in this annotator's hands, or that was given back."""
    with store.database.reading() as connection:
        held = assignments.held_by(connection, assignment, annotator)
        if held is None or held.state == assignments.SKIPPED:
            raise NotYours("There is no such task of yours.")
        campaign = find_campaign(connection, held.campaign)
        task = connection.execute(select(tables.tasks).where(tables.tasks.c.id == held.task)).one()
        prompts, responses = tables.prompts.c, tables.responses.c
        messages = connection.scalar(select(prompts.messages).where(prompts.id == task.prompt_id))
        texts = dict(
            connection.execute(select(responses.id, responses.text).where(responses.id.in_(held.shown))).tuples().all()
        )
        newest = judging.newest_judgment(connection, annotator, campaign.name)
        is_again = held.state == assignments.SUBMITTED
        if is_again and (newest is None or newest.assignment != held.id):
            raise NotYours("Only the newest judgment can be opened again.")
        number = _count(connection, annotator, campaign.name, task.is_screening) + (not is_again)
        shown = [texts[response] for response in held.shown]
        screening = screening_of(connection, campaign, annotator)
    return TaskView(held, campaign, task.is_screening, number, screening, messages or [], shown, newest)


def _count(connection: Connection, annotator: str, campaign: str, is_screening: bool) -> int:
    """Judgments of the test, or of all else: what is corrected counts once."""
    given, tasks = tables.assignments.c, tables.tasks.c
    test = (tasks.campaign == campaign, tasks.gold.is_not(None), tasks.is_screening.is_(True))
    done = (given.annotator == annotator, given.state == assignments.SUBMITTED)
    of_test = select(func.count()).join(tables.tasks, tasks.id == given.task).where(*test, *done)
    in_test = connection.scalar(of_test) or 0
    if is_screening:
        return in_test
    mine = (_judgments.annotator == annotator, _judgments.campaign == campaign, _judgments.supersedes.is_(None))
    return (connection.scalar(select(func.count()).where(*mine)) or 0) - in_test


def _values(seen: TaskView, form: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the form is filled with: what was just sent, else the judgment to correct, else nothing."""
    if form is not None:
        return {name: form[name] for name in form}
    if seen.earlier is None or seen.earlier.answer is None:
        return {"text": seen.texts[0]} if seen.campaign.kind == "edit" else {}
    answer, shown = seen.earlier.answer, seen.assignment.shown
    values: dict[str, Any] = {"comment": seen.earlier.comment, "flags": seen.earlier.flags}
    if "choice" in answer:
        chosen = answer["choice"]
        values["verdict"] = f"{shown.index(chosen)}:{answer['grade']}" if chosen in shown else chosen
    for name, prefix in (("ranks", "rank"), ("ratings", "rating"), ("safe", "safe")):
        for place, response in enumerate(shown if name in answer else []):
            value = answer[name][response]
            values[f"{prefix}-{place}"] = str(value) if name != "safe" else "yes" if value else "no"
    return values | ({"text": answer["text"]} if "text" in answer else {})


def _task_page(
    request: Request, seen: TaskView, *, form: Mapping[str, Any] | None = None, error: str = "", status: int = 200
) -> Response:
    return page(
        request, "task.html", status, task=seen, values=_values(seen, form), error=error, flags=FLAGS, grades=GRADES,
        submission=secrets.token_urlsafe(16), reasons=SKIP_REASONS, letters=LETTERS,
    )  # fmt: skip


@router.get("/")
async def home(request: Request, session: Annotator) -> Response:
    """What there is to do."""
    found = await run_in_threadpool(standing, store_of(request), session.person.annotator)
    return page(request, "home.html", standing=found)


@router.get("/work/{campaign}")
async def work(request: Request, campaign: str, session: Annotator) -> Response:
    """The next task, or why there is none; of an arena the page to write on."""
    if campaign in request.app.state.arenas:
        return see(f"/arena/{campaign}")
    store, who = store_of(request), session.person.annotator
    try:
        held = await run_in_threadpool(assignments.claim, store, campaign, who)
    except DataError:
        raise HTTPException(404) from None
    if held is not None:
        return see(f"/task/{held.id}")
    found = await run_in_threadpool(standing, store, who)
    mine = next((one for one in found if one.campaign.name == campaign), None)
    if mine is None:
        raise HTTPException(404)
    return page(request, "nothing.html", mine=mine)


@router.get("/task/{assignment}")
async def task(request: Request, assignment: str, session: Annotator) -> Response:
    """One task."""
    try:
        seen = await run_in_threadpool(view, store_of(request), assignment, session.person.annotator)
    except NotYours:
        raise HTTPException(404) from None
    return _task_page(request, seen)


@router.post("/task/{assignment}")
async def hand_in(request: Request, assignment: str, session: Annotator) -> Response:
    """Keep the judgment, then go on with the next task."""
    form = await form_of(request, session)
    store, who = store_of(request), session.person.annotator
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    verdict, colon, grade = fields.get("verdict", "").partition(":")
    flags = [str(flag) for flag in form.getlist("flags")]
    try:
        kept = await run_in_threadpool(
            judging.submit, store, assignment, who,
            {**fields, "choice": verdict, **({"grade": grade} if colon else {})},
            submission=fields.get("submission", ""), seconds=_number(fields.get("seconds", "")),
            comment=fields.get("comment", ""), flags=flags,
        )  # fmt: skip
    except NotYours:
        raise HTTPException(404) from None
    except TooLate as error:
        written = [fields[name] for name in ("text", "comment") if fields.get(name)]
        return page(request, "wrong.html", 409, message=str(error), written=written)
    except DataError as error:
        seen = await run_in_threadpool(view, store, assignment, who)
        return _task_page(request, seen, form={**fields, "flags": flags}, error=str(error), status=422)
    arena = kept.campaign in request.app.state.arenas
    return see(f"/arena/{kept.campaign}?after={assignment}" if arena else f"/work/{kept.campaign}")


def _number(text: str) -> float | None:
    try:
        return min(float(text), 1e6) if text and len(text) < 20 else None
    except ValueError:
        return None


@router.post("/task/{assignment}/skip")
async def skip(request: Request, assignment: str, session: Annotator) -> Response:
    """Give the task back for good, then go on with the next."""
    form = await form_of(request, session)
    store, who = store_of(request), session.person.annotator
    try:
        seen = await run_in_threadpool(view, store, assignment, who)
        flags = [flag for flag in FLAGS if flag in form.getlist("flags")]
        reason = "; ".join(said for said in [*flags, field(form, "reason")[:500]] if said)
        given_back = await run_in_threadpool(assignments.skip, store, assignment, who, reason)
    except NotYours:
        raise HTTPException(404) from None
    except DataError as error:
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return _task_page(request, seen, form={**fields, "flags": form.getlist("flags")}, error=str(error), status=422)
    if not given_back:
        raise HTTPException(409, "This task is not in your hands any more.")
    return see(f"/work/{seen.campaign.name}")


@router.post("/task/{assignment}/renew")
async def renew(request: Request, assignment: str, session: Annotator) -> Response:
    """The page is still open: hold the task longer."""
    await form_of(request, session)
    held = await run_in_threadpool(assignments.renew, store_of(request), assignment, session.person.annotator)
    return Response(status_code=204 if held else 410)


@router.post("/undo/{campaign}")
async def undo(request: Request, campaign: str, session: Annotator) -> Response:
    """Open the newest judgment again; it stands until another one is submitted."""
    await form_of(request, session)

    def newest() -> Submission | None:
        with store_of(request).database.reading() as connection:
            return judging.newest_judgment(connection, session.person.annotator, campaign)

    found = await run_in_threadpool(newest)
    if found is None:
        raise HTTPException(404, "There is nothing to take back here.")
    return see(f"/task/{found.assignment}")


@router.get("/mine/{campaign}")
async def mine(request: Request, campaign: str, session: Annotator) -> Response:
    """One's own judgments, the newest first."""

    def read() -> tuple[Campaign, list[Submission], Submission | None]:
        with store_of(request).database.reading() as connection:
            found = find_campaign(connection, campaign)
            own = (_judgments.annotator == session.person.annotator, _judgments.campaign == campaign)
            query = select(tables.judgments).where(*own).order_by(_judgments.number.desc()).limit(200)
            rows = connection.execute(query).mappings().all()
            newest = judging.newest_judgment(connection, session.person.annotator, campaign)
            return found, [Submission(**row) for row in rows], newest

    try:
        found, judgments, newest = await run_in_threadpool(read)
    except DataError:
        raise HTTPException(404) from None
    replaced = {judgment.supersedes for judgment in judgments}
    return page(
        request, "mine.html", campaign=found, judgments=judgments, newest=newest, replaced=replaced, grades=GRADES,
        letters=LETTERS,
    )  # fmt: skip


@dataclass(frozen=True)
class Explained:
    """A task of the test, once all of it has been answered."""

    question: str
    is_right: bool
    explanation: str


def answers_of_test(store: Store, campaign: str, annotator: str) -> list[Explained] | None:
    """What became of one's test; None before its end: nobody shall learn from half of it for the other half."""
    with store.database.reading() as connection:
        found = find_campaign(connection, campaign)
        standing = screening_of(connection, found, annotator)
        if not standing.answered or standing.answered < standing.tasks:
            return None
        tasks, prompts = tables.tasks.c, tables.prompts.c
        query = (
            select(prompts.messages, tasks.explanation, _judgments.is_right)
            .join(tables.tasks, tasks.id == _judgments.task)
            .join(tables.prompts, prompts.id == tasks.prompt_id)
            .where(_judgments.annotator == annotator, _judgments.campaign == campaign, tasks.is_screening.is_(True))
            .where(_judgments.supersedes.is_(None))
            .order_by(_judgments.number)
        )
        rows = connection.execute(query).tuples().all()
    return [Explained(messages[-1]["content"], bool(right), text) for messages, text, right in rows]


@router.get("/test/{campaign}")
async def results(request: Request, campaign: str, session: Annotator) -> Response:
    """One's own test with what is explained about it, once it is over."""
    try:
        answers = await run_in_threadpool(answers_of_test, store_of(request), campaign, session.person.annotator)
    except DataError:
        raise HTTPException(404) from None
    if answers is None:
        raise HTTPException(404, "The results are shown once the whole test has been answered.")
    return page(request, "test.html", campaign=campaign, answers=answers)
