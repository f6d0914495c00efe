"""The application: routes, what guards them, and what is shown when something is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from plaudit.collect.arena import Policies
from plaudit.collect.figures import AllFigures
from plaudit.collect.web import accounts, arena_pages, research, work
from plaudit.collect.web.rendering import page
from plaudit.collect.web.security import Guard, Rate
from plaudit.store import Store

WORDS = {
    400: "That could not be read.",
    403: "That is not allowed.",
    404: "There is no such page, or it is not for you.",
    405: "That cannot be done here.",
    409: "That is too late.",
    413: "That is too long.",
    415: "That could not be read.",
    421: "This server does not answer to that name.",
    422: "That could not be read.",
    429: "Too many requests. Wait a minute and try again.",
}


def create_app(
    store: Store, *, hosts: Iterable[str] = ("127.0.0.1", "localhost", "::1"), secure: bool = False,
    local_token: str = "",
    arenas: Mapping[str, Policies] | None = None,
) -> FastAPI:  # fmt: skip
    """The pages over a store.

    hosts        the names under which browsers may ask for it
    secure       it stands behind https: cookies are sent over nothing else
    arenas       campaign -> the policies that people talk with in it
    local_token  a secret by which whoever runs the server comes in without a password; empty for nobody
    """
    app = FastAPI(title="Plaudit", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.store = store
    app.state.secure = secure
    app.state.local_token = local_token
    app.state.arenas = dict(arenas or {})
    app.state.figures = AllFigures(store)
    app.state.rate = Rate()
    for part in (accounts, work, arena_pages, research):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    app.add_exception_handler(HTTPException, _explain)
    app.add_middleware(Guard, hosts=frozenset(hosts), secure=secure, explain=_wrong)
    return app


async def _explain(request: Request, error: Exception) -> Response:
    """A page that says what is wrong; the way to log in for who has not."""
    assert isinstance(error, HTTPException)
    if error.status_code == 401:
        return accounts.see("/login")
    plain = WORDS.get(error.status_code, "Something is wrong.")
    said = error.detail if error.detail and " " in error.detail else plain
    generic = {"Not Found", "Method Not Allowed", "Forbidden", "Bad Request"}
    return _wrong(request, error.status_code, plain if error.detail in generic else said)


def _wrong(request: Request, status: int, message: str) -> Response:
    return page(request, "wrong.html", status, message=message)
