"""Talking with two models at once: a person writes, both answer, and the person says which answer is better.

The answers, and what was said of them, stand in the store as those of any campaign that compares two policies: blind,
in random order, in the same log and the same figures.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

from sqlalchemy import Connection, select

from plaudit.collect import audit
from plaudit.collect.assignment import Assignment, lease, screening_of
from plaudit.collect.campaigns import (
    Campaign,
    CampaignSettings,
    NewTask,
    find_campaign,
    insert_campaign,
    is_campaign,
    task_row,
)
from plaudit.errors import DataError
from plaudit.guidelines import PLAIN_GUIDELINES
from plaudit.records import Message, Prompt, Response, content_id
from plaudit.store import Store, tables
from plaudit.store.database import insert_rows
from plaudit.store.rows import split_of
from plaudit.timing import now

MOST_CHARACTERS = 8_000
"""Most characters of a message."""
MOST_TURNS = 20
"""Most messages of a conversation, the person's and the models' together."""


class Policies(Protocol):
    """Two or more models that can answer."""

    @property
    def names(self) -> Sequence[str]:
        """The models' names in the lineage."""
        ...

    @property
    def held_out_share(self) -> float:
        """Part of the conversations that are kept out of training, as of imported prompts."""
        ...

    def answer(self, name: str, conversation: list[Message], *, seed: int) -> Response:
        """What one of them says next; its id and prompt are set by who asks. Raises DataError if it has no room."""
        ...


def ensure_arena(store: Store, name: str, policies: Sequence[str], *, actor: str) -> None:
    """Make the campaign that the judgments stand in, unless it is there. Raises DataError if it is of another kind."""
    with store.database.writing() as connection:
        if is_campaign(connection, name):
            if find_campaign(connection, name).kind != "compare":
                raise DataError(f"campaign `{name}` does not compare answers; choose another name for the arena.")
            return
        settings = CampaignSettings(screening_tasks=0, gold_every=0, random_share=1.0)
        insert_campaign(
            connection, Campaign(name, "compare", "", PLAIN_GUIDELINES["compare"], settings, None, True, now())
        )
        audit.record(connection, actor, "arena created", campaign=name, policies=list(policies))


def begin_match(
    store: Store, campaign: str, annotator: str, conversation: list[Message], policies: Policies
) -> Assignment:
    """Have two of the policies, drawn by chance, answer a conversation; the task to say which answer is better.

    Raises DataError for an empty or too long message, too long a conversation, a closed campaign, or a person who may
    not work there; then no model is asked.
    """
    _check(conversation)
    with store.database.reading() as connection:
        found = find_campaign(connection, campaign)
        if not found.is_open:
            raise DataError("The arena is closed.")
        if not screening_of(connection, found, annotator).is_admitted:
            raise DataError("You cannot work here until a researcher has looked at your work.")
    chosen = secrets.SystemRandom().sample(list(policies.names), 2)
    prompt = Prompt(conversation, split_of(conversation, policies.held_out_share), source="arena")
    nonce = secrets.token_hex(4)
    responses = []
    for place, name in enumerate(chosen):
        said = policies.answer(name, conversation, seed=secrets.randbelow(2**31))
        values = {**asdict(said), "id": f"{said.run}:{content_id(prompt.id, nonce, place)}", "prompt_id": prompt.id}
        responses.append(Response(**values))
    with store.database.writing() as connection:
        found = find_campaign(connection, campaign)
        if not found.is_open:
            raise DataError("The arena is closed.")
        insert_rows(connection, tables.prompts, [asdict(prompt)])
        insert_rows(connection, tables.responses, [asdict(response) for response in responses])
        row = task_row(campaign, found.settings, NewTask(prompt.id, tuple(r.id for r in responses)))
        connection.execute(tables.tasks.insert().values(**{**row, "open_slots": 1}))
        task = connection.execute(select(tables.tasks).where(tables.tasks.c.id == row["id"])).one()
        return lease(connection, found, annotator, time.time(), task, 0)


def conversation_after(store: Store, assignment: str, annotator: str) -> list[Message]:
    """What has been said, with the answer that the person chose; nothing where there is no such judgment of theirs.

    After a tie the answer that was shown first goes on.
    """
    with store.database.reading() as connection:
        return _after(connection, assignment, annotator)


def _after(connection: Connection, assignment: str, annotator: str) -> list[Message]:
    judgments, prompts, responses = tables.judgments.c, tables.prompts.c, tables.responses.c
    mine = (judgments.assignment == assignment, judgments.annotator == annotator)
    newest = select(judgments.answer, judgments.shown, judgments.task).where(*mine).order_by(judgments.number.desc())
    found = connection.execute(newest.limit(1)).first()
    if found is None or not found.answer or "choice" not in found.answer:
        return []
    chosen = found.answer["choice"] if found.answer["choice"] in found.shown else found.shown[0]
    text = connection.scalar(select(responses.text).where(responses.id == chosen))
    asked = select(prompts.messages).join(tables.tasks, tables.tasks.c.prompt_id == prompts.id)
    messages = connection.scalar(asked.where(tables.tasks.c.id == found.task))
    return [*(messages or []), {"role": "assistant", "content": text or ""}]


def _check(conversation: list[Message]) -> None:
    said = conversation[-1]["content"]
    if not said.strip() or "\0" in said:
        raise DataError("Write something first.")
    if len(said) > MOST_CHARACTERS:
        raise DataError(f"The message has {len(said)} characters; at most {MOST_CHARACTERS} can be sent.")
    if len(conversation) > MOST_TURNS:
        raise DataError("This conversation is long enough. Start another.")
