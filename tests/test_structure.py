"""The house plan, held by reading every import statement: direction, outside packages, public names."""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import monai_surrogates

ROOT = Path(monai_surrogates.__file__).parent
PACKAGE = "monai_surrogates"

# core -> losses, metrics -> handlers, and data, statistics -> cohort -> study -> cli; a room may import itself and these.
# Modules outside the rooms import nothing of the package and are open to all.
OPEN = {"_names", "_version", "_messages"}
MAY_IMPORT = {
    "_names": set(),
    "_version": set(),
    "_messages": set(),
    "core": set(),
    "losses": {"core"},
    "metrics": {"core", "statistics"},  # statistics inside a method
    "handlers": {"core", "losses", "metrics"},
    "data": {"core"},
    "statistics": set(),
    "cohort": {"", "core", "losses", "metrics", "handlers", "data", "statistics"},
    "study": {"", "core", "losses", "metrics", "handlers", "data", "statistics", "cohort"},
    "cli": {"", "core", "losses", "metrics", "handlers", "data", "statistics", "cohort", "study"},
    "__main__": {"cli"},
    "": {
        "core",
        "losses",
        "metrics",
        "handlers",
        "data",
    },  # the package itself, open to the rooms that it does not load
}

# outside packages, beside the standard library; a room that is not here may use any
OUTSIDE = {
    "": set(),
    "_names": set(),
    "_version": set(),
    "_messages": set(),
    "core": {"torch"},
    "losses": {"torch", "monai", "ignite"},
    "metrics": {"torch", "monai", "ignite"},
    "handlers": {"torch", "monai", "ignite"},
    "data": {"torch", "numpy", "nibabel", "monai"},
    "statistics": {"numpy", "scipy"},
}

PUBLIC = {
    "losses": {
        "OBJECTIVES",
        "SCHEDULES",
        "CrossEntropyToLovaszSoftmaxLoss",
        "CrossEntropyToSoftDiceLoss",
        "CrossEntropyToSoftJaccardLoss",
        "LovaszHingeLoss",
        "LovaszSoftmaxCELoss",
        "LovaszSoftmaxLoss",
        "PlainCELoss",
        "ScheduledLoss",
        "SoftDiceCELoss",
        "SoftDiceLoss",
        "SoftJaccardCELoss",
        "SoftJaccardLoss",
        "SoftTverskyCELoss",
        "SoftTverskyLoss",
        "SurrogateCELoss",
        "WeightedCELoss",
        "check_channels",
        "loss_class",
        "make_loss",
    },
    "metrics": {
        "MeanInterval",
        "OverlapMetric",
        "PerImageDiceMetric",
        "PerImageIoUMetric",
        "PerImageMetric",
        "PerImageScores",
        "mean_interval",
    },
    "handlers": {
        "ObjectiveSchedule",
        "OverlapHandler",
        "PerImageDice",
        "PerImageHandler",
        "PerImageIoU",
        "PerImageSummary",
        "ResumableTraining",
    },
    "data": {
        "DataError",
        "MSDTask",
        "Split",
        "check_same_grid",
        "check_task",
        "class_counts",
        "read_task",
        "split",
        "structure_volumes",
        "write_synthetic_task",
    },
    "statistics": {"RESAMPLES", "MeanInterval", "mean_interval"},
}


def dotted_name(path: Path) -> str:
    """``monai_surrogates.core.scores`` of its file."""
    parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {dotted_name(path): path for path in sorted(ROOT.rglob("*.py")) if "bundle" not in path.relative_to(ROOT).parts}


def room_of(module: str) -> str:
    """The part after the package's name; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def in_function(node: ast.AST) -> bool:
    """Whether the node holds code that does not run when the module is loaded."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def for_typing(node: ast.AST) -> bool:
    """Whether the node holds code that never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_of(module: str, *left_out: Callable[[ast.AST], bool]) -> set[str]:
    """What a module's import statements name, but for those inside the parts left out."""
    found = set()

    def visit(node: ast.AST) -> None:
        if any(applies(node) for applies in left_out):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively in line {node.lineno}"
            # `from package import name` names a module, or something that the package's own namespace holds
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found.update(name if name in FILES else node.module for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(FILES[module].read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("module", FILES)
def test_imports_run_one_way(module):
    room = room_of(module)
    assert room in MAY_IMPORT, f"{module} stands in a room that the table does not know"
    rooms = {room_of(name) for name in imports_of(module) if name in FILES}
    assert rooms <= MAY_IMPORT[room] | {room} | OPEN


@pytest.mark.parametrize("module", [module for module in FILES if room_of(module) in OUTSIDE])
def test_outside_packages_of_each_room(module):
    packages = (
        {name.split(".")[0] for name in imports_of(module, for_typing)} - set(sys.stdlib_module_names) - {PACKAGE}
    )
    assert packages <= OUTSIDE[room_of(module)]


def test_the_modules_form_no_cycle():
    remaining = {module: {name for name in imports_of(module) if name in FILES} - {module} for module in FILES}
    while free := [module for module, needs in remaining.items() if not needs & remaining.keys()]:
        for module in free:
            del remaining[module]
    assert remaining == {}


def test_importing_the_package_loads_no_cli_study_cohort_or_statistics():
    loaded, waiting = set(), {PACKAGE}
    while waiting:
        module = waiting.pop()
        loaded.add(module)
        parents = {module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1)}
        waiting |= ((imports_of(module, in_function, for_typing) | parents) & FILES.keys()) - loaded
    assert {room_of(module) for module in loaded} == {"", *OPEN, "core", "data", "handlers", "losses", "metrics"}


def test_the_bundle_holds_no_python():
    assert list((ROOT / "bundle").rglob("*.py")) == []


@pytest.mark.parametrize("room", PUBLIC)
def test_public_names(room):
    module = importlib.import_module(f"{PACKAGE}.{room}")
    assert set(module.__all__) == PUBLIC[room]
    assert len(module.__all__) == len(PUBLIC[room])


@pytest.mark.parametrize("room", ["core", *PUBLIC])
def test_a_room_offers_exactly_its_declared_names(room):
    module = importlib.import_module(f"{PACKAGE}.{room}")
    inner = {name.split(".")[2] for name in FILES if name.startswith(f"{PACKAGE}.{room}.")}
    offered = {name for name in vars(module) if not name.startswith("_")} - inner
    assert offered - set(module.__all__) == set(), "imported, but not declared in __all__"
    assert {name for name in module.__all__ if not hasattr(module, name)} == set(), "declared, but not there"


def test_the_package_offers_its_rooms_and_version():
    assert set(monai_surrogates.__all__) == {"__version__", "core", "data", "handlers", "losses", "metrics"}
    assert all(hasattr(monai_surrogates, name) for name in monai_surrogates.__all__)
