"""Lovász weights by sorting on a CPU: torch sorts many whole numbers of one row in linear time.

Long rows are sorted one by one, and no more of their voxels than have a weight: once every reference voxel is wrong the
intersection is empty, and background voxels with smaller errors need no place in the order. Short rows are sorted several at a
time: their voxels by error, and then by row, where the voxels of a row keep their order.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from monai_surrogates.core.kernels.operators import LIBRARY, describe, implement, shaped_as_first
from monai_surrogates.core.lovasz_weights import (
    as_mask,
    is_reference_of,
    lovasz_jaccard_weights,
    weights_in_order,
)

LINEAR = 2**15  # whole numbers; fewer are compared with one another
TILE = 2**17  # numbers sorted at a time: few calls, and as few numbers as the cache takes in
FEW = 2**13  # numbers up to which comparing them costs less than sorting LINEAR ones

LIBRARY.define("lovasz_weights_by_row(Tensor errors, Tensor reference, Tensor? valid) -> Tensor")


def _weights_by_row(errors: Tensor, reference: Tensor, valid: Tensor | None) -> Tensor:
    reference, valid = reference.expand_as(errors), None if valid is None else valid.expand_as(errors)
    sides = [errors] if valid is None else [errors, valid]
    # where the rows of an item are one and the same, one order serves them all
    shared = errors.ndim > 1 and all(x.stride(-2) == 0 for x in sides)
    form = _of_long_rows if errors.shape[-1] >= LINEAR else _of_short_rows
    return form(errors, reference, valid, shared)


def _of_long_rows(errors: Tensor, reference: Tensor, valid: Tensor | None, shared: bool) -> Tensor:
    weights = torch.zeros(errors.shape, dtype=errors.dtype)
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


def _of_short_rows(errors: Tensor, reference: Tensor, valid: Tensor | None, shared: bool) -> Tensor:
    """By tiles (g, r, N): groups of r rows with one order."""
    rows, size = errors.shape[-2] if shared else 1, errors.shape[-1]
    sides = [errors, as_mask(reference, errors), *([] if valid is None else [valid])]
    groups = [x.reshape(-1, rows, size) for x in sides]
    tiles = max(1, len(groups[0]) // -(-TILE // size))
    weights = [_of_tile(*tile) for tile in zip(*(x.tensor_split(tiles) for x in groups), strict=True)]
    return torch.cat(weights).view(errors.shape)


def _of_tile(errors: Tensor, is_reference: Tensor, valid: Tensor | None = None) -> Tensor:
    keys = _rising_keys(errors[:, 0])
    if valid is not None:
        keys = torch.where(valid[:, 0], keys, 1)  # removed voxels come last
    groups, size = keys.shape
    by_error = _rising_order(keys.flatten())
    number = torch.arange(groups, dtype=torch.uint8 if groups <= 2**8 else torch.int32)
    by_row = _rising_order(number.repeat_interleave(size).index_select(0, by_error))
    order = by_error.index_select(0, by_row).view(keys.shape)
    order.sub_(size * torch.arange(groups).unsqueeze(1))
    return weights_in_order(order.unsqueeze(1), is_reference, valid, errors.dtype)


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
        return _rising_order(_rising_keys(errors))
    places = of.nonzero()[:, 0]
    return places.index_select(0, _rising_order(_rising_keys(errors.index_select(0, places))))


def _rising_keys(errors: Tensor) -> Tensor:
    """Whole numbers up to 0, the smallest for the largest error: minus its bits, which are in the order of the errors."""
    errors = errors.abs().to(torch.promote_types(errors.dtype, torch.float32))  # abs: -0.0 has the sign bit
    return errors.view(torch.int32 if errors.element_size() == 4 else torch.int64).neg()


def _rising_order(keys: Tensor) -> Tensor:
    """Where the smallest of whole numbers (n,) is, the second smallest, ...; equal ones stay in their order."""
    n = len(keys)
    if FEW < n < LINEAR:
        keys = torch.cat([keys, keys.new_full((LINEAR - n,), torch.iinfo(keys.dtype).max)])
    return keys.argsort(stable=True)[:n]


implement("lovasz_weights_by_row", _weights_by_row, device="cpu", pays_from=FEW)
describe("lovasz_weights_by_row", shaped_as_first)
