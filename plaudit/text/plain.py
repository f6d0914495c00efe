"""Plain texts, without prompt or answer: for the pretraining mix and for perplexity."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from plaudit.errors import DataError
from plaudit.text.chat import ChatFormat, TokenSequence

SEPARATOR = "<|endoftext|>"
"""Between the documents of a text file."""


def read_texts(path: str | Path, *, setting: str) -> list[str]:
    """The `text` column of a JSONL file of plain texts.

    setting  where the path was given, for messages

    Raises DataError, naming the line, for a file that cannot be read or holds none.
    """
    lines = _read(Path(path), setting).split("\n")
    texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            if not isinstance(text, str):
                raise TypeError(f"`text` is {type(text).__name__}")
            texts.append(text)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f'{path}, line {number}: every line must be {{"text": ...}} ({error}).') from None
    if not texts:
        raise DataError(f"`{setting}`: {path} has no texts.")
    return texts


def read_documents(paths: Sequence[str], *, setting: str) -> list[str]:
    """Documents of text and JSONL files, gzipped or not: a line's `text` each, or in a text file what stands between
    `<|endoftext|>` marks.

    Raises DataError for a file that cannot be read, or when there is no document in any.
    """
    if not paths:
        raise DataError(f"`{setting}` names no file: set it to text files or JSONL files with a `text` column.")
    documents: list[str] = []
    for path in paths:
        name = Path(path)
        if name.suffixes[-1:] == [".jsonl"] or name.suffixes[-2:] == [".jsonl", ".gz"]:
            documents += read_texts(name, setting=setting)
        else:
            documents += _read(name, setting).split(SEPARATOR)
    found = [document for document in documents if document.strip()]
    if not found:
        raise DataError(f"`{setting}`: {', '.join(map(str, paths))}: no text to learn from.")
    return found


def _read(path: Path, setting: str) -> str:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise DataError(f"`{setting}`: cannot read {path} ({error}).") from None


def as_sequences(form: ChatFormat, texts: Sequence[str], *, limit: int) -> list[TokenSequence]:
    """Texts as sequences whose first token is given and whose others are predicted; one-token texts are left out.

    limit  tokens at which a text is cut
    """
    ids = [[*form.begins, *form.encode_text(text)] for text in texts]
    return [TokenSequence(i[:1], i[1:limit]) for i in ids if len(i) > 1]
