"""Who may log in, and as whom: invitations, passwords, sessions.

A person has a pseudonym, which stands in every judgment and export, and a login, which stands in one table and can be
removed. Passwords are kept as argon2id hashes; of sessions and invitations only a SHA-256 is kept, so that a copy of
the database opens no door.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, delete, func, or_, select, update

from plaudit.collect import audit
from plaudit.errors import DataError, PlauditError
from plaudit.store import Store, tables
from plaudit.store.database import insert_rows
from plaudit.timing import now

Role = Literal["annotator", "researcher", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what the ones before it may."""
LOGIN = r"[A-Za-z0-9][A-Za-z0-9._@+-]{1,63}"
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 200
IDLE_HOURS, SESSION_DAYS = 12, 7
FAILURES, FAILURE_MINUTES = 5, 10
"""Wrong passwords for one login (ten times as many from one address) within so many minutes, before it must wait."""
_hasher = PasswordHasher()
_hashing = threading.Semaphore(4)
"""Each takes 64 MiB: strangers must not fill the memory by coming all at once."""
_NOBODY = _hasher.hash(secrets.token_urlsafe())
"""Verified for a login that nobody has, so that the answer takes as long."""


class LoginRefused(PlauditError):
    """Wrong login or password, or too many attempts."""


class TooOften(LoginRefused):
    """Too many attempts: not even looked at."""


@dataclass(frozen=True)
class Person:
    """Somebody who has come in."""

    annotator: str
    login: str | None
    role: Role
    state: str
    created: str

    def may(self, role: Role) -> bool:
        """Has this role, or one above it."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True)
class Session:
    """Somebody's visit."""

    person: Person
    form_token: str
    """Must come back with every form."""


def invite(store: Store, role: Role, *, actor: str, days: float = 7, at: float | None = None) -> str:
    """A token by which one person may make an account of a role, once, within so many days."""
    at = time.time() if at is None else at
    token = secrets.token_urlsafe(24)
    with store.database.writing() as connection:
        row = {"token_hash": _digest(token), "role": role, "created_by": actor, "created": now(), "used_by": None}
        connection.execute(tables.invitations.insert().values(**row, expires=at + days * 86400))
        audit.record(connection, actor, "invited", role=role)
    return token


def invitation_role(store: Store, token: str, *, at: float | None = None) -> Role | None:
    """What an invitation is for; None when it is unknown, used or too old."""
    with store.database.reading() as connection:
        return _invited(connection, token, time.time() if at is None else at)


def _invited(connection: Connection, token: str, at: float) -> Role | None:
    column = tables.invitations.c
    valid = (column.token_hash == _digest(token), column.used_by.is_(None), column.expires > at)
    role = connection.scalar(select(column.role).where(*valid))
    return next((known for known in ROLES if known == role), None)


def join(store: Store, token: str, login: str, password: str, *, at: float | None = None) -> Person:
    """Make an account with an invitation, which is used up.

    Raises DataError for an invitation that does not hold, a login that is taken or ill-formed, or a weak password.
    """
    at = time.time() if at is None else at
    not_valid = "This invitation is not valid: it was used, has run out, or was never given. Ask for one."
    if invitation_role(store, token, at=at) is None:
        raise DataError(not_valid)
    _check(login, password)
    hashed = _hash(password)
    with store.database.writing() as connection:
        role = _invited(connection, token, at)
        if role is None:
            raise DataError(not_valid)
        if connection.scalar(select(func.count()).where(tables.accounts.c.login == login.lower())):
            raise DataError(f"The name {login} is taken; choose another.")
        person = _add(connection, login.lower(), hashed, role)
        used = update(tables.invitations).where(
            tables.invitations.c.token_hash == _digest(token), tables.invitations.c.used_by.is_(None)
        )
        if not connection.execute(used.values(used_by=person.annotator)).rowcount:
            raise DataError("This invitation has already been used. Ask for another.")
        audit.record(connection, person.annotator, "joined", role=role)
    return person


def local_person(store: Store) -> Person:
    """Whoever sits at this machine: an administrator without a password, who can come in from this machine alone."""
    with store.database.writing() as connection:
        row = connection.execute(select(tables.accounts).where(tables.accounts.c.annotator == "local")).mappings()
        found = row.first()
        return _person(dict(found)) if found else _add(connection, None, "", "admin", annotator="local")


def _add(connection: Connection, login: str | None, hashed: str, role: Role, *, annotator: str = "") -> Person:
    annotator = annotator or f"annotator-{secrets.token_hex(4)}"
    insert_rows(connection, tables.annotators, [{"name": annotator, "kind": "person", "parameters": {"role": role}}])
    row = {"annotator": annotator, "login": login, "role": role, "state": "active", "created": now()}
    connection.execute(tables.accounts.insert().values(**row, password_hash=hashed))
    return _person(row)


def _check(login: str, password: str) -> None:
    if not re.fullmatch(LOGIN, login):
        raise DataError("A name has 2 to 64 letters, digits or . _ @ + - and begins with a letter or digit.")
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise DataError(f"A password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters.")
    if password.lower() in (login.lower(), login.lower() * 2) or len(set(password)) < 4:
        raise DataError("This password is too easy to guess; several words in a row make a good one.")


def log_in(store: Store, login: str, password: str, *, address: str, at: float | None = None) -> str:
    """A new session's token. Raises LoginRefused, in the same words and time whoever is meant."""
    at = time.time() if at is None else at
    annotator = _prove(store, login.lower()[:128], password, address=address, at=at)
    with store.database.writing() as connection:
        audit.record(connection, annotator, "logged in")
    return open_session(store, annotator, at=at)


def _prove(store: Store, login: str, password: str, *, address: str, at: float) -> str:
    """Whose name and password these are.

    An attempt counts as a failure before it is looked at, and is taken back when it was none: otherwise many at once
    would all be looked at before the first is counted.
    """
    failures = tables.login_failures
    by_login, by_address = _digest(f"login {login}"), _digest(f"address {address}")
    with store.database.writing_in_turn() as connection:
        connection.execute(delete(failures).where(failures.c.at < at - 60 * FAILURE_MINUTES))
        for subject, most in ((by_login, FAILURES), (by_address, 10 * FAILURES)):
            if (connection.scalar(select(func.count()).where(failures.c.subject == subject)) or 0) >= most:
                raise TooOften(f"Too many attempts. Wait {FAILURE_MINUTES} minutes, then try again.")
        connection.execute(failures.insert().values(subject=by_login, at=at))
        mine = connection.execute(failures.insert().values(subject=by_address, at=at)).inserted_primary_key
        row = connection.execute(select(tables.accounts).where(tables.accounts.c.login == login)).mappings().first()
    matches = _matches(row["password_hash"] if row else _NOBODY, password[:LONGEST_PASSWORD])
    if row is None or not matches or row["state"] == "closed":
        raise LoginRefused("This name and password do not belong together.")
    with store.database.writing() as connection:
        assert mine is not None
        connection.execute(delete(failures).where(or_(failures.c.subject == by_login, failures.c.number == mine[0])))
    return str(row["annotator"])


def _hash(password: str) -> str:
    with _hashing:
        return _hasher.hash(password)


def _matches(hashed: str, password: str) -> bool:
    with _hashing:
        try:
            return _hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False


def open_session(store: Store, annotator: str, *, at: float | None = None) -> str:
    """A new token for a person who has shown who they are; an old one is never taken over."""
    at = time.time() if at is None else at
    token = secrets.token_urlsafe(32)
    row = {"token_hash": _digest(token), "annotator": annotator, "form_token": secrets.token_urlsafe(24)}
    times = {"created": at, "seen": at, "expires": at + SESSION_DAYS * 86400}
    with store.database.writing() as connection:
        connection.execute(delete(tables.sessions).where(tables.sessions.c.expires < at))
        connection.execute(tables.sessions.insert().values(**row, **times))
    return token


def session_of(store: Store, token: str, *, at: float | None = None) -> Session | None:
    """The visit behind a token; None when it is unknown, over or idle for too long, or the account is closed."""
    at = time.time() if at is None else at
    sessions, accounts = tables.sessions, tables.accounts
    query = (
        select(accounts, sessions.c.form_token, sessions.c.seen)
        .join(sessions, sessions.c.annotator == accounts.c.annotator)
        .where(sessions.c.token_hash == _digest(token), sessions.c.expires > at)
        .where(sessions.c.seen > at - IDLE_HOURS * 3600, accounts.c.state != "closed")
    )
    with store.database.reading() as connection:
        row = connection.execute(query).mappings().first()
    if row is None:
        return None
    if row["seen"] < at - 300:  # not at every request: a reader need not wait for a writer
        with store.database.writing() as connection:
            mine = update(sessions).where(sessions.c.token_hash == _digest(token))
            connection.execute(mine.values(seen=at))
    return Session(_person(dict(row)), row["form_token"])


def close_session(store: Store, token: str) -> None:
    """Forget a session."""
    with store.database.writing() as connection:
        connection.execute(delete(tables.sessions).where(tables.sessions.c.token_hash == _digest(token)))


def change_password(store: Store, annotator: str, old: str, new: str) -> None:
    """Raises LoginRefused for a wrong old password, DataError for a weak new one. Ends every session of the person."""
    with store.database.reading() as connection:
        row = connection.execute(select(tables.accounts).where(tables.accounts.c.annotator == annotator)).one()
    try:  # counted as a login is: a session that was left open is no place to guess from
        _prove(store, row.login or "", old, address=f"session of {annotator}", at=time.time())
    except TooOften:
        raise
    except LoginRefused:
        raise LoginRefused("The old password is not right.") from None
    _check(row.login, new)
    hashed = _hash(new)
    with store.database.writing() as connection:
        mine = tables.accounts.c.annotator == annotator
        connection.execute(update(tables.accounts).where(mine).values(password_hash=hashed))
        connection.execute(delete(tables.sessions).where(tables.sessions.c.annotator == annotator))
        audit.record(connection, annotator, "password changed")


def everybody(connection: Connection) -> list[Person]:
    """All accounts, oldest first."""
    rows = connection.execute(select(tables.accounts).order_by(tables.accounts.c.created, tables.accounts.c.annotator))
    return [_person(dict(row)) for row in rows.mappings()]


def set_state(store: Store, annotator: str, state: Literal["active", "closed"], *, actor: str) -> None:
    """Close an account, which ends its sessions at once, or open it again. Raises DataError for nobody's."""
    with store.database.writing() as connection:
        _change(connection, annotator, {"state": state})
        audit.record(connection, actor, f"account {state}", annotator=annotator)


def set_role(store: Store, annotator: str, role: Role, *, actor: str) -> None:
    """Give another role; the person has to log in again. Raises DataError for nobody's."""
    with store.database.writing() as connection:
        _change(connection, annotator, {"role": role})
        audit.record(connection, actor, "role changed", annotator=annotator, role=role)


def withdraw(store: Store, annotator: str, *, actor: str, keep_judgments: bool) -> None:
    """Remove what names a person, for good; the pseudonym stays.

    keep_judgments   False: what they said is kept, as everything is, but trains nothing from now on
    """
    with store.database.writing() as connection:
        _change(connection, annotator, {"login": None, "password_hash": "", "state": "closed"})
        if not keep_judgments:
            decide(connection, annotator, False, reason="withdrew", actor=actor)
        audit.record(connection, actor, "withdrawn", annotator=annotator, keep_judgments=keep_judgments)


def _change(connection: Connection, annotator: str, values: dict[str, str | None]) -> None:
    mine = tables.accounts.c.annotator == annotator
    if not connection.execute(update(tables.accounts).where(mine).values(**values)).rowcount:
        raise DataError(f"there is no account `{annotator}`. See `plaudit people list`.")
    connection.execute(delete(tables.sessions).where(tables.sessions.c.annotator == annotator))


def decide(
    connection: Connection,
    annotator: str,
    is_included: bool,
    *,
    reason: str,
    actor: str,
    about: Literal["training", "admission"] = "training",
    campaign: str = "",
) -> None:
    """Keep a decision: whether an annotator's judgments train, or whether they may work; and why.

    Raises DataError without a reason, or for an annotator that the store does not know.
    """
    if not reason.strip():
        raise DataError("say why: a decision about somebody's work is kept with its reason.")
    if not connection.scalar(select(func.count()).where(tables.annotators.c.name == annotator)):
        raise DataError(f"there is no annotator `{annotator}`.")
    row = {"about": about, "annotator": annotator, "campaign": campaign, "is_included": is_included}
    connection.execute(tables.decisions.insert().values(**row, reason=reason.strip(), decided_by=actor, created=now()))
    audit.record(connection, actor, "decided", **row, reason=reason.strip())


def _person(row: Mapping[str, object]) -> Person:
    names = ("annotator", "login", "role", "state", "created")
    return Person(**{name: row[name] for name in names})  # type: ignore[arg-type]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
