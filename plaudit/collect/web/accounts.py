"""Coming in and going out: invitations, logins, passwords."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from plaudit.collect import people
from plaudit.collect.people import Session
from plaudit.collect.web.rendering import page
from plaudit.collect.web.security import (
    Annotator,
    cookie_name,
    field,
    form_of,
    new_form_token,
    read_form,
    set_session,
    store_of,
    visitor,
)
from plaudit.errors import DataError

router = APIRouter()


def visitor_cookie(request: Request) -> str:
    """Cookie for those who are not logged in, whose forms repeat it; named like `cookie_name`."""
    return "__Host-plaudit-form" if request.app.state.secure else "plaudit-form"


def see(path: str) -> RedirectResponse:
    """Go on with a page, by GET."""
    return RedirectResponse(path, 303)


def _open_form(request: Request, template: str, status: int = 200, **values: object) -> Response:
    request.state.session = None
    request.state.form_token = token = request.cookies.get(visitor_cookie(request)) or new_form_token()
    response = page(request, template, status, **values)
    response.set_cookie(
        visitor_cookie(request), token, path="/", httponly=True, samesite="strict", secure=request.app.state.secure
    )
    return response


async def _checked_form(request: Request) -> dict[str, str]:
    form = await read_form(request)
    cookie = request.cookies.get(visitor_cookie(request), "")
    if not cookie or not hmac.compare_digest(field(form, "form_token").encode(), cookie.encode()):
        raise HTTPException(403, "This page was open for too long. Go back, load it again, and send it once more.")
    return {name: field(form, name) for name in ("login", "password")}


@router.get("/login")
async def login_page(request: Request, session: Annotated[Session | None, Depends(visitor)]) -> Response:
    """The form to log in with."""
    return see("/") if session else _open_form(request, "login.html", error="", login="")


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Come in with a name and a password."""
    said = await _checked_form(request)
    address = request.client.host if request.client else ""
    try:
        token = await run_in_threadpool(
            people.log_in, store_of(request), said["login"], said["password"], address=address
        )
    except people.LoginRefused as error:
        return _open_form(request, "login.html", 403, error=str(error), login=said["login"])
    response = see("/")
    set_session(request, response, token)
    return response


@router.post("/logout")
async def log_out(request: Request, session: Annotator) -> Response:
    """End this session."""
    await form_of(request, session)
    await run_in_threadpool(people.close_session, store_of(request), request.cookies[cookie_name(request)])
    response = see("/login")
    response.delete_cookie(cookie_name(request), path="/", secure=request.app.state.secure, httponly=True)
    return response


@router.get("/enter/{token}")
async def enter(request: Request, token: str) -> Response:
    """The link that is printed where the server runs: its user comes in without a password, from this machine alone."""
    expected = request.app.state.local_token
    if not expected or not hmac.compare_digest(token.encode(), expected.encode()):
        raise HTTPException(404)
    person = await run_in_threadpool(people.local_person, store_of(request))
    response = see("/")
    set_session(request, response, await run_in_threadpool(people.open_session, store_of(request), person.annotator))
    return response


@router.get("/join/{token}")
async def join_page(request: Request, token: str) -> Response:
    """The form to make an account by, for who holds an invitation."""
    role = await run_in_threadpool(people.invitation_role, store_of(request), token)
    if role is None:
        raise HTTPException(404, "This invitation is not valid: it was used, or has run out. Ask for another.")
    return _open_form(request, "join.html", error="", login="", role=role, token=token)


@router.post("/join/{token}")
async def join(request: Request, token: str) -> Response:
    """Make the account, and log in."""
    said = await _checked_form(request)
    store = store_of(request)
    try:
        person = await run_in_threadpool(people.join, store, token, said["login"], said["password"])
    except DataError as error:
        role = await run_in_threadpool(people.invitation_role, store, token)
        if role is None:
            raise HTTPException(404, str(error)) from None
        return _open_form(request, "join.html", 422, error=str(error), login=said["login"], role=role, token=token)
    response = see("/")
    set_session(request, response, await run_in_threadpool(people.open_session, store, person.annotator))
    return response


@router.get("/account")
async def account_page(request: Request, session: Annotator) -> Response:
    """One's own account."""
    return page(request, "account.html", error="")


@router.post("/account/password")
async def change_password(request: Request, session: Annotator) -> Response:
    """Choose another password, which ends every session, and log in again."""
    form = await form_of(request, session)
    who, store = session.person.annotator, store_of(request)
    try:
        await run_in_threadpool(people.change_password, store, who, field(form, "old"), field(form, "new"))
    except (DataError, people.LoginRefused) as error:
        return page(request, "account.html", 422, error=str(error))
    response = see("/")
    set_session(request, response, await run_in_threadpool(people.open_session, store, who))
    return response
