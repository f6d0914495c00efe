"""The researcher's pages: how the work goes, whose judgments count, and who may log in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from sqlalchemy import Connection, func, select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from plaudit.collect import people
from plaudit.collect.assignment import counts_of_test, has_passed, length_of_test
from plaudit.collect.campaigns import Campaign, all_campaigns, find_campaign, set_open
from plaudit.collect.figures import AllFigures
from plaudit.collect.people import ROLES, Person
from plaudit.collect.progress import Progress, progress_of
from plaudit.collect.web.accounts import see
from plaudit.collect.web.rendering import page
from plaudit.collect.web.security import Admin, Researcher, field, form_of, store_of
from plaudit.errors import DataError
from plaudit.store import Store, tables
from plaudit.store.database import decided

router = APIRouter()


@dataclass(frozen=True)
class Tested:
    """Questions of the test before the work."""

    right: int
    answered: int
    state: str
    """passed, failed or going on; whatever was decided afterwards."""


@dataclass(frozen=True)
class Overview:
    """What a campaign's page shows."""

    campaign: Campaign
    progress: Progress
    figures: dict[str, Any]
    recent: list[dict[str, Any]]
    is_complete: bool
    """Whether every judgment is counted already."""
    counted: int
    skips: list[tuple[str, int]]
    counts: dict[str, bool]
    """Annotator -> whether the judgments train; those that nobody decided on do."""
    works: dict[str, bool]
    """Annotator -> whether they may work, where that was decided."""
    decisions: list[dict[str, Any]]
    tests: dict[str, Tested]
    """Annotator -> how the test before the work went, where there is one."""


def overview(store: Store, all_figures: AllFigures, name: str) -> Overview:
    """Raises DataError when there is no such campaign."""
    with store.database.reading() as connection:
        campaign = find_campaign(connection, name)
        progress = progress_of(connection, campaign)
        assignments, decisions = tables.assignments.c, tables.decisions.c
        skipped = (assignments.campaign == name, assignments.state == "skipped")
        counted = select(assignments.reason, func.count()).where(*skipped).group_by(assignments.reason)
        skips = connection.execute(counted.order_by(func.count().desc()).limit(20)).tuples().all()
        here = decisions.campaign.in_((name, ""))
        query = select(tables.decisions).where(here).order_by(decisions.number.desc()).limit(50)
        newest = [dict(row) for row in connection.execute(query).mappings()]
        trains, works = decided(connection), decided(connection, "admission")
        tests = _test_results(connection, campaign)
    figures, is_complete = all_figures.of(campaign)
    summary = figures.summary()
    return Overview(
        campaign, progress, summary, figures.recent[::-1][:50], is_complete, figures.judgments,
        [(reason or "", number) for reason, number in skips],
        {who: trains.get((who, name), trains.get((who, ""), True)) for who in summary["people"]},
        {who: yes for (who, where), yes in works.items() if where in (name, "")}, newest, tests,
    )  # fmt: skip


def _test_results(connection: Connection, campaign: Campaign) -> dict[str, Tested]:
    """Everybody's, by the first answer to each of its tasks."""
    tasks, found = length_of_test(connection, campaign), {}
    for annotator, (right, answered) in counts_of_test(connection, campaign).items():
        state = "going on" if answered < tasks else "passed" if has_passed(campaign, right, answered) else "failed"
        found[annotator] = Tested(right, answered, state)
    return found


async def _overview(request: Request, name: str) -> Overview:
    try:
        return await run_in_threadpool(overview, store_of(request), request.app.state.figures, name)
    except DataError:
        raise HTTPException(404) from None


@router.get("/research")
async def campaigns(request: Request, session: Researcher) -> Response:
    """All campaigns."""

    def read() -> list[tuple[Campaign, Progress]]:
        with store_of(request).database.reading() as connection:
            return [(campaign, progress_of(connection, campaign)) for campaign in all_campaigns(connection)]

    return page(request, "research.html", campaigns=await run_in_threadpool(read))


@router.get("/research/{name}")
async def campaign(request: Request, name: str, session: Researcher) -> Response:
    """One campaign's figures."""
    return page(request, "research_campaign.html", seen=await _overview(request, name), error="")


@router.get("/research/{name}/live")
async def live(request: Request, name: str, session: Researcher) -> Response:
    """The part of that page that changes."""
    return page(request, "research_live.html", seen=await _overview(request, name))


@router.post("/research/{name}/state")
async def open_or_close(request: Request, name: str, session: Researcher) -> Response:
    """Open or close a campaign."""
    form = await form_of(request, session)

    def change() -> None:
        with store_of(request).database.writing() as connection:
            find_campaign(connection, name)
            set_open(connection, name, field(form, "open") == "yes", actor=session.person.annotator)

    try:
        await run_in_threadpool(change)
    except DataError:
        raise HTTPException(404) from None
    return see(f"/research/{name}")


@router.post("/research/{name}/decide")
async def decide(request: Request, name: str, session: Researcher) -> Response:
    """Decide whose judgments train, or who may work, and keep why."""
    form = await form_of(request, session)
    about: Literal["training", "admission"] = "admission" if field(form, "about") == "admission" else "training"
    campaign = "" if field(form, "everywhere") == "yes" else name

    def keep() -> None:
        with store_of(request).database.writing() as connection:
            find_campaign(connection, name)
            people.decide(
                connection, field(form, "annotator"), field(form, "include") == "yes", reason=field(form, "reason"),
                actor=session.person.annotator, about=about, campaign=campaign,
            )  # fmt: skip

    try:
        await run_in_threadpool(keep)
    except DataError as error:
        seen = await _overview(request, name)
        return page(request, "research_campaign.html", 422, seen=seen, error=str(error))
    return see(f"/research/{name}")


async def _people(request: Request, status: int = 200, **values: Any) -> Response:
    def read() -> list[Person]:
        with store_of(request).database.reading() as connection:
            return people.everybody(connection)

    found = await run_in_threadpool(read)
    return page(request, "people.html", status, everybody=found, roles=ROLES, **{"link": "", "error": "", **values})


@router.get("/people")
async def everybody(request: Request, session: Researcher) -> Response:
    """All accounts."""
    return await _people(request)


@router.post("/people/invite")
async def invite(request: Request, session: Admin) -> Response:
    """A link by which one person makes an account."""
    form = await form_of(request, session)
    role = next((known for known in ROLES if known == field(form, "role")), None)
    if role is None:
        raise HTTPException(400)
    token = await run_in_threadpool(people.invite, store_of(request), role, actor=session.person.annotator)
    return await _people(request, link=str(request.url_for("join_page", token=token)))


@router.post("/people/{annotator}")
async def change_person(request: Request, annotator: str, session: Admin) -> Response:
    """Close an account, open it again, give it another role, or remove what names the person."""
    form = await form_of(request, session)
    store, actor, what = store_of(request), session.person.annotator, field(form, "what")
    if annotator == actor:
        return await _people(request, 422, error="Nobody changes their own account here; another administrator can.")
    role = next((known for known in ROLES if f"role {known}" == what), None)
    try:
        if role is not None:
            await run_in_threadpool(people.set_role, store, annotator, role, actor=actor)
        elif what == "close":
            await run_in_threadpool(people.set_state, store, annotator, "closed", actor=actor)
        elif what == "open":
            await run_in_threadpool(people.set_state, store, annotator, "active", actor=actor)
        elif what in ("withdraw", "withdraw all"):
            keep = what == "withdraw"
            await run_in_threadpool(people.withdraw, store, annotator, actor=actor, keep_judgments=keep)
        else:
            raise HTTPException(400)
    except DataError as error:
        return await _people(request, 422, error=str(error))
    return see("/people")
