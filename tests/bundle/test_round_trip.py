"""From training to masks on disk: the written masks are the scored ones, on the grid of the input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from monai_surrogates.data import split
from tests.bundle.runs import PATCH, SMALL, as_arguments, run_bundle, run_workflow, warnings_in

pytestmark = pytest.mark.slow

EVALUATE = ("--config_file", "['configs/train.yaml','configs/evaluate.yaml']")
INFER = ("--config_file", "configs/inference.yaml")


@pytest.fixture(scope="module")
def trained(new_bundle: Callable[[], Path], task: Path) -> Path:
    """A bundle that was trained and evaluated on the task and has written its masks of imagesTs."""
    root = new_bundle()
    overrides = as_arguments(dataset_dir=task, objective="cross_entropy", **SMALL)
    for done in (
        run_bundle(root, "--config_file", "configs/train.yaml", *overrides, "--epochs", "2"),
        run_bundle(root, *EVALUATE, *overrides),
        run_bundle(root, *INFER, *as_arguments(dataset_dir=task, patch_size=PATCH)),
    ):
        assert warnings_in(done.stderr) == []
    return root


@pytest.fixture(scope="module")
def turned_task(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same task, every file stored with its axes permuted and flipped; in the world nothing has moved."""
    root = tmp_path_factory.mktemp("data") / "turned"
    for number, file in enumerate(sorted(task.glob("*/*.nii.gz"))):
        codes = (("S", "R", "A"), ("P", "I", "L"))[int(file.name[-8]) % 2]  # by image, the same for its label
        image = nib.load(file)
        turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))
        assert nib.aff2axcodes(turned.affine) == codes, number
        (root / file.parent.name).mkdir(parents=True, exist_ok=True)
        nib.save(turned, root / file.relative_to(task))
    (root / "dataset.json").write_bytes((task / "dataset.json").read_bytes())
    return root


@pytest.fixture(scope="module")
def organ_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, one channel, 3D images as the Decathlon stores CT, with the files macOS leaves on a disk."""
    root = tmp_path_factory.mktemp("data") / "Task99_Organ"
    rng = np.random.default_rng(3)
    affine = np.array([[0.0, -1.5, 0.0, 9.0], [-1.5, 0.0, 0.0, 7.0], [0.0, 0.0, 4.0, -20.0], [0.0, 0.0, 0.0, 1.0]])
    x, y, z = np.meshgrid(*(np.arange(size) for size in (24, 20, 12)), indexing="ij")
    for suffix, count in (("Tr", 6), ("Ts", 1)):
        for number in range(count):
            distance = np.hypot(np.hypot(x - 11 - number, y - 10), 2 * (z - 6))
            label = (distance < 8).astype(np.uint8) + (distance < 4)
            image = (100 * label + rng.normal(0, 20, label.shape)).astype(np.int16)
            for folder, voxels in ((f"images{suffix}", image), (f"labels{suffix}", label)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(voxels, affine), root / folder / f"organ_{number:03d}.nii.gz")
                (root / folder / f"._organ_{number:03d}.nii.gz").write_bytes(b"\0\5\26\7")
    names = [f"organ_{number:03d}.nii.gz" for number in range(6)]
    description = {
        "name": "Organ",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ", "2": "tumour"},
        "numTraining": 6,
        "numTest": 1,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": ["./imagesTs/organ_000.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def organ_bundle(new_bundle: Callable[[], Path], organ_task: Path) -> Path:
    """A bundle that was trained, evaluated and used on the organ task."""
    root = new_bundle()
    overrides = {"dataset_dir": str(organ_task), **SMALL, "val_interval": 6}
    run_workflow(root, "train", epochs=6, objective="cross_entropy", learning_rate=0.01, **overrides)
    run_workflow(root, "train", "evaluate", **overrides)
    run_workflow(root, "inference", workflow_type="infer", dataset_dir=str(organ_task), patch_size=PATCH, num_workers=0)
    return root


def voxels(file: Path) -> np.ndarray:
    return np.asarray(nib.load(file).dataobj)


def table(root: Path, metric: str) -> dict[str, list[float]]:
    """Rows of eval/<metric>_raw.csv: image name to one score per class, the mean last."""
    with (root / "eval" / f"{metric}_raw.csv").open(encoding="utf-8", newline="") as stream:
        rows = [*csv.reader(stream)][1:]
    assert len({row[0] for row in rows}) == len(rows)
    return {Path(row[0]).name: [float(value) for value in row[1:]] for row in rows}


def scores(root: Path, task: Path, image: str, num_classes: int) -> tuple[list[float], list[float]]:
    """Dice and IoU of the written mask with the reference, foreground classes and their mean."""
    mask, reference = voxels(root / "eval" / "predictions" / image), voxels(task / "labelsTr" / image)
    both = [int(((mask == c) & (reference == c)).sum()) for c in range(1, num_classes)]
    sizes = [(int((mask == c).sum()), int((reference == c).sum())) for c in range(1, num_classes)]
    dice = [2 * i / (p + r) if r else np.nan for i, (p, r) in zip(both, sizes, strict=True)]
    iou = [i / (p + r - i) if r else np.nan for i, (p, r) in zip(both, sizes, strict=True)]
    return [*dice, float(np.nanmean(dice))], [*iou, float(np.nanmean(iou))]


def assert_table_matches_masks(root: Path, task: Path, num_classes: int) -> None:
    dice, iou = table(root, "val_dice"), table(root, "val_iou")
    scored = {Path(item["image"]).name for item in split(task, folds=SMALL["folds"]).evaluation}
    assert {*dice} == {*iou} == scored
    for image in scored:
        expected_dice, expected_iou = scores(root, task, image, num_classes)
        assert dice[image] == pytest.approx(expected_dice, abs=1e-15, nan_ok=True)
        assert iou[image] == pytest.approx(expected_iou, abs=1e-15, nan_ok=True)


def assert_on_the_grid_of(mask_file: Path, image_file: Path) -> None:
    mask, image = nib.load(mask_file), nib.load(image_file)
    assert mask.shape == image.shape[:3]
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, image.affine)


def masks(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.nii.gz"))


def test_table_holds_the_scores_of_the_written_masks(trained: Path, task: Path) -> None:
    assert_table_matches_masks(trained, task, num_classes=2)


def test_metrics_file_holds_the_mean_over_images(trained: Path) -> None:
    lines = (trained / "eval" / "metrics.csv").read_text(encoding="utf-8").split()
    means = {name: float(value) for name, value in (line.split(",") for line in lines)}
    for metric in ("val_dice", "val_iou"):
        per_image = [values[-1] for values in table(trained, metric).values()]
        assert means[metric] == pytest.approx(np.nanmean(per_image), abs=1e-6)
        assert means[f"{metric}/defined"] == len(per_image)


def test_masks_lie_on_the_grid_of_their_images(trained: Path, task: Path) -> None:
    written = masks(trained / "eval" / "predictions")
    assert [file.name for file in written] == sorted(table(trained, "val_dice"))
    for file in written:
        assert_on_the_grid_of(file, task / "imagesTr" / file.name)
    written = masks(trained / "predictions")
    assert [file.name for file in written] == [file.name for file in masks(task / "imagesTs")]
    for file in written:
        assert_on_the_grid_of(file, task / "imagesTs" / file.name)


def test_flipped_and_permuted_files_give_the_same_scores_and_the_same_masks(
    trained: Path, task: Path, turned_task: Path, new_bundle: Callable[[], Path]
) -> None:
    root = new_bundle()
    checkpoint = str(trained / "models" / "model.pt")
    run_workflow(root, "train", "evaluate", dataset_dir=str(turned_task), ckpt_path=checkpoint, **SMALL)
    assert_table_matches_masks(root, turned_task, num_classes=2)
    assert table(root, "val_dice") == table(trained, "val_dice")
    for file in masks(root / "eval" / "predictions"):
        assert_on_the_grid_of(file, turned_task / "imagesTr" / file.name)
        back = nib.as_closest_canonical(nib.load(file))
        straight = nib.as_closest_canonical(nib.load(trained / "eval" / "predictions" / file.name))
        np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(straight.dataobj))


def test_inference_on_flipped_and_permuted_files_without_a_data_set_description(
    trained: Path, turned_task: Path, new_bundle: Callable[[], Path], tmp_path: Path
) -> None:
    root = new_bundle()
    run_workflow(
        root,
        "inference",
        workflow_type="infer",
        dataset_dir=str(tmp_path / "absent"),
        datalist=[str(file) for file in masks(turned_task / "imagesTs")],
        in_channels=2,
        num_classes=2,
        patch_size=PATCH,
        num_workers=0,
        ckpt_path=str(trained / "models" / "model.pt"),
    )
    written = masks(root / "predictions")
    assert len(written) == 2
    for file in written:
        assert_on_the_grid_of(file, turned_task / "imagesTs" / file.name)
        back = nib.as_closest_canonical(nib.load(file))
        straight = nib.as_closest_canonical(nib.load(trained / "predictions" / file.name))
        np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(straight.dataobj))


def test_three_classes_and_one_channel(organ_bundle: Path, organ_task: Path) -> None:
    assert_table_matches_masks(organ_bundle, organ_task, num_classes=3)
    means = [values[-1] for values in table(organ_bundle, "val_dice").values()]
    assert np.mean(means) > 0.3  # bright spheres: six epochs find them, so that the masks are not empty or full
    for file in masks(organ_bundle / "eval" / "predictions"):
        assert_on_the_grid_of(file, organ_task / "imagesTr" / file.name)
    (mask,) = masks(organ_bundle / "predictions")
    assert_on_the_grid_of(mask, organ_task / "imagesTs" / "organ_000.nii.gz")
    assert {*np.unique(voxels(mask))} <= {0, 1, 2}


def test_images_that_trained_are_not_scored(trained: Path) -> None:
    counted = json.loads((trained / "eval" / "class_counts.json").read_text(encoding="utf-8"))
    trained_on = {Path(label).name for label, *_ in counted["fingerprint"]["files"]}
    assert trained_on
    assert not trained_on & {*table(trained, "val_dice")}
