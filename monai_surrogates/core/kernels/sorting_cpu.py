"""Lovász weights by sorting row by row on a CPU: no more voxels than have a weight are sorted.

Once every reference voxel is wrong the intersection is empty, and background voxels with smaller errors have no weight: they
need no place in the order.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from monai_surrogates.core.kernels.operators import LIBRARY, describe, implement, shaped_as_first
from monai_surrogates.core.lovasz_weights import is_reference_of, lovasz_jaccard_weights

SHORT_ROW = 2**12  # voxels; below it the calls for each row cost more than torch's sort of all rows

LIBRARY.define("lovasz_weights_by_row(Tensor errors, Tensor reference, Tensor? valid) -> Tensor")


def _weights_by_row(errors: Tensor, reference: Tensor, valid: Tensor | None) -> Tensor:
    weights = torch.zeros(errors.shape, dtype=errors.dtype)
    reference, valid = reference.expand_as(errors), None if valid is None else valid.expand_as(errors)
    sides = [errors] if valid is None else [errors, valid]
    # where the rows of an item are one and the same, one order serves them all
    shared = errors.ndim > 1 and all(x.stride(-2) == 0 for x in sides)
    for row in itertools.product(*map(range, errors.shape[:-1])):
        valid_x = None if valid is None else valid[row]
        if _holds_nan(errors[row], valid_x):  # it has no place in the order
            weights[row] = torch.nan
            continue
        is_reference = is_reference_of(reference[row], row[-1] if row else 0)
        if not shared:
            places = _falling_places(errors[row], _may_have_weight(errors[row], is_reference, valid_x))
        elif row[-1] == 0:
            places = _falling_places(errors[row], valid_x)
        weights[row][places] = lovasz_jaccard_weights(is_reference.index_select(0, places), dtype=errors.dtype)
    return weights


def _holds_nan(errors: Tensor, valid: Tensor | None) -> bool:
    return bool((errors if valid is None else torch.where(valid, errors, 0)).amax().isnan())


def _may_have_weight(errors: Tensor, is_reference: Tensor, valid: Tensor | None) -> Tensor:
    """True for every voxel with a weight, and perhaps for others: errors from the smallest one of the reference on."""
    reference = is_reference if valid is None else is_reference & valid
    wrong = errors[reference]
    if len(wrong) == 0:  # the largest error has the whole weight
        wrong = errors if valid is None else errors[valid]
        least = wrong.amax() if len(wrong) else errors.new_tensor(torch.inf)
    else:
        least = wrong.amin()
    large = errors >= least
    return large if valid is None else large.logical_and_(valid)


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


implement("lovasz_weights_by_row", _weights_by_row, device="cpu", pays_from=SHORT_ROW)
describe("lovasz_weights_by_row", shaped_as_first)
