"""What every request passes: known host, bounded body, same site, session; and headers that close pages to others."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, HTTPException
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from plaudit.collect import people
from plaudit.collect.people import Role, Session
from plaudit.errors import DatabaseFailed
from plaudit.store import Store

MOST_BYTES = 1_000_000
"""Most bytes of a request: the longest answer with the longest comment, in letters that take twelve bytes each in a
form."""
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
BURST, PER_SECOND = 300, 20
"""Requests that one person may send at once, and from then on: a person needs one in some seconds, a program more."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_log = logging.getLogger("plaudit.collect")


class Guard:
    """Around the whole application: what no route may forget.

    hosts    the names under which it answers
    secure   it stands behind a proxy that ends https, and that says last in X-Forwarded-For whom it has seen
    explain  makes the page for what went wrong: (request, status, message)
    """

    def __init__(
        self, app: ASGIApp, *, hosts: frozenset[str], secure: bool, explain: Callable[[Request, int, str], Response]
    ):
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)
        self.secure = secure
        self.explain = explain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what must not pass, and put the headers on what comes back, whatever happens."""
        if scope["type"] == "websocket":  # there are none
            await WebSocketClose()(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self.secure:
            scope = {**scope, "scheme": "https", "client": _seen_by_the_proxy(scope, headers)}
        has_begun = False

        async def with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
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
        try:
            await self.app(scope, _bounded(receive), with_headers)
        except ClientDisconnect:
            return
        except Exception as error:
            # Not the path, which may hold an invitation; the database's errors come without what was written.
            _log.exception("a request failed: %s", getattr(scope.get("route"), "path", "no route"))
            if has_begun:
                raise
            failed = self._failed(Request(scope), error)
            await failed(scope, receive, with_headers)

    def _failed(self, request: Request, error: Exception) -> Response:
        if isinstance(error, SQLAlchemyError | DatabaseFailed):
            said = "The database does not answer. Nothing of this was kept: go back and send it again in a minute."
            return self.explain(request, 503, said)
        return self.explain(request, 500, "Something is wrong here. Nothing of this was kept.")

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        named = _HOST.fullmatch(host)
        if named is None or named[1].strip("[]").lower() not in self.hosts:
            # A name of somebody else's that was made to point here must not read what is here.
            return PlainTextResponse("This server does not answer to that name.", 421)
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # which no database can look for
            return PlainTextResponse("There is no such page.", 404)
        if scope["method"] in SAFE_METHODS:
            return None
        if not self._is_from_here(headers, host):
            return PlainTextResponse("This form was sent from another site, so it was not read.", 403)
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 15 or int(length) > MOST_BYTES:
            return PlainTextResponse(f"At most {MOST_BYTES} bytes can be sent at once.", 413)
        return None

    def _is_from_here(self, headers: Headers, host: str) -> bool:
        """A form must come from a page of this site. Browsers say so; what says nothing at all is refused."""
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        return headers.get("origin") in (f"https://{host}", *([] if self.secure else [f"http://{host}"]))


def _seen_by_the_proxy(scope: Scope, headers: Headers) -> tuple[str, int] | None:
    """Who asked the proxy: the last address of the header, since all before it is what the visitor claims."""
    last = ",".join(headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
    try:
        return str(ipaddress.ip_address(last)), 0
    except ValueError:
        found: tuple[str, int] | None = scope.get("client")
        return found


class Rate:
    """Lets each person through `burst` times at once, and then so many times a second."""

    def __init__(self, *, burst: float = BURST, per_second: float = PER_SECOND):
        self.burst = burst
        self.per_second = per_second
        self._left: dict[str, tuple[float, float]] = {}

    def allows(self, who: str, *, at: float | None = None) -> bool:
        """Count one more, unless there were too many."""
        at = time.monotonic() if at is None else at
        left, since = self._left.get(who, (self.burst, at))
        left = min(self.burst, left + (at - since) * self.per_second)
        self._left[who] = (left - (left >= 1), at)
        return left >= 1


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
    """Who asks, if they are logged in."""
    token = request.cookies.get(cookie_name(request))
    session = await run_in_threadpool(people.session_of, store_of(request), token) if token else None
    request.state.session = session
    return session


def at_least(role: Role) -> Callable[..., Any]:
    """A dependency: somebody with this role. Others do not learn what there is: 404, or the way to log in."""

    async def needed(request: Request, session: Annotated[Session | None, Depends(visitor)]) -> Session:
        if session is None:
            raise HTTPException(401)
        if not request.app.state.rate.allows(session.person.annotator):
            raise HTTPException(429, "These are more requests than a person sends. Wait a moment, and try again.")
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
    # No database keeps a NUL in a text, and no keyboard writes one.
    return FormData([(name, str(value).replace("\0", "")) for name, value in form.multi_items()])


def field(form: FormData, name: str) -> str:
    """A text field; empty where it is missing."""
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def new_form_token() -> str:
    """For forms of visitors who are not logged in yet; it is their cookie too."""
    return secrets.token_urlsafe(24)
