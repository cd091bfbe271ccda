"""Binned Lovász-softmax from logits and a label map, tile by tile on a CPU: ``lovasz_jaccard_binned``, faster.

Each voxel and class falls into a slot (class; background or reference; bin of its error). One histogram of the slots gives
their weights; signed, w for background and −w for reference voxels, these are the gradient in the probabilities. Two tensors
are as large as the logits: the slots, of 16 bits each, and the probabilities, multiplied by the weights in place.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from monai_surrogates.core.activation import softmax_slopes
from monai_surrogates.core.distributed import is_shared, rank_sum, rank_total
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.kernels.operators import LIBRARY, describe, implement, shaped_as_first
from monai_surrogates.core.kernels.tiles import (
    balance,
    exponentials,
    exponentials_again,
    row_size,
    rows,
    tile_size,
    tiles,
    two_class_error_logits,
    two_class_gap,
    two_class_gradient,
)
from monai_surrogates.core.lovasz_weights import bin_weights
from monai_surrogates.core.sums import block_sum

_ARGUMENTS = "Tensor logits, Tensor labels, Tensor? valid, int bins, bool batch, bool sync"
LIBRARY.define(f"lovasz_softmax({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)")
LIBRARY.define(
    "lovasz_softmax_backward(Tensor logits, Tensor? valid, Tensor weighted, Tensor scale, Tensor slopes) -> Tensor"
)
LIBRARY.define(f"lovasz_two_classes({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)")
LIBRARY.define(
    "lovasz_two_classes_backward(Tensor logits, Tensor? valid, Tensor slots, Tensor tables, Tensor slopes) -> Tensor"
)


def tiled_lovasz_binned(
    logits: Tensor, labels: Tensor, valid: Tensor | None, *, bins: int, batch: bool = False, sync: bool = False
) -> tuple[Tensor, Tensor]:
    """Binned Lovász extension of 1 − IoU of softmax(logits) per item and class, differentiable.

    Args:
        logits: (B, C, N), float32 or float64, C above 1.
        labels: (B, N), whole numbers of any type.
        valid: (B, N) bool, False for voxels that do not count; None if all do.
        bins: number of bins of [0, 1].
        batch: the items make one image.
        sync: with ``batch``, and so do those of all ranks: one all-reduce of histograms, and one of the losses.

    Returns:
        The loss, and the reference volume in voxels: float64, (B, C), or (1, C) of the batch.
    """
    function = _TwoClasses if logits.shape[1] == 2 else _SoftmaxLovasz
    shared = sync and is_shared()
    loss, volume, *_ = function.apply(logits, labels, valid, bins, batch, shared)  # type: ignore[no-untyped-call]  # no types
    if not batch:
        return loss, volume
    both = torch.stack([loss.sum(0, keepdim=True), volume.sum(0, keepdim=True)])
    loss, volume = rank_sum(both) if shared else both
    return loss, volume


class _SoftmaxLovasz(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        loss, volume, weighted, scale = torch.ops.monai_surrogates.lovasz_softmax(*arguments)
        return loss, volume, weighted, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # no zeros, as large as the logits, in place of missing gradients
        logits, _, valid, *_ = inputs
        ctx.save_for_backward(logits, valid, *output[2:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 6
        if torch.is_grad_enabled():  # to be differentiated once more
            logits, valid, weighted, _ = ctx.saved_tensors
            p = Voxels(logits, weighted, valid).zeroed().input.softmax(1)
            weights = torch.where(p > 0, weighted / p, 0).detach()
            grad = softmax_slopes(p, weights * gradients[0].to(p.dtype).unsqueeze(-1))
        else:
            grad = torch.ops.monai_surrogates.lovasz_softmax_backward(*ctx.saved_tensors, gradients[0].contiguous())
        return grad, None, None, None, None, None


class _TwoClasses(_SoftmaxLovasz):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        loss, volume, slots, tables = torch.ops.monai_surrogates.lovasz_two_classes(*arguments)
        return loss, volume, slots, tables

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 6
        logits, valid, slots, tables = ctx.saved_tensors
        if torch.is_grad_enabled():
            inside = 2 * (slots.unsqueeze(1) >= tables.shape[-1] // 2).to(logits.dtype) - 1  # 1 in class 1, −1 outside
            weights = tables.gather(2, slots.long().unsqueeze(1).expand(-1, 2, -1)) * torch.cat([inside, -inside], 1)
            p = Voxels(logits, slots, valid).zeroed().input.softmax(1)
            grad = softmax_slopes(p, weights * gradients[0].to(p.dtype).unsqueeze(-1))
        else:
            slopes = gradients[0].contiguous()
            grad = torch.ops.monai_surrogates.lovasz_two_classes_backward(logits, valid, slots, tables, slopes)
        return grad, None, None, None, None, None


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
    signed = torch.nn.functional.pad(table * signs, (0, 1))
    size = row_size(logits)
    places, own = torch.empty(size, dtype=torch.int64), logits.new_empty(size)
    for item, c, q, slots_x in rows(weighted, slots):
        n = len(q)
        torch.index_select(signed[item, c], 0, places[:n].copy_(slots_x), out=own[:n])
        loss[item, c] += block_sum(q.mul_(own[:n]))
    # rounding of the two sums may leave less than nothing
    return loss.clamp_min_(0), histogram[..., bins:].sum(-1).double(), weighted, scale


def _in_slots(logits: Tensor, labels: Tensor, valid: Tensor | None, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities in units of bins and the slots, both (B, C, N), and the scale of ``exponentials``, (B, N)."""
    scale = logits.new_empty(len(logits), logits.shape[2])
    in_bins = torch.empty_like(logits, memory_format=torch.contiguous_format)
    slots = torch.empty(logits.shape, dtype=torch.int16 if 2 * bins < 2**15 else torch.int32)
    buffer = logits.new_empty(logits.shape[1], tile_size(logits))
    steps = _below(bins, logits.dtype)
    for _, x, v, y, scale_x, of_tile, slots_x in tiles(logits, valid, labels, scale, in_bins, slots):
        e, factor = exponentials(x, buffer[:, : x.shape[1]], scale_x)
        torch.mul(e, factor * steps, out=of_tile)
        _fill_slots(of_tile, y.long(), v, bins, slots_x)
    return in_bins, slots, scale


def _fill_slots(in_bins: Tensor, y: Tensor, v: Tensor | None, bins: int, slots: Tensor) -> None:
    """The slot of each voxel and class: the bin of its error, + bins in the reference, 2·bins in removed voxels.

    Args:
        in_bins: probabilities of a tile in units of bins, (C, n); their whole part is the bin.
        y: labels, (n,).
        v: (n,), False for removed voxels.
        bins: number of bins.
        slots: the result, integers, (C, n).
    """
    y = y.unsqueeze(0)
    # rounding may take a probability of 1 above the last bin, and so its error below 0
    own = in_bins.gather(0, y).neg_().add_(_below(bins, in_bins.dtype) + bins).clamp_min_(bins)
    if not bool(own.sum().isfinite()):  # some bin, the loss is NaN all the same
        own, in_bins = own.nan_to_num_(0, 0, 0), in_bins.nan_to_num(0, 0, 0)
    slots.copy_(in_bins).scatter_(0, y, own.to(slots.dtype))
    if v is not None:
        slots.masked_fill_(~v, 2 * bins)


def _below(bins: int, dtype: torch.dtype) -> float:
    """The number of bins, so little less that an error of 1 lies in the last one."""
    return bins * (1 - 2 * torch.finfo(dtype).eps)


def _histogram(slots: Tensor, bins: int) -> Tensor:
    """Counts of the slots of each row, (..., N) → (..., 2·bins)."""
    counts = torch.empty(*slots.shape[:-1], 2 * bins, dtype=torch.int64)
    for row in itertools.product(*map(range, slots.shape[:-1])):
        counts[row] = torch.bincount(slots[row], minlength=2 * bins + 1)[: 2 * bins]
    return counts


def _table(histogram: Tensor, batch: bool, sync: bool, dtype: torch.dtype) -> Tensor:
    """Weights of the slots, (B or 1, C, 2·bins), from their counts; ``bin_weights`` has the largest errors first."""
    if batch:
        histogram = histogram.sum(0, keepdim=True)
    counts = rank_total(histogram) if sync else histogram
    table = torch.empty(counts.shape, dtype=dtype)
    for of_classes, out in zip(*(torch.split(x.flatten(0, 1), 16, dim=0) for x in (counts, table)), strict=True):
        out.copy_(_flip_bins(bin_weights(_flip_bins(of_classes), dtype)))  # few at a time take little memory
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
    buffer = logits.new_empty(logits.shape[1], tile_size(logits))
    for item, x, _, q, scale_x, out in tiles(logits, valid, weighted, scale, grad):
        a = slopes[item].to(q.dtype)
        mean = a @ q
        e, factor = exponentials_again(x, buffer[:, : x.shape[1]], scale_x)
        torch.mul(q, a.unsqueeze(1), out=out).addcmul_(e, mean * factor, value=-1)
        balance(out, e, factor, terms=mean)
    return grad


def _lovasz_two_classes(
    logits: Tensor, labels: Tensor, valid: Tensor | None, bins: int, batch: bool, sync: bool
) -> tuple[Tensor, ...]:
    """With softmax both classes have the same errors, and the reference of one is the background of the other."""
    items, _, voxels = logits.shape
    slots = torch.empty(items, voxels, dtype=torch.int32)
    errors_of_slots = torch.zeros(items, 2 * bins + 1, dtype=torch.float64)
    for item, x, v, y, slots_x in tiles(logits, valid, labels, slots):
        inside = y.to(x.dtype)
        errors = two_class_error_logits(two_class_gap(x), inside).sigmoid_()
        in_bins = (errors * _below(bins, errors.dtype)).add_(inside, alpha=bins)
        slots_x.copy_(in_bins if bool(in_bins.sum().isfinite()) else in_bins.nan_to_num_(0, 0, 0))
        if v is not None:
            slots_x.masked_fill_(~v, 2 * bins)
        errors_of_slots[item] += torch.bincount(slots_x, weights=errors.double(), minlength=2 * bins + 1)
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
    for item, x, _, slots_x, out in tiles(logits, valid, slots, grad):
        two_class_gradient(both[item].index_select(0, slots_x), two_class_gap(x), out)
    return grad


def _nothing(logits: Tensor, labels: Tensor, *_: Any) -> tuple[Tensor, ...]:
    loss, volume = (logits.new_empty(logits.shape[:2], dtype=torch.float64) for _ in range(2))
    return loss, volume, shaped_as_first(logits), logits.new_empty(labels.shape)


def _nothing_of_two(logits: Tensor, labels: Tensor, valid: Any, bins: int, *_: Any) -> tuple[Tensor, ...]:
    loss, volume = (logits.new_empty(logits.shape[:2], dtype=torch.float64) for _ in range(2))
    slots = torch.empty(labels.shape, dtype=torch.int32, device=labels.device)
    return loss, volume, slots, logits.new_empty(len(logits), 2, 2 * bins + 1)


implement("lovasz_softmax", _lovasz_softmax, device="cpu")
implement("lovasz_softmax_backward", _lovasz_softmax_backward, device="cpu", pays_from=None)
implement("lovasz_two_classes", _lovasz_two_classes, device="cpu")
implement("lovasz_two_classes_backward", _lovasz_two_classes_backward, device="cpu", pays_from=None)
describe("lovasz_softmax", _nothing)
describe("lovasz_softmax_backward", shaped_as_first)
describe("lovasz_two_classes", _nothing_of_two)
describe("lovasz_two_classes_backward", shaped_as_first)
