import pytest
from campaign import FORMS, campaign, people_named
from sqlalchemy import select, text

from plaudit.collect import audit
from plaudit.collect.assignment import claim
from plaudit.collect.campaigns import CampaignSettings, create_campaign, find_campaign, plan_tasks
from plaudit.collect.judging import TooLate, newest_judgment, submit
from plaudit.collect.kinds import KINDS
from plaudit.errors import DataError
from plaudit.guidelines import CRITERIA, PLAIN_GUIDELINES, guideline_for
from plaudit.records import SAFE, Prompt, Response
from plaudit.store import Store, tables


@pytest.fixture
def store(database_place):
    store = Store.open(database_place)
    people_named(store, "ann", "bob")
    return store


def hand_in(store, kind, form=None, **more):
    held = claim(store, kind, "ann", at=100.0)
    return submit(store, held.id, "ann", form or FORMS[kind], submission=f"s-{held.id}", at=140.0, **more)


def test_a_comparison_becomes_a_graded_judgment_in_the_order_shown(store):
    campaign(store, "compare")
    judgment = hand_in(store, "compare", seconds=12.5, comment=" because ", flags=["spam"])
    (comparison,) = store.comparisons()
    assert [comparison.first, comparison.second] == judgment.shown
    assert (comparison.choice, comparison.grade, comparison.seconds) == ("first", 3, 12.5)
    assert (comparison.run, comparison.annotator) == ("campaign:compare", "ann")
    assert (judgment.comment, judgment.flags, judgment.is_gold) == ("because", ["spam"], False)


@pytest.mark.parametrize("choice", ["tie", "both_bad"])
def test_neither_better_is_a_tie_and_the_log_keeps_which(store, choice):
    campaign(store, "compare")
    assert hand_in(store, "compare", {"choice": choice}).answer == {"choice": choice}
    assert [c.choice for c in store.comparisons()] == ["tie"]


def test_a_ranking_becomes_all_of_its_pairs(store):
    campaign(store, "rank")
    judgment = hand_in(store, "rank", {"rank-0": "3", "rank-1": "1", "rank-2": "3"})
    a, b, c = judgment.shown
    assert judgment.answer == {"ranks": {a: 2, b: 1, c: 2}}
    found = {(x.first, x.second): x.choice for x in store.comparisons()}
    assert found == {(a, b): "second", (a, c): "tie", (b, c): "first"}
    assert len({x.ranking for x in store.comparisons()}) == 1


def test_ratings_and_safety_become_labels(store):
    campaign(store, "rate")
    campaign(store, "safety")
    hand_in(store, "rate")
    hand_in(store, "safety", {"safe-0": "no"})
    assert {(label.criterion, label.value) for label in store.labels()} == {("rating", 6.0), (SAFE, 0.0)}


def test_what_is_written_is_a_demonstration_and_an_edit_beats_what_it_edits(store):
    campaign(store, "demonstrate")
    campaign(store, "edit")
    hand_in(store, "demonstrate")
    judgment = hand_in(store, "edit")
    assert {d.text: d.annotator for d in store.demonstrations()} == {
        "an answer of my own": "ann",
        "a better answer": "ann",
    }
    (comparison,) = store.comparisons()
    assert (comparison.second, comparison.choice) == (judgment.shown[0], "first")
    texts = {response.id: response.text for response in store.responses()}
    assert texts[comparison.first] == "a better answer"


def test_an_edit_that_changes_nothing_is_a_demonstration_alone(store):
    prompts = campaign(store, "edit", tasks=1)
    hand_in(store, "edit", {"text": f"answer 0 to {prompts[0].text}\r\n"})
    assert store.comparisons() == []
    assert len(store.demonstrations()) == 1


def test_the_indentation_of_what_is_written_stays(store):
    campaign(store, "demonstrate", tasks=1)
    hand_in(store, "demonstrate", {"text": "\r\n    return 1\r\n\r\n"})
    assert [d.text for d in store.demonstrations()] == ["    return 1"]


def test_a_correction_supersedes_and_both_stay_in_the_log(store):
    campaign(store, "compare", tasks=1)
    first = hand_in(store, "compare")
    second = submit(store, first.assignment, "ann", {"choice": "tie"}, submission="again", at=150.0)
    assert second.supersedes == first.id
    assert [c.choice for c in store.comparisons()] == ["tie"]
    with store.database.reading() as connection:
        assert len(connection.execute(select(tables.judgments)).all()) == 2
        assert newest_judgment(connection, "ann", "compare") == second


def test_only_the_newest_judgment_can_be_corrected(store):
    campaign(store, "compare", tasks=2)
    first = hand_in(store, "compare")
    hand_in(store, "compare")
    with pytest.raises(TooLate, match="newest"):
        submit(store, first.assignment, "ann", {"choice": "tie"}, submission="again", at=150.0)


def test_the_same_submission_again_is_the_same_judgment(store):
    campaign(store, "compare", tasks=1)
    held = claim(store, "compare", "ann")
    one = submit(store, held.id, "ann", {"choice": "0", "grade": "1"}, submission="x")
    assert submit(store, held.id, "ann", {"choice": "1", "grade": "4"}, submission="x") == one
    assert len(store.comparisons()) == 1


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("compare", {}),
        ("compare", {"choice": "2", "grade": "1"}),
        ("compare", {"choice": "-1", "grade": "1"}),
        ("compare", {"choice": "²", "grade": "1"}),
        ("compare", {"choice": "0"}),
        ("compare", {"choice": "0", "grade": "5"}),
        ("rank", {"rank-0": "1", "rank-1": "2"}),
        ("rank", {"rank-0": "1", "rank-1": "2", "rank-2": "4"}),
        ("rate", {"rating-0": "8"}),
        ("rate", {"rating-0": "x"}),
        ("safety", {}),
        ("safety", {"safe-0": "maybe"}),
        ("demonstrate", {"text": "  "}),
        ("demonstrate", {"text": "x" * 60_000}),
        ("edit", {"text": "a\0b"}),
    ],
)
def test_an_answer_that_cannot_be_is_refused_and_the_task_stays_in_hand(store, kind, form):
    campaign(store, kind)
    held = claim(store, kind, "ann", at=0.0)
    with pytest.raises(DataError):
        submit(store, held.id, "ann", form, submission="x", at=1.0)
    assert claim(store, kind, "ann", at=2.0).id == held.id
    submit(store, held.id, "ann", FORMS[kind], submission="x", at=3.0)


def test_the_end_of_a_line_counts_as_one_character_as_in_the_browser(store):
    campaign(store, "demonstrate", tasks=1)
    judgment = hand_in(store, "demonstrate", {"text": "x\r\n" * 24_999 + "x"}, comment="y\r\n" * 2_500)
    assert (len(judgment.answer["text"]), len(judgment.comment)) == (49_999, 4_999)


def test_time_taken_is_never_more_than_the_task_was_in_hand(store):
    campaign(store, "compare")
    assert hand_in(store, "compare", seconds=1e6).seconds == 40.0


def test_the_audit_chain_holds_and_shows_where_it_was_broken(store):
    campaign(store, "compare")
    for _ in range(3):
        hand_in(store, "compare")
    with store.database.reading() as connection:
        assert audit.check(connection).first_broken is None
    with store.database.writing() as connection:
        connection.execute(text("UPDATE audit SET details = '{}' WHERE number = 3"))
    with store.database.reading() as connection:
        assert audit.check(connection).first_broken == 3


def test_a_failure_in_the_middle_keeps_nothing(store, monkeypatch):
    campaign(store, "compare", tasks=1)
    held = claim(store, "compare", "ann")
    monkeypatch.setattr(audit, "record", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        submit(store, held.id, "ann", FORMS["compare"], submission="x")
    monkeypatch.undo()
    assert store.comparisons() == []
    submit(store, held.id, "ann", FORMS["compare"], submission="x")
    assert len(store.comparisons()) == 1


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ({"a": 1, "b": 2, "c": 3, "d": 4}, True),
        ({"a": 2, "b": 1, "c": 3, "d": 4}, True),  # 5 of 6 pairs
        ({"a": 2, "b": 2, "c": 1, "d": 1}, False),
        ({"a": 4, "b": 3, "c": 2, "d": 1}, False),
    ],
)
def test_a_gold_ranking_is_right_when_three_quarters_of_its_pairs_are(answer, right):
    known = {"ranks": {"a": 1, "b": 2, "c": 3, "d": 4}}
    assert KINDS["rank"].is_right({"ranks": answer}, known) is right


def test_tasks_are_planned_from_different_responses_alone():
    prompts = [Prompt([{"role": "user", "content": f"q{i}"}]) for i in range(2)]
    texts = {prompts[0].id: ["x", "y", "z", "x", " "], prompts[1].id: ["only"]}
    responses = [Response(f"{p}:{i}", p, t, "r") for p, ts in texts.items() for i, t in enumerate(ts)]
    counts = {
        kind: (len(plan_tasks(kind, prompts, responses)[0]), plan_tasks(kind, prompts, responses)[1]) for kind in KINDS
    }
    assert counts == {
        "compare": (3, 1),
        "rank": (1, 1),
        "rate": (4, 0),
        "safety": (4, 0),
        "edit": (4, 0),
        "demonstrate": (2, 0),
    }


def test_a_campaign_that_cannot_be_is_refused_whole(store):
    campaign(store, "compare")
    for name, kind, criterion in [
        ("compare", "compare", ""),
        ("X y", "compare", ""),
        ("new", "comparee", ""),
        ("new", "compare", "wit"),
    ]:
        with pytest.raises(DataError):
            create_campaign(store, name, kind=kind, tasks_=[], criterion=criterion)
    with pytest.raises(DataError, match="nothing to ask"):
        create_campaign(store, "new", kind="compare", tasks_=[], settings=CampaignSettings())
    with store.database.reading() as connection, pytest.raises(DataError, match="Did you mean `compare`"):
        find_campaign(connection, "comparee")


def test_every_kind_of_task_says_what_is_asked():
    assert PLAIN_GUIDELINES.keys() == KINDS.keys()


@pytest.mark.parametrize("told", [float("nan"), float("inf"), float("-inf")])
def test_a_time_that_is_no_number_is_not_kept(store, told):
    campaign(store, "compare")
    assert hand_in(store, "compare", seconds=told).seconds is None


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_asked_by_a_criterion_fits_the_kind_of_task(kind, criterion):
    text = guideline_for(kind, criterion)
    assert CRITERIA[criterion] in text
    assert ("Which" in text) == (kind == "compare")


def test_a_person_at_the_keyboard_sees_the_whole_conversation_as_it_was_written(monkeypatch, capsys):
    import io

    from plaudit.collect.terminal import ask_person

    roles = ("system", "user", "assistant", "user")
    turns = ["be :smile: [bold]brief[/bold]", "what is tea", "leaves", "  and\n    coffee"]
    prompt = Prompt([{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)])
    pair = [Response(name, prompt.id, f"    indented {name}", "sample-001") for name in "ab"]
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    ask_person([(prompt, *pair)], "judge-001", lambda judgment: None)
    said = capsys.readouterr().err
    for line in (turns[0], turns[1], turns[2], "│   and ", "│     coffee", "│     indented a", "│     indented b"):
        assert line in said
