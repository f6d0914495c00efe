"""Rejection sampling: imitate the best of many samples, from the same start, round after round.

Touvron et al. 2023 (arXiv:2307.09288) section 3.2.3. In each round: sample K responses to each prompt from the
newest policy, keep the one that the reward likes best (of all rounds so far), and fine-tune the start on them.
Perfect imitation of the best of n, k times over, is the best of n^k.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.files import write_text
from plaudit.models.network import load_trainable_state, trainable_state
from plaudit.models.saving import rehearse_causal, save_causal
from plaudit.progress import progress, say
from plaudit.records import Prompt
from plaudit.sampling.episodes import Episode, roll_out
from plaudit.statistics.enough import alike
from plaudit.text.batches import draw_without_replacement, shuffled_batches
from plaudit.text.chat import TokenSequence
from plaudit.text.prompts import fitting
from plaudit.training.rl.actors import Actors, load_actors
from plaudit.training.rl.watch import Watch
from plaudit.training.steps.optimiser import Optimiser, drop_checkpoint, load_checkpoint, save_checkpoint
from plaudit.training.steps.supervised import likelihood_step
from plaudit.workspace import Run, Workspace


def rejection_sampling(workspace: Workspace, run: Run, config: Config, prompts: list[Prompt]) -> Run:
    """Run all rounds; called by `plaudit.rl` with `rl.algorithm` rejection.

    The run's `kept.jsonl` has the responses that were imitated, its metrics one line a round: mean score, mean of the
    best and of the median of each prompt's samples (the gain that more samples can give), and the loss.
    """
    settings = config.rl.rejection
    actors = load_actors(workspace, run, config, critics_of=())
    limit = actors.model.prompt_limit(config.data.max_prompt_tokens, config.rl.max_new_tokens)
    prompts = fitting(actors.model.format, prompts, limit=limit)
    start = trainable_state(actors.policy)
    unused = Optimiser(actors.policy, settings.optimiser, 1)  # the checkpoint between rounds holds the policy alone
    parts = {"policy": (actors.policy, unused)}
    checkpoint = load_checkpoint(run, parts)
    if checkpoint["step"] == 0:
        rehearse_causal(actors.policy, actors.model, config.model, run.path)
    kept: dict[str, dict[str, Any]] = checkpoint.get("kept", {})
    watch = Watch(run)
    in_round = settings.prompts_per_round or len(prompts)

    for number in range(checkpoint["step"], settings.rounds):
        drawn = draw_without_replacement(len(prompts), min(in_round, len(prompts)), number, seed=config.seed)
        with progress(f"round {number + 1}: samples", len(drawn) * settings.samples_per_prompt) as advance:
            episodes = roll_out(
                actors.policy,
                actors.model,
                [prompts[i] for i in drawn],
                prompt_limit=limit,
                samples_per_prompt=settings.samples_per_prompt,
                max_new_tokens=config.rl.max_new_tokens,
                temperature=config.rl.temperature,
                seed=config.seed * 100_003 + number,
            )
            advance(len(episodes))
        scores = actors.score([episode.answers[0] for episode in episodes]).tolist()
        if not settings.keep_all_rounds:
            kept = {}
        unfinished = _keep_the_best(kept, episodes, scores, number + 1)
        if unfinished:
            say(f"{unfinished} prompts have no finished response in round {number + 1}.")
        if not kept:
            raise DataError(
                "no response finished, so there is none to imitate. Raise `rl.max_new_tokens`, or fine-tune the "
                "policy first (`plaudit sft`)."
            )
        load_trainable_state(actors.policy, start)
        losses = _imitate(actors, list(kept.values()), config, number)
        for warning in alike([episode.token_ids for episode in episodes], len(drawn)):
            run.warn(f"{warning} (round {number + 1}).")
        watch.likelihood(losses[-1], actors.model.vocabulary_size, of="training")
        metrics = _facts(episodes, scores, settings.samples_per_prompt) | actors.unread_ratings()
        if metrics.get("unread_ratings"):
            say(f"{metrics['unread_ratings']:.0f} ratings could not be read; their answers had the least score.")
        run.log(number + 1, loss=losses[-1], kept=len(kept), unfinished_prompts=unfinished, **metrics)
        say(
            f"round {number + 1}: score {metrics['score']:.3f}, best of {settings.samples_per_prompt} "
            f"{metrics['best_score']:.3f}, loss {losses[0]:.3f} -> {losses[-1]:.3f}"
        )
        save_checkpoint(run, number + 1, parts, kept=kept)

    write_text(run.path / "kept.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept.values()))
    save_causal(actors.policy, actors.model, run.model_folder)
    rows = run.metrics()
    names = ("score", "best_score", "median_score", "length", "finished_rate")
    run.update(
        result={
            "rounds": settings.rounds,
            "first": {name: rows[0][name] for name in names},
            "last": {name: rows[-1][name] for name in names},
            "kept": len(kept),
            **({"unread_ratings": sum(r["unread_ratings"] for r in rows)} if actors.raters else {}),
            **actors.spent(),
        }
    )
    drop_checkpoint(run)
    return run


def _keep_the_best(kept: dict[str, dict[str, Any]], episodes: list[Episode], scores: list[float], number: int) -> int:
    """Update the best finished response of each prompt; returns how many prompts had none in this round."""
    finished: set[str] = set()
    for episode, score in zip(episodes, scores, strict=True):
        if not episode.finished:
            continue  # imitating it would teach not to stop
        finished.add(episode.prompt.id)
        best = kept.get(episode.prompt.id)
        if best is None or score > best["score"]:
            kept[episode.prompt.id] = {
                "prompt_id": episode.prompt.id,
                "round": number,
                "score": score,
                "text": episode.answers[0].text,
                "prompt_ids": episode.prompt_ids,
                "token_ids": episode.token_ids,
            }
    return len({episode.prompt.id for episode in episodes} - finished)


def _imitate(actors: Actors, kept: list[dict[str, Any]], config: Config, number: int) -> list[float]:
    """Fine-tune on the kept responses, as the very ids that were sampled; returns the loss of every step."""
    settings = config.rl.rejection
    sequences = [TokenSequence(row["prompt_ids"], row["token_ids"]) for row in kept]
    batches = [
        [sequences[i] for i in rows]
        for epoch in range(settings.epochs)
        for rows in shuffled_batches(
            len(sequences), settings.batch_size, seed=f"{config.seed}:rejection:{number}:{epoch}"
        )
    ]
    optimiser = Optimiser(actors.policy, settings.optimiser, len(batches))
    losses = []
    with progress(f"round {number + 1}: imitation", len(batches)) as advance:
        for batch in batches:
            loss, _ = likelihood_step(actors.policy, optimiser, batch, budget=config.model.tokens_per_micro_batch)
            losses.append(loss)
            advance(1)
    return losses


def _facts(episodes: list[Episode], scores: list[float], size: int) -> dict[str, float]:
    groups = [scores[start : start + size] for start in range(0, len(scores), size)]
    return {
        "score": statistics.fmean(scores),
        "best_score": statistics.fmean(max(group) for group in groups),
        "median_score": statistics.fmean(statistics.median(group) for group in groups),
        "length": statistics.fmean(len(episode.token_ids) for episode in episodes),
        "finished_rate": statistics.fmean(episode.finished for episode in episodes),
    }
