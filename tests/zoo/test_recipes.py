"""The recipes of README and bundle docs: our handlers in bundles of the zoo's layout, by a shell's words and on two ranks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

import monai_surrogates
from tests.bundle.runs import logged, run_bundle, run_on_two_ranks
from tests.zoo.kinds import CONFIGS, KINDS, make_bundle

PACKAGE = Path(monai_surrogates.__file__).parent
DOCUMENTS = {"README": PACKAGE.parent / "README.md", "bundle docs": PACKAGE / "bundle" / "docs" / "README.md"}
SECTIONS = {
    name: path.read_text(encoding="utf-8").partition("## Handlers in your bundle\n")[2].partition("\n## ")[0]
    for name, path in DOCUMENTS.items()
}
COMMAND = "python -m monai.bundle "
COMMANDS = [
    (name, line) for name, section in SECTIONS.items() for line in section.splitlines() if line.startswith(COMMAND)
]
SCHEDULE = "CrossEntropyToLovaszSoftmaxLoss"

slow = pytest.mark.slow


def overlays(document: str) -> dict[str, str]:
    """The overlays of a document, by their file."""
    blocks = re.findall(r"```yaml\n# (\S+)\n(.*?)```", SECTIONS[document], re.DOTALL)
    return dict(blocks)


def zoo_bundle(folder: Path, document: str, kind: str = "spleen") -> Path:
    """A bundle of the zoo's layout with its overlay for several processes, and those of a document."""
    root = make_bundle(KINDS[kind], folder / kind)
    several = ConfigParser.load_config_file(CONFIGS / "multi_gpu_train.yaml")
    ConfigParser.export_config_file(several, root / "configs" / "multi_gpu_train.json")
    for name, text in overlays(document).items():
        (root / name).write_text(text, encoding="utf-8")
    return root


def words(line: str) -> list[str]:
    """The arguments of a command, as the shell gives them to Python."""
    command = line.removeprefix(COMMAND)
    printed = subprocess.run(["bash", "-c", rf"printf '%s\0' {command}"], capture_output=True, text=True, check=True)
    return printed.stdout.split("\0")[1:-1]  # without `run`


def objectives(stdout: str) -> list[str]:
    return re.findall(r"Epoch \d trains (\w+) 1\.", stdout)


@slow
@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_the_commands_train_a_bundle_of_the_zoo_with_our_handlers(document: str, line: str, tmp_path: Path) -> None:
    root = zoo_bundle(tmp_path, document)
    done = run_bundle(root, *words(line), "--epochs", "2")
    assert len(logged("train_loss", done.stdout)) == 4
    dice = logged("val_mean_dice", done.stdout)
    assert len(dice) == 2
    assert (root / "models" / "model.pt").is_file()  # kept by the bundle's own score
    if SCHEDULE in line or "surrogates.yaml" in line:
        assert objectives(done.stdout) == ["cross_entropy", "lovasz_softmax"]
        assert logged("scores", done.stdout) == pytest.approx(dice, abs=1e-4)  # of the same images
        assert len(logged("scores/miou_c", done.stdout)) == 2
    else:
        assert len(logged("val_mean_dice/defined", done.stdout)) == 2
    assert (root / "models" / "last.pt").is_file() == (
        "ResumableTraining" in overlays(document).get(config_of(line), "")
    )


def config_of(line: str) -> str:
    """The last config of a command."""
    return re.findall(r"configs/\w+\.\w+", line)[-1]


@slow
def test_a_foreign_training_resumes_by_the_overlay(tmp_path: Path) -> None:
    whole, stopped = (zoo_bundle(tmp_path / name, "bundle docs") for name in ("whole", "stopped"))
    line = next(line for document, line in COMMANDS if document == "bundle docs" and "surrogates.yaml" in line)
    at_once = run_bundle(whole, *words(line), "--epochs", "2", "--loss#switch_epoch", "1")
    run_bundle(stopped, *words(line), "--epochs", "1", "--loss#switch_epoch", "1")
    rest = run_bundle(stopped, *words(line), "--epochs", "2", "--loss#switch_epoch", "1", "--resume", "True")
    assert objectives(rest.stdout) == ["lovasz_softmax"]
    assert logged("train_loss", rest.stdout) == logged("train_loss", at_once.stdout)[2:]


def test_an_overlay_keeps_the_bundle_s_imports_and_the_order_of_its_handlers(tmp_path: Path) -> None:
    root = zoo_bundle(tmp_path, "bundle docs")
    config = ConfigParser.load_config_files([root / "configs" / name for name in ("train.json", "surrogates.yaml")])
    assert config["imports"] == ["$import glob", "$import os", "$import ignite", "$import monai_surrogates"]
    handlers = [handler["_target_"] for handler in config["train"]["handlers"]]
    assert handlers[-3:] == ["TensorBoardStatsHandler", "ObjectiveSchedule", "ResumableTraining"]
    assert list(config["validate"]["key_metric"]) == ["val_mean_dice", "scores"]


# The layout of MONAI's template has other names, the docs say.
@slow
def test_the_template_takes_the_overlay_under_its_own_names(tmp_path: Path) -> None:
    root = zoo_bundle(tmp_path, "README", "template")
    text = overlays("README")["configs/surrogates.yaml"]
    for name, own in (("train#handlers", "handlers"), ("validate#key_metric", "evaluator#key_val_metric")):
        text = text.replace(name, own)
    (root / "configs" / "surrogates.yaml").write_text(text, encoding="utf-8")
    configs = "['configs/train.json','configs/surrogates.yaml']"
    target = f"monai_surrogates.losses.{SCHEDULE}"
    done = run_bundle(root, "--config_file", configs, "--lossfn#_target_", target, "--num_epochs", "2")
    assert objectives(done.stdout) == ["cross_entropy", "lovasz_softmax"]


SEVERAL = ("configs/train.json", "configs/multi_gpu_train.json")


def on_two_ranks(root: Path, *configs: str, **overrides: object) -> list[subprocess.CompletedProcess[str]]:
    listed = "[" + ",".join(f"'{config}'" for config in (*SEVERAL, *configs)) + "]"
    return run_on_two_ranks(
        root, "--config_file", listed, *(w for name, value in overrides.items() for w in (f"--{name}", str(value)))
    )


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A bundle of the zoo's layout with the overlays of the docs."""
    return zoo_bundle(tmp_path, "bundle docs")


def test_the_docs_run_their_last_overlay_by_torchrun() -> None:
    listed = ",".join(f"'{config}'" for config in (*SEVERAL, "configs/surrogates_multi_gpu.yaml"))
    assert (
        f'torchrun --standalone --nproc_per_node=2 -m monai.bundle run --config_file "[{listed}]"'
        in SECTIONS["bundle docs"]
    )


@slow
@pytest.mark.parametrize("objective", ["", "monai_surrogates.losses.LovaszSoftmaxLoss"])
def test_two_ranks_of_the_zoo_s_overlay_train_with_scores_of_ours(several: Path, objective: str) -> None:
    scores = {"validate#key_metric#val_mean_dice#_target_": "monai_surrogates.handlers.PerImageDice"}
    done = on_two_ranks(several, **scores, **({"loss#_target_": objective} if objective else {}))
    assert [rank.returncode for rank in done] == [0, 0], done[0].stderr[-3000:] + done[1].stderr[-3000:]
    assert logged("val_mean_dice/defined", done[0].stdout) == [2]  # both images, one of each rank
    assert logged("train_loss", done[1].stdout) == []  # the handlers that the overlay cuts


@slow
def test_two_ranks_follow_a_schedule_and_resume_after_the_cut(several: Path) -> None:
    first = on_two_ranks(several, "configs/surrogates_multi_gpu.yaml", epochs=2)
    assert [rank.returncode for rank in first] == [0, 0], first[0].stderr[-3000:] + first[1].stderr[-3000:]
    assert objectives(first[0].stdout) == ["cross_entropy", "lovasz_softmax"]
    assert torch.load(several / "models" / "last.pt", weights_only=True)["trainer"]["iteration"] == 2
    rest = on_two_ranks(several, "configs/surrogates_multi_gpu.yaml", epochs=3, resume=True)
    assert [rank.returncode for rank in rest] == [0, 0], rest[0].stderr[-3000:] + rest[1].stderr[-3000:]
    assert objectives(rest[0].stdout) == ["lovasz_softmax"]


# A handler at the end of the list, the loss, the rank that says why the training ends, and its sentence.
CUT = {
    "a schedule": (
        "- _target_: monai_surrogates.handlers.ObjectiveSchedule\n",
        SCHEDULE,
        1,
        f"RuntimeError: {SCHEDULE} must be told the epoch on each of 2 ranks, but nobody told it on rank 1",
    ),
    "a training to be resumed": (
        "- _target_: monai_surrogates.handlers.ResumableTraining\n"
        "  path: $@ckpt_dir + '/last.pt'\n"
        "  objects: {}\n"
        "  timeout: 3\n",
        "SoftDiceLoss",
        0,
        "RuntimeError: ResumableTraining must start on every rank, but after 3 s it had not on rank 1 of 2",
    ),
}


@slow
@pytest.mark.parametrize("case", CUT)
def test_a_handler_that_is_cut_on_one_rank_ends_the_training_in_a_sentence(several: Path, case: str) -> None:
    handler, target, rank, sentence = CUT[case]
    (several / "configs" / "cut.yaml").write_text(f"+train#handlers:\n{handler}", encoding="utf-8")
    done = on_two_ranks(several, "configs/cut.yaml", **{"loss#_target_": f"monai_surrogates.losses.{target}"})
    assert [each.returncode for each in done] == [1, 1]
    assert sentence in done[rank].stderr
