"""Lovász weights by sorting: all rows at once, or row by row on a CPU, where no more voxels than have a weight are sorted.

Once every reference voxel is wrong the intersection is empty, and background voxels with smaller errors weigh nothing: they
need no place in the order.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from monai_surrogates.core.kernels.operators import define_everywhere, runs_tiled
from monai_surrogates.core.lovasz_weights import lovasz_jaccard_weights


def sorted_weights(errors: Tensor, reference: Tensor, valid: Tensor | None) -> Tensor:
    """The weight of each voxel in the Lovász extension, exact, where it is; zero where the voxel does not count.

    Args:
        errors: (..., N), not negative, without gradient.
        reference: (..., N) bool; or for errors (B, C, N) labels (B, 1, N), of which row c belongs to label c.
        valid: broadcastable to (..., N) bool; None if all count.

    Returns:
        (..., N), in the type of the errors.
    """
    weights: Tensor = torch.ops.monai_surrogates.lovasz_sorted_weights(errors, reference, valid)
    return weights


def is_reference_of(reference: Tensor, row: int | Tensor) -> Tensor:
    """Whether voxels are in the reference of a row: as they say, or if they are labels, whether the row is theirs."""
    return reference if reference.dtype == torch.bool else reference == row


def as_mask(reference: Tensor, errors: Tensor) -> Tensor:
    """The same of all rows of (..., C, N), or of a single one, bool."""
    rows = errors.shape[-2] if errors.ndim > 1 else 1
    return is_reference_of(reference, torch.arange(rows, device=errors.device).unsqueeze(-1))


def _weights(errors: Tensor, reference: Tensor, valid: Tensor | None) -> Tensor:
    by_row = runs_tiled(errors) and not errors.is_meta
    return (_weights_by_row if by_row else _weights_at_once)(errors, reference, valid)


def _weights_at_once(errors: Tensor, reference: Tensor, valid: Tensor | None) -> Tensor:
    """The same by sorting all rows together, as a GPU does best, and many small ones."""
    is_reference = as_mask(reference, errors)
    if valid is not None:
        errors = torch.where(valid, errors, -1)  # below every error: removed voxels come last
        is_reference = is_reference & valid
    order = errors.argsort(dim=-1, descending=True)
    counted = None if valid is None else valid.expand_as(errors).gather(-1, order)
    weights = lovasz_jaccard_weights(is_reference.gather(-1, order), counted, errors.dtype)
    return torch.zeros_like(weights).scatter_(-1, order, weights)


def _weights_by_row(errors: Tensor, reference: Tensor, valid: Tensor | None) -> Tensor:
    weights = torch.zeros(errors.shape, dtype=errors.dtype)
    reference, valid = reference.expand_as(errors), None if valid is None else valid.expand_as(errors)
    sides = [errors] if valid is None else [errors, valid]
    # where the rows of an item are one and the same, one order serves them all
    shared = errors.ndim > 1 and all(x.stride(-2) == 0 for x in sides)
    for row in itertools.product(*map(range, errors.shape[:-1])):
        counted = None if valid is None else valid[row]
        if _holds_nan(errors[row], counted):  # it has no place in the order
            weights[row] = torch.nan
            continue
        is_reference = is_reference_of(reference[row], row[-1] if row else 0)
        if not shared:
            places = _falling_places(errors[row], _that_weigh(errors[row], is_reference, counted))
        elif row[-1] == 0:
            places = _falling_places(errors[row], counted)
        weights[row][places] = lovasz_jaccard_weights(is_reference.index_select(0, places), dtype=errors.dtype)
    return weights


def _holds_nan(errors: Tensor, counted: Tensor | None) -> bool:
    return bool((errors if counted is None else torch.where(counted, errors, 0)).amax().isnan())


def _that_weigh(errors: Tensor, is_reference: Tensor, valid: Tensor | None) -> Tensor:
    """Whether a voxel has a weight, and maybe some more: as wrong as the reference voxel that is least so, or than all."""
    reference = is_reference if valid is None else is_reference & valid
    wrong = errors[reference]
    if len(wrong) == 0:  # the largest error has the whole weight
        wrong = errors if valid is None else errors[valid]
        least = wrong.amax() if len(wrong) else errors.new_tensor(torch.inf)
    else:
        least = wrong.amin()
    weighs = errors >= least
    return weighs if valid is None else weighs.logical_and_(valid)


def _falling_places(errors: Tensor, of: Tensor | None) -> Tensor:
    """The indices of those voxels, all if None, largest error first."""
    if of is None:
        return _falling_order(errors)
    places = of.nonzero()[:, 0]
    return places.index_select(0, _falling_order(errors.index_select(0, places)))


def _falling_order(x: Tensor) -> Tensor:
    """Where the largest of numbers that are not negative is, the second largest, ...; equal ones in any order.

    Their bits are integers in the same order, and integers are sorted in linear time.
    """
    x = x.abs().to(torch.promote_types(x.dtype, torch.float32))  # abs: -0.0 has the sign bit
    bits = x.view(torch.int32 if x.element_size() == 4 else torch.int64)
    return bits.neg().add_(torch.iinfo(bits.dtype).max).argsort()


define_everywhere("lovasz_sorted_weights(Tensor errors, Tensor reference, Tensor? valid) -> Tensor", _weights)
