"""Sums over voxels that are as exact on every processor.

A float32 sum of many equal numbers drifts: each addition rounds the same way, and how many additions one register takes is up
to the processor and its BLAS. Here torch's own sum adds up blocks of a thousand voxels, and float64 the blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_surrogates.core.kernels.operators import define_everywhere

BLOCK = 1024  # voxels


def voxel_sum(x: Tensor) -> Tensor:
    """Σ over the voxels, differentiable; the rule by which every sum over voxels of this package is taken.

    Args:
        x: (..., N), floating point, in any layout.

    Returns:
        float64 sums (...).

    Examples:
        >>> import torch
        >>> voxel_sum(torch.full((2**22,), 0.1)) / 2**22
        tensor(0.1000, dtype=torch.float64)
    """
    if torch.compiler.is_compiling():  # the compiler's own sums are as long as the row, but need no float64 copy of it
        return x.double().sum(-1)
    total: Tensor = _VoxelSum.apply(x)  # type: ignore[no-untyped-call]  # torch's Function.apply has no types
    return total


def block_sum(x: Tensor) -> Tensor:
    """:func:`voxel_sum` inside an operator, where nothing is differentiated or compiled."""
    blocks = x.shape[-1] // BLOCK
    rest = x[..., blocks * BLOCK :].sum(-1, dtype=torch.float64)
    if blocks == 0:
        return rest
    in_blocks = x[..., : blocks * BLOCK].reshape(*x.shape[:-1], blocks, BLOCK)
    of_blocks = in_blocks.sum(-1, dtype=torch.promote_types(x.dtype, torch.float32))
    return rest.add_(of_blocks.sum(-1, dtype=torch.float64))


class _VoxelSum(torch.autograd.Function):
    """With a backward pass of its own, because that of two slices would make two tensors as large as x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return block_sum(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.shape, ctx.dtype = inputs[0].shape, inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].to(ctx.dtype).unsqueeze(-1).expand(ctx.shape)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return voxel_sum(tangents[0])


def class_sum(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Σ over the voxels of each label, in float64; differentiable in the values.

    Args:
        values: (B, N), floating point or bool.
        labels: (B, N), int64 in 0..C-1.
        num_classes: C.

    Returns:
        float64 sums (B, C).

    Examples:
        >>> import torch
        >>> class_sum(torch.tensor([[0.5, 1.0, 2.0]]), torch.tensor([[0, 2, 0]]), 3)
        tensor([[2.5000, 0.0000, 1.0000]], dtype=torch.float64)
    """
    function = _ClassSum if torch.compiler.is_compiling() else _ForwardClassSum
    total: Tensor = function.apply(values, labels, num_classes)  # type: ignore[no-untyped-call]  # apply has no types
    return total


class _ClassSum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        total: Tensor = torch.ops.monai_surrogates.class_sum(values, labels, num_classes)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        values, labels, ctx.num_classes = inputs
        ctx.dtype = values.dtype
        ctx.save_for_backward(labels)
        ctx.save_for_forward(labels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].to(ctx.dtype).gather(1, ctx.saved_tensors[0]), None, None


class _ForwardClassSum(_ClassSum):
    """With forward-mode derivatives, which the compiler does not know."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return class_sum(tangents[0], ctx.saved_tensors[0], ctx.num_classes)


def _class_sum(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    # scatter_add_ adds one by one, so in float64
    zeros = torch.zeros(len(values), num_classes, dtype=torch.float64, device=values.device)
    return zeros.scatter_add_(1, labels, values.double())


# torch 2.13's compiler may read the result of a scatter_add before it is written (int64 sums, fused with what follows)
define_everywhere("class_sum(Tensor values, Tensor labels, int num_classes) -> Tensor", _class_sum)
