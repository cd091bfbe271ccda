import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_surrogates import data
from monai_surrogates.core import Overlap, ScoreTable
from monai_surrogates.metrics import PerImageScores
from monai_surrogates.study import Study
from monai_surrogates.study.summary import (
    ScoredRun,
    best_constant_dice,
    class_scores,
    dice_of_constant_masks,
    image_means,
    image_name,
    mean_with_interval,
    overlap_of_files,
    prediction_file,
    score_run,
    summarise,
)
from tests.reference import dice_and_iou


@pytest.mark.parametrize("values", [[], [0.7], [0.7, 0.7, 0.7]])
def test_the_ends_of_an_undefined_interval_are_none(values):
    result = mean_with_interval(np.array(values))
    assert result["images"] == len(values)
    assert result["low"] is result["high"] is None
    assert (result["mean"] is None) if not values else result["mean"] == pytest.approx(0.7)


@pytest.fixture
def two_folds():
    """Dice of liver and tumour: 4/5 and none, 3/5 and 1/5 on one fold; none and none on the other."""
    folds = [(("a", "b"), [[(4, 5, 5), (0, 2, 0)], [(3, 5, 5), (1, 5, 5)]]), (("c",), [[(0, 1, 0), (0, 0, 0)]])]
    return [
        ScoredRun("soft_dice", images, ScoreTable(Overlap(*torch.tensor(counts).unbind(-1)), ("liver", "tumour")))
        for images, counts in folds
    ]


def test_every_image_and_class_has_a_row(two_folds):
    assert class_scores(two_folds).to_csv(index=False, float_format="%.3f").split() == [
        "objective,image,class,dice,iou",
        "soft_dice,a,liver,0.800,0.667",
        "soft_dice,a,tumour,,",
        "soft_dice,b,liver,0.600,0.429",
        "soft_dice,b,tumour,0.200,0.111",
        "soft_dice,c,liver,,",
        "soft_dice,c,tumour,,",
    ]
    assert class_scores([]).to_csv(index=False) == "objective,image,class,dice,iou\n"


def test_an_image_is_the_mean_of_its_defined_classes_and_undefined_images_do_not_count(two_folds):
    means = image_means(two_folds)
    assert means["image"].tolist() == ["a", "b", "c"]
    assert means["dice"].tolist() == pytest.approx([0.8, 0.4, math.nan], nan_ok=True)
    summary = summarise(means, "soft_dice", 1.5)
    assert summary["dice"]["mean"] == pytest.approx(0.6)
    assert summary["iou"]["mean"] == pytest.approx((2 / 3 + (3 / 7 + 1 / 9) / 2) / 2)
    assert summary["dice"]["images"] == 2
    assert summary["seconds_per_epoch"] == 1.5


def test_a_study_and_a_metric_give_the_same_interval_of_the_same_masks():
    prediction, reference = torch.randint(0, 4, (2, 12, 1, 3, 4), generator=torch.Generator().manual_seed(0))
    metric = PerImageScores(num_classes=4, include_background=False)
    metric(prediction, reference)
    scored = ScoredRun("soft_dice", tuple("abcdefghijkl"), metric.table())
    summary = summarise(image_means([scored]), "soft_dice", None)
    assert summary["dice"] == metric.interval("dice")._asdict()
    assert summary["iou"] == metric.interval("iou")._asdict()


def test_a_mask_of_one_class_everywhere_scores_that_class_alone():
    # 2|B|/(N + |B|) of the class, 0 for the other one where it is there, N = 10
    volumes = torch.tensor([[5, 5, 0], [4, 2, 4], [10, 0, 0]])
    first, second = (10 / 15 + 4 / 12 / 2) / 2, (0 + 8 / 14 / 2) / 2
    assert first > second
    assert dice_of_constant_masks(volumes) == pytest.approx(first)
    assert dice_of_constant_masks(volumes[:, [0, 2, 1]]) == pytest.approx(first)
    assert dice_of_constant_masks(volumes[2:]) is None


@pytest.mark.parametrize("path", ["/data/case_01.nii.gz", "case_01.nii", "C:\\data\\case_01.nii.gz"])
def test_names_of_images(path):
    assert image_name(path) == "case_01"


def masks(folder, prediction, reference):
    """Two label maps on disk, predicted and reference."""
    paths = str(folder / "prediction.nii.gz"), str(folder / "reference.nii.gz")
    for path, voxels in zip(paths, (prediction, reference), strict=True):
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return paths


def random_labels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def counts_of(prediction, reference):
    """|A ∩ B|, |A| and |B| of the classes 0 to 2, by NumPy."""
    sides = [[(mask == c) for c in range(3)] for mask in (prediction, reference)]
    both = [(a & b).sum() for a, b in zip(*sides, strict=True)]
    return [[both], *([[a.sum() for a in side]] for side in sides)]


@pytest.mark.parametrize("depth", [1, 7, 90])  # in one slab and in several
def test_files_are_counted_as_arrays_are(tmp_path, depth):
    prediction, reference = (random_labels((128, 128, depth), seed) for seed in (1, 2))
    overlap = overlap_of_files(*masks(tmp_path, prediction, reference), 3)
    assert [counts.tolist() for counts in overlap] == counts_of(prediction, reference)


@pytest.mark.parametrize("shape", [(6, 5, 1), (6, 5, 4)])
def test_a_mask_with_or_without_an_axis_of_length_1_is_the_same_mask(tmp_path, shape):
    prediction, reference = random_labels(shape, 1), random_labels(shape, 2)
    stored = prediction[..., 0] if shape[-1] == 1 else prediction[..., None]  # MONAI's writer drops such axes
    overlap = overlap_of_files(*masks(tmp_path, stored, reference), 3)
    assert [counts.tolist() for counts in overlap] == counts_of(prediction, reference)


def test_labels_with_the_noise_of_a_header_s_slope_count_as_what_they_are(tmp_path):
    prediction, reference = random_labels((6, 5, 4), 1), random_labels((6, 5, 4), 2)
    overlap = overlap_of_files(*masks(tmp_path, prediction.astype(np.float32) - 1e-4, reference), 3)
    assert [counts.tolist() for counts in overlap] == counts_of(prediction, reference)


@pytest.fixture
def scored(task, tmp_path, tiny):
    """A study whose only run predicted every reference to the voxel."""
    study = Study.prepare(tmp_path / "out", ["soft_dice"], tiny, task, progress=False)
    (run,) = study.runs
    run.prediction_dir.mkdir(parents=True)
    items = data.split(study.task_dir, study.settings.folds, 0, study.settings.seed).evaluation
    for item in items:
        Path(prediction_file(run, item["image"])).write_bytes(Path(item["label"]).read_bytes())
    return study, run, items


def changed(run, item, change):
    """The prediction of an item, rewritten."""
    path = prediction_file(run, item["image"])
    volume = nib.load(path)
    voxels = change(np.asarray(volume.dataobj).copy())
    nib.save(nib.Nifti1Image(voxels, volume.affine), path)
    return voxels


def test_the_scores_of_a_run_are_those_of_its_masks(scored):
    study, run, items = scored
    assert (class_scores([score_run(study, run)])[["dice", "iou"]] == 1).all(axis=None)
    mask = changed(run, items[0], lambda voxels: np.where(np.arange(8) < 4, voxels, 1).astype(np.uint8))
    row = class_scores([score_run(study, run)]).iloc[0]
    reference = np.asarray(nib.load(items[0]["label"]).dataobj)
    assert (row["dice"], row["iou"]) == pytest.approx(dice_and_iou(mask == 1, reference == 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.transpose, r"expected the shape \(16, 16, 8\) of its reference {label}, found \(8, 16, 16\); resample"),
        (lambda mask: mask[..., 1:], r"expected the shape \(16, 16, 8\) of its reference {label}, found \(16, 16, 7\)"),
        (
            lambda mask: mask.astype(np.float32) + np.float32(0.3),
            "expected whole numbers as labels, found 0.3; resample",
        ),
        (
            lambda mask: np.where(mask > 0, np.nan, mask).astype(np.float32),
            "expected whole numbers as labels, found nan",
        ),
    ],
    ids=["transposed", "cut", "fractions", "nan"],
)
def test_a_mask_that_is_not_one_of_its_reference_is_refused_by_name(scored, change, said):
    study, run, items = scored
    changed(run, items[0], change)
    path = prediction_file(run, items[0]["image"])
    with pytest.raises(data.DataError, match=rf"{path}: {said.format(label=items[0]['label'])}"):
        score_run(study, run)


def test_the_best_mask_of_one_class_is_that_of_the_shares(scored):
    study, _, items = scored
    shares = [float((np.asarray(nib.load(item["label"]).dataobj) == 1).mean()) for item in items]
    assert best_constant_dice(study, [0]) == pytest.approx(np.mean([2 * share / (1 + share) for share in shares]))
