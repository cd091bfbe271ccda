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
ON_CPU: dict[str, Callable[..., Any]] = {}  # the operators of this package


def implement(name: str, on_cpu: Callable[..., Any], on_meta: Callable[..., Any]) -> None:
    """Give an operator its two forms; autocast would turn the products inside to half precision."""
    ON_CPU[name] = torch.autocast("cpu", enabled=False)(on_cpu)
    LIBRARY.impl(name, ON_CPU[name], "CPU")
    LIBRARY.impl(name, on_meta, "Meta")


def shaped_as_first(first: Tensor, *_: Any) -> Tensor:
    """What an operator gives on the meta device whose result has the shape of its first argument."""
    return torch.empty_like(first, memory_format=torch.contiguous_format)


def runs_tiled(x: Tensor) -> bool:
    """Whether the kernels, which go from item to item, run where a batch is: on a CPU, or without values on the meta device.

    On small images the calls would cost more than the arithmetic, and torch's operators take all items at once.
    """
    of_item = math.prod(x.shape[1:]) if x.ndim > 1 else x.numel()
    return x.device.type in ("cpu", "meta") and of_item >= LEAST
