"""Battles as Chatbot Arena and MT-Bench publish them (Zheng et al. 2023, arXiv:2306.05685).

`conversation_a` and `conversation_b` are message lists, `winner` is model_a, model_b, tie or tie (bothbad), `judge` is
who said so. Of battles of several turns those alone can be used whose conversations are equal up to the last answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from plaudit.store.formats.format import PARTED, Format, LeftOut, Values, messages_of, pair_of
from plaudit.store.rows import Kind

WINNERS = ("model_a", "model_b", "tie", "tie (bothbad)")


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
        yield PARTED
        return
    more = {"source": "arena", **({"annotator": str(row["judge"])} if row.get("judge") else {})}
    if row["winner"].startswith("tie"):
        pair = pair_of(one, other, tie=True, **more)
    elif row["winner"] == "model_a":
        pair = pair_of(one, other, **more)
    else:
        pair = pair_of(other, one, shown_first="rejected", **more)
    if kind == "comparisons" or isinstance(pair, LeftOut):
        yield pair
    else:
        yield {"prompt": pair["prompt"], "source": "arena"}


COLUMNS = frozenset({"conversation_a", "conversation_b", "winner", "judge"})
FORMAT = Format("arena", ("comparisons", "prompts"), COLUMNS, looks_so, convert)
