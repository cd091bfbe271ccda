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
    """As :func:`dice_and_iou`, but a reference without a voxel scores what the rule says, spelled out case by case."""
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
