"""A workspace is a folder: `plaudit.yaml`, the feedback database, and `runs/`, one folder per stage that ran.

my-workspace/
  plaudit.yaml         the settings every stage starts from
  feedback.sqlite      prompts, demonstrations, responses, comparisons
  runs/sft-001/
    run.json           kind, status, seed, parents, data snapshot, versions, times, result
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
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from plaudit.config import Config, resolve
from plaudit.errors import WorkspaceError, nearest
from plaudit.files import write_json, write_text
from plaudit.records import RUN
from plaudit.store import Store
from plaudit.timing import now

CONFIG_NAME = "plaudit.yaml"
DATABASE_NAME = "feedback.sqlite"
DATABASE_VARIABLE = "PLAUDIT_DATABASE"
"""Of the environment: goes before `data.database`, so that a password need not stand in a file."""
COMMANDS = {"study": "study reward-scaling"}
"""Of the kinds that are not called by their own name."""
RECORDED_PACKAGES = ("plaudit", "torch", "transformers", "peft", "tokenizers", "numpy", "sqlalchemy")


class Run:
    """The folder of one stage that ran, with its lineage.

    `info` is what `run.json` holds; every change is written at once, atomically.
    """

    def __init__(self, path: Path):
        self.path = path
        self.info: dict[str, Any] = _read_json(path / "run.json")
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
    def status(self) -> str:
        """running, complete, failed or interrupted."""
        return str(self.info["status"])

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
        return dict(self.info["parents"])

    def config(self) -> Config:
        """The resolved settings it ran with."""
        return resolve(self.path / "config.yaml")

    def update(self, **facts: Any) -> None:
        """Add facts to run.json."""
        updated = {**self.info, **facts}
        write_json(self.path / "run.json", updated)
        self.info = updated

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
        """The logged steps, in order; a last line that was cut off by a crash is not one."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

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
        self.store = Store.open(_database(self.path, self.config()))

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
        return resolve(self.path / CONFIG_NAME, file, overrides=overrides)

    def runs(self, kind: str | None = None) -> list[Run]:
        """Every run, oldest first."""
        folders = [p for p in (self.path / "runs").glob("*-[0-9]*") if (p / "run.json").exists()]
        runs = sorted((Run(folder) for folder in folders), key=lambda run: (run.info["created"], run.name))
        return [run for run in runs if kind is None or run.kind == kind]

    def complete_kinds(self) -> set[str]:
        """Kinds of which there is a complete run."""
        return {run.kind for run in self.runs() if run.status == "complete"}

    def run(self, reference: str, *, kind: str | None = None) -> Run:
        """The complete run named `reference`, or the newest complete one for `latest:KIND`.

        Raises WorkspaceError when there is none, it is incomplete, or it is of another kind.
        """
        if reference.startswith("latest:"):
            wanted = reference.removeprefix("latest:")
            complete = [run for run in self.runs(wanted) if run.status == "complete"]
            if not complete:
                raise WorkspaceError(
                    f"{self.path} has no complete `{wanted}` run yet. Run `plaudit {wanted}` first, or name another."
                )
            found = complete[-1]
        else:
            known = {run.name: run for run in self.runs()}
            if reference not in known:
                raise WorkspaceError(
                    f"{self.path} has no run `{reference}`.{nearest(reference, known)} "
                    f"See `plaudit status --workspace {self.path}`."
                )
            found = known[reference]
            if found.status != "complete":
                how = f"plaudit {command(found.kind)} --resume {reference}"
                raise WorkspaceError(f"run `{reference}` is {found.status}. Finish it with `{how}`.")
        if kind is not None and found.kind != kind:
            raise WorkspaceError(f"run `{found.name}` is of kind `{found.kind}`, but a `{kind}` run is needed here.")
        return found

    def is_run(self, reference: str) -> bool:
        """Whether the text names a run, there or not: `latest:KIND`, or a stage's name with a number."""
        return reference.startswith("latest:") or RUN.fullmatch(reference) is not None

    def model_source(self, reference: str, *, kind: str | None = None) -> str:
        """The model folder or hub name behind a reference.

        reference   `latest:KIND`, a run's name, a Hugging Face folder, the built-in model, or a hub name
        kind        the kind that a run must be of, when it is one

        Raises WorkspaceError when it names a run that is missing, incomplete, of another kind or without a model.
        """
        if not self.is_run(reference):
            return reference
        run = self.run(reference, kind=kind)
        if not run.model_folder.exists():
            raise WorkspaceError(f"run `{run.name}` has no model; `sft`, `reward`, `rl` and `prefer` runs have one.")
        return str(run.model_folder)

    def lineage_name(self, reference: str) -> str:
        """The run's own name for `latest:KIND`; any other reference as it is."""
        return self.run(reference).name if self.is_run(reference) else reference

    @contextmanager
    def new_run(
        self, kind: str, config: Config, *, parents: dict[str, str], data: dict[str, Any] | None = None
    ) -> Iterator[Run]:
        """A new run folder; complete when the block ends, else marked failed or interrupted (and kept)."""
        with self._recording(self._make_run(kind, config, parents, data or {})) as run:
            yield run

    @contextmanager
    def resume_run(self, name: str, kind: str) -> Iterator[Run]:
        """An interrupted or failed run, to be continued with the settings it began with."""
        path = self.path / "runs" / name
        if not (path / "run.json").exists():
            raise WorkspaceError(f"{self.path} has no run `{name}` to resume. See `plaudit status`.")
        run = Run(path)
        if run.kind != kind:
            raise WorkspaceError(f"run `{name}` is of kind `{run.kind}`; resume it with `plaudit {command(run.kind)}`.")
        if run.status == "complete":
            raise WorkspaceError(f"run `{name}` is complete; there is nothing to resume.")
        run.update(status="running", resumed=[*run.info.get("resumed", []), now()])
        with self._recording(run):
            yield run

    @contextmanager
    def _recording(self, run: Run) -> Iterator[Run]:
        began = time.monotonic()
        earlier = float(run.info.get("seconds", 0.0))
        status = "failed"
        try:
            yield run
            status = "complete"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            run.close()
            seconds = round(earlier + time.monotonic() - began, 2)
            run.update(status=status, ended=now(), seconds=seconds, peak_memory_gb=peak_memory_gb())

    def _make_run(self, kind: str, config: Config, parents: dict[str, str], data: dict[str, Any]) -> Run:
        folder = self.path / "runs"
        folder.mkdir(exist_ok=True)
        numbers = [int(m.group(1)) for p in folder.iterdir() if (m := re.fullmatch(rf"{kind}-(\d+)", p.name))]
        number = max(numbers, default=0)
        while True:  # two processes may ask for the same number: mkdir decides
            number += 1
            path = folder / f"{kind}-{number:03d}"
            try:
                path.mkdir()
                break
            except FileExistsError:
                continue
        write_text(path / "config.yaml", config.to_yaml())
        write_json(
            path / "run.json",
            {
                "kind": kind,
                "status": "running",
                "created": now(),
                "seed": config.seed,
                "parents": parents,
                "data": data,
                "versions": versions(),
            },
        )
        return Run(path)


def _database(folder: Path, config: Config) -> Path | str:
    """Where the feedback of a workspace is: a PostgreSQL database by its URL, or a file of its own."""
    url = os.environ.get(DATABASE_VARIABLE) or config.data.database
    if url and "://" not in url:
        where = DATABASE_VARIABLE if os.environ.get(DATABASE_VARIABLE) else "data.database"
        raise WorkspaceError(f"`{where}` must be an address such as postgresql://user@host/name, not {url!r}.")
    return url or folder / DATABASE_NAME


def command(kind: str) -> str:
    """What to type after `plaudit` for a run of this kind."""
    return COMMANDS.get(kind, kind)


def init(path: Path | str, *, config: Config | None = None) -> Workspace:
    """Make a workspace folder and return it. Raises WorkspaceError when there is one already."""
    return Workspace.create(path, config=config)


def versions() -> dict[str, str]:
    """Of Python, the platform and every package whose version can change a number."""
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise WorkspaceError(f"{path} is missing: {path.parent} is not a run folder.") from None
    except json.JSONDecodeError as error:
        raise WorkspaceError(f"{path} is not valid JSON ({error}); restore it, or move the folder away.") from None
