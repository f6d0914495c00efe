"""From what a workspace holds to the tasks of a campaign, and from files of known answers to gold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from plaudit.collect.campaigns import NewTask, add_gold, find_campaign, plan_tasks
from plaudit.collect.kinds import KINDS, Answer
from plaudit.errors import DataError
from plaudit.records import Prompt, Response, Split, unit_interval
from plaudit.store import Store, tables
from plaudit.store.database import insert_rows
from plaudit.store.importing import read_judged
from plaudit.store.rows import JudgedRow, Kind
from plaudit.workspace import Workspace

AS_IMPORTED: dict[str, Kind] = {"compare": "comparisons", "rank": "rankings", "rate": "ratings", "safety": "labels"}
"""Kind of task -> the kind of file that its known answers come in."""


@dataclass(frozen=True)
class Planned:
    """The tasks of a campaign to be."""

    tasks: list[NewTask]
    too_few: int
    """Prompts that have answers, but not enough different ones."""
    unanswered: int
    """Prompts without any answer of those runs."""
    runs: list[str]
    """Whose responses are judged."""


def plan(
    workspace: Workspace, kind: str, runs: Sequence[str], *, split: Split | None, most: int | None, per_task: int = 4
) -> Planned:
    """Tasks from the responses of runs or imports; from the prompts alone to write demonstrations.

    split   whose prompts; None for all
    most    so many prompts, drawn by a hash of the prompt
    runs    two or more with kind `compare`: each pair sets an answer of one against an answer of another

    Raises DataError for a run without responses, or none named where they are needed.
    """
    store = workspace.store
    prompts = [prompt for prompt in store.prompts(split) if prompt.split != "aside"]
    if most is not None:
        prompts = sorted(prompts, key=lambda prompt: unit_interval("asked", prompt.id))[:most]
    names = [workspace.lineage_name(run) for run in runs]
    if kind == "demonstrate":
        return Planned(plan_tasks(kind, prompts, [])[0], 0, 0, [])
    if kind in KINDS and not names:
        raise DataError(f"a `{kind}` task needs responses: --responses latest:sample, or the name of an import.")
    by_run = {name: store.responses(name) for name in names}
    for name, found in by_run.items():
        if not found:
            raise DataError(f"`{name}` has no responses in the workspace. Sample some with `plaudit sample`.")
    if kind == "compare" and len(names) > 1:
        tasks, too_few = _head_to_head(prompts, by_run)
    else:
        tasks, too_few = plan_tasks(
            kind, prompts, [r for found in by_run.values() for r in found], most_per_task=per_task
        )
    answered = {response.prompt_id for found in by_run.values() for response in found}
    unanswered = sum(prompt.id not in answered for prompt in prompts)
    return Planned(tasks, too_few - unanswered, unanswered, names)


def _head_to_head(prompts: Sequence[Prompt], by_run: dict[str, list[Response]]) -> tuple[list[NewTask], int]:
    """For every prompt and pair of runs, one answer of each; equal answers are left out, and counted."""
    first: dict[str, dict[str, Response]] = {}
    for name, responses in by_run.items():
        for response in sorted(responses, key=lambda r: r.id, reverse=True):
            first.setdefault(response.prompt_id, {})[name] = response
    tasks, too_few = [], 0
    names = list(by_run)
    for prompt in prompts:
        answers = first.get(prompt.id, {})
        pairs = [
            NewTask(prompt.id, (answers[a].id, answers[b].id))
            for i, a in enumerate(names)
            for b in names[i + 1 :]
            if a in answers and b in answers and answers[a].text != answers[b].text
        ]
        too_few += not pairs
        tasks += pairs
    return tasks, too_few


def import_gold(store: Store, campaign: str, path: Path, *, screening: bool, actor: str) -> int:
    """Add the lines of a file as tasks with known answers; returns how many are new. Raises DataError as imports do."""
    with store.database.reading() as connection:
        kind = find_campaign(connection, campaign).kind
    if kind not in AS_IMPORTED:
        raise DataError(f"`{kind}` tasks have no right answer, so they cannot be gold.")
    known: list[tuple[NewTask, Answer, str]] = []
    prompts: list[Prompt] = []
    responses: list[Response] = []
    for values, judged in read_judged(path, AS_IMPORTED[kind], run=f"gold:{campaign}"):
        prompts.append(replace(judged.prompt, split="aside"))  # a known answer is nothing to learn or to measure on
        responses += judged.responses
        ids = tuple(response.id for response in judged.responses)
        known.append((NewTask(judged.prompt.id, ids), _answer(kind, ids, judged), str(values.get("explanation", ""))))
    with store.database.writing() as connection:
        insert_rows(connection, tables.prompts, [asdict(prompt) for prompt in prompts])
        insert_rows(connection, tables.responses, [asdict(response) for response in responses])
    return add_gold(store, campaign, known, screening=screening, actor=actor)


def _answer(kind: str, ids: Sequence[str], judged: JudgedRow) -> Answer:
    if kind == "compare":
        (comparison,) = judged.comparisons
        return {"choice": {"first": comparison.first, "second": comparison.second, "tie": "tie"}[comparison.choice]}
    if kind == "rank":
        beaten = [c.second if c.choice == "first" else c.first for c in judged.comparisons if c.choice != "tie"]
        return {"ranks": {response: 1 + beaten.count(response) for response in ids}}
    values = {label.response: label.value for label in judged.labels}
    if kind == "safety":
        return {"safe": {response: values[response] == 1.0 for response in ids}}
    return {"ratings": values}
