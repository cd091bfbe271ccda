"""Dice, Jaccard and Tversky of an overlap, soft or hard, and the one rule for empty masks."""

from __future__ import annotations

from collections.abc import Callable

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
    smooth_nr: float | Tensor = 0.0,
    smooth_dr: float | Tensor = 0.0,
) -> Tensor:
    """T = (s·I + ε₁) / (s·(I + α(|A| − I) + β(|B| − I)) + ε₂); α = β = ½ is Dice, α = β = 1 is Jaccard.

    Args:
        overlap: counts, any shape; soft counts are differentiated through. Read in float64.
        alpha: weight of the false positives |A| − I.
        beta: weight of the false negatives |B| − I.
        scale: s, the weight of a voxel beside the smoothing: 2 in MONAI's Dice and Jaccard, 1 in its Tversky.
        smooth_nr: ε₁, in voxels times s; one value, or one per class in the last axis.
        smooth_dr: ε₂, likewise.

    Returns:
        The float64 index, of the counts' shape; 1 where it is 0/0: both masks are empty and nothing is smoothed.

    References:
        Tversky, Features of similarity, Psychological Review 1977.

    Examples:
        >>> import torch
        >>> counts = Overlap(torch.tensor([1]), torch.tensor([2]), torch.tensor([1]))
        >>> tversky_index(counts, 0.5, 0.5), tversky_index(counts, 1.0, 1.0)
        (tensor([0.6667], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    hit, prediction, reference = (count.double() for count in overlap)
    denominator = hit + alpha * (prediction - hit) + beta * (reference - hit)
    denominator = scale * denominator + smooth_dr
    undefined = denominator == 0  # nothing predicted, nothing there; divided apart, so that the gradient is 0, not NaN
    return torch.where(undefined, 1.0, (scale * hit + smooth_nr) / torch.where(undefined, 1.0, denominator))


def structure_smoothing(volumes: Tensor, alpha: float, *, scale: float = 1.0) -> Tensor:
    """ε₁ = ε₂ = s·α·v, the smoothing that makes items without a structure teach.

    With it :func:`tversky_index` gives every member the same loss on an item without reference, 1 − T = S/(S + v) with
    S = |A|, and the slope v/(S + v)². That is ε = v for Dice (s = 2, α = ½) and 2v for Jaccard (s = 2, α = 1); with α = 0
    false positives cost nothing, here as everywhere.

    Args:
        volumes: v, the mean volume of each structure in voxels, (C,).
        alpha: weight of the false positives.
        scale: s, the weight of a voxel beside the smoothing.

    Returns:
        ε, (C,).

    References:
        Tilborghs et al., The Dice loss in the context of missing or empty labels, MICCAI 2022 (arXiv 2207.09521).

    Examples:
        >>> import torch
        >>> empty = Overlap(torch.tensor([0.0]), torch.tensor([30.0]), torch.tensor([0.0]))
        >>> epsilon = structure_smoothing(torch.tensor([10.0]), 1.0, scale=2)
        >>> 1 - tversky_index(empty, 1.0, 1.0, scale=2, smooth_nr=epsilon, smooth_dr=epsilon)  # 30/(30 + 10)
        tensor([0.7500], dtype=torch.float64)
    """
    return scale * alpha * volumes


def dice_score(overlap: Overlap, empty: str = "ignore") -> Tensor:
    """D = 2|A ∩ B| / (|A| + |B|), with the empty-mask rule.

    Args:
        overlap: integer counts, any shape.
        empty: the score of a cell without reference; see :func:`apply_empty_rule`.

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


def precision_score(overlap: Overlap, empty: str = "ignore") -> Tensor:
    """P = |A ∩ B| / |A|, with the empty-mask rule; arguments as in :func:`dice_score`.

    An empty prediction of a structure that is there says nothing about how precise predictions are: 0/0 is NaN under every
    rule, while Dice, IoU and recall are 0 on that cell.
    """
    missed = (overlap.prediction == 0) & (overlap.reference > 0)
    score = torch.where(missed, torch.nan, tversky_index(overlap, 1.0, 0.0))
    return apply_empty_rule(score, overlap, empty)


def recall_score(overlap: Overlap, empty: str = "ignore") -> Tensor:
    """R = |A ∩ B| / |B|, with the empty-mask rule; arguments as in :func:`dice_score`."""
    return apply_empty_rule(tversky_index(overlap, 0.0, 1.0), overlap, empty)


def relative_volume_error(overlap: Overlap, empty: str = "ignore") -> Tensor:
    """V = (|A| − |B|) / |B|: −1 where nothing is found, 0 where the volumes agree, without an upper bound.

    Arguments as in :func:`dice_score`. Without a reference there is nothing to be relative to, so that the cell is NaN, but
    for the rule ``"score"``, under which it is 0 if the prediction is empty too.

    Examples:
        >>> import torch
        >>> relative_volume_error(Overlap(torch.tensor([1]), torch.tensor([3]), torch.tensor([2])))
        tensor([0.5000], dtype=torch.float64)
    """
    prediction, reference = overlap.prediction.double(), overlap.reference.double()
    return apply_empty_rule((prediction - reference) / reference, overlap, empty, perfect=0.0, failed=torch.nan)


# a score's name in reports -> its function of counts and rule
SCORES: dict[str, Callable[[Overlap, str], Tensor]] = {
    "dice": dice_score,
    "iou": jaccard_score,
    "precision": precision_score,
    "recall": recall_score,
    "relative_volume_error": relative_volume_error,
}


def apply_empty_rule(
    score: Tensor, overlap: Overlap, empty: str, *, perfect: float = 1.0, failed: float = 0.0
) -> Tensor:
    """THE rule for a class that the reference lacks; every score, tables and reports all come through here.

    ========  ==========================  =====================
    rule      prediction lacks it too     prediction has some
    ========  ==========================  =====================
    ignore    NaN, not counted            NaN, not counted
    score     1                           0
    both      NaN, not counted            0
    ========  ==========================  =====================

    Args:
        score: the score of cells with a reference.
        overlap: the counts.
        empty: the rule.
        perfect: the 1 of the table, for a score with another best value.
        failed: the 0 of the table, likewise.
    """
    check_empty_rule(empty)
    if empty == "ignore":
        return torch.where(overlap.reference == 0, torch.nan, score)
    without_reference = torch.where(overlap.prediction == 0, perfect if empty == "score" else torch.nan, failed)
    return torch.where(overlap.reference == 0, without_reference.to(score), score)


def check_empty_rule(empty: str) -> None:
    """Raise a ValueError unless the rule is one of EMPTY_RULES."""
    if empty not in EMPTY_RULES:
        raise ValueError(f"empty must be one of {', '.join(EMPTY_RULES)}, but is {empty!r}.")


def check_score_name(score: str) -> None:
    """Raise a ValueError unless the score is one of SCORES."""
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, but is {score!r}.")


def choose_empty_rule(empty: str | None, ignore_empty: bool | None) -> str:
    """The rule that our ``empty`` and MONAI's ``ignore_empty`` name together; ``"ignore"`` where both are None.

    Raises:
        ValueError: an unknown rule, or two that differ.
    """
    alias = None if ignore_empty is None else "ignore" if ignore_empty else "score"
    if empty is not None and alias is not None and empty != alias:
        raise ValueError(
            f"ignore_empty={ignore_empty} means empty={alias!r}, but empty={empty!r} is given; keep one of the two."
        )
    rule = empty if empty is not None else alias or "ignore"
    check_empty_rule(rule)
    return rule
