"""What a stranger, another annotator, or a broken program can do to the pages: nothing, and they learn nothing."""

import asyncio
import json
import logging
import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from argon2 import PasswordHasher
from campaign import FORMS
from campaign import quick_passwords as quick_passwords
from site_of_pages import FORM, FROM_HERE, HERE, PASSWORD, address, make_app, make_site, routes
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from plaudit.collect import audit, people
from plaudit.collect.assignment import claim, held_by
from plaudit.collect.judging import TooLate, submit
from plaudit.collect.web import security
from plaudit.collect.web.app import create_app
from plaudit.collect.web.security import HEADERS, MOST_BYTES, Guard, Rate
from plaudit.store import Store, tables

TEMPLATES = Path(security.__file__).parent / "templates"
STATIC = Path(security.__file__).parent / "static"

NEEDS = {
    ("GET", "/login"): None,
    ("POST", "/login"): None,
    ("GET", "/enter/{token}"): None,
    ("GET", "/join/{token}"): None,
    ("POST", "/join/{token}"): None,
    ("POST", "/logout"): "annotator",
    ("GET", "/account"): "annotator",
    ("POST", "/account/password"): "annotator",
    ("GET", "/"): "annotator",
    ("GET", "/work/{campaign}"): "annotator",
    ("GET", "/task/{assignment}"): "annotator",
    ("POST", "/task/{assignment}"): "annotator",
    ("POST", "/task/{assignment}/skip"): "annotator",
    ("POST", "/task/{assignment}/renew"): "annotator",
    ("POST", "/undo/{campaign}"): "annotator",
    ("GET", "/mine/{campaign}"): "annotator",
    ("GET", "/test/{campaign}"): "annotator",
    ("GET", "/arena/{campaign}"): "annotator",
    ("POST", "/arena/{campaign}"): "annotator",
    ("GET", "/research"): "researcher",
    ("GET", "/research/{name}"): "researcher",
    ("GET", "/research/{name}/live"): "researcher",
    ("POST", "/research/{name}/state"): "researcher",
    ("POST", "/research/{name}/decide"): "researcher",
    ("GET", "/people"): "researcher",
    ("POST", "/people/invite"): "admin",
    ("POST", "/people/{annotator}"): "admin",
}
"""Every route, and who may use it; None for everybody."""
UNSAFE = sorted(route for route in NEEDS if route[0] != "GET")
SENT = {
    "/login": {"login": "ann", "password": PASSWORD},
    "/join/{token}": {"login": "newcomer", "password": PASSWORD},
    "/account/password": {"old": PASSWORD, "new": PASSWORD + " staple"},
    "/task/{assignment}": {"verdict": "0:3", "submission": "sent"},
    "/task/{assignment}/skip": {"reason": "no"},
    "/research/{name}/state": {"open": "no"},
    "/research/{name}/decide": {"annotator": "", "include": "no", "reason": "because"},
    "/people/invite": {"role": "annotator"},
    "/arena/{campaign}": {"message": "hello"},
    "/people/{annotator}": {"what": "close"},
}
"""What a form of the route sends when all is well."""


@pytest.fixture(scope="module")
def made_once(tmp_path_factory, quick_passwords):
    """A file to copy, and the site that was made in it."""
    path = tmp_path_factory.mktemp("site") / "feedback.sqlite"
    found = make_site(Store.open(path))
    found.store.database.engine.dispose()
    return path, found


@pytest.fixture
def site(made_once, tmp_path):
    path, found = made_once
    store = Store.open(shutil.copy(path, tmp_path))
    yield replace(found, store=store, app=make_app(store, local_token="the-local-token"))
    store.database.engine.dispose()


def where(site, path, *, of="ann"):
    """The address of a route, with what belongs to somebody."""
    held = site.held if of == "ann" else site.bobs
    invitation = people.invite(site.store, "annotator", actor="test") if "join" in path else "the-local-token"
    return address(
        path,
        assignment=held.id,
        campaign="arena" if "arena" in path else "compare",
        name="compare",
        token=invitation,
        annotator=site.people["bob"],
    )


def fields(site, path):
    sent = dict(SENT.get(path, {}))
    return {**sent, "annotator": site.people["bob"]} if "decide" in path else sent


def visitor_for(site, path):
    """Somebody who may use the route, with the form's page loaded where that sets a cookie."""
    login = {None: "", "annotator": "ann", "researcher": "rhea", "admin": "ada"}[NEEDS["POST", path]]
    client = site.visit(login)
    if not login:
        client.get("/login")
    return client


def test_every_route_is_listed_here_with_who_may_use_it(site):
    assert routes(site.app) == sorted(NEEDS)
    assert set(site.app.openapi()["paths"]) == {path for _, path in NEEDS}


# Forms of other sites


@pytest.mark.parametrize(("method", "path"), UNSAFE)
def test_a_form_that_does_not_come_from_its_page_changes_nothing(site, method, path):
    client, there, sent = visitor_for(site, path), where(site, path), fields(site, path)
    other = site.visit("bob")
    wrong = [
        ({}, {"form_token": None}),
        ({}, {"form_token": ""}),
        ({}, {"form_token": "x" * 32}),
        ({}, {"form_token": site.token(client)[:-1]}),
        ({}, {"form_token": site.token(client) + "é"}),
        ({}, {"form_token": site.token(other)}),
        ({"sec-fetch-site": "cross-site"}, {}),
        ({"sec-fetch-site": "same-site"}, {}),
        ({"sec-fetch-site": "cross-site", "origin": HERE}, {}),
        ({"sec-fetch-site": "none?"}, {}),
    ]
    silent = [{}, *({"origin": o} for o in ("https://evil.example", "null", "http://[", "", HERE + ".evil", HERE[:-1]))]
    before = site.contents()
    for headers, change in wrong:
        body = {
            k: v for k, v in {"form_token": site.token(client), "other": "x", **sent, **change}.items() if v is not None
        }
        assert client.post(there, data=body, headers=headers).status_code == 403, (headers, change)
    del client.headers["sec-fetch-site"]
    for headers in silent:
        assert site.post(client, there, sent, headers=headers).status_code == 403, headers
    assert site.contents() == before
    right = site.post(client, there, sent, headers={"origin": HERE})
    assert right.status_code in (200, 204, 303), right.text


def test_get_changes_nothing_but_leases_and_sessions(site):
    before = site.contents(but=("sessions", "assignments", "tasks", "annotators", "accounts"))
    for method, path in NEEDS:
        if method == "GET" and "enter" not in path and "join" not in path:
            site.visit("ada").get(where(site, path))
    assert site.contents(but=("sessions", "assignments", "tasks", "annotators", "accounts")) == before


# Roles, and what belongs to others


@pytest.mark.parametrize("login", ["", "ann", "bob", "rhea", "ada"])
def test_nobody_gets_past_their_role(site, login):
    role = {"": None, "ann": "annotator", "bob": "annotator", "rhea": "researcher", "ada": "admin"}[login]
    ranks = [None, *people.ROLES]
    for (method, path), needed in NEEDS.items():
        if needed is None or (path in ("/logout", "/account/password") and login):
            continue
        client = site.visit(login)
        before = site.contents(but=("sessions", "assignments", "tasks"))
        there, sent = where(site, path, of="bob" if login == "bob" else "ann"), fields(site, path)
        answer = client.get(there) if method == "GET" else site.post(client, there, sent)
        if role is None:
            assert (answer.status_code, answer.headers["location"]) == (303, "/login"), (method, path)
        elif ranks.index(role) < ranks.index(needed):
            assert answer.status_code == 404, (method, path)
        elif path.endswith("renew") and login in ("rhea", "ada"):
            assert answer.status_code == 410
        elif path == "/test/{campaign}":
            assert answer.status_code == 404  # this campaign has none
        elif ("{assignment}" in path or "undo" in path) and login in ("rhea", "ada"):
            assert answer.status_code == 404, (method, path)  # a task is its annotator's alone, whatever one's role
        else:
            # 409, 410: what an earlier turn of this loop submitted already
            assert answer.status_code in (200, 204, 303, 409, 410), (method, path, answer.text)
            assert answer.headers.get("location") != "/login"
            continue
        assert site.contents(but=("sessions", "assignments", "tasks")) == before, (method, path)


@pytest.mark.parametrize(("method", "path"), sorted(route for route in NEEDS if "{assignment}" in route[1]))
def test_a_task_of_somebody_else_is_not_even_there(site, method, path):
    client = site.visit("bob")
    before = site.contents()
    answers = []
    for held in (site.held.id, "x" * 27):
        there = address(path, assignment=held)
        answer = client.get(there) if method == "GET" else site.post(client, there, fields(site, path))
        answers.append((answer.status_code, answer.text))
    if path.endswith("renew"):
        assert {status for status, _ in answers} == {410}
    else:
        assert {status for status, _ in answers} == {404}
    assert answers[0] == answers[1]
    assert site.contents() == before


def test_the_judgments_of_others_are_on_no_page_of_mine(site):
    submit(
        site.store, site.bobs.id, site.people["bob"], FORMS["compare"], submission="b", comment="a remark of bob's own"
    )
    client = site.visit("ann")
    for path in ("/", "/mine/compare", "/work/compare", f"/task/{site.held.id}", "/account"):
        page = client.get(path).text
        assert "remark of bob" not in page
        assert site.people["bob"] not in page
        assert "sample-001" not in page  # nor which run an answer comes from


def test_a_researcher_sees_no_names_and_an_admin_does(site):
    assert "bob" not in site.visit("rhea").get("/people").text
    assert "bob" in site.visit("ada").get("/people").text


def test_an_admin_cannot_lock_themselves_out(site):
    client = site.visit("ada")
    for what in ("close", "withdraw", "role annotator"):
        assert site.post(client, f"/people/{site.people['ada']}", {"what": what}).status_code == 422
    assert client.get("/people").status_code == 200


# Sessions and cookies


def set_cookies(answer):
    return answer.headers.get_list("set-cookie")


def log_in(site, client, login="ann", password=PASSWORD):
    client.get("/login")
    return client.post(
        "/login", data={"form_token": client.cookies["plaudit-form"], "login": login, "password": password}
    )


def test_a_session_set_beforehand_is_never_taken_over(site):
    planted = "planted-by-somebody-else-000000000000000000"
    for enter in (
        lambda client: log_in(site, client),
        lambda client: client.get("/enter/the-local-token"),
        lambda client: (
            client.get("/login"),
            site.post(
                client,
                where(site, "/join/{token}"),
                {"login": "new", "password": PASSWORD, "form_token": client.cookies["plaudit-form"]},
            ),
        )[1],
    ):
        client = site.visit()
        client.cookies.set("plaudit", planted, domain="127.0.0.1")
        answer = enter(client)
        assert answer.status_code == 303, answer.text
        (cookie,) = (line for line in set_cookies(answer) if line.startswith("plaudit="))
        assert planted not in cookie
        assert people.session_of(site.store, planted) is None
        assert people.session_of(site.store, cookie.split("=")[1].split(";")[0]) is not None


def test_every_login_has_a_token_of_its_own(site):
    tokens = set()
    for _ in range(3):
        client = site.visit()
        log_in(site, client)
        tokens.add(client.cookies["plaudit"])
    assert len(tokens) == 3
    assert all(len(token) >= 43 for token in tokens)


@pytest.mark.parametrize("end", ["password", "role", "closed", "withdrawn", "logout"])
def test_a_session_is_dead_once_it_is_over(site, end):
    client, other = site.visit("ann"), site.visit("ann")
    mine, token = client.cookies["plaudit"], site.token(other)
    who = site.people["ann"]
    if end == "password":
        answer = site.post(client, "/account/password", {"old": PASSWORD, "new": "another long password"})
        assert client.cookies["plaudit"] != mine
        assert client.get("/").status_code == 200
        assert answer.status_code == 303
    elif end == "role":
        people.set_role(site.store, who, "admin", actor="test")
    elif end == "closed":
        people.set_state(site.store, who, "closed", actor="test")
    elif end == "withdrawn":
        people.withdraw(site.store, who, actor="test", keep_judgments=True)
    else:
        site.post(client, "/logout")
        assert "plaudit" not in client.cookies
        assert other.get("/").status_code == 200  # the other visit goes on
    old = site.visit()
    old.cookies.set("plaudit", mine, domain="127.0.0.1")
    assert old.get("/").headers["location"] == "/login"
    if end != "logout":
        assert other.get("/").headers["location"] == "/login"
        assert other.post("/task/x", data={"form_token": token}).headers["location"] == "/login"


@pytest.mark.parametrize("secure", [False, True])
def test_cookies_are_for_this_host_alone_and_for_no_script(site, secure):
    app = create_app(site.store, secure=secure, local_token="the-local-token")
    client = TestClient(app, base_url=HERE.replace("http:", "https:") if secure else HERE, follow_redirects=False)
    form, session = set_cookies(client.get("/login")), set_cookies(client.get("/enter/the-local-token"))
    assert len(form) == len(session) == 1
    for cookie, name, site_rule in ((form[0], "plaudit-form", "strict"), (session[0], "plaudit", "lax")):
        parts = [part.strip().lower() for part in cookie.split(";")]
        assert parts[0].startswith(("__host-" if secure else "") + name + "=")
        assert {"httponly", "path=/", f"samesite={site_rule}"} <= set(parts)
        assert ("secure" in parts) is secure
        assert not any(part.startswith("domain") for part in parts)


def test_what_opens_doors_cannot_be_guessed(site):
    """At least 128 bits, from the system's source of randomness: six bits a letter."""
    tokens = {people.invite(site.store, "annotator", actor="test") for _ in range(20)}
    tokens |= {people.open_session(site.store, site.people["ann"]) for _ in range(20)}
    with site.store.database.reading() as connection:
        tokens |= set(connection.scalars(select(tables.assignments.c.id)))
        tokens |= set(connection.scalars(select(tables.sessions.c.form_token)))
    assert all(len(token) * 6 >= 128 for token in tokens)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", token) for token in tokens)
    assert len({token[:6] for token in tokens}) > 0.99 * len(tokens)


# Guessing


def test_guessing_a_password_is_slowed_by_name_and_tells_nothing_of_names(site):
    said = {}
    for login in ("ann", "nobody"):
        client = site.visit()
        found = [log_in(site, client, login, f"wrong {i} password") for i in range(6)]
        assert {answer.status_code for answer in found} == {403}
        words = [re.search(r'role="alert"[^>]*>([^<]*)<', answer.text)[1] for answer in found]
        assert words[:5] == ["This name and password do not belong together."] * 5
        assert words[5].startswith("Too many attempts")
        said[login] = words
        assert log_in(site, client, login, PASSWORD).status_code == 403
    assert said["ann"] == said["nobody"]


def test_many_guesses_at_once_are_counted_before_they_are_looked_at(database_place):
    store = Store.open(database_place)
    people.join(store, people.invite(store, "annotator", actor="test"), "ann", PASSWORD)
    said = []

    def guess():
        try:
            people.log_in(store, "ann", "wrong password", address="here")
        except people.LoginRefused as error:
            said.append(str(error))

    guesses = [threading.Thread(target=guess) for _ in range(20)]
    [one.start() for one in guesses]
    [one.join() for one in guesses]
    assert sum("belong together" in words for words in said) == people.FAILURES
    assert sum("Too many" in words for words in said) == 20 - people.FAILURES
    store.database.engine.dispose()


def test_one_address_may_come_in_as_often_as_it_is_right(site):
    for _ in range(60):
        people.log_in(site.store, "ann", PASSWORD, address="a room of annotators")


def test_an_open_session_is_no_place_to_guess_the_password_from(site):
    client = site.visit("ann")
    for _ in range(5):
        answer = site.post(client, "/account/password", {"old": "wrong", "new": "another long password"})
        assert "The old password is not right." in answer.text
    answer = site.post(client, "/account/password", {"old": PASSWORD, "new": "another long password"})
    assert answer.status_code == 422
    assert "Too many attempts" in answer.text


def test_an_unknown_name_takes_as_much_work_as_a_known_one(site, monkeypatch):
    checked = []
    monkeypatch.setattr(people, "_matches", lambda hashed, password: checked.append(hashed) or False)
    for login in ("ann", "nobody"):
        with pytest.raises(people.LoginRefused):
            people.log_in(site.store, login, PASSWORD, address="a")
    costs = [hashed.split("$")[3] for hashed in checked]
    assert len(costs) == 2
    assert costs[0] == costs[1]  # memory, passes and lanes


def test_a_password_costs_what_argon2_advises():
    """RFC 9106, section 4: 64 MiB and three passes where memory is scarce."""
    real = PasswordHasher()
    assert (real.memory_cost, real.time_cost) == (65536, 3)
    assert "argon2id" in real.hash("x")


def test_a_stranger_without_an_invitation_costs_no_hashing(site, monkeypatch):
    monkeypatch.setattr(people, "_hash", lambda password: pytest.fail("hashed for a stranger"))
    client = site.visit()
    client.get("/login")
    data = {"form_token": client.cookies["plaudit-form"], "login": "new", "password": PASSWORD}
    assert client.post("/join/not-an-invitation", data=data).status_code == 404


def test_a_held_key_or_a_program_is_slowed_and_a_person_is_not():
    rate = Rate(burst=10, per_second=2)
    assert [rate.allows("ann", at=0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert rate.allows("bob", at=0.0)
    assert not rate.allows("ann", at=0.4)
    assert rate.allows("ann", at=0.6)
    assert all(rate.allows("ann", at=100.0 + i) for i in range(100))


def test_too_many_requests_get_a_page_that_says_so_and_keep_nothing(site):
    site.app.state.rate = Rate(burst=3, per_second=0)
    client = site.visit("ann")
    assert [client.get("/").status_code for _ in range(4)] == [200, 200, 200, 429]
    before = site.contents()
    sent = site.post(client, f"/task/{site.held.id}", {"verdict": "tie", "submission": "x"})
    assert sent.status_code == 429
    assert site.contents() == before
    assert site.visit("bob").get("/").status_code == 200


# Names and addresses


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "evil@127.0.0.1",
        "127.0.0.1/evil",
        "127.0.0.1#",
        "[",
        "[::1",
        "",
        "a b",
    ],
)
def test_a_name_that_was_made_to_point_here_reads_nothing(site, host):
    """DNS rebinding: the browser believes that it is at evil.example, and so lets its scripts read."""
    client = site.visit("ann")
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "Work" not in answer.text
    for name in HEADERS:
        assert name in answer.headers


def test_names_that_were_given_are_answered_to_in_any_spelling(site):
    app = create_app(site.store, hosts=["Rosa.Local", "::1"])
    for host in ("rosa.local", "ROSA.LOCAL:8000", "[::1]:8000", "[::1]"):
        assert TestClient(app, base_url=HERE).get("/login", headers={"host": host}).status_code == 200


def test_behind_a_proxy_the_last_address_counts_and_a_claimed_one_does_not(site, monkeypatch):
    seen = []
    monkeypatch.setattr(people, "log_in", lambda *a, address: seen.append(address) or people.open_session(*a[:1], who))
    who = site.people["ann"]
    for secure, forwarded in [(True, "6.6.6.6, 192.0.2.7"), (True, "rubbish"), (False, "6.6.6.6")]:
        base = HERE.replace("http:", "https:") if secure else HERE
        app = create_app(site.store, secure=secure)
        client = TestClient(app, base_url=base, follow_redirects=False, headers=FROM_HERE)
        client.get("/login")
        form = {"form_token": next(iter(client.cookies.values())), "login": "ann", "password": PASSWORD}
        assert client.post("/login", data=form, headers={"x-forwarded-for": forwarded}).status_code == 303
    assert seen == ["192.0.2.7", "testclient", "testclient"]


def test_nothing_leads_away_from_here(site):
    """No parameter, header or path makes a redirect to another host."""
    client = site.visit("ann")
    for path in (
        "//evil.example", "//evil.example/..", "/login?next=//evil.example", "/static", "/static//evil.example",
        "/work//evil.example", "/%2f%2fevil.example", "/\\evil.example", "/work/compare?next=https://evil.example",
    ):  # fmt: skip
        answer = client.get(path, headers={"x-forwarded-host": "evil.example", "referer": "https://evil.example"})
        there = answer.headers.get("location", "/")
        assert there.startswith((HERE + "/", "/")), (path, there)
        assert not there.startswith("//"), (path, there)
        assert "evil" not in there.split("?")[0] or there.startswith(HERE + "/static"), (path, there)


@pytest.mark.parametrize(
    "path",
    ["../app.py", "%2e%2e/app.py", "..%2fapp.py", "%2e%2e%2fapp.py", "....//app.py", "/etc/passwd", "..\\app.py",
     "%00", "templates/base.html", "../../../../../../etc/passwd", "x" * 3000],
)  # fmt: skip
def test_static_files_are_those_of_the_folder_and_no_others(site, path):
    answer = site.visit().get(f"/static/{path}")
    assert answer.status_code in (404, 405)
    assert "import" not in answer.text
    assert "root:" not in answer.text


def test_the_link_of_the_machine_is_good_only_there(site):
    assert site.visit().get("/enter/the-local-token").status_code == 303
    for wrong in ("x", "the-local-toke", "the-local-token2", "THE-LOCAL-TOKEN", "é"):
        assert site.visit().get(f"/enter/{quote(wrong)}").status_code == 404
    others = TestClient(create_app(site.store), base_url=HERE, follow_redirects=False)
    for wrong in ("the-local-token", "x"):
        assert others.get(f"/enter/{wrong}").status_code == 404
    assert others.get("/enter/").status_code == 404


# Bodies


def judge(site, client=None, **more):
    client = client or site.visit("ann")
    form = {"verdict": "0:3", "submission": "sent", **more}
    return site.post(client, f"/task/{site.held.id}", form)


def judgments(site):
    with site.store.database.reading() as connection:
        return list(connection.execute(select(tables.judgments).order_by(tables.judgments.c.number)).mappings())


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"verdict": ""}, 422),
        ({"verdict": "2:3"}, 422),
        ({"verdict": "-1:3"}, 422),
        ({"verdict": "0:9"}, 422),
        ({"verdict": "0:" + "9" * 9000}, 422),
        ({"verdict": "9" * 9000 + ":1"}, 422),
        ({"verdict": "0:٣٣٣٣٣٣٣٣٣٣"}, 422),
        ({"verdict": "\0"}, 422),
        ({"comment": "x" * 6000}, 422),
        ({"flags": "no-such-flag"}, 422),
        ({"submission": ""}, 409),
        ({"submission": "x" * 65}, 409),
        ({"submission": "first"}, 409),
        *(({"seconds": s}, 303) for s in ("-5", "1e400", "nan", "-inf", "inf", "1" * 400, "x", "0x10", "")),
        ({"comment": "\0\ud7ff\u202e😀"}, 303),
        ({"submission": "\0"}, 409),
    ],
)
def test_a_bad_answer_gets_a_page_that_says_what_is_wrong(site, change, status):
    before = len(judgments(site))
    answer = judge(site, **change)
    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text
    assert len(judgments(site)) == before + (status == 303)
    if status == 303 and "seconds" in change:
        seconds = judgments(site)[-1]["seconds"]
        assert seconds is None or 0 <= seconds < 600


def test_a_key_that_was_used_for_another_task_acknowledges_nothing(site):
    who = site.people["ann"]
    with pytest.raises(TooLate):
        submit(site.store, site.held.id, who, FORMS["compare"], submission="first")
    assert submit(site.store, site.held.id, who, FORMS["compare"], submission="second").submission == "second"


BODIES = {
    "json": ("application/json", b'{"verdict": "0:3"}', 415),
    "multipart": ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1', 415),
    "none": ("", b"verdict=0:3", 415),
    "bad percent": ("application/x-www-form-urlencoded", b"verdict=%zz%&%%%=1&=&&&", 403),
    "not utf-8": ("application/x-www-form-urlencoded; charset=utf-16", b"\xff\xfe\x00verdict=%ff%fe\xed\xa0\x80", 403),
    "surrogates": ("application/x-www-form-urlencoded", b"form_token=%ED%A0%80&verdict=%ED%A0%80", 403),
    "many fields": ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % i for i in range(2000)), 400),
    "same field": ("application/x-www-form-urlencoded", b"&".join([b"form_token=1"] * 2000), 400),
    "empty": ("application/x-www-form-urlencoded", b"", 403),
    "zeros": ("application/x-www-form-urlencoded", b"\0" * 1000, 403),
    "long": ("application/x-www-form-urlencoded", b"a=" + b"x" * MOST_BYTES, 413),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/login", "/task/{assignment}", "/people/invite"])
def test_a_body_that_is_no_form_is_refused(site, name, path):
    kind, body, status = BODIES[name]
    before = site.contents()
    answer = visitor_for(site, path).post(where(site, path), content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text
    assert site.contents() == before


def test_a_body_without_a_length_is_counted_as_it_comes(site):
    def chunks():
        for _ in range(MOST_BYTES // 10_000 + 10):
            yield b"x" * 10_000

    for path in ("/login", f"/task/{site.held.id}"):
        answer = site.visit("ann").post(path, content=chunks(), headers=FORM)
        assert answer.status_code == 413
    for length in ("-1", "1e3", "9" * 5000, "٣", str(MOST_BYTES + 1)):
        answer = asgi(site.app, "POST", "/login", {**FROM_HERE, **FORM, "content-length": length})
        assert answer[0]["status"] == 413, length


def asgi(app, method, path, headers, *, kind="http"):
    """The messages of one request, without a client that sets headers right."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    raw = [(k.encode(), v.encode("utf-8")) for k, v in {"host": "127.0.0.1", **headers}.items()]
    scope = {
        "type": kind, "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": raw,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "scheme": "http", "http_version": "1.1", "app": app,
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_other_methods_do_nothing(site, method):
    before = site.contents()
    for path in ("/", "/login", f"/task/{site.held.id}", "/static/plaudit.css", "/people", "/nowhere"):
        answer = site.visit("ada").request(method, path)
        assert 200 <= answer.status_code < 500
        assert answer.status_code in (403, 404, 405) or method == "HEAD"
    assert site.contents() == before


FIELDS = (
    "login", "password", "old", "new", "verdict", "submission", "comment", "reason", "annotator", "include", "open",
    "role", "what", "flags", "seconds", "message", "after",
)  # fmt: skip
ODD = ["%00", "\0", "%ff%fe", "%ed%a0%80", "..", "x" * 5000, "'; DROP TABLE tasks; --", "{{7*7}}", "😀", "-1", "nan"]


def test_odd_addresses_and_texts_break_no_page_on_either_database(database_place):
    site = make_site(Store.open(database_place))
    client = site.visit("ada")
    for value in ODD:
        for method, path in NEEDS:
            there = re.sub(r"{\w+}", lambda _, value=value: quote(value, safe="%"), path)
            if method == "GET":
                answer = client.get(f"{there}?after={quote(value, safe='%')}")
            elif path not in ("/logout", "/account/password"):
                answer = site.post(client, there, dict.fromkeys(FIELDS, value))
            assert answer.status_code < 500, (method, there, value)
    client = site.visit("ann")
    form = {"verdict": "tie", "submission": "x\0y", "comment": "a\0b"}
    assert site.post(client, f"/task/{site.held.id}", form).status_code == 303
    assert judgments(site)[-1]["comment"] == "ab"
    site.store.database.engine.dispose()


# What is sent back


def test_every_answer_has_the_headers_whatever_it_is(site, monkeypatch):
    client = site.visit("ada")
    answers = [client.get(path) for path in ("/", "/login", "/nowhere", "/static/task.js", "/static/no", "/task/x")]
    answers += [client.post("/login"), client.post("/", content=b"x" * (MOST_BYTES + 1)), client.put("/")]
    answers += [
        client.get("/", headers={"host": "evil.example"}),
        client.get("/people"),
        client.get("/research/compare"),
    ]
    monkeypatch.setattr(security.people, "session_of", lambda *a, **k: 1 / 0)
    answers.append(client.get("/"))
    assert answers[-1].status_code == 500
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (answer.url, name)
        assert "server" not in answer.headers
        assert "strict-transport-security" not in answer.headers
    safe = TestClient(create_app(site.store, secure=True), base_url="https://127.0.0.1")
    assert "max-age" in safe.get("/login").headers["strict-transport-security"]


def test_the_policy_lets_no_script_of_a_page_run_and_nothing_come_from_elsewhere():
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    for name in ("script-src", "style-src", "img-src", "connect-src", "form-action"):
        assert policy[name] == "'self'", name
    assert set(policy) == {
        "default-src", "script-src", "style-src", "img-src", "connect-src", "form-action", "base-uri",
        "frame-ancestors",
    }  # fmt: skip


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_no_template_needs_what_the_policy_forbids(template):
    source = template.read_text(encoding="utf-8")
    markup = re.sub(r"{{.*?}}|{%.*?%}", "", source, flags=re.S)
    for tag in re.findall(r"<[a-zA-Z][^>]*>", markup):
        assert not re.search(r"\s(on\w+|style|srcdoc)\s*=", tag, re.I), tag
    assert not re.search(r"<script(?![^>]*\bsrc=)", markup, re.I)
    assert not re.search(r"<(style|iframe|object|embed|base)\b", markup, re.I)
    assert not re.search(r"(src|href|action)=\"(?!/|#|\")", markup), "from elsewhere"
    assert "|safe" not in source.replace(" ", "")
    assert "javascript:" not in source
    assert not re.search(r"{%-?\s*autoescape", source)


def test_no_script_makes_code_or_markup_of_text():
    scripts = list(STATIC.glob("*.js"))
    assert len(scripts) == 4
    for script in scripts:
        source = script.read_text(encoding="utf-8")
        assert not re.search(r"\beval\(|new Function|document\.write|insertAdjacentHTML|https?://", source), script.name
        written = re.findall(r"\.innerHTML\s*=\s*([^;]+);", source)
        assert all(what.startswith("await answer.text()") for what in written), (script.name, written)


EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'`{{7*7}}"


def test_what_people_write_is_text_on_the_pages_of_others(site):
    """A comment, a skip's reason, a decision's reason, a guideline, a prompt and an answer: on every page of all."""
    with site.store.database.writing() as connection:
        connection.execute(update(tables.campaigns).values(guideline=EVIL))
        connection.execute(update(tables.responses).values(text=EVIL + "[x](javascript:alert(1))"))
        connection.execute(update(tables.prompts).values(messages=[{"role": "user", "content": EVIL}]))
    ann = site.visit("ann")
    judge(site, ann, comment=EVIL, flags="spam")
    held = claim(site.store, "compare", site.people["ann"])
    site.post(ann, f"/task/{held.id}/skip", {"reason": EVIL})
    rhea = site.visit("rhea")
    decision = {"annotator": site.people["ann"], "include": "yes", "reason": EVIL}
    assert site.post(rhea, "/research/compare/decide", decision).status_code == 303
    pages = [
        rhea.get("/research/compare"), rhea.get("/research/compare/live"), rhea.get("/research"), rhea.get("/people"),
        ann.get("/"), ann.get("/mine/compare"), site.visit("bob").get(f"/task/{site.bobs.id}"),
        site.post(rhea, "/research/compare/decide", {"annotator": EVIL, "include": "yes", "reason": EVIL}),
        log_in(site, site.visit(), EVIL, "x"), site.visit().get(f"/join/{quote(EVIL)}"),
        site.post(ann, f"/task/{site.bobs.id}", {"verdict": EVIL, "comment": EVIL}),
    ]  # fmt: skip
    assert [pages[i].text.count("&lt;script&gt;") > 0 for i in (0, 1, 4, 5, 6, 8)] == [True] * 6
    for page in pages:
        assert "<script>alert" not in page.text
        assert not re.search(r"<img[^>]*onerror", page.text)
        assert "49" not in re.findall(r"`(\d+)", page.text)
        assert 'href="javascript:' not in page.text


def test_a_name_is_made_of_letters_that_need_no_escaping(site):
    client = site.visit()
    client.get("/login")
    data = {"form_token": client.cookies["plaudit-form"], "login": EVIL, "password": PASSWORD}
    answer = client.post(where(site, "/join/{token}"), data=data)
    assert answer.status_code == 422
    assert "<script>alert" not in answer.text


# When something fails


@pytest.mark.parametrize("page", ["/", "/login", "/work/compare"])
def test_a_database_that_is_gone_gives_a_page_without_what_is_inside(site, page, caplog):
    client = site.visit("ann")
    token = client.cookies["plaudit"]
    with site.store.database.writing() as connection:
        connection.execute(text("ALTER TABLE sessions RENAME TO gone"))
        connection.execute(text("ALTER TABLE campaigns RENAME TO lost"))
    answer = client.get(page)
    assert answer.status_code == 503
    assert "does not answer" in answer.text
    for word in ("sqlite", "SELECT", "sessions", "Traceback", token, str(site.store.database.name)):
        assert word not in answer.text
    assert "a request failed" in caplog.text
    assert token not in caplog.text
    assert people._digest(token) not in caplog.text


def test_a_locked_database_is_said_to_be_one_and_the_judgment_is_not_acknowledged(site, monkeypatch):
    def locked(*args, **kwargs):
        raise OperationalError("INSERT INTO judgments", {"comment": "a secret"}, Exception("database is locked"))

    client = site.visit("ann")
    monkeypatch.setattr("plaudit.collect.judging.submit", locked)
    answer = judge(site, client)
    assert answer.status_code == 503
    assert "Nothing of this was kept" in answer.text
    assert "secret" not in answer.text
    assert "locked" not in answer.text


def test_an_error_names_no_secret_in_what_the_server_writes(tmp_path, caplog):
    """The database's errors would else show the values: password hashes, tokens, names."""
    store = Store.open(tmp_path / "feedback.sqlite")
    row = {"annotator": "none", "login": "rosa", "role": "x", "state": "x", "created": "x"}
    added = tables.accounts.insert().values(**row, password_hash="$argon2id$secret")
    with store.database.writing() as connection, pytest.raises(IntegrityError, match="hide_parameters") as failed:
        connection.execute(added)
    assert "secret" not in str(failed.value)


def test_an_error_in_the_middle_of_an_answer_ends_it(caplog):
    async def broken(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("in the middle")

    guard = Guard(broken, hosts=frozenset({"127.0.0.1"}), secure=False, explain=lambda *a: pytest.fail("too late"))
    with pytest.raises(ValueError, match="in the middle"):
        asgi(guard, "GET", "/", {})


def test_websockets_are_refused_and_the_lifespan_goes_through(site):
    for path in ("/", "/static/x", "/people"):
        with pytest.raises(WebSocketDisconnect), site.visit("ada").websocket_connect(path):
            pass
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    guard = Guard(inner, hosts=frozenset(), secure=False, explain=lambda *a: None)
    asyncio.run(guard({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
    with TestClient(site.app, base_url=HERE) as client:
        assert client.get("/login").status_code == 200


def test_secrets_are_in_no_log_page_table_or_audit(site, caplog):
    caplog.set_level(logging.DEBUG)
    client, ada = site.visit(), site.visit("ada")
    log_in(site, client, "ann", "a wrong password of ann's")
    log_in(site, client)
    session = client.cookies["plaudit"]
    site.post(client, "/account/password", {"old": PASSWORD, "new": "the next password of ann"})
    page = site.post(ada, "/people/invite", {"role": "admin"}).text
    invitation = re.search(r"/join/([\w-]+)", page)[1]
    ada.get(f"/join/{invitation}")
    with site.store.database.reading() as connection:
        hashes = [hashed for hashed in connection.scalars(select(tables.accounts.c.password_hash)) if hashed]
        tokens = list(connection.scalars(select(tables.sessions.c.token_hash)))
        chain = str(connection.execute(select(tables.audit)).all())
        assert audit.check(connection).first_broken is None
    secrets = [PASSWORD, "a wrong password of ann's", "the next password of ann", session, invitation]
    secrets += [client.cookies["plaudit"], ada.cookies["plaudit"]]
    logged = "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "sqlalchemy"))
    )
    pages = "".join(ada.get(p).text for p in ("/people", "/research/compare", "/", "/account"))
    for secret in secrets:
        assert secret not in site.contents(but=())
        assert secret not in logged
        assert secret not in pages
    for kept in (*hashes, *tokens):
        assert kept not in chain
        assert kept not in pages
    assert "ann" not in json.dumps([p for p in re.findall(r"'(\{.*?\})'", chain) if "login" in p])


def test_the_audit_names_pseudonyms_alone(site):
    with site.store.database.reading() as connection:
        rows = connection.execute(select(tables.audit.c.actor, tables.audit.c.details)).tuples().all()
    said = {word for row in rows for part in row for word in re.findall(r"[\w-]+", part)}
    assert set(site.people.values()) <= said
    assert not said & set(site.people)


def test_an_invitation_page_is_one_time_and_says_nothing_of_others(site):
    token = people.invite(site.store, "admin", actor="test", days=0.0001, at=time.time() - 60)
    assert site.visit().get(f"/join/{token}").status_code == 404
    used = where(site, "/join/{token}")
    client = site.visit()
    client.get(used)
    data = {"form_token": client.cookies["plaudit-form"], "login": "once", "password": PASSWORD}
    assert client.post(used, data=data).status_code == 303
    assert site.visit().get(used).status_code == 404
    client.cookies.delete("plaudit")
    assert client.post(used, data={**data, "login": "twice"}).status_code == 404
    with site.store.database.reading() as connection:
        assert held_by(connection, site.held.id, site.people["bob"]) is None
