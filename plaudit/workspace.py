"""A workspace is a folder: `plaudit.yaml`, the feedback database, and `runs/`, one folder per stage that ran.

my-workspace/
  plaudit.yaml         the settings every stage starts from
  feedback.sqlite      prompts, demonstrations, responses, comparisons
  runs/sft-001/
    run.json           kind, status, seed, parents, data snapshot, versions, times, result
    owner.json         the process that works on it, which holds a lock on this file
    config.yaml        the resolved settings of this run
    metrics.jsonl      one line a step (and the same in tensorboard/)
    model/             a Hugging Face folder
    checkpoint.pt      only while unfinished
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from plaudit.config import Config, renamed, resolve
from plaudit.config.resolve import read_yaml
from plaudit.errors import ConfigError, WorkspaceError, nearest
from plaudit.files import write_json, write_text
from plaudit.ownership import described, living_owner, owned
from plaudit.progress import say, warn
from plaudit.references import LATEST, RUN_KIND, Reference, is_of, parse
from plaudit.stages import RUN, STAGES, Stage
from plaudit.store import Store
from plaudit.timing import now

CONFIG_NAME = "plaudit.yaml"
DATABASE_NAME = "feedback.sqlite"
DATABASE_VARIABLE = "PLAUDIT_DATABASE"
"""Environment variable: goes before `data.database`, so that a password need not stand in a file."""
RUN_LIKE = re.compile(r"(?P<word>[A-Za-z_]+)[-_ ]?(?P<number>\d+)")
"""What somebody may type for a run's name."""
SOURCE_AS_PARENT = re.compile(r"(?P<kind>comparisons(?=_\d)|labels(?=_\d)|demonstrations(?= )).+")
"""Roles in run.json of earlier versions that were no parents."""
STATUSES = ("running", "complete", "failed", "interrupted")
BEFORE: dict[str, Any] = {
    "reward": {"comparisons_per_batch": None},
    "prefer": {"comparisons_per_batch": None},
}
"""Settings that runs of earlier versions do not have: what was done then, where that is not the default now."""
RECORDED_PACKAGES = ("plaudit", "torch", "transformers", "peft", "tokenizers", "numpy", "sqlalchemy")


@dataclass(frozen=True)
class Sources:
    """What a run learnt from, by name: judge runs, imports, campaign:NAME and snapshot:NAME; sorted."""

    comparisons: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """Ratings too."""
    demonstrations: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: dict[str, Any]) -> Sources:
        """Sources from run.json; earlier versions had them among the parents."""
        if "sources" in info:
            return cls(**{kind: tuple(names) for kind, names in info["sources"].items()})
        found: dict[str, list[str]] = {}
        for role, name in info["parents"].items():
            if match := SOURCE_AS_PARENT.fullmatch(role):
                found.setdefault(match["kind"], []).append(name)
        return cls(**{kind: tuple(sorted(names)) for kind, names in found.items()})

    @property
    def by_kind(self) -> dict[str, list[str]]:
        """Kind -> names, where there are any."""
        return {kind: list(names) for kind, names in vars(self).items() if names}

    @property
    def names(self) -> set[str]:
        """All of them."""
        return {name for names in vars(self).values() for name in names}


NO_SOURCES = Sources()


class Run:
    """The folder of one stage that ran, with its lineage.

    `info` is what `run.json` holds; every change is written at once, atomically.
    """

    def __init__(self, path: Path):
        self.path = path
        self.info: dict[str, Any] = _read_info(path / "run.json")
        self._events: Any = None

    @property
    def name(self) -> str:
        """Unique in the workspace, for example `sft-001`."""
        return self.path.name

    @property
    def kind(self) -> str:
        """The stage that made it."""
        return str(self.info["kind"])

    @property
    def number(self) -> int:
        """Number among runs of its kind, in the order in which they were made."""
        return int(self.name.rpartition("-")[2])

    @property
    def status(self) -> str:
        """running, complete, failed or interrupted; interrupted also where the process that ran it is gone."""
        written = str(self.info["status"])
        return "interrupted" if written == "running" and living_owner(self.path) is None else written

    @property
    def result(self) -> dict[str, Any]:
        """What the stage found; empty until it is complete."""
        return dict(self.info.get("result", {}))

    @property
    def model_folder(self) -> Path:
        """Where the run keeps its model, if it makes one."""
        return self.path / "model"

    @property
    def parents(self) -> dict[str, str]:
        """Role -> the run or model that this one was made from."""
        return {role: name for role, name in self.info["parents"].items() if not SOURCE_AS_PARENT.fullmatch(role)}

    @property
    def sources(self) -> Sources:
        """What it learnt from."""
        return Sources.of(self.info)

    def config(self) -> Config:
        """The resolved settings it ran with; where it knew no such setting yet, what was done then."""
        kept, _ = renamed.translated(read_yaml(self.path / "config.yaml"))
        return resolve(values=kept, below=BEFORE)

    def update(self, **facts: Any) -> None:
        """Add facts to run.json."""
        updated = {**self.info, **facts}
        write_json(self.path / "run.json", updated)
        self.info = updated

    def warn(self, text: str) -> None:
        """Say what should not be missed, once, and keep it in run.json under `warnings`."""
        if text not in self.warnings:
            warn(text)
            self.update(warnings=[*self.warnings, text])

    @property
    def warnings(self) -> list[str]:
        """What was said in warning."""
        return list(self.info.get("warnings", []))

    def check_data(self, data: dict[str, Any]) -> None:
        """Raise WorkspaceError unless the data that a run goes on with is the data it began with."""
        began = self.info["data"]
        if began == data:
            return
        counts = [", ".join(f"{facts['count']} {name}" for name, facts in side.items()) for side in (began, data)]
        raise WorkspaceError(
            f"run `{self.name}` began with {counts[0]}; the workspace now has others ({counts[1]}), so going on would "
            "not be the same run. Start a new one, or restore the data."
        )

    def log(self, step: int, **numbers: float | None) -> None:
        """Append one step's metrics to metrics.jsonl and to TensorBoard. A metric without a value is left out."""
        present = {key: value for key, value in numbers.items() if value is not None}
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **present}) + "\n")
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path / "tensorboard"))
        for key, value in present.items():
            self._events.add_scalar(f"{self.kind}/{key}", value, step)

    def metrics(self) -> list[dict[str, float]]:
        """The logged steps, in order; what a crash or a power cut left at the end is not one.

        Raises WorkspaceError for a damaged line before others that are whole.
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]
        rows = [_read_step(line) for line in lines]
        whole = next((count for count in range(len(rows), 0, -1) if rows[count - 1] is not None), 0)
        for number, row in enumerate(rows[:whole], start=1):
            if row is None:
                raise WorkspaceError(
                    f"{path}, line {number} is damaged. Restore the file, or remove the line; what it said is then "
                    "missing from the run's curves, and nothing else."
                )
        return [row for row in rows[:whole] if row is not None]

    def drop_metrics_from(self, step: int) -> None:
        """Forget steps that a resumed run will log again."""
        kept = [row for row in self.metrics() if row["step"] < step]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))

    def close(self) -> None:
        """Flush what is buffered."""
        if self._events is not None:
            self._events.close()
            self._events = None


class Workspace:
    """The folder in which stages meet."""

    def __init__(self, path: Path | str = "."):
        self.path = Path(path)
        if not (self.path / CONFIG_NAME).exists():
            raise WorkspaceError(
                f"{self.path.absolute()} is not a workspace (it has no {CONFIG_NAME}).\n"
                f"Make one with `plaudit init {path}`, or name another with --workspace DIR."
            )
        self._rename_settings()
        where = _database(self.path, self.config())
        if isinstance(where, Path) and (not where.exists() or where.stat().st_size == 0):
            self._refuse_to_lose(where)
        self.store = Store.open(where)

    def _rename_settings(self) -> None:
        """Write settings of an earlier version under the names of this one, and say so; the old file is kept."""
        path = self.path / CONFIG_NAME
        settings, changes = renamed.translated(read_yaml(path))
        if not changes:
            return
        kept = path.with_suffix(".old.yaml")
        with suppress(OSError):  # a workspace that may not be written to is read all the same
            kept.write_bytes(path.read_bytes())
            write_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
            say(f"{path}: settings have new names ({', '.join(changes)}). The file as it was is {kept.name}.")

    def _refuse_to_lose(self, database: Path) -> None:
        """A database that was lost is not one that was not made yet."""
        what = "missing" if not database.exists() else "empty"
        if count := len(self._run_folders()):
            runs = f"{count} run{'s' if count > 1 else ''}"
            raise WorkspaceError(
                f"{database} is {what}, but {self.path} has {runs}, which were made from what it held. Restore it from "
                "a copy (with its -wal file, if there is one). To begin with nothing, make another workspace."
            )
        say(f"{database} was not there: an empty one was made.")

    @classmethod
    def create(cls, path: Path | str, *, config: Config | None = None) -> Workspace:
        """Make the folder, or raise WorkspaceError when one is there already."""
        folder = Path(path)
        if (folder / CONFIG_NAME).exists():
            raise WorkspaceError(f"{folder} is a workspace already; nothing was changed.")
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        settings = config or Config()
        Store.open(_database(folder, settings))
        write_text(folder / CONFIG_NAME, settings.to_yaml())
        return cls(folder)

    def config(self, file: Path | None = None, overrides: list[str] | None = None) -> Config:
        """The workspace's settings, with a file and dotted overrides on top."""
        kept, _ = renamed.translated(read_yaml(self.path / CONFIG_NAME))
        return resolve(file, overrides=overrides, below=kept)

    def runs(self, kind: str | None = None) -> list[Run]:
        """Every run that can be read, in the order in which they were made, whatever the clock said; see `damaged`."""
        runs = []
        for folder in self._run_folders(kind):
            try:
                runs.append(Run(folder))
            except WorkspaceError as error:
                _say_once(f"{error} It is passed over.")
        if kind is not None:
            return sorted((run for run in runs if run.kind == kind), key=lambda run: run.number)
        return sorted(runs, key=lambda run: (run.info.get("order", 0), run.info["created"], run.kind, run.number))

    def damaged(self) -> dict[str, str]:
        """Run -> what is wrong, of those whose run.json cannot be read."""
        found = {}
        for folder in self._run_folders():
            try:
                Run(folder)
            except WorkspaceError as error:
                found[folder.name] = str(error)
        return found

    def _run_folders(self, kind: str | None = None) -> list[Path]:
        found = (self.path / "runs").glob(f"{kind or '*'}-[0-9]*")
        return sorted(p for p in found if RUN.fullmatch(p.name) and (p / "run.json").exists())

    def complete_kinds(self) -> set[str]:
        """Kinds of which there is a complete run."""
        return {run.kind for run in self.runs() if run.status == "complete"}

    def run(self, reference: str, *, kind: str | Collection[str] | None = None, setting: str | None = None) -> Run:
        """The complete run named `reference`, or the newest complete one for `latest:KIND`.

        kind      what it must be of
        setting   where it was named, for messages

        Raises WorkspaceError when there is none, it is incomplete, or it is of another kind.
        """
        kinds = (kind,) if isinstance(kind, str) else kind
        found = self._latest(reference, setting) if is_of(LATEST, reference) else self._named(reference, setting)
        if kinds is not None and found.kind not in kinds:
            raise WorkspaceError(
                f"{_of(setting)}run `{found.name}` is of kind `{found.kind}`, but {_one_of(kinds)} run is needed here."
            )
        return found

    def _latest(self, reference: str, setting: str | None) -> Run:
        wanted = parse(reference).name
        if wanted not in STAGES:
            raise WorkspaceError(
                f"{_of(setting)}`{reference}`: there are no `{wanted}` runs.{nearest(wanted, STAGES)} "
                f"Kinds: {', '.join(STAGES)}."
            )
        complete = [run for run in self.runs(wanted) if run.status == "complete"]
        if not complete:
            another = f"another by {setting}=RUN" if setting else "another"
            raise WorkspaceError(
                f"{_of(setting)}{self.path} has no complete `{wanted}` run yet. "
                f"Run `plaudit {STAGES[wanted].typed}` first, or name {another}."
            )
        return complete[-1]

    def _named(self, reference: str, setting: str | None) -> Run:
        if (self.path / "runs" / reference / "run.json").exists() and RUN.fullmatch(reference):
            found = Run(self.path / "runs" / reference)
        else:
            known = [run.name for run in self.runs()]
            raise WorkspaceError(
                f"{_of(setting)}{self.path} has no run `{reference}`.{nearest(reference, known)} "
                f"See `plaudit status --workspace {self.path}`."
            )
        status = found.status
        if status == "running":
            owner = described(living_owner(found.path))
            raise WorkspaceError(f"{_of(setting)}run `{reference}` is being worked on by {owner}. Wait for it to end.")
        if status != "complete":
            raise WorkspaceError(f"{_of(setting)}run `{reference}` is {status}. {self.going_on(found)}")
        return found

    def going_on(self, run: Run) -> str:
        """What to do with a run that is not complete, as a sentence."""
        where = "" if self.path == Path() else f" --workspace {self.path}"
        if STAGES[run.kind].is_resumable:
            return f"Go on with it: `plaudit {STAGES[run.kind].typed} --resume {run.name}{where}`."
        return f"It cannot be resumed: run `plaudit {STAGES[run.kind].typed}{where}` again."

    def is_run(self, reference: str) -> bool:
        """Whether the text names a run, there or not: `latest:KIND`, or a stage's name with a number."""
        return parse(reference).kind in (LATEST, RUN_KIND)

    def model_source(
        self, reference: str, *, kind: str | Collection[str] | None = None, setting: str | None = None
    ) -> str:
        """The model folder or hub name behind a reference.

        reference   `latest:KIND`, a run's name, a Hugging Face folder, the built-in model, or a hub name
        kind        the kind, or one of the kinds, that a run must be of, when it is one
        setting     where it was named, for messages

        Raises WorkspaceError when it names a run that is missing, incomplete, of another kind or without a model, and
        for what can only be a mistyped run's name.
        """
        if not self.is_run(reference):
            self._refuse_mistyped(reference, setting)
            return reference
        run = self.run(reference, kind=kind, setting=setting)
        if not run.model_folder.exists():
            raise WorkspaceError(
                f"{_of(setting)}run `{run.name}` has no model; `sft`, `reward`, `rl` and `prefer` runs have one."
            )
        return str(run.model_folder)

    def _refuse_mistyped(self, reference: str, setting: str | None) -> None:
        """Names that look like those of runs are not asked for elsewhere."""
        if Path(reference).expanduser().exists():
            return
        word, _, rest = reference.partition(":")
        if rest and "/" not in word and "\\" not in word:
            raise WorkspaceError(
                f"{_of(setting)}`{reference}` is neither a run nor a model: write latest:KIND, a run's name, a folder "
                f"or a hub name.{nearest(reference, [Reference(LATEST, kind).text for kind in STAGES])}"
            )
        match = RUN_LIKE.fullmatch(reference)
        if match and (len(match["number"]) >= 3 or nearest(match["word"].lower(), STAGES, cutoff=0.6)):
            known = [run.name for run in self.runs()]
            raise WorkspaceError(
                f"{_of(setting)}{self.path} has no run `{reference}`, and no folder is called so."
                f"{nearest(reference.lower(), known)} See `plaudit status --workspace {self.path}`."
            )

    def lineage_name(self, reference: str, *, setting: str | None = None) -> str:
        """The run's own name for `latest:KIND`; any other reference as it is."""
        return self.run(reference, setting=setting).name if self.is_run(reference) else reference

    def start_of(self, policy: str) -> str | None:
        """What a run's policy started from, of a policy made in two parts the first one's start; None of no run."""
        if not self.is_run(policy):
            return None
        run = self.run(policy)
        start = run.parents.get("policy") or run.parents.get("model")
        while start is not None and run.kind == "rl" and self.is_run(start):
            first = self._named(start, None)
            if first.kind != "rl" or first.config().rl.needs.then is None:
                break
            run, start = first, first.parents["policy"]
        return start

    @contextmanager
    def new_run(
        self,
        kind: str,
        config: Config,
        *,
        parents: dict[str, str],
        sources: Sources = NO_SOURCES,
        data: dict[str, Any] | None = None,
    ) -> Iterator[Run]:
        """A new run folder; complete when the block ends, else marked failed or interrupted (and kept).

        Says what of the workspace's data is excluded, and keeps it in run.json.
        """
        excluded = self.store.excluded()
        if excluded:
            numbers = ", ".join(f"{number} {name}" for name, number in excluded.items())
            say(f"Passed over, being excluded, with what goes with them: {numbers} (plaudit data list).")
        path = self._make_folder(kind)
        with (
            owned(path, f"run `{path.name}`"),
            self._recording(self._begin(path, kind, config, parents, sources, data or {})) as run,
        ):
            if excluded:
                run.update(excluded=excluded)
            yield run

    @contextmanager
    def resume_run(self, name: str, kind: str, given: Config | None = None) -> Iterator[Run]:
        """An interrupted or failed run, to be continued with the settings it began with.

        given   settings that the caller has been handed beside the name, which there must not be

        Raises ConfigError for those, WorkspaceError for a run that is missing, complete, of another kind, or that
        another process works on.
        """
        if given is not None:
            raise ConfigError(f"run `{name}` resumes with the settings it began with; give no others.")
        path = self.begun(name).path
        with owned(path, f"run `{name}`"):
            run = Run(path)
            if run.kind != kind:
                raise WorkspaceError(f"run `{name}` is of kind `{run.kind}`. {self.going_on(run)}")
            if run.info["status"] == "complete":
                raise WorkspaceError(f"run `{name}` is complete; there is nothing to resume.")
            run.update(status="running", resumed=[*run.info.get("resumed", []), now()])
            say(f"Resuming {run.name}.")
            with self._recording(run):
                yield run

    def begun(self, name: str) -> Run:
        """The run of that name, whatever has become of it. Raises WorkspaceError when there is none."""
        path = self.path / "runs" / name
        if not RUN.fullmatch(name) or not (path / "run.json").exists():
            known = [run.name for run in self.runs()]
            raise WorkspaceError(
                f"{self.path} has no run `{name}` to resume.{nearest(name, known)} "
                f"See `plaudit status --workspace {self.path}`."
            )
        return Run(path)

    @contextmanager
    def _recording(self, run: Run) -> Iterator[Run]:
        began = time.monotonic()
        earlier = float(run.info.get("seconds", 0.0))
        status = "failed"
        try:
            yield run
            status = "complete"
        except KeyboardInterrupt as stop:
            status = "interrupted"
            stop.add_note(self.going_on(run))
            raise
        finally:
            run.close()
            seconds = round(earlier + time.monotonic() - began, 2)
            run.update(status=status, ended=now(), seconds=seconds, peak_memory_gb=peak_memory_gb())

    def find_run(
        self,
        kind: str,
        config: Config,
        *,
        parents: dict[str, str],
        sources: Sources = NO_SOURCES,
        data: dict[str, Any] | None = None,
    ) -> Run | None:
        """The newest run with the settings that its stage reads, these parents, sources and data, if there is one.

        One that is not complete counts where its stage can be resumed.
        """
        stage = STAGES[kind]
        for run in reversed(self.runs(kind)):
            counts = run.status == "complete" or stage.is_resumable
            made_from = (run.parents, run.sources, run.info["data"])
            if counts and made_from == (parents, sources, data or {}) and _same(stage, run, config):
                return run
        return None

    def _make_folder(self, kind: str) -> Path:
        folder = self.path / "runs"
        folder.mkdir(exist_ok=True)
        numbers = [int(m.group(1)) for p in folder.iterdir() if (m := re.fullmatch(rf"{kind}-(\d+)", p.name))]
        number = max(numbers, default=0)
        while True:  # two processes may ask for the same number: mkdir decides
            number += 1
            path = folder / f"{kind}-{number:03d}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path

    def _begin(
        self, path: Path, kind: str, config: Config, parents: dict[str, str], sources: Sources, data: dict[str, Any]
    ) -> Run:
        order = 1 + max((int(run.info.get("order", 0)) for run in self.runs()), default=0)
        write_text(path / "config.yaml", config.to_yaml())
        write_json(
            path / "run.json",
            {
                "kind": kind,
                "status": "running",
                "created": now(),
                "order": order,
                "seed": config.seed,
                "parents": parents,
                "sources": sources.by_kind,
                "data": data,
                "versions": versions(),
            },
        )
        return Run(path)


def _of(setting: str | None) -> str:
    """How a message begins that is about a setting."""
    return f"`{setting}`: " if setting else ""


def _same(stage: Stage, run: Run, config: Config) -> bool:
    """Whether the settings that a stage reads are the same."""
    then, now = _without_threads(run.config()), _without_threads(config)
    return all(getattr(then, name) == getattr(now, name) for name in stage.reads)


def _without_threads(config: Config) -> Config:
    """On how many threads something was computed does not make it another thing."""
    return config.model_copy(update={"model": config.model.model_copy(update={"threads": "auto"})})


def _one_of(kinds: Collection[str]) -> str:
    """`a `sft`, `rl` or `prefer``."""
    *first, last = (f"`{kind}`" for kind in kinds)
    return f"a {', '.join(first)} or {last}" if first else f"a {last}"


@cache
def _say_once(text: str) -> None:
    say(text)


def _database(folder: Path, config: Config) -> Path | str:
    """Where the feedback of a workspace is: a PostgreSQL database by its URL, or a file of its own."""
    url = os.environ.get(DATABASE_VARIABLE) or config.data.database
    if url and "://" not in url:
        where = DATABASE_VARIABLE if os.environ.get(DATABASE_VARIABLE) else "data.database"
        raise WorkspaceError(f"`{where}` must be an address such as postgresql://user@host/name, not {url!r}.")
    return url or folder / DATABASE_NAME


def init(path: Path | str, *, config: Config | None = None) -> Workspace:
    """Make a workspace folder and return it. Raises WorkspaceError when there is one already."""
    return Workspace.create(path, config=config)


def versions() -> dict[str, str]:
    """Versions of Python, the platform and every package whose version can change a number."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_gb() -> float:
    """The most memory this process has held so far, in units of 1e9 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 3)


def _read_step(line: bytes) -> dict[str, float] | None:
    """A line of metrics.jsonl; None for one that is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _read_info(path: Path) -> dict[str, Any]:
    """What run.json says. Raises WorkspaceError when it is missing, damaged, or not of a run."""
    mend = f"Restore it, or move {path.parent} out of the workspace."
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkspaceError(f"{path} is missing: {path.parent} is not a run folder.") from None
    except (ValueError, RecursionError) as error:
        raise WorkspaceError(f"{path} is damaged, it is not valid JSON ({error}). {mend}") from None
    kinds = {"kind": str, "status": str, "created": str, "parents": dict, "data": dict}
    wrong = [name for name, kind in kinds.items() if not (isinstance(info, dict) and isinstance(info.get(name), kind))]
    if not wrong and not isinstance(info.get("order", 0), int):
        wrong = ["order"]
    if wrong or info["status"] not in STATUSES or not path.parent.name.startswith(f"{info['kind']}-"):
        missing = f"`{wrong[0]}` is missing or wrong" if wrong else "it is not of this run"
        raise WorkspaceError(f"{path} is damaged: {missing}. {mend}")
    return info
