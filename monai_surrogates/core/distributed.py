"""Sums over the ranks of a process group, with the gradients that DistributedDataParallel expects.

Every rank computes the same loss of the global batch. DistributedDataParallel takes the mean of the ranks' gradients where
one process would have their sum, so each backward pass here multiplies by the number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_shared() -> bool:
    """Whether there are other ranks to sum over: a process group, and gradients that would differ without it."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 and torch.is_grad_enabled()


class _RankSum(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return rank_total(values.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """The sum's backward needs nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * dist.get_world_size()


class _RankConcat(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor, sizes: list[int]) -> Tensor:
        padded = values.new_zeros(*values.shape[:-1], max(sizes))
        padded[..., : values.shape[-1]] = values.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, list[int]], output: Tensor) -> None:
        ctx.sizes = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        begin = sum(ctx.sizes[: dist.get_rank()])
        own = gradients[0][..., begin : begin + ctx.sizes[dist.get_rank()]]
        return own * dist.get_world_size(), None


def _voxels_of_ranks(values: Tensor) -> list[int]:
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=values.device)
    sizes[dist.get_rank()] = values.shape[-1]
    dist.all_reduce(sizes)
    found: list[int] = sizes.tolist()
    return found


def rank_total(counts: Tensor) -> Tensor:
    """The sum over all ranks, without a gradient."""
    total = counts.contiguous().clone()
    dist.all_reduce(total)
    return total


def rank_sum(values: Tensor) -> Tensor:
    """The sum over all ranks; the tensor itself where there are no others.

    Args:
        values: of the same shape on every rank.
    """
    if not is_shared():
        return values
    total: Tensor = _RankSum.apply(values)  # type: ignore[no-untyped-call]  # torch's Function.apply has no types
    return total


def rank_concat(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The voxels of all ranks, one after the other along the last axis; the tensors themselves where there are no others.

    The host waits once for the sizes of all ranks, which it needs to make room.

    Args:
        *tensors: (..., N), the same N for all of them; it may differ between ranks.
    """
    if not is_shared():
        return tensors
    sizes = _voxels_of_ranks(tensors[0])
    return tuple(_RankConcat.apply(x, sizes) for x in tensors)  # type: ignore[no-untyped-call]  # apply has no types
