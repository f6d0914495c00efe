"""The `revise` stage: the supervised part of Constitutional AI, from sampled drafts to demonstrations."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import asdict
from typing import Any

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.files import read_json_lines, write_text
from plaudit.judges.constitution import Revised, Reviser, load_principles
from plaudit.judges.models import load_backend, spent_by
from plaudit.models.named import named_policy
from plaudit.progress import progress
from plaudit.records import Demonstration, Prompt, Response, unit_interval
from plaudit.store.database import fingerprint
from plaudit.workspace import Run, Workspace


def revise(workspace: Workspace, config: Config | None = None, *, resume: str | None = None, keep: bool = False) -> Run:
    """Have a model criticise and revise sampled responses, and keep its revisions as demonstrations.

    Their source is the run, so that `sft.sources` can name it. The run's `revisions.jsonl` has every draft, critique
    and principle; its result counts drafts, demonstrations and principles, and critiques and revisions not given.

    Raises WorkspaceError when there are no samples, DataError when no revision could be had, ConfigError for a bad
    constitution.
    """
    if resume is not None:
        with workspace.resume_run(resume, "revise", config) as run:
            return _run(workspace, run, run.config())
    config = config or workspace.config()
    settings = config.revise
    load_principles(settings.constitution)
    samples = workspace.run(settings.samples, kind="sample", setting="revise.samples")
    endpoint = settings.endpoint
    if endpoint is not None:
        model = f"{endpoint.model} at {endpoint.base_url}"
    else:
        model = named_policy(workspace, settings.model, setting="revise.model")
    responses = workspace.store.responses(samples.name)
    data = fingerprint("responses", (response.id for response in responses))
    parents = {"samples": samples.name, "model": model}
    if keep and (known := workspace.find_run("revise", config, parents=parents, data=data)) is not None:
        return known if known.status == "complete" else revise(workspace, resume=known.name)
    with workspace.new_run("revise", config, parents=parents, data=data) as run:
        return _run(workspace, run, config)


def _run(workspace: Workspace, run: Run, config: Config) -> Run:
    settings = config.revise
    drafts = _drafts(workspace, run.parents["samples"], config)
    principles = load_principles(settings.constitution)
    backend = load_backend(workspace, run.parents["model"], settings.endpoint, config, run.path)
    reviser = Reviser(
        backend, principles, settings.rounds, config.seed, settings.temperature,
        settings.critique_tokens, settings.revision_tokens,
    )  # fmt: skip
    log = _already(run)
    left = drafts[len(log) :]
    with progress("revising", len(drafts)) as advance:
        advance(len(log))
        for start in range(0, len(left), settings.at_once):
            found = reviser.revise([(prompt, draft.text) for prompt, draft in left[start : start + settings.at_once]])
            log += [{**asdict(one), "prompt": one.prompt.messages} for one in found]
            workspace.store.add_demonstrations([d for one in found for d in _kept(one, run.name, settings.keep)])
            write_text(run.path / "revisions.jsonl", "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in log))
            advance(len(found))
    demonstrations = sum(d.source == run.name for d in workspace.store.demonstrations())
    if not demonstrations:
        raise DataError(f"{run.parents['model']} revised none of {len(drafts)} drafts.")
    used = Counter(name for one in log for name in one["principles"])
    result: dict[str, Any] = {
        "drafts": len(drafts),
        "demonstrations": demonstrations,
        "principles": dict(used.most_common()),
        "lost": {reason: number for reason, number in reviser.lost.items() if number},
    }
    if (spent := spent_by(reviser.backend)) is not None:
        result["spent"] = spent
    run.update(result=result)
    return run


def _drafts(workspace: Workspace, samples: str, config: Config) -> list[tuple[Prompt, Response]]:
    """The first drafts, in an order of the run's own."""
    prompts = {prompt.id: prompt for prompt in workspace.store.prompts()}
    by_prompt: dict[str, list[Response]] = defaultdict(list)
    for response in workspace.store.responses(samples):
        if response.text.strip():
            by_prompt[response.prompt_id].append(response)
    chosen = [(prompts[p], r) for p, several in by_prompt.items() for r in several[: config.revise.drafts_per_prompt]]
    if not chosen:
        raise DataError(f"{samples} has no responses to revise.")
    return sorted(chosen, key=lambda one: unit_interval("draft", config.seed, one[1].id))


def _kept(one: Revised, run: str, keep: str) -> list[Demonstration]:
    revisions = one.drafts[1:] if keep == "all" else one.drafts[1:][-1:]
    return [Demonstration(one.prompt, text, run) for text in dict.fromkeys(revisions)]


def _already(run: Run) -> list[dict[str, Any]]:
    """What an interrupted run has revised already."""
    return read_json_lines(run.path / "revisions.jsonl", ("prompt", "drafts", "principles"))
