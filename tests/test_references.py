"""What a setting refers to, taken apart once; and functions of somebody else's, whose mistakes are messages."""

import math

import pytest

from plaudit.errors import DataError
from plaudit.functions import UserFunction
from plaudit.references import PREFIXES, Reference, parse


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("latest:sft", "latest", "sft"),
        ("stage:second", "stage", "second"),
        ("snapshot:a-1", "snapshot", "a-1"),
        ("campaign:x", "campaign", "x"),
        ("function:rewards.py:f", "function", "rewards.py:f"),
        ("judge:latest:rl", "judge", "latest:rl"),
        ("reward:reward-001", "reward", "reward-001"),
        ("model:org/name", "model", "org/name"),
        ("sft-001", "run", "sft-001"),
        ("sft-1", "place", "sft-1"),
        ("org/name", "place", "org/name"),
        ("/a/folder:with/colons", "place", "/a/folder:with/colons"),
        ("rl", "place", "rl"),
        ("latest", "place", "latest"),
        ("", "place", ""),
    ],
)
def test_a_reference_is_taken_apart_and_put_together_again(text, kind, name):
    assert parse(text) == Reference(kind, name)
    assert parse(text).text == text


def test_a_colon_alone_makes_no_reference_but_every_kind_of_it_does():
    assert {parse(f"{kind}:x").kind for kind in PREFIXES} == PREFIXES
    assert parse("other:x").kind == "place"


def numbers(returned, **more):
    def call(rows):
        return returned

    return UserFunction(call, "function:f.py:f").numbers(
        ["a", "b"], each="answers", shown=lambda row: f"answer {'ab'[row]!r}", **more
    )


def test_numbers_of_a_function_are_one_for_each_row():
    assert numbers([1, 2.5]) == [1.0, 2.5]
    assert numbers((x for x in (0, 1)), least=0, most=1) == [0.0, 1.0]
    assert numbers([None, 0.5], least=0, most=1, may_be_none=True) == [None, 0.5]


@pytest.mark.parametrize(
    ("returned", "more", "message"),
    [
        (3, {}, "returned 3 for 2 answers. It must return a finite number for each."),
        ([1.0], {}, "returned 1 numbers for 2 answers."),
        ([1.0, "x"], {}, "returned 'x' for 1 of 2 answers, first for answer 'b'."),
        ([math.nan, math.inf], {}, "returned nan for 2 of 2 answers, first for answer 'a'."),
        ([None, 1], {}, "returned None for 1 of 2 answers"),
        ([True, 1], {"least": 0, "most": 1}, "returned True for 1 of 2 answers"),
        ([0.5, 1.5], {"least": 0, "most": 1, "may_be_none": True}, "It must return a number from 0 to 1, or None, for"),
        ([10**400, 1], {}, "for 1 of 2 answers, first for answer 'a'"),
    ],
)
def test_what_a_function_should_not_return_is_named(returned, more, message):
    with pytest.raises(DataError, match=r"function:f\.py:f") as refused:
        numbers(returned, **more)
    assert message in str(refused.value)


def test_what_a_function_raises_is_a_message():
    with pytest.raises(DataError, match=r"f failed on 2 things: ZeroDivisionError: division by zero"):
        UserFunction(lambda: 1 / 0, "f")(about="2 things")
    with pytest.raises(DataError, match="f failed: ZeroDivisionError"):
        UserFunction(lambda: 1 / 0, "f")()
