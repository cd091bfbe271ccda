"""Softmax and soft overlap tile by tile on a CPU: ``soft_overlap`` of a softmax, from logits and a label map.

The numbers of a tile live in buffers that stay in the cache. Between the passes nothing is kept at two classes, where
p₁ = σ(x₁ − x₀); at more the probabilities, where they are cheaper kept than computed again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_surrogates.core.kernels.operators import implement
from monai_surrogates.core.kernels.overlap import keeps_probabilities
from monai_surrogates.core.kernels.tiles import (
    buffers_for,
    shaped_as,
    softmax_gradient,
    softmax_of,
    tiles,
    two_class_error_logits,
    two_class_gap,
    two_class_gradient,
)
from monai_surrogates.core.sums import block_sum


def _counts(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
    counts = torch.zeros(3, *logits.shape[:2], dtype=torch.float64)
    if logits.shape[1] == 2:
        for items, x, v, y in tiles(logits, valid, labels):
            counts[:, items] += _two_class_counts(x, y, v, squared)
        return counts, logits.new_empty(0)
    kept = [torch.empty_like(logits, memory_format=torch.contiguous_format)] if keeps_probabilities(logits) else []
    of_p, of_own, of_rest = buffers_for(logits, 3)
    of_tile = _squared_counts if squared else _plain_counts
    for items, x, v, y, *room in tiles(logits, valid, labels, *kept):
        p = softmax_of(x, v, room[0] if room else shaped_as(x, of_p))
        own = _own_class(y, v, shaped_as(x, of_own))
        counts[:, items] += of_tile(p, own, shaped_as(x, of_rest))
    return counts, kept[0] if kept else logits.new_empty(0)


def _own_class(y: Tensor, v: Tensor | None, out: Tensor) -> Tensor:
    """[c = y] of valid voxels as numbers (b, C, n)."""
    classes = torch.arange(out.shape[1], dtype=out.dtype).unsqueeze(1)
    torch.eq(y.to(out.dtype).unsqueeze(1), classes, out=out)
    return out if v is None else out.mul_(v.to(out.dtype).unsqueeze(1))


def _plain_counts(p: Tensor, own: Tensor, buffer: Tensor) -> Tensor:
    """Σ p_y, Σ p and the labels' voxels, (3, b, C)."""
    return torch.stack([block_sum(x) for x in (torch.mul(p, own, out=buffer), p, own)])


def _squared_counts(p: Tensor, own: Tensor, buffer: Tensor) -> Tensor:
    """The same with Σ p², from the errors e = 1 − p_y = Σ_{k≠y} p_k, because 1 − 2I/(Σp² + Σy²) cancels.

    I = Σ (1 − e), and the own share of Σ p² is Σ (1 − 2e + e²).
    """
    others = torch.addcmul(p, p, own, value=-1, out=buffer)
    e = others.sum(1, keepdim=True)
    volume, reference = block_sum(others.square_()), block_sum(own)
    missed = block_sum(torch.mul(own, e, out=buffer))
    squares = block_sum(buffer.mul_(e))
    return torch.stack([reference - missed, volume + reference - 2 * missed + squares, reference])


def _slopes(
    logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, saved: Tensor, slopes: Tensor
) -> Tensor:
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if logits.shape[1] == 2:
        for items, x, v, y, out in tiles(logits, valid, labels, grad):
            _two_class_slopes(x, y, v, squared, slopes[0, items], slopes[1, items], out)
        return grad
    kept = [saved] if keeps_probabilities(logits) else []
    of_p, of_g = buffers_for(logits, 2)
    of_tile = _slopes_of_squares if squared else _slopes_of_p
    for items, x, v, y, out, *again in tiles(logits, valid, labels, grad, *kept):
        p = again[0] if again else softmax_of(x, v, shaped_as(x, of_p))
        own = _own_class(y, None, shaped_as(x, of_g))
        g = of_tile(p, own, slopes[0, items].unsqueeze(2), slopes[1, items].unsqueeze(2))
        softmax_gradient(g, p, out)
    return grad


def _slopes_of_p(p: Tensor, own: Tensor, of_own: Tensor, of_volume: Tensor) -> Tensor:
    """∂L/∂p_c = a_c + [c = y] b_c (b, C, n), in place of ``own``, for slopes b of I and a of the volume (b, C, 1)."""
    return own.mul_(of_own.to(p.dtype)).add_(of_volume.to(p.dtype))


def _slopes_of_squares(p: Tensor, own: Tensor, of_own: Tensor, of_volume: Tensor) -> Tensor:
    """The same of squared volumes, 2 a_c p_c + [c = y] b_c.

    Near a perfect prediction it vanishes at c = y, so it is taken there as (b_c + 2 a_c) − 2 a_c e, with
    e = 1 − p_y = Σ_{k≠y} p_k.
    """
    perfect, twice = (of_own + 2 * of_volume).to(p.dtype), (2 * of_volume).to(p.dtype)
    others = torch.addcmul(p, p, own, value=-1)
    at_own = torch.addcmul(perfect, twice, others.sum(1, keepdim=True), value=-1)
    return own.mul_(at_own).addcmul_(others, twice)


def _two_class_counts(x: Tensor, y: Tensor, v: Tensor | None, squared: bool) -> Tensor:
    """Intersections, volumes and references (3, b, 2), from the errors e = |p₁ − y| and 1 − e, each with all its digits.

    A class that is absent has 0 exactly. What one class misses is added to the other: |A₁| = Σ_{y=1} (1 − e) + Σ_{y=0} e.
    """
    inside = y.to(x.dtype, copy=True)
    logits = two_class_error_logits(two_class_gap(x), inside)
    right = None if squared else torch.neg(logits).sigmoid_()
    errors = logits.sigmoid_()
    size = errors.new_full((len(y),), y.shape[1]).double() if v is None else torch.count_nonzero(v, dim=1).double()
    if v is not None:
        for of_voxels in (errors, inside):
            of_voxels.mul_(v)
    reference = _of_both(size, block_sum(inside))
    missed = _of_both(block_sum(errors), block_sum(errors * inside))
    if right is None:  # squared: (1 − e)² = 1 − 2e + e², so that 1 − 2I/(Σp² + Σy²) does not cancel
        squares = errors.square_()
        of_squares = _of_both(block_sum(squares), block_sum(inside.mul_(squares)))
        return torch.stack([reference - missed, reference - 2 * missed + of_squares + of_squares.flip(1), reference])
    right = right if v is None else right.mul_(v)
    hit = _of_both(block_sum(right), block_sum(inside.mul_(right)))
    return torch.stack([hit, hit + missed.flip(1), reference])


def _of_both(everywhere: Tensor, inside: Tensor) -> Tensor:
    """Sums (b,) over all voxels as those outside class 1 and inside, (b, 2); 0 for an absent class, whose sums are equal."""
    return torch.stack([everywhere - inside, inside], 1)


def _two_class_slopes(
    x: Tensor, y: Tensor, v: Tensor | None, squared: bool, of_own: Tensor, of_volume: Tensor, out: Tensor
) -> None:
    """∂L/∂x₁ = −∂L/∂x₀ = p q (g₁ − g₀) with g_c = a_c + [y = c] b_c.

    Squared, with 2 p_c a_c in place of a_c: g₁ − g₀ = ±(b_y + 2 a_y − 2(a₀ + a₁) e), + in class 1, e = |p₁ − y|.
    """
    inside, gap = y.to(x.dtype), two_class_gap(x)
    if squared:
        at_perfect, sum_of_a = of_own + 2 * of_volume, of_volume.sum(1, keepdim=True).to(x.dtype)
        errors, sign = two_class_error_logits(gap, inside).sigmoid_(), 2 * inside - 1
        g = _lerp(at_perfect[:, 0], at_perfect[:, 1], inside).addcmul_(errors, sum_of_a, value=-2).mul_(sign)
    else:
        of_p = of_volume[:, 1] - of_volume[:, 0]
        g = _lerp(of_p - of_own[:, 0], of_p + of_own[:, 1], inside)
    if v is not None:
        g.mul_(v)
    two_class_gradient(g, gap, out)


def _lerp(outside: Tensor, inside: Tensor, of: Tensor) -> Tensor:
    """The one number of an item outside class 1, the other one inside."""
    if len(of) == 1:  # torch is faster with numbers
        return torch.lerp(outside[0].to(of.dtype), inside[0].to(of.dtype), of)
    return torch.lerp(outside.to(of.dtype).unsqueeze(1), inside.to(of.dtype).unsqueeze(1), of)


implement("softmax_overlap", _counts, _slopes, device="cpu")
