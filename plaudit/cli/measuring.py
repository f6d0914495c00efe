"""Commands that measure reward models, score answers, write the report, and talk with a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plaudit.cli.options import (
    DEFAULT_WORKSPACE,
    ConfigFile,
    DryRun,
    Json,
    Overrides,
    WorkspaceOption,
    open_workspace,
    show,
    summary_of,
)

if TYPE_CHECKING:
    from plaudit.config import Config

RewardArgument = Annotated[str, typer.Argument(help="A reward run, a Hugging Face folder, or a hub name.")]


def evaluate_reward(
    run: RewardArgument,
    comparisons: Annotated[Path, typer.Option("--comparisons", help="JSONL of comparisons or rankings.")],
    head: Annotated[
        str | None, typer.Option("--head", help="Criterion by which to score all comparisons, for a model of several.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the reliability plot to this SVG file.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Measure a reward model on comparisons: accuracy, calibration, and whether it merely loves length.

    Columns as for `plaudit import --kind comparisons` or `rankings`; RewardBench's files work as they are.
    """
    settings, source = settings_and_reward(workspace, config, overrides, run)
    if dry_run:
        typer.echo(settings.to_yaml(), nl=False)
        return
    from plaudit.evaluation.scoring_files import evaluate_reward as measure
    from plaudit.reporting.text import result_lines

    result = measure(source, comparisons, settings, head=head)
    if plot is not None:
        from plaudit.files import write_text
        from plaudit.reporting.drawing import reliability, standalone

        write_text(plot, standalone(reliability(run, result["reliability"])))
    shown = {name: value for name, value in result.items() if name != "reliability"}
    show(result, as_json, "\n".join([f"{run} on {comparisons}", *result_lines(shown)]))


def score(
    run: RewardArgument,
    data: Annotated[Path, typer.Option("--data", help="JSONL of prompt + completion, or messages.")],
    output: Annotated[Path | None, typer.Option("--output", help="Where to write the lines with their scores.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Score answers with a reward model: every line again with `score` and `normalised_score`."""
    settings, source = settings_and_reward(workspace, config, overrides, run)
    if dry_run:
        typer.echo(settings.to_yaml(), nl=False)
        return
    from plaudit.evaluation.scoring_files import score_file

    scored = score_file(source, data, settings, output)
    lines = [json.dumps(row, ensure_ascii=False) for row in scored]
    having = sum(row["score"] is not None for row in scored)
    of_them = "" if having == len(scored) else f", {having} of them with a score"
    text = f"Wrote {len(scored)} lines{of_them} to {output}." if output is not None else "\n".join(lines)
    show({"scores": scored}, as_json, text)


def report(
    run: Annotated[str, typer.Argument(help="An evaluation run.", metavar="[RUN]")] = "latest:evaluate",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Write report.html (one self-contained page) and summary.json for an evaluation and all it came from."""
    from plaudit.reporting.page import report as write_report

    opened = open_workspace(workspace)
    page = write_report(opened, opened.run(run, kind="evaluate"))
    show(summary_of(opened), as_json, f"Wrote {page} and {opened.path / 'summary.json'}.")


def chat(
    run: Annotated[str, typer.Argument(help="A run with a policy, a Hugging Face folder, or a hub name.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Ask this one question and stop.")] = None,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of sampling.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, tokens.")] = 256,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    best_of: Annotated[
        int, typer.Option(min=1, help="Number of samples of which the best, by --reward, is the answer.")
    ] = 1,
    reward: Annotated[str, typer.Option(help="Reward model that chooses for --best-of.")] = "latest:reward",
    reward_head: Annotated[
        str | None, typer.Option(help="Criterion to choose by, for a reward model of several.")
    ] = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each turn as a line of JSON.")] = False,
    overrides: Overrides = None,
) -> None:
    """Talk with a policy. An empty line ends the conversation. The settings under `model` apply."""
    from plaudit.config import resolve
    from plaudit.workspace import CONFIG_NAME

    opened = open_workspace(workspace) if (workspace / CONFIG_NAME).exists() else None
    settings = opened.config(config, overrides) if opened else resolve(config, overrides=overrides)
    if dry_run:
        typer.echo(settings.to_yaml(), nl=False)
        return
    from plaudit.sampling.chat import converse
    from plaudit.stages import POLICIES

    source = opened.model_source(run, kind=POLICIES) if opened else run
    judge_source = None
    if best_of > 1:
        judge_source = opened.model_source(reward, kind="reward", setting="--reward") if opened else reward
    for question, answer in converse(
        source,
        settings,
        message=message,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
        best_of=best_of,
        reward=judge_source,
        reward_head=reward_head,
    ):
        turn = {"question": question, "answer": answer}
        typer.echo(json.dumps(turn, ensure_ascii=False) if as_json else answer)


def settings_and_reward(folder: Path, file: Path | None, overrides: list[str] | None, run: str) -> tuple[Config, str]:
    """The settings, and where the reward model is; outside of a workspace it is a folder or a hub name."""
    from plaudit.config import resolve
    from plaudit.workspace import CONFIG_NAME

    if not (folder / CONFIG_NAME).exists():
        return resolve(file, overrides=overrides), run
    opened = open_workspace(folder)
    return opened.config(file, overrides), opened.model_source(run, kind="reward")
