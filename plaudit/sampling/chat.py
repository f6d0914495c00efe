"""A conversation with a policy in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from plaudit.config import Config
from plaudit.models.loading import LoadedModel, load_causal
from plaudit.models.sources import model_source
from plaudit.records import Message
from plaudit.sampling.in_process import sample
from plaudit.workspace import CONFIG_NAME, Workspace


def converse(
    folder: Path, reference: str, *, message: str | None, temperature: float, max_new_tokens: int, seed: int
) -> None:
    """Answer one message, or every line of standard input until an empty one.

    reference   a run of the workspace in `folder`, or any model when `folder` is no workspace
    """
    config, source = Config(), reference
    if (folder / CONFIG_NAME).exists():
        workspace = Workspace(folder)
        config = workspace.config()
        source = model_source(workspace, reference)
    model = load_causal(source, config.model)
    conversation: list[Message] = []
    turn = 0
    while True:
        text = message if message is not None else _ask()
        if not text:
            return
        conversation.append({"role": "user", "content": text})
        answer = _answer(model, conversation, temperature, max_new_tokens, seed + turn)
        conversation.append({"role": "assistant", "content": answer})
        print(answer, flush=True)
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
        stop_ids=model.format.stop_ids,
        max_new_tokens=limit,
        seed=seed,
        temperature=temperature,
    )
    return model.format.decode_response(completions[0][0].token_ids)
