"""Some of the prompts: of these sources, and so many at most."""

from __future__ import annotations

from collections.abc import Sequence

from plaudit.errors import DataError, nearest
from plaudit.records import Prompt, unit_interval


def choose_prompts(
    prompts: Sequence[Prompt], sources: Sequence[str] | None, most: int | None, *, setting: str, seed: int | None = None
) -> list[Prompt]:
    """Those of the sources (None for all), and of them so many (None for all), drawn by a hash, in the order given.

    setting   the section that asks, for messages
    seed      draws others with each; None draws the same ones always. A smaller draw is a part of a larger one

    Raises DataError for a source of which there are none.
    """
    known = {prompt.source for prompt in prompts}
    missing = [source for source in sources or () if source not in known]
    if missing:
        there = ", ".join(sorted(known)) or "none"
        raise DataError(
            f"`{setting}.sources`: no prompt to answer is of `{missing[0]}` ({there}).{nearest(missing[0], known)}"
        )
    chosen = [prompt for prompt in prompts if sources is None or prompt.source in sources]
    if most is None or most >= len(chosen):
        return chosen
    drawn = sorted(chosen, key=lambda prompt: unit_interval("most_prompts", seed, prompt.id))[:most]
    kept = {prompt.id for prompt in drawn}
    return [prompt for prompt in chosen if prompt.id in kept]
