"""The policies of an arena, loaded once and asked one at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from plaudit.config import Config
from plaudit.errors import ConfigError, DataError, ModelError
from plaudit.models.loading import load_causal
from plaudit.records import Message, Response
from plaudit.sampling.in_process import sample
from plaudit.stages import POLICIES
from plaudit.workspace import Workspace


class LoadedPolicies:
    """Models by the names that the lineage knows them by.

    references   two or more: runs with a policy, Hugging Face folders, hub names, or the built-in model
    """

    def __init__(
        self,
        workspace: Workspace,
        references: Sequence[str],
        config: Config,
        *,
        temperature: float,
        max_new_tokens: int,
    ):
        """Raises ConfigError for fewer than two different ones, ModelError for one that cannot be loaded."""
        names = [workspace.lineage_name(reference) for reference in references]
        if len(set(names)) < 2:
            raise ConfigError("an arena needs two or more different policies: --arena RUN --arena RUN.")
        self.names = list(dict.fromkeys(names))
        self._models = {
            name: load_causal(workspace.model_source(name, kind=POLICIES), config.model) for name in self.names
        }
        self.held_out_share = config.data.held_out_share
        self._temperature = temperature
        self._max_new_tokens = max_new_tokens
        self._turn = threading.Lock()  # two samplings at once would only slow each other down

    def answer(self, name: str, conversation: list[Message], *, seed: int) -> Response:
        """What a policy says next, with its ids and log-probs; `id` and `prompt_id` are empty yet.

        Raises DataError when the conversation does not fit the model.
        """
        model = self._models[name]
        try:
            limit = model.prompt_limit(1 << 30, self._max_new_tokens)
            prompt = model.format.encode_prompt(conversation, limit=limit)
        except (DataError, ModelError):
            raise DataError("This conversation has become too long for the models. Start another.") from None
        with self._turn:
            ((completion,),) = sample(
                model.network, [prompt], stops=model.format.stops, max_new_tokens=self._max_new_tokens, seed=seed,
                temperature=self._temperature,
            )  # fmt: skip
        text = model.format.decode_response(completion.token_ids)
        return Response(
            "", "", text, name, completion.token_ids, completion.log_probs, completion.finished, self._temperature
        )
