import hashlib
import json
import uuid

import pytest
from databases import postgresql_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plaudit.errors import DataError
from plaudit.records import Annotator, Comparison, Demonstration, Label, Prompt, Response, content_id
from plaudit.store import Store, tables
from plaudit.store.exporting import export_data
from plaudit.store.importing import import_file
from plaudit.store.writers import write_jsonl

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
texts = texts | st.sampled_from(["x" * 9000, "a\r\nb\u2028c", '"quoted" \\ and \U0001f600', "= 1", " \t"])
said = texts.filter(lambda text: text.strip())
names = st.text("abcé '\n", min_size=1, max_size=6).filter(lambda text: text.strip())
runs = st.sampled_from(["judge-001", "campaign:x", "import-12345678"])
judgments = st.none() | st.sampled_from(["j" * 16, "k"])
TIME, LATER = "2030-01-01T00:00:00+00:00", "2031-01-01T00:00:00+00:00"
criteria = st.sampled_from(["", "helpfulness", "Nützlichkeit\n2"])
shares = st.floats(0, 1)


@st.composite
def prompts(draw):
    turns = draw(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), max_size=3))
    messages = [{"role": role, "content": text} for role, text in turns]
    messages.append({"role": "user", "content": draw(said)})
    return Prompt(messages, draw(st.sampled_from(["train", "held_out"])), draw(names))


@st.composite
def comparisons(draw, prompt, responses):
    first, second = draw(st.permutations(responses))[:2]
    return Comparison(
        prompt.id, first.id, second.id, draw(names), draw(st.sampled_from(["first", "second", "tie"])), draw(runs),
        draw(st.none() | st.integers(1, 4)), draw(st.none() | shares), draw(st.none() | st.floats(0, 1e6)),
        draw(st.sampled_from([TIME, "2030-01-02T00:00:00+00:00"])), draw(criteria),
        draw(st.none() | shares), None, draw(judgments),
    )  # fmt: skip


@st.composite
def rankings(draw, prompt, responses):
    """All pairs of some responses, with ties."""
    ranked = draw(st.permutations(responses))[: draw(st.integers(2, len(responses)))]
    ranks = draw(st.lists(st.integers(1, 3), min_size=len(ranked), max_size=len(ranked)))
    who, run, criterion, name = draw(names), draw(runs), draw(criteria), draw(st.text("abc", min_size=1, max_size=16))
    found = []
    for i, one in enumerate(ranked):
        for j, other in list(enumerate(ranked))[i + 1 :]:
            choice = "tie" if ranks[i] == ranks[j] else "first" if ranks[i] < ranks[j] else "second"
            found.append(
                Comparison(
                    prompt.id, one.id, other.id, who, choice, run, created=TIME, criterion=criterion, ranking=name
                )
            )  # fmt: skip
    return found


@st.composite
def contents(draw):
    """Everything that the stages keep, consistent with itself."""
    found = {"prompts": [], "responses": [], "comparisons": [], "labels": [], "demonstrations": []}
    for prompt in draw(st.lists(prompts(), min_size=1, max_size=3, unique_by=lambda p: p.id)):
        answers = draw(st.lists(texts, min_size=2, max_size=4, unique=True))
        responses = [Response(f"sample:{content_id(prompt.id, a)}", prompt.id, a, "sample-001") for a in answers]
        found["prompts"].append(prompt)
        found["responses"] += responses
        found["comparisons"] += draw(st.lists(comparisons(prompt, responses), max_size=3))
        for ranking in draw(st.lists(rankings(prompt, responses), max_size=2)):
            found["comparisons"] += ranking
        for response in responses:
            criterion, value = draw(
                st.tuples(st.sampled_from(["desirable", "safe"]), st.sampled_from([0.0, 1.0]))
                | st.tuples(names, st.floats(allow_nan=False, allow_infinity=False))
            )
            label = Label(prompt.id, response.id, draw(names), value, draw(runs), criterion, TIME, draw(judgments))
            found["labels"].append(label)
        written = st.builds(Demonstration, st.just(prompt), said, names, st.none() | names, judgments)
        found["demonstrations"] += draw(st.lists(written, max_size=2))
    return found


def fill(store, found):
    judged = [*found["comparisons"], *found["labels"]]
    store.add_prompts(found["prompts"])
    store.add_responses(found["responses"])
    store.add_annotators([Annotator(name, "person") for name in {row.annotator for row in judged}])
    store.add_comparisons(found["comparisons"])
    store.add_labels(found["labels"])
    store.add_demonstrations(found["demonstrations"])


def record(store, *, imported):
    """What is in a store by content: imports name responses and runs anew."""
    texts = {response.id: response.text for response in store.responses()}
    messages = {prompt.id: json.dumps(prompt.messages) for prompt in store.prompts()}

    def run(name):
        return name if imported else f"import-{content_id('run', name)[:8]}"

    def of(row, *sides):
        names = [field for field in row.__dataclass_fields__ if field not in ("prompt_id", "run", *sides)]
        content = tuple(getattr(row, name) for name in names)
        return (messages[row.prompt_id], run(row.run), *(texts[getattr(row, side)] for side in sides), *content)

    return {
        "prompts": sorted((json.dumps(p.messages), p.split, p.source) for p in store.prompts()),
        "demonstrations": sorted(
            map(repr, ((d.prompt.messages, d.text, d.source, d.annotator, d.judgment) for d in store.demonstrations()))
        ),
        "comparisons": sorted(map(repr, (of(c, "first", "second") for c in store.comparisons()))),
        "labels": sorted(map(repr, (of(label, "response") for label in store.labels()))),
    }


def import_all(store, folder):
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for kind, rows in manifest["rows"].items():
        if rows and kind != "judgments":
            (path,) = [folder / name for name in (f"{kind}.jsonl", f"{kind}.parquet", kind) if (folder / name).exists()]
            import_file(store, path, kind=kind)
    return manifest


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def two_stores(request, tmp_path_factory):
    """One to export and one to import into, emptied by each example."""
    folder = tmp_path_factory.mktemp("stores")
    if request.param == "sqlite":
        yield [Store.open(folder / f"{name}.sqlite") for name in ("one", "other")]
        return
    databases = [postgresql_database(), postgresql_database()]
    stores = [Store.open(next(database)) for database in databases]
    yield stores
    for store, database in zip(stores, databases, strict=True):
        store.database.engine.dispose()
        next(database, None)


def empty(store):
    with store.database.writing() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@given(found=contents())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_exported_and_imported_is_the_same(two_stores, tmp_path_factory, format, found):
    store, other = two_stores
    empty(store), empty(other)
    fill(store, found)
    folder = tmp_path_factory.getbasetemp() / uuid.uuid4().hex
    manifest = export_data(store, folder, format=format)
    import_all(other, folder)
    assert manifest["left_out"].keys() <= {"rankings"}  # whose pairs are among the comparisons
    assert record(other, imported=True) == record(store, imported=False)
    assert {a.name for a in store.annotators()} <= {a.name for a in other.annotators()}


PROMPT = Prompt([{"role": "user", "content": "what is tea"}])
ANSWERS = [
    Response(f"r{i}", PROMPT.id, text, "sample-001") for i, text in enumerate(["leaves", "stones", "", "a drink"])
]


@pytest.fixture
def store(database_place):
    store = Store.open(database_place)
    store.add_prompts([PROMPT])
    store.add_responses(ANSWERS)
    store.add_annotators([Annotator("ann", "person"), Annotator("bob", "person")])
    return store


def judge(first, second, choice, who="ann", **more):
    return Comparison(PROMPT.id, f"r{first}", f"r{second}", who, choice, "judge-001", created=TIME, **more)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_trls_columns_hold_no_ties_which_are_counted(store, tmp_path):
    store.add_comparisons([judge(0, 1, "second", grade=4), judge(0, 3, "tie")])
    store.add_labels([Label(PROMPT.id, "r0", "ann", 1.0, "judge-001", name) for name in ("desirable", "safe")])
    manifest = export_data(store, tmp_path / "out", format="trl")
    assert lines(tmp_path / "out/comparisons.jsonl") == [
        {
            "prompt": PROMPT.messages,
            "chosen": [{"role": "assistant", "content": "stones"}],
            "rejected": [{"role": "assistant", "content": "leaves"}],
        }
    ]
    assert manifest["left_out"]["comparisons"] == {"ties": 1}
    assert sum(manifest["left_out"]["labels"].values()) == 1
    assert manifest["rows"] == {"prompts": 1, "demonstrations": 0, "comparisons": 1, "labels": 1}


def test_trls_files_hold_training_prompts_and_what_is_held_out_stands_apart_on_request(store, tmp_path):
    store.add_prompts([other := Prompt([{"role": "user", "content": "what is rain"}], "held_out")])
    store.add_responses([Response(f"h{i}", other.id, text, "sample-001") for i, text in enumerate(["water", "fire"])])
    of_other = Comparison(other.id, "h0", "h1", "ann", "first", "judge-001", created=TIME)
    store.add_comparisons([judge(0, 1, "first"), of_other])
    store.add_demonstrations([Demonstration(prompt, "so", "import") for prompt in (PROMPT, other)])
    manifest = export_data(store, tmp_path / "out", format="trl")
    for kind in ("prompts", "demonstrations", "comparisons"):
        (row,) = lines(tmp_path / f"out/{kind}.jsonl")
        assert row["prompt"] == PROMPT.messages
        assert manifest["left_out"][kind] == {"on prompts of the split held_out": 1}
    assert manifest["held_out"] == "left out"
    manifest = export_data(store, tmp_path / "both", format="trl", held_out=True)
    (row,) = lines(tmp_path / "both/held_out_comparisons.jsonl")
    assert row["prompt"] == other.messages
    assert manifest["held_out"]["held_out_comparisons.jsonl"] == 1
    assert manifest["rows"]["comparisons"] == 1


def test_a_column_that_has_a_value_far_behind_alone_is_loaded_by_datasets(tmp_path):
    """The package takes the type of a column from the first ten megabytes."""
    datasets = pytest.importorskip("datasets")

    def rows():
        for number in range(60_000):
            late = number in (50_000, 59_000)
            yield {"text": "x" * 200, "number": number, "grade": 3 if late else None, "note": "n" if late else None}

    assert write_jsonl(tmp_path / "rows.jsonl", rows()) == 60_000
    assert (tmp_path / "rows.jsonl").stat().st_size > 11_000_000
    found = datasets.load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), cache_dir=tmp_path, split="train")
    assert found[0]["number"] == 50_000
    assert sorted(found["number"]) == list(range(60_000))
    assert [row["number"] for row in found if row["grade"] == 3] == [50_000, 59_000]


def test_a_grade_comes_with_its_margin_and_safety_with_the_pair_it_was_said_of(store, tmp_path):
    store.add_comparisons([judge(0, 1, "second", grade=3), judge(0, 1, "first", who="bob")])
    store.add_labels([Label(PROMPT.id, "r1", "ann", 0.0, "judge-001", "safe")])
    export_data(store, tmp_path / "out", kind="comparisons")
    by_ann, by_bob = sorted(lines(tmp_path / "out/comparisons.jsonl"), key=lambda row: row["annotator"])
    assert by_ann["margin"] == pytest.approx(2 / 3)
    assert by_ann["shown_first"] == "rejected"
    assert by_ann["chosen_safe"] is False
    assert [by_ann[name] for name in ("rejected_safe", "tie", "preference")] == [None] * 3
    assert by_bob["chosen_safe"] is by_bob["margin"] is None
    assert by_ann.keys() == by_bob.keys()  # so that a table can be made of the lines


def test_a_ranking_is_one_row_and_its_pairs_name_it(store, tmp_path):
    pairs = [judge(0, 1, "first"), judge(0, 3, "tie"), judge(1, 3, "second")]
    store.add_comparisons([Comparison(**{**vars(pair), "ranking": "g"}) for pair in pairs])
    export_data(store, tmp_path / "out")
    (ranking,) = lines(tmp_path / "out/rankings.jsonl")
    assert (ranking["responses"], ranking["ranks"]) == (["leaves", "stones", "a drink"], [1, 3, 1])
    assert [row["group_id"] for row in lines(tmp_path / "out/comparisons.jsonl")] == ["g"] * 3


def test_the_manifest_has_every_file_with_its_hash_and_equal_stores_give_equal_files(store, tmp_path):
    store.add_comparisons([judge(0, 1, "first"), judge(0, 2, "first", who="bob"), judge(1, 3, "tie")])
    for format in ("jsonl", "parquet"):
        manifests = [export_data(store, tmp_path / f"{format}{i}", format=format) for i in range(2)]
        assert manifests[0] == manifests[1]
        assert any("comparisons" in name for name in manifests[0]["files"])
        for name, facts in manifests[0]["files"].items():
            content = (tmp_path / f"{format}0" / name).read_bytes()
            assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert sorted(p.name for p in (tmp_path / f"{format}0").iterdir()) == sorted(
            [*manifests[0]["files"], "manifest.json"]
        )


def test_a_datasets_folder_reads_back(store, tmp_path):
    datasets = pytest.importorskip("datasets")
    store.add_comparisons([judge(0, 1, "second", soft_preference=0.2), judge(0, 3, "tie")])
    export_data(store, tmp_path / "out", kind="comparisons", format="datasets")
    assert len(datasets.load_from_disk(str(tmp_path / "out/comparisons"))) == 2
    other = Store.open(tmp_path / "other.sqlite")
    assert import_file(other, tmp_path / "out/comparisons", kind="comparisons").added == 2
    assert record(other, imported=True)["comparisons"] == record(store, imported=False)["comparisons"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "comparison"}, "Did you mean `comparisons`"),
        ({"format": "csv"}, "Known: jsonl, parquet"),
        ({"kind": "rankings", "format": "trl"}, "TRL has no columns for rankings"),
        ({"held_out": True}, "--held-out is of --format trl"),
    ],
)
def test_what_cannot_be_exported_is_refused(store, tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        export_data(store, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="exists already"):
        export_data(store, tmp_path / "there")


def hand_in(store):
    """A comparison on the pages for people, then its correction; with an account and a session."""
    rows = {
        "campaigns": {"name": "x", "kind": "pair", "criterion": "", "guideline": "Be fair."}
        | {"settings": {}, "is_open": True, "created": TIME},
        "tasks": {"id": "t", "campaign": "x", "prompt_id": PROMPT.id, "responses": ["r0", "r1"], "open_slots": 1}
        | {"is_random": True, "priority": 0.0, "draw": 0.5, "gold": {"choice": "r0"}, "is_screening": False}
        | {"explanation": ""},
        "accounts": {"annotator": "ann", "login": "secret@example.org", "password_hash": "secret-hash"}
        | {"role": "annotator", "state": "active", "created": TIME},
        "sessions": {"token_hash": "secret-session", "annotator": "ann", "form_token": "secret-form"}
        | {"created": 0.0, "seen": 0.0, "expires": 0.0},
        "invitations": {"token_hash": "secret-invitation", "role": "annotator", "created_by": "ann", "created": ""}
        | {"expires": 0.0},
        "assignments": {"id": "secret-assignment", "task": "t", "campaign": "x", "annotator": "ann", "slot": 0}
        | {"state": "submitted", "shown": ["r1", "r0"], "created": 0.0, "expires": 0.0},
    }
    said = {
        "assignment": "secret-assignment", "task": "t", "campaign": "x", "annotator": "ann", "criterion": "",
        "kind": "pair", "shown": ["r1", "r0"], "seconds": 2.5, "comment": "hm", "flags": ["unsure"], "is_gold": True,
        "guideline": "g", "version": "0.1.0", "created": TIME,
    }  # fmt: skip
    with store.database.writing() as connection:
        for name, row in rows.items():
            connection.execute(tables.metadata.tables[name].insert().values(**row))
        for number, (answer, right) in enumerate([({"choice": "first"}, False), ({"choice": "second"}, True)]):
            more = {"id": f"j{number}", "answer": answer, "is_right": right, "submission": f"secret-{number}"}
            more["supersedes"] = "j0" if number else None
            connection.execute(tables.judgments.insert().values(**said, **more))
    store.add_comparisons([judge(1, 0, "first", judgment="j0"), judge(1, 0, "second", judgment="j1")])


def test_the_log_has_what_was_shown_and_corrected_and_nothing_of_accounts(store, tmp_path):
    hand_in(store)
    export_data(store, tmp_path / "out")
    first, second = lines(tmp_path / "out/judgments.jsonl")
    assert first["shown"] == [{"id": "r1", "text": "stones"}, {"id": "r0", "text": "leaves"}]
    assert (first["answer"], first["seconds"], first["flags"]) == ({"choice": "first"}, 2.5, ["unsure"])
    assert (first["gold"], first["is_right"], second["is_right"]) == ({"choice": "r0"}, False, True)
    assert (second["supersedes"], second["guideline"], second["version"]) == ("j0", "g", "0.1.0")
    assert [row["judgment"] for row in lines(tmp_path / "out/comparisons.jsonl")] == ["j1"]
    export_data(store, tmp_path / "table", format="parquet")
    for path in [*(tmp_path / "out").iterdir(), *(tmp_path / "table").iterdir()]:
        assert b"secret" not in path.read_bytes()
    assert "Be fair." in (tmp_path / "out/manifest.json").read_text()


def test_safety_labels_keep_their_time_beside_a_comparison_of_another(store, tmp_path):
    store.add_comparisons([judge(0, 1, "first")])
    store.add_labels([Label(PROMPT.id, "r0", "ann", 1.0, "judge-001", "safe", LATER)])
    export_data(store, tmp_path / "out")
    other = Store.open(tmp_path / "other.sqlite")
    import_all(other, tmp_path / "out")
    assert [(label.created, label.value) for label in other.labels()] == [(LATER, 1.0)]
