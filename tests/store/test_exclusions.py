"""Data that is left out: nothing reads it, nothing of it is lost, and it can be taken in again."""

import json

import pytest
from conftest import write_lines

import plaudit
from plaudit.errors import DataError
from plaudit.records import Annotator, Comparison, Demonstration, Label, Prompt, Response
from plaudit.store import Store, tables
from plaudit.store.exclusions import Choice, exclude, exclusions_of, find, overview, restore
from plaudit.store.exporting import export_data
from plaudit.store.importing import import_file
from plaudit.store.snapshots import make_snapshot, verify_snapshot

PROMPTS = [Prompt([{"role": "user", "content": text}], source=source) for text, source in (("tea", "a"), ("Füße", "b"))]


@pytest.fixture
def store(database_place):
    """Two prompts, each with two responses, a demonstration, and a judgment of each kind by two annotators."""
    store = Store.open(database_place)
    store.add_prompts(PROMPTS)
    store.add_annotators([Annotator("ann", "person"), Annotator("bob", "model")])
    for number, prompt in enumerate(PROMPTS):
        names = [f"r{number}{side}" for side in "xy"]
        store.add_responses([Response(name, prompt.id, f"answer {name}", "sample-001") for name in names])
        store.add_demonstrations([Demonstration(prompt, f"good {number}", prompt.source, "ann")])
        for who, run in (("ann", "campaign:c"), ("bob", "judge-001")):
            store.add_comparisons([Comparison(prompt.id, *names, who, "first", run)])
            store.add_labels([Label(prompt.id, names[0], who, 1.0, run)])
    return store


def held(store):
    """What is read: numbers of prompts, responses, demonstrations, comparisons and labels."""
    return tuple(
        len(read()) for read in (store.prompts, store.responses, store.demonstrations, store.comparisons, store.labels)
    )


FIRST = PROMPTS[0].id


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ({"ids": (FIRST,)}, (1, 2, 1, 2, 2)),
        ({"ids": ("r0x",)}, (2, 3, 2, 2, 2)),
        ({"ids": ("r0y",)}, (2, 3, 2, 2, 4)),
        ({"sources": ("a",)}, (1, 2, 1, 2, 2)),
        ({"sources": ("a",), "kinds": ("demonstrations",)}, (2, 4, 1, 4, 4)),
        ({"runs": ("judge-001",)}, (2, 4, 2, 2, 2)),
        ({"runs": ("sample-001",)}, (2, 0, 2, 0, 0)),
        ({"runs": ("campaign:c",), "kinds": ("comparisons",)}, (2, 4, 2, 2, 4)),
        ({"annotators": ("ann",)}, (2, 4, 0, 2, 2)),
        ({"query": "FÜSSE".replace("SS", "ß")}, (1, 2, 1, 2, 2)),
        ({"query": "good 1"}, (2, 4, 1, 4, 4)),
        ({"query": "answer r0"}, (2, 2, 2, 2, 2)),
        ({"runs": ("judge-001",), "annotators": ("bob",), "kinds": ("labels",)}, (2, 4, 2, 4, 2)),
    ],
)
def test_what_is_excluded_is_read_by_nothing_and_can_be_restored(store, choice, left):
    whole = held(store)
    done = exclude(store, Choice(**choice), reason="broken", actor="me")
    assert held(store) == left
    counts = store.counts()
    assert (counts["prompts"], counts["responses"], counts["demonstrations"]) == left[:3]
    assert (counts["comparisons"], counts["labels"]) == left[3:]
    assert sum(store.excluded().values()) == sum(done.rows.values())
    again = exclude(store, Choice(**choice), actor="me")
    assert (again.number, again.rows) == (None, {})
    back = restore(store, Choice(exclusions=(done.number,)), actor="me")
    assert back.rows == done.rows
    assert held(store) == whole
    assert store.excluded() == {}
    words = [(one["is_excluded"], one["reason"], one["rows"]) for one in exclusions_of(store)]
    assert words == [(True, "broken", done.rows), (False, "", done.rows)]


def test_the_newest_word_on_a_row_holds_whatever_it_was_chosen_by(store):
    exclude(store, Choice(sources=("a", "b")), actor="me")
    restore(store, Choice(ids=(FIRST,)), actor="me")
    assert [prompt.id for prompt in store.prompts()] == [FIRST]
    assert store.demonstrations() == []  # which were excluded themselves
    exclude(store, Choice(ids=(FIRST,)), actor="me")
    assert store.prompts() == []


def test_nothing_is_deleted_and_exports_have_what_is_left(store, tmp_path):
    exclude(store, Choice(ids=(FIRST,)), actor="me")
    with store.database.reading() as connection:
        assert len(connection.execute(tables.prompts.select()).all()) == 2
        assert len(connection.execute(tables.comparisons.select()).all()) == 4
    manifest = export_data(store, tmp_path / "out")
    assert manifest["excluded"] == {"prompts": 1}
    assert {kind: manifest["rows"][kind] for kind in ("prompts", "demonstrations", "comparisons", "labels")} == {
        "prompts": 1, "demonstrations": 1, "comparisons": 2, "labels": 2,
    }  # fmt: skip


def test_a_snapshot_keeps_what_it_has(store):
    make_snapshot(store, "all")
    exclude(store, Choice(ids=(FIRST,)), actor="me")
    fixed = store.of_snapshot("all")
    assert len(fixed.comparisons()) == 4
    assert len(fixed.prompts()) == 2
    assert verify_snapshot(store, "all")["is_unchanged"]
    make_snapshot(store, "left")
    assert len(store.of_snapshot("left").comparisons()) == 2


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({}, "say what"),
        ({"kinds": ("prompts",)}, "say what"),
        ({"kinds": ("prompt",), "ids": ("x",)}, "Did you mean `prompts`"),
        ({"ids": ("x",)}, "nothing in the workspace fits"),
        ({"runs": ("judge-002",)}, "--run judge-002: there is none here. Did you mean `judge-001`"),
        ({"sources": ("c",)}, "--source c: there is none"),
        ({"annotators": ("anne",)}, "Did you mean `ann`"),
        ({"imports": (7,)}, "--import 7: there is none"),
        ({"exclusions": (7,)}, "--exclusion 7: there is none"),
        ({"annotators": ("ann",), "kinds": ("prompts",)}, "nothing in the workspace fits"),
    ],
)
def test_what_cannot_be_meant_is_refused(store, choice, message):
    with pytest.raises(DataError, match=message):
        exclude(store, Choice(**choice), actor="me")
    assert store.excluded() == {}


@pytest.fixture
def give(store, tmp_path):
    def call(name, kind, *rows):
        return import_file(store, write_lines(tmp_path / name, list(rows)), kind=kind)

    return call


ROWS = [{"prompt": f"question {i}", "chosen": "a", "rejected": "b"} for i in range(3)]


def test_an_import_is_undone_by_its_number_and_importing_it_anew_takes_it_in_again(store, give):
    before = held(store)
    wrong = give("pairs.jsonl", "comparisons", *ROWS)
    done = exclude(store, Choice(imports=(wrong.number,)), actor="me")
    assert done.rows == {"prompts": 3, "comparisons": 3}
    assert held(store)[3] == before[3]
    right = give("pairs.jsonl", "comparisons", *({**row, "chosen": "b", "rejected": "a"} for row in ROWS))
    assert (right.added, right.restored, right.excluded) == (3, 3, 0)
    assert len(store.comparisons(right.run)) == 3
    again = give("pairs.jsonl", "comparisons", *ROWS)
    assert (again.added, again.repeated, again.restored) == (0, 3, 3)
    assert len(store.comparisons(right.run)) == 6


def test_prompts_of_a_wrong_import_stay_where_other_imports_have_data_on_them(store, give):
    wrong = give("pairs.jsonl", "prompts", *({"prompt": row["prompt"]} for row in ROWS))
    give("others.jsonl", "comparisons", ROWS[0])
    done = exclude(store, Choice(imports=(wrong.number,)), actor="me")
    assert (done.rows, done.kept) == ({"prompts": 2}, 1)
    assert len(store.prompts()) == 3
    assert done.counts["prompts"] == 2


def test_what_was_excluded_by_itself_stays_so_when_it_comes_again_and_that_is_said(store, give):
    first = give("pairs.jsonl", "comparisons", *ROWS)
    gone = next(prompt.id for prompt in store.prompts() if prompt.text == "question 1")
    exclude(store, Choice(ids=(gone,)), actor="me")
    again = give("pairs.jsonl", "comparisons", *ROWS)
    assert (again.restored, again.excluded) == (0, 1)
    assert len(store.comparisons(first.run)) == 2
    assert give("prompts.jsonl", "prompts", *({"prompt": row["prompt"]} for row in ROWS)).excluded == 1


def test_the_overview_says_what_came_from_where(store, give):
    found = give("pairs.jsonl", "comparisons", *ROWS)
    seen = overview(store)
    (one,) = seen["imports"]
    assert (one["run"], one["rows"]) == (found.run, {"prompts": 3, "comparisons": 3})
    assert one["file"].endswith("pairs.jsonl")
    assert seen["sources"]["a"] == {"prompts": 1, "demonstrations": 1}
    assert seen["runs"]["sample-001"] == {"responses": 4}
    assert seen["annotators"]["ann"] == {"kind": "person", "comparisons": 2, "labels": 2, "demonstrations": 2}
    assert find(store, Choice(query="question 2"))["prompts"]


def test_stages_pass_over_what_is_excluded_and_say_so(workspace, tiny_model, capsys):
    held_out = workspace.store.prompts("held_out")
    gone = [workspace.store.prompts("train")[0].id, held_out[0].id]
    exclude(workspace.store, Choice(ids=tuple(gone)), actor="me")
    config = workspace.config(overrides=[f"sample.policy={tiny_model}", "sample.samples_per_prompt=2"])
    run = plaudit.sample(workspace, config)
    assert run.info["data"]["prompts"]["count"] == run.result["prompts"] == 28
    assert run.info["excluded"] == {"prompts": 2}
    assert "with what goes with them: 2 prompts" in capsys.readouterr().err
    tuned = plaudit.sft(workspace, config)
    assert tuned.info["data"]["demonstrations"]["count"] == len(workspace.store.demonstrations()) < 24
    judged = plaudit.judge(workspace, config)
    changes = [f"reward.model={tiny_model}", f"evaluate.policy={tiny_model}", "evaluate.reward=null"]
    learnt = plaudit.reward(workspace, workspace.config(overrides=changes))
    assert learnt.info["data"]["comparisons"]["count"] == judged.result["judgments"]
    exclude(workspace.store, Choice(ids=(held_out[1].id,)), actor="me")
    fewer = plaudit.reward(workspace, workspace.config(overrides=changes))
    assert fewer.info["data"]["comparisons"]["count"] < judged.result["judgments"]
    measured = plaudit.evaluate(workspace, workspace.config(overrides=[*changes, "evaluate.baseline=sft-001"]))
    assert measured.result["prompts"] == len(held_out) - 2


def test_by_commands(run, workspace, tmp_path):
    file = write_lines(tmp_path / "pairs.jsonl", ROWS)
    code, out, _ = run("import", file, "--kind", "comparisons", "-w", workspace.path)
    assert "To undo: plaudit data exclude --import 3" in out
    assert "  3 " in run("data", "list", "-w", workspace.path)[1]
    code, out, _ = run("data", "exclude", "--import", "3", "--reason", "sides swapped", "-w", workspace.path)
    assert code == 0
    assert "Excluded: 3 prompts, 3 comparisons (number 1)." in out
    assert "Excluded, with what goes with them: 3 comparisons, 3 prompts" in run("status", "-w", workspace.path)[1]
    listed = json.loads(run("data", "list", "--query", "question", "--json", "-w", workspace.path)[1])
    assert listed["rows"] == {"prompts": 3}
    assert [row["is_excluded"] for row in listed["shown"]] == [True] * 3
    assert "sides swapped" in run("data", "list", "-w", workspace.path)[1]
    code, out, _ = run("data", "restore", "--exclusion", "1", "-w", workspace.path)
    assert "Restored: 3 prompts, 3 comparisons (number 2)." in out
    assert len(workspace.store.comparisons()) == 3
    code, out, _ = run("audit", "verify", "-w", workspace.path, "--json")
    assert json.loads(out)["records"] == 2
    code, _, err = run("data", "exclude", "-w", workspace.path)
    assert (code, "say what" in err) == (2, True)
