"""Class weights from the voxel counts of a training set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

EFFECTIVE_NUMBER_BETA = 0.9999


def inverse_frequency(counts: Tensor) -> Tensor:
    """w_c = n / (C n_c): the same summed weight for every class."""
    return counts.sum() / (len(counts) * counts)


def median_frequency(counts: Tensor) -> Tensor:
    """w_c = median(n) / n_c, of counts pooled over all images.

    Eigen & Fergus (ICCV 2015, arXiv 1411.4734) divide n_c by the voxels of those images alone that hold the class.
    """
    return counts.quantile(0.5) / counts


def effective_number(counts: Tensor) -> Tensor:
    """w_c ∝ (1 − β)/(1 − β^n_c), scaled to a mean of 1, β = 0.9999 (Cui et al., CVPR 2019, arXiv 1901.05555)."""
    weights = (1 - EFFECTIVE_NUMBER_BETA) / (1 - EFFECTIVE_NUMBER_BETA**counts)
    return weights / weights.mean()


WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "inverse_frequency": inverse_frequency,
    "median_frequency": median_frequency,
    "effective_number": effective_number,
}


def class_weights(counts: Sequence[int] | Tensor, weighting: str = "inverse_frequency") -> Tensor:
    """Weights of the classes from how many voxels each has.

    A class without a voxel gets the weight 0: no training voxel asks for it, and no finite weight would be right. It takes no
    part in the formula, so C counts the classes that occur.

    Args:
        counts: voxels per class, length C.
        weighting: ``"inverse_frequency"``, ``"median_frequency"`` or ``"effective_number"``.

    Returns:
        float64 weights of length C.

    Raises:
        ValueError: unknown weighting, or counts that are negative, not finite, or all zero.

    Examples:
        >>> class_weights([90, 10])
        tensor([0.5556, 5.0000], dtype=torch.float64)
        >>> class_weights([60, 30, 10], "median_frequency")
        tensor([0.5000, 1.0000, 3.0000], dtype=torch.float64)
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weight must be numbers or one of {', '.join(WEIGHTINGS)}, but is {weighting!r}.")
    try:
        n = torch.as_tensor(counts, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"class_counts must hold one voxel count per class, but is {counts!r}.") from error
    if n.ndim != 1 or not bool(n.isfinite().all()) or bool((n < 0).any()) or not bool((n > 0).any()):
        raise ValueError(f"class_counts must hold one voxel count per class, not all of them 0, but is {n.tolist()}.")
    weights, occurs = torch.zeros_like(n), n > 0
    weights[occurs] = WEIGHTINGS[weighting](n[occurs])
    return weights


def positive_weights(counts: Sequence[int] | Tensor, weighting: str = "inverse_frequency") -> Tensor:
    """Weights of the positive voxels of each class for binary cross-entropy, where a class stands against all others.

    w_c / w_rest of the two counts (n − n_c, n_c); 1 for a class without a voxel, or one that holds every voxel, because there
    is nothing to balance.

    Args:
        counts: voxels per class, length C, every voxel counted in one class.
        weighting: as in :func:`class_weights`.

    Returns:
        float64 weights of length C.

    Raises:
        ValueError: as :func:`class_weights`.

    Examples:
        >>> positive_weights([90, 10])
        tensor([0.1111, 9.0000], dtype=torch.float64)
    """
    class_weights(counts, weighting)  # its checks
    n = torch.as_tensor(counts, dtype=torch.float64)
    pairs = [class_weights(torch.stack([n.sum() - own, own]), weighting) for own in n]
    rest, own = torch.stack(pairs, dim=1)
    return torch.where((rest > 0) & (own > 0), own / rest, 1)
