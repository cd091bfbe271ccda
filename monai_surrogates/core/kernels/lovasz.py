"""Operators of the binned Lovász-softmax from logits and a label map: schema, shapes and derivative, whatever the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_surrogates.core.activation import softmax_slopes
from monai_surrogates.core.distributed import is_shared, rank_sum
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.kernels.operators import LIBRARY, describe, shaped_as_first

_ARGUMENTS = "Tensor logits, Tensor labels, Tensor? valid, int bins, bool batch, bool sync"
LIBRARY.define(f"lovasz_softmax({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)")
LIBRARY.define(
    "lovasz_softmax_backward(Tensor logits, Tensor? valid, Tensor weighted, Tensor scale, Tensor slopes) -> Tensor"
)
LIBRARY.define(f"lovasz_two_classes({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)")
LIBRARY.define(
    "lovasz_two_classes_backward(Tensor logits, Tensor? valid, Tensor slots, Tensor tables, Tensor slopes) -> Tensor"
)


def operator_of(num_classes: int) -> str:
    """The operator for so many classes; two of them have the same errors."""
    return "lovasz_two_classes" if num_classes == 2 else "lovasz_softmax"


def tiled_lovasz_binned(
    logits: Tensor, labels: Tensor, valid: Tensor | None, *, bins: int, batch: bool = False, sync: bool = False
) -> tuple[Tensor, Tensor]:
    """Binned Lovász extension of 1 − IoU of softmax(logits) per item and class, differentiable.

    Args:
        logits: (B, C, N), float32 or float64, C above 1.
        labels: (B, N), whole numbers of any type.
        valid: (B, N) bool, False for removed voxels; None if there are none.
        bins: number of bins of [0, 1].
        batch: the items make one image.
        sync: with ``batch``, and so do those of all ranks: one all-reduce of histograms, and one of the losses.

    Returns:
        The loss, and the reference volume in voxels: float64, (B, C), or (1, C) of the batch.
    """
    operator, shared = operator_of(logits.shape[1]), sync and is_shared()
    loss, volume, *_ = _Lovasz.apply(operator, logits, labels, valid, bins, batch, shared)  # type: ignore[no-untyped-call]  # no types
    if not batch:
        return loss, volume
    both = torch.stack([loss.sum(0, keepdim=True), volume.sum(0, keepdim=True)])
    loss, volume = rank_sum(both) if shared else both
    return loss, volume


class _Lovasz(torch.autograd.Function):
    """Each operator gives the loss, the volume, and two tensors that its derivative reads."""

    @staticmethod
    def forward(
        operator: str, logits: Tensor, labels: Tensor, valid: Tensor | None, bins: int, batch: bool, sync: bool
    ) -> tuple[Tensor, ...]:
        run = getattr(torch.ops.monai_surrogates, operator)
        loss, volume, first, second = run(logits, labels, valid, bins, batch, sync)
        return loss, volume, first, second

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # no zeros, as large as the logits, in place of missing gradients
        ctx.operator, logits, _, valid, *_ = inputs
        ctx.save_for_backward(logits, valid, *output[2:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 7
        logits, valid, first, second = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated once more
            p = Voxels(logits, first, valid).zeroed().input.softmax(1)
            weights = _SIGNED_WEIGHTS[ctx.operator](p, first, second)
            grad = softmax_slopes(p, weights * gradients[0].to(p.dtype).unsqueeze(-1))
        else:
            run = getattr(torch.ops.monai_surrogates, f"{ctx.operator}_backward")
            grad = run(logits, valid, first, second, gradients[0].contiguous())
        return None, grad, None, None, None, None, None


def _weights_of_products(p: Tensor, weighted: Tensor, _: Tensor) -> Tensor:
    """Signed weights (B, C, N), the gradient in the probabilities, from their products with these."""
    return torch.where(p > 0, weighted / p, 0).detach()


def _weights_of_slots(p: Tensor, slots: Tensor, tables: Tensor) -> Tensor:
    """The same of two classes, from the slots of class 1 and the weights of the slots."""
    inside = 2 * (slots.unsqueeze(1) >= tables.shape[-1] // 2).to(p.dtype) - 1  # 1 in class 1, −1 outside
    return tables.gather(2, slots.long().unsqueeze(1).expand(-1, 2, -1)) * torch.cat([inside, -inside], 1)


_SIGNED_WEIGHTS = {"lovasz_softmax": _weights_of_products, "lovasz_two_classes": _weights_of_slots}


def _nothing(logits: Tensor, labels: Tensor, *_: Any) -> tuple[Tensor, ...]:
    loss, volume = (logits.new_empty(logits.shape[:2], dtype=torch.float64) for _ in range(2))
    return loss, volume, shaped_as_first(logits), logits.new_empty(labels.shape)


def _nothing_of_two(logits: Tensor, labels: Tensor, valid: Any, bins: int, *_: Any) -> tuple[Tensor, ...]:
    loss, volume = (logits.new_empty(logits.shape[:2], dtype=torch.float64) for _ in range(2))
    slots = torch.empty(labels.shape, dtype=torch.int32, device=labels.device)
    return loss, volume, slots, logits.new_empty(len(logits), 2, 2 * bins + 1)


describe("lovasz_softmax", _nothing, shaped_as_first)
describe("lovasz_two_classes", _nothing_of_two, shaped_as_first)
