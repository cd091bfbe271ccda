"""Tiles of logits that stay in a processor's cache, and their softmax in two factors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from monai_surrogates.core.activation import ROUNDS

TILE = 3 * 2**18  # logits in a tile; smaller ones cost calls, larger ones leave the cache
ROW = 2**18  # numbers in a piece of a row
LARGEST, SAMPLED = 80, 2048  # logits with an exp inside float32; every 2048th voxel is read
MILD = 1e15  # up to it numbers, their squares and their inverses stay far inside float32
CERTAIN = 1e38  # a gap of two logits: its sigmoid is 0 or 1, and twice the gap is finite
MEASURABLE = 1e-15  # a norm to which slopes with lost squares add nothing
TOLERATED = 32  # times eps: slopes are then right to 4e-6


def tile_shape(logits: Tensor) -> tuple[int, int]:
    """Items and voxels in a tile of (B, C, N): several items whole, or a part of one.

    With two classes the number of voxels decides, because all buffers are as long.
    """
    items, channels, voxels = logits.shape
    size = max(1, TILE // max(4, channels))
    return max(1, min(items, size // max(voxels, 1))), max(1, min(size, voxels))


def buffers_for(logits: Tensor, number: int = 1) -> Tensor:
    """Room for so many results as large as a tile, each read by :func:`shaped_as`."""
    items, voxels = tile_shape(logits)
    return logits.new_empty(number, items * logits.shape[1] * voxels)


def shaped_as(x: Tensor, buffer: Tensor) -> Tensor:
    """The first numbers of a buffer, in the shape of x."""
    return buffer[: x.numel()].view(x.shape)


def tiles(logits: Tensor, valid: Tensor | None, *others: Tensor) -> Iterator[tuple[Any, ...]]:
    """The items of each tile, a slice, and its pieces, cut the same way each time.

    Args:
        logits: (B, C, N); a tile has zeros in removed voxels, whatever their logits are.
        valid: (B, N) bool, False for removed voxels; None if there are none, and so in each tile.
        *others: (B, ..., N).
    """
    items, voxels = tile_shape(logits)
    for first, start in itertools.product(range(0, len(logits), items), range(0, logits.shape[2], voxels)):
        item, voxel = slice(first, first + items), slice(start, start + voxels)
        x, *rest = (tensor[item][..., voxel] for tensor in (logits, *others))
        v = None if valid is None else valid[item, voxel]
        yield item, x if v is None else torch.where(v.unsqueeze(1), x, 0), v, *rest


def rows(*tensors: Tensor) -> Iterator[tuple[Any, ...]]:
    """The rows of each piece, a slice, and the pieces (r, n) of tensors (R, N): several rows whole, or a part of one."""
    length = tensors[0].shape[1]
    step = max(1, ROW // max(length, 1))
    for first, start in itertools.product(range(0, len(tensors[0]), step), range(0, length, ROW)):
        row = slice(first, first + step)
        yield row, *(x[row, start : start + ROW] for x in tensors)


def in_flat_rows(index: Tensor, width: int) -> Tensor:
    """Indices (r, n) into rows of a width as indices into the flattened rows, (r·n,)."""
    if len(index) > 1:
        index = index + width * torch.arange(len(index), dtype=torch.int32).unsqueeze(1)
    return index.flatten()


def exponentials(x: Tensor, out: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the classes of x (b, C, n) in two factors: e = exp x (b, C, n), in ``out``, and 1/Σ e (b, n).

    Where exp x would overflow or lose digits, e = exp(x − max x), and ``scale`` holds the second factor with a minus sign.
    """
    if _seem_mild(x):
        total = torch.sum(torch.exp(x, out=out), dim=1, out=scale).sum()
        if bool(total + scale.reciprocal_().sum() <= MILD):  # and so is each of them, and none is NaN
            return out, scale
    torch.sum(_shifted(x, out), dim=1, out=scale).reciprocal_().neg_()
    return out, -scale


def _seem_mild(x: Tensor) -> bool:
    """Whether some of the logits have an exp inside float32: outside it takes a hundred times as long."""
    low, high = x[..., ::SAMPLED].aminmax()
    return bool((low > -LARGEST) & (high < LARGEST))


def exponentials_again(x: Tensor, out: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same two factors once the scale is known."""
    if bool(scale[0, 0] > 0):
        return torch.exp(x, out=out), scale
    return _shifted(x, out), -scale


def _shifted(x: Tensor, out: Tensor) -> Tensor:
    smallest = (
        math.log(torch.finfo(x.dtype).tiny) + 1
    )  # the exp of less is as good as 0, and takes a hundred times as long
    return torch.sub(x, x.amax(1, keepdim=True), out=out).clamp_(min=smallest).exp_()


def balance(slopes: Tensor, e: Tensor, factor: Tensor | None, terms: Tensor) -> None:
    """The rounds of ``activation.softmax_slopes``, in place, where a tile needs them: where a network is sure.

    Args:
        slopes: ∂L/∂x_c = p_c(g_c − s) with s = Σ_k p_k g_k of a tile, with rounding errors of eps times ``terms``, (b, C, n).
        e: first factor of the probabilities p = e·factor, (b, C, n).
        factor: second factor, 0 for removed voxels, (b, n); None for 1.
        terms: size of the numbers whose difference gives the slopes, (b, n); where these are the g_c, |s| will do, because
            Σ_k p_k |g_k| is no more than |s| and the sizes of the slopes.
    """
    if _norm(terms) <= TOLERATED * _norm(slopes[:, 0]):
        return
    rounding = 8 * torch.finfo(slopes.dtype).eps
    for _ in range(ROUNDS):
        rest = slopes.sum(1)
        if not _norm(rest) > rounding * _norm(slopes):  # NaN stays NaN
            return
        rest = rest if factor is None else rest.mul_(factor)
        slopes.addcmul_(e, rest.unsqueeze(1), value=-1)


def _norm(x: Tensor) -> float:
    """In float64 where float32, which is faster, is lost: squares of slopes below 1e-23 are 0 there, above 1e19 infinite."""
    norm = float(torch.linalg.vector_norm(x))
    return norm if MEASURABLE < norm < math.inf else float(torch.linalg.vector_norm(x, dtype=torch.float64))


def two_class_gap(x: Tensor) -> Tensor:
    """x₁ − x₀ (b, n) of x (b, 2, n): its sigmoid is p₁. Finite where −inf rules a class out, NaN where a softmax is NaN."""
    gap = torch.sub(x[:, 1], x[:, 0])
    if not bool(gap.sum().isfinite()):
        gap.masked_fill_(x.amax(1) == math.inf, math.nan).clamp_(-CERTAIN, CERTAIN)
    return gap


def two_class_error_logits(gap: Tensor, inside: Tensor) -> Tensor:
    """The logit of the error |p₁ − y| of each voxel, the same in both classes; all (b, n), inside 1 where class 1 holds it."""
    return torch.addcmul(gap, inside, gap, value=-2)


def two_class_gradient(g: Tensor, gap: Tensor, out: Tensor) -> None:
    """∂L/∂x₁ = −∂L/∂x₀ = p q g into ``out`` (b, 2, n), for the gap x₁ − x₀, which is used up."""
    smaller = gap.abs_().neg_().sigmoid_()  # of p and q: the other one is 1 minus it to the last digit
    torch.ops.aten.sigmoid_backward(g, smaller, grad_input=out[:, 1])
    torch.neg(out[:, 1], out=out[:, 0])
