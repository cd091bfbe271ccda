"""Names of objectives become loss classes; the table of names stands in :mod:`monai_surrogates._names`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name
from pydoc import locate
from typing import Any

from monai.bundle.config_item import ConfigComponent
from torch.nn.modules.loss import _Loss

from monai_surrogates._names import (
    COMPARED,
    LOSSES,
    SCHEDULES,
    check_objective,
    objective_names,
    schedules,
    unknown_name,
)

__all__ = [
    "COMPARED",
    "LOSSES",
    "SCHEDULES",
    "context_for",
    "loss_class",
    "make_loss",
    "named_class",
    "objective_names",
]


def loss_class(name: str) -> type[_Loss]:
    """The loss class of an objective, for a config's ``_target_: "$monai_surrogates.losses.loss_class(@objective)"``.

    Args:
        name: an objective of the table, or two of them as ``A_to_B``: A first, then B from half-way or ``switch_epoch`` on.

    Raises:
        ValueError: unknown name (the message lists the names and suggests the nearest), or ``A_to_A``.

    Examples:
        >>> loss_class("soft_dice").__name__
        'SoftDiceLoss'
        >>> loss_class("cross_entropy_to_soft_dice_ce").__name__
        'CrossEntropyToSoftDiceCELoss'
    """
    check_objective(name)
    path = LOSSES.get(name) or SCHEDULES.get(name)
    return resolve_name(path) if path else _schedule_class(*schedules()[name])


def make_loss(name: str, **kwargs: Any) -> _Loss:
    """Build the loss of an objective; the same keyword arguments fit every name.

    Args:
        name: as of :func:`loss_class`.
        **kwargs: MONAI's arguments, and the context that every loss accepts: ``class_counts`` and ``class_weighting``, which
            give the weights of ``weighted_cross_entropy``, and ``structure_volumes``.

    Raises:
        ValueError: as :func:`loss_class`, or an argument that the loss refuses.

    Examples:
        >>> make_loss("weighted_cross_entropy", softmax=True, to_onehot_y=True, class_counts=[90, 10])
        WeightedCELoss(to_onehot_y=True, softmax=True, weight=[0.5556, 5.0])
    """
    return loss_class(name)(**kwargs)


def context_for(target: str | Callable[..., Any], **context: Any) -> Any:
    """Context for the loss block of a config, or None, which leaves it out, if the block's target does not know it.

    So a loss of another package can take the place of ours by target alone::

        loss:
          _target_: monai.losses.DiceFocalLoss
          class_counts: {_target_: monai_surrogates.losses.context_for, target: "@loss#_target_", class_counts: "@class_counts"}

    Args:
        target: the ``_target_`` of the block: a dotted path, a short name, or a class.
        **context: one argument of the losses here, with its value.

    Returns:
        The value, or None.

    Raises:
        TypeError: no argument, or more than one.

    Examples:
        >>> context_for("monai_surrogates.losses.WeightedCELoss", class_counts=[90, 10])
        [90, 10]
        >>> context_for("monai.losses.DiceFocalLoss", class_counts=[90, 10]) is None
        True
    """
    if len(context) != 1:
        raise TypeError(
            f"context_for takes one argument of a loss by name, but got {sorted(context)}; give each its own."
        )
    ((name, value),) = context.items()
    found = _located(target) if isinstance(target, str) else target
    return value if callable(found) and _knows(found, name) else None


@cache
def _located(target: str) -> Any:
    """The class of a dotted path, or of a short name of MONAI's config engine."""
    with warnings.catch_warnings():  # building the loss will warn of a missing or ambiguous target
        warnings.simplefilter("ignore")
        return locate(ConfigComponent({"_target_": target}).resolve_module_name())


def _knows(function: Callable[..., Any], argument: str) -> bool:
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def named_class(argument: str, name: str) -> Any:
    """The class of an objective of the table.

    Args:
        argument: the argument that holds the name, for the message.
        name: the name.

    Raises:
        ValueError: unknown name; the message lists the names and suggests the nearest.
    """
    if name in schedules():
        raise ValueError(
            f"{argument} must be a single objective, but is {name!r}; give each of the two an epoch of its own."
        )
    if name not in LOSSES:
        raise unknown_name(argument, name, LOSSES)
    return resolve_name(LOSSES[name])


def __getattr__(name: str) -> Any:
    """The class of a schedule by its own name, for pickle."""
    for first, second in schedules().values():
        if name == _class_name(first, second):
            return _schedule_class(first, second)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _schedule_class(first: str, second: str) -> type[_Loss]:
    base = resolve_name("monai_surrogates.losses.scheduled.TwoStageLoss")
    doc = f"``{first}``, then ``{second}``; arguments as in :class:`~monai_surrogates.losses.scheduled.TwoStageLoss`."
    own = {"first": first, "second": second, "__module__": __name__, "__doc__": doc}
    return type(_class_name(first, second), (base,), own)


def _class_name(first: str, second: str) -> str:
    words = f"{first}_to_{second}".split("_")
    return "".join("CE" if word == "ce" else word.capitalize() for word in words) + "Loss"
