"""A conversation with a policy in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from plaudit.config import Config
from plaudit.models.loading import LoadedModel, load_causal
from plaudit.records import Message
from plaudit.sampling.in_process import sample


def converse(
    source: str, config: Config, *, message: str | None, temperature: float, max_new_tokens: int, seed: int
) -> Iterator[tuple[str, str]]:
    """Answer one message, or every line of standard input until an empty one; yields (question, answer).

    source   a Hugging Face folder, the built-in model, or a hub name
    """
    model = load_causal(source, config.model)
    conversation: list[Message] = []
    turn = 0
    while text := message if message is not None else _ask():
        conversation.append({"role": "user", "content": text})
        answer = _answer(model, conversation, temperature, max_new_tokens, seed + turn)
        conversation.append({"role": "assistant", "content": answer})
        yield text, answer
        turn += 1
        if message is not None:
            return


def _ask() -> str:
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline().strip()


def _answer(model: LoadedModel, conversation: list[Message], temperature: float, limit: int, seed: int) -> str:
    prompt = model.format.encode_prompt(conversation, limit=model.prompt_limit(1 << 30, limit))
    completions = sample(
        model.network,
        [prompt],
        stops=model.format.stops,
        max_new_tokens=limit,
        seed=seed,
        temperature=temperature,
    )
    return model.format.decode_response(completions[0][0].token_ids)
