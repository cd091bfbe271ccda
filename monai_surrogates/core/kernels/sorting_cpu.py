"""Lovász weights by sorting on a CPU, in linear time: the bits of errors are whole numbers in the order of the errors.

Long rows are sorted one by one, and no more of their voxels than have a weight: once every reference voxel is wrong the
intersection is empty, and background voxels with smaller errors need no place in the order. Short rows are sorted several at a
time, in tiles that one thread keeps in its cache.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from monai_surrogates.core.kernels.operators import LIBRARY, describe, implement, shaped_as_first
from monai_surrogates.core.lovasz_weights import (
    as_mask,
    is_reference_of,
    lovasz_jaccard_weights,
    weights_in_order,
)

LONG_ROW = 2**15  # voxels; from as many on torch sorts whole numbers in linear time
TILE = 2**15  # numbers; with fewer torch starts no threads of its own

LIBRARY.define("lovasz_weights_by_row(Tensor errors, Tensor reference, Tensor? valid) -> Tensor")


def _weights_by_row(errors: Tensor, reference: Tensor, valid: Tensor | None) -> Tensor:
    reference, valid = reference.expand_as(errors), None if valid is None else valid.expand_as(errors)
    sides = [errors] if valid is None else [errors, valid]
    # where the rows of an item are one and the same, one order serves them all
    shared = errors.ndim > 1 and all(x.stride(-2) == 0 for x in sides)
    form = _of_long_rows if errors.shape[-1] >= LONG_ROW else _of_short_rows
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
    per_tile = max(1, TILE // (rows * size))
    tiles = zip(*(torch.split(x.reshape(-1, rows, size), per_tile) for x in sides), strict=True)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return torch.cat(list(pool.map(_of_tile, *zip(*tiles, strict=True)))).view(errors.shape)


def _of_tile(errors: Tensor, is_reference: Tensor, valid: Tensor | None = None) -> Tensor:
    keys = _rising_keys(errors[:, :1])
    if valid is not None:
        keys = torch.where(valid[:, :1], keys, -1)  # removed voxels come last
    return weights_in_order(_rising_order(keys), is_reference, valid, errors.dtype)


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
        return _rising_keys(errors).argsort()
    places = of.nonzero()[:, 0]
    return places.index_select(0, _rising_keys(errors.index_select(0, places)).argsort())


def _rising_keys(errors: Tensor) -> Tensor:
    """Whole numbers below −1, the smallest for the largest error."""
    errors = errors.abs().to(torch.promote_types(errors.dtype, torch.float32))  # abs: -0.0 has the sign bit
    keys: Tensor = -2 - errors.view(torch.int32 if errors.element_size() == 4 else torch.int64)
    return keys


def _rising_order(keys: Tensor) -> Tensor:
    """Where the smallest of negative whole numbers (..., N) is, the second smallest, ...; equal ones stay in their order.

    By digits of 16 bits, the last one first, which NumPy sorts in linear time: torch's own such sort takes one row at a time.
    """
    order = _order_of_last_digit(keys)
    for shift in range(16, 8 * keys.element_size(), 16):
        order = order.gather(-1, _order_of_last_digit(keys.gather(-1, order) >> shift))
    return order


def _order_of_last_digit(keys: Tensor) -> Tensor:
    return torch.from_numpy(keys.to(torch.uint16).numpy().argsort(axis=-1, kind="stable"))


implement("lovasz_weights_by_row", _weights_by_row, device="cpu")
describe("lovasz_weights_by_row", shaped_as_first)
