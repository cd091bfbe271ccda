"""The weights of the Lovász extension of the Jaccard loss (Berman et al., CVPR 2018, arXiv 1705.08790), from counts."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_surrogates.core.distributed import rank_total
from monai_surrogates.core.kernels.operators import define_everywhere


def lovasz_jaccard_weights(
    is_reference: Tensor, valid: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The growth of the Jaccard loss with each voxel, as voxels become errors in the given order.

    With I and U the intersection and union once the first i voxels are wrong,
    w_i = 1/U_i for a reference voxel and w_i = I_i / (U_i (U_i − 1)) for a background voxel. Without any reference voxel
    the first voxel has the whole weight. This equals the difference J_i − J_{i−1} without its cancellation.

    Args:
        is_reference: (..., N) bool, voxels ordered by falling error.
        valid: (..., N) bool, False for removed voxels, which come last; None if there are none.
        dtype: type of the weights; the counts behind them are integers.

    Returns:
        Weights (..., N), non-negative, each row summing to 1 (to 0 if none is valid).

    Examples:
        >>> import torch
        >>> lovasz_jaccard_weights(torch.tensor([False, True, True]))
        tensor([0.3333, 0.3333, 0.3333])
    """
    voxels = is_reference.shape[-1]
    counts = torch.int32 if voxels <= 46341 else torch.int64  # U(U − 1) overflows int32 above that union
    order = torch.arange(1, voxels + 1, dtype=counts, device=is_reference.device)
    volume = is_reference.sum(-1, keepdim=True, dtype=counts)
    passed = is_reference.cumsum(-1, dtype=counts)
    intersection, union = volume - passed, volume + order - passed
    background = intersection.to(dtype) / (union * (union - 1)).clamp_min(1).to(dtype)
    weights = torch.where(is_reference, 1 / union.to(dtype), background)
    weights = torch.where(volume == 0, (order == 1).to(dtype), weights)
    return weights if valid is None else weights * valid


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


def is_reference_of(reference: Tensor, row: int | Tensor) -> Tensor:
    """Whether voxels are in the reference of a row, bool: masks say so themselves, labels by naming the row."""
    return reference if reference.dtype == torch.bool else reference == row


def as_mask(reference: Tensor, errors: Tensor) -> Tensor:
    """The same of all rows of (..., C, N), or of a single one."""
    rows = errors.shape[-2] if errors.ndim > 1 else 1
    return is_reference_of(reference, torch.arange(rows, device=errors.device).unsqueeze(-1))


def _sorted_weights(errors: Tensor, reference: Tensor, valid: Tensor | None) -> Tensor:
    """The weight of each voxel, exact, 0 where it is not valid; all rows are sorted at once.

    Args:
        errors: (..., N), not negative, without gradient.
        reference: (..., N) bool; or for errors (B, C, N) labels (B, 1, N), row c being the one of label c.
        valid: broadcastable to (..., N) bool; None if all voxels are.

    Returns:
        (..., N), in the type of the errors.
    """
    is_reference = as_mask(reference, errors).expand_as(errors)
    if valid is not None:
        errors = torch.where(valid, errors, -1)  # below every error: removed voxels come last
    return weights_in_order(errors.argsort(dim=-1, descending=True), is_reference, valid, errors.dtype)


def weights_in_order(order: Tensor, is_reference: Tensor, valid: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The weights of voxels in their own places, 0 where they are not valid.

    Args:
        order: the indices of the voxels by falling error, removed ones last; broadcastable to (..., N).
        is_reference: (..., N) bool.
        valid: broadcastable to (..., N) bool; None if all voxels are.
        dtype: type of the weights.
    """
    order = order.expand_as(is_reference)
    if valid is not None:
        valid = valid.expand_as(is_reference)
        is_reference, valid = is_reference & valid, valid.gather(-1, order)
    weights = lovasz_jaccard_weights(is_reference.gather(-1, order), valid, dtype)
    return torch.zeros_like(weights).scatter_(-1, order, weights)


def _binned_weights(errors: Tensor, reference: Tensor, valid: Tensor | None, bins: int, shared: bool) -> Tensor:
    """The same from a histogram of errors in [0, 1]; with ``shared`` of the errors of all ranks."""
    bin_of = (errors * bins).long().clamp_(0, bins - 1).neg_().add_(bins - 1)  # bin 0 holds the largest errors
    bin_of.add_(as_mask(reference, errors), alpha=bins)
    ones = (bin_of.new_ones(()) if valid is None else valid.long()).expand_as(bin_of)
    histogram = bin_of.new_zeros(*errors.shape[:-1], 2 * bins).scatter_add_(-1, bin_of, ones)
    table = bin_weights(rank_total(histogram) if shared else histogram, errors.dtype)
    weights = table.gather(-1, bin_of)
    return weights if valid is None else weights * ones


define_everywhere("lovasz_sorted_weights(Tensor errors, Tensor reference, Tensor? valid) -> Tensor", _sorted_weights)
define_everywhere(
    "lovasz_binned_weights(Tensor errors, Tensor reference, Tensor? valid, int bins, bool shared) -> Tensor",
    _binned_weights,
)
