"""One template for every stage: supervised fine-tuning, scoring, rollouts, evaluation and chat."""

from __future__ import annotations

import copy
import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plaudit.errors import DataError, ModelError
from plaudit.records import Message, content_id
from plaudit.text import templates

DATE = datetime.date(2026, 1, 1)
"""What a template that asks for today's date gets where no setting says otherwise."""
OPEN, CLOSE = "\ue000", "\ue001"
"""Private characters round a control token that is somebody's text, from rendering to encoding."""
PROBES = ("It is 4.", "    return 1", "4", "Yes, of course!")
"""Answers of which it is tried whether they are encoded by themselves as within a conversation."""


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and a response to it, as the ids that the model saw and gave.

    loss_mask  true for each response id that the policy gave; None for all of them. In an episode of several turns the
               response holds the user's turns as well, which are not the policy's
    """

    prompt_ids: list[int]
    response_ids: list[int]
    loss_mask: list[bool] | None = None

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
    after_ids   what the template writes after it at the end of a conversation
    stop_ids    all tokens at which sampling stops
    stop_strings  texts at which it stops as well; a response is *finished* when it ended by one of either
    changes     what had to be changed in the tokenizer's template, a sentence each
    begins      what the tokenizer puts before any text: BOS, or nothing

    Text of people and data is never read as control tokens: `<|im_end|>` in a message becomes the characters of it.
    `take_notes` says in how many texts that occurred.

    date        what a template that asks for today's date gets

    Raises ModelError for a tokenizer without an end token, or whose template cannot be used, or refuses the system
    prompt.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        generation_eos: list[int] | None = None,
        system_prompt: str | None = None,
        stop_strings: list[str] | None = None,
        date: datetime.date = DATE,
    ):
        if tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no end-of-sequence token, so answers could never end. Set eos_token.")
        self.tokenizer = tokenizer
        self.date = date
        self.system_prompt = system_prompt
        self.stop_strings = [text for text in stop_strings or [] if text]
        self.literals: list[str] = []
        self.literal_count = 0
        self.odd_count = 0
        self._vocabulary_id: str | None = None
        self._control = _control_tokens(tokenizer)
        self.begins = _bos(tokenizer)
        self._named_templates = dict(tokenizer.chat_template) if isinstance(tokenizer.chat_template, dict) else {}
        tokenizer.chat_template = templates.of(tokenizer, bos=bool(self.begins))
        self.frame, self.changes = templates.mend(tokenizer, self._control, date)
        self._question = self._render(templates.QUESTION, generation=True)
        self._question_ids = self._plain_ids(self._question)
        self.end_id = int(tokenizer.convert_tokens_to_ids(self.frame.end))
        self.after_ids = self._plain_ids(self.frame.end + self.frame.after)[1:]
        self.stop_ids = frozenset({self.end_id, tokenizer.eos_token_id, *(generation_eos or [])})
        self._scoring = False
        self._in_place, self._added_space = False, ""
        self._in_place = not all(map(self._stands_alone, PROBES))
        # some tokenizers write a space after a control token that is in no text
        decoded = self.decode_response(self.encode_response(PROBES[0]))
        self._added_space = " " if decoded == " " + PROBES[0] else ""
        self._check_system_prompt()
        if templates.dated(tokenizer.chat_template, date) != tokenizer.chat_template:
            self.changes.append(f"The chat template writes a date: `model.date`, {date}.")
        if not self._keeps_answers():
            self.changes.append(
                "The chat template renders earlier answers of a conversation differently from the last one. "
                "In episodes of several turns they stay as they were sampled."
            )

    def for_scores(self, *, past_end: bool = True) -> ChatFormat:
        """The same for a reward model: finished answers end where their score is read.

        past_end   at the last token of the rendered conversation, where other tools read scores too; else at the end
                   token, where earlier versions of this program did

        Raises ModelError where that would be read as padding.
        """
        form = copy.copy(self)
        form._scoring = True
        form.after_ids = self.after_ids if past_end else []
        if form.after_ids and form.after_ids[-1] == self.tokenizer.pad_token_id:
            raise ModelError("the chat template ends in the pad token, so a score could not be read. Set another one.")
        return form

    def encode_prompt(self, messages: Sequence[Message], *, limit: int | None = None) -> list[int]:
        """The ids up to where the assistant's answer begins.

        Raises DataError when they are more than `limit`: a prompt is never cut, since its end is the question; or when
        the template refuses the conversation.
        """
        if self.system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        ids = self._ids(self._render(self._marked(messages), generation=True))
        if not ids:
            ids = [self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.end_id]
        if limit is not None and len(ids) > limit:
            raise DataError(
                f"a prompt has {len(ids)} tokens, the limit is {limit}: {messages[-1]['content'][:60]!r}...\n"
                "Shorten or remove it, or raise `data.max_prompt_tokens` if the model's context allows."
            )
        return ids

    def encode_response(self, text: str, *, finished: bool = True) -> list[int]:
        """The ids of an answer as the template renders it, with the end token: what supervised training sees; of a
        reward model's format with what the template writes after it, where the score is read.

        finished  an answer that was cut off has no end token (an empty one has nothing else, and keeps it)
        """
        shown = self._answer_text(text)
        if not finished and (ids := self._answer_ids(shown, followed=False)):
            return ids
        return [*self._answer_ids(shown + self.frame.tail, followed=True), *self._closing]

    def decode_response(self, ids: list[int]) -> str:
        """The text of a response, white space and all, without its stop token or what follows the first stop string."""
        ended = bool(ids) and ids[-1] in self.stop_ids
        kept = ids[:-1] if ended else ids
        text = self._decoded(kept, skip=not self.stop_strings)
        ends = [place for stop in self.stop_strings if (place := text.find(stop)) >= 0]
        if ends:
            text = text[: min(ends)]
            for token in self.tokenizer.all_special_tokens:
                text = text.replace(token, "")
        elif self.stop_strings:
            text = self._decoded(kept, skip=True)
        text = text.removeprefix(self.frame.lead or self._added_space)
        return text.removesuffix(self.frame.tail) if ended and not ends else text

    def ended_by_text(self, ids: list[int]) -> bool:
        """Whether a stop string is complete at the end of these response ids."""
        longest = max((len(stop.encode()) for stop in self.stop_strings), default=0)
        tail = str(self.tokenizer.decode(ids[-longest - 3 :])) if longest else ""
        return any(stop in tail for stop in self.stop_strings)

    def scored_ids(self, ids: list[int], *, finished: bool) -> list[int]:
        """What is learnt from or scored of a sampled response: the very ids, or where it ended by a stop string its
        text up to there with the end token, as in training. A reward model's format ends all that finished alike."""
        if not finished or ids[-len(self._closing) :] == self._closing:
            return ids
        if ids[-1] not in self.stop_ids:
            return self.encode_response(self.decode_response(ids))
        return [*ids[:-1], *self._closing] if self._scoring else ids

    def encode_user_turn(self, text: str, *, after_end: bool) -> list[int]:
        """The ids between a sampled assistant turn and the next one's beginning: the user's turn and its frame.

        after_end  whether the sampled turn already holds its end token; else the frame begins with it
        """
        turns: list[Message] = [
            *templates.QUESTION,
            {"role": "assistant", "content": templates.MARK},
            {"role": "user", "content": text},
        ]
        whole = self._render(self._marked(turns), generation=True)
        rest = whole[whole.rfind(templates.MARK) + len(templates.MARK) :].removeprefix(self.frame.tail)
        ids = self._ids(rest)
        return ids[1:] if after_end and ids and ids[0] == self.end_id else ids

    def encode_text(self, text: str) -> list[int]:
        """Plain text without a conversation, of which no part is a control token; `begins` is not before it."""
        return self._ids(self._marked_text(text))

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

    @property
    def saved_template(self) -> str | dict[str, str]:
        """The chat template to save with what was trained: it begins conversations with the same system prompt."""
        template = str(self.tokenizer.chat_template)
        if self.system_prompt is not None:
            system: Message = {"role": "system", "content": self.system_prompt}
            explicit = self._render([system, *templates.QUESTION], generation=True)
            if self._render(templates.QUESTION, generation=True) != explicit:
                template = templates.with_system_prompt(template, self.system_prompt)
        return {**self._named_templates, "default": template} if self._named_templates else template

    @property
    def largest_id(self) -> int:
        """Largest id that a conversation can hold: of the special tokens only those that the template writes."""
        written = self._plain_ids(
            self._render([*templates.QUESTION, {"role": "assistant", "content": "a"}], generation=False)
        )
        special = {id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        ordinary = max(id for id in self.tokenizer.get_vocab().values() if id not in special)
        return max(ordinary, self.end_id, *written, *self._question_ids)

    def take_notes(self) -> list[str]:
        """What was out of the ordinary in the texts encoded since the last call, a sentence each."""
        notes = []
        if self.literal_count:
            count = "1 text holds" if self.literal_count == 1 else f"{self.literal_count} texts hold"
            notes.append(f"{count} control tokens, which are read as plain text. The first: {self.literals[0]}")
        if self.odd_count:
            count = "1 answer is" if self.odd_count == 1 else f"{self.odd_count} answers are"
            notes.append(
                f"{count} written in another way by the chat template (for reasoning in it, perhaps), and learnt as it "
                "stands in the data."
            )
        self.literals, self.literal_count, self.odd_count = [], 0, 0
        return notes

    @property
    def _closing(self) -> list[int]:
        """What ends a finished answer."""
        return [self.end_id, *self.after_ids] if self._scoring else [self.end_id]

    def _render(self, messages: Sequence[Message], *, generation: bool) -> str:
        return templates.render(self.tokenizer, messages, generation=generation, date=self.date)

    def _answer_text(self, text: str) -> str:
        """The answer as the template renders it, white space before it included."""
        answer: Message = {"role": "assistant", "content": self._marked_text(text)}
        whole = self._render([*templates.QUESTION, answer], generation=False)
        ending = self.frame.tail + self.frame.end + self.frame.after
        if whole.startswith(self._question) and whole.endswith(ending):
            return whole[len(self._question) : len(whole) - len(ending)]
        self.odd_count += 1  # the template writes this answer in another way than all others
        return self.frame.lead + answer["content"]

    def _answer_ids(self, text: str, *, followed: bool) -> list[int]:
        """Ids of an answer's text as it stands after a prompt."""
        if not self._in_place:
            return self._ids(text)
        ending = self.frame.end if followed else ""
        ids = self._ids(self._question + text + ending)
        begun = len(self._question_ids)
        if ids[:begun] != self._question_ids:  # the answer begins with what joins the prompt's end to one token
            return self._ids(text, first=False)
        return ids[begun : len(ids) - 1] if followed else ids[begun:]

    def _stands_alone(self, text: str) -> bool:
        """Whether an answer's ids by themselves are those within the conversation, and decode to it.

        Where the prompt's last characters and the answer's first would be one token they cannot be: a prompt is
        encoded before its answer is known.
        """
        answer: Message = {"role": "assistant", "content": text}
        whole = self._plain_ids(self._render([*templates.QUESTION, answer], generation=False))
        ours = [*self._question_ids, *self.encode_response(text), *self.after_ids]
        ids = self._plain_ids(text)
        joined = whole[: len(self._question_ids)] != self._question_ids
        return (joined or whole == ours) and str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)) == text

    def _decoded(self, ids: list[int], *, skip: bool) -> str:
        options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": False}
        if not self._in_place:
            return str(self.tokenizer.decode(ids, **options))
        # such a tokenizer drops white space at the beginning of whatever it decodes
        before = str(self.tokenizer.decode(self._question_ids, **options))
        both = str(self.tokenizer.decode([*self._question_ids, *ids], **options))
        return both[len(before) :] if both.startswith(before) else str(self.tokenizer.decode(ids, **options))

    def _keeps_answers(self) -> bool:
        """Whether a conversation of two turns begins with the first turn as it was, answer and end token."""
        answer: Message = {"role": "assistant", "content": PROBES[0]}
        first = self._render([*templates.QUESTION, answer], generation=False).removesuffix(self.frame.after)
        try:
            both = self._render([*templates.QUESTION, answer, *templates.QUESTION], generation=True)
        except DataError:  # a template of one turn
            return True
        return both.startswith(first)

    def _check_system_prompt(self) -> None:
        if self.system_prompt is None:
            return
        try:
            self._render([{"role": "system", "content": self.system_prompt}, *templates.QUESTION], generation=True)
        except DataError as error:
            raise ModelError(f"{error}\n`model.system_prompt` is set; set it to null for this model.") from None

    def _marked(self, messages: Sequence[Message]) -> list[Message]:
        return [{**message, "content": self._marked_text(message["content"])} for message in messages]

    def _marked_text(self, text: str) -> str:
        """Somebody's text with marks round what would be read as control tokens."""
        if self._control.search(text) is None:
            return text
        self.literal_count += 1
        if len(self.literals) < 3:
            self.literals.append(repr(text if len(text) <= 80 else text[:77] + "..."))
        clean = text.replace(OPEN, "").replace(CLOSE, "")  # which could forge a mark
        return self._control.sub(lambda found: OPEN + found.group() + CLOSE, clean)

    def _ids(self, text: str, *, first: bool = True) -> list[int]:
        """Ids of a rendered text, in which marked control tokens are plain characters.

        first   whether nothing stands before it
        """
        ids: list[int] = []
        for place, piece in enumerate(re.split(f"{OPEN}([^{CLOSE}]*){CLOSE}", text)):
            if piece:
                ids += self._spelt(piece) if place % 2 else self._continued(piece, first=first and not ids)
        return ids

    def _plain_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _continued(self, text: str, *, first: bool, **options: Any) -> list[int]:
        """Ids of a text that follows another: some tokenizers put a space before whatever they encode, but not after a
        line break."""
        if first:
            return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])
        line = self._plain_ids("\n")
        ids = list(self.tokenizer("\n" + text, add_special_tokens=False, **options)["input_ids"])
        if ids[: len(line)] == line:
            return ids[len(line) :]
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])

    def _spelt(self, token: str) -> list[int]:
        """A control token's characters."""
        ids = self._continued(token, first=False, split_special_tokens=True)
        known = self.tokenizer.convert_tokens_to_ids(token)
        if known not in ids:
            return ids
        return [*self._continued(token[:1], first=False), *self._continued(token[1:], first=False)]


def _control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds the special tokens, those that are special in tokenizer.json alone included."""
    known = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    known |= set(tokenizer.all_special_tokens)
    longest_first = sorted((token for token in known if token.strip()), key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _bos(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts first."""
    ids = list(tokenizer("a")["input_ids"])
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


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
