"""Softmax and soft overlap in one pass over the logits, tile by tile: what softmax and ``soft_overlap`` give, on a CPU.

No tensor as large as the logits is made but their gradient. The classes' probabilities of a tile live in a buffer that stays in
the cache; between the passes only log Σ exp x of each voxel is kept (nothing at two classes, where p₁ = σ(x₁ − x₀)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

TILE = 2**19  # numbers in a tile; smaller ones cost calls, larger ones leave the cache

# Operators, so that torch.compile keeps them as they are.
LIBRARY: Any = Library("monai_surrogates", "DEF")  # type: ignore[no-untyped-call]  # torch's class has no types
LIBRARY.define("softmax_overlap(Tensor logits, Tensor labels, Tensor? valid, bool squared) -> (Tensor, Tensor)")
LIBRARY.define(
    "softmax_overlap_backward(Tensor logits, Tensor labels, Tensor? valid, bool squared, Tensor lse, Tensor slopes) -> Tensor"
)


def tiled_softmax_overlap(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> Tensor:
    """Σ p_y, Σ p (Σ p² if squared) and the labels' voxels, per item and class of p = softmax(logits), differentiable.

    Args:
        logits: (B, C, N), float32 or float64, C above 1, finite where not valid.
        labels: (B, N), int64.
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
        counts, lse = torch.ops.monai_surrogates.softmax_overlap(logits, labels, valid, squared)
        return counts, lse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, labels, valid, ctx.squared = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(logits, labels, valid, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        logits, labels, valid, lse = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated once more
            grad = _plain_slopes(logits, labels, valid, ctx.squared, gradients[0])
        else:
            grad = torch.ops.monai_surrogates.softmax_overlap_backward(
                logits, labels, valid, ctx.squared, lse, gradients[0].contiguous()
            )
        return grad, None, None, None


def _counts(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
    batch, num_classes, voxels = logits.shape
    counts = torch.zeros(3, batch, num_classes, dtype=torch.float64)
    if num_classes == 2:
        for item, part in tiles(logits):
            counts[:, item] += _two_class_counts(*take(logits, labels, valid, item, part), squared)
        return counts.to(logits.dtype), logits.new_empty(0)
    lse = logits.new_empty(batch, voxels)
    buffer = logits.new_empty(num_classes, tile_size(logits))
    for item, part in tiles(logits):
        x, y, v = take(logits, labels, valid, item, part)
        p, scale = exponentials(x, lse[item, part], buffer[:, : x.shape[1]])
        if v is not None:
            scale = scale * v
        own = p.gather(0, y.unsqueeze(0))[0].mul_(scale).double()
        counts[0, item] += torch.bincount(y, weights=own, minlength=num_classes)
        counts[2, item] += torch.bincount(y, weights=v, minlength=num_classes)
        counts[1, item] += p.square_() @ scale.square() if squared else p @ scale
    return counts.to(logits.dtype), lse


def exponentials(x: Tensor, lse: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the first axis of x (C, n) in two factors, e (C, n) in ``out`` and 1/Σ e (n,); log Σ exp x in ``lse``."""
    largest = x.amax(0)
    total = torch.sub(x, largest, out=out).exp_().sum(0)
    torch.add(largest, total.log(), out=lse)
    return out, total.reciprocal_()


def probabilities(x: Tensor, lse: Tensor, out: Tensor) -> Tensor:
    """Softmax over the first axis of x (C, n) once log Σ exp x is known, into ``out``."""
    return torch.sub(x, lse, out=out).exp_()


def _slopes(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, lse: Tensor, slopes: Tensor) -> Tensor:
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    num_classes = logits.shape[1]
    buffer = logits.new_empty(num_classes, tile_size(logits))
    for item, part in tiles(logits):
        x, y, v = take(logits, labels, valid, item, part)
        of_own, of_volume, _ = slopes[:, item]
        if num_classes == 2:
            _two_class_slopes(x, y, v, squared, of_own, of_volume, grad[item, :, part])
            continue
        p = probabilities(x, lse[item, part], buffer[:, : x.shape[1]])
        softmax_backward_tile(p, y, v, squared, of_own, of_volume, grad[item, :, part])
    return grad


def _plain_slopes(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, slopes: Tensor) -> Tensor:
    """The same by torch's own operators."""
    p, labels, (of_own, of_volume, _) = logits.softmax(1), labels.unsqueeze(1), slopes.unsqueeze(-1)
    of_p = (2 * p if squared else torch.ones_like(p)) * of_volume
    of_p = of_p.scatter_add(1, labels, of_own.expand_as(p).gather(1, labels))
    return softmax_slopes(p, of_p if valid is None else of_p * valid.unsqueeze(1))


def softmax_slopes(p: Tensor, of_p: Tensor) -> Tensor:
    """∂L/∂x_c = p_c(∂L/∂p_c − Σ_k p_k ∂L/∂p_k)."""
    return p * (of_p - (p * of_p).sum(1, keepdim=True))


def softmax_backward_tile(
    p: Tensor, y: Tensor, v: Tensor | None, squared: bool, of_own: Tensor, of_volume: Tensor, out: Tensor
) -> None:
    """∂L/∂x_c = p_c(a_c − s) + [c = y] p_y b_y with s = Σ_k p_k a_k + p_y b_y; squared: a_c becomes 2 p_c a_c.

    Args:
        p: probabilities of a tile, (C, n).
        y: labels, (n,).
        v: (n,), False for voxels that do not count.
        squared: squared volumes.
        of_own: b, slopes of the intersection, (C,).
        of_volume: a, slopes of the volume, (C,).
        out: ∂L/∂x, (C, n).
    """
    labels = y.unsqueeze(0)
    own = p.gather(0, labels)[0]
    gain = own * of_own.index_select(0, y)
    of_label = of_volume.index_select(0, y)
    if squared:
        a, of_label = (2 * of_volume.unsqueeze(1)) * p, of_label.mul_(own).mul_(2)
        s = (a * p).sum(0).add_(gain)
    else:
        a, s = of_volume.unsqueeze(1), (of_volume @ p).add_(gain)
    torch.sub(a, s, out=out).mul_(p)
    # at the label it is p_y(a_y − s) + p_y b_y; replacing it is faster than adding to it
    out.scatter_(0, labels, of_label.sub_(s).mul_(own).add_(gain).unsqueeze(0))
    if v is not None:
        out.mul_(v)


def _two_class_counts(x: Tensor, y: Tensor, v: Tensor | None, squared: bool) -> Tensor:
    """Intersections, volumes and references of both classes, from sums of p = p₁ inside and outside class 1.

    What is absent comes out as 0 exactly: a class without a voxel has nothing inside, or nothing outside.
    """
    p, inside = torch.sub(x[1], x[0]).sigmoid_(), y.to(x.dtype)
    outside = 1 - inside
    if v is not None:
        inside, outside = inside.mul_(v), outside.mul_(v)
    sums = torch.stack([torch.dot(p, inside), torch.dot(p, outside), inside.sum(), outside.sum()]).double()
    found, false_alarm, present, absent = sums.unbind()
    volume = torch.stack([absent - false_alarm + (present - found), found + false_alarm])
    if squared:
        q = 1 - p
        p, q = (p, q) if v is None else (p * v, q * v)
        volume = torch.stack([torch.dot(q, q), torch.dot(p, p)]).double()
    return torch.stack([torch.stack([absent - false_alarm, found]), volume, torch.stack([absent, present])])


def _two_class_slopes(
    x: Tensor, y: Tensor, v: Tensor | None, squared: bool, of_own: Tensor, of_volume: Tensor, out: Tensor
) -> None:
    """∂L/∂x₁ = −∂L/∂x₀ = p q (g₁ − g₀) with g_c = a_c + [y = c] b_c, squared: 2 p_c a_c in place of a_c."""
    p = torch.sub(x[1], x[0]).sigmoid_()
    of_p = of_volume.new_zeros(()) if squared else of_volume[1] - of_volume[0]
    g = torch.stack([of_p - of_own[0], of_p + of_own[1]]).index_select(0, y)
    if squared:
        g.add_(p * (2 * of_volume.sum())).sub_(2 * of_volume[0])
    torch.mul(g.mul_(p), p.neg_().add_(1), out=out[1])
    if v is not None:
        out[1].mul_(v)
    torch.neg(out[1], out=out[0])


def tile_size(logits: Tensor) -> int:
    """Voxels in a tile."""
    return max(1, min(TILE // logits.shape[1], logits.shape[2]))


def tiles(logits: Tensor) -> Iterator[tuple[int, slice]]:
    """Item and voxels of each tile of (B, C, N)."""
    step = tile_size(logits)
    for item in range(logits.shape[0]):
        for start in range(0, logits.shape[2], step):
            yield item, slice(start, start + step)


def rows(logits: Tensor) -> Iterator[tuple[int, int, slice]]:
    """Item, class and voxels of each piece of a row of (B, C, N)."""
    for item in range(logits.shape[0]):
        for c in range(logits.shape[1]):
            for start in range(0, logits.shape[2], TILE):
                yield item, c, slice(start, start + TILE)


def take(
    logits: Tensor, labels: Tensor, valid: Tensor | None, item: int, part: slice
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A tile of each."""
    return logits[item, :, part], labels[item, part], None if valid is None else valid[item, part]


def _no_counts(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
    batch, num_classes, voxels = logits.shape
    kept = logits.new_empty(0) if num_classes == 2 else logits.new_empty(batch, voxels)
    return logits.new_empty(3, batch, num_classes), kept


def shaped_as_first(first: Tensor, *_: Any) -> Tensor:
    """What an operator gives on the meta device whose result has the shape of its first argument."""
    return torch.empty_like(first, memory_format=torch.contiguous_format)


ON_CPU: dict[str, Callable[..., Any]] = {}  # the operators of this package


def implement(name: str, on_cpu: Callable[..., Any], on_meta: Callable[..., Any]) -> None:
    """Give an operator its two forms; autocast would turn the products inside to half precision."""
    ON_CPU[name] = torch.autocast("cpu", enabled=False)(on_cpu)
    LIBRARY.impl(name, ON_CPU[name], "CPU")
    LIBRARY.impl(name, on_meta, "Meta")


implement("softmax_overlap", _counts, _no_counts)
implement("softmax_overlap_backward", _slopes, shaped_as_first)
