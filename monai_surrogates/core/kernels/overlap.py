"""Operator of the soft overlap of a softmax with a label map: schema, shapes and derivative, whatever the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_surrogates.core.activation import softmax_slopes
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.kernels.operators import LIBRARY, describe, shaped_as_first

LIBRARY.define("softmax_overlap(Tensor logits, Tensor labels, Tensor? valid, bool squared) -> (Tensor, Tensor)")
LIBRARY.define(
    "softmax_overlap_backward(Tensor logits, Tensor labels, Tensor? valid, bool squared, Tensor saved, Tensor slopes) -> Tensor"
)

FEW = 12  # classes, up to which passes over masks cost less than reading and writing at the labels


def tiled_softmax_overlap(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> Tensor:
    """Σ p_y, Σ p (Σ p² if squared) and the labels' voxels, per item and class of p = softmax(logits), differentiable.

    Args:
        logits: (B, C, N), float32 or float64, C above 1.
        labels: (B, N), whole numbers of any type.
        valid: (B, N) bool, False for removed voxels; None if there are none.
        squared: squared volumes.

    Returns:
        (3, B, C) in float64: intersection, volume and reference volume.
    """
    counts: tuple[Tensor, Tensor] = _SoftmaxOverlap.apply(logits, labels, valid, squared)  # type: ignore[no-untyped-call]  # no types
    return counts[0]


def by_masks(logits: Tensor, squared: bool) -> bool:
    """Whether classes are few enough for passes over a mask of each."""
    return 2 < logits.shape[1] <= FEW and not squared


def saved_shape(logits: Tensor, squared: bool) -> tuple[int, ...]:
    """The shape of what the derivative reads: 1/Σ exp x, of many classes p_y as well, of two nothing."""
    batch, num_classes, voxels = logits.shape
    if num_classes == 2:
        return (0,)
    return (batch, 1 if by_masks(logits, squared) else 2, voxels)


class _SoftmaxOverlap(torch.autograd.Function):
    @staticmethod
    def forward(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
        counts, saved = torch.ops.monai_surrogates.softmax_overlap(logits, labels, valid, squared)
        return counts, saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, labels, valid, ctx.squared = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # no zeros, as large as the logits, in place of missing gradients
        ctx.save_for_backward(logits, labels, valid, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if gradients[0] is None:
            return None, None, None, None
        logits, labels, valid, saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated once more
            grad = _plain_slopes(logits, labels, valid, ctx.squared, gradients[0])
        else:
            grad = torch.ops.monai_surrogates.softmax_overlap_backward(
                logits, labels, valid, ctx.squared, saved, gradients[0].contiguous()
            )
        return grad, None, None, None


def _plain_slopes(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool, slopes: Tensor) -> Tensor:
    """The same by torch's own operators."""
    p, labels = Voxels(logits, labels, valid).zeroed().input.softmax(1), labels.long().unsqueeze(1)
    of_own, of_volume, _ = slopes.to(logits.dtype).unsqueeze(-1)
    of_p = (2 * p if squared else torch.ones_like(p)) * of_volume
    of_p = of_p.scatter_add(1, labels, of_own.expand_as(p).gather(1, labels))
    return softmax_slopes(p, of_p if valid is None else of_p * valid.unsqueeze(1))


def _no_counts(logits: Tensor, labels: Tensor, valid: Tensor | None, squared: bool) -> tuple[Tensor, Tensor]:
    return logits.new_empty(3, *logits.shape[:2], dtype=torch.float64), logits.new_empty(saved_shape(logits, squared))


describe("softmax_overlap", _no_counts, shaped_as_first)
