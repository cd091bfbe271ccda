"""MONAI's activation flags as one value, and a softmax and a sigmoid whose gradients keep their digits where a network is sure.

The values are torch's. Its gradients are differences of numbers near the largest slope, g_c − Σ_k p_k g_k and 1 − p: once p
rounds to 1, nothing is left of them, while the true ones are as exact as the small probabilities are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from monai_surrogates.core.inputs import Voxels, at_least_float32, check_same_shape

ROUNDS = 2  # they leave eps³ of an error, so that slopes are right to 1e-5 down to probabilities of 2e-16


def precise_softmax(x: Tensor) -> Tensor:
    """Softmax over axis 1, (B, C, ...): torch's values, and a gradient that keeps its digits.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.0, 20.0]], requires_grad=True)
        >>> p = precise_softmax(x)
        >>> torch.autograd.grad(p[0, 1], x)[0][0, 1]  # e^-20
        tensor(2.0612e-09)
    """
    function = _Softmax if torch.compiler.is_compiling() else _ForwardSoftmax
    p: Tensor = function.apply(x)  # type: ignore[no-untyped-call]  # torch's Function.apply has no types
    return p


class _Softmax(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.softmax(x, dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        return softmax_slopes(p, gradients[0])


class _ForwardSoftmax(_Softmax):
    """With forward-mode derivatives, which the compiler does not know; the derivative is symmetric."""

    jvp = _Softmax.backward


def softmax_slopes(p: Tensor, of_p: Tensor) -> Tensor:
    """∂L/∂x_c = p_c(g_c − Σ_k p_k g_k) from g = ∂L/∂p, both (B, C, ...), without cancellation; differentiable.

    The sum over the classes is 0. In floating point it is the rounding error of the class with p near 1: a round subtracts p_c
    times the sum from each class, nearly all of it from that one, and eps times the error remains.
    """
    slopes: Tensor = torch.ops.aten._softmax_backward_data(of_p, p, 1, p.dtype)
    for _ in range(ROUNDS):
        slopes = torch.addcmul(slopes, p, slopes.sum(1, keepdim=True), value=-1)
    return slopes


def precise_sigmoid(x: Tensor) -> Tensor:
    """Sigmoid: torch's values, and the gradient g·q(1 − q) from the smaller one, q, of p and 1 − p.

    Examples:
        >>> import torch
        >>> x = torch.tensor(20.0, requires_grad=True)
        >>> torch.autograd.grad(precise_sigmoid(x), x)[0]  # e^-20
        tensor(2.0612e-09)
    """
    function = _Sigmoid if torch.compiler.is_compiling() else _ForwardSigmoid
    p: Tensor = function.apply(x)  # type: ignore[no-untyped-call]  # torch's Function.apply has no types
    return p


class _Sigmoid(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slopes: Tensor = torch.ops.aten.sigmoid_backward(gradients[0], x.abs().neg_().sigmoid_())
        return slopes


class _ForwardSigmoid(_Sigmoid):
    """With forward-mode derivatives, which the compiler does not know."""

    jvp = _Sigmoid.backward


@dataclass(frozen=True)
class Activation:
    """From a network's output to probabilities: MONAI's flags as one value.

    Attributes:
        kind: ``"none"`` for an input that holds probabilities already, ``"sigmoid"``, ``"softmax"``, or ``"other"``.
        function: (B, C, spatial...) to the same shape; None for ``"none"``.
    """

    kind: Literal["none", "sigmoid", "softmax", "other"] = "none"
    function: Callable[[Tensor], Tensor] | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether results lie in [0, 1]: by definition, or because probabilities are checked; nobody knows another one."""
        return self.kind != "other"

    def on(self, num_channels: int) -> Activation:
        """The activation of so many channels: a softmax leaves a single one as it is, as in MONAI."""
        return PROBABILITIES if self.kind == "softmax" and num_channels == 1 else self

    def __call__(self, x: Tensor, spatial: tuple[int, ...]) -> Tensor:
        """Probabilities (B, C, N), float32 or float64, of an input (B, C, N) with these spatial axes.

        Raises:
            ShapeMismatchError: the function changes the shape.
        """
        if self.function is None:
            return x
        if self.kind != "other":
            return at_least_float32(self.function(x))
        shape = (*x.shape[:2], *spatial)  # somebody else's function may look at the spatial axes
        probabilities = self.function(x.reshape(shape))
        check_same_shape(probabilities, shape, "the result of other_act")
        return at_least_float32(probabilities.flatten(2))


PROBABILITIES = Activation()


def read_activation(
    sigmoid: bool = False, softmax: bool = False, other_act: Callable[[Tensor], Tensor] | None = None
) -> Activation:
    """MONAI's three flags as one value.

    Raises:
        TypeError: ``other_act`` is not callable.
        ValueError: more than one of the three is set.

    Examples:
        >>> read_activation(softmax=True).kind
        'softmax'
    """
    if other_act is not None and not callable(other_act):
        raise TypeError(f"other_act must be None or callable, but is {type(other_act).__name__}.")
    if int(sigmoid) + int(softmax) + int(other_act is not None) > 1:
        raise ValueError(
            "Incompatible values: more than 1 of [sigmoid=True, softmax=True, other_act is not None]; keep one of them."
        )
    if other_act is not None:
        return Activation("other", other_act)
    if sigmoid:
        return Activation("sigmoid", precise_sigmoid)
    return Activation("softmax", precise_softmax) if softmax else PROBABILITIES


def probabilities_of(voxels: Voxels, activation: Activation, *, two_class: bool = False) -> Voxels:
    """The voxels with probabilities in place of the network's output.

    Args:
        voxels: the network's output and the reference.
        activation: from the one to the other; it sees removed voxels, too.
        two_class: a single channel, and one value per voxel as the target, become two: 1 − p and p, 1 − y and y.
    """
    x, y, valid, spatial = voxels
    if not two_class:
        return voxels._replace(input=activation(x, spatial))
    if activation.kind == "sigmoid":  # σ(−x) has digits that 1 − σ(x) has not
        p = activation(torch.cat([-x, x], dim=1), spatial)
    else:
        foreground = activation(x, spatial)
        p = torch.cat([1 - foreground, foreground], dim=1)
    background = 1 - y if valid is None else torch.where(valid.unsqueeze(1), 1 - y, 0)  # removed voxels hold zeros
    return Voxels(p, torch.cat([background, y], dim=1), valid, spatial)
