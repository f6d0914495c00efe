import json

import pytest
from conftest import write_lines

from plaudit.errors import DataError
from plaudit.store import Store
from plaudit.store.importing import import_file, split_of


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "feedback.sqlite")


USER = {"role": "user", "content": "what is tea"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("a drink of leaves", "a kind of stone"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "what is tea", "chosen": GOOD["content"], "rejected": BAD["content"]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_comparisons_in_every_form_mean_the_same(store, tmp_path, row):
    assert import_file(store, write_lines(tmp_path / "c.jsonl", [row]), kind="comparisons").added == 1
    (comparison,) = store.comparisons()
    texts = {r.id: r.text for r in store.responses()}
    assert comparison.choice == "first"
    assert (texts[comparison.first], texts[comparison.second]) == (GOOD["content"], BAD["content"])
    assert store.prompts()[0].messages == [USER]


def test_plain_texts_without_prompt_share_their_beginning(store, tmp_path):
    row = {"chosen": "The sky is blue today.", "rejected": "The sky is green today."}
    import_file(store, write_lines(tmp_path / "c.jsonl", [row]), kind="comparisons")
    assert store.prompts()[0].text == "The sky is"
    assert {r.text for r in store.responses()} == {"blue today.", "green today."}


@pytest.mark.parametrize("row", [{"prompt": "what is tea", "completion": GOOD["content"]}, {"messages": [USER, GOOD]}])
def test_demonstrations_in_both_forms_mean_the_same(store, tmp_path, row):
    import_file(store, write_lines(tmp_path / "d.jsonl", [row]), kind="demonstrations")
    (demonstration,) = store.demonstrations()
    assert (demonstration.prompt.messages, demonstration.text) == ([USER], GOOD["content"])


def test_every_assistant_turn_of_a_conversation_is_a_demonstration(store, tmp_path):
    row = {"messages": [USER, GOOD, {"role": "user", "content": "and coffee"}, BAD]}
    assert import_file(store, write_lines(tmp_path / "d.jsonl", [row]), kind="demonstrations").added == 2
    assert {len(d.prompt.messages) for d in store.demonstrations()} == {1, 3}


ASKED = {"role": "user", "content": "is that so"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"trainable": False}])
def test_turns_of_weight_0_are_context_and_not_learnt(store, tmp_path, mark):
    row = {"messages": [USER, {**BAD, **mark}, ASKED, {**GOOD, "weight": 1}]}
    found = import_file(store, write_lines(tmp_path / "d.jsonl", [row]), kind="demonstrations")
    assert (found.added, found.left_out, found.unread) == (1, {"turns of weight 0": 1}, {})
    (learnt,) = store.demonstrations()
    assert (learnt.text, learnt.prompt.messages) == (GOOD["content"], [USER, BAD, ASKED])


@pytest.mark.parametrize("content", ["", None, "let me see"])
def test_turns_that_call_a_tool_are_not_learnt_as_text(store, tmp_path, content):
    row = {"messages": [USER, {**CALL, "content": content}, ASKED, GOOD]}
    found = import_file(store, write_lines(tmp_path / "d.jsonl", [row]), kind="demonstrations")
    assert (found.added, found.left_out) == (1, {"turns that call a tool": 1})
    assert found.unread == {"messages.tool_calls": 1}
    assert [d.text for d in store.demonstrations()] == [GOOD["content"]]


def test_other_turns_that_cannot_be_learnt_are_counted(store, tmp_path):
    rows = [
        {"messages": [USER, {**GOOD, "content": " "}, ASKED, GOOD]},
        {"messages": [GOOD, USER, BAD]},
        {"messages": [USER, CALL]},
    ]
    found = import_file(store, write_lines(tmp_path / "d.jsonl", rows), kind="demonstrations")
    assert found.left_out == {
        "turns that are empty": 1, "first turns, which answer nothing": 1, "turns that call a tool": 1,
    }  # fmt: skip
    assert sorted(d.text for d in store.demonstrations()) == sorted([GOOD["content"], BAD["content"]])


def test_an_answer_that_calls_a_tool_leaves_its_row_out(store, tmp_path):
    rows = [
        {"prompt": [USER], "chosen": [CALL], "rejected": [BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    ]
    found = import_file(store, write_lines(tmp_path / "c.jsonl", rows), kind="comparisons")
    assert (found.added, found.left_out) == (1, {"rows whose `chosen` ends in a call of a tool": 1})


def test_content_may_be_a_list_of_text_parts(store, tmp_path):
    parts = [{"type": "text", "text": "a drink"}, {"type": "text", "text": "of leaves"}]
    one(store, tmp_path, "comparisons", chosen=[{**GOOD, "content": parts}], rejected=[BAD])
    assert {r.text for r in store.responses()} == {"a drink\nof leaves", BAD["content"]}
    image = {"type": "image_url", "image_url": {"url": "x"}}
    with pytest.raises(DataError, match="a list with parts that are no text"):
        one(store, tmp_path, "comparisons", chosen=[{**GOOD, "content": [*parts, image]}], rejected=[BAD])


@pytest.mark.parametrize(("kind", "verdict"), [("labels", {"label": False}), ("ratings", {"rating": 1})])
@pytest.mark.parametrize("form", ["messages", "completion"])
def test_a_file_that_says_how_good_answers_are_is_read_as_that_and_never_as_demonstrations(
    store, tmp_path, kind, verdict, form
):
    said = {"messages": [USER, BAD]} if form == "messages" else {"prompt": [USER], "completion": BAD["content"]}
    file = write_lines(tmp_path / "kto.jsonl", [said | verdict])
    with pytest.raises(DataError, match=f"Import the file with --kind {kind}"):
        import_file(store, file, kind="demonstrations")
    assert import_file(store, file, kind=kind).added == 1
    (label,) = store.labels()
    assert label.value == float(next(iter(verdict.values())))
    assert {r.id: r.text for r in store.responses()}[label.response] == BAD["content"]
    assert store.prompts()[0].messages == [USER]
    assert store.demonstrations() == []


def test_a_column_without_a_value_is_as_if_it_were_not_there(store, tmp_path):
    row = {"prompt": "what is tea", "completion": "leaves", "messages": None, "source": None, "annotator": None}
    found = import_file(store, write_lines(tmp_path / "d.jsonl", [{**row, "more": None}]), kind="demonstrations")
    assert (found.added, found.unread) == (1, {})
    (demonstration,) = store.demonstrations()
    assert (demonstration.source, demonstration.annotator) == ("import", None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T12:00:00.5+02:00", "2026-01-31T10:00:00.500000+00:00"),
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
    ],
)
def test_times_are_kept_in_utc(store, tmp_path, given, kept):
    one(store, tmp_path, "comparisons", chosen="a", rejected="b", created=given)
    assert store.comparisons()[0].created == kept


def test_repeated_rows_are_counted(store, tmp_path):
    imported = import_file(store, write_lines(tmp_path / "p.jsonl", [{"prompt": "a"}] * 3), kind="prompts")
    assert (imported.rows, imported.added, imported.repeated) == (3, 1, 2)


@pytest.mark.parametrize(
    ("kind", "lines", "message"),
    [
        ("prompts", ['{"prompt": "a"}', '{"prompt": '], "line 2: not valid JSON"),
        ("prompts", ['{"promt": "a"}'], "line 1: column `prompt` is missing (columns: promt). Did you mean `promt`?"),
        ("prompts", ["[1]"], "line 1: expected a JSON object"),
        ("prompts", ['{"prompt": "  "}'], "line 1: `prompt` is empty"),
        ("prompts", ['{"prompt": 3}'], "must be text or a list of messages"),
        ("prompts", ['{"prompt": [{"role": "robot", "content": "x"}]}'], "role 'robot'"),
        ("prompts", [], "is empty"),
        ("demonstrations", ['{"prompt": "a"}'], "column `completion` is missing"),
        ("demonstrations", ['{"messages": [{"role": "user", "content": "x"}]}'], "no assistant turn"),
        ("comparisons", ['{"prompt": "a", "chosen": "b"}'], "column `rejected` is missing"),
        ("comparisons", ['{"prompt": "a", "chosen": "b", "rejected": "b"}'], "nothing to learn"),
        ("comparisons", ['{"chosen": "b", "rejected": "c"}'], "share no beginning"),
    ],
)
def test_a_bad_file_is_refused_whole_with_the_line(store, tmp_path, kind, lines, message):
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        import_file(store, path, kind=kind)
    assert message in str(caught.value)
    assert store.counts()["prompts"] == 0


def test_a_missing_file_and_a_folder_are_named(store, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        import_file(store, tmp_path / "none.jsonl", kind="prompts")
    with pytest.raises(DataError, match="is a folder"):
        import_file(store, tmp_path, kind="prompts")


def test_the_split_depends_on_the_prompt_alone_and_has_the_asked_share():
    prompts = [[{"role": "user", "content": f"question {i}"}] for i in range(2000)]
    held_out = sum(split_of(p, 0.25) == "held_out" for p in prompts)
    assert 430 < held_out < 570
    assert split_of(prompts[0], 0.25) == split_of(json.loads(json.dumps(prompts[0])), 0.25)


def one(store, tmp_path, kind, **row):
    return import_file(store, write_lines(tmp_path / "j.jsonl", [{"prompt": "what is tea", **row}]), kind=kind)


def test_a_comparison_may_say_how_much_by_what_and_who_and_what_is_safe(store, tmp_path):
    one(
        store, tmp_path, "comparisons", chosen="leaves", rejected="stones", grade="significantly better",
        criterion="helpfulness", annotator="ann", chosen_safe=True, rejected_safe=False,
    )  # fmt: skip
    (comparison,) = store.comparisons()
    assert (comparison.grade, comparison.criterion, comparison.annotator) == (4, "helpfulness", "ann")
    safe = {label.response: label.value for label in store.labels("safe")}
    assert safe == {comparison.first: 1.0, comparison.second: 0.0}
    assert store.labels("desirable") == []
    assert {a.name: a.kind for a in store.annotators()} == {"ann": "imported"}


@pytest.mark.parametrize(
    ("columns", "choice", "preference"),
    [
        ({"tie": True}, "tie", 0.5),
        ({"tie": False}, "first", 1.0),
        ({"preference": 0.8}, "first", 0.8),
        ({"preference": 0.2, "grade": 1}, "second", 0.2),
        ({"preference": 0.5}, "tie", 0.5),
    ],
)
def test_a_comparison_may_be_a_tie_or_unsure(store, tmp_path, columns, choice, preference):
    one(store, tmp_path, "comparisons", chosen="leaves", rejected="stones", **columns)
    (comparison,) = store.comparisons()
    assert (comparison.choice, comparison.preference_first) == (choice, preference)
    assert comparison.swap().preference_first == pytest.approx(1 - preference)
    assert comparison.swap().swap().id == comparison.id


def test_a_ranking_is_all_of_its_pairs(store, tmp_path):
    imported = one(store, tmp_path, "rankings", responses=["b", "a", "d", "c"], ranks=[2, 1, 3, 2])
    assert (imported.rows, imported.added, imported.pairs, imported.repeated) == (1, 1, 6, 0)
    texts = {r.id: r.text for r in store.responses()}
    found = {(texts[c.first], texts[c.second]): c.choice for c in store.comparisons()}
    assert found == {
        ("b", "a"): "second", ("b", "d"): "first", ("b", "c"): "tie",
        ("a", "d"): "first", ("a", "c"): "first", ("d", "c"): "second",
    }  # fmt: skip
    assert len({c.ranking for c in store.comparisons()} - {None}) == 1


def test_criteria_of_one_annotator_are_judgments_of_their_own(store, tmp_path):
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "criterion": "helpfulness", "annotator": "ann"},
        {"prompt": "p", "chosen": "b", "rejected": "a", "criterion": "harmlessness", "annotator": "ann"},
        {"prompt": "p", "chosen": "b", "rejected": "a", "criterion": "harmlessness", "annotator": "ann"},
    ]
    imported = import_file(store, write_lines(tmp_path / "j.jsonl", rows), kind="comparisons")
    assert (imported.added, imported.repeated) == (2, 1)
    assert {c.criterion: c.choice for c in store.comparisons()} == {"helpfulness": "first", "harmlessness": "first"}


def test_ratings_and_labels_are_of_one_response(store, tmp_path):
    one(store, tmp_path, "ratings", completion="leaves", rating=4, criterion="clarity")
    one(store, tmp_path, "labels", completion="leaves", label=False, criterion="safe")
    one(store, tmp_path, "labels", completion="leaves", label=True)
    assert {label.criterion: label.value for label in store.labels()} == {"clarity": 4, "safe": 0, "desirable": 1}
    assert len(store.responses()) == 1


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        ("comparisons", {"chosen": "a", "rejected": "b", "grade": 5}, "`grade` is 5; known: 1 (negligibly better)"),
        ("comparisons", {"chosen": "a", "rejected": "b", "preference": 1.2}, "`preference` must be from 0 to 1"),
        ("comparisons", {"chosen": "a", "rejected": "b", "tie": True, "preference": 0.9}, "contradicts itself"),
        ("comparisons", {"chosen": "a", "rejected": "b", "annotator": 3}, "`annotator` must be text"),
        ("comparisons", {"chosen": "a", "rejected": "b", "chosen_safe": "yes"}, "`chosen_safe` must be true or false"),
        ("rankings", {"responses": ["a", "a"], "ranks": [1, 2]}, "2 to 9 different responses"),
        ("rankings", {"responses": ["a", ""], "ranks": [1, 2]}, "none of them empty"),
        ("rankings", {"responses": [str(i) for i in range(10)], "ranks": list(range(10))}, "here are 10"),
        ("rankings", {"responses": ["a", "b"], "ranks": [1]}, "must be 2 whole numbers"),
        ("rankings", {"responses": ["a", "b"], "ranks": [1, True]}, "must be 2 whole numbers"),
        ("ratings", {"completion": "a"}, "column `rating` is missing"),
        ("ratings", {"completion": "a", "rating": float("nan")}, "`rating` must be a number"),
        ("ratings", {"completion": "a", "rating": 1, "criterion": "safe"}, "import it with --kind labels"),
        ("labels", {"completion": "a", "label": True, "criterion": "clarity"}, "`desirable` or `safe`"),
        ("labels", {"messages": [USER], "label": True}, "must end with the assistant's answer"),
        ("comparisons", {"chosen": "a", "rejected": "b", "created": "yesterday"}, "write a time by ISO 8601"),
        ("comparisons", {"chosen": "a", "rejected": "b", "created": 1735689600}, "write a time by ISO 8601"),
        ("comparisons", {"chosen": "a", "rejected": "b", "seconds": -5}, "`seconds` must be from 0 to"),
        ("comparisons", {"chosen": "a", "rejected": "b", "seconds": 1e300}, "`seconds` must be from 0 to"),
        ("comparisons", {"chosen": "a", "rejected": "b", "grade": [1]}, "`grade` is [1]"),
        ("comparisons", {"chosen": "a", "rejected": "b", "annotator_kind": "bot"}, "known: person, simulated, model"),
        ("ratings", {"completion": "a", "rating": 10**400}, "`rating` is a number of over 300 digits"),
        ("demonstrations", {"messages": [USER, {**GOOD, "weight": 0.5}]}, "`weight` of a turn in `messages` is 0.5"),
        ("prompts", {"source": "\ud800"}, "surrogate"),
    ],
)
def test_a_judgment_that_cannot_be_meant_is_refused(store, tmp_path, kind, columns, message):
    with pytest.raises(DataError) as error:
        one(store, tmp_path, kind, **columns)
    assert message in str(error.value)
    assert store.prompts() == []
