import pytest
from campaign import account
from campaign import quick_passwords as quick_passwords
from sqlalchemy import select

from plaudit.collect import people
from plaudit.errors import DataError
from plaudit.records import Annotator, Comparison, Prompt, Response
from plaudit.store import Store, tables

PASSWORD = "correct horse battery"


@pytest.fixture
def store(database_place):
    return Store.open(database_place)


def test_an_invitation_makes_one_account_with_its_role_and_then_nothing(store):
    token = people.invite(store, "researcher", actor="test", at=0.0)
    assert people.invitation_role(store, token, at=1.0) == "researcher"
    person = people.join(store, token, "Rosa@example.org", PASSWORD, at=1.0)
    assert (person.login, person.role) == ("rosa@example.org", "researcher")
    assert "rosa" not in person.annotator
    assert people.invitation_role(store, token, at=1.0) is None
    with pytest.raises(DataError, match="not valid"):
        people.join(store, token, "other", PASSWORD, at=1.0)


def test_an_invitation_runs_out(store):
    token = people.invite(store, "annotator", actor="test", days=1, at=0.0)
    with pytest.raises(DataError, match="not valid"):
        people.join(store, token, "late", PASSWORD, at=90_000.0)


@pytest.mark.parametrize(
    ("login", "password"),
    [
        *((name, PASSWORD) for name in ("a", "-x", "a b", "<script>")),
        *(("rosa-rosa-rosa", password) for password in ("short", "rosa-rosa-rosa", "aaaaaaaaaaaaa", "x1y2" * 60)),
    ],
)
def test_bad_names_and_weak_passwords_are_refused_and_the_invitation_stays(store, login, password):
    token = people.invite(store, "annotator", actor="test")
    with pytest.raises(DataError):
        people.join(store, token, login, password)
    assert people.invitation_role(store, token) == "annotator"


def test_two_people_cannot_have_one_name_in_any_spelling(store):
    account(store, "rosa")
    with pytest.raises(DataError, match="taken"):
        account(store, "ROSA")


def test_a_session_is_new_at_every_login_ends_and_is_kept_as_a_hash(store):
    account(store, "rosa")
    one, other = (people.log_in(store, "Rosa", PASSWORD, address="a", at=0.0) for _ in range(2))
    assert one != other
    session = people.session_of(store, one, at=10.0)
    assert session.person.login == "rosa"
    assert session.form_token != people.session_of(store, other, at=10.0).form_token
    assert people.session_of(store, one, at=13 * 3600.0) is None  # idle
    assert people.session_of(store, other, at=11 * 3600.0) is not None
    assert people.session_of(store, other, at=22 * 3600.0) is not None  # kept alive
    assert people.session_of(store, other, at=8 * 86400.0) is None
    people.close_session(store, one)
    assert people.session_of(store, one, at=10.0) is None
    with store.database.reading() as connection:
        kept = str(connection.execute(select(tables.sessions)).all())
    assert one not in kept
    assert other not in kept


def test_wrong_passwords_make_one_wait_whether_or_not_the_name_exists(store):
    account(store, "rosa")
    for login in ("rosa", "nobody"):
        said = set()
        for _ in range(5):
            with pytest.raises(people.LoginRefused) as refused:
                people.log_in(store, login, "wrong password", address=login, at=0.0)
            said.add(str(refused.value))
        assert said == {"This name and password do not belong together."}
        with pytest.raises(people.LoginRefused, match="Too many"):
            people.log_in(store, login, PASSWORD, address=login, at=1.0)
    assert people.log_in(store, "rosa", PASSWORD, address="rosa", at=700.0)


def test_one_address_cannot_try_many_names(store):
    account(store, "rosa")
    for i in range(50):
        with pytest.raises(people.LoginRefused, match="belong together"):
            people.log_in(store, f"name{i}", "wrong password", address="here", at=0.0)
    with pytest.raises(people.LoginRefused, match="Too many"):
        people.log_in(store, "rosa", PASSWORD, address="here", at=1.0)
    assert people.log_in(store, "rosa", PASSWORD, address="elsewhere", at=1.0)


def test_closing_an_account_or_changing_its_role_or_password_ends_its_sessions(store):
    who = account(store, "rosa")
    for change in (
        lambda: people.set_role(store, who, "admin", actor="test"),
        lambda: people.change_password(store, who, PASSWORD, PASSWORD + "!"),
        lambda: people.set_state(store, who, "closed", actor="test"),
    ):
        token = people.open_session(store, who)
        assert people.session_of(store, token) is not None
        change()
        assert people.session_of(store, token) is None
    with pytest.raises(people.LoginRefused):
        people.log_in(store, "rosa", PASSWORD + "!", address="a")


def test_roles_contain_the_ones_below():
    person = people.Person("x", "x", "researcher", "active", "")
    assert [person.may(role) for role in people.ROLES] == [True, True, False]


def test_withdrawing_removes_the_name_for_good_and_the_judgments_if_asked(store):
    prompt = Prompt([{"role": "user", "content": "q"}])
    store.add_prompts([prompt])
    store.add_responses([Response(i, prompt.id, i, "r") for i in "ab"])
    store.add_annotators([Annotator("other", "person")])
    who = account(store, "rosa@example.org")
    store.add_comparisons([Comparison(prompt.id, "a", "b", name, "first", "r") for name in (who, "other")])
    people.withdraw(store, who, actor="test", keep_judgments=False)
    assert [c.annotator for c in store.comparisons()] == ["other"]
    with store.database.reading() as connection:
        everything = [str(connection.execute(select(table)).all()) for table in tables.metadata.sorted_tables]
    assert not any("rosa" in rows for rows in everything)
    with pytest.raises(people.LoginRefused):
        people.log_in(store, "rosa@example.org", PASSWORD, address="a")


def test_a_decision_needs_a_reason_and_somebody_it_is_about(store):
    who = account(store, "rosa")
    with store.database.writing() as connection, pytest.raises(DataError, match="say why"):
        people.decide(connection, who, False, reason=" ", actor="test")
    with store.database.writing() as connection, pytest.raises(DataError, match="no annotator"):
        people.decide(connection, "nobody", False, reason="x", actor="test")


def test_the_local_person_is_one_and_has_no_way_in_by_password(store):
    assert people.local_person(store) == people.local_person(store)
    with pytest.raises(people.LoginRefused):
        people.log_in(store, "local", "", address="a")
