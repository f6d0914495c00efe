"""The same work for both programs: prompts and answers of uneven length, from the text that ships with Plaudit.

Reads JSON lines alone, so that the peer's environment needs nothing of Plaudit's.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "plaudit" / "data"


def prompts(count: int) -> list[str]:
    """Questions."""
    rows = [json.loads(line) for line in (FOLDER / "prompts.jsonl").read_text().splitlines()]
    return [rows[i % len(rows)]["prompt"] for i in range(count)]


def answers(count: int, *, seed: int) -> list[str]:
    """Cuttings of prose of 8 to 180 words, many short and few long, as people's answers are."""
    words = " ".join(json.loads(line)["text"] for line in (FOLDER / "prose.jsonl").read_text().splitlines()).split()
    draw = random.Random(seed)
    cuts = []
    for _ in range(count):
        length = min(180, max(8, int(draw.lognormvariate(4.0, 0.8))))
        start = draw.randrange(len(words) - length)
        cuts.append(" ".join(words[start : start + length]))
    return cuts
