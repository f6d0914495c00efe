"""Asks an OpenAI-compatible chat endpoint many questions: at once, within limits and a budget, and none of them twice.

An answer is kept on disk, with what it cost, before it is handed on; so a run that was killed goes on where it was, and
pays for nothing again. Questions are taken one by one as there is room: any number of them fits into memory.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plaudit.config import EndpointSettings
from plaudit.judges.endpoint.asking import Asking, Outcome
from plaudit.judges.endpoint.exchange import Exchange
from plaudit.judges.endpoint.ledger import UNITS, Ledger
from plaudit.judges.endpoint.pacing import MINUTE, Pace
from plaudit.judges.endpoint.questions import Question, Spent


@dataclass(frozen=True)
class Clock:
    """Time as an endpoint sees it; tests have another."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    minute: float = MINUTE


class Endpoint:
    """A chat endpoint, with what a run's folder has asked it and spent.

    folder   where answers and the ledger are kept (endpoint.sqlite); None keeps no answers, and counts in memory

    Several endpoints may share a folder: each keeps its own budget against what all of them have spent.
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

    def __repr__(self) -> str:
        return f"Endpoint({self.settings.base_url}, {self.settings.model})"

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

    def ask(self, questions: Sequence[Question]) -> Iterator[Outcome]:
        """(place in questions, answer), as they come; every place once, kept or cached questions among them.

        What stays without an answer is Unanswered, with the reason: a busy or broken endpoint after all attempts, one
        that refuses this content, or the budget, of which a question's worst case has to be left. Once it is not, that
        question and all after it stay unanswered, but for those whose answers are kept.

        Raises JudgeError when the endpoint would refuse every question (key, model, address), cannot be reached, or
        has left many in a row unanswered; what came until then has been handed on. Stop it at any time: what was
        answered is kept.
        """
        asking = Asking(self, questions)
        thread = threading.Thread(target=asking.run, name="plaudit-endpoint", daemon=True)
        thread.start()
        try:
            while (item := asking.outcomes.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                asking.taken()
                yield item
        finally:
            asking.cancel()
            thread.join()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """In UNITS."""
        of_prompt = round(self.settings.price_per_million_prompt_tokens * UNITS / 10**6)
        of_completion = round(self.settings.price_per_million_completion_tokens * UNITS / 10**6)
        return prompt_tokens * of_prompt + completion_tokens * of_completion
