"""A person judges pairs at the keyboard: blind, in random order, every judgment kept at once."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from plaudit.errors import PlauditError
from plaudit.records import GRADES, Choice, Comparison, Prompt, Response, unit_interval

KEYS = {
    **{str(5 - grade): ("first", grade) for grade in GRADES},  # 1 = A significantly better ... 4 = A negligibly better
    "5": ("tie", None),
    **{str(5 + grade): ("second", grade) for grade in GRADES},  # 6 = B negligibly better ... 9 = B significantly better
}
BEFORE = {"system": "the setting", "user": "a question before", "assistant": "the answer to it"}
"""Most characters shown of the turns before the one that is answered."""
LEGEND = (
    "1 A much better  2 A better  3 A slightly  4 A barely   5 tie   "
    "6 B barely  7 B slightly  8 B better  9 B much better"
)


def ask_person(
    pairs: Sequence[tuple[Prompt, Response, Response]], run: str, keep: Callable[[Comparison], None]
) -> None:
    """Show each pair, read a key, and hand the judgment to `keep` before the next.

    Which answer stands as A is random for each person and pair, and recorded; no model is named.
    `s` skips a pair, `q` or the end of input stops. Raises PlauditError when there is no keyboard.
    """
    if not sys.stdin.isatty() and sys.stdin.closed:
        raise PlauditError("there is no keyboard to annotate from; run without --annotate.")
    console = Console(stderr=True, highlight=False)
    person = f"person:{user()}"
    console.print(f"\nYou judge {len(pairs)} pairs. Which answer is better?\n{LEGEND}\ns skip, q stop\n")
    judged = 0
    for number, (prompt, first, second) in enumerate(pairs, start=1):
        if unit_interval("order", person, run, first.id, second.id) < 0.5:
            first, second = second, first
        for turn in prompt.messages[:-1]:
            console.print(Panel(Text(turn["content"]), title=BEFORE[turn["role"]]))
        console.print(Panel(Text(prompt.text), title=f"{number} of {len(pairs)}: the question"))
        console.print(Panel(Text(first.text), title="A"))
        console.print(Panel(Text(second.text), title="B"))
        began = time.monotonic()
        key = _read_key(console)
        if key == "q":
            break
        if key == "s":
            continue
        choice, grade = KEYS[key]
        seconds = round(time.monotonic() - began, 2)
        chosen: Choice = choice  # type: ignore[assignment]
        keep(Comparison(prompt.id, first.id, second.id, person, chosen, run, grade=grade, seconds=seconds))
        judged += 1
    console.print(f"{judged} judgments kept; they train the reward model with the others.\n")


def user() -> str:
    """Name of this machine's user; a number where it has no name, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def _read_key(console: Console) -> str:
    while True:
        console.print("1-9, s, q: ", end="")
        line = sys.stdin.readline()
        if not line:
            return "q"
        key = line.strip().lower()
        if key in KEYS or key in ("s", "q"):
            return key
        console.print(f"{key!r} is not a choice. {LEGEND}")
