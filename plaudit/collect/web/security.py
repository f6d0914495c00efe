"""What every request passes: known host, bounded body, same site, session; and headers that close pages to others."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plaudit.collect import people
from plaudit.collect.people import Role, Session
from plaudit.store import Store

MOST_BYTES = 1_000_000
"""Of a request: the longest answer with the longest comment, in letters of which a form needs twelve bytes each."""
MOST_FIELDS = 200
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
SAFE_METHODS = ("GET", "HEAD")


class Guard:
    """Around the whole application: what no route may forget."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], secure: bool):
        self.app = app
        self.hosts = hosts
        self.secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what must not pass, and put the headers on what comes back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    if name != "Cache-Control" or name not in sent:
                        sent[name] = value
                if self.secure:
                    sent["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        refused = self._refuse(scope, headers)
        if refused is not None:
            await refused(scope, receive, with_headers)
            return
        await self.app(scope, _bounded(receive), with_headers)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if (urlsplit(f"//{host}").hostname or "") not in self.hosts:
            # A name of somebody else's that was made to point here must not read what is here.
            return PlainTextResponse("This server does not answer to that name.", 421)
        if scope["method"] in SAFE_METHODS:
            return None
        if not _from_here(headers, host):
            return PlainTextResponse("This form was sent from another site, so it was not read.", 403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return PlainTextResponse(f"At most {MOST_BYTES} bytes can be sent at once.", 413)
        return None


def _from_here(headers: Headers, host: str) -> bool:
    """A form must come from a page of this site. Browsers say so; what says nothing at all is refused."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == host


def _bounded(receive: Receive) -> Receive:
    """A body that names no length is counted as it comes."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BYTES:
            raise HTTPException(413, f"At most {MOST_BYTES} bytes can be sent at once.")
        return message

    return counted


def cookie_name(request: Request) -> str:
    """`__Host-` binds the cookie to this host alone, and needs https."""
    return "__Host-plaudit" if request.app.state.secure else "plaudit"


def set_session(request: Request, response: Response, token: str) -> None:
    """A cookie that no script reads and no other site sends."""
    response.set_cookie(
        cookie_name(request), token, max_age=people.SESSION_DAYS * 86400, path="/", httponly=True, samesite="lax",
        secure=request.app.state.secure,
    )  # fmt: skip


def store_of(request: Request) -> Store:
    """What the application was made with."""
    store: Store = request.app.state.store
    return store


async def visitor(request: Request) -> Session | None:
    """Who asks, if they have come in."""
    token = request.cookies.get(cookie_name(request))
    session = await run_in_threadpool(people.session_of, store_of(request), token) if token else None
    request.state.session = session
    return session


def at_least(role: Role) -> Callable[..., Any]:
    """A dependency: somebody with this role. Others do not learn what there is: 404, or the way to come in."""

    async def needed(session: Annotated[Session | None, Depends(visitor)]) -> Session:
        if session is None:
            raise HTTPException(401)
        if not session.person.may(role):
            raise HTTPException(404)
        return session

    return needed


Annotator = Annotated[Session, Depends(at_least("annotator"))]
Researcher = Annotated[Session, Depends(at_least("researcher"))]
Admin = Annotated[Session, Depends(at_least("admin"))]


async def form_of(request: Request, session: Session) -> FormData:
    """The fields of a form that carries this session's token. 403 without it, 400 for what is no form."""
    form = await read_form(request)
    if not hmac.compare_digest(str(form.get("form_token", "")).encode(), session.form_token.encode()):
        raise HTTPException(403, "This page was open for too long. Go back, load it again, and send it once more.")
    return form


async def read_form(request: Request) -> FormData:
    """The fields of a form without files."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "A form is expected here.")
    form = await request.form(max_files=0, max_fields=MOST_FIELDS)
    if len(form.multi_items()) > MOST_FIELDS:
        raise HTTPException(400, "The form has too many fields.")
    return form


def field(form: FormData, name: str) -> str:
    """A text field; empty where it is missing."""
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def new_form_token() -> str:
    """For forms of visitors who have not come in yet; it is their cookie too."""
    return secrets.token_urlsafe(24)
