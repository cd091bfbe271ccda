"""The Lovász extension of the Jaccard loss (Berman et al., CVPR 2018, arXiv 1705.08790)."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_surrogates.core.distributed import rank_sum


def lovasz_jaccard_weights(
    is_reference: Tensor, counted: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """What each voxel adds to the Jaccard loss when voxels become errors in the given order.

    With I and U the intersection and union once the first i voxels are wrong,
    w_i = 1/U_i for a reference voxel and w_i = I_i / (U_i (U_i − 1)) for a background voxel. Without any reference voxel
    the first voxel has the whole weight. This equals the difference J_i − J_{i−1} without its cancellation.

    Args:
        is_reference: (..., N) bool, voxels ordered by falling error.
        counted: (..., N) bool, False for voxels that are left out; those come last. None if all count.
        dtype: type of the weights; the counts behind them are integers.

    Returns:
        Weights (..., N), non-negative, each row summing to 1 (to 0 if no voxel counts).

    Examples:
        >>> import torch
        >>> lovasz_jaccard_weights(torch.tensor([False, True, True]))
        tensor([0.3333, 0.3333, 0.3333])
    """
    order = torch.arange(1, is_reference.shape[-1] + 1, device=is_reference.device)
    volume = is_reference.sum(-1, keepdim=True)
    passed = is_reference.cumsum(-1)  # int64: U(U − 1) overflows int32 above a union of 46341
    intersection, union = volume - passed, volume + order - passed
    background = intersection.to(dtype) / (union * (union - 1)).clamp_min(1).to(dtype)
    weights = torch.where(is_reference, 1 / union.to(dtype), background)
    weights = torch.where(volume == 0, (order == 1).to(dtype), weights)
    return weights if counted is None else weights * counted


def lovasz_jaccard(errors: Tensor, is_reference: Tensor, valid: Tensor | None = None) -> Tensor:
    """Lovász extension of 1 − IoU: Σ m_(i) w_i over errors m sorted to fall, exact, by sorting.

    At ties every order gives the same loss and a subgradient; which one is up to the sort.

    Args:
        errors: (..., N), |p − y| per voxel, or hinge errors cut off at 0.
        is_reference: (..., N) bool.
        valid: broadcastable to (..., N) bool, False for removed voxels; None if all count.

    Returns:
        One loss per row, shape (...): 1 − IoU at hard predictions, max(p) if the reference is empty, 0 if no voxel counts.

    Examples:
        >>> import torch
        >>> y = torch.tensor([True, True, False, False])
        >>> lovasz_jaccard((torch.tensor([0.9, 0.4, 0.3, 0.1]) - y.float()).abs(), y)  # 23/60
        tensor(0.3833)
    """
    if valid is not None:
        errors = torch.where(valid, errors, -1)  # below every error: removed voxels come last
        is_reference = is_reference & valid
    falling, order = errors.sort(dim=-1, descending=True)
    counted = None if valid is None else valid.expand_as(errors).gather(-1, order)
    weights = lovasz_jaccard_weights(is_reference.gather(-1, order), counted, falling.dtype)
    return (falling * weights).sum(-1)


def lovasz_jaccard_binned(
    errors: Tensor, is_reference: Tensor, valid: Tensor | None = None, *, bins: int = 4096, sync: bool = False
) -> Tensor:
    """The same loss in linear time: errors in one of ``bins`` equal bins of [0, 1] count as tied.

    A bin that leads from the counts (I₀, U₀) to (I₁, U₁) gives each of its reference voxels the weight (1/U₀ + 1/U₁)/2 and each
    of its background voxels (I₀ + I₁)/(2 U₀ U₁): the mean over the orders of the tie, a subgradient at the binned errors. The
    weights multiply the errors themselves, so by convexity the result is never above the exact loss, and at most 1/bins below.

    Args:
        errors: (..., N) in [0, 1].
        is_reference: (..., N) bool.
        valid: broadcastable to (..., N) bool, False for removed voxels; None if all count.
        bins: number of bins.
        sync: the voxels of all ranks make one image; histograms are summed, voxels stay where they are.

    Returns:
        One loss per row, shape (...).

    Examples:
        >>> import torch
        >>> y = torch.tensor([True, True, False, False])
        >>> lovasz_jaccard_binned((torch.tensor([0.9, 0.4, 0.3, 0.1]) - y.float()).abs(), y)  # 23/60
        tensor(0.3833)
    """
    weights = _binned_weights(errors.detach(), is_reference, valid, bins, sync)
    loss = (errors * weights).sum(-1)
    return rank_sum(loss) if sync else loss


def _binned_weights(errors: Tensor, is_reference: Tensor, valid: Tensor | None, bins: int, sync: bool) -> Tensor:
    falling = (bins - 1) - (errors * bins).long().clamp(0, bins - 1)  # bin 0 holds the largest errors
    cell = falling + bins * is_reference
    counted = torch.ones_like(cell) if valid is None else valid.expand_as(cell).long()
    histogram = torch.zeros(*errors.shape[:-1], 2 * bins, dtype=torch.int64, device=errors.device)
    histogram = histogram.scatter_add(-1, cell, counted)
    table = bin_weights(rank_sum(histogram) if sync else histogram, errors.dtype)
    return table.gather(-1, cell) * counted


def bin_weights(histogram: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights of background voxels, then of reference voxels, per bin, from counts in the same layout."""
    background, reference = histogram.chunk(2, dim=-1)
    volume = reference.sum(-1, keepdim=True)
    hit_after, union_after = volume - reference.cumsum(-1), volume + background.cumsum(-1)
    hit_before, union_before = hit_after + reference, union_after - background
    u0, u1 = union_before.clamp_min(1).to(dtype), union_after.clamp_min(1).to(dtype)
    of_background = (hit_before + hit_after).to(dtype) / (2 * u0 * u1)
    # without any reference the first bin that holds a voxel shares the whole weight
    first = (volume == 0) & (union_before == 0) & (background > 0)
    of_background = torch.where(first, 1 / background.clamp_min(1).to(dtype), of_background)
    return torch.cat([of_background, (1 / u0 + 1 / u1) / 2], dim=-1)
