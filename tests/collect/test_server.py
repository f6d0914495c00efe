"""The server as a process of its own: how it starts and stops, and what a sudden end leaves behind."""

import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
from campaign import campaign, quick_passwords, with_prompts
from conftest import write_lines
from sqlalchemy import select, update

import plaudit
from plaudit.collect import audit, people
from plaudit.records import Annotator, Response
from plaudit.store import Store, tables

__all__ = ["quick_passwords"]


@pytest.fixture
def made(tmp_path, database_place, monkeypatch):
    """An empty workspace on either database; processes that are started find it too."""
    if not isinstance(database_place, Path):
        monkeypatch.setenv("PLAUDIT_DATABASE", database_place)
    found = plaudit.init(tmp_path / "w")
    yield found
    found.store.database.engine.dispose()


@pytest.fixture
def sqlite_workspace(tmp_path):
    return plaudit.init(tmp_path / "w")


class Server:
    """`plaudit annotate`, and what it has printed."""

    def __init__(self, workspace, *more):
        command = [sys.executable, "-m", "plaudit", "annotate", "-w", str(workspace), "--port", "0", *more]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if line.startswith("Serving on"):
                break
        else:
            raise AssertionError(self.said)
        self.port = int(re.search(r"Serving on \w+://[^/]*:(\d+)", self.said)[1])

    def ask(self, method, path, cookie="", fields=None, host="127.0.0.1"):
        """(status, headers, text) over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Cookie": f"plaudit={cookie}", "Sec-Fetch-Site": "same-origin", "Host": f"{host}:{self.port}"}
        body = None
        if fields is not None:
            headers["Content-Type"], body = "application/x-www-form-urlencoded", urlencode(fields)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def stop(self, how=signal.SIGINT):
        self.process.send_signal(how)
        self.said += self.process.communicate(timeout=60)[0]
        return self.process.returncode


@contextmanager
def serving(workspace, *more):
    server = Server(workspace, *more)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def visit(store, who, role="annotator"):
    """(cookie, form token) of a person who is made without the cost of a password."""
    store.add_annotators([Annotator(who, "person")])
    with store.database.writing() as connection:
        row = {"annotator": who, "login": who, "role": role, "state": "active", "created": "2026"}
        connection.execute(tables.accounts.insert().values(**row, password_hash=""))
    cookie = people.open_session(store, who)
    return cookie, people.session_of(store, cookie).form_token


def test_it_prints_a_link_serves_and_ends_with_a_word_at_ctrl_c(sqlite_workspace):
    with serving(sqlite_workspace.path) as server:
        link = re.search(rf"Open http://127\.0\.0\.1:{server.port}(/enter/[\w-]+)", server.said)[1]
        status, headers, _ = server.ask("GET", link)
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"].split("plaudit=")[1].split(";")[0]
        assert "Campaigns" in server.ask("GET", "/", cookie)[2]
        assert server.ask("GET", link, host="evil.example")[0] == 421
        assert server.ask("GET", "/static/../app.py")[0] == 404
        assert server.ask("GET", "/enter/x")[0] == 404
        assert "server" not in headers
        assert server.stop() == 0
        assert server.said.endswith("Stopped. Every judgment that was acknowledged is kept.\n")
        assert "Traceback" not in server.said
        assert server.said.count(link.rpartition("/")[2]) == 1


def test_bodies_that_lie_about_their_length_get_an_answer_or_are_cut_off(sqlite_workspace):
    with serving(sqlite_workspace.path) as server:
        for request, expected in [
            (b"Content-Length: 99999999\r\n\r\n", b"413"),
            (b"Content-Length: -5\r\n\r\n", b"400"),
            (b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", b"400"),
            (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
            (b"Transfer-Encoding: chunked\r\n\r\n" + b"fffff\r\n" + b"x" * 0xFFFFF + b"\r\n0\r\n\r\n", b"413"),
            (b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"4"),
        ]:
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                head = (
                    b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n"
                )
                kind = b"Content-Type: application/x-www-form-urlencoded\r\n"
                connection.sendall(head + kind + request)
                answer = connection.recv(200)
                assert answer.split()[1].startswith(expected), (request[:40], answer)
        assert server.ask("GET", "/login")[0] == 200


def test_a_taken_port_is_said_in_one_line(run, sqlite_workspace):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = run("annotate", "-w", sqlite_workspace.path, "--port", port)
    assert code == 2
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in err
    assert len(err.strip().splitlines()) == 1
    assert "cannot listen on 192.0.2.1" in run("annotate", "-w", sqlite_workspace.path, "--host", "192.0.2.1")[2]


def test_for_others_it_prints_an_invitation_and_has_no_link_without_a_password(sqlite_workspace):
    with serving(sqlite_workspace.path, "--host", "0.0.0.0", "--name", "Rosa.example") as server:
        assert "/enter/" not in server.said
        assert "passwords can be read on the way" in server.said
        link = re.search(rf"http://Rosa\.example:{server.port}(/join/[\w-]+)", server.said)[1]
        assert server.ask("GET", "/enter/")[0] == 404
        status, headers, text = server.ask("GET", link, host="rosa.example")
        assert (status, "an <strong>admin</strong>" in text) == (200, True)
        token = re.search(r'name="form_token" value="([^"]+)"', text)[1]
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        form = {"form_token": token, "login": "rosa", "password": "correct horse battery"}
        headers = {"Cookie": f"plaudit-form={token}", "Sec-Fetch-Site": "same-origin"}
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request("POST", link, urlencode(form), headers)
        assert connection.getresponse().status == 303
        assert server.stop() == 0
    with serving(sqlite_workspace.path, "--host", "0.0.0.0", "--https") as server:
        assert "/join/" not in server.said  # there is an administrator now
        assert "passwords can be read" not in server.said


class Load:
    """Many people who judge as fast as they can, and what each was told."""

    def __init__(self, server, visits):
        self.server, self.visits = server, visits
        self.acknowledged, self.open, self.problems = [], [], []
        self._stop = False
        self._turn = threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=visit) for visit in visits]
        [thread.start() for thread in self.threads]

    def work(self, who, cookie, token):
        sent = None
        try:
            while not self._stop:
                status, headers, text = self.server.ask("GET", "/work/compare", cookie)
                if status != 303:
                    return
                path = headers["location"]
                text = self.server.ask("GET", path, cookie)[2]
                key = re.search(r'name="submission" value="([^"]+)"', text)[1]
                fields = {"form_token": token, "submission": key, "verdict": "0:2", "seconds": "1"}
                sent = (who, cookie, path, fields)
                status, headers, _ = self.server.ask("POST", path, cookie, fields)
                with self._turn:
                    (self.acknowledged if status == 303 else self.problems).append(sent)
                sent = None
        except (OSError, http.client.HTTPException, TypeError, AttributeError):  # the end of the server
            if sent is not None:
                with self._turn:
                    self.open.append(sent)

    def end(self):
        self._stop = True
        [thread.join(60) for thread in self.threads]


def test_a_killed_server_loses_nothing_it_acknowledged_and_doubles_nothing(made):
    store = made.store
    campaign(store, "compare", tasks=150, people_per_task=2)
    visits = [(f"p{i}", *visit(store, f"p{i}")) for i in range(20)]
    with serving(made.path) as server:
        load = Load(server, visits)
        end = time.monotonic() + 60
        while len(load.acknowledged) < 60 and time.monotonic() < end:
            time.sleep(0.01)
        server.process.kill()
        load.end()
        server.process.wait()
    assert len(load.acknowledged) >= 60
    assert load.problems == []
    kept = log(store)
    told = {(who, fields["submission"]) for who, _, _, fields in load.acknowledged}
    assert told <= set(kept)
    assert set(kept) - told <= {(who, fields["submission"]) for who, _, _, fields in load.open}
    with serving(made.path) as server:
        for who, cookie, path, fields in load.open + load.acknowledged[:10]:  # sent again, as a browser would
            for _ in range(2):
                status, headers, _ = server.ask("POST", path, cookie, fields)
                assert (status, headers["location"]) == (303, "/work/compare"), who
        load = Load(server, visits)  # and the work goes on
        load.end()
        assert load.problems == []
        assert server.stop() == 0
    everything = log(store)
    assert set(kept) <= set(everything)
    assert max(Counter(everything).values()) == 1
    with store.database.reading() as connection:
        assert audit.check(connection).first_broken is None
        slots = select(tables.assignments.c.task, tables.assignments.c.slot)
        live = connection.execute(slots.where(tables.assignments.c.state.in_(("leased", "submitted")))).all()
        assert len(set(live)) == len(live)
        by_task = Counter(task for task, _ in live)
        for task, left in connection.execute(select(tables.tasks.c.id, tables.tasks.c.open_slots)):
            assert by_task[task] + left == 2
    assert len(store.comparisons()) == len(everything)


def test_a_copy_made_amid_work_is_whole(sqlite_workspace, tmp_path):
    store, copy = sqlite_workspace.store, tmp_path / "copy.sqlite"
    campaign(store, "compare", tasks=60)
    with serving(sqlite_workspace.path) as server:
        load = Load(server, [(f"p{i}", *visit(store, f"p{i}")) for i in range(4)])
        while len(load.acknowledged) < 10:
            time.sleep(0.01)
        told = {(who, fields["submission"]) for who, _, _, fields in list(load.acknowledged)}
        with sqlite3.connect(store.database.name) as source, sqlite3.connect(copy) as target:
            source.backup(target)
        load.end()
    source.close()
    target.close()
    restored = Store.open(copy)
    assert told <= set(log(restored)) <= set(log(store))
    with restored.database.reading() as connection:
        assert audit.check(connection).first_broken is None
    assert len(restored.comparisons()) == len(log(restored))


def log(store):
    with store.database.reading() as connection:
        query = select(tables.judgments.c.annotator, tables.judgments.c.submission)
        return [tuple(row) for row in connection.execute(query)]


# Commands


@pytest.fixture
def filled(sqlite_workspace):
    prompts = with_prompts(sqlite_workspace.store, 4)
    answers = [Response(f"answers:{p.id}:{k}", p.id, f"answer {k}", "answers") for p in prompts for k in range(3)]
    sqlite_workspace.store.add_responses(answers)
    return sqlite_workspace


def made_campaign(run, filled, name="helpful", kind="compare", *more):
    return run("campaign", "create", name, "--kind", kind, "--responses", "answers", *more, "-w", filled.path)


def test_a_campaign_is_made_listed_closed_and_opened(run, filled, tmp_path):
    guideline = tmp_path / "guideline.md"
    guideline.write_text("Which is *better*?")
    code, out, _ = made_campaign(
        run, filled, "helpful", "compare", "--guideline", guideline, "--json", "people_per_task=2", "gold_every=0"
    )
    assert (code, json.loads(out)["tasks"]) == (0, 12)
    code, out, _ = run("campaign", "list", "-w", filled.path, "--json")
    (found,) = json.loads(out)["campaigns"]
    assert (found["campaign"], found["tasks"], found["slots"], found["judgments"]) == ("helpful", 12, 24, 0)
    assert "0/24 judged" in run("campaign", "list", "-w", filled.path)[1]
    assert run("campaign", "close", "helpful", "-w", filled.path)[1] == "helpful is closed.\n"
    assert "closed" in run("campaign", "list", "-w", filled.path)[1]
    assert json.loads(run("campaign", "open", "helpful", "-w", filled.path, "--json")[1])["open"] is True


def test_prompts_without_an_answer_are_counted_apart_from_those_with_too_few(run, filled):
    prompts = with_prompts(filled.store, 7)[4:]
    one, *_ = prompts
    filled.store.add_responses([Response(f"answers:{one.id}:0", one.id, "alone", "answers")])
    _, out, _ = made_campaign(run, filled, "helpful", "compare", "--json")
    found = json.loads(out)
    assert (found["prompts_left_out"], found["prompts_without_answers"]) == (1, len(prompts) - 1)


def test_gold_comes_from_a_file_and_a_second_time_adds_nothing(run, filled, tmp_path):
    made_campaign(run, filled)
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", "explanation": "a is right"} for i in range(3)]
    file = write_lines(tmp_path / "gold.jsonl", rows)
    for added in (3, 0):
        code, out, _ = run("campaign", "gold", "helpful", file, "--screening", "-w", filled.path, "--json")
        assert (code, json.loads(out)["added"]) == (0, added)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["campaign", "create", "Bad Name", "--kind", "compare", "--responses", "answers"], "small letters"),
        (["campaign", "create", "a", "--kind", "compar", "--responses", "answers"], "Did you mean `compare`?"),
        (["campaign", "create", "a", "--kind", "compare"], "needs responses"),
        (["campaign", "create", "helpful", "--kind", "compare", "--responses", "answers"], "already"),
        (["campaign", "create", "a", "--kind", "rate", "--responses", "answers", "scal=1"], "Did you mean `scale`?"),
        (["campaign", "create", "a", "--kind", "rate", "--responses", "answers", "gold_every=-1"], "gold_every"),
        (["campaign", "create", "a", "--kind", "rate", "--responses", "answers", "nonsense"], "RULE=VALUE"),
        (["campaign", "create", "a", "--kind", "rate", "--responses", "x", "--split", "test"], "--split test"),
        (["campaign", "create", "a", "--kind", "compare", "--responses", "answers", "--criterion", "own"], "guideline"),
        (["campaign", "create", "a", "--kind", "compare", "--responses", "answers", "--guideline", "none"], "none"),
        (["campaign", "gold", "nosuch", "{tmp}/gold.jsonl"], "no campaign `nosuch`"),
        (["campaign", "gold", "helpful", "{tmp}/none.jsonl"], "none.jsonl"),
        (["campaign", "gold", "helpful", "{tmp}/bad.jsonl"], "line 1"),
        (["campaign", "gold", "writing", "{tmp}/gold.jsonl"], "no right answer"),
        (["campaign", "prioritise", "helpful"], "no complete `reward` run"),
        (["campaign", "prioritise", "helpful", "--reward", "reward-009"], "reward-009"),
        (["campaign", "close", "helpfull"], "Did you mean `helpful`?"),
        (["campaign", "open", "nosuch"], "no campaign"),
        (["people", "invite", "--role", "boss"], "--role boss"),
        (["people", "decide", "nobody", "--leave-out", "--reason", "x"], "no annotator `nobody`"),
        (["people", "decide", "ann", "--leave-out", "--reason", " "], "say why"),
        (["people", "decide", "ann", "--leave-out"], "Missing option"),
        (["people", "withdraw", "nobody", "--keep-judgments"], "no account `nobody`"),
        (["audit", "show", "--most", "0"], "--most"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_message_and_exit_code_2(run, filled, tmp_path, arguments, message):
    made_campaign(run, filled)
    run("campaign", "create", "writing", "--kind", "demonstrate", "-w", filled.path)
    filled.store.add_annotators([Annotator("ann", "person")])
    write_lines(tmp_path / "gold.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    write_lines(tmp_path / "bad.jsonl", [{"prompt": "q"}])
    code, out, err = run(*(part.format(tmp=tmp_path) for part in arguments), "-w", filled.path)
    assert code == 2, (out, err)
    assert message in err
    assert "Traceback" not in out + err


def test_people_are_invited_decided_on_and_removed(run, filled):
    store = filled.store
    code, out, _ = run(
        "people", "invite", "--number", "2", "--role", "researcher", "--address", "https://x.example/", "--json",
        "-w", filled.path,
    )  # fmt: skip
    links = json.loads(out)["links"]
    assert code == 0
    assert len(set(links)) == 2
    assert all(link.startswith("https://x.example/join/") for link in links)
    who = people.join(store, links[0].rpartition("/")[2], "rosa@example.org", "correct horse battery").annotator
    assert "rosa@example.org" in run("people", "list", "-w", filled.path)[1]
    said = run("people", "decide", who, "--leave-out", "--reason", "too quick", "-w", filled.path)
    assert said[:2] == (0, f"The judgments of {who} do not train from now on.\n")
    assert run("people", "withdraw", who, "--keep-judgments", "-w", filled.path)[0] == 0
    (row,) = json.loads(run("people", "list", "--json", "-w", filled.path)[1])["people"]
    assert (row["login"], row["state"]) == (None, "closed")


def test_the_chain_is_verified_and_shown_and_a_change_is_found(run, filled):
    made_campaign(run, filled)
    run("campaign", "close", "helpful", "-w", filled.path)
    code, out, _ = run("audit", "verify", "-w", filled.path, "--json")
    assert (code, json.loads(out)["records"], json.loads(out)["first_broken"]) == (0, 2, None)
    rows = json.loads(run("audit", "show", "-w", filled.path, "--json")[1])["records"]
    assert [row["action"] for row in rows] == ["campaign closed", "campaign created"]
    assert rows[0]["details"] == {"campaign": "helpful"}
    with filled.store.database.writing() as connection:
        connection.execute(update(tables.audit).where(tables.audit.c.number == 1).values(actor="someone else"))
    code, _, err = run("audit", "verify", "-w", filled.path)
    assert code == 2
    assert "broken at record 1" in err


def test_what_somebody_wrote_does_not_steer_the_terminal(run, filled):
    with filled.store.database.writing() as connection:
        audit.record(connection, "ann", "task skipped", reason="\x1b[2J\x9b31m\u202e red")
    out = run("audit", "show", "-w", filled.path)[1]
    assert not any(sign in out for sign in "\x1b\x9b\u202e")
    assert "red" in out
