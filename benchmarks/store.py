"""How fast a large store takes in and gives out comparisons, and in how much memory, on SQLite and PostgreSQL.

    python benchmarks/store.py --rows 1500000            # writes benchmarks/store.json

Makes a JSONL file of comparisons (three a prompt, 20 words of prompt, 40 of each answer, 50 annotators, grades), then
imports it, exports it as JSONL and as Parquet, makes a snapshot and verifies it. Each job runs in a process of its own,
whose peak memory is what the system says. PostgreSQL: a database of its own on the local server (`createdb`), dropped
afterwards. Needs about 6 kB of disk a row while it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

JOBS = ("import", "export jsonl", "export parquet", "snapshot", "verify snapshot")
POSTGRESQL_NAME = "plaudit_benchmark_store"


def make_comparisons(path: Path, rows: int) -> None:
    """Comparisons of random words; the same for equal numbers."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(4000)]
    with open(path, "w", encoding="utf-8") as file:
        prompt = ""
        for number in range(rows):
            if number % 3 == 0:
                prompt = " ".join(draw.choices(words, k=20))
            chosen, rejected = (" ".join(draw.choices(words, k=40)) for _ in range(2))
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            file.write(json.dumps({**row, "annotator": f"ann{number % 50}", "grade": 1 + number % 4}) + "\n")


def run_job(job: str, database: str, folder: Path) -> dict[str, float]:
    """One job in this process: rows, seconds of clock and processor, and peak memory in units of 1e9 bytes."""
    from plaudit.store import Store
    from plaudit.store.exporting import export_data
    from plaudit.store.importing import import_file
    from plaudit.store.snapshots import make_snapshot, verify_snapshot

    store = Store.open(database if "://" in database else Path(database))
    began, spent = time.monotonic(), time.process_time()
    if job == "import":
        rows = import_file(store, folder / "comparisons.jsonl", kind="comparisons").added
    elif job.startswith("export"):
        target, form = folder / "exported", job.split()[1]
        rows = export_data(store, target, kind="comparisons", format=form)["rows"]["comparisons"]
        shutil.rmtree(target)
    elif job == "snapshot":
        rows = make_snapshot(store, "all")["rows"]["comparisons"]["count"]
    else:
        found = verify_snapshot(store, "all")
        assert found["is_unchanged"]
        rows = found["rows"]["comparisons"]["count"]
    seconds = time.monotonic() - began
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "processor_seconds": round(time.process_time() - spent, 1),
        "rows_per_second": round(rows / seconds),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3),
    }


def measure(database: str, folder: Path, note: Callable[[str, dict[str, float]], None]) -> None:
    """Every job, one process after the other."""
    for job in JOBS:
        command = [sys.executable, __file__, "--job", job, "--database", database, "--folder", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        note(job, json.loads(done.stdout))


def measure_sqlite(folder: Path, note: Callable[[str, dict[str, float]], None]) -> None:
    """In a file, removed afterwards."""
    measure(str(folder / "feedback.sqlite"), folder, note)
    (folder / "feedback.sqlite").unlink()


def measure_postgresql(folder: Path, note: Callable[[str, dict[str, float]], None]) -> None:
    """In a database of its own, dropped afterwards."""
    subprocess.run(["createdb", POSTGRESQL_NAME], check=True)
    try:
        measure(f"postgresql:///{POSTGRESQL_NAME}", folder, note)
    finally:
        subprocess.run(["dropdb", "--force", POSTGRESQL_NAME], check=True)


def main() -> None:
    """Measure both databases, or do one job of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    for name in ("job", "database", "folder"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run_job(arguments.job, arguments.database, Path(arguments.folder))))
        return
    jobs = {"sqlite": measure_sqlite, "postgresql": measure_postgresql}
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_comparisons(folder / "comparisons.jsonl", arguments.rows)
        machine = {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "load_before": round(os.getloadavg()[0], 1),
        }
        facts = {
            "rows": arguments.rows,
            "file_bytes": (folder / "comparisons.jsonl").stat().st_size,
            "machine": machine,
        }
        for database in arguments.databases:
            results[database] = {}

            def note(job: str, found: dict[str, float], database: str = database) -> None:
                results[database][job] = found
                print(f"{database}, {job}: {found}", flush=True)
                text = json.dumps({**facts, "results": results}, indent=2) + "\n"
                arguments.output.write_text(text, encoding="utf-8")

            jobs[database](folder, note)


if __name__ == "__main__":
    main()
