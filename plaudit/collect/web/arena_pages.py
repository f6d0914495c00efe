"""The arena's page: write to two models at once; the task page then asks which answered better."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from plaudit.collect.arena import MOST_CHARACTERS, Policies, begin_match, conversation_after
from plaudit.collect.web.accounts import see
from plaudit.collect.web.rendering import page
from plaudit.collect.web.security import Annotator, field, form_of, store_of
from plaudit.errors import PlauditError
from plaudit.records import Message

router = APIRouter()


def policies_of(request: Request, campaign: str) -> Policies:
    """The models of an arena; 404 where there is none of that name."""
    arenas: dict[str, Policies] = request.app.state.arenas
    if campaign not in arenas:
        raise HTTPException(404)
    return arenas[campaign]


async def _said(request: Request, after: str, annotator: str) -> list[Message]:
    return await run_in_threadpool(conversation_after, store_of(request), after, annotator) if after else []


@router.get("/arena/{campaign}")
async def arena_page(request: Request, campaign: str, session: Annotator, after: str = "") -> Response:
    """Write the first message, or the next after the answer that was chosen."""
    policies_of(request, campaign)
    said = await _said(request, after[:64], session.person.annotator)
    return _page(request, campaign, said, after if said else "")


def _page(
    request: Request, campaign: str, said: list[Message], after: str, *, message: str = "", error: str = ""
) -> Response:
    return page(
        request, "arena.html", 422 if error else 200, campaign=campaign, said=said, after=after, message=message,
        error=error, most=MOST_CHARACTERS,
    )  # fmt: skip


@router.post("/arena/{campaign}")
async def send(request: Request, campaign: str, session: Annotator) -> Response:
    """Have both answer, then ask which is better."""
    form = await form_of(request, session)
    policies, who = policies_of(request, campaign), session.person.annotator
    after, message = field(form, "after")[:64], field(form, "message")
    said = await _said(request, after, who)
    conversation = [*said, {"role": "user", "content": message.replace("\r\n", "\n").strip()}]
    try:
        match = await run_in_threadpool(begin_match, store_of(request), campaign, who, conversation, policies)
    except PlauditError as error:
        return _page(request, campaign, said, after, message=message, error=str(error))
    return see(f"/task/{match.id}")
