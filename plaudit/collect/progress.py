"""How far a campaign is."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from plaudit.collect.campaigns import Campaign
from plaudit.store import tables


@dataclass(frozen=True)
class Progress:
    """Counts of a campaign; gold apart."""

    tasks: int
    slots: int
    """Judgments that were asked for: people times tasks."""
    judgments: int
    """Slots whose judgment has been submitted."""
    leased: int
    """Slots in somebody's hands."""


def progress_of(connection: Connection, campaign: Campaign) -> Progress:
    """Counted in the database."""
    tasks, assignments = tables.tasks.c, tables.assignments.c
    real = (tasks.campaign == campaign.name, tasks.gold.is_(None))
    number = connection.scalar(select(func.count()).where(*real))
    still_open = connection.scalar(select(func.sum(tasks.open_slots)).where(*real, tasks.open_slots > 0))
    leased = connection.scalar(
        select(func.count()).where(
            assignments.campaign == campaign.name, assignments.state == "leased", assignments.slot.is_not(None)
        )
    )
    slots = (number or 0) * campaign.settings.people_per_task
    held = int(leased or 0)
    return Progress(number or 0, slots, slots - int(still_open or 0) - held, held)
