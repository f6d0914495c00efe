"""Do the tests notice when the code changes? Mutants are made by seed, and the nearest tests are run on each.

    python benchmarks/mutants.py [--mutants 200] [--seed 0] [--only PREFIX] [--minutes M]

A mutant is one small change of the code: another comparison, operator, number, condition or reduction, a `detach` or
`clamp` left out, a statement skipped. It is made in a copy of the tree in a temporary folder, and caught when a test
fails, or the tests take three times as long as they do. Those that change nothing that anybody could notice are listed
with the reason in mutants_equivalent.json. Writes mutants.json beside this file. One process; hours for 200.

    python benchmarks/mutants.py --list          every mutant of the sample, without running it
    python benchmarks/mutants.py --number 17     one of the sample, with what the tests print
    python benchmarks/mutants.py --resume        goes on, and tries survivors again: what was caught stays so
"""

from __future__ import annotations

import argparse
import ast
import copy
import fnmatch
import importlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS, EQUIVALENT = (Path(__file__).parent / name for name in ("mutants.json", "mutants_equivalent.json"))
LOG = "mutant.log"
PARTS = "tests/training/test_preference_parts.py", "tests/training/test_updates.py", "tests/training/test_step.py"
STATISTICS = "tests/statistics/test_intervals.py", "tests/statistics/test_statistics.py"
COEFFICIENTS = "tests/statistics/test_coefficients.py", "tests/statistics/test_tally.py"
ONLINE = "tests/training/test_updates.py", "tests/training/test_online.py"
REWARD = ("tests/training/test_reward.py",)
ENCODING = "tests/training/test_encoding.py", "tests/test_judgments.py"
STAGES = "tests/training/test_supervised.py", "tests/training/test_left_out.py", "tests/training/test_stages.py"
SAMPLING = "tests/sampling/test_decoding.py", "tests/sampling/test_in_process.py"
CAMPAIGNS = "tests/collect/test_assignment.py", "tests/collect/test_research.py"
NEAREST: dict[str, tuple[str, ...]] = {
    "plaudit/objectives/*": (
        "tests/objectives", "tests/algorithms/test_by_hand.py", "tests/algorithms/test_gradients.py",
    ),
    "plaudit/objectives/lagrangian.py": ("tests/objectives", "tests/algorithms/test_lagrangian.py"),
    "plaudit/algorithms/*": (
        "tests/algorithms/test_by_hand.py", "tests/algorithms/test_gradients.py", "tests/algorithms/test_lagrangian.py",
        "tests/training/test_updates.py", "tests/algorithms/test_bandit.py",
    ),
    "plaudit/methods.py": (*PARTS[:1], *REWARD, "tests/test_registries.py", "tests/training/test_preference.py"),
    "plaudit/references.py": ("tests/test_references.py",),
    "plaudit/functions.py": ("tests/test_references.py", "tests/training/test_online.py"),
    "plaudit/statistics/intervals.py": STATISTICS,
    "plaudit/statistics/win_rate.py": STATISTICS,
    "plaudit/statistics/enough.py": ("tests/statistics/test_enough.py", "tests/training/test_watch.py"),
    "plaudit/statistics/logistic.py": (
        "tests/statistics/test_logistic.py", *STATISTICS, "tests/judges/test_biases_of_simulated.py",
    ),
    "plaudit/statistics/reward_quality.py": (*STATISTICS, "tests/evaluation/test_scoring_files.py"),
    "plaudit/statistics/coefficients.py": (*COEFFICIENTS, *STATISTICS),
    "plaudit/statistics/tally.py": COEFFICIENTS[::-1],
    "plaudit/statistics/agreement.py": (*COEFFICIENTS[::-1], *STATISTICS),
    "plaudit/statistics/biases.py": (*COEFFICIENTS, "tests/judges/test_biases_of_simulated.py"),
    "plaudit/statistics/sequential.py": ("tests/collect/test_research.py",),
    "plaudit/rewards/rating.py": ("tests/rewards/test_rating.py",),
    "plaudit/rewards/scoring.py": (*REWARD, *ONLINE),
    "plaudit/rewards/answers.py": ("tests/evaluation/test_scoring_files.py",),
    "plaudit/rewards/named.py": ("tests/rewards/test_rating.py", *REWARD, "tests/training/test_online.py"),
    "plaudit/evaluation/judge_quality.py": ("tests/evaluation/test_judge_quality.py",),
    "plaudit/evaluation/scaling.py": ("tests/evaluation/test_scaling.py",),
    "plaudit/evaluation/overlap.py": STATISTICS[::-1],
    "plaudit/evaluation/scoring_files.py": ("tests/evaluation/test_scoring_files.py", *REWARD),
    "plaudit/evaluation/stage.py": ("tests/training/test_left_out.py", "tests/training/test_stages.py"),
    "plaudit/training/steps/preference.py": (*PARTS, "tests/training/test_preference.py"),
    "plaudit/training/preference.py": (*ENCODING, "tests/training/test_preference.py"),
    "plaudit/training/steps/optimiser.py": (
        *PARTS[::-1], "tests/cpu/test_adam.py", "tests/training/test_preference.py",
    ),
    "plaudit/training/rl/rollouts.py": ONLINE,
    "plaudit/training/rl/updates.py": ONLINE,
    "plaudit/training/steps/reward.py": REWARD,
    "plaudit/training/data/reward_data.py": REWARD,
    "plaudit/training/data/annotators.py": REWARD,
    "plaudit/training/data/judged_prompts.py": (*PARTS[:1], *REWARD, "tests/training/test_preference.py"),
    "plaudit/training/data/choosing.py": (*ENCODING[::-1], *REWARD, "tests/training/test_from_snapshots.py"),
    "plaudit/training/data/encoding.py": (*ENCODING, *REWARD, "tests/training/test_preference.py"),
    "plaudit/training/reward.py": REWARD,
    "plaudit/training/steps/supervised.py": ("tests/training/test_supervised.py", "tests/training/test_stages.py"),
    "plaudit/training/sft.py": STAGES,
    "plaudit/training/pretraining.py": ("tests/training/test_pretraining.py",),
    "plaudit/training/rl/watch.py": ("tests/training/test_watch.py",),
    "plaudit/training/rl/actors.py": ONLINE,
    "plaudit/training/online.py": (*ONLINE, "tests/training/test_watch.py", "tests/training/test_stages.py"),
    "plaudit/training/rejection.py": ("tests/training/test_online.py", "tests/training/test_stages.py"),
    "plaudit/text/batches.py": (
        "tests/text/test_batches.py", "tests/training/test_updates.py", "tests/training/test_preference_parts.py",
        "tests/models/test_packing.py",
    ),
    "plaudit/text/rows.py": ("tests/text/test_batches.py", "tests/models/test_packing.py"),
    "plaudit/text/chat.py": ("tests/text/test_chat.py", "tests/sampling/test_in_process.py"),
    "plaudit/text/templates.py": ("tests/text/test_chat.py", "tests/models/test_elsewhere.py"),
    "plaudit/text/prompts.py": ("tests/training/test_left_out.py",),
    "plaudit/text/plain.py": ("tests/training/test_pretraining.py",),
    "plaudit/text/vocabulary.py": ("tests/training/test_pretraining.py",),
    "plaudit/sampling/decoders.py": (*SAMPLING, "tests/sampling/test_recorded.py", "tests/sampling/test_decoders.py"),
    "plaudit/sampling/in_process.py": (*SAMPLING, "tests/sampling/test_recorded.py"),
    "plaudit/sampling/best_of_n.py": SAMPLING,
    "plaudit/sampling/episodes.py": ("tests/training/test_updates.py", "tests/training/test_episodes.py"),
    "plaudit/sampling/users.py": ("tests/training/test_episodes.py",),
    "plaudit/cpu/fused_decode.py": ("tests/cpu/test_fused_decode.py", *SAMPLING),
    "plaudit/sampling/recorded.py": ("tests/sampling/test_recorded.py", *SAMPLING),
    "plaudit/sampling/preparing.py": ("tests/sampling/test_preparing.py",),
    "plaudit/sampling/stage.py": ("tests/training/test_left_out.py", "tests/training/test_stages.py"),
    "plaudit/collect/arena.py": ("tests/collect/test_arena.py",),
    "plaudit/collect/assignment.py": CAMPAIGNS,
    "plaudit/collect/campaigns.py": CAMPAIGNS,
    "plaudit/collect/figures.py": (*CAMPAIGNS, "tests/collect/test_arena.py"),
    "plaudit/collect/head_to_head.py": ("tests/collect/test_research.py", *STATISTICS[:1]),
    "plaudit/collect/planning.py": CAMPAIGNS,
    "plaudit/collect/priorities.py": CAMPAIGNS[::-1],
    "plaudit/collect/progress.py": CAMPAIGNS,
}  # fmt: skip
"""Source -> its tests, the quickest first. A file that is named counts before a pattern."""

COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
NAMED = {
    "min": "max", "amin": "amax", "argmin": "argmax", "minimum": "maximum", "sum": "mean", "floor": "ceil",
    "all": "any", "exp": "expm1", "log": "log1p",
}  # fmt: skip
NAMED |= {new: old for old, new in NAMED.items()}
DROPPED = {"detach", "clamp", "abs", "clip", "square", "sign", "masked_fill", "where"}
"""Methods that may be left out."""


SLOW_TO_IMPORT = (
    "hypothesis", "krippendorff", "numba", "pandas", "peft", "pytest", "scipy.optimize", "scipy.stats", "sqlalchemy",
    "statsmodels.api", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    function       where it is, by its dotted name
    before, after  the statement, without its body, as Python prints it
    start, end     (line from 0, column in bytes) of what is replaced
    text           what stands there instead
    """

    file: str
    function: str
    before: str
    after: str
    start: tuple[int, int]
    end: tuple[int, int]
    text: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays the same when lines move."""
        return self.file, self.function, self.before, self.after

    def of(self, source: str) -> str:
        """The file with the change."""
        lines = [line.encode() for line in source.splitlines(keepends=True)]
        (first, left), (last, right) = self.start, self.end
        changed = lines[first][:left] + self.text.encode() + lines[last][right:]
        return b"".join([*lines[:first], changed, *lines[last + 1 :]]).decode()


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """(what is replaced, what stands there instead): the node itself, or the condition that it hangs on."""
    if isinstance(node, ast.If | ast.IfExp) and not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)
    yield from ((node, other) for other in variants(node))


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    match node:
        case ast.Compare(ops=[one]) if type(one) in COMPARED:
            yield _with(node, ops=[COMPARED[type(one)]()])
        case ast.BinOp(op=one) if type(one) in COMPUTED:
            yield _with(node, op=COMPUTED[type(one)]())
        case ast.BoolOp(op=one):
            yield _with(node, op=ast.Or() if isinstance(one, ast.And) else ast.And())
        case ast.UnaryOp(operand=inner):
            yield inner
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value * 2 if value else 1.0)
        case ast.Call(func=ast.Attribute(value=inner, attr=name)):
            if name in DROPPED:
                yield inner
            if name in NAMED:
                yield _with(node, func=ast.Attribute(inner, NAMED[name], ast.Load()))
        case ast.Call(func=ast.Name(id=name)) if name in ("min", "max", "any", "all"):
            yield _with(node, func=ast.Name(NAMED[name], ast.Load()))
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()


def _with(node: ast.AST, **changed: object) -> ast.AST:
    other = copy.copy(node)
    for name, value in changed.items():
        setattr(other, name, value)
    return other


def mutants_of(file: str, source: str) -> Iterator[Mutant]:
    """Every one of a file, in the order of its text."""

    def visit(node: ast.AST, function: str, statement: ast.stmt | None) -> Iterator[Mutant]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            function = f"{function}.{node.name}".lstrip(".")
        if isinstance(node, ast.stmt):
            statement = node
        if statement is not None and isinstance(node, ast.expr | ast.stmt):
            for old, new in changes(node):
                assert isinstance(old, ast.expr | ast.stmt)
                assert old.end_lineno is not None
                assert old.end_col_offset is not None
                before, after = _shown(statement), _shown(statement, old, new)
                text = ast.unparse(ast.fix_missing_locations(new))
                text = text if isinstance(new, ast.stmt) else f"({text})"
                start, end = (old.lineno - 1, old.col_offset), (old.end_lineno - 1, old.end_col_offset)
                yield Mutant(file, function, before, after, start, end, text)
        for child in _children(node):
            yield from visit(child, function, statement)

    yield from visit(ast.parse(source), "", None)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Parts in which a number can be: no annotations, messages, decorators, or what is printed."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
        return
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("say", "progress", "check_shapes")
    ):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, ast.AST))


def _shown(statement: ast.stmt, node: ast.AST | None = None, other: ast.AST | None = None) -> str:
    """A statement without its body, with a node replaced."""
    bare = other if node is statement else copy.deepcopy(_bare(statement), {id(node): other})
    assert bare is not None
    return " ".join(ast.unparse(ast.fix_missing_locations(bare)).split())


def _bare(statement: ast.stmt) -> ast.stmt:
    bare = copy.copy(statement)
    for part in ("body", "orelse", "handlers", "finalbody"):
        if isinstance(getattr(bare, part, None), list):
            setattr(bare, part, [ast.Pass()] if part == "body" else [])
    return bare


def tests_of(file: str) -> tuple[str, ...]:
    """The nearest tests of a file; none for one that is not mutated."""
    if file in NEAREST:
        return NEAREST[file]
    return next((tests for pattern, tests in NEAREST.items() if fnmatch.fnmatch(file, pattern)), ())


def sample(number: int, seed: int, only: str) -> list[Mutant]:
    """Drawn without replacement from all mutants of the files with nearest tests, in the order of the draw."""
    files = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "plaudit").rglob("*.py"))
    every = [
        mutant for file in files if tests_of(file) and file.startswith(only) and not file.endswith("__init__.py")
        for mutant in mutants_of(file, (ROOT / file).read_text(encoding="utf-8"))
    ]  # fmt: skip
    return random.Random(seed).sample(every, min(number, len(every)))


def run_tests(tree: Path, tests: Sequence[str], limit: float, *, shown: bool = False) -> tuple[int | None, float]:
    """(exit status of the tests, None for over the limit; seconds they took), in a process of their own."""
    began = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=_test, args=(tree, list(tests), shown))
    process.start()
    process.join(limit)
    if process.is_alive() and process.pid is not None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return None, time.monotonic() - began
    return process.exitcode, time.monotonic() - began


def _test(tree: Path, tests: list[str], shown: bool) -> None:
    os.setsid()  # so that what the tests start ends with them
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(tree))
    if not shown:
        log = os.open(tree / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
    import pytest

    import plaudit

    assert Path(str(plaudit.__file__)).is_relative_to(tree), "the tests would run on another tree"
    code = int(pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]))
    sys.stdout.flush()
    os._exit(code)


def preload() -> None:
    """What takes seconds to import, and is not the tree's own."""
    for name in SLOW_TO_IMPORT:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def known_equivalents() -> dict[tuple[str, str, str, str], str]:
    """Mutant -> why nobody could notice it."""
    rows = json.loads(EQUIVALENT.read_text(encoding="utf-8")) if EQUIVALENT.exists() else []
    return {(row["file"], row["function"], row["before"], row["after"]): row["reason"] for row in rows}


def caught_before(path: Path) -> dict[tuple[str, str, str, str], float]:
    """Mutant -> seconds that it took, of those that an earlier run has caught."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {
        (row["file"], row["function"], row["before"], row["after"]): row["seconds"]
        for row in rows
        if row["outcome"] == "caught"
    }


def usual_before(path: Path) -> dict[tuple[str, ...], float]:
    """Tests -> seconds that an earlier run saw them take on the code as it is."""
    known = json.loads(path.read_text(encoding="utf-8"))["usual_seconds"] if path.exists() else {}
    return {tuple(tests.split()): took for tests, took in known.items()}


class Bench:
    """A copy of the tree in which mutants are made, one after the other."""

    def __init__(self, folder: Path):
        self.tree = folder / "tree"
        self.tree.mkdir()
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "peers")
        for name in ("plaudit", "tests", "benchmarks", "docs"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md", "Makefile", "CHANGELOG.md", "CONTRIBUTING.md"):
            shutil.copy(ROOT / name, self.tree / name)
        self.seconds: dict[tuple[str, ...], float] = {}

    def usual(self, tests: tuple[str, ...]) -> float:
        """Seconds that these tests take on the code as it is. Raises SystemExit where they fail on that."""
        if tests not in self.seconds:
            code, seconds = run_tests(self.tree, tests, 3600)
            if code != 0:
                raise SystemExit(f"{' '.join(tests)} fail without a mutant:\n{(self.tree / LOG).read_text()[-3000:]}")
            self.seconds[tests] = seconds
        return self.seconds[tests]

    def is_caught(self, mutant: Mutant, *, shown: bool = False) -> tuple[bool, float]:
        """(whether a test fails, or they take three times as long; seconds)."""
        tests = tests_of(mutant.file)
        limit = 3 * self.usual(tests) + 30
        path = self.tree / mutant.file
        source = path.read_text(encoding="utf-8")
        try:
            path.write_text(mutant.of(source), encoding="utf-8")
            code, seconds = run_tests(self.tree, tests, limit, shown=shown)
        finally:
            path.write_text(source, encoding="utf-8")
        return code != 0, seconds


def share(caught: int, survived: int) -> str:
    """Of the mutants that are not equivalent."""
    total = caught + survived
    return f"{caught} of {total} caught ({caught / total:.1%})" if total else "none"


def main() -> None:
    """Draw, run, write and say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="PREFIX", help="files that begin so")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no mutant after so many")
    parser.add_argument("--list", action="store_true", help="the sample, without running it")
    parser.add_argument("--resume", action="store_true", help="keep what was caught before")
    parser.add_argument("--number", type=int, help="this one of the sample alone")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    drawn, equivalents = sample(asked.mutants, asked.seed, asked.only), known_equivalents()
    if asked.list:
        for number, mutant in enumerate(drawn):
            mark = "equivalent" if mutant.key in equivalents else ""
            print(f"{number} {mutant.file} {mutant.function} {mark}\n  - {mutant.before}\n  + {mutant.after}")
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    preload()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        bench = Bench(Path(folder))
        if asked.number is not None:
            print("caught" if bench.is_caught(drawn[asked.number], shown=True)[0] else "survived")
            return
        rows: list[dict[str, object]] = []
        before = caught_before(asked.output) if asked.resume else {}
        bench.seconds |= usual_before(asked.output) if asked.resume else {}
        for number, mutant in enumerate(drawn):
            if time.monotonic() - began > 60 * asked.minutes:
                break
            if mutant.key in equivalents:
                outcome, seconds = "equivalent", 0.0
            elif mutant.key in before:
                outcome, seconds = "caught", before[mutant.key]
            else:
                caught, seconds = bench.is_caught(mutant)
                outcome = "caught" if caught else "survived"
            rows.append({
                "number": number, "outcome": outcome, "seconds": round(seconds, 1), "file": mutant.file,
                "function": mutant.function, "before": mutant.before, "after": mutant.after,
            })  # fmt: skip
            told = f"  - {mutant.before}\n  + {mutant.after}\n" if outcome == "survived" else ""
            print(f"{number} {outcome} {seconds:.0f} s {mutant.file} {mutant.function}\n{told}", end="", flush=True)
            _write(asked, rows, bench.seconds, time.monotonic() - began)
    counts = {name: sum(row["outcome"] == name for row in rows) for name in ("caught", "survived", "equivalent")}
    told = share(counts["caught"], counts["survived"])
    print(f"{len(rows)} of seed {asked.seed}: {told}; equivalent {counts['equivalent']}")


def _write(
    asked: argparse.Namespace, rows: list[dict[str, object]], usual: dict[tuple[str, ...], float], seconds: float
) -> None:
    counts = {name: sum(row["outcome"] == name for row in rows) for name in ("caught", "survived", "equivalent")}
    packages = sorted({str(row["file"]).split("/")[1] for row in rows})
    by_package = {
        package: {
            name: sum(row["outcome"] == name and f"/{package}/" in str(row["file"]) for row in rows) for name in counts
        }
        for package in packages
    }
    content = {
        "seed": asked.seed, "mutants": len(rows), "minutes": round(seconds / 60), **counts,
        "share_caught": counts["caught"] / max(1, counts["caught"] + counts["survived"]), "by_package": by_package,
        "usual_seconds": {" ".join(tests): round(took, 1) for tests, took in usual.items()}, "rows": rows,
    }  # fmt: skip
    asked.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
