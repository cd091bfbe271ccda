"""Plots of a study: the distribution of scores per objective, and one image with all predictions."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_surrogates import data
from monai_surrogates.data.files import write_atomically
from monai_surrogates.data.nifti import read_labels
from monai_surrogates.study.plan import Study, StudyRun
from monai_surrogates.study.summary import image_name, prediction_file

REFERENCE_COLOUR, PREDICTION_COLOUR = "#ffd23f", "#ee4266"


def plot_per_image(means: pd.DataFrame, objectives: list[str], path: Path) -> None:
    """One dot per image and a box per objective, Dice beside IoU, from :func:`~monai_surrogates.study.summary.image_means`."""
    figure = Figure(figsize=(11, 0.7 * len(objectives) + 1.6), layout="constrained")
    for axes, score, name in zip(figure.subplots(1, 2, sharey=True), ("dice", "iou"), ("Dice", "IoU"), strict=True):
        values = [means.loc[means["objective"] == o, score].dropna().to_numpy() for o in objectives]
        axes.boxplot(values, orientation="horizontal", showfliers=False, showmeans=True, widths=0.5)
        jitter = np.random.default_rng(0)
        for row, dots in enumerate(values, start=1):
            axes.scatter(dots, row + jitter.uniform(-0.15, 0.15, len(dots)), s=14, alpha=0.6)
        axes.set(xlabel=f"per-image {name}", xlim=(-0.02, 1.02))
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].set_yticks(range(1, len(objectives) + 1), objectives)
    figure.axes[0].invert_yaxis()
    figure.suptitle("Each dot is an image; box: quartiles, triangle: mean")
    _save(figure, path)


def plot_case(study: Study, runs: list[StudyRun], means: pd.DataFrame, path: Path) -> bool:
    """Reference and predictions of the image of median Dice, in the slice with the largest reference.

    Returns:
        False if there is no such image, because no reference of the fold holds foreground.
    """
    case = _median_case(study, runs, means)
    if case is None:
        return False
    item, dice = case
    image, reference = _volume(item["image"]), read_labels(item["label"])
    slice_ = int((reference > 0).sum(axis=(0, 1)).argmax())
    background = image[:, :, slice_, 0]
    figure = Figure(figsize=(2.6 * (len(runs) + 2), 3.4), layout="constrained")
    panels = figure.subplots(1, len(runs) + 2)
    _panel(panels[0], background, "image")
    _panel(panels[1], background, "reference", (reference[..., slice_], REFERENCE_COLOUR))
    for axes, run in zip(panels[2:], runs, strict=True):
        prediction = read_labels(prediction_file(run, item["image"]))
        outlines = ((prediction[..., slice_], PREDICTION_COLOUR), (reference[..., slice_], REFERENCE_COLOUR))
        _panel(axes, background, f"{run.objective}\nDice {dice[run.objective]:.2f} (whole image)", *outlines)
    figure.suptitle(f"{image_name(item['image'])}, slice {slice_}: reference yellow, prediction red")
    _save(figure, path)
    return True


def _median_case(
    study: Study, runs: list[StudyRun], means: pd.DataFrame
) -> tuple[dict[str, str], dict[str, float]] | None:
    fold = runs[0].fold
    items = data.split(study.task_dir, study.settings.folds, fold, study.settings.seed).evaluation
    by_name = {image_name(item["image"]): item for item in items}
    dice = means.dropna(subset=["dice"]).pivot(index="image", columns="objective", values="dice")
    dice = dice.loc[[name for name in by_name if name in dice.index]]
    if dice.empty:
        return None
    order = dice.mean(axis=1).sort_values(kind="stable")
    name = order.index[len(order) // 2]
    return by_name[name], dice.loc[name].to_dict()


def _panel(axes: Axes, background: np.ndarray, title: str, *outlines: tuple[np.ndarray, str]) -> None:
    axes.imshow(background.T, cmap="gray", origin="lower", interpolation="nearest")
    for mask, colour in outlines:
        if (mask > 0).any():
            axes.contour((mask > 0).T.astype(float), levels=[0.5], colors=[colour], linewidths=1.4)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def _volume(path: str) -> np.ndarray:
    """(H, W, D, channels)."""
    volume = np.asarray(nib.load(path).dataobj)
    return volume.reshape(*volume.shape[:3], -1)


def _save(figure: Figure, path: Path) -> None:
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(path, picture.getvalue())
