"""Operators of this package: torch.compile keeps them as they are, and autograd and torch.func see through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from monai_surrogates._version import __version__

LIBRARY: Any = Library("monai_surrogates", "DEF")  # type: ignore[no-untyped-call]  # torch's class has no types
FUNCTIONS: dict[str, Callable[..., Any]] = {}  # operator -> its form on a CPU
KERNELS: dict[tuple[str, str], int] = {}  # operator and device -> numbers from which on a kernel pays
SMALL_BATCH = 2**14  # logits, or errors; below it a kernel's calls cost as much as torch's operators


def implement(
    name: str,
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    *,
    device: str,
    pays_from: int = SMALL_BATCH,
) -> None:
    """Give an operator its form for a device: from then on it is chosen there.

    Args:
        name: an operator that is defined; that of its derivative, if it has one, is ``name_backward``.
        forward: its function; autocast, which would turn the products inside to half precision, is off in it.
        backward: the function of its derivative, which gets the tensors that ``forward`` has saved.
        device: torch's device type, such as ``"cpu"``.
        pays_from: numbers from which on :func:`has_kernel` chooses the form.
    """
    forms = {name: forward} if backward is None else {name: forward, f"{name}_backward": backward}
    for operator, form in forms.items():
        run = torch.autocast(device, enabled=False)(form)
        LIBRARY.impl(operator, run, device.upper())
        if device == "cpu":
            FUNCTIONS[operator] = run
    KERNELS[name, device] = pays_from


def describe(name: str, forward: Callable[..., Any], backward: Callable[..., Any] | None = None) -> None:
    """Give an operator, and its derivative, the form for the compiler and the meta device: shapes alone."""
    LIBRARY.impl(name, forward, "Meta")
    if backward is not None:
        LIBRARY.impl(f"{name}_backward", backward, "Meta")


def has_kernel(name: str, device: torch.device, numbers: int) -> bool:
    """Whether an operator has a form of its own for a device, and pays for so many numbers: logits, or errors."""
    pays_from = KERNELS.get((name, device.type))
    return pays_from is not None and numbers >= pays_from


def define_everywhere(schema: str, function: Callable[..., Any]) -> None:
    """Define an operator with one form for all devices, made of torch's own operators; the compiler leaves it alone."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    FUNCTIONS[name] = function
    LIBRARY.impl(name, function, "CompositeExplicitAutograd")


def shaped_as_first(first: Tensor, *_: Any) -> Tensor:
    """The form of an operator for :func:`describe` whose result has the shape of its first argument."""
    return torch.empty_like(first, memory_format=torch.contiguous_format)


class _ForThisProcessor(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        copy: Tensor = torch.ops.monai_surrogates.for_processor(x, COMPILED_FOR)
        return copy

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """A copy's backward needs nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        copy: Tensor = torch.ops.monai_surrogates.for_processor(gradients[0], COMPILED_FOR)
        return copy


def for_this_processor(x: Tensor) -> Tensor:
    """The same values, from an operator that names the instruction set and this version, in the forward and the backward graph.

    torch 2.13 keeps compiled graphs on disk, for later processes, under a key that does not know the instruction set. A process
    with AVX2 runs what one with AVX-512 has compiled, on a cluster with one home or under ``ATEN_CPU_CAPABILITY``: 16 numbers
    at a time where 8 are there, which gives wrong losses, wild indices, segmentation faults, or code that does not compile. Nor
    does the key know the shapes that another version of this package's operators returns. Two graphs that name different
    sets or versions are never taken for one another. Where a graph breaks inside the loss, in somebody else's ``other_act``,
    this covers the part behind the break.
    """
    copy: Tensor = _ForThisProcessor.apply(x)  # type: ignore[no-untyped-call]  # torch's Function.apply has no types
    return copy


COMPILED_FOR = f"{torch.backends.cpu.get_cpu_capability()}, {__version__}"
define_everywhere("for_processor(Tensor x, str key) -> Tensor", lambda x, key: x.clone())
