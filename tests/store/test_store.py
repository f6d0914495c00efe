import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import text

from plaudit.errors import DataError, WorkspaceError
from plaudit.records import Annotator, Comparison, Demonstration, Prompt, Response
from plaudit.store import Store, tables
from plaudit.store.database import fingerprint

PROMPT = Prompt([{"role": "user", "content": "why is the sky blue"}], "train", "test")
RESPONSES = [Response(f"r{i}", PROMPT.id, f"text {i}", "sample-001", [1, 2], [-0.5, -1.25], True, 0.7) for i in (1, 2)]


@pytest.fixture
def store(database_place):
    store = Store.open(database_place)
    store.add_prompts([PROMPT])
    store.add_responses(RESPONSES)
    store.add_annotators([Annotator("ann", "person", {"noise": 1})])
    return store


def test_everything_reads_back_as_it_was_written(store, database_place):
    demonstration = Demonstration(PROMPT, "because of scattering", "test", "ann")
    comparison = Comparison(PROMPT.id, "r1", "r2", "ann", "second", "judge-001", 3, 0.25, 4.5, "2030-01-01")
    store.add_demonstrations([demonstration])
    store.add_comparisons([comparison])
    again = Store.open(database_place)
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
    with pytest.raises(WorkspaceError, match="file is not a database"):
        Store.open(tmp_path / "feedback.sqlite")


def test_snapshots_depend_on_the_ids_and_not_on_their_order():
    assert fingerprint("x", ["a", "b"]) == fingerprint("x", ["b", "a"]) != fingerprint("x", ["a", "c"])


WRITER = """
import sys
from pathlib import Path
from plaudit.records import Prompt
from plaudit.store import Store
store = Store.open(sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1]))
for i in range(60):
    store.counts()
    store.add_prompts([Prompt([{"role": "user", "content": f"{sys.argv[2]} {i}"}])])
"""


def test_writers_in_several_processes_lose_nothing_and_make_the_database_once(database_place):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(database_place), str(n)]) for n in range(4)]
    assert [w.wait() for w in writers] == [0] * 4
    assert len(Store.open(database_place).prompts()) == 240


def test_the_migrations_make_the_tables_that_the_code_knows(database_place):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    store = Store.open(database_place)
    with store.database.reading() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), tables.metadata)
    assert differences == []


def version_2(path, version=2):
    """A database as Plaudit made it before there were revisions, with a row in every table."""
    connection = sqlite3.connect(path)
    connection.executescript(
        """
        CREATE TABLE plaudit_schema (version INTEGER PRIMARY KEY);
        CREATE TABLE prompts (id VARCHAR(16) PRIMARY KEY, messages JSON NOT NULL, split VARCHAR(8) NOT NULL,
            source TEXT NOT NULL);
        CREATE INDEX ix_prompts_split ON prompts (split);
        CREATE TABLE demonstrations (id VARCHAR(16) PRIMARY KEY, prompt_id VARCHAR(16) NOT NULL REFERENCES prompts,
            text TEXT NOT NULL, source TEXT NOT NULL);
        CREATE TABLE responses (id VARCHAR(64) PRIMARY KEY, prompt_id VARCHAR(16) NOT NULL REFERENCES prompts,
            text TEXT NOT NULL, run VARCHAR(64) NOT NULL, token_ids JSON, log_probs JSON, finished BOOLEAN NOT NULL,
            temperature FLOAT);
        CREATE TABLE annotators (name VARCHAR(128) PRIMARY KEY, kind VARCHAR(16) NOT NULL, parameters JSON NOT NULL);
        CREATE TABLE comparisons (id VARCHAR(16) PRIMARY KEY, prompt_id VARCHAR(16) NOT NULL REFERENCES prompts,
            first VARCHAR(64) NOT NULL, second VARCHAR(64) NOT NULL, annotator VARCHAR(128) NOT NULL,
            choice VARCHAR(8) NOT NULL, grade INTEGER, probability_first FLOAT, seconds FLOAT, run VARCHAR(64) NOT NULL,
            created VARCHAR(32) NOT NULL, criterion VARCHAR(64) NOT NULL, soft_preference FLOAT, ranking VARCHAR(16));
        CREATE TABLE labels (id VARCHAR(16) PRIMARY KEY, prompt_id VARCHAR(16) NOT NULL, response VARCHAR(64) NOT NULL,
            annotator VARCHAR(128) NOT NULL, value FLOAT NOT NULL, run VARCHAR(64) NOT NULL,
            criterion VARCHAR(64) NOT NULL, created VARCHAR(32) NOT NULL);
        INSERT INTO prompts VALUES ('p', '[{"role": "user", "content": "hi"}]', 'train', 's');
        INSERT INTO responses VALUES ('a', 'p', 'A', 'r', NULL, NULL, 1, NULL);
        INSERT INTO responses VALUES ('b', 'p', 'B', 'r', NULL, NULL, 1, NULL);
        INSERT INTO annotators VALUES ('ann', 'person', '{}');
        INSERT INTO comparisons VALUES
            ('c', 'p', 'a', 'b', 'ann', 'first', 2, NULL, 3.5, 'r', '2026-01-01', '', NULL, NULL);
        """
    )
    connection.execute("INSERT INTO plaudit_schema VALUES (?)", (version,))
    connection.commit()
    connection.close()


def test_a_database_of_an_earlier_version_is_brought_up_to_date_and_a_copy_is_kept(tmp_path, capsys):
    version_2(tmp_path / "feedback.sqlite")
    (judgment,) = Store.open(tmp_path / "feedback.sqlite").comparisons()
    assert "is brought from schema 0001 to" in capsys.readouterr().err.replace("\n", " ")
    assert (judgment.first, judgment.choice, judgment.grade, judgment.judgment) == ("a", "first", 2, None)
    (copy,) = tmp_path.glob("feedback.before-0001-*.sqlite")
    with sqlite3.connect(copy) as old:
        assert old.execute("SELECT version FROM plaudit_schema").fetchone() == (2,)
    old.close()
    assert Store.open(tmp_path / "feedback.sqlite").comparisons() == [judgment]
    assert len(list(tmp_path.glob("*.before-*"))) == 1


def test_annotators_of_an_earlier_version_who_are_called_by_an_address_get_a_pseudonym_for_exports(tmp_path):
    version_2(tmp_path / "feedback.sqlite")
    with sqlite3.connect(tmp_path / "feedback.sqlite") as connection:
        connection.execute("INSERT INTO annotators VALUES ('bob@example.org', 'imported', '{}')")
    connection.close()
    told = {annotator.name: annotator.parameters for annotator in Store.open(tmp_path / "feedback.sqlite").annotators()}
    assert told["ann"] == {}
    assert told["bob@example.org"]["pseudonym"].startswith("person-")


def test_an_unknown_version_is_refused(tmp_path):
    version_2(tmp_path / "feedback.sqlite", version=1)
    with pytest.raises(WorkspaceError, match="schema version 1"):
        Store.open(tmp_path / "feedback.sqlite")


def test_a_newer_version_is_refused(database_place):
    store = Store.open(database_place)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(WorkspaceError, match="newer Plaudit"):
        Store.open(database_place)


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/x", "mysql://root@localhost/x", "postgresql://["])
def test_a_database_that_cannot_be_used_is_refused_without_its_password(url):
    with pytest.raises(WorkspaceError, match=r"cannot be used|only PostgreSQL|must look like"):
        Store.open(url)


def decide(store, annotator, included, campaign=""):
    with store.database.writing() as connection:
        connection.execute(
            tables.decisions.insert().values(
                about="training",
                annotator=annotator,
                campaign=campaign,
                is_included=included,
                reason="",
                decided_by="",
                created="",
            )
        )


def test_the_newest_decision_on_an_annotator_holds_and_a_campaigns_goes_before_all(store):
    store.add_annotators([Annotator("bob", "person")])
    rows = [("ann", "judge-001"), ("ann", "campaign:x"), ("bob", "campaign:x")]
    store.add_comparisons([Comparison(PROMPT.id, "r1", "r2", who, "first", run) for who, run in rows])

    def read():
        return sorted((c.annotator, c.run) for c in store.comparisons())

    decide(store, "ann", False)
    assert read() == [("bob", "campaign:x")]
    decide(store, "ann", True, "x")
    assert read() == [("ann", "campaign:x"), ("bob", "campaign:x")]
    decide(store, "bob", False, "x")
    decide(store, "ann", True)
    assert read() == sorted(rows[:2])


def test_text_that_a_database_cannot_hold_is_refused_whole(store):
    rows = [Demonstration(PROMPT, text) for text in ("fine", "a \x00 b")]
    if store.database.is_sqlite:
        assert store.add_demonstrations(rows) == 2
    else:
        with pytest.raises(DataError, match="NUL"):
            store.add_demonstrations(rows)
        assert store.demonstrations() == []
