import pytest
from campaign import Echo, account, people_named
from starlette.testclient import TestClient

from plaudit.collect import people
from plaudit.collect.arena import begin_match, conversation_after, ensure_arena
from plaudit.collect.campaigns import find_campaign, set_open
from plaudit.collect.figures import Figures
from plaudit.collect.judging import submit
from plaudit.collect.web.app import create_app
from plaudit.errors import DataError
from plaudit.store import Store


@pytest.fixture
def store(database_place):
    store = Store.open(database_place)
    ensure_arena(store, "arena", Echo.names, actor="test")
    people_named(store, "ann", "bob")
    return store


def ask(*said):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]


def test_a_match_is_a_comparison_of_two_policies_and_the_talk_goes_on_from_the_chosen_answer(store):
    match = begin_match(store, "arena", "ann", ask("hello"), Echo())
    chosen = next(i for i, response in enumerate(match.shown) if response.startswith("rl-001"))
    submit(store, match.id, "ann", {"choice": str(chosen), "grade": "4"}, submission="x")
    said = conversation_after(store, match.id, "ann")
    assert said == ask("hello", "roses after 1")
    assert conversation_after(store, match.id, "bob") == []
    second = begin_match(store, "arena", "ann", [*said, *ask("and then")], Echo())
    submit(store, second.id, "ann", {"choice": "tie"}, submission="y")
    assert len(conversation_after(store, second.id, "ann")) == 4
    texts = {response.id: response for response in store.responses()}
    runs = {(texts[c.first].run, texts[c.second].run, c.choice) for c in store.comparisons()}
    assert len(runs) == 2
    assert all(response.token_ids == [1, 2] for response in texts.values())
    with store.database.reading() as connection:
        figures = Figures(find_campaign(connection, "arena"), {})
    figures.catch_up(store)
    (result,) = figures.summary()["matches"]
    assert (result.one, result.wins, result.tasks, result.ties) == ("rl-001", 1.5, 2, 1)


def test_the_same_words_twice_are_two_matches(store):
    tasks = {begin_match(store, "arena", who, ask("hello"), Echo()).task for who in ("ann", "ann", "bob")}
    assert len(tasks) == 3


@pytest.mark.parametrize("said", [" ", "x" * 9000, "a\0b"])
def test_a_message_that_cannot_be_is_refused_and_nothing_is_kept(store, said):
    with pytest.raises(DataError):
        begin_match(store, "arena", "ann", ask(said), Echo())
    assert store.responses() == []


def test_an_arena_needs_a_campaign_that_compares(store):
    from campaign import campaign

    campaign(store, "rate")
    with pytest.raises(DataError, match="does not compare"):
        ensure_arena(store, "rate", Echo.names, actor="test")


def test_the_pages_of_an_arena_lead_round_and_name_no_model(tmp_path):
    store = Store.open(tmp_path / "feedback.sqlite")
    ensure_arena(store, "arena", Echo.names, actor="test")
    token = people.open_session(store, account(store, "rosa"))
    app = create_app(store, hosts=["testserver"], arenas={"arena": Echo()})
    client = TestClient(app, headers={"origin": "http://testserver"}, cookies={"plaudit": token})
    form_token = people.session_of(store, token).form_token
    assert client.get("/work/arena").url.path == "/arena/arena"
    task = client.post("/arena/arena", data={"form_token": form_token, "message": "hello <b>", "after": ""})
    assert task.url.path.startswith("/task/")
    assert "roses after 1" in task.text
    assert "hello &lt;b&gt;" in task.text
    assert not any(name in task.text for name in ("rl-001", "sft-001"))
    data = {"form_token": form_token, "submission": "s", "verdict": "0:4"}
    back = client.post(task.url.path, data=data)
    assert back.url.path == "/arena/arena"
    assert "The answer you chose" in back.text
    assert client.get("/arena/other").status_code == 404
    empty = client.post("/arena/arena", data={"form_token": form_token, "message": " ", "after": ""})
    assert (empty.status_code, "Write something first" in empty.text) == (422, True)


def test_no_model_is_asked_for_who_may_not_work_or_when_the_arena_is_closed(store):
    class Never(Echo):
        def answer(self, name, conversation, *, seed):
            pytest.fail("a model was asked")

    with store.database.writing() as connection:
        people.decide(connection, "ann", False, reason="spam", actor="test", about="admission")
    with pytest.raises(DataError, match="until a researcher"):
        begin_match(store, "arena", "ann", ask("hello"), Never())
    assert begin_match(store, "arena", "bob", ask("hello"), Echo()).annotator == "bob"
    with store.database.writing() as connection:
        set_open(connection, "arena", False, actor="test")
    with pytest.raises(DataError, match="closed"):
        begin_match(store, "arena", "bob", ask("hello"), Never())
