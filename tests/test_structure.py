"""The shape of the program: imports go downwards, and light commands stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import plaudit
from plaudit.stages import STAGES

ROOT = Path(plaudit.__file__).parent

LAYERS = [
    ["errors", "methods", "objectives", "timing", "guidelines"],
    ["stages"],
    ["records", "references"],
    ["config", "files", "functions", "ownership", "progress"],
    ["statistics"],
    ["text", "store"],
    ["workspace"],
    ["cpu", "models", "algorithms", "judgments"],
    ["rewards", "judges", "sampling"],
    ["training", "evaluation"],
    ["collect"],
    ["reporting"],
    ["rounds", "studies"],
    ["cli", "__init__", "__main__"],
]
"""A module imports from its own layer and those above it in this list."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
STAGE_MODULES = {stage.function.partition(":")[0].removeprefix("plaudit.") for stage in STAGES.values()}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Plaudit modules that a file imports, without the leading `plaudit.`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.removeprefix("plaudit.") for name in names if name.startswith("plaudit.")}
    return found


FILES = sorted(ROOT.rglob("*.py"))


def test_every_part_of_the_program_has_a_layer():
    assert {module_name(path).split(".")[0] for path in FILES} - {""} <= LEVEL.keys() | {"data", "recipes"}


def test_imports_go_downwards():
    upward = [
        f"{module_name(path)} imports {name}"
        for path in FILES
        if module_name(path) not in ("__init__", "")
        for name in imported(path)
        if LEVEL[name.split(".")[0]] > LEVEL[module_name(path).split(".")[0]]
    ]
    assert not upward


def test_stages_never_import_each_other():
    assert {module_name(path) for path in FILES} >= STAGE_MODULES
    for path in FILES:
        name = module_name(path)
        if name in STAGE_MODULES:
            may = {"training.reward"} if name.startswith("studies.") else set()  # a study trains what it measures
            assert not (imported(path) & STAGE_MODULES) - {name} - may


def test_the_mathematics_imports_torch_alone():
    files = list((ROOT / "objectives").glob("*.py"))
    assert len(files) > 5
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                package = node.module.split(".")[0]
                assert package in {"torch", *sys.stdlib_module_names} or node.module.startswith("plaudit.objectives")


def loads_torch(code: str) -> bool:
    script = (
        f"import sys; sys.argv = ['plaudit', '--help']\ntry:\n    {code}\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip().endswith("True")


def test_help_collection_and_the_package_itself_start_without_torch():
    assert not loads_torch("import plaudit.cli; plaudit.cli.main()")
    assert not loads_torch("import plaudit, plaudit.collect.terminal, plaudit.workspace, plaudit.store.importing")
    assert not loads_torch("import plaudit.collect.web.server, plaudit.collect.planning")
    assert not loads_torch("import plaudit.judges.endpoint")
    assert not loads_torch("import plaudit.studies.power, plaudit.studies.reward_power, plaudit.reporting.power_plots")
    assert loads_torch("import plaudit.models.network")


def test_every_public_name_is_what_it_says_whatever_was_imported_before():
    """A function must not bear the name of a package: importing that would replace it."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {path.stem for path in ROOT.glob("*.py")}
    assert not packages & set(plaudit.__all__)
    for name in plaudit.__all__:
        assert callable(getattr(plaudit, name))


def test_the_python_api_has_every_stage_and_nothing_that_is_not_there():
    assert set(plaudit.__all__) == set(plaudit._WHERE)
    for stage in STAGES.values():
        assert getattr(plaudit, stage.name) is stage.load()
