"""How a config finds us: short names after an import, dotted paths always, and no name of MONAI's made ambiguous."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import warnings

import monai
import pytest
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

import monai_surrogates
from monai_surrogates import handlers, losses, metrics

ROOMS = (losses, metrics, handlers)
COMPONENTS = [
    pytest.param(component, id=name)
    for room in ROOMS
    for name, component in ((name, getattr(room, name)) for name in room.__all__)
    if inspect.isclass(component) or inspect.isfunction(component)
]

# the target of a config, and the expected class
BLOCKS = {
    "SoftDiceLoss": ({"softmax": True, "to_onehot_y": True}, losses.SoftDiceLoss),
    "SoftJaccardLoss": ({"softmax": True, "to_onehot_y": True}, losses.SoftJaccardLoss),
    "LovaszSoftmaxLoss": ({"softmax": True, "to_onehot_y": True}, losses.LovaszSoftmaxLoss),
    "WeightedCELoss": ({"weight": [0.5, 2.0], "to_onehot_y": True}, losses.WeightedCELoss),
    "PlainCELoss": ({"to_onehot_y": True}, losses.PlainCELoss),
    "ScheduledLoss": (
        {"objectives": {"0": "cross_entropy", "5": "soft_dice"}, "softmax": True},
        losses.ScheduledLoss,
    ),
    "CrossEntropyToSoftDiceLoss": ({"softmax": True}, losses.CrossEntropyToSoftDiceLoss),
    "PerImageDiceMetric": ({"num_classes": 2}, metrics.PerImageDiceMetric),
    "PerImageIoUMetric": ({"num_classes": 2}, metrics.PerImageIoUMetric),
    "PerImageScores": ({"num_classes": 2, "include_background": False}, metrics.PerImageScores),
    "PerImageDice": ({"num_classes": 2, "include_background": False}, handlers.PerImageDice),
    "PerImageIoU": ({"num_classes": 2, "include_background": False}, handlers.PerImageIoU),
    "ObjectiveSchedule": ({}, handlers.ObjectiveSchedule),
    "ResumableTraining": ({"path": "last.pt", "objects": {}}, handlers.ResumableTraining),
}
IMPORTS = {"imports": ["$import monai_surrogates"]}
DOTTED = {
    name: f"monai_surrogates.{component.__module__.split('.')[1]}.{name}" for name, (_, component) in BLOCKS.items()
}


def config(targets: dict[str, str]) -> dict:
    """A block per component, each with its arguments."""
    return {name: {"_target_": target, **BLOCKS[name][0]} for name, target in targets.items()}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("imports", [{}, IMPORTS], ids=["imported before", "with imports"])
def test_a_short_name_is_enough_once_the_package_is_imported(name, imports):
    built = ConfigParser({**imports, **config({name: name})}).get_parsed_content(name)
    assert type(built) is BLOCKS[name][1]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_public_name_has_one_home_for_monai(component):
    assert ComponentLocator().get_component_module_name(component.__name__) == component.__module__


def modules_of(package) -> list[str]:
    """Import every module of a package, private ones included, and name them."""
    names = [package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of other packages on import do not matter here
        for name in names:
            importlib.import_module(name)
    return names


def test_no_name_of_ours_is_the_name_of_a_monai_component():
    table_of = ComponentLocator()._find_classes_or_functions  # MONAI's own definition of a component
    ours, theirs = table_of(modules_of(monai_surrogates)), table_of(modules_of(monai))
    assert {"DiceLoss", "DiceMetric", "one_hot", "compute_iou"} <= theirs.keys()  # the table is the right one
    assert {name: (ours[name], theirs[name]) for name in ours.keys() & theirs.keys()} == {}


# Fresh processes

SCRIPT = """
import json, sys
from monai.bundle import ConfigParser

def ours():
    return sorted(name for name in sys.modules if name.startswith("monai_surrogates"))

blocks = json.loads(sys.argv[1])
before, parser = ours(), ConfigParser(blocks)
built = {name: type(parser.get_parsed_content(name)) for name in blocks if name != "imports"}
print(json.dumps({
    "before": before,
    "built": {name: f"{t.__module__}.{t.__qualname__}" for name, t in built.items()},
    "after": ours(),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param(config(DOTTED), id="dotted paths without imports"),
        pytest.param({**IMPORTS, **config({name: name for name in BLOCKS})}, id="short names with imports"),
    ],
)
def test_a_fresh_process_needs_nothing_but_the_config(blocks, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["before"] == []
    assert report["built"] == {name: f"{c.__module__}.{c.__qualname__}" for name, (_, c) in BLOCKS.items()}
    rooms = {module.split(".")[1] for module in report["after"] if "." in module}
    assert rooms.isdisjoint({"cli", "study", "cohort", "__main__"})


RIGHT = ["--version", "--help", "study --help"]
WRONG = ["--no-such-option", "--objectives=soft_dise", "--objectives=", "--epochs=0", "--folds=1", "--seed=-1"]


@pytest.mark.parametrize(
    ("words", "code"), [*((words, 0) for words in RIGHT), *((f"study {word}", 2) for word in WRONG)]
)
def test_the_command_line_answers_without_importing_torch(words, code):
    command = [sys.executable, "-X", "importtime", "-m", "monai_surrogates", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "monai_surrogates.cli" in imported
    assert imported.isdisjoint({"torch", "monai", "ignite"})


@pytest.mark.parametrize(
    ("argv", "orig_argv", "own"),
    [
        (["-m"], ["python", "-W", "error", "-m", "monai_surrogates", "study"], True),
        (["/usr/bin/monai-surrogates", "study"], ["python", "/usr/bin/monai-surrogates", "study"], True),
        (["C:/monai-surrogates.exe", "study"], ["python", "C:/monai-surrogates.exe", "study"], True),
        (["monai-surrogates.py"], ["python", "monai-surrogates.py"], False),
        (["-m"], ["python", "-m", "somebody", "-m", "monai_surrogates"], False),
        (["train.py", "-m", "monai_surrogates"], ["python", "train.py", "-m", "monai_surrogates"], False),
        (["/usr/bin/monai"], ["python", "-m", "monai.bundle", "run"], False),
        (["-c"], ["python", "-c", "import monai_surrogates"], False),
        ([""], ["python"], False),
        ([], ["embedding"], False),
    ],
)
def test_only_the_command_line_of_the_package_leaves_the_registration_for_later(monkeypatch, argv, orig_argv, own):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert monai_surrogates._is_own_command_line() is own


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import monai, monai_surrogates", "import monai_surrogates, monai"])
def test_short_names_are_found_whichever_package_is_imported_first(imports):
    block = {"loss": {"_target_": "SoftDiceLoss"}}
    code = f"{imports}\nfrom monai.bundle import ConfigParser\nprint(ConfigParser({block}).get_parsed_content('loss'))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert "SoftDiceLoss" in done.stdout, done.stderr
