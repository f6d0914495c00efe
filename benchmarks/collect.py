"""How many people can judge at once, whether anything is lost or doubled, and how long pages take over a long log.

    python benchmarks/collect.py load sqlite            200 people at once, no time to think
    python benchmarks/collect.py load URL --think 2     the same on PostgreSQL, 2 s of thought on average
    python benchmarks/collect.py pages sqlite           1.5 million judgments in the log

The server is a process of its own, `plaudit annotate`; results are added to benchmarks/collect.json. URL is that of an
empty PostgreSQL database, which is left full.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

import plaudit
from plaudit.collect import audit, people
from plaudit.collect.campaigns import CampaignSettings, NewTask, create_campaign
from plaudit.collect.people import open_session
from plaudit.records import Annotator, Prompt, Response
from plaudit.store import Store, tables
from plaudit.store.database import insert_rows

RESULTS = Path(__file__).with_suffix(".json")
HOST = "127.0.0.1"


# The server


def make_workspace(folder: Path, place: str) -> Store:
    """An empty workspace whose store is in it, or at a URL."""
    made = plaudit.init(folder / "workspace")
    if place == "sqlite":
        return made.store
    made.store.database.engine.dispose()
    (made.path / "plaudit.yaml").write_text(f"data:\n  database: {place}\n", encoding="utf-8")
    return plaudit.Workspace(made.path).store


@contextmanager
def server(workspace: Path) -> Iterator[tuple[int, int]]:
    """(port, process id) of `plaudit annotate` while it runs."""
    command = [sys.executable, "-m", "plaudit", "annotate", "--port", "0", "--workspace", str(workspace)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"Serving on http://[^:]+:(\d+)", line):
            break
    else:
        raise SystemExit("the server did not start")
    try:
        yield int(found[1]), process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


# Load


class Browser:
    """One person's connection: HTTP/1.1 by hand, since a client library would take more time than the server."""

    def __init__(self, port: int, cookie: str):
        self.port = port
        self.cookie = cookie
        self.reader: asyncio.StreamReader | None = None

    async def ask(self, method: str, path: str, body: str = "") -> tuple[int, dict[str, str], str]:
        """(status, headers, text); asks once more when the connection had been closed."""
        for attempt in (0, 1):
            try:
                return await self._ask(method, path, body)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.reader = None
                if attempt:
                    raise
        raise AssertionError

    async def _ask(self, method: str, path: str, body: str) -> tuple[int, dict[str, str], str]:
        if self.reader is None:
            self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        data = body.encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{self.port}", f"Cookie: plaudit={self.cookie}"]
        lines += ["Sec-Fetch-Site: same-origin", f"Content-Length: {len(data)}"]
        lines += ["Content-Type: application/x-www-form-urlencoded"] * bool(body)
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if headers.get("transfer-encoding") == "chunked":
            raise AssertionError("no page is sent in chunks")
        text = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, text.decode()


class Tally:
    """What the clients saw."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {"claim": [], "page": [], "submit": []}
        self.acknowledged: dict[str, list[str]] = {}
        self.errors: Counter[str] = Counter()
        self.doubled = self.undone = self.skipped = 0

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Keep how long something took."""
        began = time.perf_counter()
        yield
        self.times[what].append(time.perf_counter() - began)


async def judge(
    port: int, who: str, cookie: str, form_token: str, seen: Tally, *, think: float, until: float, seed: int
) -> None:
    """Judge until there is nothing left or the time is over; some send twice, undo or skip."""
    browser, chance = Browser(port, cookie), random.Random(seed)
    token = f"form_token={form_token}"
    path = ""
    while time.perf_counter() < until:
        with seen.timed("claim"):
            status, headers, _ = await browser.ask("GET", "/work/load")
        if status != 303:
            seen.errors[f"claim {status}"] += status != 200
            return
        path = headers["location"]
        with seen.timed("page"):
            status, _, text = await browser.ask("GET", path)
        key = re.search(r'name="submission" value="([^"]+)"', text)
        if status != 200 or key is None:
            seen.errors[f"page {status}"] += 1
            continue
        if think:
            await asyncio.sleep(chance.expovariate(1 / think))
        if chance.random() < 0.03:
            status, _, _ = await browser.ask("POST", f"{path}/skip", token + "&reason=no")
            seen.skipped += status == 303
            seen.errors[f"skip {status}"] += status != 303
            continue
        await hand_in(browser, seen, who, path, key[1], token, chance)
        if chance.random() < 0.05:  # the last one again
            status, headers, _ = await browser.ask("POST", "/undo/load", token)
            status, _, text = await browser.ask("GET", headers["location"])
            key = re.search(r'name="submission" value="([^"]+)"', text)
            assert key is not None
            await hand_in(browser, seen, who, headers["location"], key[1], token, chance)
            seen.undone += 1


async def hand_in(
    browser: Browser, seen: Tally, who: str, path: str, key: str, token: str, chance: random.Random
) -> None:
    """Send a judgment, now and then twice."""
    verdict = chance.choice(["0:1", "0:4", "1:2", "1:3", "tie", "both_bad"])
    body = f"{token}&submission={key}&verdict={verdict}&seconds=3"
    with seen.timed("submit"):
        status, headers, _ = await browser.ask("POST", path, body)
    if status != 303 or not headers["location"].startswith("/work/"):
        seen.errors[f"submit {status}"] += 1
        return
    seen.acknowledged.setdefault(who, []).append(key)
    if chance.random() < 0.1:
        status, _, _ = await browser.ask("POST", path, body)
        seen.errors[f"second submit {status}"] += status != 303
        seen.doubled += 1


def load(place: str, *, number: int, think: float, seconds: float, tasks: int) -> dict[str, object]:
    """So many people at once, three to a task, then the log against what was acknowledged."""
    with tempfile.TemporaryDirectory() as folder:
        store = make_workspace(Path(folder), place)
        prompts = [Prompt([{"role": "user", "content": f"Question {i}? " + "More of it. " * 20}]) for i in range(tasks)]
        store.add_prompts(prompts)
        store.add_responses(
            [Response(f"{run}:{p.id}", p.id, f"{run} " + "says this. " * 60, run) for p in prompts for run in "ab"]
        )
        settings = CampaignSettings(people_per_task=3, screening_tasks=0, gold_every=0)
        new = [NewTask(p.id, (f"a:{p.id}", f"b:{p.id}")) for p in prompts]
        create_campaign(store, "load", kind="compare", tasks_=new, settings=settings)
        names = [f"annotator-{i:03}" for i in range(number)]
        visits = [(who, *visit(store, who)) for who in names]
        seen = Tally()
        with server(Path(folder) / "workspace") as (port, pid):
            began, worked = time.perf_counter(), processor_time_of(pid)

            async def everybody() -> None:
                await asyncio.gather(
                    *(
                        judge(port, *one, seen, think=think, until=began + seconds, seed=i)
                        for i, one in enumerate(visits)
                    )
                )

            asyncio.run(everybody())
            took = time.perf_counter() - began
            memory, worked = memory_of(pid), processor_time_of(pid) - worked
        wrong = check(store, seen)
        store.database.engine.dispose()
    judged = sum(map(len, seen.acknowledged.values()))
    return {
        "people": number, "think_seconds": think, "judgments": judged, "per_second": round(judged / took, 1),
        "milliseconds": {what: quantiles(times) for what, times in seen.times.items()},
        "sent_twice": seen.doubled, "undone": seen.undone, "skipped": seen.skipped,
        "errors": dict(+seen.errors), "wrong": wrong, "server_mebibytes": memory,
        "processor_milliseconds_per_judgment": round(1000 * worked / max(1, judged), 1),
    }  # fmt: skip


def visit(store: Store, who: str) -> tuple[str, str]:
    """(cookie, form token) of an annotator who is made here."""
    store.add_annotators([Annotator(who, "person")])
    with store.database.writing() as connection:
        row = {"annotator": who, "login": who, "role": "annotator", "state": "active", "created": "2026"}
        connection.execute(tables.accounts.insert().values(**row, password_hash=""))
    cookie = open_session(store, who)
    session = people.session_of(store, cookie)
    assert session is not None
    return cookie, session.form_token


def check(store: Store, seen: Tally) -> dict[str, int]:
    """What must be nothing: judgments lost, doubled or unasked for; slots given twice; breaks of the chain."""
    judgments, assignments, tasks = tables.judgments.c, tables.assignments.c, tables.tasks.c
    with store.database.reading() as connection:
        kept = connection.execute(select(judgments.annotator, judgments.submission)).all()
        told = {(who, key) for who, keys in seen.acknowledged.items() for key in keys}
        first = select(judgments.task, judgments.annotator).where(judgments.supersedes.is_(None))
        by_task = Counter(task for task, _ in connection.execute(first))
        live = select(assignments.task, assignments.slot).where(assignments.state.in_(("leased", "submitted")))
        slots = Counter(connection.execute(live).all())
        held = Counter(task for task, _ in slots.elements())
        open_slots = connection.execute(select(tasks.id, tasks.open_slots)).all()
        chain = audit.check(connection)
        comparisons = connection.scalar(select(func.count()).select_from(tables.comparisons)) or 0
        return {
            "lost": len(told - set(kept)), "unacknowledged": len(set(kept) - told),
            "doubled": len(kept) - len(set(kept)), "over_assigned": sum(n > 3 for n in by_task.values()),
            "slots_twice": sum(n > 1 for n in slots.values()),
            "slots_miscounted": sum(held[task] + left != 3 for task, left in open_slots),
            "not_learnt": len(kept) - comparisons, "chain_broken": int(chain.first_broken is not None),
        }  # fmt: skip


# Pages over a long log


FILLED = ("prompts", "responses", "tasks", "assignments", "judgments", "comparisons")


@dataclass
class _Said:
    """One judgment, and the rows that it is kept in."""

    task: int
    slot: int
    who: str
    shown: list[str]
    choice: str
    grade: int | None
    seconds: float
    when: str

    @property
    def key(self) -> str:
        return f"{self.task}-{self.slot}"

    def assignment(self) -> dict[str, object]:
        """Handed in long ago."""
        return {
            "id": f"a{self.key:>26}", "task": f"t{self.task:015}", "campaign": "long", "annotator": self.who,
            "slot": self.slot, "state": "submitted", "shown": self.shown, "created": 1.0, "expires": 2.0,
            "reason": None,
        }  # fmt: skip

    def judgment(self, comment: str) -> dict[str, object]:
        """In the log."""
        answer = {"choice": self.choice} | ({} if self.grade is None else {"grade": self.grade})
        return {
            "id": f"j{self.key:>15}", "assignment": f"a{self.key:>26}", "task": f"t{self.task:015}", "campaign": "long",
            "annotator": self.who, "criterion": "", "kind": "compare", "answer": answer, "shown": self.shown,
            "seconds": self.seconds, "comment": comment, "flags": [], "is_gold": False, "is_right": None,
            "guideline": "g", "version": "0", "submission": self.key, "supersedes": None, "created": self.when,
        }  # fmt: skip

    def comparison(self) -> dict[str, object]:
        """What is learnt from it."""
        choice = "tie" if self.choice == "tie" else "first" if self.choice == self.shown[0] else "second"
        return {
            "id": f"c{self.key:>15}", "prompt_id": f"p{self.task:015}", "first": self.shown[0], "second": self.shown[1],
            "annotator": self.who, "choice": choice, "grade": self.grade, "probability_first": None,
            "seconds": self.seconds, "run": "campaign:long", "created": self.when, "criterion": "",
            "soft_preference": None, "ranking": None, "judgment": f"j{self.key:>15}",
        }  # fmt: skip


def _prompt(i: int) -> dict[str, object]:
    said = [{"role": "user", "content": f"question {i}"}]
    return {"id": f"p{i:015}", "messages": said, "split": "train", "source": "benchmark"}


def _response(i: int, name: str) -> dict[str, object]:
    return {
        "id": name, "prompt_id": f"p{i:015}", "text": f"answer {name} " * 10, "run": name.partition(":")[0],
        "token_ids": None, "log_probs": None, "finished": True, "temperature": 1.0,
    }  # fmt: skip


def _task(i: int, chance: random.Random, open_slots: int) -> dict[str, Any]:
    return {
        "id": f"t{i:015}", "campaign": "long", "prompt_id": f"p{i:015}", "responses": [f"left:{i}", f"right:{i}"],
        "open_slots": open_slots, "is_random": i % 5 == 0, "priority": chance.random(), "draw": chance.random(),
        "gold": None, "is_screening": False, "explanation": "",
    }  # fmt: skip


def fill(store: Store, judgments: int, *, people_per_task: int = 3, number: int = 200) -> list[str]:
    """Write a log of so many judgments directly: a fifth ties, and seven of ten people agree."""
    chance = random.Random(0)
    tasks, more = judgments // people_per_task, 2000
    names = [f"annotator-{i:03}" for i in range(number)]
    for who in names:
        visit(store, who)
    create_long_campaign(store, people_per_task)
    created = [f"2026-{1 + i // 28 % 12:02}-{1 + i % 28:02}T{i % 24:02}:00:00+00:00" for i in range(5000)]
    every = 5_000
    for start in range(0, tasks + more, every):
        rows: dict[str, list[dict[str, object]]] = {name: [] for name in FILLED}
        for i in range(start, min(start + every, tasks + more)):
            task = _task(i, chance, people_per_task if i >= tasks else 0)
            a, b = task["responses"]
            rows["tasks"].append(task)
            rows["prompts"].append(_prompt(i))
            rows["responses"] += [_response(i, response) for response in (a, b)]
            better, when = chance.random() < 0.55, created[min(i, tasks) * 5000 // (tasks + 1)]
            for slot, who in enumerate([] if i >= tasks else chance.sample(names, people_per_task)):
                shown = [a, b] if chance.random() < 0.5 else [b, a]
                agrees = chance.random() < 0.7
                choice = "tie" if chance.random() < 0.2 else a if better == agrees else b
                grade = None if choice == "tie" else chance.randint(1, 4)
                said = _Said(i, slot, who, shown, choice, grade, round(chance.lognormvariate(3.2, 0.7), 2), when)
                rows["assignments"].append(said.assignment())
                rows["judgments"].append(said.judgment("a remark" * (chance.random() < 0.01)))
                rows["comparisons"].append(said.comparison())
        with store.database.writing() as connection:
            for name, some in rows.items():
                table = tables.metadata.tables[name]
                if some and name == "judgments":
                    connection.execute(table.insert(), some)
                else:
                    insert_rows(connection, table, some)
    return names


def create_long_campaign(store: Store, people_per_task: int) -> None:
    """Of whose tasks `fill` writes the rows."""
    settings = CampaignSettings(people_per_task=people_per_task, screening_tasks=0, gold_every=0)
    with store.database.writing() as connection:
        row = {"name": "long", "kind": "compare", "criterion": "", "guideline": "Which?", "round": None}
        row |= {"settings": settings.model_dump(mode="json"), "is_open": True, "created": "2026"}
        connection.execute(tables.campaigns.insert().values(**row))


def pages(place: str, *, judgments: int, repeats: int, kept: str) -> dict[str, object]:
    """Times of every page over a long log, before, while and after its judgments are counted."""
    with tempfile.TemporaryDirectory() as made:
        folder = kept or made
        if (Path(folder) / "workspace").exists():
            store = plaudit.Workspace(Path(folder) / "workspace").store
            names = sorted(one.name for one in store.annotators() if one.name.startswith("annotator-"))
        else:
            store, began = make_workspace(Path(folder), place), time.perf_counter()
            names = fill(store, judgments)
            print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
        size = sum(f.stat().st_size for f in (Path(folder) / "workspace").rglob("*") if f.is_file()) / 2**20
        researcher, _ = visit(store, f"researcher-{time.time():.0f}")
        with store.database.writing() as connection:
            mine = tables.accounts.c.annotator.like("researcher-%")
            connection.execute(tables.accounts.update().where(mine).values(role="admin"))
        cookie, form_token = open_session(store, names[0]), ""
        session = people.session_of(store, cookie)
        assert session is not None
        form_token = session.form_token
        with server(Path(folder) / "workspace") as (port, pid):
            found = asyncio.run(visit_pages(port, researcher, cookie, form_token, pid, repeats))
        store.database.engine.dispose()
        return {"judgments": judgments, "mebibytes": round(size), **found}


async def visit_pages(
    port: int, researcher: str, annotator: str, form_token: str, pid: int, repeats: int
) -> dict[str, object]:
    """Ask for pages as their people would."""
    watch, work = Browser(port, researcher), Browser(port, annotator)
    before = memory_of(pid)
    while_counting: dict[str, list[float]] = {"campaign": [], "claim": [], "submit": []}
    times: dict[str, list[float]] = {
        name: [] for name in ("home", "claim", "task", "submit", "mine", "research", "campaign", "live")
    }

    async def timed(into: dict[str, list[float]], name: str, browser: Browser, method: str, path: str, body: str = ""):
        began = time.perf_counter()
        status, headers, text = await browser.ask(method, path, body)
        into[name].append(time.perf_counter() - began)
        assert status in (200, 303), (name, status, text[:500])
        return headers, text

    async def one_judgment(into: dict[str, list[float]]) -> None:
        headers, _ = await timed(into, "claim", work, "GET", "/work/long")
        path = headers["location"]
        _, text = await timed(into if "task" in into else {"task": []}, "task", work, "GET", path)
        key = re.search(r'name="submission" value="([^"]+)"', text)
        assert key is not None
        body = f"form_token={form_token}&submission={key[1]}&verdict=tie&seconds=1"
        await timed(into, "submit", work, "POST", path, body)

    began = time.perf_counter()
    while True:
        _, text = await timed(while_counting, "campaign", watch, "GET", "/research/long")
        if "Counting:" not in text:
            break
        await one_judgment(while_counting)
        await asyncio.sleep(0.5)
    counted = time.perf_counter() - began
    await timed({"live": []}, "live", watch, "GET", "/research/long/live")
    for _ in range(repeats):
        await timed(times, "home", work, "GET", "/")
        await one_judgment(times)
        await timed(times, "mine", work, "GET", "/mine/long")
        await timed(times, "research", watch, "GET", "/research")
        await timed(times, "campaign", watch, "GET", "/research/long")
        await timed(times, "live", watch, "GET", "/research/long/live")
        await asyncio.sleep(0.3)
    return {
        "counting_seconds": round(counted, 1), "server_mebibytes": [before, memory_of(pid)],
        "milliseconds_while_counting": {name: quantiles(t) for name, t in while_counting.items()},
        "milliseconds": {name: quantiles(found) for name, found in times.items()},
    }  # fmt: skip


def quantiles(times: list[float]) -> dict[str, float]:
    """Of seconds, in milliseconds."""
    if len(times) < 2:
        return {"p50": round(1000 * times[0], 1)} if times else {}
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50": round(1000 * cuts[49], 1), "p95": round(1000 * cuts[94], 1), "p99": round(1000 * cuts[98], 1)}


def memory_of(pid: int) -> int:
    """Resident, in MiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) // 1024 if found else 0


def processor_time_of(pid: int) -> float:
    """Of a process, in seconds: what other programs on the machine do not change much."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run one measurement and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "pages"])
    parser.add_argument("place", help="sqlite, or the URL of an empty PostgreSQL database")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--think", type=float, default=0.0, help="seconds on average")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--judgments", type=int, default=1_500_000)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--folder", default="", help="of a workspace that was filled before, or is to be kept")
    parser.add_argument("--no-keep", action="store_true", help="print alone")
    chosen = parser.parse_args()
    if chosen.what == "load":
        found = load(chosen.place, number=chosen.people, think=chosen.think, seconds=chosen.seconds, tasks=chosen.tasks)
    else:
        found = pages(chosen.place, judgments=chosen.judgments, repeats=chosen.repeats, kept=chosen.folder)
    found["load_average"] = [round(number, 1) for number in os.getloadavg()]  # of all that ran on the machine
    print(json.dumps(found, indent=2))
    if chosen.no_keep:
        return
    place = "sqlite" if chosen.place == "sqlite" else "postgresql"
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[" ".join([chosen.what, place, *([f"think {chosen.think:g}"] * (chosen.what == "load"))])] = found
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
