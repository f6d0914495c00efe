"""Which tasks a reward model is least sure of, so that people are asked there first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from sqlalchemy import select

from plaudit.collect.campaigns import Campaign, find_campaign, set_priorities
from plaudit.errors import DataError
from plaudit.models.loading import load_reward, one_head
from plaudit.models.score_facts import ScoreFacts
from plaudit.progress import say
from plaudit.records import Prompt
from plaudit.rewards.answers import score_answers
from plaudit.store import Store, tables
from plaudit.workspace import Workspace

Scores = Sequence[float]
"""Score of one response: a number, or one for each member of an ensemble."""


def prioritise(workspace: Workspace, campaign: str, reward: str, *, actor: str) -> dict[str, Any]:
    """Give each open task of a campaign the uncertainty of a reward model about it as its priority.

    By an ensemble: the standard deviation between the members' differences of score, mean over the task's pairs (of the
    scores themselves where a task has one response). By a single model: how near to 1/2 it holds a preference,
    1 - |2 sigmoid(difference / temperature) - 1|. A model of several criteria is asked by the campaign's.

    Returns the run, what the order is by, how many tasks were ordered and how many could not be, for a response beyond
    the model's context. Raises DataError where there is nothing to be unsure about.
    """
    run = workspace.run(reward, kind="reward")
    store = workspace.store
    with store.database.reading() as connection:
        found = find_campaign(connection, campaign)
        tasks = _open_tasks(store, found)
    config = run.config()
    model = load_reward(str(run.model_folder), config.model)
    if model.scores.criteria is not None:
        model = one_head(model, found.criterion or None, normalised=False, setting="the campaign's criterion")
    facts = model.scores
    if any(len(responses) == 1 for responses in tasks.values()) and not facts.is_ensemble:
        raise DataError(f"`{found.kind}` tasks have one response each: only an ensemble can disagree about it.")
    wanted = {response for responses in tasks.values() for response in responses}
    scored = _scores(store, wanted, model, config)
    priorities = {
        task: uncertainty([scored[r] for r in responses], facts)  # type: ignore[misc]
        for task, responses in tasks.items()
        if all(scored[response] is not None for response in responses)
    }
    if len(priorities) < len(tasks):
        say(f"{len(tasks) - len(priorities)} of {len(tasks)} tasks are beyond the model's context: left as they were.")
    by = "disagreement" if facts.is_ensemble else "closeness to 1/2"
    changed = set_priorities(store, campaign, priorities, source=f"{by} of {run.name}", actor=actor)
    return {"reward": run.name, "by": by, "tasks": changed, "left_out": len(tasks) - len(priorities)}


def _open_tasks(store: Store, campaign: Campaign) -> dict[str, list[str]]:
    """Task -> its responses."""
    column = tables.tasks.c
    mine = (column.campaign == campaign.name, column.open_slots > 0, column.is_random.is_(False))
    with store.database.reading() as connection:
        rows = connection.execute(select(column.id, column.responses).where(*mine)).tuples().all()
    found = {task: list(responses) for task, responses in rows if responses}
    if not found:
        raise DataError(f"campaign `{campaign.name}` has no open tasks with responses, outside of its random share.")
    return found


def _scores(store: Store, wanted: set[str], model: Any, config: Any) -> dict[str, Scores | None]:
    prompts = {prompt.id: prompt for prompt in store.prompts(excluded=True)}
    texts: dict[str, tuple[Prompt, str]] = {
        response.id: (prompts[response.prompt_id], response.text)
        for response in store.responses(excluded=True)
        if response.id in wanted
    }
    return dict(zip(texts, score_answers(model, list(texts.values()), config), strict=True))


def uncertainty(scores: Sequence[Scores], facts: ScoreFacts) -> float:
    """Uncertainty of a model about which of some responses is better; see `prioritise`."""
    if len(scores) == 1:
        return statistics.pstdev(scores[0])
    return statistics.fmean(_of_pair(one, other, facts) for one, other in combinations(scores, 2))


def _of_pair(one: Scores, other: Scores, facts: ScoreFacts) -> float:
    gaps = [a - b for a, b in zip(one, other, strict=True)]
    if facts.is_ensemble:
        return statistics.pstdev(gaps)
    return 1 - abs(math.tanh(gaps[0] / facts.temperature / 2))  # |2 sigmoid(x) - 1| = |tanh(x / 2)|
