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
