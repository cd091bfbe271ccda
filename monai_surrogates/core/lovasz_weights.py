"""The weights of the Lovász extension of the Jaccard loss (Berman et al., CVPR 2018, arXiv 1705.08790), from counts."""

from __future__ import annotations

import torch
from torch import Tensor


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
