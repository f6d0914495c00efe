"""A small campaign to try things on."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher

from plaudit.collect import people
from plaudit.collect.campaigns import CampaignSettings, NewTask, create_campaign
from plaudit.records import Annotator, Prompt, Response
from plaudit.store import Store

PLAIN = {"screening_tasks": 0, "gold_every": 0, "random_share": 0.0}
"""Neither test nor gold nor chance."""
FORMS = {
    "compare": {"choice": "0", "grade": "3"},
    "rank": {"rank-0": "2", "rank-1": "1", "rank-2": "2"},
    "rate": {"rating-0": "6"},
    "safety": {"safe-0": "yes"},
    "demonstrate": {"text": "an answer of my own"},
    "edit": {"text": "a better answer"},
}
SHOWN = {"compare": 2, "rank": 3, "rate": 1, "safety": 1, "demonstrate": 0, "edit": 1}


def with_prompts(store: Store, number: int = 3, answers: int = 3) -> list[Prompt]:
    prompts = [Prompt([{"role": "user", "content": f"question {i}"}], "train", "test") for i in range(number)]
    store.add_prompts(prompts)
    store.add_responses(
        [
            Response(f"sample-001:{p.id}:{k}", p.id, f"answer {k} to {p.text}", "sample-001")
            for p in prompts
            for k in range(answers)
        ]
    )
    return prompts


def campaign(store: Store, kind: str = "compare", *, tasks: int = 3, name: str = "", **settings) -> list[Prompt]:
    """A campaign named after its kind, with a task a prompt."""
    prompts = with_prompts(store, tasks)
    found = [NewTask(p.id, tuple(f"sample-001:{p.id}:{k}" for k in range(SHOWN[kind]))) for p in prompts]
    rules = CampaignSettings(**{**PLAIN, **settings})
    create_campaign(store, name or kind, kind=kind, tasks_=found, criterion="", settings=rules)
    return prompts


def people_named(store: Store, *names: str) -> None:
    """Annotators without accounts."""
    store.add_annotators([Annotator(name, "person") for name in names])


def account(store: Store, login: str, role: people.Role = "annotator", password: str = "correct horse battery") -> str:
    """The pseudonym of somebody with an account."""
    return people.join(store, people.invite(store, role, actor="test"), login, password).annotator


@pytest.fixture(scope="module", autouse=True)
def quick_passwords():
    """For modules that import it; what a password really costs has a test of its own."""
    cheap = PasswordHasher(time_cost=1, memory_cost=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people, "_hasher", cheap)
        patch.setattr(people, "_NOBODY", cheap.hash("nobody"))
        yield


class Echo:
    """Two policies that say who they are, to see that no page does."""

    names = ("rl-001", "sft-001")
    held_out_share = 0.5

    def answer(self, name, conversation, *, seed):
        said = {"rl-001": "roses", "sft-001": "violets"}[name]
        return Response("", "", f"{said} after {len(conversation)}", name, [1, 2], [-0.5, -0.1], True, 0.7)
