"""Operators of this package: torch.compile keeps them as they are, and autograd and torch.func see through them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

LIBRARY: Any = Library("monai_surrogates", "DEF")  # type: ignore[no-untyped-call]  # torch's class has no types
LEAST = 2**17  # numbers in an image from which on it pays to take them one by one
FUNCTIONS: dict[str, Callable[..., Any]] = {}  # what runs behind each operator, on a CPU


def implement(name: str, on_cpu: Callable[..., Any], on_meta: Callable[..., Any]) -> None:
    """Give an operator its two forms; autocast would turn the products inside to half precision."""
    FUNCTIONS[name] = torch.autocast("cpu", enabled=False)(on_cpu)
    LIBRARY.impl(name, FUNCTIONS[name], "CPU")
    LIBRARY.impl(name, on_meta, "Meta")


def define_everywhere(schema: str, function: Callable[..., Any]) -> None:
    """Define an operator with one form for all devices, made of torch's own operators; the compiler leaves it alone."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    FUNCTIONS[name] = function
    LIBRARY.impl(name, function, "CompositeExplicitAutograd")


def shaped_as_first(first: Tensor, *_: Any) -> Tensor:
    """What an operator gives on the meta device whose result has the shape of its first argument."""
    return torch.empty_like(first, memory_format=torch.contiguous_format)


def runs_tiled(x: Tensor) -> bool:
    """Whether the kernels, which go from item to item, run where a batch is: on a CPU, or without values on the meta device.

    On small images the calls would cost more than the arithmetic, and torch's operators take all items at once.
    """
    of_item = math.prod(x.shape[1:]) if x.ndim > 1 else x.numel()
    return x.device.type in ("cpu", "meta") and of_item >= LEAST


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
