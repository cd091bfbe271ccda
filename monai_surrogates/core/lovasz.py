"""The Lovász extension of the Jaccard loss (Berman et al., CVPR 2018, arXiv 1705.08790)."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_surrogates.core.distributed import is_shared, rank_sum, rank_total
from monai_surrogates.core.kernels.operators import define_everywhere
from monai_surrogates.core.kernels.sorting import as_mask, sorted_weights
from monai_surrogates.core.lovasz_weights import bin_weights
from monai_surrogates.core.sums import voxel_sum


def lovasz_jaccard(errors: Tensor, reference: Tensor, valid: Tensor | None = None) -> Tensor:
    """Lovász extension of 1 − IoU: Σ m_(i) w_i over errors m sorted to fall, exact, by sorting.

    At ties every order gives the same loss and a subgradient; which one is up to the sort.

    Args:
        errors: (..., N), |p − y| per voxel, or hinge errors cut off at 0.
        reference: (..., N) bool; or for errors (B, C, N) labels (B, 1, N), of which row c belongs to label c.
        valid: broadcastable to (..., N) bool, False for removed voxels; None if all count.

    Returns:
        One loss per row, float64, shape (...): 1 − IoU at hard predictions, max(p) if the reference is empty, 0 if no voxel
        counts.

    Examples:
        >>> import torch
        >>> y = torch.tensor([True, True, False, False])
        >>> lovasz_jaccard((torch.tensor([0.9, 0.4, 0.3, 0.1]) - y.float()).abs(), y)  # 23/60
        tensor(0.3833, dtype=torch.float64)
    """
    weights = sorted_weights(errors.detach(), reference, valid)
    return voxel_sum(torch.where(weights == 0, 0, errors * weights))  # an infinite error without a weight adds nothing


def lovasz_jaccard_binned(
    errors: Tensor, reference: Tensor, valid: Tensor | None = None, *, bins: int = 4096, sync: bool = False
) -> Tensor:
    """The same loss in linear time: errors in one of ``bins`` equal bins of [0, 1] count as tied.

    A bin that leads from the counts (I₀, U₀) to (I₁, U₁) gives each of its reference voxels the weight (1/U₀ + 1/U₁)/2 and each
    of its background voxels (I₀ + I₁)/(2 U₀ U₁): the mean over the orders of the tie, a subgradient at the binned errors. The
    weights multiply the errors themselves, so by convexity the result is never above the exact loss, and at most 1/bins below.

    Args:
        errors: (..., N) in [0, 1].
        reference: as in :func:`lovasz_jaccard`.
        valid: broadcastable to (..., N) bool, False for removed voxels; None if all count.
        bins: number of bins.
        sync: the voxels of all ranks make one image; histograms are summed, voxels stay where they are.

    Returns:
        One float64 loss per row, shape (...).

    Examples:
        >>> import torch
        >>> y = torch.tensor([True, True, False, False])
        >>> lovasz_jaccard_binned((torch.tensor([0.9, 0.4, 0.3, 0.1]) - y.float()).abs(), y)  # 23/60
        tensor(0.3833, dtype=torch.float64)
    """
    shared = sync and is_shared()
    weights = torch.ops.monai_surrogates.lovasz_binned_weights(errors.detach(), reference, valid, bins, shared)
    loss = voxel_sum(errors * weights)
    return rank_sum(loss) if shared else loss


def _binned_weights(errors: Tensor, reference: Tensor, valid: Tensor | None, bins: int, shared: bool) -> Tensor:
    cell = (errors * bins).long().clamp_(0, bins - 1).neg_().add_(bins - 1)  # bin 0 holds the largest errors
    cell.add_(as_mask(reference, errors), alpha=bins)
    counted = (cell.new_ones(()) if valid is None else valid.long()).expand_as(cell)
    histogram = cell.new_zeros(*errors.shape[:-1], 2 * bins).scatter_add_(-1, cell, counted)
    table = bin_weights(rank_total(histogram) if shared else histogram, errors.dtype)
    weights = table.gather(-1, cell)
    return weights if valid is None else weights * counted


define_everywhere(
    "lovasz_binned_weights(Tensor errors, Tensor reference, Tensor? valid, int bins, bool shared) -> Tensor",
    _binned_weights,
)
