"""Plain texts, without prompt or answer: for the pretraining mix and for perplexity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from plaudit.errors import DataError
from plaudit.text.chat import ChatFormat, TokenSequence


def read_texts(path: str | Path, *, setting: str) -> list[str]:
    """The `text` column of a JSONL file of plain texts.

    setting  where the path was given, for messages

    Raises DataError, naming the line, for a file that cannot be read or holds none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`{setting}`: cannot read {path} ({error}).") from None
    texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            texts.append(str(json.loads(line)["text"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f'{path}, line {number}: every line must be {{"text": ...}} ({error}).') from None
    if not texts:
        raise DataError(f"`{setting}`: {path} has no texts.")
    return texts


def as_sequences(form: ChatFormat, texts: Sequence[str], *, limit: int) -> list[TokenSequence]:
    """Texts as sequences whose first token is given and whose others are predicted; one-token texts are left out.

    limit  tokens at which a text is cut
    """
    ids = [form.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [TokenSequence(i[:1], i[1:limit]) for i in ids if len(i) > 1]
