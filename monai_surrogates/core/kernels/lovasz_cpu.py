"""Binned Lovász-softmax from logits and a label map, tile by tile on a CPU: ``lovasz_jaccard_binned``, faster.

Each voxel and class falls into a slot (class; background or reference; bin of its error). One histogram of the slots gives
their weights; signed, w for background and −w for reference voxels, these are the gradient in the probabilities. Two tensors
are as large as the logits: the slots, of 16 bits each, and the probabilities, multiplied by the weights in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_surrogates.core.distributed import rank_total
from monai_surrogates.core.kernels import lovasz as _operators  # noqa: F401 - defines them
from monai_surrogates.core.kernels.operators import implement
from monai_surrogates.core.kernels.tiles import (
    balance,
    buffers_for,
    exponentials,
    exponentials_again,
    in_flat_rows,
    rows,
    shaped_as,
    tiles,
    two_class_error_logits,
    two_class_gap,
    two_class_gradient,
)
from monai_surrogates.core.lovasz_weights import bin_weights
from monai_surrogates.core.sums import block_sum

CELLS = 2**15  # of histograms that become weights at once: a dozen numbers stand beside each


def _lovasz_softmax(
    logits: Tensor, labels: Tensor, valid: Tensor | None, bins: int, batch: bool, sync: bool
) -> tuple[Tensor, ...]:
    weighted, slots, scale = _in_slots(logits, labels, valid, bins)
    histogram = _histogram(slots, bins)
    table = _table(histogram, batch, sync, logits.dtype).expand(len(logits), -1, -1)
    # Σ w|p − y| = Σ ±w·p + Σ w over the reference
    loss = (histogram[..., bins:] * table[..., bins:].double()).sum(-1)
    signs = torch.full((2 * bins,), 1 / _below(bins, logits.dtype), dtype=logits.dtype)
    signs[bins:].neg_()
    signed = torch.nn.functional.pad(table * signs, (0, 1)).flatten(0, 1)
    of_rows = loss.view(-1)
    for row, q, slots_x in rows(weighted.flatten(0, 1), slots.flatten(0, 1)):
        place = in_flat_rows(slots_x, 2 * bins + 1)
        own = signed[row].flatten().index_select(0, place if place.dtype == torch.int32 else place.long())
        of_rows[row] += block_sum(q.mul_(own.view(q.shape)))
    # rounding of the two sums may leave less than nothing
    return loss.clamp_min_(0), histogram[..., bins:].sum(-1).double(), weighted, scale


def _in_slots(logits: Tensor, labels: Tensor, valid: Tensor | None, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities in units of bins and the slots, both (B, C, N), and the scale of ``exponentials``, (B, N)."""
    scale = logits.new_empty(len(logits), logits.shape[2])
    in_bins = torch.empty_like(logits, memory_format=torch.contiguous_format)
    slots = torch.empty(logits.shape, dtype=torch.int16 if 2 * bins < 2**15 else torch.int32)
    (buffer,) = buffers_for(logits)
    steps = _below(bins, logits.dtype)
    for _, x, v, y, scale_x, of_tile, slots_x in tiles(logits, valid, labels, scale, in_bins, slots):
        e, factor = exponentials(x, shaped_as(x, buffer), scale_x)
        torch.mul(e, (factor * steps).unsqueeze(1), out=of_tile)
        _fill_slots(of_tile, y.long(), v, bins, slots_x)
    return in_bins, slots, scale


def _fill_slots(in_bins: Tensor, y: Tensor, v: Tensor | None, bins: int, slots: Tensor) -> None:
    """The slot of each voxel and class: the bin of its error, + bins in the reference, 2·bins in removed voxels.

    Args:
        in_bins: probabilities of a tile in units of bins, (b, C, n); their whole part is the bin.
        y: labels, (b, n).
        v: (b, n), False for removed voxels.
        bins: number of bins.
        slots: the result, integers, (b, C, n).
    """
    y = y.unsqueeze(1)
    # rounding may take a probability of 1 above the last bin, and so its error below 0
    own = in_bins.gather(1, y).neg_().add_(_below(bins, in_bins.dtype) + bins).clamp_min_(bins)
    if not bool(own.sum().isfinite()):  # some bin, the loss is NaN all the same
        own, in_bins = own.nan_to_num_(0, 0, 0), in_bins.nan_to_num(0, 0, 0)
    slots.copy_(in_bins).scatter_(1, y, own.to(slots.dtype))
    if v is not None:
        slots.masked_fill_(~v.unsqueeze(1), 2 * bins)


def _below(bins: int, dtype: torch.dtype) -> float:
    """The number of bins, so little less that an error of 1 lies in the last one."""
    return bins * (1 - 2 * torch.finfo(dtype).eps)


def _histogram(slots: Tensor, bins: int) -> Tensor:
    """Counts of the slots of each row, (..., N) → (..., 2·bins)."""
    width, in_rows = 2 * bins + 1, slots.reshape(-1, slots.shape[-1])
    counts = torch.zeros(len(in_rows), width, dtype=torch.int64)
    for row, slots_x in rows(in_rows):
        of_rows = torch.bincount(in_flat_rows(slots_x, width), minlength=len(slots_x) * width)
        counts[row] += of_rows.view(-1, width)
    return counts[:, :-1].reshape(*slots.shape[:-1], 2 * bins)


def _table(histogram: Tensor, batch: bool, sync: bool, dtype: torch.dtype) -> Tensor:
    """Weights of the slots, (B or 1, C, 2·bins), from their counts; ``bin_weights`` has the largest errors first."""
    if batch:
        histogram = histogram.sum(0, keepdim=True)
    counts = rank_total(histogram) if sync else histogram
    table = torch.empty(counts.shape, dtype=dtype)
    few = max(1, CELLS // counts.shape[-1])
    for of_rows, out in zip(*(torch.split(x.flatten(0, 1), few, dim=0) for x in (counts, table)), strict=True):
        out.copy_(_flip_bins(bin_weights(_flip_bins(of_rows), dtype)))
    return table


def _flip_bins(table: Tensor) -> Tensor:
    """The bins of the background and those of the reference the other way round."""
    background, reference = table.chunk(2, dim=-1)
    return torch.cat([background.flip(-1), reference.flip(-1)], dim=-1)


def _lovasz_softmax_backward(
    logits: Tensor, valid: Tensor | None, weighted: Tensor, scale: Tensor, slopes: Tensor
) -> Tensor:
    """∂L/∂x_c = a_c q_c − p_c Σ_k a_k q_k with q = p·g, g the signed weights and a the slopes of the classes."""
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    (buffer,) = buffers_for(logits)
    for items, x, _, q, scale_x, out in tiles(logits, valid, weighted, scale, grad):
        a = slopes[items].to(q.dtype)
        mean = torch.bmm(a.unsqueeze(1), q).squeeze(1)
        e, factor = exponentials_again(x, shaped_as(x, buffer), scale_x)
        torch.mul(q, a.unsqueeze(2), out=out).addcmul_(e, (mean * factor).unsqueeze(1), value=-1)
        balance(out, e, factor, mean)
    return grad


def _lovasz_two_classes(
    logits: Tensor, labels: Tensor, valid: Tensor | None, bins: int, batch: bool, sync: bool
) -> tuple[Tensor, ...]:
    """With softmax both classes have the same errors, and the reference of one is the background of the other."""
    items, _, voxels = logits.shape
    slots, width = torch.empty(items, voxels, dtype=torch.int32), 2 * bins + 1
    errors_of_slots = torch.zeros(items, width, dtype=torch.float64)
    for item, x, v, y, slots_x in tiles(logits, valid, labels, slots):
        inside = y.to(x.dtype)
        errors = two_class_error_logits(two_class_gap(x), inside).sigmoid_()
        in_bins = (errors * _below(bins, errors.dtype)).add_(inside, alpha=bins)
        slots_x.copy_(in_bins if bool(in_bins.sum().isfinite()) else in_bins.nan_to_num_(0, 0, 0))
        if v is not None:
            slots_x.masked_fill_(~v, 2 * bins)
        place, weights = in_flat_rows(slots_x, width), errors.double().flatten()
        errors_of_slots[item] += torch.bincount(place, weights, minlength=len(x) * width).view(-1, width)
    of_one = _histogram(slots, bins)
    of_both = torch.stack([of_one.roll(bins, -1), of_one], dim=1)
    tables = _table(of_both, batch, sync, logits.dtype).expand(items, -1, -1)
    tables = torch.stack([tables[:, 0].roll(bins, -1), tables[:, 1]], dim=1)  # both by the slots of class 1
    loss = (tables * errors_of_slots[:, None, : 2 * bins]).sum(-1)
    tables = torch.nn.functional.pad(tables, (0, 1))
    return loss, of_both[..., bins:].sum(-1).double(), slots, tables


def _lovasz_two_classes_backward(
    logits: Tensor, valid: Tensor | None, slots: Tensor, tables: Tensor, slopes: Tensor
) -> Tensor:
    """∂L/∂x₁ = −∂L/∂x₀ = p₁(1 − p₁)·g, g = ±Σ_c slope_c w_c, + outside class 1 and − in it."""
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    bins = tables.shape[-1] // 2
    both = (slopes.to(tables.dtype).unsqueeze(-1) * tables).sum(1)
    both[:, bins : 2 * bins].neg_()
    for items, x, _, slots_x, out in tiles(logits, valid, slots, grad):
        g = both[items].flatten().index_select(0, in_flat_rows(slots_x, 2 * bins + 1))
        two_class_gradient(g.view(slots_x.shape), two_class_gap(x), out)
    return grad


implement("lovasz_softmax", _lovasz_softmax, _lovasz_softmax_backward, device="cpu")
implement("lovasz_two_classes", _lovasz_two_classes, _lovasz_two_classes_backward, device="cpu")
