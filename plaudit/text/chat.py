"""One template for every stage: supervised fine-tuning, scoring, rollouts, evaluation and chat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plaudit.errors import DataError, ModelError
from plaudit.records import Message, content_id

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)
"""For tokenizers that come without a chat template: the turns' texts, a line each, nothing added."""


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and a response to it, as the ids that the model saw and gave.

    learnt   true for each response id that the policy gave; None for all of them. In an episode of several turns the
             response holds the user's turns as well, which are not the policy's
    """

    prompt_ids: list[int]
    response_ids: list[int]
    learnt: list[bool] | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class Stops:
    """Where a response ends: after one of these tokens, or when its ids so far end in a stop string."""

    ids: frozenset[int]
    ended_by_text: Callable[[list[int]], bool] | None = None


class ChatFormat:
    """A tokenizer with the decisions that every stage must share.

    end_id      the token that ends an answer: appended to every training answer and learnt
    stop_ids    all tokens at which sampling stops
    stop_strings  texts at which it stops as well; a response is *finished* when it ended by one of either
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        generation_eos: list[int] | None = None,
        system_prompt: str | None = None,
        stop_strings: list[str] | None = None,
    ):
        if tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no end-of-sequence token, so answers could never end. Set eos_token.")
        if tokenizer.chat_template is None:
            tokenizer.chat_template = PLAIN_TEMPLATE
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.stop_strings = [text for text in stop_strings or [] if text]
        self._vocabulary_id: str | None = None
        self.end_id = self._end_of_turn()
        self.stop_ids = frozenset({self.end_id, tokenizer.eos_token_id, *(generation_eos or [])})

    def encode_prompt(self, messages: list[Message], *, limit: int | None = None) -> list[int]:
        """The ids up to where the assistant's answer begins.

        Raises DataError when they are more than `limit`: a prompt is never cut, since its end is the question.
        """
        if self.system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])  # the template adds its own BOS
        if not ids:
            ids = [self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.end_id]
        if limit is not None and len(ids) > limit:
            raise DataError(
                f"a prompt has {len(ids)} tokens, the limit is {limit}: {messages[-1]['content'][:60]!r}...\n"
                "Shorten or remove it, or raise `data.max_prompt_tokens` if the model's context allows."
            )
        return ids

    def encode_response(self, text: str, *, finished: bool = True) -> list[int]:
        """The answer's ids with the end token: what supervised training and scoring see.

        finished  an answer that was cut off has no end token (an empty one has nothing else, and keeps it)
        """
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*ids, self.end_id] if finished or not ids else ids

    def decode_response(self, ids: list[int]) -> str:
        """The text of a response, without its stop token or what follows the first stop string."""
        kept = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        text = str(self.tokenizer.decode(kept))
        ends = [place for stop in self.stop_strings if (place := text.find(stop)) >= 0]
        if not ends:
            return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()
        text = text[: min(ends)]
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, "")
        return text.strip()

    def ended_by_text(self, ids: list[int]) -> bool:
        """Whether a stop string is complete at the end of these response ids."""
        longest = max((len(stop.encode()) for stop in self.stop_strings), default=0)
        tail = str(self.tokenizer.decode(ids[-longest - 3 :])) if longest else ""
        return any(stop in tail for stop in self.stop_strings)

    def scored_ids(self, ids: list[int], *, finished: bool) -> list[int]:
        """What a reward model sees of a sampled response: the very ids, or where it ended by a stop string its text
        up to there with the end token, as in training."""
        if finished and ids[-1] not in self.stop_ids:
            return self.encode_response(self.decode_response(ids))
        return ids

    def encode_user_turn(self, text: str, *, after_end: bool) -> list[int]:
        """The ids between a sampled assistant turn and the next one's beginning: the user's turn and its frame.

        after_end  whether the sampled turn already holds its end token; else the frame begins with it
        """
        mark = "\u2402mark\u2402"
        turns = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": mark},
            {"role": "user", "content": text},
        ]
        whole = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = list(self.tokenizer(whole[whole.rfind(mark) + len(mark) :], add_special_tokens=False)["input_ids"])
        return ids[1:] if after_end and ids and ids[0] == self.end_id else ids

    @property
    def stops(self) -> Stops:
        """The one definition of a finished response, for every sampler."""
        return Stops(self.stop_ids, self.ended_by_text if self.stop_strings else None)

    @property
    def vocabulary_id(self) -> str:
        """Equal for two tokenizers exactly when the same ids stand for the same tokens."""
        if self._vocabulary_id is None:
            self._vocabulary_id = content_id(self.tokenizer.get_vocab())
        return self._vocabulary_id

    def _end_of_turn(self) -> int:
        """The special token that the template writes after an assistant's turn, else the end-of-sequence token."""
        mark = "\u2402mark\u2402"
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        rest = text[text.rfind(mark) + len(mark) :]
        ids = self.tokenizer(rest, add_special_tokens=False)["input_ids"] if rest else []
        return int(ids[0] if ids and ids[0] in self.tokenizer.all_special_ids else self.tokenizer.eos_token_id)


def ensure_pad_token(tokenizer: Any) -> bool:
    """Give the tokenizer a pad token other than its end token; True when the vocabulary grew by it.

    With pad equal to end, other tools mask the end token away, or read scores one token too early.
    """
    ends = {tokenizer.eos_token_id}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends:
        return False
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in ends | {tokenizer.bos_token_id}:
        tokenizer.pad_token = tokenizer.unk_token
        return False
    return bool(tokenizer.add_special_tokens({"pad_token": "<|plaudit_pad|>"}))
