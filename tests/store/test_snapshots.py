import pytest
from databases import postgresql_database
from sqlalchemy import text

from plaudit.errors import DataError
from plaudit.records import Annotator, Comparison, Demonstration, Label, Prompt, Response
from plaudit.store import Store, tables
from plaudit.store.exporting import export_data
from plaudit.store.snapshots import list_snapshots, make_snapshot, verify_snapshot

PROMPTS = [Prompt([{"role": "user", "content": content}]) for content in ("what is tea é\U0001f600", "why")]
RESPONSES = [Response(f"r{i}{j}", PROMPTS[i].id, f"text {i} {j}", "sample-001") for i in (0, 1) for j in (0, 1)]


def fill(store):
    store.add_prompts(PROMPTS)
    store.add_responses(RESPONSES)
    store.add_annotators([Annotator(name, "person") for name in ("ann", "bob")])
    store.add_comparisons([judge(0, "ann"), judge(1, "ann", soft_preference=0.1), judge(0, "bob", run="campaign:x")])
    store.add_labels([Label(PROMPTS[0].id, "r00", "ann", 0.1 + 0.2, "judge-001", "clarity", "2030")])
    store.add_demonstrations([Demonstration(PROMPTS[1], "because", "book", "ann")])
    return store


def judge(prompt, who, run="judge-001", **more):
    sides = (f"r{prompt}0", f"r{prompt}1")
    return Comparison(PROMPTS[prompt].id, *sides, who, "first", run, created="2030", criterion="", **more)


@pytest.fixture
def store(database_place):
    return fill(Store.open(database_place))


def leave_out(store, annotator):
    with store.database.writing() as connection:
        connection.execute(
            tables.decisions.insert().values(
                about="training",
                annotator=annotator,
                campaign="",
                is_included=False,
                reason="",
                decided_by="",
                created="",
            )
        )


def correct(store):
    """Take back what ann submitted as j0, and say something else as j1."""
    with store.database.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO campaigns (name, kind, criterion, guideline, settings, is_open, created) "
                "VALUES ('x', 'pair', '', '', '{}', true, '')"
            )
        )
        task = {"campaign": "x", "prompt_id": PROMPTS[0].id, "responses": ["r00", "r01"], "open_slots": 0, "draw": 0.0}
        task |= {"is_random": False, "priority": 0.0, "is_screening": False, "explanation": ""}
        connection.execute(tables.tasks.insert().values(id="t", **task))
        seat = {"task": "t", "campaign": "x", "annotator": "ann", "state": "submitted", "shown": [], "created": 0.0}
        connection.execute(tables.assignments.insert().values(id="a", expires=0.0, **seat))
        said = {"assignment": "a", "task": "t", "campaign": "x", "annotator": "ann", "criterion": "", "kind": "pair"}
        said |= {
            "shown": [],
            "comment": "",
            "flags": [],
            "is_gold": False,
            "guideline": "",
            "version": "",
            "created": "",
        }
        connection.execute(tables.judgments.insert().values(id="j0", submission="0", **said))
        connection.execute(tables.judgments.insert().values(id="j1", submission="1", supersedes="j0", **said))


def test_a_snapshot_holds_what_stands_and_nothing_later_changes_it(store):
    store.add_comparisons([judge(0, "ann", run="campaign:x", judgment="j0")])
    made = make_snapshot(store, "first")
    assert {kind: facts["count"] for kind, facts in made["rows"].items()} == {
        "comparisons": 4, "labels": 1, "demonstrations": 1,
    }  # fmt: skip
    fixed = store.of_snapshot("first")
    before = fixed.comparisons(), fixed.labels(), fixed.demonstrations()
    correct(store)
    leave_out(store, "bob")
    store.add_comparisons([judge(1, "bob"), judge(0, "ann", run="campaign:x", judgment="j1")])
    store.add_labels([Label(PROMPTS[0].id, "r01", "ann", 1.0, "judge-001")])
    store.add_demonstrations([Demonstration(PROMPTS[0], "a drink", "book", "ann")])
    assert (fixed.comparisons(), fixed.labels(), fixed.demonstrations()) == before
    assert {c.annotator for c in store.comparisons()} == {"ann"}
    assert "j0" not in {c.judgment for c in store.comparisons()}
    assert verify_snapshot(store, "first") == {
        "name": "first", "is_unchanged": True, "rows": made["rows"], "changed": [],
    }  # fmt: skip
    assert make_snapshot(store, "second")["rows"] != made["rows"]
    assert [each["name"] for each in list_snapshots(store)] == ["first", "second"]


def test_a_snapshot_may_be_of_some_kinds_runs_campaigns_and_criteria(store):
    def counted(name, **chosen):
        return {kind: facts["count"] for kind, facts in make_snapshot(store, name, **chosen)["rows"].items()}

    assert counted("a", kinds=["comparisons"], campaigns=["x"]) == {"comparisons": 1}
    assert counted("b", runs=["judge-001", "book"]) == {"comparisons": 2, "labels": 1, "demonstrations": 1}
    assert counted("c", criteria=["clarity"]) == {"comparisons": 0, "labels": 1, "demonstrations": 1}
    assert [c.run for c in store.of_snapshot("a").comparisons()] == ["campaign:x"]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE comparisons SET choice = 'second' WHERE annotator = 'bob'",
        "UPDATE responses SET text = 'other' WHERE id = 'r11'",
        "UPDATE prompts SET messages = '[]'",
        "DELETE FROM comparisons WHERE annotator = 'bob'",
    ],
)
def test_a_change_behind_its_back_is_found(store, change):
    make_snapshot(store, "first")
    with store.database.writing() as connection:
        connection.execute(text(change))
    found = verify_snapshot(store, "first")
    assert not found["is_unchanged"]
    assert "comparisons" in found["changed"]


def test_the_hash_is_the_same_on_both_databases(tmp_path):
    made = [make_snapshot(fill(Store.open(tmp_path / "feedback.sqlite")), "a")]
    for url in postgresql_database():
        made.append(make_snapshot(fill(Store.open(url)), "a"))
    assert made[0]["rows"] == made[1]["rows"]


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("taken", {}, "none is ever changed"),
        ("a b", {}, "letters, digits"),
        ("x", {"kinds": ["labls"]}, "Did you mean `labels`"),
        ("x", {"runs": ["nobody"]}, "would be empty"),
    ],
)
def test_what_is_no_snapshot_is_refused_and_leaves_nothing(store, name, chosen, message):
    make_snapshot(store, "taken")
    with pytest.raises(DataError, match=message):
        make_snapshot(store, name, **chosen)
    assert len(list_snapshots(store)) == 1


def test_an_unknown_snapshot_is_named(store):
    with pytest.raises(DataError, match="no snapshot `x`"):
        store.of_snapshot("x")
    with pytest.raises(DataError, match="no snapshot `x`"):
        verify_snapshot(store, "x")


def test_an_export_of_a_snapshot_has_its_rows_and_prompts_alone(store, tmp_path):
    make_snapshot(store, "of-x", kinds=["comparisons"], campaigns=["x"])
    manifest = export_data(store.of_snapshot("of-x"), tmp_path / "out")
    assert manifest["rows"] == {
        "prompts": 1, "demonstrations": 0, "comparisons": 1, "rankings": 0, "ratings": 0, "labels": 0,
    }  # fmt: skip
    assert manifest["snapshot"]["name"] == "of-x"
    with pytest.raises(DataError, match="written whole"):
        export_data(store.of_snapshot("of-x"), tmp_path / "log", kind="judgments")
