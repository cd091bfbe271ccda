"""Softmax and soft overlap in one pass over the logits, tile by tile on a CPU: ``soft_overlap`` of a softmax.

No tensor as large as the logits is made but their gradient. The classes' probabilities of a tile live in a buffer that stays in
the cache; between the passes only 1/Σ exp x and p_y of each voxel are saved (nothing at two classes, where p₁ = σ(x₁ − x₀)).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_surrogates.core.activation import softmax_slopes
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.kernels.operators import LIBRARY, describe, implement, shaped_as_first
from monai_surrogates.core.kernels.tiles import (
    balance,
    exponentials,
    exponentials_again,
    tile_size,
    tiles,
    two_class_error_logits,
    two_class_gap,
    two_class_gradient,
)
from monai_surrogates.core.sums import block_sum

LIBRARY.define("softmax_overlap(Tensor logits, Tensor labels, Tensor? valid, bool squared) -> (Tensor, Tensor)")
LIBRARY.define(
    "softmax_overlap_backward(Tensor logits, Tensor labels, Tensor? valid, bool squared, Tensor saved, Tensor slopes) -> Tensor"
)


def tiled_softmax_overlap(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> Tensor:
    """Σ p_y, Σ p (Σ p² if squared) and the labels' voxels, per item and class of p = softmax(logits), differentiable.

    Args:
        logits: (B, C, N), float32 or float64, C above 1.
        labels: (B, N), whole numbers of any type.
        valid: (B, N) bool, False for voxels that do not count; None if all do.
        squared: squared volumes.

    Returns:
        (3, B, C) in float64: intersection, volume and reference volume.
    """
    counts: tuple[Tensor, Tensor] = _SoftmaxOverlap.apply(logits, labels, valid, squared)  # type: ignore[no-untyped-call]  # no types
    return counts[0]


class _SoftmaxOverlap(torch.autograd.Function):
    @staticmethod
    def forward(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
        counts, saved = torch.ops.monai_surrogates.softmax_overlap(logits, labels, valid, squared)
        return counts, saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, labels, valid, ctx.squared = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # no zeros, as large as the logits, in place of missing gradients
        ctx.save_for_backward(logits, labels, valid, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if gradients[0] is None:
            return None, None, None, None
        logits, labels, valid, saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated once more
            grad = _plain_slopes(logits, labels, valid, ctx.squared, gradients[0])
        else:
            grad = torch.ops.monai_surrogates.softmax_overlap_backward(
                logits, labels, valid, ctx.squared, saved, gradients[0].contiguous()
            )
        return grad, None, None, None


def _counts(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
    batch, num_classes, voxels = logits.shape
    counts = torch.zeros(3, batch, num_classes, dtype=torch.float64)
    if num_classes == 2:
        for item, x, v, y in tiles(logits, valid, labels):
            counts[:, item] += _two_class_counts(x, y, v, squared)
        return counts, logits.new_empty(0)
    saved = logits.new_empty(batch, 2, voxels)  # the scale and p_y
    buffer = logits.new_empty(num_classes, tile_size(logits))
    for item, x, v, y, (scale, own) in tiles(logits, valid, labels, saved):
        y = y.long()
        e, factor = exponentials(x, buffer[:, : x.shape[1]], scale)
        p = e.mul_(factor if v is None else factor * v)
        torch.gather(p, 0, y.unsqueeze(0), out=own.unsqueeze(0))
        counts[0, item] += torch.bincount(y, weights=own.double(), minlength=num_classes)
        if squared:  # those near 1 in float64, because 1 − 2I/(Σp² + Σy²) cancels
            counts[1, item] += torch.bincount(y, weights=own.double().square(), minlength=num_classes)
            p.scatter_(0, y.unsqueeze(0), 0).square_()
        counts[1, item] += block_sum(p)
        counts[2, item] += torch.bincount(y, weights=v, minlength=num_classes)
    return counts, saved


def _slopes(
    logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, saved: Tensor, slopes: Tensor
) -> Tensor:
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    num_classes = logits.shape[1]
    if num_classes == 2:
        for item, x, v, y, out in tiles(logits, valid, labels, grad):
            _two_class_slopes(x, y, v, squared, slopes[0, item], slopes[1, item], out)
        return grad
    buffers = logits.new_empty(2, num_classes, tile_size(logits))
    of_p = _slopes_of_squares if squared else _slopes_of_p
    for item, x, v, y, (scale, own), out in tiles(logits, valid, labels, saved, grad):
        e, g = buffers[..., : x.shape[1]]
        e, factor = exponentials_again(x, e, scale)
        factor = factor if v is None else factor * v
        terms = of_p(e, factor, y.long(), own, slopes[0, item], slopes[1, item], g)
        torch.mul(e, g, out=out)
        balance(out, e, factor, terms)
    return grad


def _plain_slopes(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, slopes: Tensor) -> Tensor:
    """The same by torch's own operators."""
    p, labels = Voxels(logits, labels, valid).zeroed().input.softmax(1), labels.long().unsqueeze(1)
    of_own, of_volume, _ = slopes.to(logits.dtype).unsqueeze(-1)
    of_p = (2 * p if squared else torch.ones_like(p)) * of_volume
    of_p = of_p.scatter_add(1, labels, of_own.expand_as(p).gather(1, labels))
    return softmax_slopes(p, of_p if valid is None else of_p * valid.unsqueeze(1))


def _slopes_of_p(
    e: Tensor, factor: Tensor, y: Tensor, own: Tensor, of_own: Tensor, of_volume: Tensor, out: Tensor
) -> Tensor:
    """(g_c − s)·factor, which times e_c is ∂L/∂x_c: g_c = a_c + [c = y] b_y and s = Σ_k p_k g_k = Σ_k p_k a_k + p_y b_y.

    Args:
        e: first factor of the probabilities p = e·factor of a tile, (C, n).
        factor: second factor, 0 for voxels that do not count, (n,).
        y: labels, (n,).
        own: the probability of each label, p_y, (n,).
        of_own: b, slopes of the intersection, (C,), float64.
        of_volume: a, slopes of the volume, (C,), float64.
        out: the result, (C, n).

    Returns:
        Σ_k p_k |a_k| + p_y |b_y|, (n,): the rounding error of g_c − s, in units of eps.
    """
    a, b_y = of_volume.to(e.dtype), of_own.to(e.dtype).index_select(0, y)
    mean, terms = (torch.stack([a, a.abs()]) @ e).mul_(factor).unbind()
    mean.addcmul_(own, b_y)
    terms.addcmul_(own, b_y.abs())
    torch.mm(torch.stack([a, -torch.ones_like(a)], dim=1), torch.stack([factor, mean * factor]), out=out)
    out.scatter_add_(0, y.unsqueeze(0), b_y.mul_(factor).unsqueeze(0))
    return terms


def _slopes_of_squares(
    e: Tensor, factor: Tensor, y: Tensor, own: Tensor, of_own: Tensor, of_volume: Tensor, out: Tensor
) -> Tensor:
    """The same of squared volumes, g_c = 2 a_c p_c + [c = y] b_y.

    Near a perfect prediction g_y vanishes, so it is taken as (b_y + 2 a_y) − 2 a_y(1 − p_y), with 1 − p_y = Σ_{k≠y} p_k.
    """
    labels, twice = y.unsqueeze(0), 2 * of_volume
    torch.mul(e, factor, out=out).scatter_(0, labels, 0)
    perfect, slope = (of_own + twice).to(e.dtype), twice.to(e.dtype)
    g_y = perfect.index_select(0, y).addcmul_(slope.index_select(0, y), out.sum(0), value=-1)
    out.mul_(slope.unsqueeze(1)).scatter_(0, labels, g_y.unsqueeze(0))
    mean = (e * out).sum(0).mul_(factor)
    out.sub_(mean).mul_(factor)
    return mean


def _two_class_counts(x: Tensor, y: Tensor, v: Tensor | None, squared: bool) -> Tensor:
    """Intersections, volumes and references of both classes, from the errors e = |p₁ − y| and 1 − e, each with all its digits.

    A class that is absent has 0 exactly. What one class misses is added to the other: |A₁| = Σ_{y=1} (1 − e) + Σ_{y=0} e.
    """
    inside = y.to(x.dtype, copy=True)
    logits = two_class_error_logits(two_class_gap(x), inside)
    right = None if squared else torch.neg(logits).sigmoid_()
    errors = logits.sigmoid_()
    size = torch.tensor(float(len(y)) if v is None else float(torch.count_nonzero(v)), dtype=torch.float64)
    if v is not None:
        for of_voxels in (errors, inside):
            of_voxels.mul_(v)
    reference = _by_class(size, block_sum(inside))
    missed = _by_class(block_sum(errors), block_sum(errors * inside))
    if right is None:  # squared: (1 − e)² = 1 − 2e + e², so that 1 − 2I/(Σp² + Σy²) does not cancel
        squares = errors.square_()
        of_squares = _by_class(block_sum(squares), block_sum(inside.mul_(squares)))
        return torch.stack([reference - missed, reference - 2 * missed + of_squares + of_squares.flip(0), reference])
    right = right if v is None else right.mul_(v)
    hit = _by_class(block_sum(right), block_sum(inside.mul_(right)))
    return torch.stack([hit, hit + missed.flip(0), reference])


def _by_class(everywhere: Tensor, inside: Tensor) -> Tensor:
    """A sum over all voxels as one outside class 1 and one inside; 0 for a class that is absent, as both are then the same."""
    return torch.stack([everywhere - inside, inside])


def _two_class_slopes(
    x: Tensor, y: Tensor, v: Tensor | None, squared: bool, of_own: Tensor, of_volume: Tensor, out: Tensor
) -> None:
    """∂L/∂x₁ = −∂L/∂x₀ = p q (g₁ − g₀) with g_c = a_c + [y = c] b_c.

    Squared, with 2 p_c a_c in place of a_c: g₁ − g₀ = ±(b_y + 2 a_y − 2(a₀ + a₁) e), + in class 1, e = |p₁ − y|.
    """
    inside, gap = y.to(x.dtype), two_class_gap(x)
    if squared:
        at_perfect, sum_of_a = of_own + 2 * of_volume, float(of_volume.sum())
        errors, sign = two_class_error_logits(gap, inside).sigmoid_(), 2 * inside - 1
        g = _lerp(at_perfect[0], at_perfect[1], inside).sub_(errors, alpha=2 * sum_of_a).mul_(sign)
    else:
        of_p = of_volume[1] - of_volume[0]
        g = _lerp(of_p - of_own[0], of_p + of_own[1], inside)
    if v is not None:
        g.mul_(v)
    two_class_gradient(g, gap, out)


def _lerp(outside: Tensor, inside: Tensor, of: Tensor) -> Tensor:
    """The one number outside class 1, the other one inside."""
    return torch.lerp(outside.to(of.dtype), inside.to(of.dtype), of)


def _no_counts(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
    batch, num_classes, voxels = logits.shape
    saved = logits.new_empty(0) if num_classes == 2 else logits.new_empty(batch, 2, voxels)
    return logits.new_empty(3, batch, num_classes, dtype=torch.float64), saved


implement("softmax_overlap", _counts, device="cpu")
implement("softmax_overlap_backward", _slopes, device="cpu", pays_from=None)
describe("softmax_overlap", _no_counts)
describe("softmax_overlap_backward", shaped_as_first)
