"""Every form of file and every format of row, and what is said of that which cannot be used."""

import gzip
import json

import pytest
from conftest import write_lines

from plaudit.errors import DataError
from plaudit.store import Store
from plaudit.store import importing as importing_module
from plaudit.store.formats import open_source
from plaudit.store.importing import import_file

USER = {"role": "user", "content": "what is tea"}
PAIR = {"prompt": [USER], "chosen": [{"role": "assistant", "content": "leaves"}]}
PAIR |= {"rejected": [{"role": "assistant", "content": "stones"}], "grade": 2}


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "feedback.sqlite")


def read(store, tmp_path, kind, *rows, format=None):
    """(what became of it, comparisons as (first, second, choice, annotator), ratings as (text, value, criterion))."""
    found = import_file(store, write_lines(tmp_path / "file.jsonl", list(rows)), kind=kind, format=format)
    texts = {response.id: response.text for response in store.responses()}
    pairs = {(texts[c.first], texts[c.second], c.choice, c.annotator) for c in store.comparisons()}
    return found, pairs, {(texts[label.response], label.value, label.criterion) for label in store.labels()}


def write_as(form, rows, path):
    if form == "gzip":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif form == "list":
        path.write_text(json.dumps(rows, indent=1))
    elif form == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    else:
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("form", ["gzip", "list", "parquet", "datasets"])
def test_every_form_of_file_gives_what_json_lines_give(store, tmp_path, form):
    whole = {**PAIR, "annotator": "a", "tie": False}  # tables have one set of columns
    rows = [whole, {**whole, "annotator": "é", "tie": True}, {**whole, "annotator": "x" * 50, "grade": None}]
    assert import_file(store, write_as(form, rows, tmp_path / "file"), kind="comparisons").added == 3
    plain = Store.open(tmp_path / "plain.sqlite")
    import_file(plain, write_lines(tmp_path / "lines", rows), kind="comparisons")

    def content(store):
        return sorted((c.annotator, c.choice, c.grade) for c in store.comparisons())

    assert content(store) == content(plain)


@pytest.mark.parametrize("form", ["gzip", "list", "parquet", "datasets"])
def test_a_bad_row_of_any_form_is_named_and_nothing_is_kept(store, tmp_path, form):
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "  "}]
    where = {"gzip": "line 3", "list": "item 3"}.get(form, "row 3")
    with pytest.raises(DataError, match=f"{where}: `prompt` is empty"):
        import_file(store, write_as(form, rows, tmp_path / "file"), kind="prompts")
    assert store.prompts() == []


def test_a_long_list_is_read_item_by_item(store, tmp_path, monkeypatch):
    monkeypatch.setattr("plaudit.store.formats.files.CHARACTERS_AT_ONCE", 7)
    rows = [{"prompt": f'question, with ] and {{ {i} \\ "' + "x" * i} for i in range(40)]
    assert import_file(store, write_as("list", rows, tmp_path / "file"), kind="prompts").added == 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b'{"prompt": "a"}\n', mtime=0)[:-9], "not a whole gzip file"),
        (b"PAR1 and no more", "not a Parquet file"),
        (b'[{"prompt": "a"}, {"prom', "item 2: not valid JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(store, tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=message):
        import_file(store, tmp_path / "file", kind="prompts")
    assert store.prompts() == []


def test_a_folder_of_several_datasets_names_them(store, tmp_path):
    (tmp_path / "d/train").mkdir(parents=True)
    (tmp_path / "d/dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match="train"):
        import_file(store, tmp_path / "d", kind="prompts")


def test_chunks_change_nothing_and_a_bad_line_after_many_takes_them_all_back(tmp_path, database_place, monkeypatch):
    monkeypatch.setattr(importing_module, "ROWS_AT_ONCE", 3)
    store = Store.open(database_place)
    rows = [{**PAIR, "annotator": f"a{i % 7}"} for i in range(20)]
    found = import_file(store, write_lines(tmp_path / "c.jsonl", rows), kind="comparisons")
    assert (found.rows, found.added, found.repeated) == (20, 7, 13)
    more = [{**PAIR, "annotator": f"b{i}"} for i in range(10)] + [{"prompt": "a"}]
    with pytest.raises(DataError, match="line 11"):
        import_file(store, write_lines(tmp_path / "d.jsonl", more), kind="comparisons")
    assert len(store.comparisons()) == 7
    assert len(store.annotators()) == 7


def test_text_that_postgresql_cannot_hold_names_the_lines(tmp_path, database_place):
    store = Store.open(database_place)
    path = write_lines(tmp_path / "c.jsonl", [PAIR, {**PAIR, "rejected": "a \x00 b"}])
    if store.database.is_sqlite:
        assert import_file(store, path, kind="comparisons").added == 2
    else:
        with pytest.raises(DataError, match=r"line 1 to .*line 2: a text for `responses` has a NUL"):
            import_file(store, path, kind="comparisons")
        assert store.counts()["prompts"] == 0


def test_columns_that_nothing_reads_are_counted(store, tmp_path):
    found, *_ = read(store, tmp_path, "comparisons", PAIR, {**PAIR, "score_chosen": 3, "annotator": "b"})
    assert (found.unread, found.left_out, found.prompts) == ({"score_chosen": 1}, {}, {})


@pytest.mark.parametrize(
    "glue",
    ["\n", "", "  \n\n", "\n" + json.dumps({"prompt": "between"}) + "\n" + json.dumps({"prompt": "lines"}) + "\n"],
)
def test_lists_one_after_the_other_and_lines_between_them_are_all_read(store, tmp_path, glue, monkeypatch):
    monkeypatch.setattr("plaudit.store.formats.files.CHARACTERS_AT_ONCE", 11)
    lists = [[{"prompt": f"question {i} {j}"} for j in range(3)] for i in range(3)]
    (tmp_path / "glued.json").write_text(glue.join(json.dumps(one, indent=1) for one in lists))
    found = import_file(store, tmp_path / "glued.json", kind="prompts")
    assert found.rows == 9 + 2 * glue.count("prompt")
    assert len(store.prompts()) == 9 + glue.count("prompt")


@pytest.mark.parametrize("tail", ["oops", "]", "[[", '[{"prompt": "b"}', "[1]"])
def test_what_follows_a_list_and_is_no_row_refuses_the_file(store, tmp_path, tail):
    (tmp_path / "glued.json").write_text('[{"prompt": "a"}]\n' + tail)
    with pytest.raises(DataError, match=r"glued.json, item 2|item 3"):
        import_file(store, tmp_path / "glued.json", kind="prompts")
    assert store.prompts() == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("content", ['{"prompt": "a"}\n{"prompt": "b"}\n', '[{"prompt": "a"}, {"prompt": "b"}]'])
def test_a_byte_order_mark_is_no_part_of_the_rows(store, tmp_path, pack, content):
    (tmp_path / "file").write_bytes(pack(b"\xef\xbb\xbf" + content.encode()))
    assert import_file(store, tmp_path / "file", kind="prompts").added == 2


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("9" * 5000, "a number of thousands of digits"),
        (DEEP, "lists or objects within each other too deep"),
        ("[", "not valid JSON"),
    ],
)
@pytest.mark.parametrize("form", ["lines", "list"])
def test_json_that_cannot_be_read_is_one_message_with_its_place(store, tmp_path, value, message, form):
    row = '{"prompt": "a", "meta": ' + value + "}"
    text = f'{{"prompt": "b"}}\n{row}\n' if form == "lines" else f'[{{"prompt": "b"}}, {row}]'
    (tmp_path / "file").write_text(text)
    with pytest.raises(DataError, match=f"{'line' if form == 'lines' else 'item'} 2: {message}"):
        import_file(store, tmp_path / "file", kind="prompts")
    assert store.prompts() == []


def test_a_value_that_is_deep_but_can_be_read_is_refused_in_words_too(store, tmp_path):
    deep = json.loads("[" * 900 + "]" * 900)
    for row in ({**PAIR, "annotator": deep}, {**PAIR, "grade": deep}, {**battle("tie"), "judge": deep}):
        with pytest.raises(DataError, match="line 1"):
            read(store, tmp_path, "comparisons", row)


def test_keys_within_messages_that_nothing_reads_are_counted_like_columns(store, tmp_path):
    named = {"role": "user", "content": "what is tea", "name": "sam", "id": None}
    part = {"role": "user", "content": [{"type": "text", "text": "and now", "cache": 1}]}
    rows = [{"prompt": [named, part]}, {"prompt": [named]}, {"prompt": [USER]}]
    assert read(store, tmp_path, "prompts", *rows)[0].unread == {"prompt.name": 2, "prompt.cache": 1}


def test_a_column_that_could_belong_to_the_prompt_is_named(store, tmp_path):
    rows = [{**PAIR, "system": "be brief", "prompt_id": "x", "metadata": {"a": 1}}, {**PAIR, "system": "", "grade": 3}]
    found, *_ = read(store, tmp_path, "comparisons", *rows)
    assert found.prompts == {"system": 1}
    assert found.unread == {"system": 2, "prompt_id": 1, "metadata": 1}


@pytest.mark.parametrize("column", ["question", "instruction", "userInput", "source_text", "Query", "context"])
def test_pairs_beside_a_column_that_could_be_the_prompt_are_refused(store, tmp_path, column):
    """The beginning that two answers share is no prompt where there is another."""
    row = {"chosen": "The answer is 4.", "rejected": "The answer is 5.", column: "What is 2 and 2?"}
    with pytest.raises(DataError, match=f"there is no `prompt`, but `{column}` could be it"):
        read(store, tmp_path, "comparisons", row)
    assert store.prompts() == []


def test_where_the_prompt_is_what_two_answers_share_it_is_said(store, tmp_path):
    row = {"chosen": "The sky is blue.", "rejected": "The sky is green.", "question_id": "7", "question": " "}
    found, *_ = read(store, tmp_path, "comparisons", row)
    assert found.guessed == {"rows have no `prompt`: how chosen and rejected both begin was taken for it": 1}


START = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: what is tea\n\nAssistant:"


def test_hh_transcripts_are_conversations(store, tmp_path):
    rows = [
        {"chosen": f"{START} leaves", "rejected": f"{START} stones"},
        {"chosen": f"{START} leaves", "rejected": f"{START.replace('yes', 'no')} stones"},
        {"chosen": f"{START} leaves", "rejected": f"{START} "},
    ]
    found, pairs, _ = read(store, tmp_path, "comparisons", *rows)
    assert pairs == {("leaves", "stones", "first", "imported")}
    assert [m["content"] for m in store.prompts()[0].messages] == ["hi", "yes?", "what is tea"]
    assert sorted(found.left_out.values()) == [1, 1]


def test_hh_with_line_breaks_of_windows_is_the_same(store, tmp_path):
    rows = [{"chosen": f"{START} leaves\n\nor so", "rejected": f"{START} stones"}]
    read(store, tmp_path, "comparisons", *rows)
    expected = store.prompts(), store.responses(), store.comparisons()
    other = Store.open(tmp_path / "other.sqlite")
    crlf = [{name: text.replace("\n", "\r\n") for name, text in row.items()} for row in rows]
    read(other, tmp_path, "comparisons", *crlf)
    assert (other.prompts(), other.responses()) == expected[:2]


def message(role, text, *replies, **more):
    return {"role": role, "text": text, "replies": list(replies), **more}


TREE = {
    "message_tree_id": "1",
    "prompt": message(
        "prompter",
        "what is tea",
        message("assistant", "leaves", message("prompter", "thanks"), rank=0),
        message("assistant", "stones", rank=1, synthetic=True),
        message("assistant", "who knows", rank=1),
        message("assistant", "not ranked", lang="en"),
    ),
}


def test_open_assistant_trees_are_rankings_demonstrations_and_prompts(store, tmp_path):
    found, pairs, _ = read(store, tmp_path, "rankings", TREE)
    assert pairs == {
        ("leaves", "stones", "first", "consensus"), ("leaves", "who knows", "first", "consensus"),
        ("stones", "who knows", "tie", "consensus"),
    }  # fmt: skip
    assert len({c.ranking for c in store.comparisons()}) == 1
    found, *_ = read(store, tmp_path, "demonstrations", TREE)
    assert {d.text for d in store.demonstrations()} == {"leaves", "who knows", "not ranked"}
    assert found.left_out == {"answers that a model wrote": 1}
    assert found.unread == {"prompt.lang": 1}
    assert read(store, tmp_path, "prompts", TREE)[0].rows == 1
    assert {len(p.messages) for p in store.prompts()} == {1, 3}


def battle(winner, *, a="leaves", b="stones", **more):
    sides = {f"conversation_{s}": [USER, {"role": "assistant", "content": t}] for s, t in (("a", a), ("b", b))}
    return {"model_a": "x", "model_b": "y", "winner": winner, "turn": 1, **sides, **more}


def test_arena_battles_keep_the_order_shown(store, tmp_path):
    winners = ["model_a", "model_b", "tie", "tie (bothbad)", "both_bad"]
    rows = [battle(winner, judge=f"j{i}") for i, winner in enumerate(winners)]
    found, pairs, _ = read(store, tmp_path, "comparisons", *rows, battle("model_a", b="leaves"), battle("nobody"))
    choices = ["first", "second", "tie", "tie", "tie"]
    assert pairs == {("leaves", "stones", choice, f"j{i}") for i, choice in enumerate(choices)}
    assert sorted(found.left_out.values()) == [1, 1]
    assert found.unread == {"model_a": 7, "model_b": 7, "turn": 7}


def test_arena_battles_may_have_contents_in_parts(store, tmp_path):
    def in_parts(row, part):
        for side in ("conversation_a", "conversation_b"):
            row[side] = [{**turn, "content": [{"type": "text", "text": turn["content"]}, *part]} for turn in row[side]]
        return row

    nothing = {"type": "text", "text": "", "image": None}
    image = {"type": "image", "image": "data:..."}
    rows = [in_parts(battle("model_b"), []), in_parts(battle("both_bad", judge="gpt4_pair"), [nothing])]
    found, pairs, _ = read(store, tmp_path, "comparisons", *rows, in_parts(battle("tie"), [image]))
    assert found.left_out == {"conversations with messages that are no text, such as images": 1}
    assert {(a.strip(), b.strip(), *rest) for a, b, *rest in pairs} == {
        ("leaves", "stones", "second", "imported"), ("leaves", "stones", "tie", "gpt4_pair"),
    }  # fmt: skip
    assert {a.name: a.kind for a in store.annotators()} == {"imported": "imported", "gpt4_pair": "model"}


def test_helpsteer_is_ratings_and_preferences(store, tmp_path):
    numbers = {"helpfulness": 4, "correctness": 3, "coherence": 2, "complexity": 1, "verbosity": 0}
    prompt = "hi\n<extra_id_1>Assistant\nyes?\n<extra_id_1>User\nwhat is tea"
    _, _, ratings = read(store, tmp_path, "ratings", {"prompt": prompt, "response": "leaves", **numbers})
    assert ratings == {("leaves", value, name) for name, value in numbers.items()}
    assert [m["role"] for m in store.prompts()[0].messages] == ["user", "assistant", "user"]
    rows = [{"prompt": f"{i}", "response_1": "a", "response_2": "b", "preference_strength": i} for i in (-3, 0, 1)]
    _, pairs, _ = read(store, tmp_path, "comparisons", *rows)
    assert {(a, b, choice) for a, b, choice, _ in pairs} == {(*"ab", "first"), (*"ab", "tie"), (*"ab", "second")}
    assert {c.choice: c.grade for c in store.comparisons()} == {"first": 4, "tie": None, "second": 2}


def test_ultrafeedback_is_ratings(store, tmp_path):
    said = {"helpfulness": {"Rating": "4", "Rationale": "ok"}, "honesty": {"Rating": "N/A"}}
    completions = [{"response": "leaves", "overall_score": 7.5, "annotations": said}, {"response": ""}]
    completions[0]["model"] = "x"
    found, _, ratings = read(store, tmp_path, "ratings", {"instruction": "what is tea", "completions": completions})
    assert found.unread == {"completions.model": 1}
    assert [(a.name, a.kind) for a in store.annotators()] == [("gpt-4", "model")]
    assert ratings == {("leaves", 7.5, "overall"), ("leaves", 4.0, "helpfulness")}
    assert found.left_out == {"ratings that are no number": 1, "answers that are empty": 1}


FIELDS = {"prompt": "what is tea", "response-1": "leaves", "response-2": "stones"}


def test_argilla_records_are_every_kind_of_judgment(store, tmp_path):
    said = {"better": [{"value": "response_2", "user_id": "u1"}, {"value": "tie", "user_id": "u2"}],
            "order": [{"value": ["response-2", "response-1"], "user_id": "u3"}],
            "rewrite": [{"value": "a drink", "user_id": "u4"},
                        {"value": "x", "user_id": "u5", "status": "discarded"}]}  # fmt: skip
    record = {"id": "1", "fields": FIELDS, "responses": said, "metadata": {}, "suggestions": {}}
    found, pairs, _ = read(store, tmp_path, "comparisons", record)
    assert pairs == {("leaves", "stones", "second", "u1"), ("leaves", "stones", "tie", "u2")}
    assert sum(found.left_out.values()) == 3
    assert found.unread == {"metadata": 1, "suggestions": 1}
    _, pairs, _ = read(store, tmp_path, "rankings", record)
    assert ("stones", "leaves", "first", "u3") in pairs
    read(store, tmp_path, "demonstrations", record)
    assert [(d.text, d.annotator) for d in store.demonstrations()] == [("a drink", "u4")]
    rated = {"fields": {"prompt": "p", "response": "r"}, "responses": {"quality": [{"value": 4, "user_id": "u"}]}}
    assert read(store, tmp_path, "ratings", rated)[2] == {("r", 4.0, "quality")}


def result(of, value, name="q", to=""):
    return {"type": of, "value": value, "from_name": name, "to_name": to}


def test_label_studio_tasks_are_every_kind_of_judgment(store, tmp_path):
    results = [
        result("pairwise", {"selected": "right"}, to="a,b"),
        result("rating", {"rating": 3}, "clarity", "b"),
        result("textarea", {"text": ["a drink"]}),
        result("ranker", {"ranker": {"_": ["2", "1"], "bin": []}}),
        result("choices", {"choices": ["yes"]}),
    ]
    data = {"prompt": "what is tea", "a": "leaves", "b": "stones"}
    data["items"] = [{"id": "1", "body": "one"}, {"id": "2", "body": "two"}]
    who = {"id": 7, "email": "someone@example.org"}
    annotation = {"result": results, "completed_by": who, "lead_time": 9.5}
    task = {"id": 1, "data": data, "annotations": [annotation, {"result": results, "was_cancelled": True}]}
    found, pairs, _ = read(store, tmp_path, "comparisons", task)
    assert pairs == {("leaves", "stones", "second", "label-studio-7")}
    assert store.comparisons()[0].seconds == 9.5
    assert found.left_out == {"answers to questions of other kinds": 4, "annotations that were cancelled": 1}
    assert ("stones", 3.0, "clarity") in read(store, tmp_path, "ratings", task)[2]
    assert ("two", "one", "first", "label-studio-7") in read(store, tmp_path, "rankings", task)[1]
    read(store, tmp_path, "demonstrations", task)
    assert [d.text for d in store.demonstrations()] == ["a drink"]


def test_label_studio_answers_that_were_changed_count_as_they_are_now(store, tmp_path):
    """By the time of the last change, wherever they stand; without a number everybody is somebody else."""

    def annotation(selected, who, when=None):
        answer = result("pairwise", {"selected": selected}, to="a,b")
        return {"result": [answer], "completed_by": who, "updated_at": when}

    annotations = [
        annotation("right", 3, "2024-02-01T00:00:00Z"), annotation("left", 3, "2024-01-01T00:00:00Z"),
        annotation("left", None), annotation("right", None), annotation("right", {"email": "x@example.org"}),
    ]  # fmt: skip
    task = {"data": {"prompt": "what is tea", "a": "leaves", "b": "stones"}, "annotations": annotations}
    found, pairs, _ = read(store, tmp_path, "comparisons", task)
    assert (found.added, found.overruled, found.votes) == (5, 1, 1)
    by = sorted((who if who.startswith(("label", "imported")) else "address", choice) for *_, choice, who in pairs)
    assert by == [("address", "second"), ("imported", "first"), ("imported", "second"), ("label-studio-3", "second")]
    assert read(store, tmp_path, "comparisons", task)[0].added == 0


def test_a_file_of_two_formats_is_refused_whole(store, tmp_path):
    with pytest.raises(DataError, match=r"line 2: not a row of the format `arena` \(columns: chosen"):
        read(store, tmp_path, "comparisons", battle("model_a"), PAIR)
    assert store.prompts() == []


@pytest.mark.parametrize(
    ("kind", "format", "row", "message"),
    [
        ("comparisons", "hhh", PAIR, "Did you mean `hh`"),
        ("ratings", None, battle("tie"), "no ratings are read from it"),
        ("comparisons", "arena", PAIR, "line 1: not a row of the format `arena`"),
        (
            "comparisons",
            None,
            battle("model_a", b="leaves"),
            r"none of its 1 rows gives comparisons \(1 pairs",
        ),
        ("ratings", None, {"instruction": "a", "completions": ["x"]}, "cannot be read as `ultrafeedback`"),
    ],
)
def test_what_a_format_does_not_have_is_said(store, tmp_path, kind, format, row, message):
    with pytest.raises(DataError, match=message):
        read(store, tmp_path, kind, row, format=format)
    assert store.prompts() == []


def test_a_format_that_is_named_goes_before_what_the_first_row_looks_like(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", [{"chosen": f"{START} a", "rejected": f"{START} b"}])
    assert open_source(path, "comparisons").format.name == "hh"
    assert open_source(path, "comparisons", "trl").format is None


@pytest.mark.parametrize(
    "content", ["prompt,chosen,rejected\na,b,c\n", '"prompt";"chosen"\n1;2\n', "prompt\tchosen\na\tb\n"]
)
def test_a_table_is_called_one(workspace, tmp_path, content):
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(DataError, match=r"pairs.csv is a table \(CSV\) with the columns"):
        import_file(workspace.store, tmp_path / "pairs.csv", kind="comparisons")
    (tmp_path / "pairs.xlsx").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(DataError, match="is a spreadsheet or a zip file"):
        import_file(workspace.store, tmp_path / "pairs.xlsx", kind="comparisons")
    for other in ("not, json at all", '{"prompt" "a"}\n', "true, false\n" * 2):
        (tmp_path / "broken.jsonl").write_text(other + "}")
        with pytest.raises(DataError, match="not valid JSON"):
            import_file(workspace.store, tmp_path / "broken.jsonl", kind="comparisons")
