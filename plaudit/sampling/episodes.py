"""Conversations of one or several assistant turns, sampled from a policy against a simulated user.

A single answer to a prompt is an episode of one turn: the loop that learns knows no other case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from plaudit.models.loading import LoadedModel
from plaudit.models.network import Network
from plaudit.records import Message, Prompt
from plaudit.rewards.scoring import Answered
from plaudit.sampling.in_process import Completion, sample
from plaudit.text.chat import ChatFormat, TokenSequence

User = Callable[[list[list[Message]]], list[str | None]]
"""(conversations, each ending with an assistant's turn) -> the user's next turns; None ends an episode."""


@dataclass
class Episode:
    """One conversation as it was sampled.

    token_ids  everything after the prompt: the policy's turns and the user's between them
    loss_mask  true where the policy gave the id
    log_probs  log-probs of the policy's ids under the sampling policy, nats; 0 at the user's
    ends       index after each of the policy's turns
    answers    the policy's turns, as they are scored
    truncated  whether it ended because the next answer might not fit the model's context
    """

    prompt: Prompt
    prompt_ids: list[int]
    messages: list[Message]
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    truncated: bool = False

    @property
    def sequence(self) -> TokenSequence:
        """For training."""
        return TokenSequence(self.prompt_ids, self.token_ids, None if all(self.loss_mask) else self.loss_mask)

    @property
    def finished(self) -> bool:
        """Whether the last turn ended by itself."""
        return self.answers[-1].finished

    @property
    def context(self) -> list[int]:
        """All ids so far."""
        return self.prompt_ids + self.token_ids

    def add_answer(self, completion: Completion, form: ChatFormat) -> None:
        """The policy's turn."""
        text = form.decode_response(completion.token_ids)
        sequence = TokenSequence(self.context, completion.token_ids)
        self.answers.append(Answered(list(self.messages), sequence, text, completion.finished, self.prompt.source))
        self.messages.append({"role": "assistant", "content": text})
        self._extend(completion.token_ids, completion.log_probs, loss_mask=True)
        self.ends.append(len(self.token_ids))

    def add_user_turn(self, text: str, form: ChatFormat) -> None:
        """The user's turn, with the frame around it."""
        ids = form.encode_user_turn(text, after_end=self.token_ids[-1] == form.end_id)
        self.messages.append({"role": "user", "content": text})
        self._extend(ids, [0.0] * len(ids), loss_mask=False)

    def _extend(self, ids: list[int], log_probs: list[float], *, loss_mask: bool) -> None:
        self.token_ids += ids
        self.log_probs += log_probs
        self.loss_mask += [loss_mask] * len(ids)


def roll_out(
    policy: Network,
    model: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    prompt_limit: int,
    samples_per_prompt: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    user: User | None = None,
    turns: int = 1,
) -> list[Episode]:
    """`samples_per_prompt` episodes for each prompt, those of a prompt side by side.

    An episode ends after `turns` answers, when the user has nothing more to say, when an answer does not finish,
    or when the next answer might not fit the model's context.

    Raises DataError for a prompt over the limit.
    """
    options: dict[str, Any] = {
        "stops": model.format.stops,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
    }
    encoded = [model.format.encode_prompt(prompt.messages, limit=prompt_limit) for prompt in prompts]
    completions = sample(policy, encoded, seed=seed, samples_per_prompt=samples_per_prompt, **options)
    episodes = []
    for prompt, ids, group in zip(prompts, encoded, completions, strict=True):
        for completion in group:
            episodes.append(Episode(prompt, ids, list(prompt.messages)))
            episodes[-1].add_answer(completion, model.format)
    running = episodes
    for turn in range(1, turns if user is not None else 1):
        assert user is not None
        running = _take_user_turns([e for e in running if e.finished], user, model.format)
        for episode in running:
            episode.truncated = len(episode.context) + max_new_tokens > model.context_length
        running = [episode for episode in running if not episode.truncated]
        if not running:
            break
        answers = sample(policy, [e.context for e in running], seed=seed * 31 + turn, **options)
        for episode, (completion,) in zip(running, answers, strict=True):
            episode.add_answer(completion, model.format)
    for episode in episodes:
        _drop_unanswered(episode)
    return episodes


def _take_user_turns(episodes: list[Episode], user: User, form: ChatFormat) -> list[Episode]:
    """The episodes that go on."""
    if not episodes:
        return []
    texts = user([list(episode.messages) for episode in episodes])
    going_on = []
    for episode, text in zip(episodes, texts, strict=True):
        if text is not None:
            episode.add_user_turn(text, form)
            going_on.append(episode)
    return going_on


def _drop_unanswered(episode: Episode) -> None:
    """A user's turn that was not answered for want of context is no part of the episode."""
    last = episode.ends[-1]
    if len(episode.token_ids) > last:
        del episode.token_ids[last:], episode.loss_mask[last:], episode.log_probs[last:], episode.messages[-1]
