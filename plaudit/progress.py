"""Progress on stderr: a bar with the time left on a terminal, a line every tenth elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)

Advance = Callable[[int], None]


@contextmanager
def progress(label: str, total: int) -> Iterator[Advance]:
    """`with progress("sampling", 800) as advance: ... advance(32)`."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bars:
            task = bars.add_task(label, total=total)
            yield lambda count: bars.update(task, advance=count)
        return
    began, done, shown = time.monotonic(), 0, 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        if done * 10 // max(total, 1) > shown or done >= total:
            shown = done * 10 // max(total, 1)
            spent = time.monotonic() - began
            left = spent / done * (total - done)
            console.print(f"{label}: {done}/{total}, {spent:.0f} s, about {left:.0f} s left")

    yield advance


def warn(text: str) -> None:
    """Something that should not be missed, on stderr."""
    console.print(f"WARNING: {text}", style="bold yellow", markup=False, soft_wrap=True)


def say(text: str) -> None:
    """A line of news for the person at the keyboard; on stderr, so that --json stays clean. Paths in it stay whole."""
    console.print(text, markup=False, soft_wrap=True)
