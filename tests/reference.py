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
