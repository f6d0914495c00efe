"""The command line: one command a stage. `commands/ending.py` says what went wrong.

Heavy modules are imported inside the commands, so that `plaudit --help` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from plaudit.commands import collecting, data, ending, judging, planning
from plaudit.commands.options import DEFAULT_WORKSPACE, Json, WorkspaceOption
from plaudit.commands.options import open_workspace as _workspace
from plaudit.commands.options import show as _show

if TYPE_CHECKING:
    from plaudit.config import Config
    from plaudit.workspace import Run, Workspace

app = typer.Typer(
    cls=ending.Commands,
    help="The whole RLHF loop: collect preferences, learn a reward model, optimise a policy, prove the result.\n\n"
    "Try it: plaudit quickstart. On your own data: init, import, sft, sample, judge, reward, rl, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file on top of the workspace's plaudit.yaml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings as SECTION.KEY=VALUE, for example rl.kl_coefficient=0.02.", metavar="[KEY=VALUE]..."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")]
Resume = Annotated[str | None, typer.Option("--resume", help="Go on with this interrupted run.", metavar="RUN")]

RewardArgument = Annotated[str, typer.Argument(help="A reward run, a Hugging Face folder, or a hub name.")]


app.command()(collecting.annotate)
app.command()(planning.power)
app.add_typer(collecting.campaign_app, name="campaign")
app.add_typer(collecting.people_app, name="people")
app.add_typer(collecting.audit_app, name="audit")
app.add_typer(judging.judges_app, name="judges")
app.add_typer(data.data_app, name="data")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    config: ConfigOption = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a workspace: plaudit.yaml, the feedback database, and runs/."""
    from plaudit.config import resolve
    from plaudit.workspace import Workspace

    settings = resolve(config, overrides=overrides)
    if dry_run:
        typer.echo(settings.to_yaml(), nl=False)
        return
    workspace = Workspace.create(folder, config=settings)
    _show(
        {"workspace": str(workspace.path)},
        as_json,
        f"Made {folder}. Next: plaudit import FILE --kind prompts --workspace {folder}",
    )


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="JSONL, JSON, Parquet (also gzipped JSON), or a saved datasets folder.")],
    kind: Annotated[
        str, typer.Option("--kind", help="prompts, demonstrations, comparisons, rankings, ratings, labels.")
    ],
    format: Annotated[
        str | None,
        typer.Option("--format", help="Of the rows, such as hh or arena; seen from the first row unless named."),
    ] = None,
    by: Annotated[
        str,
        typer.Option("--by", help="Who judged, where the rows do not say: people, models or simulated (annotators)."),
    ] = "people",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Read prompts, demonstrations or judgments into the workspace, whole or not at all.

    Columns follow TRL: `prompt`; `prompt` + `completion`, or `messages`; `prompt` + `chosen` + `rejected`;
    `prompt` + `responses` + `ranks` (1 the best, equal for ties); `prompt` + `completion` + `rating`;
    `prompt` + `completion` + `label` (true for liked). Judgments may name `annotator` and `criterion`; comparisons
    may have `grade` (1 to 4), `tie`, `preference` (0 to 1), `chosen_safe` and `rejected_safe`.
    Each text is text or a list of {"role", "content"} messages. Prompts are split into training and held-out
    by a hash of their text (data.held_out_share). Formats of other tools and data sets: docs/data.md.
    """
    from typing import get_args

    from plaudit.errors import DataError, nearest
    from plaudit.reporting.text import imported_lines
    from plaudit.store.importing import JUDGES, Kind, import_file

    kinds: tuple[Kind, ...] = get_args(Kind)
    known = next((k for k in kinds if k == kind), None)
    if known is None:
        raise DataError(f"--kind {kind}: unknown. Known: {', '.join(kinds)}.{nearest(kind, kinds)}")
    opened = _workspace(workspace)
    settings = opened.config(config, overrides)
    if dry_run:
        typer.echo(settings.to_yaml(), nl=False)
        return
    share = settings.data.held_out_share
    judges = next((b for b in JUDGES if b == by), None)
    if judges is None:
        raise DataError(f"--by {by}: unknown. Known: {', '.join(JUDGES)}.{nearest(by, JUDGES)}")
    imported = import_file(opened.store, file, kind=known, held_out_share=share, format=format, by=judges)
    _show(vars(imported), as_json, "\n".join(imported_lines(imported)))


@app.command()
def pretrain(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Train a small decoder of your own from plain text (pretrain.text='[FILE, ...]')."""
    where = "plaudit.training.pretraining"
    _stage(where, "pretrain", workspace, config, overrides, dry_run, as_json, resume=resume)


@app.command()
def sft(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Fine-tune `model.name` on the demonstrations (supervised; loss on the answers alone)."""
    _stage("plaudit.training.sft", "sft", workspace, config, overrides, dry_run, as_json, resume=resume)


@app.command()
def sample(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Sample responses of `sample.policy` to the prompts, with token ids and log-probs kept."""
    where = "plaudit.sampling.stage"
    _stage(where, "sample_responses", workspace, config, overrides, dry_run, as_json, resume=resume)


@app.command()
def judge(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    annotate: Annotated[int, typer.Option("--annotate", help="Pairs that you judge first, in the terminal.")] = 0,
    resume: Resume = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Compare the sampled responses: by simulated annotators, by models (judge.models), and by you with --annotate."""
    from plaudit.collect.terminal import ask_person

    extra = [*(overrides or []), *([f"judge.people={annotate}"] if annotate else [])]
    _stage("plaudit.judges.stage", "judge", workspace, config, extra, dry_run, as_json, resume=resume, ask=ask_person)


@app.command()
def revise(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Make demonstrations by critique and revision under a constitution, to fine-tune on (sft.sources=[revise-001])."""
    _stage("plaudit.judges.revising", "revise", workspace, config, overrides, dry_run, as_json, resume=resume)


@app.command()
def reward(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Train a reward model, or a cost model, on the comparisons, and report its held-out quality.

    Losses (reward.loss): bradley-terry, davidson, plackett-luce, cost; rating, from ratings.
    """
    _stage("plaudit.training.reward", "reward", workspace, config, overrides, dry_run, as_json, resume=resume)


@app.command()
def rl(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    algorithm: Annotated[str | None, typer.Option("--algorithm", help="Short for rl.algorithm=NAME.")] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Optimise also for a reward run no better than chance or than length.")
    ] = False,
    resume: Resume = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Optimise the policy for a reward, with a price on departing from where it started.

    Algorithms: reinforce, rloo, grpo, ppo, p3o, ppo-lagrangian, online-dpo, rejection, rejection-then-ppo. The reward
    (rl.reward) is a reward run, function:FILE.py:NAME, judge:MODEL, or a list of several.
    """
    extra = [*(overrides or []), *([f"rl.algorithm={algorithm}"] if algorithm else [])]
    extra += ["rl.anyway=true"] if anyway else []
    _stage("plaudit.training.online", "rl", workspace, config, extra, dry_run, as_json, resume=resume)


@app.command()
def prefer(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    loss: Annotated[str | None, typer.Option("--loss", help="Short for prefer.loss=NAME.")] = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Optimise a policy straight from the comparisons, without a reward model: DPO and its family."""
    extra = [*(overrides or []), *([f"prefer.loss={loss}"] if loss else [])]
    _stage("plaudit.training.preference", "prefer", workspace, config, extra, dry_run, as_json, resume=resume)


class _WithDefault(TyperGroup):
    """A group of commands one of which is meant where none is named."""

    default = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command that is meant where none is."""
        named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else [self.default, *args])


class _PolicyByDefault(_WithDefault):
    """`plaudit evaluate [KEY=VALUE]...` means `plaudit evaluate policy`."""

    default = "policy"


class _ModelByDefault(_WithDefault):
    """`plaudit export RUN FOLDER` means `plaudit export model RUN FOLDER`."""

    default = "model"


evaluate_app = typer.Typer(cls=_PolicyByDefault, help="Measure a policy (the default) or a reward model.")
app.add_typer(evaluate_app, name="evaluate")


@evaluate_app.command("policy")
def evaluate_policy(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Compare a policy with a baseline on held-out prompts: win rate, KL, length, ROUGE-L, perplexity."""
    _stage("plaudit.evaluation.stage", "evaluate", workspace, config, overrides, dry_run, as_json)


@evaluate_app.command("reward")
def evaluate_reward(
    run: RewardArgument,
    comparisons: Annotated[Path, typer.Option("--comparisons", help="JSONL of comparisons or rankings.")],
    head: Annotated[
        str | None, typer.Option("--head", help="Of a model of several criteria: judge all comparisons by this one.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the reliability plot to this SVG file.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Measure a reward model on comparisons: accuracy, calibration, and whether it merely loves length.

    Columns as for `plaudit import --kind comparisons` or `rankings`; RewardBench's files work as they are.
    """
    settings, source = _settings_and_reward(workspace, config, overrides, run)
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
    _show(result, as_json, "\n".join([f"{run} on {comparisons}", *result_lines(shown)]))


study_app = typer.Typer(help="Questions that take many runs to answer.", no_args_is_help=True)
app.add_typer(study_app, name="study")


@study_app.command("reward-scaling")
def reward_scaling(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Train reward models over a grid of data and model sizes, and fit how they get better."""
    where = "plaudit.studies.reward_scaling"
    _stage(where, "reward_scaling", workspace, config, overrides, dry_run, as_json, resume=resume)


@app.command()
def score(
    run: RewardArgument,
    data: Annotated[Path, typer.Option("--data", help="JSONL of prompt + completion, or messages.")],
    output: Annotated[Path | None, typer.Option("--output", help="Where to write the lines with their scores.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Score answers with a reward model: every line again with `score` and `normalised_score`."""
    settings, source = _settings_and_reward(workspace, config, overrides, run)
    if dry_run:
        typer.echo(settings.to_yaml(), nl=False)
        return
    from plaudit.evaluation.scoring_files import score_file

    scored = score_file(source, data, settings, output)
    lines = [json.dumps(row, ensure_ascii=False) for row in scored]
    having = sum(row["score"] is not None for row in scored)
    of_them = "" if having == len(scored) else f", {having} of them with a score"
    text = f"Wrote {len(scored)} lines{of_them} to {output}." if output is not None else "\n".join(lines)
    _show({"scores": scored}, as_json, text)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="An evaluation run.", metavar="[RUN]")] = "latest:evaluate",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Write report.html (one self-contained page) and summary.json for an evaluation and all it came from."""
    from plaudit.reporting.page import report as write_report

    opened = _workspace(workspace)
    page = write_report(opened, opened.run(run, kind="evaluate"))
    _show(_summary(opened), as_json, f"Wrote {page} and {opened.path / 'summary.json'}.")


@app.command()
def chat(
    run: Annotated[str, typer.Argument(help="A run with a policy, a Hugging Face folder, or a hub name.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Ask this one thing and stop.")] = None,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of sampling.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length limit of an answer.")] = 256,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    best_of: Annotated[int, typer.Option(min=1, help="Answer with the best of so many samples, by --reward.")] = 1,
    reward: Annotated[str, typer.Option(help="The reward model that chooses for --best-of.")] = "latest:reward",
    reward_head: Annotated[str | None, typer.Option(help="Of a reward model of several criteria: which.")] = None,
    config: ConfigOption = None,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each turn as a line of JSON.")] = False,
    overrides: Overrides = None,
) -> None:
    """Talk with a policy. An empty line ends the conversation. The settings under `model` apply."""
    from plaudit.config import resolve
    from plaudit.workspace import CONFIG_NAME

    opened = _workspace(workspace) if (workspace / CONFIG_NAME).exists() else None
    settings = opened.config(config, overrides) if opened else resolve(config, overrides=overrides)
    if dry_run:
        typer.echo(settings.to_yaml(), nl=False)
        return
    from plaudit.sampling.chat import converse
    from plaudit.workspace import POLICIES

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


@app.command()
def agreement(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Show how far annotators agree, by criterion: all together, each with the rest, and whether the first side wins.

    Coefficients are 1 for perfect agreement and 0 for what chance would give; intervals are 95 %, by prompts.
    Imported comparisons do not say which side was shown first, and are left out of that.
    The same judgments count as for `plaudit reward`.
    """
    from plaudit.errors import DataError
    from plaudit.judgments import judgments_of, mixture, mixture_lines
    from plaudit.reporting.text import agreement_lines
    from plaudit.statistics.agreement import agreement_report
    from plaudit.store import Store

    opened = _workspace(workspace)
    judgments = judgments_of(opened, None, Store.comparisons)
    judgments.say()
    comparisons = judgments.rows
    imported = {comparison.run for comparison in comparisons if comparison.run.startswith("import-")}
    found = agreement_report(comparisons, order_unknown=imported)
    if not found:
        raise DataError(
            f"{workspace} has no comparisons yet: `plaudit judge`, or `plaudit import FILE --kind comparisons`."
        )
    _show(found, as_json, "\n".join([*mixture_lines(mixture(opened, comparisons)), *agreement_lines(found)]))


@app.command()
def status(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Show what the workspace holds and which runs it has."""
    opened = _workspace(workspace)
    counts, excluded = opened.store.counts(), opened.store.excluded()
    lines = ["  ".join(f"{name}: {number}" for name, number in counts.items())]
    lines += [_excluded_line(excluded), ""] if excluded else [""]
    runs = []
    for run in opened.runs():
        seconds = run.info.get("seconds")
        facts = {"run": run.name, "status": run.status, "seconds": seconds, "parents": run.parents}
        runs.append(facts | {"warnings": run.warnings})
        parents = ", ".join(f"{role}={name}" for role, name in run.parents.items())
        took = f"{seconds:.0f} s" if seconds is not None else ""
        lines.append(f"{run.name:<14} {run.status:<12} {took:>7}  {parents}")
        lines += [f"{'':<14} ! {warning}" for warning in run.warnings]
    damaged = opened.damaged()
    lines += [f"{name:<14} {'damaged':<12} {why}" for name, why in damaged.items()]
    found = {"data": counts, "excluded": excluded, "runs": runs, "damaged": damaged}
    _show(found, as_json, "\n".join(lines if runs or damaged else [*lines, "No runs yet."]))


def _excluded_line(excluded: dict[str, int]) -> str:
    return "Excluded, with what goes with them: " + _listed(excluded) + " (plaudit data list)."


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


export_app = typer.Typer(cls=_ModelByDefault, help="Write a run's model (the default) or the data to a folder.")
app.add_typer(export_app, name="export")


@export_app.command("model")
def export(
    run: Annotated[str, typer.Argument(help="A run with a model, or latest:KIND.")],
    folder: Annotated[Path, typer.Argument(help="Where to put the Hugging Face folder; must not exist.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Copy a run's model to a folder that transformers loads with nothing of Plaudit installed."""
    import shutil

    from plaudit.errors import WorkspaceError
    from plaudit.files import whole_folder
    from plaudit.models.named import check_files
    from plaudit.models.saving import complete_export

    opened = _workspace(workspace)
    found = opened.run(run)
    if not found.model_folder.exists():
        raise WorkspaceError(
            f"run `{found.name}` has no model to export; `sft`, `reward`, `rl` and `prefer` runs have one."
        )
    if folder.exists():
        raise WorkspaceError(f"{folder} exists already; name a folder that does not.")
    check_files(found.model_folder)
    with whole_folder(folder) as partial:
        shutil.copytree(found.model_folder, partial, dirs_exist_ok=True, copy_function=shutil.copyfile)
        complete_export(partial, found.config().model)
    _show({"run": found.name, "folder": str(folder)}, as_json, f"Wrote the model of {found.name} to {folder}.")


@export_app.command("data")
def export_data(
    folder: Annotated[Path, typer.Argument(help="Where to put the files; must not exist.")],
    kind: Annotated[
        str,
        typer.Option(
            help="comparisons, rankings, ratings, labels, demonstrations, prompts, judgments (the whole log of what "
            "people handed in), or everything."
        ),
    ] = "everything",
    format: Annotated[str, typer.Option(help="jsonl, parquet, datasets, or trl (its columns alone).")] = "jsonl",
    snapshot: Annotated[str | None, typer.Option(help="Only what this snapshot holds.")] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Of trl: also files of their own for what is on held-out prompts.")
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Write the data: what stands, in TRL's columns, which `plaudit import` reads back, and the log of judgments.

    manifest.json says by which rule, how many rows, and the SHA-256 of each file. Annotators go by their pseudonyms.
    """
    from plaudit.store.exporting import export_data as write

    manifest = write(
        _workspace(workspace).store.of_snapshot(snapshot), folder, kind=kind, format=format, held_out=held_out
    )
    lines = [f"Wrote {folder}: " + ", ".join(f"{number} {each}" for each, number in manifest["rows"].items()) + "."]
    for each, reasons in manifest["left_out"].items():
        lines += [f"Left out of {each}: {number} {why}." for why, number in reasons.items()]
    if manifest["excluded"]:
        lines.append(_excluded_line(manifest["excluded"]))
    _show(manifest, as_json, "\n".join(lines))


snapshot_app = typer.Typer(help="Fixed sets of judgments, which a run can name as snapshot:NAME.", no_args_is_help=True)
app.add_typer(snapshot_app, name="snapshot")


@snapshot_app.command("make")
def make_snapshot(
    name: Annotated[str, typer.Argument(help="Letters, digits, dots, dashes and underscores.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(help="comparisons, labels or demonstrations; may be given again. All by default."),
    ] = None,
    run: Annotated[list[str] | None, typer.Option(help="Only of this judge run or import; may be given again.")] = None,
    campaign: Annotated[list[str] | None, typer.Option(help="Only of this campaign; may be given again.")] = None,
    criterion: Annotated[list[str] | None, typer.Option(help="Only by this criterion; may be given again.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Keep the judgments and demonstrations that stand now under a name that is never changed."""
    from plaudit.store.snapshots import KINDS
    from plaudit.store.snapshots import make_snapshot as make

    store = _workspace(workspace).store
    made = make(store, name, kinds=kind or KINDS, runs=run, campaigns=campaign, criteria=criterion)
    use = f"Use it with reward.comparisons='[\"snapshot:{name}\"]'."
    _show(made, as_json, f"Made snapshot {name}: {_counted(made)}. {use}")


@snapshot_app.command("list")
def list_snapshots(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Show the snapshots, oldest first."""
    from plaudit.store.snapshots import list_snapshots as listed

    found = listed(_workspace(workspace).store)
    lines = [f"{each['name']:<20} {each['created']}  {_counted(each)}" for each in found]
    _show({"snapshots": found}, as_json, "\n".join(lines or ["No snapshots yet: plaudit snapshot make NAME"]))


@snapshot_app.command("verify")
def verify_snapshot(
    name: Annotated[str, typer.Argument(help="A snapshot.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Check that nothing of a snapshot was changed: its rows, and the messages and texts that they are about."""
    from plaudit.errors import DataError
    from plaudit.store.snapshots import verify_snapshot as verify

    found = verify(_workspace(workspace).store, name)
    _show(found, as_json, f"{name}: {_counted(found)}; " + ("as it was." if found["is_unchanged"] else "CHANGED."))
    if not found["is_unchanged"]:
        changed = " and ".join(found["changed"])
        raise DataError(
            f"the {changed} of snapshot `{name}` are not what they were: rows, prompts or texts were changed from "
            "outside. Restore the database from a copy."
        )


def _counted(snapshot: dict[str, Any]) -> str:
    return ", ".join(f"{facts['count']} {kind}" for kind, facts in snapshot["rows"].items())


@app.command()
def config(overrides: Overrides = None, config: ConfigOption = None) -> None:
    """Print every setting with its default and its meaning."""
    from plaudit.config import describe, resolve

    typer.echo(describe(resolve(config, overrides=overrides)))


@app.command()
def quickstart(
    workspace: Annotated[
        Path | None, typer.Option("--workspace", "-w", help="Workspace folder; the recipe's name by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random choice; the recipe's is 0.")] = None,
    annotate: Annotated[bool, typer.Option("--annotate", help="Judge the first pairs yourself.")] = False,
    recipe: Annotated[
        str, typer.Option(help="Another that ships: rlaif, direct-rlaif, constitutional-ai.")
    ] = "quickstart",
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """The whole loop once, on SmolLM2-135M-Instruct, in about six minutes on two CPU cores."""
    from plaudit.config import recipe_file, resolve
    from plaudit.config.staging import check_recipe

    changes = [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]
    settings = resolve(recipe_file(recipe), overrides=changes)
    if dry_run:
        check_recipe(settings)
        typer.echo(settings.to_yaml(), nl=False)
        return
    from plaudit.collect.terminal import ask_person
    from plaudit.rounds.quickstart import closing_words
    from plaudit.rounds.quickstart import quickstart as run_quickstart

    ask = ask_person if annotate else None
    opened, evaluation = run_quickstart(workspace or Path(recipe), overrides=changes, recipe=recipe, ask=ask)
    summary = _summary(opened)
    _show(summary, as_json, closing_words(opened, evaluation, summary))


@app.command("run")
def run_(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make every run anew.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Run the stages of a recipe (recipe.stages) one after the other; what is complete with its settings is kept.

    Without more: sft, sample, judge, reward, rl, evaluate. recipes/ has others to copy. It writes the
    report where `evaluate` is the last.
    """
    opened = _workspace(workspace)
    settings = opened.config(config, overrides)
    if dry_run:
        from plaudit.config.staging import check_recipe

        check_recipe(settings, opened.complete_kinds())
        typer.echo(settings.to_yaml(), nl=False)
        return
    from plaudit.collect.terminal import ask_person
    from plaudit.reporting.page import report as write_report
    from plaudit.reporting.text import outcome_lines
    from plaudit.rounds.recipes import run_recipe

    runs = run_recipe(opened, settings, ask=ask_person, fresh=fresh)
    found: dict[str, Any] = {"runs": [run.name for run in runs]}
    lines = ["", f"Runs: {', '.join(found['runs'])}"]
    if runs[-1].kind == "evaluate":
        page = write_report(opened, runs[-1])
        found["summary"] = _summary(opened)
        lines += [*outcome_lines(runs[-1], found["summary"]), f"Wrote {page}."]
    _show(found, as_json, "\n".join(lines))


def _summary(workspace: Workspace) -> dict[str, Any]:
    """The figures that the report was written with."""
    from plaudit.files import read_json

    return dict(read_json(workspace.path / "summary.json"))


def _stage(
    module: str,
    function: str,
    folder: Path,
    file: Path | None,
    overrides: list[str] | None,
    dry_run: bool,
    as_json: bool,
    **more: Any,
) -> None:
    """Run a stage function and show its result. The settings are checked before anything heavy is imported."""
    import importlib

    opened = _workspace(folder)
    resumed: str | None = more.get("resume")
    settings: Config | None = None
    if resumed is None:
        settings = opened.config(file, overrides)
    else:
        _refuse_settings_beside(resumed, file, overrides)
    if dry_run:
        shown = settings or opened.begun(str(resumed)).config()
        typer.echo(shown.to_yaml(), nl=False)
        return
    run_stage: Callable[..., Run] = getattr(importlib.import_module(module), function)
    run = run_stage(opened, settings, **{key: value for key, value in more.items() if value is not None})
    from plaudit.reporting.text import result_lines

    warnings = [f"WARNING: {warning}" for warning in run.warnings]
    lines = [f"{run.name}: {run.path}", *result_lines(run.result), *warnings]
    _show({"run": run.name, **run.info}, as_json, "\n".join(lines))


def _refuse_settings_beside(resumed: str, file: Path | None, overrides: list[str] | None) -> None:
    from plaudit.errors import ConfigError

    given = [*(overrides or []), *([f"--config {file}"] if file is not None else [])]
    if given:
        raise ConfigError(
            f"--resume {resumed} goes on with the settings that the run began with, so {', '.join(given)} would be "
            "passed over. Leave it out, or start a new run without --resume."
        )


def _settings_and_reward(folder: Path, file: Path | None, overrides: list[str] | None, run: str) -> tuple[Config, str]:
    """The settings, and where the reward model is; outside of a workspace it is a folder or a hub name."""
    from plaudit.config import resolve
    from plaudit.workspace import CONFIG_NAME

    if not (folder / CONFIG_NAME).exists():
        return resolve(file, overrides=overrides), run
    opened = _workspace(folder)
    return opened.config(file, overrides), opened.model_source(run, kind="reward")


def main() -> None:
    """Entry point: no traceback for a mistake; exit code 2 for one, 130 for Ctrl-C."""
    ending.run(app)


if __name__ == "__main__":
    main()
