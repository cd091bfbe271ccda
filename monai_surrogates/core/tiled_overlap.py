"""Softmax and soft overlap in one pass over the logits, tile by tile: what softmax and ``soft_overlap`` give, on a CPU.

No tensor as large as the logits is made but their gradient. The classes' probabilities of a tile live in a buffer that stays in
the cache; between the passes only 1/Σ exp x and p_y of each voxel are kept (nothing at two classes, where p₁ = σ(x₁ − x₀)).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.operators import LIBRARY, implement, shaped_as_first
from monai_surrogates.core.tiles import (
    exponentials,
    exponentials_again,
    softmax_slopes,
    tile_size,
    tiles,
    two_class_gradient,
)

LIBRARY.define("softmax_overlap(Tensor logits, Tensor labels, Tensor? valid, bool squared) -> (Tensor, Tensor)")
LIBRARY.define(
    "softmax_overlap_backward(Tensor logits, Tensor labels, Tensor? valid, bool squared, Tensor kept, Tensor slopes) -> Tensor"
)


def tiled_softmax_overlap(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> Tensor:
    """Σ p_y, Σ p (Σ p² if squared) and the labels' voxels, per item and class of p = softmax(logits), differentiable.

    Args:
        logits: (B, C, N), float32 or float64, C above 1.
        labels: (B, N), whole numbers of any type.
        valid: (B, N) bool, False for voxels that do not count; None if all do.
        squared: squared volumes.

    Returns:
        (3, B, C), intersection, volume and reference volume, in the type of the logits.
    """
    counts: tuple[Tensor, Tensor] = _SoftmaxOverlap.apply(logits, labels, valid, squared)  # type: ignore[no-untyped-call]  # no types
    return counts[0]


class _SoftmaxOverlap(torch.autograd.Function):
    @staticmethod
    def forward(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
        counts, kept = torch.ops.monai_surrogates.softmax_overlap(logits, labels, valid, squared)
        return counts, kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, labels, valid, ctx.squared = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # zeros for what has no gradient, as large as the logits
        ctx.save_for_backward(logits, labels, valid, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if gradients[0] is None:
            return None, None, None, None
        logits, labels, valid, kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated once more
            grad = _plain_slopes(logits, labels, valid, ctx.squared, gradients[0])
        else:
            grad = torch.ops.monai_surrogates.softmax_overlap_backward(
                logits, labels, valid, ctx.squared, kept, gradients[0].contiguous()
            )
        return grad, None, None, None


def _counts(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
    batch, num_classes, voxels = logits.shape
    counts = torch.zeros(3, batch, num_classes, dtype=torch.float64)
    if num_classes == 2:
        for item, x, v, y in tiles(logits, valid, labels):
            counts[:, item] += _two_class_counts(x, y, v, squared)
        return counts.to(logits.dtype), logits.new_empty(0)
    kept = logits.new_empty(batch, 2, voxels)  # the scale and p_y
    buffer = logits.new_empty(num_classes, tile_size(logits))
    for item, x, v, y, (scale, own) in tiles(logits, valid, labels, kept):
        y = y.long()
        e, factor = exponentials(x, buffer[:, : x.shape[1]], scale)
        factor = factor if v is None else factor * v
        torch.mul(e.gather(0, y.unsqueeze(0))[0], factor, out=own)
        counts[0, item] += torch.bincount(y, weights=own.double(), minlength=num_classes)
        counts[1, item] += e.square_() @ factor.square() if squared else e @ factor
        counts[2, item] += torch.bincount(y, weights=v, minlength=num_classes)
    return counts.to(logits.dtype), kept


def _slopes(
    logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, kept: Tensor, slopes: Tensor
) -> Tensor:
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    num_classes = logits.shape[1]
    if num_classes == 2:
        for item, x, v, y, out in tiles(logits, valid, labels, grad):
            _two_class_slopes(x, y, v, squared, slopes[0, item], slopes[1, item], out)
        return grad
    buffers = logits.new_empty(2, num_classes, tile_size(logits))
    for item, x, v, y, (scale, own), out in tiles(logits, valid, labels, kept, grad):
        e, g = buffers[..., : x.shape[1]]
        e, factor = exponentials_again(x, e, scale)
        factor = factor if v is None else factor * v
        _slopes_of_p(e, factor, y.long(), own, squared, slopes[0, item], slopes[1, item], g)
        torch.mul(e, g, out=out)
    return grad


def _plain_slopes(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, slopes: Tensor) -> Tensor:
    """The same by torch's own operators."""
    voxels = Voxels(logits, labels, valid).zeroed().widened()
    p, labels, (of_own, of_volume, _) = voxels.input.softmax(1), voxels.target.unsqueeze(1), slopes.unsqueeze(-1)
    of_p = (2 * p if squared else torch.ones_like(p)) * of_volume
    of_p = of_p.scatter_add(1, labels, of_own.expand_as(p).gather(1, labels))
    return softmax_slopes(p, of_p if valid is None else of_p * valid.unsqueeze(1))


def _slopes_of_p(
    e: Tensor, scale: Tensor, y: Tensor, own: Tensor, squared: bool, of_own: Tensor, of_volume: Tensor, out: Tensor
) -> None:
    """(a_c − s + [c = y] b_y)·scale, s = Σ_k p_k a_k + p_y b_y, which times e_c is ∂L/∂x_c; squared: a_c becomes 2 p_c a_c.

    Args:
        e: first factor of the probabilities p = e·scale of a tile, (C, n).
        scale: second factor, 0 for voxels that do not count, (n,).
        y: labels, (n,).
        own: the probability of each label, p_y, (n,).
        squared: squared volumes.
        of_own: b, slopes of the intersection, (C,).
        of_volume: a, slopes of the volume, (C,).
        out: the result, (C, n).
    """
    b_y = of_own.index_select(0, y)
    if squared:
        torch.mul(e, scale, out=out).mul_((2 * of_volume).unsqueeze(1))
        s = torch.linalg.vecdot(e, out, dim=0).mul_(scale).addcmul_(own, b_y)
        out.sub_(s).mul_(scale)
    else:
        scaled = scale.new_empty(2, len(scale))
        scaled[0] = scale
        torch.mul((of_volume @ e).mul_(scale).addcmul_(own, b_y), scale, out=scaled[1])
        torch.mm(torch.stack([of_volume, -torch.ones_like(of_volume)], dim=1), scaled, out=out)  # a·scale − s·scale
    out.scatter_add_(0, y.unsqueeze(0), b_y.mul_(scale).unsqueeze(0))


def _two_class_counts(x: Tensor, y: Tensor, v: Tensor | None, squared: bool) -> Tensor:
    """Intersections, volumes and references of both classes, from sums of p = p₁ inside and outside class 1.

    What is absent comes out as 0 exactly: a class without a voxel has nothing inside, or nothing outside.
    """
    gap, inside = torch.sub(x[1], x[0]), y.to(x.dtype, copy=True)
    q, p = torch.neg(gap).sigmoid_(), gap.sigmoid_()  # each to its own last digit, where 1 − p has none left
    outside, size = 1 - inside, inside.new_tensor(len(inside), dtype=torch.float64)
    if v is not None:
        inside, outside, size = inside.mul_(v), outside.mul_(v), v.sum().double()
    pairs = (q, outside), (p, inside), (q, inside), (p, outside)
    spared, found, missed, false_alarm = (torch.dot(*pair).double() for pair in pairs)
    volume = torch.stack([spared + missed, found + false_alarm])
    if squared:
        p, q = (p, q) if v is None else (p * v, q * v)
        volume = torch.stack([torch.dot(q, q), torch.dot(p, p)]).double()
    in_class = inside.sum().double()
    reference = torch.stack([size - in_class, in_class])
    return torch.stack([torch.stack([spared, found]), volume, reference])


def _two_class_slopes(
    x: Tensor, y: Tensor, v: Tensor | None, squared: bool, of_own: Tensor, of_volume: Tensor, out: Tensor
) -> None:
    """∂L/∂x₁ = −∂L/∂x₀ = p q (g₁ − g₀) with g_c = a_c + [y = c] b_c, squared: 2 p_c a_c in place of a_c."""
    gap = torch.sub(x[1], x[0])
    of_p = of_volume.new_zeros(()) if squared else of_volume[1] - of_volume[0]
    g = torch.lerp(of_p - of_own[0], of_p + of_own[1], y.to(x.dtype))  # the one outside class 1, the other one inside
    if squared:
        g.add_(gap.sigmoid().mul_(2 * of_volume[1])).sub_(gap.neg().sigmoid_().mul_(2 * of_volume[0]))
    if v is not None:
        g.mul_(v)
    two_class_gradient(g, gap, out)


def _no_counts(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
    batch, num_classes, voxels = logits.shape
    kept = logits.new_empty(0) if num_classes == 2 else logits.new_empty(batch, 2, voxels)
    return logits.new_empty(3, batch, num_classes), kept


implement("softmax_overlap", _counts, _no_counts)
implement("softmax_overlap_backward", _slopes, shaped_as_first)
