"""Class weights and structure volumes from the training labels, chosen by config and counted once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from monai_surrogates.core import class_weights
from monai_surrogates.data import counts, split
from monai_surrogates.losses import SoftDiceLoss, SoftJaccardLoss, WeightedCELoss
from tests.bundle.runs import (
    LOGGED,
    PATCH,
    SMALL,
    as_arguments,
    logged,
    open_workflow,
    run_bundle,
    training_losses,
    warnings_in,
)

WEIGHTED = {"objective": "weighted_cross_entropy"}
FLAGS = {"softmax": True, "to_onehot_y": True}
SMOOTHED = (
    *("soft_dice", "soft_jaccard", "soft_dice_ce", "soft_jaccard_ce"),
    *("cross_entropy_to_soft_dice", "weighted_cross_entropy_to_soft_jaccard_ce"),
)


@pytest.fixture
def own_task(task: Path, tmp_path: Path) -> Path:
    """A copy of the task whose labels may be changed."""
    return Path(shutil.copytree(task, tmp_path / "task"))


def voxels_per_image(task: Path, **arguments: Any) -> np.ndarray:
    """Voxels of background and lesion in each training image, by NumPy."""
    labels = [nib.load(item["label"]).get_fdata() for item in split(task, folds=SMALL["folds"], **arguments).train]
    return np.array([[(label == c).sum() for c in (0, 1)] for label in labels])


def mean_volumes(task: Path) -> list[float]:
    """Of each class where it occurs; no more of it fits into a patch than the patch has voxels."""
    table = np.minimum(voxels_per_image(task), np.prod(PATCH))
    return [column[column > 0].mean() for column in table.T]


def built_loss(root: Path, task: Path, **overrides: Any) -> Any:
    workflow = open_workflow(root, "train", dataset_dir=str(task), **overrides, **SMALL)
    return workflow.parser.get_parsed_content("loss")


def add_voxels(label: Path, number: int) -> None:
    image = nib.load(label)
    voxels = np.asarray(image.dataobj).copy()
    voxels.flat[np.flatnonzero(voxels == 0)[:number]] = 1
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), label)


@pytest.mark.parametrize("weighting", ["inverse_frequency", "median_frequency", "effective_number"])
def test_one_value_chooses_the_class_weights(weighting: str, bundle: Path, task: Path) -> None:
    loss = built_loss(bundle, task, **WEIGHTED, class_weighting=weighting)
    expected = class_weights(voxels_per_image(task).sum(0), weighting)
    torch.testing.assert_close(loss.class_weight, expected, rtol=1e-12, atol=0)


def smoothing_part(loss: nn.Module) -> SoftDiceLoss | SoftJaccardLoss:
    """The loss itself, or the one part of a schedule that smooths."""
    (part,) = [part for part in loss.modules() if isinstance(part, (SoftDiceLoss, SoftJaccardLoss))]
    return part


@pytest.mark.parametrize(
    ("configs", "overrides"),
    [
        *(((), {"objective": name}) for name in SMOOTHED),
        (("schedule",), {}),
    ],
    ids=[*SMOOTHED, "schedule by overlay"],
)
def test_one_value_chooses_the_smoothing(
    configs: tuple[str, ...], overrides: dict[str, Any], bundle: Path, task: Path
) -> None:
    smoothed, plain = (
        smoothing_part(
            open_workflow(
                bundle, "train", *configs, dataset_dir=str(task), **overrides, **choice, **SMALL
            ).parser.get_parsed_content("loss")
        )
        for choice in ({"smoothing": "structure_volume"}, {})
    )
    assert smoothed.structure_volumes.tolist() == mean_volumes(task)
    assert plain.structure_volumes is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "loss"),
    [
        (
            {**WEIGHTED, "class_weighting": "effective_number"},
            lambda task: WeightedCELoss(
                **FLAGS, weight="effective_number", class_counts=voxels_per_image(task).sum(0).tolist()
            ),
        ),
        (
            {"objective": "soft_jaccard", "smoothing": "structure_volume"},
            lambda task: SoftJaccardLoss(**FLAGS, smoothing="structure_volume", structure_volumes=mean_volumes(task)),
        ),
    ],
    ids=["class weights", "smoothing"],
)
def test_a_choice_by_config_trains_as_the_loss_made_in_python(
    choice: dict[str, str], loss: Callable[[Path], Any], new_bundle: Callable[[], Path], task: Path
) -> None:
    root = new_bundle()
    done = run_bundle(
        root, "--config_file", "configs/train.yaml", *as_arguments(dataset_dir=task, epochs=1, **choice, **SMALL)
    )
    expected = training_losses(new_bundle(), dataset_dir=str(task), epochs=1, loss=loss(task), **SMALL)
    assert logged("train_loss", done.stdout) == pytest.approx(expected, abs=LOGGED)
    assert warnings_in(done.stderr) == []
    assert [path.name for path in (root / "eval").glob("*.json")] == ["class_counts.json"]


@pytest.mark.slow
def test_a_smoothing_that_an_objective_does_not_know_is_one_warning(new_bundle: Callable[[], Path], task: Path) -> None:
    choice = {"objective": "lovasz_softmax", "smoothing": "structure_volume"}
    done = run_bundle(
        new_bundle(),
        "--config_file",
        "configs/train.yaml",
        *as_arguments(dataset_dir=task, epochs=1, **choice, **SMALL),
    )
    (warning,) = warnings_in(done.stderr)
    assert "LovaszSoftmaxLoss has no use for smoothing: not used." in warning


def test_the_labels_are_counted_once_for_both_and_again_after_a_change(
    bundle: Path, own_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    count = counts._count_image
    monkeypatch.setattr(counts, "_count_image", lambda path, *rest: opened.append(path) or count(path, *rest))
    file = bundle / "eval" / "class_counts.json"
    images = len(voxels_per_image(own_task))

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        return (
            built_loss(bundle, own_task, **WEIGHTED).class_weight,
            built_loss(bundle, own_task, smoothing="structure_volume").structure_volumes,
        )

    first = both()
    assert len(opened) == images  # one pass for counts and volumes, and none for the second run
    both()
    assert len(opened) == images

    changed = Path(split(own_task, folds=SMALL["folds"]).train[0]["label"])
    add_voxels(changed, 100)
    second = both()
    assert len(opened) == 2 * images
    torch.testing.assert_close(second[0], class_weights(voxels_per_image(own_task).sum(0)), rtol=1e-12, atol=0)
    assert second[1].tolist() == mean_volumes(own_task)
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    other_fold = built_loss(bundle, own_task, **WEIGHTED, fold=1).class_weight
    assert len(opened) > 2 * images
    torch.testing.assert_close(other_fold, class_weights(voxels_per_image(own_task, fold=1).sum(0)), rtol=1e-12, atol=0)
    stored = json.loads(file.read_text(encoding="utf-8"))
    assert np.array(stored["class_counts"]).tolist() == voxels_per_image(own_task, fold=1).tolist()


def test_the_counts_are_saved_where_the_config_says(bundle: Path, task: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "counts.json"
    built_loss(bundle, task, **WEIGHTED, class_counts_file=str(file))
    assert file.is_file()
    assert not os.path.lexists(bundle / "eval" / "class_counts.json")


def test_volumes_in_voxels_of_resampled_images_can_be_given(bundle: Path, task: Path) -> None:
    loss = built_loss(bundle, task, smoothing="structure_volume", structure_volumes=[900.0, 70.0])
    assert isinstance(loss, SoftDiceLoss)
    assert loss.structure_volumes.tolist() == [900.0, 70.0]
