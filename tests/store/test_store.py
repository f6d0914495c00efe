import subprocess
import sys

import pytest

from plaudit.errors import DataError, WorkspaceError
from plaudit.records import Annotator, Comparison, Demonstration, Prompt, Response
from plaudit.store import Store
from plaudit.store.database import snapshot

PROMPT = Prompt([{"role": "user", "content": "why is the sky blue"}], "train", "test")
RESPONSES = [Response(f"r{i}", PROMPT.id, f"text {i}", "sample-001", [1, 2], [-0.5, -1.25], True, 0.7) for i in (1, 2)]


@pytest.fixture
def store(tmp_path):
    store = Store.open(tmp_path / "feedback.sqlite")
    store.add_prompts([PROMPT])
    store.add_responses(RESPONSES)
    store.add_annotators([Annotator("ann", "person", {"noise": 1})])
    return store


def test_everything_reads_back_as_it_was_written(store, tmp_path):
    demonstration = Demonstration(PROMPT, "because of scattering", "test")
    comparison = Comparison(PROMPT.id, "r1", "r2", "ann", "second", "judge-001", 3, 0.25, 4.5, "2030-01-01")
    store.add_demonstrations([demonstration])
    store.add_comparisons([comparison])
    again = Store.open(tmp_path / "feedback.sqlite")
    assert again.prompts() == [PROMPT]
    assert again.demonstrations() == [demonstration]
    assert again.responses("sample-001") == RESPONSES
    assert again.comparisons() == [comparison]
    assert again.annotators() == [Annotator("ann", "person", {"noise": 1})]


def test_adding_again_adds_nothing(store):
    assert store.add_prompts([PROMPT]) == 0
    assert store.add_responses(RESPONSES) == 0


def test_one_annotator_judges_a_pair_once_a_run_whatever_the_order(store):
    judgment = Comparison(PROMPT.id, "r1", "r2", "ann", "first", "judge-001")
    assert store.add_comparisons([judgment]) == 1
    assert store.add_comparisons([judgment.swap()]) == 0


def test_a_judgment_of_an_unknown_response_is_refused_whole(store):
    good = Comparison(PROMPT.id, "r1", "r2", "ann", "first", "judge-001")
    bad = Comparison(PROMPT.id, "r1", "nobody", "ann", "first", "judge-001")
    with pytest.raises(DataError, match="refers to a row"):
        store.add_comparisons([good, bad])
    assert store.comparisons() == []


def test_swapping_a_comparison_twice_gives_it_back():
    judgment = Comparison("p", "a", "b", "ann", "first", "run", 2, 0.75)
    assert judgment.swap().swap() == judgment
    assert judgment.swap().preference_first == 0.0
    assert judgment.swap().id == judgment.id


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "feedback.sqlite").write_text("hello, this is not a database at all, really not")
    with pytest.raises(WorkspaceError, match="not a feedback database"):
        Store.open(tmp_path / "feedback.sqlite")


def test_snapshots_depend_on_the_ids_and_not_on_their_order():
    assert snapshot("x", ["a", "b"]) == snapshot("x", ["b", "a"]) != snapshot("x", ["a", "c"])


WRITER = """
import sys
from pathlib import Path
from plaudit.records import Prompt
from plaudit.store import Store
store = Store.open(Path(sys.argv[1]))
for i in range(60):
    store.counts()
    store.add_prompts([Prompt([{"role": "user", "content": f"{sys.argv[2]} {i}"}])])
"""


def test_writers_in_several_processes_lose_nothing(tmp_path):
    path = tmp_path / "feedback.sqlite"
    Store.open(path)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)]) for n in range(4)]
    assert [w.wait() for w in writers] == [0] * 4
    assert len(Store.open(path).prompts()) == 240
