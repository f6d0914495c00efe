"""Battles as Chatbot Arena and MT-Bench publish them (Zheng et al. 2023, arXiv:2306.05685).

`conversation_a` and `conversation_b` are message lists, `winner` is model_a, model_b, tie, tie (bothbad) or both_bad,
`judge` is who said so: a model where it is called gpt-something. Of battles of several turns those alone can be used
whose conversations are equal up to the last answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plaudit.store.formats.format import MESSAGE, NO_TEXTS, Format, LeftOut, Values, messages_of, pair_of
from plaudit.store.rows import Kind

TIES = ("tie", "tie (bothbad)", "both_bad")
WINNERS = ("model_a", "model_b", *TIES)


def looks_so(row: Values) -> bool:
    """Two conversations and a winner."""
    return {"conversation_a", "conversation_b", "winner"} <= row.keys()


def convert(row: Values, kind: Kind) -> Iterator[Values | LeftOut]:
    """A pair in the order shown, or the conversation before the answers."""
    one, other = messages_of(row["conversation_a"]), messages_of(row["conversation_b"])
    if row["winner"] not in WINNERS:
        yield LeftOut(f"battles whose winner is none of {', '.join(WINNERS)}")
        return
    if one is None or other is None:
        yield NO_TEXTS
        return
    more = {"source": "arena", **_who(row.get("judge"))}
    if row["winner"] in TIES:
        pair = pair_of(one, other, tie=True, **more)
    elif row["winner"] == "model_a":
        pair = pair_of(one, other, **more)
    else:
        pair = pair_of(other, one, shown_first="rejected", **more)
    if kind == "comparisons" or isinstance(pair, LeftOut):
        yield pair
    else:
        yield {"prompt": pair["prompt"], "source": "arena"}


def _who(judge: Any) -> Values:
    """MT-Bench's judgments are by experts and, as `gpt4_pair` and the like, by models."""
    if not judge:
        return {}
    name = str(judge)
    return {"annotator": name} | ({"annotator_kind": "model"} if name.lower().startswith("gpt") else {})


COLUMNS = frozenset({"conversation_a", "conversation_b", "winner", "judge"})
FORMAT = Format(
    "arena",
    ("comparisons", "prompts"),
    COLUMNS,
    looks_so,
    convert,
    {"conversation_a": MESSAGE, "conversation_b": MESSAGE},
)
