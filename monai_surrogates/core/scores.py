"""Dice, Jaccard and Tversky of an overlap, soft or hard, and the one rule for empty masks."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_surrogates.core.overlap import Overlap

EMPTY_RULES = ("ignore", "score", "both")


def tversky_index(
    overlap: Overlap,
    alpha: float,
    beta: float,
    *,
    scale: float = 1.0,
    smooth_nr: float = 0.0,
    smooth_dr: float = 0.0,
) -> Tensor:
    """T = (s·I + ε₁) / (s·(I + α(|A| − I) + β(|B| − I)) + ε₂); α = β = ½ is Dice, α = β = 1 is Jaccard.

    Args:
        overlap: counts, any shape; soft counts are differentiated through, integer counts are read in float64.
        alpha: weight of the false positives |A| − I.
        beta: weight of the false negatives |B| − I.
        scale: s, what one voxel counts beside the smoothing: 2 in MONAI's Dice and Jaccard, 1 in its Tversky.
        smooth_nr: ε₁, in voxels.
        smooth_dr: ε₂, in voxels.

    Returns:
        The index, of the counts' shape; 1 where it is 0/0: both masks are empty and nothing is smoothed.

    References:
        Tversky, Features of similarity, Psychological Review 1977.

    Examples:
        >>> import torch
        >>> counts = Overlap(torch.tensor([1]), torch.tensor([2]), torch.tensor([1]))
        >>> tversky_index(counts, 0.5, 0.5), tversky_index(counts, 1.0, 1.0)
        (tensor([0.6667], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    hit, prediction, reference = (c if c.is_floating_point() else c.double() for c in overlap)
    denominator = hit + alpha * (prediction - hit) + beta * (reference - hit)
    denominator = scale * denominator + smooth_dr
    undefined = denominator == 0  # nothing predicted, nothing there; divided apart, so that the gradient is 0, not NaN
    return torch.where(undefined, 1.0, (scale * hit + smooth_nr) / torch.where(undefined, 1.0, denominator))


def dice_score(overlap: Overlap, empty: str = "ignore") -> Tensor:
    """D = 2|A ∩ B| / (|A| + |B|), with the empty-mask rule.

    Args:
        overlap: integer counts, any shape.
        empty: what a cell scores whose reference is empty; see :func:`apply_empty_rule`.

    Returns:
        float64 scores of the counts' shape.

    Examples:
        >>> import torch
        >>> counts = Overlap(torch.tensor([1, 0]), torch.tensor([2, 0]), torch.tensor([1, 0]))
        >>> dice_score(counts), dice_score(counts, empty="score")
        (tensor([0.6667,    nan], dtype=torch.float64), tensor([0.6667, 1.0000], dtype=torch.float64))
    """
    return apply_empty_rule(tversky_index(overlap, 0.5, 0.5), overlap, empty)


def jaccard_score(overlap: Overlap, empty: str = "ignore") -> Tensor:
    """J = |A ∩ B| / |A ∪ B|, with the empty-mask rule; arguments as in :func:`dice_score`."""
    return apply_empty_rule(tversky_index(overlap, 1.0, 1.0), overlap, empty)


def apply_empty_rule(score: Tensor, overlap: Overlap, empty: str) -> Tensor:
    """THE rule for a class that the reference lacks; Dice, IoU, tables and reports all come through here.

    ========  ==========================  =====================
    rule      prediction lacks it too     prediction has some
    ========  ==========================  =====================
    ignore    NaN, not counted            NaN, not counted
    score     1                           0
    both      NaN, not counted            0
    ========  ==========================  =====================
    """
    check_empty_rule(empty)
    no_reference = overlap.reference == 0
    neither = no_reference & (overlap.prediction == 0)
    if empty == "ignore":
        return torch.where(no_reference, torch.nan, score)
    return torch.where(neither, 1.0 if empty == "score" else torch.nan, score)


def check_empty_rule(empty: str) -> None:
    """Raise a ValueError unless the rule is one of EMPTY_RULES."""
    if empty not in EMPTY_RULES:
        raise ValueError(f"empty must be one of {', '.join(EMPTY_RULES)}, but is {empty!r}.")
