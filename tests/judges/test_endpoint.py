import asyncio
import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Sequence

import pytest
from fault_server import (
    COMPLETION_TOKENS,
    FaultServer,
    answer,
    cut,
    drip,
    drip_headers,
    good,
    hang,
    raw,
    status,
)

from plaudit.config import EndpointSettings
from plaudit.errors import JudgeError
from plaudit.judges.endpoint import Clock, Endpoint, Question, Reply, Unanswered
from plaudit.judges.endpoint.asking import FAILURES_IN_A_ROW, READ_AHEAD
from plaudit.judges.endpoint.exchange import is_local
from plaudit.judges.endpoint.ledger import FILE_NAME
from plaudit.judges.endpoint.pacing import Pace, Sent, back_off, retry_after
from plaudit.judges.endpoint.questions import MESSAGE_TOKENS, TEMPLATE_TOKENS, request_of

KEY = "sk-very-secret-0123456789"


class FastTime:
    """A clock on which all waiting takes no time."""

    def __init__(self):
        self.time = 0.0

    async def sleep(self, seconds):
        self.time += seconds
        await asyncio.sleep(0)

    @property
    def clock(self):
        return Clock(now=lambda: self.time, sleep=self.sleep)


@pytest.fixture
def server():
    with FaultServer() as server:
        yield server


@pytest.fixture
def fast():
    return FastTime()


def settings(server, **changes):
    return EndpointSettings(**{"base_url": server.url, "model": "m", "timeout_seconds": 5, **changes})


def question(text, **changes):
    return Question([{"role": "user", "content": text}], **changes)


def questions(count):
    return [question(f"question {place:03}") for place in range(count)]


def everything(endpoint, asked):
    """Outcomes by place; each place is to come once."""
    pairs = list(endpoint.ask(asked))
    assert sorted(place for place, _ in pairs) == list(range(len(asked)))
    return [outcome for _, outcome in sorted(pairs, key=lambda pair: pair[0])]


def test_every_question_has_its_answer_in_its_place_whatever_comes_first(server, tmp_path):
    server.plan = lambda text, count: server.stopping.wait(random.random() / 50) and None
    asked = questions(40)
    for concurrency in (1, 7):
        outcomes = everything(Endpoint(settings(server, concurrency=concurrency), None), asked)
        assert [o.text for o in outcomes] == [f"answer to question {place:03}" for place in range(40)]
    reply = outcomes[0]
    assert (reply.prompt_tokens, reply.completion_tokens) == (len("question 000"), COMPLETION_TOKENS)
    assert (reply.finish_reason, reply.cached, reply.log_probs) == ("stop", False, None)
    assert server.paths == {"/v1/chat/completions"}
    assert 1 < server.busiest <= 7


def test_no_questions_have_no_answers(server):
    assert everything(Endpoint(settings(server), None), []) == []


def test_what_is_sent(server):
    asked = question("hello", max_tokens=7, temperature=0.5, top_log_probs=4, seed=3, stop=("\n",))
    extra = {"max_tokens": None, "max_completion_tokens": 9, "user": "me"}
    everything(Endpoint(settings(server, extra=extra), None), [asked])
    assert server.bodies == [
        {
            "model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5, "logprobs": True,
            "top_logprobs": 4, "seed": 3, "stop": ["\n"], "max_completion_tokens": 9, "user": "me",
        }
    ]  # fmt: skip
    assert server.keys == [None]


FAULTS = {
    "429": status(429),
    "429, wait": status(429, Retry_After=3),
    "500": status(500),
    "503, wait": status(503, Retry_After=2),
    "408": status(408),
    "hang": hang(1),
    "cut": cut,
    "slow bytes": drip,
    "slow headers": drip_headers,
    "nothing": lambda handler: handler.reply(204, b"", {}),
    "no JSON": raw(b'{"choices": ['),
    "HTML": raw(b"<html>welcome</html>", "text/html"),
    "not UTF-8": raw(b"\xff\xfe{}"),
    "a list": raw(b"[]"),
    "no choices": answer({"choices": []}),
    "an error as 200": answer({"error": {"message": "busy"}}),
    "text is a number": answer(good(5)),
    "no text, no end": answer(good(None, finish=None)),
    "deep": raw(b"[" * 100_000),
    "broken off": answer(good("half", finish="abort")),
}


def patience(fault):
    """Seconds: short where the fault is that nothing comes, else long enough for a busy machine."""
    return 0.8 if fault in ("hang", "slow bytes", "slow headers") else 10


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_tried_again_and_nothing_is_lost(server, fast, fault):
    server.plan = lambda text, count: FAULTS[fault] if text.endswith("1") and count <= 2 else None
    endpoint = Endpoint(settings(server, timeout_seconds=patience(fault)), None, clock=fast.clock)
    outcomes = everything(endpoint, questions(12))
    assert [o.text for o in outcomes] == [f"answer to question {place:03}" for place in range(12)]
    assert server.asked == {f"question {place:03}": 3 if place % 10 == 1 else 1 for place in range(12)}
    spent = endpoint.spent
    assert spent.requests == 16
    assert (spent.prompt_tokens, spent.completion_tokens) == (12 * len("question 000"), 12 * COMPLETION_TOKENS)
    assert spent.failures == {}
    assert (spent.unknown_tokens > 0) == (not fault[:3].isdigit())  # it may have worked on what it did not refuse


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("429", "too many requests (429)"),
        ("500", "server error (500)"),
        ("hang", "no answer in time"),
        ("cut", "connection lost"),
        ("no JSON", "an answer that cannot be read"),
        ("an error as 200", "an answer that cannot be read"),
    ],
)
def test_an_answer_that_never_comes_is_counted_and_not_invented(server, fast, fault, reason):
    server.plan = lambda text, count: FAULTS[fault] if text in ("question 001", "question 003") else None
    endpoint = Endpoint(settings(server, timeout_seconds=patience(fault), attempts=3), None, clock=fast.clock)
    outcomes = everything(endpoint, questions(5))
    assert [isinstance(o, Unanswered) for o in outcomes] == [False, True, False, True, False]
    assert outcomes[1].reason == reason
    assert server.asked["question 001"] == 3
    assert endpoint.spent.failures == {reason: 2}


def test_an_answer_of_the_wrong_content_type_that_can_be_read_is_an_answer(server):
    server.plan = lambda text, count: raw(json.dumps(good("yes")).encode(), "text/plain")
    assert everything(Endpoint(settings(server), None), [question("a")])[0].text == "yes"


def test_content_that_is_refused_is_asked_once_and_says_why(server, fast):
    refusal = status(400, {"error": {"message": "too long", "code": "context_length_exceeded"}})
    server.plan = lambda text, count: refusal if text == "question 002" else None
    endpoint = Endpoint(settings(server), None, clock=fast.clock)
    outcomes = everything(endpoint, questions(5))
    assert outcomes[2] == Unanswered("refused (400)", "too long")
    assert sum(isinstance(o, Reply) for o in outcomes) == 4
    assert server.asked["question 002"] == 1
    assert endpoint.spent.failures == {"refused (400)": 1}
    assert endpoint.spent.unknown_tokens == 0


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (status(401), "the key in PLAUDIT_TEST_KEY"),
        (status(403), "does not allow the model `m`"),
        (status(404, {"error": {"message": "no such model"}}), "no such model"),
        (status(404), "serves the model `m`"),
        (status(402), "nothing left to pay"),
        (status(307, Location="https://elsewhere.example/v1"), "elsewhere.example"),
        (status(429, {"error": {"code": "insufficient_quota"}}), "nothing left to pay"),
        (status(400, {"error": {"code": "unsupported_parameter", "message": "use x"}}), "`extra`"),
        (status(429, Retry_After=86400), "1440 minutes"),
    ],
)
def test_what_all_requests_would_meet_stops_with_one_clear_error(server, fast, monkeypatch, tmp_path, action, says):
    monkeypatch.setenv("PLAUDIT_TEST_KEY", KEY)
    server.plan = lambda text, count: action if text >= "question 003" else None
    chosen = settings(server, key_variable="PLAUDIT_TEST_KEY", concurrency=1)
    asked = questions(30)
    if says.startswith("does not allow"):
        server.plan = lambda text, count: action
    endpoint = Endpoint(chosen, tmp_path, clock=fast.clock)
    got = []
    with pytest.raises(JudgeError, match=says):
        got.extend(endpoint.ask(asked))
    assert sum(server.asked.values()) == (1 if says.startswith("does not allow") else 4)
    assert endpoint.spent.unknown_tokens == 0
    server.plan = lambda text, count: None
    everything(Endpoint(chosen, tmp_path), asked)
    assert all(server.asked[f"question {place:03}"] == 1 for place in range(3) if not says.startswith("does not allow"))


def test_what_was_under_way_when_it_stops_is_still_taken_in(server, tmp_path):
    def plan(text, count):
        until = time.monotonic() + 10
        while server.asked.total() < 4 and time.monotonic() < until:
            time.sleep(0.01)
        if text == "question 000":
            return status(401)
        server.stopping.wait(0.2)
        return None

    server.plan = plan
    endpoint = Endpoint(settings(server, concurrency=4), tmp_path)
    with pytest.raises(JudgeError, match="401"):
        list(endpoint.ask(questions(20)))
    assert server.asked.total() == 4
    assert (endpoint.spent.completion_tokens, endpoint.spent.unknown_tokens) == (3 * COMPLETION_TOKENS, 0)


def test_a_403_after_an_answer_is_about_the_content(server):
    server.plan = lambda text, count: status(403) if text == "question 002" else None
    outcomes = everything(Endpoint(settings(server, concurrency=1), None), questions(4))
    assert outcomes[2] == Unanswered("refused (403)", "status 403")


def test_a_server_that_is_not_there_or_answers_nothing_is_given_up(server, fast):
    nowhere = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(JudgeError, match="cannot be reached"):
        list(Endpoint(nowhere, None, clock=fast.clock).ask(questions(3)))
    server.plan = lambda text, count: status(500)
    endpoint = Endpoint(settings(server, attempts=1), None, clock=fast.clock)
    with pytest.raises(JudgeError, match="in a row"):
        list(endpoint.ask(questions(200)))
    assert sum(server.asked.values()) < FAILURES_IN_A_ROW + 8
    refusing = Endpoint(settings(server, attempts=1), None, clock=fast.clock)
    server.plan = lambda text, count: status(400)
    with pytest.raises(JudgeError, match="in a row"):
        list(refusing.ask(questions(200)))


# Limits


def test_a_429_stops_all_requests_and_not_only_its_own(server):
    server.delay = 0.02
    server.plan = lambda text, count: status(429, Retry_After=0.6) if (text, count) == ("question 004", 1) else None
    endpoint = Endpoint(settings(server, concurrency=3), None)
    endpoint.chance = random.Random(0)
    endpoint.chance.uniform = lambda low, high: 0.0
    everything(endpoint, questions(30))
    times = sorted(server.times)
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) > 0.5


def test_a_request_is_not_sent_before_retry_after(server, fast):
    server.now, server.delay = (lambda: fast.time), 0.02
    server.plan = lambda text, count: status(429, Retry_After=7) if (text, count) == ("question 001", 1) else None
    everything(Endpoint(settings(server, concurrency=3), None, clock=fast.clock), questions(20))
    assert not [moment for moment in server.times if 0 < moment < 7]
    assert sum(moment >= 7 for moment in server.times) >= 15


def test_retry_after_is_read_as_seconds_or_as_a_date_by_the_servers_clock():
    now, then = "Fri, 31 Dec 1999 23:59:50 GMT", "Sat, 01 Jan 2000 00:00:10 GMT"
    assert retry_after("2.5", None) == 2.5
    assert retry_after(then, now) == 20
    assert retry_after(now, then) == 0
    assert retry_after(now, None) == 0
    assert [retry_after(text, now) for text in (None, "soon", "", "inf", "nan")] == [None] * 5
    assert retry_after("-3", None) == 0


def test_back_off_is_exponential_with_full_jitter_and_bounded():
    chance = random.Random(0)
    for failures, most in [(1, 1), (2, 2), (4, 8), (50, 60)]:
        drawn = [back_off(failures, chance) for _ in range(2000)]
        assert 0 <= min(drawn) < 0.02 * most
        assert 0.98 * most < max(drawn) <= most


@pytest.mark.parametrize("limits", [(5, None), (None, 100), (3, 100)])
def test_no_stretch_of_a_minute_has_more_than_the_limits_allow(limits):
    chosen = EndpointSettings(
        base_url="http://localhost/v1", model="m", requests_per_minute=limits[0], tokens_per_minute=limits[1]
    )
    pace, chance, now, sent = Pace(chosen, minute=60.0), random.Random(1), 0.0, []
    while len(sent) < 200:
        request = Sent(chance.randint(1, 60))
        while (seconds := pace.take(request, now)) > 0:
            assert pace.wait(request.tokens, now) == seconds
            now += seconds
        sent.append(request)
        now += chance.random() * 5
    for first in sent:
        within = [request for request in sent if first.at <= request.at < first.at + 60]
        assert limits[0] is None or len(within) <= limits[0]
        assert limits[1] is None or sum(request.tokens for request in within) <= limits[1]
    fewest = 200 / limits[0] if limits[0] else sum(request.tokens for request in sent) / 100
    assert now < 60 * (2 * fewest + 1)  # and it is not slower than it has to be


def test_a_request_of_more_tokens_than_a_minute_has_goes_alone():
    chosen = EndpointSettings(base_url="http://localhost/v1", model="m", tokens_per_minute=100)
    pace = Pace(chosen, minute=60.0)
    assert pace.take(Sent(10), 0.0) == 0
    assert pace.take(Sent(500), 1.0) == 59
    assert pace.take(Sent(500), 60.0) == 0
    assert pace.take(Sent(1), 61.0) == 59


def test_limits_are_kept_at_the_server(server):
    chosen = settings(server, requests_per_minute=6, concurrency=8)
    everything(Endpoint(chosen, None, clock=Clock(minute=0.8)), questions(14))
    times = sorted(server.times)
    assert len(times) == 14
    assert all(later - earlier > 0.4 for earlier, later in zip(times, times[6:], strict=False))


def test_the_minutes_tokens_are_what_was_taken_once_that_is_known(server, fast):
    server.now = lambda: fast.time
    chosen = settings(server, tokens_per_minute=2 * worst(), concurrency=1)
    everything(Endpoint(chosen, None, clock=fast.clock), questions(20))
    assert set(server.times) == {0.0}


# Budgets


def worst(text="question 000", max_tokens=512):
    return TEMPLATE_TOKENS + MESSAGE_TOKENS + len("user") + len(text) + max_tokens


def test_the_worst_case_of_a_request_is_counted_in_bytes():
    chosen = EndpointSettings(base_url="http://localhost/v1", model="m")
    request = request_of(question("né\ud800", max_tokens=4), chosen)
    assert request.prompt_tokens == TEMPLATE_TOKENS + MESSAGE_TOKENS + len("user") + 1 + 2 + 3
    longer = EndpointSettings(base_url="http://localhost/v1", model="m", extra={"max_completion_tokens": 900})
    assert request_of(question("a"), longer).completion_tokens == 900


@pytest.mark.parametrize("delay", [0.0, 0.01])
def test_the_budget_is_used_to_the_last_question_that_fits_and_never_passed(server, tmp_path, delay):
    server.delay = delay
    each = len("question 000") + COMPLETION_TOKENS
    budget = worst() + 10 * each
    endpoint = Endpoint(settings(server, most_tokens=budget, concurrency=8), tmp_path)
    outcomes = everything(endpoint, questions(40))
    answered = [o for o in outcomes if isinstance(o, Reply)]
    assert len(answered) == sum(server.asked.values()) == 11
    assert endpoint.spent.failures == {"the budget is spent": 29}
    again = Endpoint(settings(server, most_tokens=budget - 1 + each, concurrency=8), tmp_path)
    assert sum(isinstance(o, Reply) for o in everything(again, questions(40))) == 11  # a token short of another
    assert again.spent.cached == 11
    more = Endpoint(settings(server, most_tokens=budget + each), tmp_path)
    assert sum(isinstance(o, Reply) for o in everything(more, questions(40))) == 12
    assert more.spent.prompt_tokens + more.spent.completion_tokens == 12 * each


def test_a_budget_is_kept_when_every_request_takes_its_worst_case(server, tmp_path):
    usage = {"prompt_tokens": worst() - 512, "completion_tokens": 512}
    server.plan = lambda text, count: answer(good("long", usage=usage))
    endpoint = Endpoint(settings(server, most_tokens=7 * worst() + 3, concurrency=8), tmp_path)
    everything(endpoint, questions(30))
    assert endpoint.spent.prompt_tokens + endpoint.spent.completion_tokens == 7 * worst()


def test_costs_are_exact_and_bounded(server, tmp_path):
    prices = {"price_per_million_prompt_tokens": 0.15, "price_per_million_completion_tokens": 0.6}
    prompt, completion = len("question 000"), COMPLETION_TOKENS
    each = (prompt * 15 + completion * 60) / 10**8
    at_worst = ((worst() - 512) * 15 + 512 * 60) / 10**8
    chosen = settings(server, most_cost=at_worst + 4 * each, concurrency=8, **prices)
    endpoint = Endpoint(chosen, tmp_path)
    outcomes = everything(endpoint, questions(20))
    assert sum(isinstance(o, Reply) for o in outcomes) == 5
    assert endpoint.spent.cost == pytest.approx(5 * each, rel=1e-12)
    assert Endpoint(chosen, tmp_path).spent.cost == endpoint.spent.cost


@pytest.mark.parametrize("prompt_tokens", [None, -1, 3.5, True, "3", 10**30])
def test_an_endpoint_that_does_not_count_is_charged_the_worst_case(server, tmp_path, prompt_tokens):
    usage = None if prompt_tokens is None else {"prompt_tokens": prompt_tokens, "completion_tokens": 1}
    server.plan = lambda text, count: answer(good("yes", usage=usage))
    endpoint = Endpoint(settings(server, most_tokens=3 * worst() + 1), tmp_path)
    outcomes = everything(endpoint, questions(9))
    assert sum(isinstance(o, Reply) for o in outcomes) == 3
    assert endpoint.spent.unknown_tokens == 3 * worst()
    assert (outcomes[0].prompt_tokens, outcomes[0].completion_tokens) == (0, 0)


def test_an_answer_that_was_lost_on_the_way_counts_against_the_budget(server, fast, tmp_path):
    server.plan = lambda text, count: cut if count <= 2 else None
    endpoint = Endpoint(settings(server, most_tokens=3 * worst() - 1), tmp_path, clock=fast.clock)
    assert isinstance(everything(endpoint, questions(1))[0], Unanswered)
    assert (server.asked.total(), endpoint.spent.unknown_tokens) == (2, 2 * worst())


# The cache


def test_what_was_answered_is_never_asked_again(server, tmp_path):
    first = Endpoint(settings(server), tmp_path)
    before = everything(first, questions(10))
    second = Endpoint(settings(server, concurrency=2), tmp_path)
    after = everything(second, questions(12))
    assert [o.text for o in after[:10]] == [o.text for o in before]
    assert [o.cached for o in after] == [True] * 10 + [False] * 2
    assert set(server.asked.values()) == {1}
    assert (second.spent.cached, second.spent.requests) == (10, 12)
    assert second.spent.completion_tokens == 12 * COMPLETION_TOKENS
    everything(Endpoint(settings(server, model="other"), tmp_path), questions(1))
    everything(Endpoint(settings(server, extra={"top_k": 1}), tmp_path), questions(1))
    assert server.asked["question 000"] == 3


def test_equal_questions_at_once_are_asked_once(server, tmp_path):
    server.delay = 0.1
    endpoint = Endpoint(settings(server), None)
    outcomes = everything(endpoint, [question("same")] * 30)
    assert server.asked == {"same": 1}
    assert {o.text for o in outcomes} == {"answer to same"}
    assert sorted(o.cached for o in outcomes) == [False] + [True] * 29
    assert endpoint.spent.cached == 29


def test_sampled_answers_are_kept_by_seed(server, tmp_path):
    asked = [question("x", temperature=1.0, seed=seed) for seed in (1, 2, 1, None)]
    everything(Endpoint(settings(server), tmp_path), asked)
    assert server.asked == {"x": 3}
    outcomes = everything(Endpoint(settings(server), tmp_path), asked)
    assert server.asked == {"x": 3}
    assert all(o.cached for o in outcomes)
    without = settings(server, extra={"seed": None})  # for endpoints that know no seed
    everything(Endpoint(without, tmp_path), asked)
    assert server.asked == {"x": 5}  # the one without a seed is the same request as before


def test_any_text_survives_the_cache(server, tmp_path):
    odd = "\x00 \ud800 \u2028 'quote' 🦉"
    top = [{"token": odd, "logprob": -0.5}, {"token": "b", "logprob": -1}]
    server.plan = lambda text, count: answer(good(odd, log_probs={"content": [{**top[0], "top_logprobs": top}]}))
    asked = [question(odd, top_log_probs=2)]
    fresh = everything(Endpoint(settings(server), tmp_path), asked)[0]
    kept = everything(Endpoint(settings(server), tmp_path), asked)[0]
    assert fresh.text == kept.text == odd
    assert fresh.log_probs == kept.log_probs == ((odd, -0.5), ("b", -1.0))
    assert (fresh.cached, kept.cached) == (False, True)


def test_a_file_that_is_no_ledger_stops_before_anything_is_paid(server, tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 1000)
    with pytest.raises(JudgeError, match=FILE_NAME):
        Endpoint(settings(server), tmp_path)


def test_an_answer_that_cannot_be_kept_stops_the_asking(server, tmp_path):
    endpoint = Endpoint(settings(server, concurrency=1), tmp_path)
    server.plan = lambda text, count: endpoint.ledger._connection.execute("DROP TABLE IF EXISTS answers") and None
    with pytest.raises(JudgeError, match="cannot be used"):
        list(endpoint.ask(questions(5)))
    assert server.asked.total() == 1
    assert endpoint.spent.unknown_tokens == 0  # still under way, as far as this object knows
    assert Endpoint(settings(server), tmp_path).spent.unknown_tokens == worst()


CHILD = """
    import sys
    from pathlib import Path
    from plaudit.config import EndpointSettings
    from plaudit.judges.endpoint import Endpoint, Question
    endpoint = Endpoint(EndpointSettings(base_url=sys.argv[1], model="m", concurrency=4), Path(sys.argv[2]))
    asked = [Question([{"role": "user", "content": f"question {place:03}"}]) for place in range(60)]
    for place, reply in endpoint.ask(asked):
        print(place, flush=True)
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_and_pays_nothing_twice(server, tmp_path, by):
    server.delay = 0.03
    server.plan = lambda text, count: hang(20) if text >= "question 030" and by == signal.SIGINT else None
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), server.url, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell may have it ignored
    )  # fmt: skip
    handed_on = {int(child.stdout.readline()) for _ in range(30 if by == signal.SIGINT else 17)}
    began = time.monotonic()
    child.send_signal(by)
    rest, errors = child.communicate(timeout=90)
    assert time.monotonic() - began < 5
    assert child.returncode == -by, errors
    handed_on |= {int(line) for line in rest.split()}
    time.sleep(0.1)
    server.plan = lambda text, count: None
    endpoint = Endpoint(settings(server), tmp_path)
    lost = endpoint.spent.unknown_tokens
    outcomes = everything(endpoint, questions(60))
    assert [o.text for o in outcomes] == [f"answer to question {place:03}" for place in range(60)]
    assert all(server.asked[f"question {place:03}"] == 1 for place in handed_on)
    under_way, part = divmod(lost, worst())  # when it was killed; some may not have reached the server
    twice = [text for text, count in server.asked.items() if count > 1]
    assert (len(twice) <= under_way <= 4, part) == (True, 0)
    assert endpoint.spent.unknown_tokens == lost
    assert endpoint.spent.prompt_tokens == 60 * len("question 000")
    assert endpoint.spent.requests == 60 + under_way


class Many(Sequence):
    """A million questions, a few texts; it knows how far it was read."""

    taken = 0

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return 10**6

    def __getitem__(self, place):
        self.taken = place
        return question(f"question {place % self.texts}")


@pytest.mark.parametrize("texts", [3, 10**6])
def test_questions_are_taken_as_there_is_room_and_leaving_early_ends_everything(server, tmp_path, texts):
    many = Many(texts)
    outcomes = Endpoint(settings(server), tmp_path).ask(many)
    for _ in range(5):
        next(outcomes)
    time.sleep(0.5)
    outcomes.close()
    assert many.taken <= READ_AHEAD + 8 + 5
    asked, taken = server.asked.total(), many.taken
    time.sleep(0.1)
    assert (server.asked.total(), many.taken) == (asked, taken)


def test_answers_come_in_while_others_are_used(server):
    """All questions are asked though only one answer has been taken."""
    server.delay = 0.02
    outcomes = Endpoint(settings(server, concurrency=2), None).ask(questions(20))
    next(outcomes)
    latest = time.monotonic() + 30  # they take 0.2 s on a machine that has nothing else to do
    while server.asked.total() < 20 and time.monotonic() < latest:
        time.sleep(0.02)
    assert server.asked.total() == 20
    assert len(list(outcomes)) == 19


# Log-probabilities


def test_log_probs_of_the_first_token_are_read(server):
    top = [{"token": "A", "logprob": -0.1}, {"token": "B", "logprob": -2.5}]
    content = [{"token": "C", "logprob": -4.0, "top_logprobs": top}, {"token": "x", "logprob": 0, "top_logprobs": []}]
    server.plan = lambda text, count: answer(good("C x", log_probs={"content": content}))
    asked = question("which", top_log_probs=2)
    reply = everything(Endpoint(settings(server), None), [asked])[0]
    assert reply.log_probs == (("A", -0.1), ("B", -2.5), ("C", -4.0))


def test_two_tokens_of_one_text_are_both_kept(server):
    top = [{"token": "�", "logprob": -0.5}, {"token": "�", "logprob": -2}]
    server.plan = lambda text, count: answer(good("�", log_probs={"content": [{**top[0], "top_logprobs": top}]}))
    reply = everything(Endpoint(settings(server), None), [question("which", top_log_probs=2)])[0]
    assert reply.log_probs == (("�", -0.5), ("�", -2.0))


@pytest.mark.parametrize(
    "log_probs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": [{"token": "A"}]},
        {"content": [{"token": "A", "logprob": None}]},
        {"content": [{"token": "A", "logprob": float("nan"), "top_logprobs": []}]},
        {"tokens": ["A"], "token_logprobs": [-0.1]},
        "no",
    ],
)
def test_missing_log_probs_are_none_and_the_answer_counts(server, log_probs):
    server.plan = lambda text, count: answer(good("A", log_probs=log_probs))
    reply = everything(Endpoint(settings(server), None), [question("which", top_log_probs=2)])[0]
    assert (reply.text, reply.log_probs) == ("A", None)


def test_an_answer_left_empty_by_a_filter_or_the_length_limit_is_empty(server):
    server.plan = lambda text, count: answer(good(None, finish="length"))
    reply = everything(Endpoint(settings(server), None), [question("a")])[0]
    assert (reply.text, reply.finish_reason) == ("", "length")


# Keys and settings


@pytest.mark.parametrize("key", [KEY, "Hidden/Word+0123456789=="])
def test_the_key_is_sent_and_is_nowhere_else(server, tmp_path, monkeypatch, caplog, capfd, key):
    monkeypatch.setenv("PLAUDIT_TEST_KEY", key + "\n")
    caplog.set_level(logging.DEBUG)
    chosen = settings(server, key_variable="PLAUDIT_TEST_KEY", attempts=2, timeout_seconds=0.3)
    words = {"message": f"Bearer {key} is not for this: {key}", "key": key}
    log_probs = {"content": [{"token": key, "logprob": -1, "top_logprobs": []}]}
    plans = {
        "echo": answer(good(f"your key is {key}", log_probs=log_probs, finish=key)),
        "400": status(400, {"error": words}),
        "500": status(500, {"detail": [words]}),
        "text": raw(b"x" * 390 + key.encode()),
        "wrong": answer({"error": words}),
        "cut": cut,
        "hang": hang(1),
        "401": status(401, {"error": words}),
        "301": status(301, Location=f"https://x.example/?key={key}"),
    }
    server.plan = lambda text, count: plans[text]
    seen = [repr(chosen), chosen.model_dump_json()]
    fast = FastTime()
    for text in plans:
        endpoint = Endpoint(chosen, tmp_path, clock=fast.clock)
        try:
            seen += [repr(endpoint), str(endpoint), repr(list(endpoint.ask([question(text, top_log_probs=1)])))]
        except JudgeError as error:
            seen += [str(error), repr(error), "".join(traceback.format_exception(error))]
        seen.append(repr(endpoint.spent))
    assert set(server.keys) == {f"Bearer {key}"}
    seen += [caplog.text, *capfd.readouterr()]
    seen += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert len([text for text in seen if "[key]" in text]) >= 5
    for text in seen:
        assert key not in text
        assert key[:12] not in text


def test_a_placeholder_for_a_key_changes_no_answer(server, monkeypatch):
    monkeypatch.setenv("PLAUDIT_TEST_KEY", "EMPTY")
    server.plan = lambda text, count: answer(good("the glass is EMPTY"))
    chosen = settings(server, key_variable="PLAUDIT_TEST_KEY")
    assert everything(Endpoint(chosen, None), [question("a")])[0].text == "the glass is EMPTY"


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "bad\x07key", "kéy"])
def test_a_missing_or_broken_key_is_named_by_its_variable(server, monkeypatch, value):
    monkeypatch.delenv("PLAUDIT_TEST_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("PLAUDIT_TEST_KEY", value)
    with pytest.raises(JudgeError, match="PLAUDIT_TEST_KEY") as caught:
        Endpoint(settings(server, key_variable="PLAUDIT_TEST_KEY"), None)
    assert not (value or "").strip() or value not in str(caught.value)


def test_a_proxy_in_the_environment_is_not_used_on_this_machine(server, monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert everything(Endpoint(settings(server), None), [question("a")])[0].text == "answer to a"
    local = ["http://localhost:8000/v1", "http://127.1.2.3/v1", "http://[::1]:80/v1", "http://0.0.0.0/v1"]
    assert all(is_local(address) for address in local)
    assert not any(is_local(f"http://{host}/v1") for host in ("10.0.0.1", "localhost.example.com", "api.openai.com"))
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "nonsense://127.0.0.1:9")
    away = EndpointSettings(base_url="http://judge.invalid/v1", model="m")
    with pytest.raises(JudgeError, match="proxy"):
        list(Endpoint(away, None).ask([question("a")]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "api.openai.com/v1"},
        {"base_url": "http://me:secretword@host/v1"},
        {"base_url": "http://host/v1?key=secretword"},
        {"base_url": "http://host/v1/chat/completions"},
        {"base_url": "http://host:99999/v1"},
        {"key_variable": "sk-secretword"},
        {"key_variable": "secretword0123456789abcdef"},
        {"extra": {"stream": True}},
        {"extra": {"api_key": "secretword"}},
        {"most_cost": 1.0},
        {"concurrency": 0},
    ],
)
def test_settings_that_cannot_work_are_refused_without_repeating_secrets(wrong):
    with pytest.raises(ValueError, match="1 validation error") as caught:
        EndpointSettings(**{"base_url": "http://localhost/v1", "model": "m", **wrong})
    assert "secretword" not in str(caught.value)


def test_every_setting_has_a_meaning():
    assert [name for name, field in EndpointSettings.model_fields.items() if not field.description] == []


def test_it_can_be_asked_from_within_an_event_loop(server):
    async def inside():
        return everything(Endpoint(settings(server), None), questions(3))

    assert len(asyncio.run(inside())) == 3
    assert os.environ.get("PLAUDIT_TEST_KEY") is None
