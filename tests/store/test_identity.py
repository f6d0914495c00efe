"""Whose judgment is whose: votes without a name, corrections, repetitions, and names that are addresses."""

import itertools
import json
import random

import pytest
from conftest import write_lines

from plaudit.errors import DataError
from plaudit.records import Annotator, Comparison, Label, Prompt, Response
from plaudit.store import Store, tables
from plaudit.store.exporting import export_data
from plaudit.store.importing import import_file

PAIR = {"prompt": "which is better"}
FOR_A = {**PAIR, "chosen": "A", "rejected": "B"}
FOR_B = {**PAIR, "chosen": "B", "rejected": "A"}
EARLY, LATE = "2024-01-01T00:00:00+00:00", "2024-02-01T00:00:00+00:00"


@pytest.fixture
def store(database_place):
    return Store.open(database_place)


@pytest.fixture
def give(store, tmp_path):
    """give(rows) imports them, always by the same name of file."""

    def call(*rows, kind="comparisons", **more):
        return import_file(store, write_lines(tmp_path / "votes.jsonl", list(rows)), kind=kind, **more)

    return call


def winners(store):
    """The preferred text of each standing comparison, with who said so."""
    texts = {response.id: response.text for response in store.responses()}
    return sorted((c.annotator, texts[c.first if c.choice == "first" else c.second]) for c in store.comparisons())


def test_every_vote_without_a_name_counts(store, give):
    found = give(FOR_B, FOR_A, FOR_A)
    assert (found.added, found.votes, found.repeated) == (3, 2, 0)
    assert [text for _, text in winners(store)] == ["A", "A", "B"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_votes_are_the_same_when_the_file_comes_again_in_another_order(store, give, order):
    votes = [FOR_B, FOR_A, FOR_A]
    give(*votes)
    before = store.comparisons()
    again = give(*(votes[i] for i in order))
    assert (again.added, again.repeated) == (0, 3)
    assert store.comparisons() == before
    more = give(*(votes[i] for i in order), FOR_A)
    assert (more.added, more.votes, more.repeated) == (1, 1, 3)


def test_votes_over_several_chunks_and_files_are_the_same(store, give, monkeypatch):
    from plaudit.store import importing

    votes = random.Random(0).choices([FOR_A, FOR_B, {**FOR_A, "grade": 3}], k=40)
    monkeypatch.setattr(importing, "ROWS_AT_ONCE", 3)
    assert give(*votes[:25]).added == 25
    assert give(*votes).added == 15
    monkeypatch.undo()
    assert give(*reversed(votes)).added == 0
    assert len(store.comparisons()) == 40


def test_ratings_labels_and_rankings_without_a_name_are_votes_too(store, give):
    rating = {**PAIR, "completion": "A"}
    assert give({**rating, "rating": 2}, {**rating, "rating": 5}, {**rating, "rating": 5}, kind="ratings").added == 3
    assert sorted(label.value for label in store.labels("rating")) == [2, 5, 5]
    assert give({**rating, "label": True}, {**rating, "label": False}, kind="labels").added == 2
    ranked = {**PAIR, "responses": ["A", "B", "C"]}
    found = give({**ranked, "ranks": [1, 2, 3]}, {**ranked, "ranks": [3, 2, 1]}, kind="rankings")
    assert (found.added, found.pairs, found.votes) == (2, 6, 1)
    assert len({c.ranking for c in store.comparisons()}) == 2


def test_what_the_same_annotator_says_again_is_there_already(store, give):
    ann = {**FOR_A, "annotator": "ann"}
    found = give(ann, ann, {**ann, "annotator": "bob"})
    assert (found.added, found.repeated, found.votes, found.corrected) == (2, 1, 0, 0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_later_of_two_answers_of_one_annotator_counts_by_their_times(store, give, order):
    said = [{**FOR_A, "annotator": "ann", "created": EARLY}, {**FOR_B, "annotator": "ann", "created": LATE}]
    found = give(*(said[i] for i in order))
    assert (found.added, found.corrected, found.overruled) == ((2, 1, 0) if order == (0, 1) else (2, 0, 1))
    assert winners(store) == [("ann", "B")]
    assert give(*said).added == give(*reversed(said)).added == 0
    assert winners(store) == [("ann", "B")]


def test_without_times_the_later_row_counts_and_a_change_back_is_one_too(store, give):
    ann = [{**row, "annotator": "ann"} for row in (FOR_A, FOR_B, FOR_A)]
    found = give(*ann[:2])
    assert (found.added, found.corrected) == (2, 1)
    assert winners(store) == [("ann", "B")]
    assert give(*ann[:2]).added == 0
    assert winners(store) == [("ann", "B")]
    assert (give(*ann).corrected, winners(store)) == (1, [("ann", "A")])
    assert (give(*ann).added, winners(store)) == (0, [("ann", "A")])


def test_where_the_earlier_does_not_say_when_what_comes_later_counts(store, give):
    give({**FOR_A, "annotator": "ann"})
    assert give({**FOR_B, "annotator": "ann", "created": EARLY}).corrected == 1
    assert winners(store) == [("ann", "B")]
    assert give({**FOR_A, "annotator": "ann", "created": LATE}).corrected == 1
    assert winners(store) == [("ann", "A")]


def test_a_change_back_in_a_later_file_counts_by_its_time(store, give):
    give({**FOR_A, "annotator": "ann", "created": EARLY}, {**FOR_B, "annotator": "ann", "created": LATE})
    third = {**FOR_A, "annotator": "ann", "created": "2024-03-01T12:00:00+01:00"}
    assert give(third).corrected == 1
    assert winners(store) == [("ann", "A")]
    assert store.comparisons()[0].created == "2024-03-01T11:00:00+00:00"
    assert give(third).added == 0


def test_nothing_that_was_said_is_lost_and_a_correction_names_what_it_replaces(store, give):
    give({**FOR_A, "annotator": "ann"}, {**FOR_B, "annotator": "ann"})
    with store.database.reading() as connection:
        assert len(connection.execute(tables.comparisons.select()).all()) == 2
        (row,) = connection.execute(tables.corrections.select()).mappings()
    assert (row["kind"], row["by"]) == ("comparisons", store.comparisons()[0].id)


def test_a_ranking_is_corrected_as_a_whole_and_one_of_other_answers_stands_beside_it(store, give):
    ann = {**PAIR, "annotator": "ann"}
    give({**ann, "responses": ["A", "B", "C"], "ranks": [1, 2, 3]}, kind="rankings")
    assert give({**ann, "responses": ["A", "B", "C"], "ranks": [1, 3, 2]}, kind="rankings").corrected == 1
    assert len(store.comparisons()) == 3
    assert len({c.ranking for c in store.comparisons()}) == 1
    other = {**ann, "responses": ["A", "B", "D"], "ranks": [3, 2, 1]}
    found = give(other, kind="rankings")
    assert (found.added, found.pairs, found.corrected) == (1, 3, 0)
    assert len(store.comparisons()) == 6
    assert give(other, kind="rankings").added == 0


def test_what_is_said_of_safety_is_corrected_by_itself(store, give):
    ann = {"annotator": "ann", "chosen_safe": True}
    give({**FOR_A, **ann}, {**PAIR, "chosen": "A", "rejected": "C", "annotator": "ann", "chosen_safe": False})
    assert len(store.comparisons()) == 2
    assert [label.value for label in store.labels("safe")] == [0.0]


def test_an_export_of_votes_and_corrections_reads_back_as_it_stands(store, give, tmp_path):
    give(FOR_B, FOR_A, FOR_A, {**FOR_A, "annotator": "ann"}, {**FOR_B, "annotator": "ann"})
    export_data(store, tmp_path / "out", kind="comparisons")
    other = Store.open(tmp_path / "other.sqlite")
    for _ in range(2):
        import_file(other, tmp_path / "out" / "comparisons.jsonl", kind="comparisons")
    assert winners(other) == winners(store)
    assert len(other.comparisons()) == 4


def test_a_prompt_that_is_there_in_another_split_is_said(store, give):
    give({**PAIR, "prompt_split": "train"}, kind="prompts")
    assert give({**PAIR, "prompt_split": "held_out"}, kind="prompts").moved == 1
    assert give({**PAIR, "prompt_split": "train"}, kind="prompts").moved == 0
    assert store.prompts()[0].split == "train"


def test_an_address_is_known_within_the_workspace_and_told_to_nobody(store, give, tmp_path):
    ann, bob = ({**FOR_A, "annotator": name} for name in ("Ann <ann@example.org>", "bob@example.org"))
    give(ann, bob)
    names = {c.annotator for c in store.comparisons()}
    assert len(names) == 2
    assert not any("@" in name or "ann" in name.lower() for name in names)
    assert give({**ann, "chosen": "B", "rejected": "A"}).corrected == 1
    assert give(ann, bob).added == 0
    give({**PAIR, "completion": "C", "annotator": "bob@example.org"}, kind="demonstrations")
    assert store.demonstrations()[0].annotator in names
    export_data(store, tmp_path / "out")
    told = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert all(name in told for name in names)
    assert "example.org" not in told


def test_an_address_that_an_older_version_took_as_a_name_is_not_exported(store, tmp_path):
    store.add_prompts([prompt := Prompt([{"role": "user", "content": "which"}])])
    store.add_responses([Response(name, prompt.id, name, "sample-001") for name in "ab"])
    named = {"pseudonym": "person-1"}
    store.add_annotators([Annotator("ann@example.org", "imported", named)])
    store.add_comparisons([Comparison(prompt.id, "a", "b", "ann@example.org", "first", "import-1")])
    store.add_labels([Label(prompt.id, "a", "ann@example.org", 1.0, "import-1")])
    export_data(store, tmp_path / "out")
    for kind in ("comparisons", "labels"):
        (row,) = map(json.loads, (tmp_path / "out" / f"{kind}.jsonl").read_text().splitlines())
        assert row["annotator"] == "person-1"


def test_what_an_annotator_is_comes_from_the_row_or_from_the_one_who_imports(store, give):
    give({**FOR_A, "annotator": "ann"}, {**FOR_A, "annotator": "robot", "annotator_kind": "model"})
    give({**FOR_A, "annotator": "judge"}, FOR_B, by="models")
    assert {a.name: a.kind for a in store.annotators()} == {
        "ann": "imported", "robot": "model", "judge": "model", "imported-model": "model",
    }  # fmt: skip
    assert len(store.comparisons()) == 4
    with pytest.raises(DataError, match="annotator `ann` is of kind imported here, and of kind model in the file"):
        give({**FOR_A, "annotator": "ann"}, by="models")
    found = give({**FOR_B, "annotator": "robot"})
    assert found.guessed == {"judgments are by `robot`, who is of kind model here": 1}


def test_a_name_is_no_longer_than_a_database_keeps(give):
    for column, most in (("annotator", 128), ("criterion", 64)):
        give({**FOR_A, column: "x" * most})
        with pytest.raises(DataError, match=f"`{column}` has over {most} characters"):
            give({**FOR_A, column: "x" * (most + 1)})
