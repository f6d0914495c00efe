"""Transcripts as Anthropic's HH-RLHF has them (Bai et al. 2022, arXiv:2204.05862).

`chosen` and `rejected` are whole dialogues whose turns begin with "\\n\\nHuman:" and "\\n\\nAssistant:", with line
breaks of any system.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from plaudit.records import Message
from plaudit.store.formats.format import EMPTY, Format, LeftOut, Values, messages_of, pair_of
from plaudit.store.rows import Kind

TURN = re.compile(r"\n\n(Human|Assistant):")
START = re.compile(r"(?:\r?\n){2}Human:")
ROLES = {"Human": "user", "Assistant": "assistant"}


def looks_so(row: Values) -> bool:
    """Both sides open with a person's turn."""
    return all(isinstance(row.get(side), str) and START.match(row[side]) for side in ("chosen", "rejected"))


def dialogue(transcript: str) -> list[Message]:
    """A transcript's turns; what stands before the first is not one."""
    parts = TURN.split(transcript.replace("\r\n", "\n"))
    return [{"role": ROLES[who], "content": text.strip()} for who, text in zip(parts[1::2], parts[2::2], strict=True)]


def convert(row: Values, kind: Kind) -> Iterator[Values | LeftOut]:
    """A pair, or the conversation before the answers."""
    chosen, rejected = dialogue(row["chosen"]), dialogue(row["rejected"])
    pair = pair_of(chosen, rejected, source="hh")
    if kind == "comparisons" or isinstance(pair, LeftOut):
        yield pair
    elif not messages_of(pair["prompt"]) or not pair["prompt"][-1]["content"]:
        yield EMPTY
    else:
        yield {"prompt": pair["prompt"], "source": "hh"}


FORMAT = Format("hh", ("comparisons", "prompts"), frozenset({"chosen", "rejected"}), looks_so, convert)
