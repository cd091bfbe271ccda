"""Softmax and sigmoid whose gradients keep their digits where a network is sure.

The values are torch's. Its gradients are differences of numbers near the largest slope, g_c − Σ_k p_k g_k and 1 − p: once p
rounds to 1, nothing is left of them, while the true ones are as exact as the small probabilities are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROUNDS = 2  # slopes are right down to probabilities of eps³


def softmax(x: Tensor) -> Tensor:
    """Softmax over axis 1, (B, C, ...): torch's values, and a gradient that keeps its digits.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.0, 20.0]], requires_grad=True)
        >>> p = softmax(x)
        >>> torch.autograd.grad(p[0, 1], x)[0][0, 1]  # e^-20
        tensor(2.0612e-09)
    """
    p: Tensor = _Softmax.apply(x)  # type: ignore[no-untyped-call]  # torch's Function.apply has no types
    return p


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.softmax(x, dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        return softmax_slopes(p, gradients[0])


def softmax_slopes(p: Tensor, of_p: Tensor) -> Tensor:
    """∂L/∂x_c = p_c(g_c − Σ_k p_k g_k) from g = ∂L/∂p, both (B, C, ...), without cancellation; differentiable.

    The slopes of a voxel add up to 0, but for the rounding of the class with p near 1. Each round takes p_c times what is too
    much from them, nearly all of it from that class, and leaves eps times as much.
    """
    slopes: Tensor = torch.ops.aten._softmax_backward_data(of_p, p, 1, p.dtype)
    for _ in range(ROUNDS):
        rest = slopes.sum(1, keepdim=True)
        if _is_rounding(rest, slopes):
            break
        slopes = torch.addcmul(slopes, p, rest, value=-1)
    return slopes


def _is_rounding(rest: Tensor, slopes: Tensor) -> bool:
    """Whether no round is needed; asked where the answer needs no wait for a GPU."""
    if torch.compiler.is_compiling() or slopes.device.type != "cpu":
        return False
    norms = (torch.linalg.vector_norm(x.detach()) for x in (rest, slopes))
    return bool(next(norms) <= 8 * torch.finfo(slopes.dtype).eps * next(norms))


def sigmoid(x: Tensor) -> Tensor:
    """Sigmoid: torch's values, and the gradient g·q(1 − q) from the smaller one, q, of p and 1 − p.

    Examples:
        >>> import torch
        >>> x = torch.tensor(20.0, requires_grad=True)
        >>> torch.autograd.grad(sigmoid(x), x)[0]  # e^-20
        tensor(2.0612e-09)
    """
    p: Tensor = _Sigmoid.apply(x)  # type: ignore[no-untyped-call]  # torch's Function.apply has no types
    return p


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slopes: Tensor = torch.ops.aten.sigmoid_backward(gradients[0], x.abs().neg_().sigmoid_())
        return slopes


def choose_activation(
    sigmoid: bool, softmax: bool, other_act: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Tensor] | None:
    """Turn MONAI's three flags into one function, None for an input that holds probabilities already.

    Raises:
        TypeError: ``other_act`` is not callable.
        ValueError: more than one of the three is set.
    """
    if other_act is not None and not callable(other_act):
        raise TypeError(f"other_act must be None or callable, but is {type(other_act).__name__}.")
    if int(sigmoid) + int(softmax) + int(other_act is not None) > 1:
        raise ValueError(
            "Incompatible values: more than 1 of [sigmoid=True, softmax=True, other_act is not None]; keep one of them."
        )
    if sigmoid:
        return _ACTIVATIONS["sigmoid"]
    if softmax:
        return _ACTIVATIONS["softmax"]
    return other_act


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": sigmoid, "softmax": softmax}
