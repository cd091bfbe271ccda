"""Sums over voxels that are as exact on every processor.

A float32 sum of many equal numbers drifts: each addition rounds the same way, and how many additions one register takes is up
to the processor and its BLAS. Here torch's own sum adds up blocks of a thousand voxels, and float64 the blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 1024  # voxels


def voxel_sum(x: Tensor) -> Tensor:
    """Σ over the voxels, differentiable; the rule by which every sum over voxels of this package is taken.

    Args:
        x: (..., N), floating point, in any layout.

    Returns:
        float64 sums (...).

    Examples:
        >>> import torch
        >>> float(voxel_sum(torch.full((2**22,), 0.1)) / 2**22)
        0.10000000149011612
    """
    if torch.compiler.is_compiling():  # the compiler's own sums are as long as the row, but need no float64 copy of it
        return x.double().sum(-1)
    total: Tensor = _VoxelSum.apply(x)  # type: ignore[no-untyped-call]  # torch's Function.apply has no types
    return total


class _VoxelSum(torch.autograd.Function):
    """With a backward pass of its own, because that of two slices would make two tensors as large as x."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        whole = x.shape[-1] // BLOCK
        blocks, rest = x.split((whole * BLOCK, x.shape[-1] - whole * BLOCK), dim=-1)
        return blocks.unflatten(-1, (whole, BLOCK)).sum(-1).double().sum(-1) + rest.sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.shape, ctx.dtype = inputs[0].shape, inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].to(ctx.dtype).unsqueeze(-1).expand(ctx.shape)
