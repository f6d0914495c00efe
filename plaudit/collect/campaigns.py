"""What people are asked: a campaign is one kind of task by one criterion, with its guideline and its rules."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Connection, func, select, update

from plaudit.collect import audit
from plaudit.collect.kinds import KINDS, Answer
from plaudit.config.section import NotNegative, Positive, Section, Share
from plaudit.errors import DataError, nearest
from plaudit.guidelines import guideline_for
from plaudit.records import Prompt, Response, content_id, unit_interval
from plaudit.store import Store, tables
from plaudit.store.database import insert_rows
from plaudit.timing import now

NAME = r"[a-z0-9][a-z0-9-]{0,47}"


class CampaignSettings(Section):
    """The rules of a campaign."""

    people_per_task: Positive = 1
    """How many people judge each task; agreement needs 2 or more."""
    lease_minutes: Positive = 30
    """How long a task is held for somebody who does nothing; a page that is open renews it."""
    random_share: Share = 0.2
    """Part of the tasks set apart by chance, in random order, whatever their priority: estimates from these alone are
    unbiased. Also the chance that the next task comes from them."""
    gold_every: NotNegative = 15
    """On average one in so many tasks is gold, unseen as such; 0 for none."""
    screening_tasks: NotNegative = 20
    """Gold tasks of the test before the work, or as many as there are; 0 for no test."""
    pass_mark: Share = 0.75
    """Share of the test that must be right (Ouyang et al. 2022, appendix B.1: 75 % agreement)."""
    pause_window: Positive = 30
    """Newest gold tasks by which somebody is paused."""
    pause_below: Share = 0.75
    """Somebody is paused when the upper end of the 95 % interval of that accuracy is under this."""
    scale: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(le=100)]] = (1, 7)
    """Lowest and highest rating."""
    is_markdown: bool = True
    """Show what in an answer is plainly Markdown as such, rather than all as it was written."""
    researchers_check: bool = False
    """Researchers and administrators judge what annotators have judged, beside the slots, for agreement with them;
    otherwise they work as everybody does. Neither has to pass the test."""


@dataclass(frozen=True)
class Campaign:
    """The campaign's row in the store."""

    name: str
    kind: str
    criterion: str
    guideline: str
    settings: CampaignSettings
    round: int | None
    is_open: bool
    created: str

    @property
    def guideline_id(self) -> str:
        """Hash of the text that is shown, kept with every judgment."""
        return content_id(self.guideline)


def _campaign(row: dict[str, Any]) -> Campaign:
    return Campaign(**{**row, "settings": CampaignSettings(**row["settings"])})


def all_campaigns(connection: Connection) -> list[Campaign]:
    """Oldest first."""
    rows = connection.execute(select(tables.campaigns).order_by(tables.campaigns.c.created, tables.campaigns.c.name))
    return [_campaign(dict(row)) for row in rows.mappings()]


def find_campaign(connection: Connection, name: str) -> Campaign:
    """Raises DataError, with the nearest name, when there is none."""
    found = connection.execute(select(tables.campaigns).where(tables.campaigns.c.name == name)).mappings().first()
    if found is None:
        known = [campaign.name for campaign in all_campaigns(connection)]
        raise DataError(f"there is no campaign `{name}`.{nearest(name, known)} See `plaudit campaign list`.")
    return _campaign(dict(found))


def is_campaign(connection: Connection, name: str) -> bool:
    """Whether there is one of that name."""
    return bool(connection.scalar(select(func.count()).where(tables.campaigns.c.name == name)))


def insert_campaign(connection: Connection, campaign: Campaign) -> None:
    """Keep a campaign whose name nobody has."""
    settings = campaign.settings.model_dump(mode="json")
    connection.execute(tables.campaigns.insert().values(**{**vars(campaign), "settings": settings}))


@dataclass(frozen=True)
class NewTask:
    """A prompt with the responses that are to be judged together; none to write a demonstration."""

    prompt: str
    responses: tuple[str, ...] = ()
    priority: float = 0.0


def create_campaign(
    store: Store,
    name: str,
    *,
    kind: str,
    tasks_: Iterable[NewTask],
    criterion: str = "",
    guideline: str = "",
    settings: CampaignSettings | None = None,
    round_number: int | None = None,
    policy: str = "",
    actor: str = "command line",
) -> int:
    """Make a campaign with its tasks, whole or not at all; returns the number of tasks.

    Raises DataError for a name that is taken or ill-formed, an unknown kind, or nothing to judge.
    """
    if not re.fullmatch(NAME, name):
        raise DataError(f"`{name}` cannot be a campaign's name: small letters, digits and hyphens, at most 48.")
    if kind not in KINDS:
        raise DataError(f"unknown kind of task `{kind}`; known: {', '.join(KINDS)}.{nearest(kind, KINDS)}")
    settings = settings or CampaignSettings()
    text = guideline.strip() or guideline_for(kind, criterion)
    with store.database.writing() as connection:
        if is_campaign(connection, name):
            raise DataError(f"there is a campaign `{name}` already; choose another name.")
        if round_number is not None:
            row = {"number": round_number, "policy": policy, "created": now()}
            insert_rows(connection, tables.rounds, [row])
        made = Campaign(name, kind, criterion, text, settings, round_number, True, now())
        insert_campaign(connection, made)
        rows = [task_row(name, settings, task) for task in tasks_]
        added = insert_rows(connection, tables.tasks, rows)
        if not added:
            raise DataError(f"there is nothing to ask in campaign `{name}`: no prompt has what a `{kind}` task needs.")
        audit.record(connection, actor, "campaign created", campaign=name, kind=kind, criterion=criterion, tasks=added)
    return added


def task_row(campaign: str, settings: CampaignSettings, task: NewTask) -> dict[str, Any]:
    """A row of the task table, to be judged by as many people as the campaign asks for."""
    identity = content_id(campaign, task.prompt, sorted(task.responses))
    return {
        "id": identity, "campaign": campaign, "prompt_id": task.prompt, "responses": sorted(task.responses),
        "open_slots": settings.people_per_task,
        "is_random": unit_interval("random", identity) < settings.random_share,
        "priority": task.priority, "draw": unit_interval("draw", identity),
        "gold": None, "is_screening": False, "explanation": "",
    }  # fmt: skip


def plan_tasks(
    kind: str, prompts: Sequence[Prompt], responses: Sequence[Response], *, most_per_task: int = 4
) -> tuple[list[NewTask], int]:
    """(tasks from sampled responses, how many prompts have too few different ones).

    compare: all pairs of a prompt's different responses; rank: up to `most_per_task` of them together; rate, safety and
    edit: one response a task; demonstrate: one prompt a task.
    """
    if kind == "demonstrate":
        return [NewTask(prompt.id) for prompt in prompts], 0
    by_prompt: dict[str, dict[str, str]] = defaultdict(dict)  # prompt -> text -> response
    for response in sorted(responses, key=lambda r: r.id):
        if response.text.strip():
            by_prompt[response.prompt_id].setdefault(response.text, response.id)
    planned, too_few = [], 0
    for prompt in prompts:
        different = list(by_prompt[prompt.id].values())
        if kind == "compare":
            found = [NewTask(prompt.id, pair) for pair in combinations(different, 2)]
        elif kind == "rank":
            together = tuple(different[:most_per_task])
            found = [NewTask(prompt.id, together)] if len(together) >= KINDS[kind].fewest else []
        else:
            found = [NewTask(prompt.id, (response,)) for response in different]
        too_few += not found
        planned += found
    return planned, too_few


def add_gold(
    store: Store, campaign: str, known: Sequence[tuple[NewTask, Answer, str]], *, screening: bool, actor: str
) -> int:
    """Add tasks whose answer is known: (task, answer, what is explained after the test); returns how many are new.

    screening   for the test before the work; else they are slipped in among it
    """
    with store.database.writing() as connection:
        found = find_campaign(connection, campaign)
        if KINDS[found.kind].is_right is None:
            raise DataError(f"`{found.kind}` tasks have no right answer, so they cannot be gold.")
        rows = []
        for task, answer, explanation in known:
            row = task_row(campaign, found.settings, task)
            gold = {"gold": answer, "is_screening": screening, "explanation": explanation, "open_slots": 0}
            rows.append({**row, **gold, "id": content_id("gold", row["id"])})
        added = insert_rows(connection, tables.tasks, rows)
        audit.record(connection, actor, "gold added", campaign=campaign, tasks=added, screening=screening)
    return added


def set_open(connection: Connection, campaign: str, is_open: bool, *, actor: str) -> None:
    """Open a campaign, or close it: no task is given out, but what is held may still be submitted."""
    connection.execute(update(tables.campaigns).where(tables.campaigns.c.name == campaign).values(is_open=is_open))
    audit.record(connection, actor, "campaign opened" if is_open else "campaign closed", campaign=campaign)


def set_priorities(store: Store, campaign: str, priorities: dict[str, float], *, source: str, actor: str) -> int:
    """Order the tasks of a campaign anew: task id -> priority, the largest first; returns how many were changed.

    The random share keeps its own order, by chance. `source` says what the priorities come from.
    """
    changed = 0
    column = tables.tasks.c
    with store.database.writing() as connection:
        for task, priority in priorities.items():
            mine = (column.id == task, column.campaign == campaign, column.is_random.is_(False))
            changed += connection.execute(update(tables.tasks).where(*mine).values(priority=priority)).rowcount
        audit.record(connection, actor, "priorities set", campaign=campaign, tasks=changed, source=source)
    return changed
