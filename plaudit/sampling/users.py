"""Simulated users: a function of yours, or a model that plays the person."""

from __future__ import annotations

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.functions import UserFunction, is_function, load_function
from plaudit.models.loading import LoadedModel, load_causal
from plaudit.records import Message
from plaudit.references import parse
from plaudit.sampling.episodes import User
from plaudit.sampling.in_process import sample
from plaudit.stages import POLICIES
from plaudit.workspace import Workspace

ROLE = (
    "You play a person who talks with an assistant. Write the person's next message, in the person's voice, and "
    "nothing else."
)


def load_user(workspace: Workspace, config: Config) -> User | None:
    """The user of `rl.episodes.user`; None when episodes are single answers.

    Raises ConfigError for a function that cannot be loaded, WorkspaceError or ModelError for a model.
    """
    reference = config.rl.episodes.user
    if reference is None:
        return None
    if is_function(reference):
        user = FunctionUser(load_function(reference, setting="rl.episodes.user"))
        user([[{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Well, thank you."}]])
        return user
    source = workspace.model_source(parse(reference).name, kind=POLICIES, setting="rl.episodes.user")
    model = load_causal(source, config.model)
    return ModelUser(model, config)


class FunctionUser:
    """A Python callable f(conversation) -> the user's next turn, or None to end."""

    def __init__(self, function: UserFunction):
        self.function = function

    def __call__(self, conversations: list[list[Message]]) -> list[str | None]:
        """One turn each. Raises DataError for anything but a text or None, or when the function fails."""
        turns: list[str | None] = []
        for conversation in conversations:
            turn = self.function(conversation)
            if turn is not None and (not isinstance(turn, str) or not turn.strip()):
                raise DataError(f"{self.function.name} must return a text, or None to end; it returned {turn!r}.")
            turns.append(turn)
        return turns


class ModelUser:
    """A causal model that sees the conversation with the roles exchanged."""

    def __init__(self, model: LoadedModel, config: Config):
        self.model = model
        self.config = config

    def __call__(self, conversations: list[list[Message]]) -> list[str | None]:
        """One sampled message each; an empty one ends the episode, and so does a conversation that fills this model's
        context. Depends on the conversations and the seed alone."""
        settings = self.config.rl
        limit = self.model.prompt_limit(1 << 30, settings.max_new_tokens)
        encoded = [self.model.format.encode_prompt(_exchanged(c)) for c in conversations]
        fitting = [i for i, ids in enumerate(encoded) if len(ids) <= limit]
        prompts = [encoded[i] for i in fitting]
        turns: list[str | None] = [None] * len(conversations)
        drawn = sample(
            self.model.network,
            prompts,
            stops=self.model.format.stops,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=self.config.seed + sum(map(sum, prompts)) % 1_000_003,
        )
        for i, (completion,) in zip(fitting, drawn, strict=True):
            turns[i] = self.model.format.decode_response(completion.token_ids) or None
        return turns


def _exchanged(conversation: list[Message]) -> list[Message]:
    """The instruction as the first user's turn, which every template has, and the turns with roles exchanged."""
    other = {"user": "assistant", "assistant": "user"}
    turns: list[Message] = [
        {"role": other[turn["role"]], "content": turn["content"]} for turn in conversation if turn["role"] in other
    ]
    if not turns:
        raise DataError("a conversation without any turn cannot be continued by a simulated user.")
    return [{"role": "user", "content": ROLE}, *turns]
