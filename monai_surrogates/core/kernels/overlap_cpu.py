"""Softmax and soft overlap in one pass over the logits, tile by tile on a CPU: ``soft_overlap`` of a softmax.

No tensor as large as the logits is made but their gradient. The classes' probabilities of a tile live in a buffer that stays in
the cache; between the passes 1/Σ exp x of each voxel is saved, of many classes p_y as well, and nothing of two, where
p₁ = σ(x₁ − x₀).
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_surrogates.core.kernels.operators import implement
from monai_surrogates.core.kernels.overlap import by_masks, saved_shape
from monai_surrogates.core.kernels.tiles import (
    balance,
    buffers_for,
    exponentials,
    exponentials_again,
    in_flat_rows,
    shaped_as,
    tiles,
    two_class_error_logits,
    two_class_gap,
    two_class_gradient,
)
from monai_surrogates.core.sums import block_sum


def _counts(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
    counts = torch.zeros(3, *logits.shape[:2], dtype=torch.float64)
    saved = logits.new_empty(saved_shape(logits, squared))
    if logits.shape[1] == 2:
        for items, x, v, y in tiles(logits, valid, labels):
            counts[:, items] += _two_class_counts(x, y, v, squared)
    elif by_masks(logits, squared):
        _count_by_masks(logits, labels, valid, saved, counts)
    else:
        _count_at_labels(logits, labels, valid, squared, saved, counts)
    return counts, saved


def _count_at_labels(
    logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, saved: Tensor, counts: Tensor
) -> None:
    (buffer,) = buffers_for(logits)
    for items, x, v, y, saved_x in tiles(logits, valid, labels, saved):
        scale, own = saved_x.unbind(1)
        y = y.long()
        place = in_flat_rows(y, logits.shape[1])
        p = _probabilities(*exponentials(x, shaped_as(x, buffer), scale), v)
        torch.gather(p, 1, y.unsqueeze(1), out=own.unsqueeze(1))
        counts[0, items] += _by_class(place, own.double(), counts[0, items])
        if squared:  # those near 1 in float64, because 1 − 2I/(Σp² + Σy²) cancels
            counts[1, items] += _by_class(place, own.double().square(), counts[1, items])
            p.scatter_(1, y.unsqueeze(1), 0).square_()
        counts[1, items] += block_sum(p)
        counts[2, items] += _by_class(place, v, counts[2, items])


def _probabilities(e: Tensor, factor: Tensor, v: Tensor | None) -> Tensor:
    """Softmax of a tile from its two factors, in place of the first; 0 in removed voxels."""
    return e.mul_((factor if v is None else factor * v).unsqueeze(1))


def _count_by_masks(logits: Tensor, labels: Tensor, valid: Tensor | None, saved: Tensor, counts: Tensor) -> None:
    of_p, of_own = buffers_for(logits, 2)
    for items, x, v, y, scale in tiles(logits, valid, labels, saved[:, 0]):
        p = _probabilities(*exponentials(x, shaped_as(x, of_p), scale), v)
        own = _own_class(y, v, shaped_as(x, of_own))
        reference = block_sum(own)
        counts[:, items] += torch.stack([block_sum(own.mul_(p)), block_sum(p), reference])


def _own_class(y: Tensor, v: Tensor | None, out: Tensor) -> Tensor:
    """[c = y] as numbers (b, C, n), 0 in removed voxels."""
    classes = torch.arange(out.shape[1], dtype=out.dtype).unsqueeze(1)
    torch.eq(y.to(out.dtype).unsqueeze(1), classes, out=out)
    return out if v is None else out.mul_(v.unsqueeze(1))


def _by_class(place: Tensor, values: Tensor | None, like: Tensor) -> Tensor:
    """Σ of values (b, n), or the number of voxels, of each item and class, (b, C) as ``like``."""
    weights = None if values is None else values.flatten()
    return torch.bincount(place, weights=weights, minlength=like.numel()).view(like.shape)


def _slopes(
    logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, saved: Tensor, slopes: Tensor
) -> Tensor:
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if logits.shape[1] == 2:
        for items, x, v, y, out in tiles(logits, valid, labels, grad):
            _two_class_slopes(x, y, v, squared, slopes[0, items], slopes[1, items], out)
    elif by_masks(logits, squared):
        _slopes_by_masks(logits, labels, valid, saved, slopes, grad)
    else:
        _slopes_at_labels(logits, labels, valid, squared, saved, slopes, grad)
    return grad


def _slopes_at_labels(
    logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, saved: Tensor, slopes: Tensor, grad: Tensor
) -> None:
    of_e, of_g = buffers_for(logits, 2)
    of_p = _slopes_of_squares if squared else _slopes_of_p
    for items, x, v, y, saved_x, out in tiles(logits, valid, labels, saved, grad):
        scale, own = saved_x.unbind(1)
        e, factor = exponentials_again(x, shaped_as(x, of_e), scale)
        factor = factor if v is None else factor * v
        g = shaped_as(x, of_g)
        terms = of_p(e, factor, y.long(), own, slopes[0, items], slopes[1, items], g)
        torch.mul(e, g, out=out)
        balance(out, e, factor, terms)


def _slopes_by_masks(
    logits: Tensor, labels: Tensor, valid: Tensor | None, saved: Tensor, slopes: Tensor, grad: Tensor
) -> None:
    """∂L/∂x_c = p_c g_c − p_c Σ_k p_k g_k with g_c = a_c + [c = y] b_c; see :func:`_slopes_of_p`."""
    of_p, of_own = buffers_for(logits, 2)
    for items, x, v, y, scale, out in tiles(logits, valid, labels, saved[:, 0], grad):
        p = _probabilities(*exponentials_again(x, shaped_as(x, of_p), scale), v)
        of_own_class, of_volume = slopes[:2, items].to(x.dtype).unsqueeze(3)
        products = _own_class(y, None, shaped_as(x, of_own)).mul_(of_own_class).add_(of_volume).mul_(p)
        mean = products.sum(1)
        torch.mul(p, mean.unsqueeze(1), out=out)
        torch.sub(products, out, out=out)
        balance(out, p, None, mean)


def _slopes_of_p(
    e: Tensor, factor: Tensor, y: Tensor, own: Tensor, of_own: Tensor, of_volume: Tensor, out: Tensor
) -> Tensor:
    """(g_c − s)·factor, which times e_c is ∂L/∂x_c: g_c = a_c + [c = y] b_y and s = Σ_k p_k g_k = Σ_k p_k a_k + p_y b_y.

    Args:
        e: first factor of the probabilities p = e·factor of a tile, (b, C, n).
        factor: second factor, 0 for removed voxels, (b, n).
        y: labels, (b, n).
        own: the probability of each label, p_y, (b, n).
        of_own: slopes of the intersection, b in the equation, (b, C), float64.
        of_volume: slopes of the volume, a in the equation, (b, C), float64.
        out: the result, (b, C, n).

    Returns:
        Σ_k p_k |a_k| + p_y |b_y|, (b, n): the rounding error of g_c − s, in units of eps.
    """
    a, b_y = of_volume.to(e.dtype), _at_labels(of_own.to(e.dtype), y)
    mean, terms = torch.bmm(torch.stack([a, a.abs()], 1), e).mul_(factor.unsqueeze(1)).unbind(1)
    mean.addcmul_(own, b_y)
    terms.addcmul_(own, b_y.abs())
    torch.bmm(torch.stack([a, -torch.ones_like(a)], 2), torch.stack([factor, mean * factor], 1), out=out)
    out.scatter_add_(1, y.unsqueeze(1), b_y.mul_(factor).unsqueeze(1))
    return terms


def _slopes_of_squares(
    e: Tensor, factor: Tensor, y: Tensor, own: Tensor, of_own: Tensor, of_volume: Tensor, out: Tensor
) -> Tensor:
    """The same of squared volumes, g_c = 2 a_c p_c + [c = y] b_y.

    Near a perfect prediction g_y vanishes, so it is taken as (b_y + 2 a_y) − 2 a_y(1 − p_y), with 1 − p_y = Σ_{k≠y} p_k.
    """
    labels, twice = y.unsqueeze(1), 2 * of_volume
    torch.mul(e, factor.unsqueeze(1), out=out).scatter_(1, labels, 0)
    perfect, slope = (of_own + twice).to(e.dtype), twice.to(e.dtype)
    g_y = _at_labels(perfect, y).addcmul_(_at_labels(slope, y), out.sum(1), value=-1)
    out.mul_(slope.unsqueeze(2)).scatter_(1, labels, g_y.unsqueeze(1))
    mean = (e * out).sum(1).mul_(factor)
    out.sub_(mean.unsqueeze(1)).mul_(factor.unsqueeze(1))
    return mean


def _at_labels(of_classes: Tensor, y: Tensor) -> Tensor:
    """The number (b, C) of each voxel's class, (b, n)."""
    return of_classes.flatten().index_select(0, in_flat_rows(y, of_classes.shape[1])).view(y.shape)


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
