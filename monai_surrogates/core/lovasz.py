"""The Lovász extension of the Jaccard loss (Berman et al., CVPR 2018, arXiv 1705.08790)."""

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
