"""The pages over a small store, with one person of each role, and every route of theirs by a walk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from campaign import FORMS, campaign
from fastapi import FastAPI
from sqlalchemy import select
from starlette.routing import BaseRoute, Mount
from starlette.testclient import TestClient

from plaudit.collect import people
from plaudit.collect.arena import ensure_arena
from plaudit.collect.assignment import Assignment, claim
from plaudit.collect.judging import submit
from plaudit.collect.web.app import create_app
from plaudit.records import Response
from plaudit.store import Store, tables

HERE = "http://127.0.0.1:8000"
PASSWORD = "correct horse battery"
FROM_HERE = {"sec-fetch-site": "same-origin"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


class Answering:
    """Two policies to talk with."""

    names = ("rl-001", "sft-001")
    held_out_share = 0.5

    def answer(self, name, conversation, *, seed):
        """Says how long the conversation is."""
        return Response("", "", f"{len(name)} after {len(conversation)}", name, None, None, True, 0.7)


def make_app(store: Store, **more) -> FastAPI:
    """With an arena."""
    return create_app(store, arenas={"arena": Answering()}, **more)


@dataclass
class Site:
    """An application, and who may log in."""

    store: Store
    app: FastAPI
    people: dict[str, str]
    """Login -> pseudonym; ann and bob are annotators, rhea a researcher, ada an admin."""
    held: Assignment
    """Ann's."""
    bobs: Assignment
    clients: dict[str, TestClient] = field(default_factory=dict)

    def visit(self, login: str = "", **headers: str) -> TestClient:
        """A browser of somebody who has come in; of nobody for no login."""
        client = TestClient(self.app, base_url=HERE, follow_redirects=False, headers={**FROM_HERE, **headers})
        if login:
            client.cookies.set("plaudit", people.open_session(self.store, self.people[login]), domain="127.0.0.1")
        return client

    def token(self, client: TestClient) -> str:
        """What a form of this visitor must carry."""
        session = people.session_of(self.store, client.cookies.get("plaudit") or "")
        return session.form_token if session else client.cookies.get("plaudit-form") or ""

    def post(self, client: TestClient, path: str, fields: dict[str, object] | None = None, **more):
        """Send a form as its page would."""
        return client.post(path, data={"form_token": self.token(client), **(fields or {})}, **more)

    def contents(self, *, but: tuple[str, ...] = ("sessions", "login_failures")) -> str:
        """Everything that the database holds, as text."""
        with self.store.database.reading() as connection:
            kept = [t for t in tables.metadata.sorted_tables if t.name not in but]
            return "\n".join(f"{t.name} {connection.execute(select(t)).all()}" for t in kept)


def make_site(store: Store, **more) -> Site:
    """Three comparisons in a campaign `compare`; each of two annotators has judged one, and holds another."""
    campaign(store, "compare", tasks=3, people_per_task=2)
    roles = {"ann": "annotator", "bob": "annotator", "rhea": "researcher", "ada": "admin"}
    found = {
        login: people.join(store, people.invite(store, role, actor="test"), login, PASSWORD).annotator
        for login, role in roles.items()
    }
    hold = []
    for login in ("ann", "bob"):
        done = claim(store, "compare", found[login])
        submit(store, done.id, found[login], FORMS["compare"], submission="first", seconds=3.0)
        hold.append(claim(store, "compare", found[login]))
    ensure_arena(store, "arena", Answering.names, actor="test")
    return Site(store, make_app(store, **more), found, *hold)


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of every route, mounted files apart."""
    return sorted((method, route.path) for route in _walk(app.routes) for method in route.methods - {"HEAD"})


def _walk(found: list[BaseRoute]) -> Iterator[BaseRoute]:
    for route in found:
        inner = getattr(route, "original_router", None)  # how newer FastAPI keeps an included router
        if inner is not None:
            yield from _walk(inner.routes)
        elif not isinstance(route, Mount):
            yield route


def address(path: str, **values: str) -> str:
    """A route's path with its parameters; KeyError for one that no value was given for."""
    return re.sub(r"{(\w+)}", lambda found: values[found[1]], path)
