"""The `judge` stage: comparisons of sampled responses, into the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import combinations

from plaudit.config import Config
from plaudit.errors import DataError
from plaudit.evaluation.agreement import agreement
from plaudit.judges.simulated import SimulatedAnnotator
from plaudit.progress import progress
from plaudit.records import Annotator, Comparison, Prompt, Response, unit_interval
from plaudit.store.database import snapshot
from plaudit.workspace import Run, Workspace

Pair = tuple[Prompt, Response, Response]
AskPerson = Callable[[list[Pair], str, Callable[[Comparison], None]], None]
"""(pairs to judge, run name, what to do with each judgment)"""


def judge(
    workspace: Workspace, config: Config | None = None, *, resume: str | None = None, ask: AskPerson | None = None
) -> Run:
    """Have every pair of responses to a prompt judged by each of `judge.annotators`.

    With `judge.people` > 0 and `ask`, a person judges that many training pairs first, each kept at once.
    The run's result has the judgments and their agreement: raw, Krippendorff's alpha, Fleiss' kappa and Gwet's AC1 with
    their intervals, and by pair of annotators.

    Raises WorkspaceError when there are no samples, DataError when no prompt has two different responses.
    """
    if resume is not None:
        with workspace.resume_run(resume, "judge") as run:
            return _run(workspace, run, run.config(), ask)
    config = config or workspace.config()
    samples = workspace.run(config.judge.samples, kind="sample")
    responses = workspace.store.responses(samples.name)
    parents = {"samples": workspace.lineage_name(config.judge.samples)}
    with workspace.new_run(
        "judge", config, parents=parents, data=snapshot("responses", (r.id for r in responses))
    ) as run:
        return _run(workspace, run, config, ask)


def _run(workspace: Workspace, run: Run, config: Config, ask: AskPerson | None) -> Run:
    pairs, identical = _pairs(workspace, run.parents["samples"])
    if not pairs:
        raise DataError(
            f"no prompt of {run.parents['samples']} has two different responses to compare. "
            "Sample more: `plaudit sample sample.samples_per_prompt=4`."
        )
    if config.judge.people and ask is not None:
        training = [pair for pair in pairs if pair[0].split == "train"]
        shuffled = sorted(training, key=lambda pair: unit_interval("person", config.seed, pair[1].id, pair[2].id))
        one_each: dict[str, Pair] = {}
        for pair in shuffled:
            one_each.setdefault(pair[0].id, pair)
        chosen = list(one_each.values())[: config.judge.people]
        ask(chosen, run.name, lambda judgment: _keep_person(workspace, judgment))
    annotators = [SimulatedAnnotator(a, config.judge.taste, config.seed) for a in config.judge.annotators]
    workspace.store.add_annotators([a.annotator for a in annotators])
    with progress("judging", len(pairs) * len(annotators)) as advance:
        for annotator in annotators:
            judgments = [annotator.compare(prompt, first, second, run=run.name) for prompt, first, second in pairs]
            workspace.store.add_comparisons(judgments)
            advance(len(judgments))
    comparisons = workspace.store.comparisons(run.name)
    run.update(
        result={
            "judgments": len(comparisons),
            "pairs": len(pairs),
            "identical_pairs_left_out": identical,
            "annotators": sorted({c.annotator for c in comparisons}),
            "agreement": agreement(comparisons, seed=config.seed),
        }
    )
    return run


def _keep_person(workspace: Workspace, judgment: Comparison) -> None:
    workspace.store.add_annotators([Annotator(judgment.annotator, "person")])
    workspace.store.add_comparisons([judgment])


def _pairs(workspace: Workspace, samples: str) -> tuple[list[Pair], int]:
    """All pairs of responses to one prompt, and how many were left out because their texts are the same."""
    by_prompt: dict[str, list[Response]] = defaultdict(list)
    for response in workspace.store.responses(samples):
        by_prompt[response.prompt_id].append(response)
    prompts = {prompt.id: prompt for prompt in workspace.store.prompts()}
    pairs = [
        (prompts[prompt_id], first, second)
        for prompt_id, responses in sorted(by_prompt.items())
        for first, second in combinations(responses, 2)
    ]
    different = [pair for pair in pairs if (pair[1].text, pair[1].finished) != (pair[2].text, pair[2].finished)]
    return different, len(pairs) - len(different)
