"""A conversation with a policy in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from plaudit.config import Config
from plaudit.errors import ModelError
from plaudit.models.loading import LoadedModel, load_causal, load_reward, one_head
from plaudit.records import Message
from plaudit.rewards.scoring import RewardModelScorer, RewardModelScores, Scorer
from plaudit.sampling.best_of_n import sample_best_of
from plaudit.sampling.in_process import Completion, sample


def converse(
    source: str,
    config: Config,
    *,
    message: str | None,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    best_of: int = 1,
    reward: str | None = None,
    reward_head: str | None = None,
) -> Iterator[tuple[str, str]]:
    """Answer one message, or every line of standard input until an empty one; yields (question, answer).

    source   a Hugging Face folder, the built-in model, or a hub name
    best_of  samples of which the best by `reward` is the answer
    reward   a reward model's folder; needed for best_of over 1
    reward_head  of a reward model of several criteria: which

    Raises ModelError when the two have different vocabularies.
    """
    model = load_causal(source, config.model)
    scorer = None
    if best_of > 1 and reward is not None:
        judge = one_head(load_reward(reward, config.model), reward_head, normalised=True, setting="--reward-head")
        if judge.format.vocabulary_id != model.format.vocabulary_id:
            raise ModelError(f"{reward} and {source} have different vocabularies; name a reward model of the family.")
        scorer = RewardModelScorer(RewardModelScores(judge, config.model.tokens_per_micro_batch), normalise=True)
    conversation: list[Message] = []
    turn = 0
    while text := message if message is not None else _ask():
        conversation.append({"role": "user", "content": text})
        (completion,) = _answer(model, conversation, temperature, max_new_tokens, seed + turn, best_of, scorer)
        answer = model.format.decode_response(completion.token_ids)
        conversation.append({"role": "assistant", "content": answer})
        yield text, answer
        turn += 1
        if message is not None:
            return


def _ask() -> str:
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline().strip()


def _answer(
    model: LoadedModel,
    conversation: list[Message],
    temperature: float,
    limit: int,
    seed: int,
    best_of: int,
    scorer: Scorer | None,
) -> list[Completion]:
    prompt_limit = model.prompt_limit(1 << 30, limit)
    options: dict[str, Any] = {"max_new_tokens": limit, "seed": seed, "temperature": temperature}
    if scorer is not None:
        return sample_best_of(model, [conversation], scorer, n=best_of, prompt_limit=prompt_limit, **options)[0]
    prompt = model.format.encode_prompt(conversation, limit=prompt_limit)
    return sample(model.network, [prompt], stops=model.format.stops, **options)[0]
