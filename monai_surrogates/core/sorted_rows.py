"""Lovász weights row by row on a CPU, sorting no more voxels than have a weight.

Once every reference voxel is wrong the intersection is empty, and background voxels with smaller errors weigh nothing: they
need no place in the order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_surrogates.core.lovasz_weights import lovasz_jaccard_weights
from monai_surrogates.core.tiled_overlap import LIBRARY, implement, shaped_as_first

LIBRARY.define("lovasz_sorted_weights(Tensor errors, Tensor is_reference, Tensor? valid) -> Tensor")


def sorted_weights(errors: Tensor, is_reference: Tensor, valid: Tensor | None) -> Tensor:
    """The weight of each voxel in the Lovász extension, exact, where it is; zero where the voxel does not count.

    Args:
        errors: (..., N), without gradient.
        is_reference: (..., N) bool.
        valid: broadcastable to (..., N) bool; None if all count.

    Returns:
        (..., N), in the type of the errors.
    """
    weights: Tensor = torch.ops.monai_surrogates.lovasz_sorted_weights(errors, is_reference, valid)
    return weights


def _weights(errors: Tensor, is_reference: Tensor, valid: Tensor | None) -> Tensor:
    weights = torch.zeros_like(errors, memory_format=torch.contiguous_format)
    rows = errors.shape[:-1].numel(), errors.shape[-1]
    sides = [errors, is_reference] + ([] if valid is None else [valid.expand_as(errors)])
    for row, *of_row in zip(weights.view(rows), *(side.reshape(rows) for side in sides), strict=True):
        _weigh_row(row, *of_row)
    return weights


def _weigh_row(weights: Tensor, errors: Tensor, is_reference: Tensor, valid: Tensor | None = None) -> None:
    reference = is_reference if valid is None else is_reference & valid
    wrong = errors[reference]
    if len(wrong) == 0:  # the largest error has the whole weight
        weights[_largest(errors, valid)] = 1
        return
    weighs = errors >= wrong.min()
    places = (weighs if valid is None else weighs.logical_and_(valid)).nonzero()[:, 0]
    places = places[errors[places].sort(descending=True).indices]
    weights[places] = lovasz_jaccard_weights(reference[places], dtype=errors.dtype)


def _largest(errors: Tensor, valid: Tensor | None) -> Tensor:
    """Where the largest error is, as one index, or none where no voxel counts."""
    places = torch.arange(len(errors)) if valid is None else valid.nonzero()[:, 0]
    return places[errors[places].argmax(keepdim=True)] if len(places) else places


implement("lovasz_sorted_weights", _weights, shaped_as_first)
