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
TOLERATED = 32  # times eps: slopes are then right to 4e-6


def tile_size(logits: Tensor) -> int:
    """Voxels in a tile; with two classes it is their number that counts, because all buffers are as long."""
    return max(1, min(TILE // max(4, logits.shape[1]), logits.shape[2]))


def row_size(x: Tensor) -> int:
    """Numbers in the longest piece of a row of (B, C, N)."""
    return min(ROW, x.shape[2])


def tiles(logits: Tensor, valid: Tensor | None, *others: Tensor) -> Iterator[tuple[Any, ...]]:
    """The item of each tile and its pieces, cut the same way each time.

    Args:
        logits: (B, C, N); a tile has zeros in removed voxels, whatever their logits are.
        valid: (B, N) bool, False for voxels that do not count; None if all do, and so in each tile.
        *others: (B, ..., N).
    """
    step = tile_size(logits)
    for item in range(len(logits)):
        pieces = (
            itertools.repeat(None) if x is None else torch.split(x[item], step, dim=-1)
            for x in (logits, valid, *others)
        )
        for x, v, *rest in zip(*pieces):  # noqa: B905 - None has no end
            if x.numel():
                yield item, x if v is None else torch.where(v, x, 0), v, *rest


def rows(*tensors: Tensor) -> Iterator[tuple[Any, ...]]:
    """The item and class of each piece of a row of (B, C, N), and the pieces of all tensors."""
    for item, c in itertools.product(range(tensors[0].shape[0]), range(tensors[0].shape[1])):
        for pieces in zip(*(torch.split(x[item, c], ROW) for x in tensors), strict=True):
            yield item, c, *pieces


def exponentials(x: Tensor, out: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the first axis of x (C, n) in two factors: e = exp x (C, n), in ``out``, and 1/Σ e (n,).

    Where exp x would overflow or lose digits, e = exp(x − max x), and ``scale`` holds the second factor with a minus sign.
    """
    ones = x.new_ones(len(x))
    if _seem_mild(x):
        total = torch.mv(torch.exp(x, out=out).t(), ones, out=scale).sum()
        if bool(total + scale.reciprocal_().sum() <= MILD):  # and so is each of them, and none is NaN
            return out, scale
    torch.mv(_shifted(x, out).t(), ones, out=scale).reciprocal_().neg_()
    return out, -scale


def _seem_mild(x: Tensor) -> bool:
    """Whether some of the logits have an exp inside float32: outside it takes a hundred times as long."""
    low, high = x[:, ::SAMPLED].aminmax()
    return bool((low > -LARGEST) & (high < LARGEST))


def exponentials_again(x: Tensor, out: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same two factors once the scale is known."""
    if bool(scale[0] > 0):
        return torch.exp(x, out=out), scale
    return _shifted(x, out), -scale


def _shifted(x: Tensor, out: Tensor) -> Tensor:
    smallest = (
        math.log(torch.finfo(x.dtype).tiny) + 1
    )  # the exp of less is as good as 0, and takes a hundred times as long
    return torch.sub(x, x.amax(0), out=out).clamp_(min=smallest).exp_()


def balance(slopes: Tensor, e: Tensor, factor: Tensor, terms: Tensor) -> None:
    """The rounds of ``activation.softmax_slopes``, in place, where a tile needs them: where a network is sure.

    Args:
        slopes: ∂L/∂x_c = p_c(g_c − Σ_k p_k g_k) of a tile, with rounding errors of eps times ``terms``, (C, n).
        e: first factor of the probabilities p = e·factor, (C, n).
        factor: second factor, 0 for voxels that do not count, (n,).
        terms: size of the numbers whose difference gives the slopes, (n,).
    """
    if _norm(terms) <= TOLERATED * _norm(slopes[0]):
        return
    ones, rounding = slopes.new_ones(len(slopes)), 8 * torch.finfo(slopes.dtype).eps
    for _ in range(ROUNDS):
        rest = torch.mv(slopes.t(), ones)
        if not _norm(rest) > rounding * _norm(slopes):  # NaN stays NaN
            return
        slopes.addcmul_(e, rest.mul_(factor), value=-1)


def _norm(x: Tensor) -> float:
    """In float64: squares of slopes below 1e-23 are 0 in float32."""
    return float(torch.linalg.vector_norm(x, dtype=torch.float64))


def two_class_gap(x: Tensor) -> Tensor:
    """x₁ − x₀ (n,), whose sigmoid is p₁; finite where a class is ruled out by −inf, NaN where a softmax is NaN."""
    gap = torch.sub(x[1], x[0])
    if not bool(gap.sum().isfinite()):
        gap.masked_fill_(x.amax(0) == math.inf, math.nan).clamp_(-CERTAIN, CERTAIN)
    return gap


def two_class_error_logits(gap: Tensor, inside: Tensor) -> Tensor:
    """The logit of the error |p₁ − y| of each voxel, the same in both classes; all (n,), inside 1 where class 1 holds it."""
    return torch.addcmul(gap, inside, gap, value=-2)


def two_class_gradient(g: Tensor, gap: Tensor, out: Tensor) -> None:
    """∂L/∂x₁ = −∂L/∂x₀ = p q g into ``out`` (2, n), for the gap x₁ − x₀, which is used up."""
    smaller = gap.abs_().neg_().sigmoid_()  # of p and q: the other one is 1 minus it to the last digit
    torch.ops.aten.sigmoid_backward(g, smaller, grad_input=out[1])
    torch.neg(out[1], out=out[0])
