"""Per-image scores of a study, counted from the masks that evaluation wrote, and their summary."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from monai_surrogates import data
from monai_surrogates.core import Overlap, dice_score, hard_overlap, jaccard_score
from monai_surrogates.statistics import mean_interval
from monai_surrogates.study.plan import Study, StudyCell

COLUMNS = ["objective", "image", "class", "dice", "iou"]
SMALL_SAMPLE = 20  # below this many images a bootstrap interval is too narrow


def image_name(path: str) -> str:
    """``case_01`` of ``.../case_01.nii.gz``."""
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    return name.removesuffix(".gz").removesuffix(".nii")


def read_label_map(path: str) -> torch.Tensor:
    """A label map as (1, 1, N) int64; a trailing axis of length 1 does not matter."""
    return torch.from_numpy(np.asarray(nib.load(path).dataobj).astype(np.int64).reshape(1, 1, -1))


def prediction_file(cell: StudyCell, image: str) -> str:
    """The mask that evaluation wrote for an image."""
    return str(cell.prediction_dir / f"{image_name(image)}.nii.gz")


def score_cell(study: Study, cell: StudyCell) -> pd.DataFrame:
    """Dice and IoU of each evaluation image and foreground class; NaN where the reference lacks the class."""
    task = data.read_task(study.task_dir)
    items = data.split(task, study.settings.folds, cell.fold, study.settings.seed).evaluation
    rows = []
    for item in items:
        reference = read_label_map(item["label"])
        overlap = hard_overlap(read_label_map(prediction_file(cell, item["image"])), reference, task.num_classes)
        rows += _rows(cell.objective, image_name(item["image"]), overlap, task.labels)
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(objective: str, image: str, overlap: Overlap, labels: dict[int, str]) -> list[list[Any]]:
    dice, iou = dice_score(overlap)[0], jaccard_score(overlap)[0]
    return [[objective, image, name, dice[c].item(), iou[c].item()] for c, name in labels.items() if c > 0]


def best_constant_dice(study: Study, folds: list[int]) -> float | None:
    """The best mean per-image Dice of a mask that is one class everywhere; None if no reference holds foreground.

    With π the share of class c, the mask of class c scores 2π/(1 + π) for it and 0 for every other class of the image.
    """
    task = data.read_task(study.task_dir)
    rows = []
    for fold in folds:
        for item in data.split(task, study.settings.folds, fold, study.settings.seed).evaluation:
            reference = read_label_map(item["label"])
            share = reference.flatten().bincount(minlength=task.num_classes)[1:].double() / reference.numel()
            if share.any():
                rows.append((2 * share / (1 + share) / (share > 0).sum()).numpy())
    return float(np.mean(rows, axis=0).max()) if rows else None


def per_image_means(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Mean over the classes of each image; columns objective, image and the score, undefined images left out."""
    means = table.groupby(["objective", "image"], sort=False, as_index=False)[score].mean()
    return means.dropna(subset=[score])


def mean_with_interval(values: np.ndarray, seed: int = 0) -> dict[str, float | int | None]:
    """Mean over images with its 95 % bootstrap interval (BCa); None where there is none: constant scores or one image."""
    interval = mean_interval(values, seed=seed)._asdict()
    return {name: None if np.isnan(value) else value for name, value in interval.items()}


def summarise(table: pd.DataFrame, objective: str, seconds_per_epoch: float | None) -> dict[str, Any]:
    """The summary of one objective: mean per-image Dice and IoU with intervals, and the time of an epoch."""
    summary: dict[str, Any] = {"objective": objective, "status": "finished"}
    for score in ("dice", "iou"):
        means = per_image_means(table[table["objective"] == objective], score)
        summary[score] = mean_with_interval(means[score].to_numpy())
    return {**summary, "seconds_per_epoch": seconds_per_epoch}


def seconds_per_epoch(cell: StudyCell) -> float | None:
    """Median over the epochs of the time that training took, without validation, from the run's TensorBoard log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(cell.folder / "eval"))
    events.Reload()
    if "seconds_per_epoch" not in events.Tags()["scalars"]:
        return None
    return float(np.median([event.value for event in events.Scalars("seconds_per_epoch")]))
