"""Ids never change: they are what stored rows are found by, on every machine and in every version."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.records import content_id, unit_interval

texts = st.text(st.characters(exclude_categories=["Cs"]))
messages = st.fixed_dictionaries({"role": texts | st.none(), "content": texts}, optional={"name": texts})
others = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
parts = st.lists(texts | st.lists(texts | messages | others, max_size=3) | others, max_size=4)


@given(parts)
def test_ids_are_hashes_of_plain_json(parts):
    readable = json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()
    assert content_id(*parts) == hashlib.sha256(readable).hexdigest()[:16]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    assert unit_interval(*parts) == int.from_bytes(digest[:7], "big") / 2**56


@pytest.mark.parametrize(
    ("parts", "expected"),
    [(("a", 'é"\n'), "e10677e76655a515"), (([{"role": "user", "content": "\u2028\x7f"}],), "1233b58ba151c13a")],
)
def test_ids_are_those_of_the_first_version(parts, expected):
    assert content_id(*parts) == expected
