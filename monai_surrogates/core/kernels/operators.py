"""Operators of this package: torch.compile keeps them as they are, and autograd and torch.func see through them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

LIBRARY: Any = Library("monai_surrogates", "DEF")  # type: ignore[no-untyped-call]  # torch's class has no types
FUNCTIONS: dict[str, Callable[..., Any]] = {}  # operator -> its form on a CPU
KERNELS: dict[tuple[str, str], int] = {}  # operator and device -> numbers in an image from which on a kernel pays
SMALL_IMAGE = 2**17  # below it a kernel's calls, for each item, cost more than torch's operators on all items at once


def implement(name: str, form: Callable[..., Any], *, device: str, pays_from: int | None = SMALL_IMAGE) -> None:
    """Give an operator its form for a device.

    Args:
        name: an operator that is defined.
        form: its function; autocast, which would turn the products inside to half precision, is off in it.
        device: torch's device type, such as ``"cpu"``.
        pays_from: numbers in an image from which on :func:`has_kernel` chooses the form; None for an operator that is not
            chosen, such as a backward pass.
    """
    form = torch.autocast(device, enabled=False)(form)
    LIBRARY.impl(name, form, device.upper())
    if device == "cpu":
        FUNCTIONS[name] = form
    if pays_from is not None:
        KERNELS[name, device] = pays_from


def describe(name: str, form: Callable[..., Any]) -> None:
    """Give an operator its form for the compiler and the meta device: shapes alone."""
    LIBRARY.impl(name, form, "Meta")


def has_kernel(name: str, x: Tensor) -> bool:
    """Whether an operator has a form of its own for the device of a batch (B, ..., N), and pays for images of its size."""
    pays_from = KERNELS.get((name, x.device.type))
    of_item = math.prod(x.shape[1:]) if x.ndim > 1 else x.numel()
    return pays_from is not None and of_item >= pays_from


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
        copy: Tensor = torch.ops.monai_surrogates.for_processor(x, INSTRUCTIONS)
        return copy

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """A copy's backward needs nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        copy: Tensor = torch.ops.monai_surrogates.for_processor(gradients[0], INSTRUCTIONS)
        return copy


def for_this_processor(x: Tensor) -> Tensor:
    """The same values, from an operator that names the processor's instruction set, in the forward and the backward graph.

    torch 2.13 keeps compiled graphs on disk, for later processes, under a key that does not know the instruction set. A process
    with AVX2 runs what one with AVX-512 has compiled, on a cluster with one home or under ``ATEN_CPU_CAPABILITY``: 16 numbers
    at a time where 8 are there, which gives wrong losses, wild indices, segmentation faults, or code that does not compile. Two
    graphs that name different sets are never taken for one another. Where a graph breaks inside the loss, in somebody else's
    ``other_act``, this covers the part behind the break.
    """
    copy: Tensor = _ForThisProcessor.apply(x)  # type: ignore[no-untyped-call]  # torch's Function.apply has no types
    return copy


INSTRUCTIONS = torch.backends.cpu.get_cpu_capability()
define_everywhere("for_processor(Tensor x, str instructions) -> Tensor", lambda x, instructions: x.clone())
