"""`plaudit power`: how much feedback a question takes, before anybody is asked for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from plaudit.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceOption, open_workspace, show

MOST = 1_000_000


def power(
    win_rate: Annotated[float, typer.Option("--win-rate", help="Expected share won, ties as halves.")] = 0.55,
    wanted: Annotated[float, typer.Option("--power", help="Probability of telling the win rate from one half.")] = 0.8,
    alpha: Annotated[float, typer.Option("--alpha", help="Two-sided probability of a false alarm.")] = 0.05,
    agreement: Annotated[
        float, typer.Option("--agreement", help="Share of even pairs on which two people agree.")
    ] = 0.726,
    people: Annotated[
        int, typer.Option("--people-per-item", min=1, max=MOST, help="Judgments per pair of responses.")
    ] = 1,
    items: Annotated[
        int, typer.Option("--items-per-prompt", min=1, max=MOST, help="Pairs of responses per prompt.")
    ] = 1,
    prompt_correlation: Annotated[
        float, typer.Option("--prompt-correlation", help="Correlation of judgments of different items of one prompt.")
    ] = 0.0,
    ties: Annotated[float, typer.Option("--ties", help="Share of judgments that are ties.")] = 0.0,
    per_annotator: Annotated[int, typer.Option("--per-annotator", min=1, max=MOST, help="Judgments per person.")] = 200,
    accuracy: Annotated[
        float | None,
        typer.Option("--accuracy", help="Also say how many comparisons a reward model of this accuracy takes."),
    ] = None,
    features: Annotated[
        int, typer.Option("--features", min=1, max=1000, help="Number of features of the simulated linear reward.")
    ] = 16,
    study: Annotated[
        str | None, typer.Option("--study", help="With --accuracy: also by the law of this reward-scaling study.")
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", min=1, max=MOST, help="Most simulated head-to-heads.")
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST, help="Seed of the simulation.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Write the curve to this SVG file; with --accuracy, of that."),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Say how many comparisons and people a question takes: by simulation, beside the closed form.

    The question is whether a policy wins more than half of its comparisons, or, with --accuracy, how well a reward
    model ranks. Agreement is among judgments of one item that are no ties.
    """
    from plaudit.errors import ConfigError
    from plaudit.studies.power import Plan, power_study
    from plaudit.studies.reward_power import reward_power, study_needs

    if study is not None and accuracy is None:
        raise ConfigError("--study says how many comparisons an accuracy takes: name one by --accuracy.")
    plan = Plan(
        win_rate=win_rate, power=wanted, alpha=alpha, agreement=agreement, people_per_item=people,
        items_per_prompt=items, prompt_correlation=prompt_correlation, ties=ties,
    )  # fmt: skip
    result = power_study(plan, per_annotator=per_annotator, repetitions=repetitions, seed=seed)
    if accuracy is not None:
        result["reward"] = reward_power(
            accuracy, agreement=agreement, features=features, people_per_item=people, ties=ties, seed=seed
        )
    if study is not None and accuracy is not None:
        run = open_workspace(workspace).run(study, kind="study")
        result["reward"]["by_study"] = study_needs(run.path, run.result, accuracy)
    if plot is not None:
        _draw(plot, result)
    show(result, as_json, "\n".join(_lines(result)))


def _draw(file: Path, result: Mapping[str, Any]) -> None:
    from plaudit.files import write_text
    from plaudit.reporting.drawing import standalone
    from plaudit.reporting.power_plots import accuracy_plot, power_plot

    write_text(file, standalone(accuracy_plot(result["reward"]) if "reward" in result else power_plot(result)))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    plan, needed = result["plan"], result["needed"]
    yield (
        f"To tell a win rate of {plan['win_rate']:g} from one half with power {plan['power']:g} at alpha "
        f"{plan['alpha']:g}, where two people agree on {plan['agreement']:g} of even pairs "
        f"(correlation {plan['rho']:.3f}):"
    )
    yield (
        f"{needed['judgments']:,} judgments of {needed['items']:,} items by {needed['annotators']} people "
        f"({plan['per_annotator']} each), about {needed['hours']:.1f} hours of work"
    )
    yield f"  simulated: {_range(needed['simulated'])} prompts"
    yield f"  normal approximation: {needed['normal']:,} prompts, design effect {needed['design_effect']:.3f}"
    if needed["binomial"] is not None:
        yield f"  exact binomial test, from which on its power is never below: {needed['binomial']:,} judgments"
    yield "people an item   items  judgments  people   hours"
    for row in result["by_people"]:
        yield (
            f"{row['people_per_item']:>14} {row['items']:>7,} {row['judgments']:>10,} {row['annotators']:>7} "
            f"{row['hours']:>7.1f}"
        )
    if "reward" in result:
        yield from _reward_lines(result["reward"])


def _reward_lines(reward: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"For a reward that is linear in {reward['features']} features to rank {reward['accuracy']:g} of judgments "
        f"right (the true one: {reward['ceiling']:.4f}):"
    )
    yield f"  simulated: {_range(reward['simulated'])} judgments"
    yield f"  asymptotic covariance of logistic regression: {reward['normal']:,} judgments"
    if "by_study" in reward:
        found = reward["by_study"]
        for model, needs in (found["comparisons"] or {}).items():
            yield f"  by the law of {found['study']}, {model}: {_range(needs)} comparisons"
        if reward["by_study"]["comparisons"] is None or None in found["comparisons"].values():
            yield f"  by {found['study']} it is at or above the annotators' ceiling, {found['ceiling']:.4f}"


def _range(found: Mapping[str, float | None] | None) -> str:
    if found is None or found["value"] is None:
        return "out of reach of what was simulated or measured;"
    ends = ["none" if found[end] is None else f"{found[end]:,.0f}" for end in ("low", "high")]
    return f"{found['value']:,.0f} (95 % {ends[0]} to {ends[1]})"
