"""One call of `Endpoint.ask`: questions go out as there is room, and their outcomes come back in a queue."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import httpx2

from plaudit.errors import JudgeError
from plaudit.judges.endpoint.connection import Connection
from plaudit.judges.endpoint.exchange import Answer, Fault
from plaudit.judges.endpoint.ledger import UNITS
from plaudit.judges.endpoint.pacing import Sent, back_off
from plaudit.judges.endpoint.questions import Question, Reply, Request, Unanswered, request_of

READ_AHEAD = 1000
"""Questions that are asked, or answers that wait, before somebody takes the next answer."""
LONGEST_PAUSE = 900.0
"""Seconds; a server that asks for a longer wait is asked another day."""
FAILURES_IN_A_ROW = 50
"""Questions without an answer after which nothing more is asked."""
BUDGET_SPENT = "the budget is spent"

Outcome = tuple[int, Reply | Unanswered]


@dataclass
class Flight:
    """A request under way, and the places of all questions that wait for it."""

    request: Request
    places: list[int] = field(default_factory=list)


class Asking:
    """One call of `ask`: an event loop in a thread of its own, so that answers come in while others are being used.

    All but `taken`, `cancel` and `outcomes` belongs to that thread.
    """

    def __init__(self, endpoint: Connection, questions: Sequence[Question]):
        self.endpoint, self.questions = endpoint, questions
        self.outcomes: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._main: asyncio.Task[None] | None = None
        self._cancelled = False
        self._flights: dict[str, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._in_a_row = 0
        self._budget_spent = ""

    def run(self) -> None:
        """Until every question has its outcome."""
        end: BaseException | None = None
        try:
            self._main = self._loop.create_task(self._ask_all())
            if self._cancelled:
                self._main.cancel()
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            end = error
        finally:
            self._main = None
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            self.outcomes.put(end)

    def taken(self) -> None:
        """Somebody has an outcome: there is room for another."""
        self._tell(lambda: self._room.release())

    def cancel(self) -> None:
        """Give up what is under way."""
        self._cancelled = True
        main = self._main
        if main is not None:
            self._tell(main.cancel)

    def _tell(self, what: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            assert self._loop.is_closed()

    async def _ask_all(self) -> None:
        settings = self.endpoint.settings
        self._room = asyncio.Semaphore(READ_AHEAD + settings.concurrency)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._gate = asyncio.Lock()
        self._settled = asyncio.Event()
        async with self.endpoint.exchange.client() as client:
            self._launcher = asyncio.create_task(self._launch(client))
            try:
                await asyncio.wait([self._launcher])
                if not self._launcher.cancelled() and (error := self._launcher.exception()) is not None:
                    self._fail(error)
                while self._tasks:
                    await asyncio.wait(self._tasks)
            finally:
                for task in (self._launcher, *self._tasks):
                    task.cancel()
                await asyncio.gather(self._launcher, *self._tasks, return_exceptions=True)
        if self._error is not None:
            raise self._error

    def _fail(self, error: BaseException) -> None:
        """Stop asking; what has been sent may still be answered."""
        if self._error is None:
            self._error = error
            for task in (self._launcher, *(self._tasks - self._sending)):
                task.cancel()

    async def _launch(self, client: httpx2.AsyncClient) -> None:
        for place, question in enumerate(self.questions):
            await self._room.acquire()
            request = request_of(question, self.endpoint.settings)
            if (flight := self._flights.get(request.key)) is not None:
                flight.places.append(place)
            elif (kept := self.endpoint.ledger.find(request.key)) is not None:
                self._deliver([place], _reply(kept), cached=True)
            elif self._budget_spent:
                self._deliver([place], Unanswered(BUDGET_SPENT, self._budget_spent))
            else:
                await self._slots.acquire()
                self._flights[request.key] = flight = Flight(request, [place])
                task = asyncio.create_task(self._fly(client, flight))
                self._tasks.add(task)
                task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _fly(self, client: httpx2.AsyncClient, flight: Flight) -> None:
        outcome = await self._answer(client, flight.request)
        del self._flights[flight.request.key]
        if outcome is not None:
            self._deliver(flight.places, outcome)

    def _deliver(self, places: list[int], outcome: Reply | Unanswered, *, cached: bool = False) -> None:
        for number, place in enumerate(places):
            if isinstance(outcome, Unanswered):
                self.endpoint.failures[outcome.reason] += 1
                self.outcomes.put((place, outcome))
            else:
                free = cached or number > 0
                self.endpoint.cached += free
                self.outcomes.put((place, replace(outcome, cached=free)))

    async def _answer(self, client: httpx2.AsyncClient, request: Request) -> Reply | Unanswered | None:
        """The outcome after as many attempts as it takes; None when asking has been stopped meanwhile."""
        endpoint, attempts = self.endpoint, self.endpoint.settings.attempts
        for attempt in range(1, attempts + 1):
            outcome = await self._attempt(client, request)
            if not isinstance(outcome, Fault):
                return outcome
            if outcome.wait is not None and outcome.wait > LONGEST_PAUSE:
                raise JudgeError(
                    f"{endpoint.settings.base_url} asks to wait {outcome.wait / 60:.0f} minutes: "
                    f"{outcome.detail or outcome.reason}.\nAnswers that came before are kept; resume after that."
                )
            if self._error is not None:
                return None
            if not outcome.again or attempt == attempts:
                self._count_failure(outcome)
                tried = "" if attempt == 1 else f"after {attempt} attempts"
                return Unanswered(outcome.reason, ": ".join(part for part in (tried, outcome.detail) if part))
            seconds = max(outcome.wait or 0.0, back_off(attempt, endpoint.chance))
            if outcome.crowded:
                endpoint.pace.pause(endpoint.clock.now() + seconds)
            else:
                await endpoint.clock.sleep(seconds)
        raise AssertionError

    async def _attempt(self, client: httpx2.AsyncClient, request: Request) -> Reply | Unanswered | Fault:
        endpoint, ledger = self.endpoint, self.endpoint.ledger
        sent = Sent(request.prompt_tokens + request.completion_tokens)
        async with self._gate:
            while (seconds := endpoint.pace.wait(sent.tokens, endpoint.clock.now())) > 0:
                await endpoint.clock.sleep(seconds)
            entry = await self._reserve(request)
            if entry is None:
                return Unanswered(BUDGET_SPENT, self._budget_spent)
            try:
                while (seconds := endpoint.pace.take(sent, endpoint.clock.now())) > 0:
                    await endpoint.clock.sleep(seconds)
            except BaseException:
                ledger.release(entry, sent=False)
                raise
        task = asyncio.current_task()
        assert task is not None
        self._sending.add(task)
        try:
            outcome = await endpoint.exchange.send(client, request, answered_before=endpoint.answered)
        except JudgeError:
            ledger.release(entry, sent=True)
            raise
        except BaseException:
            ledger.abandon(entry)
            raise
        finally:
            self._sending.discard(task)
            self._settled.set()
        return self._settle(entry, sent, request, outcome)

    def _settle(self, entry: int, sent: Sent, request: Request, outcome: Answer | Fault) -> Reply | Fault:
        """Write down what became of a request, and keep its answer."""
        ledger = self.endpoint.ledger
        if isinstance(outcome, Fault):
            if outcome.maybe_paid:
                ledger.lose(entry)
            else:
                ledger.release(entry, sent=outcome.sent)
            return outcome
        reply = outcome.reply
        self.endpoint.answered, self._in_a_row = True, 0
        tokens = (reply.prompt_tokens, reply.completion_tokens)
        taken = (*tokens, self.endpoint.cost(*tokens)) if outcome.counted else None
        ledger.settle(entry, request.key, json.dumps(asdict(reply)), taken)
        if outcome.counted:
            sent.tokens = sum(tokens)
        return reply

    async def _reserve(self, request: Request) -> int | None:
        """Set a request's worst case aside, once what is under way leaves room for it; None when the budget cannot."""
        endpoint, settings = self.endpoint, self.endpoint.settings
        tokens = request.prompt_tokens + request.completion_tokens
        cost = endpoint.cost(request.prompt_tokens, request.completion_tokens)
        most_cost = None if settings.most_cost is None else round(settings.most_cost * UNITS)
        while not self._budget_spent:
            self._settled.clear()
            entry = endpoint.ledger.reserve(tokens, cost, most_tokens=settings.most_tokens, most_cost=most_cost)
            if entry is not None:
                return entry
            if not self._sending:
                self._budget_spent = f"another question may take {tokens} tokens, at a cost of {cost / UNITS:g}"
                break
            await self._settled.wait()
        return None

    def _count_failure(self, fault: Fault) -> None:
        """Raise JudgeError when there is no sense in asking on."""
        endpoint = self.endpoint
        if not fault.again and endpoint.answered:
            return
        self._in_a_row += 1
        if not fault.sent and not endpoint.answered:
            raise JudgeError(
                f"{endpoint.settings.base_url} cannot be reached: {fault.detail}\n"
                "Check base_url, and that the server is running; then resume."
            )
        if self._in_a_row >= FAILURES_IN_A_ROW:
            raise JudgeError(
                f"{endpoint.settings.base_url} left {self._in_a_row} questions in a row without an answer. The last: "
                f"{fault.reason}: {fault.detail}\nAnswers that came before are kept; resume when it answers again."
            )


def _reply(kept: str) -> Reply:
    fields = json.loads(kept)
    pairs = fields["log_probs"]
    return Reply(**{**fields, "log_probs": None if pairs is None else tuple((token, value) for token, value in pairs)})
