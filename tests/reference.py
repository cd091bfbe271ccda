"""Slow NumPy versions of the definitions, written from the papers and from nothing in the package."""

from __future__ import annotations

import itertools

import numpy as np


def jaccard_loss_of_errors(wrong: np.ndarray, reference: np.ndarray) -> float:
    """1 − IoU of the reference with the prediction that differs from it exactly at ``wrong``; 0/0 counts as 1."""
    prediction = reference ^ wrong
    union = (prediction | reference).sum()
    return 0.0 if union == 0 else 1.0 - (prediction & reference).sum() / union


def lovasz_extension(errors: np.ndarray, reference: np.ndarray) -> float:
    """∫₀¹ Δ({m ≥ θ}) dθ, the definition: the set function at every level of the errors, weighted by the level's height."""
    levels = np.unique(np.concatenate([[0.0], errors]))
    return float(
        sum(
            (high - low) * jaccard_loss_of_errors(errors >= high, reference) for low, high in itertools.pairwise(levels)
        )
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over axis 0."""
    e = np.exp(logits - logits.max(0, keepdims=True))
    return e / e.sum(0, keepdims=True)


def soft_tversky_loss(p: np.ndarray, y: np.ndarray, alpha: float, beta: float, smooth: float) -> float:
    """Of one class of one image, MONAI's doubled counts."""
    hit, false_positive, false_negative = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
    return 1 - (2 * hit + smooth) / (2 * (hit + alpha * false_positive + beta * false_negative) + smooth)


def dice_and_iou(prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Of one structure of one image; NaN for a reference without a voxel."""
    if not reference.any():
        return np.nan, np.nan
    hit = np.logical_and(prediction, reference).sum()
    return 2 * hit / (prediction.sum() + reference.sum()), hit / np.logical_or(prediction, reference).sum()


def dice_and_iou_by_rule(prediction: np.ndarray, reference: np.ndarray, empty: str) -> tuple[float, float]:
    """As :func:`dice_and_iou`, but with the rule for a reference without a voxel, spelled out case by case."""
    if reference.any():
        return dice_and_iou(prediction, reference)
    nothing_predicted, something_predicted = {"ignore": (np.nan, np.nan), "score": (1, 0), "both": (np.nan, 0)}[empty]
    score = something_predicted if prediction.any() else nothing_predicted
    return score, score


def per_image_scores(prediction: np.ndarray, reference: np.ndarray, num_classes: int, empty: str) -> np.ndarray:
    """Dice and IoU of every image and class of two stacks of label maps (images, spatial...): (2, images, classes)."""
    table = [
        [dice_and_iou_by_rule(p == c, r == c, empty) for c in range(num_classes)]
        for p, r in zip(prediction, reference, strict=True)
    ]
    return np.array(table, dtype=float).transpose(2, 0, 1)


def reduce_scores(scores: np.ndarray, reduction: str) -> tuple[np.ndarray, np.ndarray]:
    """MONAI's reductions of (images, classes) and their counts; NaN where no cell is defined."""

    def mean(cells: np.ndarray) -> float:
        return cells[~np.isnan(cells)].mean() if (~np.isnan(cells)).any() else np.nan

    def total(cells: np.ndarray) -> float:
        return np.nansum(cells) if (~np.isnan(cells)).any() else np.nan

    def number(cells: np.ndarray) -> int:
        return (~np.isnan(cells)).sum()

    over_classes, over_images = list(scores), list(scores.T)
    if reduction == "mean":
        of_images = np.array([mean(image) for image in over_classes])
        return mean(of_images), number(of_images)
    if reduction == "sum":
        return total(scores), number(scores)
    if reduction == "none":
        return scores, ~np.isnan(scores)
    rows = over_images if reduction.endswith("batch") else over_classes
    function = mean if reduction.startswith("mean") else total
    return np.array([function(row) for row in rows]), np.array([number(row) for row in rows])


def counts(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Voxels of intersection, prediction and reference, (3, images, classes), of masks (images, classes, voxels...)."""
    voxels = tuple(range(2, prediction.ndim))
    return np.stack([x.sum(voxels) for x in (prediction & reference, prediction, reference)])


def mean_of_defined(cells: np.ndarray, axis: int) -> np.ndarray:
    """Mean over an axis without NaN; NaN where nothing is left."""
    rows = np.moveaxis(cells, axis, -1)
    return np.array([row[~np.isnan(row)].mean() if (~np.isnan(row)).any() else np.nan for row in rows])


def scores_of_counts(table: np.ndarray, empty: str) -> dict[str, np.ndarray]:
    """The five scores of counts (3, ...), cell by cell, the empty cases spelled out."""
    names = ("dice", "iou", "precision", "recall", "relative_volume_error")
    scores = {name: np.empty(table.shape[1:]) for name in names}
    for cell in np.ndindex(table.shape[1:]):
        hit, prediction, reference = (int(counts[cell]) for counts in table)
        if reference:
            values = (
                2 * hit / (prediction + reference),
                hit / (prediction + reference - hit),
                hit / prediction if prediction else np.nan,
                hit / reference,
                (prediction - reference) / reference,
            )
        elif empty == "ignore" or (empty == "both" and not prediction):
            values = (np.nan,) * 5
        else:
            values = (0, 0, 0, 0, np.nan) if prediction else (1, 1, 1, 1, 0)
        for name, value in zip(names, values, strict=True):
            scores[name][cell] = value
    return scores


def fine_grained_means(prediction: np.ndarray, reference: np.ndarray, num_classes: int) -> dict[str, float]:
    """The three means of IoU of arXiv 2310.19252, of classes that the reference holds."""
    cells = per_image_scores(prediction, reference, num_classes, "ignore")[1]
    pooled = per_image_scores(prediction.reshape(1, -1), reference.reshape(1, -1), num_classes, "ignore")[1][0]
    return {
        "miou_d": pooled[~np.isnan(pooled)].mean(),
        "miou_i": np.mean([image[~np.isnan(image)].mean() for image in cells]),
        "miou_c": np.mean([column[~np.isnan(column)].mean() for column in cells.T if (~np.isnan(column)).any()]),
    }
