"""Best-of-n decoding: sample n answers, give the one that a reward likes best.

Stiennon et al. 2020 (arXiv:2009.01325); Nakano et al. 2021 (arXiv:2112.09332). No training; n times the sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plaudit.models.loading import LoadedModel
from plaudit.records import Message
from plaudit.rewards.scoring import Answered, Scorer
from plaudit.sampling.in_process import Completion, sample
from plaudit.text.chat import TokenSequence


def sample_best_of(
    model: LoadedModel,
    conversations: Sequence[list[Message]],
    scorer: Scorer,
    *,
    n: int,
    samples_per_prompt: int = 1,
    prompt_limit: int,
    **sampling: Any,
) -> list[list[Completion]]:
    """`samples_per_prompt` answers to each conversation, each the best of n fresh samples by the scorer.

    sampling  what `plaudit.sampling.in_process.sample` takes beside: temperature, max_new_tokens, seed, ...

    Unfinished samples are chosen only where none of the n finished. The first of equals is chosen, which splits
    ties as the policy's own probabilities do.
    """
    prompts = [model.format.encode_prompt(messages, limit=prompt_limit) for messages in conversations]
    drawn = sample(
        model.network, prompts, stops=model.format.stops, samples_per_prompt=n * samples_per_prompt, **sampling
    )
    answers = [
        Answered(
            messages,
            TokenSequence(ids, completion.token_ids),
            model.format.decode_response(completion.token_ids),
            completion.finished,
        )
        for messages, ids, group in zip(conversations, prompts, drawn, strict=True)
        for completion in group
    ]
    scores = iter(scorer(answers).tolist())
    chosen = []
    for group in drawn:
        # Finished first, then the score, then the earlier one.
        keys = [(completion.finished, next(scores), -place) for place, completion in enumerate(group)]
        starts = range(0, len(group), n)
        chosen.append([group[-max(keys[start : start + n])[2]] for start in starts])
    return chosen
