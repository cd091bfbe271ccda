"""Tiles of logits that stay in a processor's cache, and their softmax in two factors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

TILE = 3 * 2**18  # logits in a tile; smaller ones cost calls, larger ones leave the cache
ROW = 2**18  # numbers in a piece of a row
LARGEST, SAMPLED = 80, 2048  # a logit whose exp is no trouble; every 2048th is looked at
MILD = 1e15  # up to it numbers, their squares and their inverses stay far inside float32
CERTAIN = 1e38  # a gap of two logits whose sigmoid is 0 or 1, and whose double is finite
FAR_ABOVE = 32  # times eps it is well below the 1e-5 that gradients are right to
MOST_ROUNDS = 6  # each leaves of an error eps times as much


def tile_size(logits: Tensor) -> int:
    """Voxels in a tile; with two classes it is their number that counts, because all buffers are as long."""
    return max(1, min(TILE // max(4, logits.shape[1]), logits.shape[2]))


def tiles(logits: Tensor, valid: Tensor | None, *others: Tensor) -> Iterator[tuple[Any, ...]]:
    """The item of each tile and its pieces, cut the same way each time.

    Args:
        logits: (B, C, N); where a voxel does not count a tile has zeros, whatever stands there.
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

    Where exp x would overflow or lose digits, e = exp(x − max x), and ``scale``, which gets the second factor, bears a minus.
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


def balance(slopes: Tensor, e: Tensor, factor: Tensor, mean: Tensor) -> None:
    """The rounds of ``activation.softmax_slopes``, in place, where a tile needs them: where a network is sure.

    Args:
        slopes: ∂L/∂x_c = p_c(g_c − s) of a tile after the first round, (C, n).
        e: first factor of the probabilities p = e·factor, (C, n).
        factor: second factor, 0 for voxels that do not count, (n,).
        mean: s = Σ_k p_k g_k, of which the slopes have lost eps times as much, (n,).
    """
    if bool(torch.linalg.vector_norm(mean) <= FAR_ABOVE * torch.linalg.vector_norm(slopes[0])):
        return
    ones, rounding = slopes.new_ones(len(slopes)), 8 * torch.finfo(slopes.dtype).eps
    for _ in range(MOST_ROUNDS):
        rest = torch.mv(slopes.t(), ones)
        if not bool(torch.linalg.vector_norm(rest) > rounding * torch.linalg.vector_norm(slopes)):
            return
        slopes.addcmul_(e, rest.mul_(factor), value=-1)


def two_class_gap(x: Tensor) -> Tensor:
    """x₁ − x₀ (n,), whose sigmoid is p₁; finite where a class is ruled out by −inf, NaN where a softmax is NaN."""
    gap = torch.sub(x[1], x[0])
    if not bool(gap.sum().isfinite()):
        gap.masked_fill_(x.amax(0) == math.inf, math.nan).clamp_(-CERTAIN, CERTAIN)
    return gap


def two_class_errors(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The error |p₁ − y| of each voxel, which both classes share, to its own last digit, and whether class 1 holds it; (n,)."""
    gap, inside = two_class_gap(x), y.to(x.dtype, copy=True)
    return torch.addcmul(gap, inside, gap, value=-2).sigmoid_(), inside


def two_class_gradient(g: Tensor, gap: Tensor, out: Tensor) -> None:
    """∂L/∂x₁ = −∂L/∂x₀ = p q g into ``out`` (2, n), for the gap x₁ − x₀, which is used up."""
    smaller = gap.abs_().neg_().sigmoid_()  # of p and q: the other one is 1 minus it to the last digit
    torch.ops.aten.sigmoid_backward(g, smaller, grad_input=out[1])
    torch.neg(out[1], out=out[0])
