import json
import tempfile
import threading
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import pytest
from campaign import FORMS, account, campaign, people_named
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select

from plaudit.collect.assignment import claim, held_by, renew, screening_of, skip
from plaudit.collect.campaigns import NewTask, add_gold, find_campaign, set_open, set_priorities
from plaudit.collect.figures import AllFigures, Figures
from plaudit.collect.judging import NotYours, TooLate, newest_judgment, submit
from plaudit.collect.people import decide
from plaudit.collect.planning import import_gold
from plaudit.collect.web.research import overview
from plaudit.collect.web.work import answers_of_test
from plaudit.errors import DataError
from plaudit.store import Store, tables
from plaudit.store.exclusions import Choice, exclude, restore


@pytest.fixture
def store(database_place):
    store = Store.open(database_place)
    people_named(store, "ann", "bob", "cid")
    return store


def hand_in(store, who, *, at=None, name="compare", submission=None, **form):
    held = claim(store, name, who, at=at)
    assert held is not None
    form = form or FORMS[name]
    return submit(store, held.id, who, form, submission=submission or f"s-{held.id}-{at}", at=at)


def rows(store, table):
    with store.database.reading() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def test_everybody_gets_every_task_once_up_to_the_number_of_people(store):
    campaign(store, tasks=2, people_per_task=2)
    for who in ("ann", "bob"):
        assert len({hand_in(store, who).task for _ in range(2)}) == 2
        assert claim(store, "compare", who) is None
    assert claim(store, "compare", "cid") is None
    taken = [(row["task"], row["slot"]) for row in rows(store, tables.assignments)]
    assert len(set(taken)) == len(taken) == 4


@pytest.mark.parametrize("of_responses", [False, True])
def test_a_task_about_what_is_excluded_is_given_to_nobody_until_it_is_restored(store, of_responses):
    campaign(store, tasks=3)
    gone, stays, other = rows(store, tables.tasks)
    names = gone["responses"][:1] if of_responses else [gone["prompt_id"]]
    choice = Choice(ids=(*names, *other["responses"][1:]))
    exclude(store, choice, actor="me")
    assert hand_in(store, "ann").task == stays["id"]
    assert claim(store, "compare", "ann") is None
    restore(store, choice, actor="me")
    assert claim(store, "compare", "ann") is not None


def test_asking_again_gives_the_task_in_hand(store):
    campaign(store)
    first = claim(store, "compare", "ann", at=1000.0)
    again = claim(store, "compare", "ann", at=1100.0)
    assert again.id == first.id
    assert again.expires > first.expires


def test_a_lease_runs_out_and_the_slot_goes_to_somebody_else(store):
    campaign(store, tasks=1, lease_minutes=30)
    held = claim(store, "compare", "ann", at=0.0)
    assert claim(store, "compare", "bob", at=60.0) is None
    assert renew(store, held.id, "ann", at=1000.0)
    assert claim(store, "compare", "bob", at=1801.0) is None
    taken = claim(store, "compare", "bob", at=3000.0)
    assert taken.task == held.task
    with pytest.raises(TooLate, match="somebody else"):
        submit(store, held.id, "ann", FORMS["compare"], submission="late", at=3001.0)
    assert not renew(store, held.id, "ann", at=3001.0)
    assert [j["annotator"] for j in rows(store, tables.judgments)] == []


def test_what_is_handed_in_late_counts_when_nobody_else_has_the_slot(store):
    """Two slots of one task: whoever comes next takes the lapsed lease away, and one of them."""
    campaign(store, tasks=1, people_per_task=2)
    held = claim(store, "compare", "ann", at=0.0)
    assert claim(store, "compare", "bob", at=5000.0).task == held.task
    with store.database.writing() as connection:
        assert held_by(connection, held.id, "ann").state == "expired"
    submit(store, held.id, "ann", FORMS["compare"], submission="late", at=5001.0)
    assert [j["annotator"] for j in rows(store, tables.judgments)] == ["ann"]


def test_a_skipped_task_goes_to_others_and_never_back(store):
    campaign(store, tasks=1)
    held = claim(store, "compare", "ann")
    assert skip(store, held.id, "ann", "not my field")
    assert claim(store, "compare", "ann") is None
    assert claim(store, "compare", "bob").task == held.task


def test_a_closed_campaign_gives_nothing_out_and_takes_what_is_in_hand(store):
    campaign(store)
    held = claim(store, "compare", "ann")
    with store.database.writing() as connection:
        set_open(connection, "compare", False, actor="test")
    submit(store, held.id, "ann", FORMS["compare"], submission="x")
    assert claim(store, "compare", "ann") is None


def test_nobody_touches_the_tasks_of_others(store):
    campaign(store)
    held = claim(store, "compare", "ann")
    with pytest.raises(NotYours):
        submit(store, held.id, "bob", FORMS["compare"], submission="x")
    assert not skip(store, held.id, "bob", "")
    assert not renew(store, held.id, "bob")


def test_the_order_shown_differs_between_people_and_is_kept(store):
    campaign(store, tasks=40, people_per_task=2)
    orders = {}
    for who in ("ann", "bob"):
        for _ in range(40):
            judgment = hand_in(store, who)
            orders.setdefault(judgment.task, []).append(judgment.shown)
            assert judgment.answer["choice"] == judgment.shown[0]
    first = [shown == sorted(shown) for both in orders.values() for shown in both]
    assert 0.3 < sum(first) / len(first) < 0.7
    assert 8 <= sum(one != other for one, other in orders.values()) <= 32


def test_priority_decides_but_for_the_random_share(store):
    campaign(store, tasks=30, random_share=0.3)
    tasks = {row["id"]: row["is_random"] for row in rows(store, tables.tasks)}
    wanted = {task: float(i) for i, task in enumerate(sorted(tasks))}
    set_priorities(store, "compare", wanted, source="test", actor="test")
    order = [hand_in(store, "ann").task for _ in range(30)]
    by_priority = [task for task in order if not tasks[task]]
    assert by_priority == sorted(by_priority, key=wanted.get, reverse=True)
    by_chance = [task for task in order if tasks[task]]
    draws = {row["id"]: row["draw"] for row in rows(store, tables.tasks)}
    assert len(by_chance) >= 3
    assert by_chance == sorted(by_chance, key=draws.get, reverse=True)
    assert by_chance != sorted(by_chance, key=wanted.get, reverse=True)
    assert set(order) == set(tasks)


def golden(store, prompts, number, *, screening):
    known = [
        (NewTask(p.id, (f"sample-001:{p.id}:0", f"sample-001:{p.id}:1")), {"choice": f"sample-001:{p.id}:0"}, "why")
        for p in prompts[:number]
    ]
    return add_gold(store, "compare", known, screening=screening, actor="test")


def answer_gold(store, who, *, right, at=None):
    held = claim(store, "compare", who, at=at)
    place = next(i for i, response in enumerate(held.shown) if response.endswith(":0") == right)
    form = {"choice": str(place), "grade": "2"}
    return submit(store, held.id, who, form, submission=f"s-{held.id}", at=at)


def test_the_test_comes_first_and_its_pass_mark_decides(store):
    prompts = campaign(store, tasks=8, screening_tasks=4, people_per_task=9)
    assert golden(store, prompts, 4, screening=True) == 4
    for i in range(4):
        assert answer_gold(store, "ann", right=i > 0).is_right is (i > 0)
        assert answer_gold(store, "bob", right=i > 1).is_gold
    assert claim(store, "compare", "ann") is not None
    assert claim(store, "compare", "bob") is None
    with store.database.reading() as connection:
        found = find_campaign(connection, "compare")
        assert (
            screening_of(connection, found, "ann").interval["low"]
            < 0.75
            < screening_of(connection, found, "ann").interval["high"]
        )
    with store.database.writing() as connection:
        decide(connection, "bob", True, reason="talked it over", actor="test", about="admission", campaign="compare")
    assert claim(store, "compare", "bob") is not None
    assert store.comparisons() == []  # gold teaches nothing
    tests = overview(store, AllFigures(store), "compare").tests
    assert {who: (test.right, test.answered, test.state) for who, test in tests.items()} == {
        "ann": (3, 4, "passed"),
        "bob": (2, 4, "failed"),
    }


def test_the_test_is_explained_once_all_of_it_is_answered(store):
    prompts = campaign(store, tasks=4, screening_tasks=2)
    golden(store, prompts, 2, screening=True)
    answer_gold(store, "ann", right=True)
    assert answers_of_test(store, "compare", "ann") is None
    answer_gold(store, "ann", right=False)
    found = answers_of_test(store, "compare", "ann")
    assert [answer.is_right for answer in found] == [True, False]
    assert {answer.explanation for answer in found} == {"why"}
    assert answers_of_test(store, "compare", "bob") is None


def test_a_task_of_the_test_cannot_be_skipped(store):
    prompts = campaign(store, screening_tasks=2)
    golden(store, prompts, 2, screening=True)
    with pytest.raises(DataError, match="cannot be skipped"):
        skip(store, claim(store, "compare", "ann").id, "ann", "")


def test_bad_gold_pauses_and_a_decision_lets_work_again(store):
    prompts = campaign(store, tasks=30, gold_every=1, people_per_task=3)
    golden(store, prompts, 30, screening=False)
    done = 0
    while True:
        held = claim(store, "compare", "ann")
        if held is None:
            break
        answer_gold(store, "ann", right=False)
        done += 1
    assert done == 3  # the 95 % interval of 0 of 2 ends at 0.84, that of 0 of 3 at 0.71
    with store.database.writing() as connection:
        decide(connection, "ann", True, reason="again", actor="test", about="admission", campaign="compare")
    assert claim(store, "compare", "ann") is not None


def test_researchers_need_no_test_and_check_what_was_judged_beside_the_slots(store):
    prompts = campaign(store, tasks=3, screening_tasks=2, researchers_check=True)
    golden(store, prompts, 2, screening=True)
    with store.database.writing() as connection:
        decide(connection, "ann", True, reason="known", actor="test", about="admission")
    rosa = account(store, "rosa", "researcher")
    assert claim(store, "compare", rosa) is None  # nothing has been judged
    judged = {hand_in(store, "ann").task for _ in range(2)}
    checked = {hand_in(store, rosa).task for _ in range(2)}
    assert checked == judged
    assert claim(store, "compare", rosa) is None
    assert {row["slot"] for row in rows(store, tables.assignments) if row["annotator"] == rosa} == {None}
    assert sum(row["open_slots"] for row in rows(store, tables.tasks)) == 1
    with store.database.reading() as connection:
        figures = Figures(find_campaign(connection, "compare"), {rosa: "researcher"})
    figures.catch_up(store)
    assert figures.summary()["agreement"]["researchers"]["raw"]["n"] == 2


def test_good_gold_pauses_nobody(store):
    prompts = campaign(store, tasks=30, gold_every=1, people_per_task=3)
    golden(store, prompts, 30, screening=False)
    for _ in range(30):
        answer_gold(store, "ann", right=True)
    assert claim(store, "compare", "ann") is not None


def test_many_at_once_never_share_a_slot_and_a_held_key_gives_one_task(store):
    campaign(store, tasks=12, people_per_task=2)
    people_named(store, *(f"p{i}" for i in range(8)))
    errors = []

    def work(who):
        try:
            while (held := claim(store, "compare", who)) is not None:
                submit(store, held.id, who, FORMS["compare"], submission=f"s-{held.id}")
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(f"p{i % 8}",)) for i in range(16)]  # two of each person
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    raced = [error for error in errors if not isinstance(error, TooLate)]
    assert not raced
    judged = rows(store, tables.judgments)
    assert len(judged) == 24
    assert set(Counter(row["task"] for row in judged).values()) == {2}
    assert all(row["open_slots"] == 0 for row in rows(store, tables.tasks))


class Work(RuleBasedStateMachine):
    """Whatever people do in whatever order, the promises hold."""

    @initialize(people=st.integers(1, 3))
    def begin(self, people):
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store.open(Path(self.folder.name) / "feedback.sqlite")
        people_named(self.store, "ann", "bob", "cid")
        campaign(self.store, tasks=3, people_per_task=people)
        self.people, self.at, self.held, self.done = people, 0.0, {}, {}

    who = st.sampled_from(["ann", "bob", "cid"])

    @rule(who=who)
    def take(self, who):
        held = claim(self.store, "compare", who, at=self.at)
        if held is not None:
            self.held[who] = held

    @rule(who=who)
    def hand_in(self, who):
        if who not in self.held:
            return
        held = self.held.pop(who)
        try:
            submission = f"{held.id}-{len(self.done)}"
            one = submit(self.store, held.id, who, FORMS["compare"], submission=submission, at=self.at)
            assert submit(self.store, held.id, who, FORMS["compare"], submission=submission, at=self.at) == one
            self.done[one.id] = who
        except TooLate:
            pass

    @rule(who=who)
    def correct(self, who):
        with self.store.database.reading() as connection:
            newest = newest_judgment(connection, who, "compare")
        if newest is not None:
            one = submit(
                self.store, newest.assignment, who, {"choice": "tie"}, submission=f"c-{len(self.done)}", at=self.at
            )
            assert one.supersedes == newest.id
            self.done[one.id] = who

    @rule(who=who)
    def give_back(self, who):
        if who in self.held:
            skip(self.store, self.held.pop(who).id, who, "")

    @rule(minutes=st.sampled_from([1, 20, 40]))
    def wait(self, minutes):
        self.at += 60 * minutes

    @invariant()
    def promises(self):
        if not hasattr(self, "store"):
            return
        judged = rows(self.store, tables.judgments)
        assert {row["id"] for row in judged} == set(self.done)  # nothing acknowledged is lost
        superseded = {row["supersedes"] for row in judged}
        standing = [row for row in judged if row["id"] not in superseded]
        assert len({(row["task"], row["annotator"]) for row in standing}) == len(standing)
        live = [a for a in rows(self.store, tables.assignments) if a["state"] in ("leased", "submitted")]
        assert len({(a["task"], a["slot"]) for a in live}) == len(live)
        for task in rows(self.store, tables.tasks):
            assert task["open_slots"] == self.people - sum(a["task"] == task["id"] for a in live)
        assert len(self.store.comparisons()) == len(standing)

    def teardown(self):
        if hasattr(self, "folder"):
            self.store.database.engine.dispose()
            self.folder.cleanup()


TestWork = Work.TestCase
TestWork.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_gold_of_a_file_is_neither_learnt_from_nor_measured_on(store, tmp_path):
    campaign(store, tasks=1)
    lines = [
        {"prompt": "two and two?", "chosen": "four", "rejected": "five", "explanation": "count"},
        {"prompt": "three?", "chosen": "a", "rejected": "b", "tie": True},
    ]
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = store.prompts("train"), store.prompts("held_out")
    assert import_gold(store, "compare", path, screening=False, actor="test") == 2
    assert import_gold(store, "compare", path, screening=False, actor="test") == 0
    assert (store.prompts("train"), store.prompts("held_out")) == before
    found = {row["explanation"]: row["gold"] for row in rows(store, tables.tasks) if row["gold"] is not None}
    texts = {response.id: response.text for response in store.responses("gold:compare")}
    assert texts[found["count"]["choice"]] == "four"
    assert found[""]["choice"] == "tie"


@pytest.mark.parametrize(
    ("kind", "line", "answer"),
    [
        (
            "rank",
            {"prompt": "q", "responses": ["a", "b", "c"], "ranks": [2, 1, 2]},
            {"ranks": {"a": 2, "b": 1, "c": 2}},
        ),
        ("rate", {"prompt": "q", "completion": "a", "rating": 6}, {"ratings": {"a": 6.0}}),
        ("safety", {"prompt": "q", "completion": "a", "label": False, "criterion": "safe"}, {"safe": {"a": False}}),
    ],
)
def test_gold_of_every_kind_is_read(store, tmp_path, kind, line, answer):
    campaign(store, kind, tasks=1)
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps(line))
    assert import_gold(store, kind, path, screening=True, actor="test") == 1
    (gold,) = [row["gold"] for row in rows(store, tables.tasks) if row["gold"] is not None]
    texts = {response.id: response.text for response in store.responses()}
    assert {name: {texts[r]: v for r, v in values.items()} for name, values in gold.items()} == answer
