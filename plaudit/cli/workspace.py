"""Commands of the workspace: make it, fill it, look at it, take data and models out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from plaudit.cli.options import (
    DEFAULT_WORKSPACE,
    ConfigFile,
    DryRun,
    Json,
    Overrides,
    WithDefault,
    WorkspaceOption,
    open_workspace,
    show,
)


class _ModelByDefault(WithDefault):
    """`plaudit export RUN FOLDER` means `plaudit export model RUN FOLDER`."""

    default = "model"


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    config: ConfigFile = None,
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
    show(
        {"workspace": str(workspace.path)},
        as_json,
        f"Made {folder}. Next: plaudit import FILE --kind prompts --workspace {folder}",
    )


def import_(
    file: Annotated[Path, typer.Argument(help="JSONL, JSON, Parquet (also gzipped JSON), or a saved datasets folder.")],
    kind: Annotated[
        str, typer.Option("--kind", help="prompts, demonstrations, comparisons, rankings, ratings, labels.")
    ],
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="Format of the rows, such as hh or arena; recognised by the first row unless named."
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option("--by", help="Who judged, where the rows do not say: people, models or simulated (annotators)."),
    ] = "people",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    config: ConfigFile = None,
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
    opened = open_workspace(workspace)
    settings = opened.config(config, overrides)
    if dry_run:
        typer.echo(settings.to_yaml(), nl=False)
        return
    share = settings.data.held_out_share
    judges = next((b for b in JUDGES if b == by), None)
    if judges is None:
        raise DataError(f"--by {by}: unknown. Known: {', '.join(JUDGES)}.{nearest(by, JUDGES)}")
    imported = import_file(opened.store, file, kind=known, held_out_share=share, format=format, by=judges)
    show(vars(imported), as_json, "\n".join(imported_lines(imported)))


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

    opened = open_workspace(workspace)
    judgments = judgments_of(opened, None, Store.comparisons)
    judgments.say()
    comparisons = judgments.rows
    imported = {comparison.run for comparison in comparisons if comparison.run.startswith("import-")}
    found = agreement_report(comparisons, order_unknown=imported)
    if not found:
        raise DataError(
            f"{workspace} has no comparisons yet: `plaudit judge`, or `plaudit import FILE --kind comparisons`."
        )
    show(found, as_json, "\n".join([*mixture_lines(mixture(opened, comparisons)), *agreement_lines(found)]))


def status(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Show what the workspace holds and which runs it has."""
    opened = open_workspace(workspace)
    counts, excluded = opened.store.counts(), opened.store.excluded()
    lines = ["  ".join(f"{name}: {number}" for name, number in counts.items())]
    lines += [_excluded_line(excluded), ""] if excluded else [""]
    runs = []
    for run in opened.runs():
        seconds = run.info.get("seconds")
        facts = {"run": run.name, "status": run.status, "seconds": seconds, "parents": run.parents}
        facts["sources"] = run.sources.by_kind
        runs.append(facts | {"warnings": run.warnings})
        made_from = run.parents | {kind: "+".join(names) for kind, names in run.sources.by_kind.items()}
        parents = ", ".join(f"{role}={name}" for role, name in made_from.items())
        took = f"{seconds:.0f} s" if seconds is not None else ""
        lines.append(f"{run.name:<14} {run.status:<12} {took:>7}  {parents}")
        lines += [f"{'':<14} ! {warning}" for warning in run.warnings]
    damaged = opened.damaged()
    lines += [f"{name:<14} {'damaged':<12} {why}" for name, why in damaged.items()]
    found = {"data": counts, "excluded": excluded, "runs": runs, "damaged": damaged}
    show(found, as_json, "\n".join(lines if runs or damaged else [*lines, "No runs yet."]))


def _excluded_line(excluded: dict[str, int]) -> str:
    return "Excluded, with what goes with them: " + _listed(excluded) + " (plaudit data list)."


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


export_app = typer.Typer(cls=_ModelByDefault, help="Write a run's model (the default) or the data to a folder.")


@export_app.command("model")
def export(
    run: Annotated[str, typer.Argument(help="A run with a model, or latest:KIND.")],
    folder: Annotated[Path, typer.Argument(help="Hugging Face folder to write; must not exist.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Copy a run's model to a folder that transformers loads with nothing of Plaudit installed."""
    import shutil

    from plaudit.errors import WorkspaceError
    from plaudit.files import whole_folder
    from plaudit.models.named import check_files
    from plaudit.models.saving import complete_export

    opened = open_workspace(workspace)
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
    show({"run": found.name, "folder": str(folder)}, as_json, f"Wrote the model of {found.name} to {folder}.")


@export_app.command("data")
def export_data(
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    kind: Annotated[
        str,
        typer.Option(
            help="comparisons, rankings, ratings, labels, demonstrations, prompts, judgments "
            "(the whole log of what people submitted), or everything."
        ),
    ] = "everything",
    format: Annotated[str, typer.Option(help="jsonl, parquet, datasets, or trl (its columns alone).")] = "jsonl",
    snapshot: Annotated[str | None, typer.Option(help="Only what this snapshot holds.")] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="With --format trl: also write held-out prompts, to files of their own.")
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Write the data: what stands, in TRL's columns, which `plaudit import` reads back, and the log of judgments.

    manifest.json says by which rule, how many rows, and the SHA-256 of each file. Annotators go by their pseudonyms.
    """
    from plaudit.store.exporting import export_data as write

    manifest = write(
        open_workspace(workspace).store.of_snapshot(snapshot), folder, kind=kind, format=format, held_out=held_out
    )
    lines = [f"Wrote {folder}: " + ", ".join(f"{number} {each}" for each, number in manifest["rows"].items()) + "."]
    for each, reasons in manifest["left_out"].items():
        lines += [f"Left out of {each}: {number} {why}." for why, number in reasons.items()]
    if manifest["excluded"]:
        lines.append(_excluded_line(manifest["excluded"]))
    show(manifest, as_json, "\n".join(lines))


snapshot_app = typer.Typer(help="Fixed sets of judgments, which a run can name as snapshot:NAME.", no_args_is_help=True)


@snapshot_app.command("make")
def make_snapshot(
    name: Annotated[str, typer.Argument(help="Letters, digits, dots, dashes and underscores.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(help="comparisons, labels or demonstrations; can be repeated. All by default."),
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option(help="Only judgments of this judge run or import; can be repeated.")
    ] = None,
    campaign: Annotated[
        list[str] | None, typer.Option(help="Only judgments of this campaign; can be repeated.")
    ] = None,
    criterion: Annotated[
        list[str] | None, typer.Option(help="Only judgments by this criterion; can be repeated.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Keep the judgments and demonstrations that stand now under a name that is never changed."""
    from plaudit.store.snapshots import KINDS
    from plaudit.store.snapshots import make_snapshot as make

    store = open_workspace(workspace).store
    made = make(store, name, kinds=kind or KINDS, runs=run, campaigns=campaign, criteria=criterion)
    use = f"Use it with reward.comparisons='[\"snapshot:{name}\"]'."
    show(made, as_json, f"Made snapshot {name}: {_counted(made)}. {use}")


@snapshot_app.command("list")
def list_snapshots(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Show the snapshots, oldest first."""
    from plaudit.store.snapshots import list_snapshots as listed

    found = listed(open_workspace(workspace).store)
    lines = [f"{each['name']:<20} {each['created']}  {_counted(each)}" for each in found]
    show({"snapshots": found}, as_json, "\n".join(lines or ["No snapshots yet: plaudit snapshot make NAME"]))


@snapshot_app.command("verify")
def verify_snapshot(
    name: Annotated[str, typer.Argument(help="A snapshot.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Check that nothing of a snapshot was changed: its rows, and the messages and texts that they are about."""
    from plaudit.errors import DataError
    from plaudit.store.snapshots import verify_snapshot as verify

    found = verify(open_workspace(workspace).store, name)
    show(found, as_json, f"{name}: {_counted(found)}; " + ("as it was." if found["is_unchanged"] else "CHANGED."))
    if not found["is_unchanged"]:
        changed = " and ".join(found["changed"])
        raise DataError(
            f"the {changed} of snapshot `{name}` are not what they were: rows, prompts or texts were changed from "
            "outside. Restore the database from a copy."
        )


def _counted(snapshot: dict[str, Any]) -> str:
    return ", ".join(f"{facts['count']} {kind}" for kind, facts in snapshot["rows"].items())


def config(overrides: Overrides = None, config: ConfigFile = None) -> None:
    """Print every setting with its default and its meaning."""
    from plaudit.config import describe, resolve

    typer.echo(describe(resolve(config, overrides=overrides)))
