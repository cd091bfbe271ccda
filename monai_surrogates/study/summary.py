"""The summary of a study: per-image scores of the masks that evaluation wrote, their means and intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from monai_surrogates import data
from monai_surrogates.core import Overlap, ScoreTable, hard_overlap
from monai_surrogates.data.nifti import iter_label_pairs, value_counts
from monai_surrogates.statistics import mean_interval
from monai_surrogates.study.plan import Study, StudyRun

STUDY_SCORES = ("dice", "iou")
COLUMNS = ["objective", "image", "class", *STUDY_SCORES]
SMALL_SAMPLE = 20  # below this many images a bootstrap interval is too narrow


def image_name(path: str) -> str:
    """``case_01`` of ``.../case_01.nii.gz``."""
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    return name.removesuffix(".gz").removesuffix(".nii")


def overlap_of_files(prediction: str, reference: str, num_classes: int) -> Overlap:
    """The counts (1, C) of a predicted label map and its reference, both NIfTI files, added up slab by slab."""
    pairs = iter_label_pairs(prediction, reference)
    return reduce(Overlap.plus, (hard_overlap(_one_image(p), _one_image(r), num_classes) for p, r in pairs))


def _one_image(labels: np.ndarray) -> torch.Tensor:
    """A batch (1, 1, H, W, d)."""
    return torch.from_numpy(labels.astype(np.int64))[None, None]


def prediction_file(run: StudyRun, image: str) -> str:
    """The path of the mask that evaluation wrote for an image."""
    return str(run.prediction_dir / f"{image_name(image)}.nii.gz")


class ScoredRun(NamedTuple):
    """The evaluation images of an objective and fold.

    Attributes:
        objective: its name.
        images: names of the images.
        table: their scores, one row per image and one column per foreground class.
    """

    objective: str
    images: tuple[str, ...]
    table: ScoreTable


def score_run(study: Study, run: StudyRun) -> ScoredRun:
    """Score the evaluation images of a run; a class without reference has no score in that image."""
    task = data.read_task(study.task_dir)
    items = data.split(task, study.settings.folds, run.fold, study.settings.seed).evaluation
    overlaps = []
    for item in items:
        overlaps.append(overlap_of_files(prediction_file(run, item["image"]), item["label"], task.num_classes))
    counts = Overlap(*(torch.cat(of_images)[:, 1:] for of_images in zip(*overlaps, strict=True)))
    images = tuple(image_name(item["image"]) for item in items)
    return ScoredRun(run.objective, images, ScoreTable(counts, tuple(task.labels.values())[1:]))


def class_scores(scored: Iterable[ScoredRun]) -> pd.DataFrame:
    """The scores, one row per image and class, in the columns :data:`COLUMNS`; undefined ones are NaN."""
    rows = [
        (objective, image, label, *scores)
        for objective, images, table in scored
        for image, *of_image in zip(images, *(table.per_image[score].tolist() for score in STUDY_SCORES), strict=True)
        for label, *scores in zip(table.labels, *of_image, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def image_means(scored: Iterable[ScoredRun]) -> pd.DataFrame:
    """The mean scores over the classes, one row per image: objective, image, dice, iou; undefined ones are NaN."""
    rows = [
        (objective, image, *means)
        for objective, images, table in scored
        for image, *means in zip(images, *(table.image_means[score].tolist() for score in STUDY_SCORES), strict=True)
    ]
    return pd.DataFrame(rows, columns=["objective", "image", *STUDY_SCORES])


def best_constant_dice(study: Study, folds: list[int]) -> float | None:
    """The best mean per-image Dice of a mask that is one class everywhere; None if no reference holds foreground."""
    task = data.read_task(study.task_dir)
    volumes = []
    for fold in folds:
        for item in data.split(task, study.settings.folds, fold, study.settings.seed).evaluation:
            voxels = value_counts(item["label"])
            volumes.append(torch.tensor([voxels[label] for label in task.labels]))
    return dice_of_constant_masks(torch.stack(volumes))


def dice_of_constant_masks(volumes: torch.Tensor) -> float | None:
    """The best mean per-image Dice of a mask that is one class everywhere, from the references alone.

    A mask of class c everywhere has N voxels of c, so that it scores 2|B|/(N + |B|) for c and 0 for every other class of the
    image.

    Args:
        volumes: |B| of each image and class, the background first, (images, classes), in voxels.

    Returns:
        The best of the foreground classes; None if no reference holds foreground.
    """
    everywhere, references = volumes.sum(1, keepdim=True), volumes[:, 1:]
    labels = tuple(map(str, range(1, volumes.shape[1])))
    masks = torch.eye(len(labels), dtype=volumes.dtype)
    tables = [ScoreTable(Overlap(references * mask, everywhere * mask, references), labels) for mask in masks]
    best = max(table.aggregate["dice"] for table in tables)
    return None if math.isnan(best) else best


def mean_with_interval(values: np.ndarray, seed: int = 0) -> dict[str, float | int | None]:
    """Mean over images with its 95 % bootstrap interval (BCa); ends are None for constant scores or a single image."""
    interval = mean_interval(values, seed=seed)._asdict()
    return {name: None if np.isnan(value) else value for name, value in interval.items()}


def summarise(means: pd.DataFrame, objective: str, seconds_per_epoch: float | None) -> dict[str, Any]:
    """The summary of one objective: mean per-image Dice and IoU with intervals, and the time of an epoch."""
    summary: dict[str, Any] = {"objective": objective, "status": "finished"}
    for score in STUDY_SCORES:
        summary[score] = mean_with_interval(means.loc[means["objective"] == objective, score].to_numpy())
    return {**summary, "seconds_per_epoch": seconds_per_epoch}
