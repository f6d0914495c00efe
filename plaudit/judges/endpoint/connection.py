"""A chat endpoint with what has been asked of it: its limits, its ledger, and what was spent."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from plaudit.config import EndpointSettings
from plaudit.judges.endpoint.exchange import Exchange
from plaudit.judges.endpoint.ledger import UNITS, Ledger
from plaudit.judges.endpoint.pacing import MINUTE, Pace
from plaudit.judges.endpoint.questions import Spent


@dataclass(frozen=True)
class Clock:
    """Time as an endpoint sees it; tests have another."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    minute: float = MINUTE


class Connection:
    """What every call of `Endpoint.ask` shares.

    folder   where answers and the ledger are kept (endpoint.sqlite); None keeps no answers, and counts in memory

    Raises JudgeError when the key is missing or the folder's file cannot be used.
    """

    def __init__(self, settings: EndpointSettings, folder: Path | None, *, clock: Clock | None = None):
        self.settings = settings
        self.clock = clock or Clock()
        self.exchange = Exchange(settings)
        self.ledger = Ledger(folder)
        self.pace = Pace(settings, self.clock.minute)
        self.chance = random.Random()
        self.answered = False
        """Whether the endpoint has answered anything."""
        self.cached = 0
        self.failures: Counter[str] = Counter()

    @property
    def spent(self) -> Spent:
        """What was spent so far."""
        totals = self.ledger.totals()
        return Spent(
            requests=totals.requests,
            cached=self.cached,
            prompt_tokens=totals.prompt_tokens,
            completion_tokens=totals.completion_tokens,
            cost=totals.cost / UNITS,
            failures=dict(self.failures),
            unknown_tokens=totals.unknown_tokens,
            unknown_cost=totals.unknown_cost / UNITS,
        )

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Cost in UNITS."""
        of_prompt = round(self.settings.price_per_million_prompt_tokens * UNITS / 10**6)
        of_completion = round(self.settings.price_per_million_completion_tokens * UNITS / 10**6)
        return prompt_tokens * of_prompt + completion_tokens * of_completion
