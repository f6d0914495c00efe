"""The prompts of a stage as ids; those that a model cannot take are left out, counted and said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from plaudit.errors import DataError
from plaudit.progress import say
from plaudit.records import Prompt
from plaudit.text.chat import ChatFormat


def encode_prompts(form: ChatFormat, prompts: Iterable[Prompt], *, limit: int) -> dict[str, list[int]]:
    """Id of a prompt -> its tokens, in the order given, without those over the limit and those whose conversation the
    chat template refuses.

    limit   most tokens

    Raises DataError when none is left.
    """
    found: dict[str, list[int]] = {}
    over: list[tuple[int, str]] = []
    refused: list[tuple[str, str]] = []
    for prompt in prompts:
        try:
            ids = form.encode_prompt(prompt.messages)
        except DataError as error:
            refused.append((str(error), prompt.id))
            continue
        if len(ids) > limit:
            over.append((len(ids), prompt.id))
        else:
            found[prompt.id] = ids
    total = len(found) + len(over) + len(refused)
    lines = []
    if over:
        longest, place = max(over)
        lines.append(
            f"{len(over)} of {total} prompts left out: more than {limit} tokens. The longest has {longest} "
            f"(prompt {place})."
        )
    if refused:
        reason, place = refused[0]
        lines.append(f"{len(refused)} of {total} prompts left out. The first, prompt {place}: {reason}")
    if total and not found:
        lines.append("None is left. `data.max_prompt_tokens` is one limit, the model's context the other.")
        raise DataError("\n".join(lines))
    for line in [*lines, *form.take_notes()]:
        say(line)
    return found


def fitting(form: ChatFormat, prompts: Sequence[Prompt], *, limit: int) -> list[Prompt]:
    """The prompts that `encode_prompts` keeps."""
    kept = encode_prompts(form, prompts, limit=limit)
    return [prompt for prompt in prompts if prompt.id in kept]
