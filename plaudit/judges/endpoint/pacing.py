"""When a request may be sent: limits by the minute, pauses that a server asks for, and back-off."""

from __future__ import annotations

import random
import threading
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from plaudit.config import EndpointSettings

MINUTE = 61.0
"""Seconds; one more than a minute, since not every request takes equally long to arrive."""
FIRST_BACK_OFF, LONGEST_BACK_OFF = 1.0, 60.0
"""Seconds."""


@dataclass(eq=False)
class Sent:
    """A request in the last minute's account."""

    tokens: int
    at: float = 0.0


class Pace:
    """Keeps an endpoint's limits in every stretch of a minute, wherever it begins. Threads may share one."""

    def __init__(self, settings: EndpointSettings, minute: float = MINUTE):
        self._requests, self._tokens = settings.requests_per_minute, settings.tokens_per_minute
        self._minute = minute
        self._sent: deque[Sent] = deque()
        self._paused_until = float("-inf")
        self._lock = threading.Lock()

    def wait(self, tokens: int, now: float) -> float:
        """Seconds until it is worth asking whether a request may be sent; 0 when it may now."""
        with self._lock:
            return max(0.0, self._paused_until - now, self._wait(tokens, now))

    def take(self, request: Sent, now: float) -> float:
        """0 when the request may be sent now, and is entered; otherwise the seconds until it is worth asking again.

        A request of more tokens than a minute has is sent when the minute is empty.
        """
        with self._lock:
            wait = max(self._paused_until - now, self._wait(request.tokens, now))
            if wait > 0:
                return wait
            if self._requests is not None or self._tokens is not None:
                request.at = now
                self._sent.append(request)
            return 0.0

    def pause(self, until: float) -> None:
        """Send nothing before then."""
        with self._lock:
            self._paused_until = max(self._paused_until, until)

    def _wait(self, tokens: int, now: float) -> float:
        while self._sent and self._sent[0].at + self._minute <= now:
            self._sent.popleft()
        count, total, until = len(self._sent), sum(sent.tokens for sent in self._sent), now
        for oldest in self._sent:
            enough = self._requests is None or count < self._requests
            if enough and (self._tokens is None or total + tokens <= self._tokens):
                break
            count, total, until = count - 1, total - oldest.tokens, oldest.at + self._minute
        return until - now


def back_off(failures: int, chance: random.Random) -> float:
    """Seconds before a question is tried again after so many failures: exponential, with full jitter."""
    return chance.uniform(0, min(LONGEST_BACK_OFF, FIRST_BACK_OFF * 2.0 ** min(failures - 1, 30)))


def retry_after(header: str | None, date: str | None) -> float | None:
    """Seconds that a server asks to wait, from its Retry-After (seconds, or a date as in HTTP); None when it does not.

    date   its Date header: its clock need not agree with ours
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        then, now = _moment(header), _moment(date or "") or datetime.now(UTC)
        return None if then is None else max(0.0, (then - now).total_seconds())
    return max(0.0, seconds) if seconds < float("inf") else None


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
