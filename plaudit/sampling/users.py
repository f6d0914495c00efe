"""Simulated users: a function of yours, or a model that plays the person."""

from __future__ import annotations

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.functions import is_function, load_function
from plaudit.models.loading import LoadedModel, load_causal
from plaudit.records import Message
from plaudit.sampling.episodes import User
from plaudit.sampling.in_process import sample
from plaudit.workspace import Workspace

MODEL = "model:"
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
        function = load_function(reference, setting="rl.episodes.user")
        return lambda conversations: [function(conversation) for conversation in conversations]
    model = load_causal(workspace.model_source(reference.removeprefix(MODEL)), config.model)
    return ModelUser(model, config)


class ModelUser:
    """A causal model that sees the conversation with the roles exchanged."""

    def __init__(self, model: LoadedModel, config: Config):
        self.model = model
        self.config = config

    def __call__(self, conversations: list[list[Message]]) -> list[str | None]:
        """One sampled message each; an empty one ends the episode. Depends on the conversations and the seed alone."""
        settings = self.config.rl
        limit = self.model.prompt_limit(1 << 30, settings.max_new_tokens)
        prompts = [self.model.format.encode_prompt(_exchanged(c), limit=limit) for c in conversations]
        drawn = sample(
            self.model.network,
            prompts,
            stops=self.model.format.stops,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=self.config.seed + sum(map(sum, prompts)) % 1_000_003,
        )
        return [self.model.format.decode_response(completion.token_ids) or None for (completion,) in drawn]


def _exchanged(conversation: list[Message]) -> list[Message]:
    """System instruction, an opening for templates that want the user first, and the turns with roles exchanged."""
    other = {"user": "assistant", "assistant": "user"}
    turns: list[Message] = [
        {"role": other[turn["role"]], "content": turn["content"]} for turn in conversation if turn["role"] in other
    ]
    if not turns:
        raise DataError("a conversation without any turn cannot be continued by a simulated user.")
    return [{"role": "system", "content": ROLE}, {"role": "user", "content": "Begin."}, *turns]
