"""The whole loop once, on a real model: what `plaudit quickstart` runs. It calls the stages that you would call."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from plaudit.config import Config, resolve
from plaudit.evaluation.stage import evaluate
from plaudit.judges.stage import AskPerson, judge
from plaudit.progress import say
from plaudit.reporting.page import report
from plaudit.rounds.recipes import recipe_file
from plaudit.sampling.stage import sample_responses
from plaudit.store.importing import Kind, import_file
from plaudit.training.online import rl
from plaudit.training.reward import reward
from plaudit.training.sft import sft
from plaudit.workspace import CONFIG_NAME, Run, Workspace

Stage = Callable[..., Run]


def quickstart(
    folder: Path,
    *,
    overrides: list[str] | None = None,
    ask: AskPerson | None = None,
    people: int = 8,
) -> tuple[Workspace, Run]:
    """Run every stage in `folder`, making the workspace if needed; stages that are complete there are kept.

    overrides  changes to the recipe, for example ["seed=1"]
    ask        how to put pairs before a person; None for simulated annotators alone
    people     pairs that the person judges

    Returns the workspace and its evaluation run; `report.html` and `summary.json` are in the folder.
    """
    changes = overrides or []
    if (folder / CONFIG_NAME).exists():
        workspace = Workspace(folder)
        config = workspace.config(overrides=changes)
        say(f"Going on in {folder}: complete stages are kept.")
    else:
        config = resolve(recipe_file(), overrides=[*changes, *([f"judge.people={people}"] if ask else [])])
        workspace = Workspace.create(folder, config=config)
    _import_shipped(workspace, config)
    _finish(workspace, "sft", sft, config, "learn from demonstrations")
    _finish(workspace, "sample", sample_responses, config, "sample responses")
    _finish(workspace, "judge", lambda *a, **k: judge(*a, **k, ask=ask), config, "collect comparisons")
    _finish(workspace, "reward", reward, config, "learn a reward model")
    _finish(workspace, "rl", rl, config, "optimise the policy")
    evaluation = _finish(workspace, "evaluate", evaluate, config, "judge the result on held-out prompts")
    report(workspace, evaluation)
    return workspace, evaluation


def _finish(workspace: Workspace, kind: str, stage: Stage, config: Config, purpose: str) -> Run:
    """The stage's newest complete run with these settings; else resume an unfinished one, else run it."""
    same = [run for run in workspace.runs(kind) if run.config() == config]
    complete = [run for run in same if run.status == "complete"]
    if complete:
        return complete[-1]
    say(f"\n{kind}: {purpose}")
    resumable = [run for run in same if kind != "evaluate"]
    run = stage(workspace, None, resume=resumable[-1].name) if resumable else stage(workspace, config)
    say(f"{run.name} took {run.info['seconds']:.0f} s")
    return run


def _import_shipped(workspace: Workspace, config: Config) -> None:
    data = Path(str(resources.files("plaudit") / "data"))
    kinds: tuple[Kind, ...] = ("prompts", "demonstrations")
    for kind in kinds:
        import_file(workspace.store, data / f"{kind}.jsonl", kind=kind, held_out_share=config.data.held_out_share)
    counts = workspace.store.counts()
    say(
        f"{counts['prompts']} prompts ({counts.get('prompts_held_out', 0)} held out), "
        f"{counts['demonstrations']} demonstrations"
    )


def closing_words(workspace: Workspace, summary: dict[str, Any]) -> str:
    """What came out, and what to do next."""

    def interval(key: str) -> str:
        found = summary[key]
        return f"{found['value']:.2f} (95 % {found['low']:.2f} to {found['high']:.2f})" if found else "not measured"

    def change(key: str) -> str:
        return f"{summary[key]['before']['value']:.2f} -> {summary[key]['after']['value']:.2f}"

    policy = next(name for name in reversed(summary["runs"]) if name.startswith("rl-"))
    agreement, ceiling = summary["agreement"], summary["reward_accuracy_ceiling"]
    told = []
    if agreement:
        alpha = agreement["alpha"]
        beyond = f" (alpha {alpha['value']:.2f}, 95 % {alpha['low']:.2f} to {alpha['high']:.2f})" if alpha else ""
        told = [f"Annotators agree on {agreement['raw']['value']:.2f} of pairs{beyond}."]
    limit = f"; a perfect one would reach {ceiling:.2f}, given the annotators' noise" if ceiling is not None else ""
    return "\n".join(
        [
            "",
            *told,
            f"Reward model: held-out accuracy {interval('reward_accuracy')}{limit};",
            f"  calibration error {summary['reward_calibration_error']:.3f}, "
            f"trained on {summary['judgments_by_people']} judgments by people among the others.",
            f"Policy against the fine-tuned model, held-out prompts: win rate {interval('win_rate')} by the taste,",
            f"  {interval('win_rate_by_reward')} by the reward model; KL {interval('kl')} nats.",
            f"  length {change('mean_length')} tokens, finished {change('finished_rate')}, "
            f"perplexity on plain text x {interval('perplexity_ratio')}",
            f"Took {sum(summary['seconds'].values()) / 60:.1f} minutes, {summary['peak_memory_gb']:.1f} GB at most.",
            "",
            f"Read the report:   {workspace.path / 'report.html'}",
            f"Talk with it:      plaudit chat {policy} --workspace {workspace.path}",
            "Your own data:     plaudit init my-workspace",
            "                   plaudit import FILE --kind prompts --workspace my-workspace",
            "                   and then sft, sample, judge, reward, rl, evaluate, report",
        ]
    )
