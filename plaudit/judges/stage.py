"""The `judge` stage: comparisons of sampled responses, into the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

from plaudit.config import Config
from plaudit.config.stages import WHO_CAN_JUDGE
from plaudit.errors import ConfigError, DataError
from plaudit.judges.again import judged_before
from plaudit.judges.calibration import noise_factor
from plaudit.judges.models import judge_lineage, judge_samples
from plaudit.judges.simulated import QUALITY, SimulatedAnnotator
from plaudit.judges.utilities import is_model, load_utility
from plaudit.judgments import REUSED, is_of
from plaudit.models.named import named_reward
from plaudit.progress import progress, say
from plaudit.records import Annotator, Comparison, Prompt, Response, implied_comparisons, unit_interval
from plaudit.statistics.agreement import agreement
from plaudit.statistics.biases import choice_habits
from plaudit.store.database import fingerprint
from plaudit.workspace import Run, Workspace

Pair = tuple[Prompt, Response, Response]
AskPerson = Callable[[list[Pair], str, Callable[[Comparison], None]], None]
"""(pairs to judge, run name, what to do with each judgment)"""


def judge(
    workspace: Workspace,
    config: Config | None = None,
    *,
    resume: str | None = None,
    ask: AskPerson | None = None,
    keep: bool = False,
) -> Run:
    """Have the responses to every prompt judged by each of `judge.annotators`: pair by pair, ranked, or each rated.

    Each of `judge.models` judges them too; the result has what could not be read and, of endpoints, what was spent.

    With `judge.people` > 0 and `ask`, a person judges that many training pairs first, each kept at once.
    The run's result has the judgments and their agreement: raw, Krippendorff's alpha, Fleiss' kappa and Gwet's AC1 with
    their intervals, and by pair of annotators; who the simulated annotators were; and their `biases.choice_habits`.

    What a judge, with the same settings, has said of these samples in a complete run is not asked again: the new run
    names it as its own. Where that is true of every judge, no run is made, and the earlier one is returned.

    Raises WorkspaceError when there are no samples, DataError when no prompt has two different responses, ConfigError
    where nobody is named who judges, or no noise gives `judge.agreement`, and what `load_utility` does.
    """
    if resume is not None:
        with workspace.resume_run(resume, "judge", config) as run:
            return _run(workspace, run, run.config(), ask)
    config = config or workspace.config()
    if not (config.judge.annotators or config.judge.models or (config.judge.people and ask is not None)):
        raise ConfigError(f"there is nobody to judge.\n{WHO_CAN_JUDGE}")
    samples = workspace.run(config.judge.samples, kind="sample", setting="judge.samples")
    responses = workspace.store.responses(samples.name)
    parents = {"samples": samples.name}
    if is_model(config.judge.utility):
        parents["utility"] = named_reward(workspace, str(config.judge.utility), setting="judge.utility")
    parents |= {f"model {m.name}": judge_lineage(workspace, m) for m in config.judge.models}
    data = fingerprint("responses", (r.id for r in responses))
    reused = judged_before(workspace, config, parents, data)
    earlier = set(reused.values())
    if reused.keys() == config.judge.names and not config.judge.people and len(earlier) == 1:
        (before,) = earlier
        say(f"{before} has the judgments of these samples by {', '.join(sorted(reused))}: none is added.")
        return workspace.run(before)
    if keep and (known := workspace.find_run("judge", config, parents=parents, data=data)) is not None:
        return known if known.status == "complete" else judge(workspace, resume=known.name, ask=ask)
    with workspace.new_run("judge", config, parents=parents, data=data) as run:
        if reused:
            run.update(**{REUSED: reused})
        return _run(workspace, run, config, ask)


def _run(workspace: Workspace, run: Run, config: Config, ask: AskPerson | None) -> Run:
    pairs, identical = _pairs(workspace, run.parents["samples"])
    if not pairs:
        raise DataError(
            f"no prompt of {run.parents['samples']} has two different responses to compare. "
            "Sample more: `plaudit sample sample.samples_per_prompt=4`."
        )
    answers = {response.id: (prompt, response) for prompt, *both in pairs for response in both}
    utility_function = load_utility(workspace, config, run.parents.get("utility"), list(answers.values()))
    if config.judge.people and ask is not None:
        training = [pair for pair in pairs if pair[0].split == "train"]
        shuffled = sorted(training, key=lambda pair: unit_interval("person", config.seed, pair[1].id, pair[2].id))
        one_each: dict[str, Pair] = {}
        for pair in shuffled:
            one_each.setdefault(pair[0].id, pair)
        chosen = list(one_each.values())[: config.judge.people]
        ask(chosen, run.name, lambda judgment: _keep_person(workspace, judgment))
    as_set = [SimulatedAnnotator(settings, utility_function, config.seed) for settings in config.judge.annotators]
    annotators = _calibrated(as_set, pairs, config)
    reused: dict[str, str] = run.info.get(REUSED, {})
    for name, before in sorted(reused.items()):
        say(f"{name} has judged these samples in {before}: that is used, and not asked again.")
    asked = [a for a in annotators if a.settings.name not in reused]
    if asked:
        say(f"Judged by simulated annotators, not by people: {', '.join(a.settings.name for a in asked)}.")
    workspace.store.add_annotators([a.annotator for a in asked])
    tasks = _tasks(pairs, config.judge.form)
    with progress("judging", len(tasks) * len(asked)) as advance:
        for annotator in asked:
            _judge_all(workspace, annotator, tasks, config.judge.form, run.name)
            advance(len(tasks))
    models = {
        settings.name: judge_samples(
            workspace, run, settings, config, pairs, source=run.parents[f"model {settings.name}"]
        )
        for settings in config.judge.models
        if settings.name not in reused
    }
    models |= {m.name: _facts_of(workspace, reused[m.name], m.name) for m in config.judge.models if m.name in reused}
    parts = {(run.name, None), *((before, name) for name, before in reused.items())}
    comparisons = [c for name in (run.name, *sorted(set(reused.values()))) for c in workspace.store.comparisons(name)]
    comparisons = [c for c in comparisons if is_of(c, parts)]
    ratings = [label for label in workspace.store.labels(QUALITY) if is_of(label, parts)]
    run.update(
        result={
            "judgments": len(comparisons) + len(ratings),
            "pairs": len(pairs),
            "identical_pairs_left_out": identical,
            "annotators": sorted({c.annotator for c in comparisons} | {label.annotator for label in ratings}),
            "agreement": agreement(comparisons or implied_comparisons(ratings)),
            "utility": utility_function.source if annotators else None,
            "simulated": {a.settings.name: a.parameters for a in annotators},
            "habits": _habits(annotators, answers, comparisons),
            "models": models,
        }
    )
    return run


def _facts_of(workspace: Workspace, run: str, model: str) -> Any:
    return workspace.run(run).result["models"][model]


def _tasks(pairs: list[Pair], form: str) -> list[tuple[Prompt, list[Response]]]:
    """What is judged at once: each pair, or all different responses to a prompt."""
    if form == "comparisons":
        return [(prompt, [first, second]) for prompt, first, second in pairs]
    together: dict[str, tuple[Prompt, dict[tuple[str, bool], Response]]] = {}
    for prompt, *both in pairs:
        _, found = together.setdefault(prompt.id, (prompt, {}))
        for response in both:
            found.setdefault((response.text, response.finished), response)
    return [(prompt, list(found.values())) for prompt, found in together.values()]


def _judge_all(
    workspace: Workspace, annotator: SimulatedAnnotator, tasks: list[tuple[Prompt, list[Response]]], form: str, run: str
) -> None:
    match form:
        case "ratings":
            rated = [annotator.rate(p, responses, run=run, done=done) for done, (p, responses) in enumerate(tasks)]
            workspace.store.add_labels([label for labels in rated for label in labels])
        case "rankings":
            ranked = [annotator.rank(p, responses, run=run, done=done) for done, (p, responses) in enumerate(tasks)]
            workspace.store.add_comparisons([comparison for pairs in ranked for comparison in pairs])
        case _:
            workspace.store.add_comparisons(
                [annotator.compare(p, *both, run=run, done=done) for done, (p, both) in enumerate(tasks)]
            )


def _calibrated(annotators: list[SimulatedAnnotator], pairs: list[Pair], config: Config) -> list[SimulatedAnnotator]:
    """The annotators with their noise scaled to `judge.agreement`; biases are not taken into account."""
    if config.judge.agreement is None or not annotators:
        return annotators
    gaps = [[a.utility(p, first) - a.utility(p, second) for p, first, second in pairs] for a in annotators]
    settings = [a.settings for a in annotators]
    flips = [s.flip_rate + (0.5 - s.flip_rate) * s.lazy_share for s in settings]
    factor = noise_factor(gaps, [s.noise for s in settings], flips, config.judge.agreement)
    say(f"noise times {factor:.3g}, for an agreement of {config.judge.agreement:g}")
    return [replace(a, settings=a.settings.model_copy(update={"noise": a.settings.noise * factor})) for a in annotators]


def _habits(
    annotators: list[SimulatedAnnotator],
    answers: dict[str, tuple[Prompt, Response]],
    comparisons: list[Comparison],
) -> dict[str, dict[str, Any]]:
    names = {a.settings.name for a in annotators}
    words = {name: len(response.text.split()) for name, (_, response) in answers.items()}
    worth = {
        a.settings.name: {name: a.utility(prompt, response) for name, (prompt, response) in answers.items()}
        for a in annotators
    }
    return choice_habits([c for c in comparisons if c.annotator in names], words, worth)


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
