"""Names of objectives become loss classes; the table of names stands in :mod:`monai_surrogates._names`."""

from __future__ import annotations

from functools import cache
from pkgutil import resolve_name
from typing import Any

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

__all__ = ["COMPARED", "LOSSES", "SCHEDULES", "loss_class", "make_loss", "named_class", "objective_names"]


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
