"""The four ways to switch the objective, each as a user types it. Only config values differ between runs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.losses import DiceFocalLoss
from torch import nn

from monai_surrogates.data import split
from monai_surrogates.losses import (
    OBJECTIVES,
    LovaszSoftmaxLoss,
    PlainCELoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    WeightedCELoss,
    make_loss,
)
from monai_surrogates.losses.names import LOSSES as NAMES
from tests.bundle.runs import LOGGED, SMALL, as_arguments, logged, run_bundle, training_losses, warnings_in

TRAIN = ("--config_file", "configs/train.yaml")
WAYS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "name": lambda objective: (*TRAIN, "--objective", objective),
    "overlay": lambda objective: ("--config_file", f"['configs/train.yaml','configs/{objective}.yaml']"),
    "macro": lambda objective: (*TRAIN, "--loss", f"%configs/{objective}.yaml#loss"),
    "target": lambda objective: (*TRAIN, "--loss#_target_", f"monai_surrogates.losses.{LOSSES[objective].__name__}"),
}
LOSSES: dict[str, type[nn.Module]] = {
    "cross_entropy": PlainCELoss,
    "weighted_cross_entropy": WeightedCELoss,
    "soft_dice": SoftDiceLoss,
    "soft_jaccard": SoftJaccardLoss,
    "lovasz_softmax": LovaszSoftmaxLoss,
}
FOREIGN = Path(__file__).parent / "foreign_bundle"
FOREIGN_ARGUMENTS = {"to_onehot_y": True, "softmax": True, "squared_pred": True, "batch": True}

slow = pytest.mark.slow
Train = Callable[[str, str], tuple[Path, CompletedProcess[str]]]


@pytest.fixture(scope="module")
def train(new_bundle: Callable[[], Path], task: Path) -> Train:
    """Trains the shipped bundle once per way and objective."""

    @cache
    def train(way: str, objective: str) -> tuple[Path, CompletedProcess[str]]:
        root = new_bundle()
        overrides = as_arguments(dataset_dir=task, epochs=1, **SMALL)
        return root, run_bundle(
            root, *WAYS[way](objective), *overrides, anew=(way, objective) == ("name", "soft_jaccard")
        )

    return train


@pytest.fixture(scope="module")
def expected_losses(new_bundle: Callable[[], Path], task: Path) -> Callable[[str], list[float]]:
    """The losses of the same training with a loss object made in Python, where no name is looked up."""

    @cache
    def expected(objective: str) -> list[float]:
        context = {"class_counts": counted_voxels(task)} if objective == "weighted_cross_entropy" else {}
        loss = LOSSES[objective](softmax=True, to_onehot_y=True, **context)
        return training_losses(new_bundle(), dataset_dir=str(task), epochs=1, loss=loss, **SMALL)

    return expected


def counted_voxels(task: Path) -> list[int]:
    labels = [np.asarray(nib.load(item["label"]).dataobj) for item in split(task, folds=SMALL["folds"]).train]
    return [sum(int((label == c).sum()) for label in labels) for c in (0, 1)]


def foreign_copy(folder: Path) -> Path:
    return Path(shutil.copytree(FOREIGN, folder / "foreign"))


def test_the_table_of_this_test_is_that_of_the_package() -> None:
    assert LOSSES == OBJECTIVES


# Every objective once, every way once and all ways for one objective: 8 runs.
@slow
@pytest.mark.parametrize(
    ("way", "objective"),
    [
        ("name", "soft_jaccard"),
        ("name", "cross_entropy"),
        ("name", "weighted_cross_entropy"),
        ("target", "soft_dice"),
        *((way, "lovasz_softmax") for way in WAYS),
    ],
)
def test_way_trains_its_objective_and_logs_a_per_image_dice(
    way: str, objective: str, train: Train, expected_losses: Callable[[str], list[float]]
) -> None:
    root, done = train(way, objective)
    assert logged("train_loss", done.stdout) == pytest.approx(expected_losses(objective), abs=LOGGED)
    (dice,) = logged("val_dice", done.stdout)
    (iou,) = logged("val_iou", done.stdout)
    assert 0 <= iou <= dice <= 1
    assert math.isfinite(dice)
    assert (root / "models" / "model.pt").is_file()
    assert [*(root / "eval").glob("events.out.tfevents.*")]
    assert warnings_in(done.stderr) == []


@slow
def test_four_ways_are_the_same_training_to_the_last_digit(train: Train) -> None:
    losses = [logged("train_loss", train(way, "lovasz_softmax")[1].stdout) for way in WAYS]
    assert len(losses[0]) == 2
    assert losses == [losses[0]] * 4


@slow
def test_objectives_differ_from_the_first_iteration(expected_losses: Callable[[str], list[float]]) -> None:
    first = [expected_losses(objective)[0] for objective in LOSSES]
    assert min(abs(a - b) for i, a in enumerate(first) for b in first[:i]) > 1e-3


@slow
def test_class_counts_are_counted_once(train: Train, task: Path) -> None:
    root, _ = train("name", "weighted_cross_entropy")
    file = root / "eval" / "class_counts.json"
    counts = np.sum(json.loads(file.read_text(encoding="utf-8"))["class_counts"], axis=0)
    assert counts.tolist() == counted_voxels(task)
    written = file.stat().st_mtime_ns
    training_losses(root, dataset_dir=str(task), epochs=1, objective="weighted_cross_entropy", **SMALL)
    assert file.stat().st_mtime_ns == written


@slow
@pytest.mark.parametrize(
    ("target", "loss", "unused"),
    [
        (
            "monai_surrogates.losses.SoftJaccardLoss",
            SoftJaccardLoss(**FOREIGN_ARGUMENTS),
            {"lambda_ce"},
        ),
        (
            "monai_surrogates.losses.LovaszSoftmaxLoss",
            LovaszSoftmaxLoss(to_onehot_y=True, softmax=True, batch=True),
            {"lambda_ce", "squared_pred"},
        ),
    ],
    ids=["soft_jaccard", "lovasz_softmax"],
)
def test_foreign_bundle_switches_by_target_alone(
    target: str, loss: nn.Module, unused: set[str], task: Path, tmp_path: Path
) -> None:
    root = foreign_copy(tmp_path)
    done = run_bundle(root, *TRAIN, "--dataset_dir", str(task), "--loss#_target_", target)
    expected = training_losses(root, dataset_dir=str(task), loss=loss)
    assert logged("train_loss", done.stdout) == pytest.approx(expected, abs=LOGGED)
    assert 0 <= logged("val_dice", done.stdout)[0] <= 1
    assert (root / "models" / "model.pt").is_file()
    # the block's other arguments, lambda_dice: 1.0 and the like, ask for nothing more
    found = [w.partition("has no use for ")[2].partition(": not used")[0] for w in warnings_in(done.stderr)]
    assert {name for names in found for name in names.split(", ")} == unused


def test_foreign_bundle_is_plain_monai_and_trains_its_own_loss_otherwise(task: Path, tmp_path: Path) -> None:
    root = foreign_copy(tmp_path)
    assert "monai_surrogates" not in (root / "configs" / "train.yaml").read_text(encoding="utf-8")
    own = training_losses(root, dataset_dir=str(task))
    switched: Any = SoftJaccardLoss(**FOREIGN_ARGUMENTS)
    assert own[0] != pytest.approx(training_losses(root, dataset_dir=str(task), loss=switched)[0], abs=1e-3)


@slow
def test_a_loss_of_monai_trains_in_our_bundle_by_target_alone(new_bundle: Callable[[], Path], task: Path) -> None:
    overrides = as_arguments(dataset_dir=task, epochs=1, **SMALL)
    done = run_bundle(new_bundle(), *TRAIN, "--loss#_target_", "monai.losses.DiceFocalLoss", *overrides)
    theirs = DiceFocalLoss(softmax=True, to_onehot_y=True)
    expected = training_losses(new_bundle(), dataset_dir=str(task), epochs=1, loss=theirs, **SMALL)
    assert logged("train_loss", done.stdout) == pytest.approx(expected, abs=LOGGED)


@slow
@pytest.mark.parametrize("objective", ["focal", "dice_focal", "generalized_dice", "top_k_cross_entropy"])
def test_objectives_of_others_train_by_name(objective: str, new_bundle: Callable[[], Path], task: Path) -> None:
    losses = training_losses(new_bundle(), dataset_dir=str(task), epochs=1, objective=objective, **SMALL)
    expected = make_loss(objective, softmax=True, to_onehot_y=True)
    assert losses == training_losses(new_bundle(), dataset_dir=str(task), epochs=1, loss=expected, **SMALL)


@slow
def test_unknown_objective_is_one_clear_message_and_leaves_nothing_behind(bundle: Path, task: Path) -> None:
    done = run_bundle(bundle, *TRAIN, "--dataset_dir", str(task), "--objective", "lovasz_sofmax", check=False)
    assert done.returncode != 0
    assert (
        f"ValueError: objective must be one of {', '.join(NAMES)}, or two of them as A_to_B, but is 'lovasz_sofmax'. "
        "Did you mean 'lovasz_softmax'?"
    ) in done.stderr
    assert {path.name for path in bundle.iterdir()} == {"configs", "docs", "LICENSE"}
