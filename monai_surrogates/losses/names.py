"""The table of objectives: name -> loss, and any two names as a schedule.

Values are dotted paths, because losses that take names import this table.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations
from pkgutil import resolve_name
from typing import Any

from torch.nn.modules.loss import _Loss

from monai_surrogates.losses.arguments import unknown_name

LOSSES: dict[str, str] = {
    "cross_entropy": "monai_surrogates.losses.PlainCELoss",
    "weighted_cross_entropy": "monai_surrogates.losses.WeightedCELoss",
    "soft_dice": "monai_surrogates.losses.SoftDiceLoss",
    "soft_jaccard": "monai_surrogates.losses.SoftJaccardLoss",
    "lovasz_softmax": "monai_surrogates.losses.LovaszSoftmaxLoss",
    "soft_tversky": "monai_surrogates.losses.SoftTverskyLoss",
    "lovasz_hinge": "monai_surrogates.losses.LovaszHingeLoss",
    "soft_dice_ce": "monai_surrogates.losses.SoftDiceCELoss",
    "soft_jaccard_ce": "monai_surrogates.losses.SoftJaccardCELoss",
    "soft_tversky_ce": "monai_surrogates.losses.SoftTverskyCELoss",
    "lovasz_softmax_ce": "monai_surrogates.losses.LovaszSoftmaxCELoss",
}
# Schedules with a dotted path; any other A_to_B is made on demand.
SCHEDULES: dict[str, str] = {
    "cross_entropy_to_soft_dice": "monai_surrogates.losses.CrossEntropyToSoftDiceLoss",
    "cross_entropy_to_soft_jaccard": "monai_surrogates.losses.CrossEntropyToSoftJaccardLoss",
    "cross_entropy_to_lovasz_softmax": "monai_surrogates.losses.CrossEntropyToLovaszSoftmaxLoss",
}
# The objectives that a study compares by default; all of them take the same loss block.
COMPARED = ("cross_entropy", "weighted_cross_entropy", "soft_dice", "soft_jaccard", "lovasz_softmax")


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
    if name in LOSSES or name in SCHEDULES:
        return resolve_name(LOSSES.get(name) or SCHEDULES[name])  # type: ignore[no-any-return]
    if name in _schedules():
        return _schedule_class(*_schedules()[name])
    for known in LOSSES:
        if name == f"{known}_to_{known}":
            raise ValueError(
                f"objective must go from one to another, but {name!r} stays at {known}; name {known} alone."
            )
    raise unknown_name("objective", name, LOSSES, ", or two of them as A_to_B", _schedules())


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
    if name in _schedules():
        raise ValueError(
            f"{argument} must be a single objective, but is {name!r}; give each of the two an epoch of its own."
        )
    if name not in LOSSES:
        raise unknown_name(argument, name, LOSSES)
    return resolve_name(LOSSES[name])


def objective_names() -> list[str]:
    """All names: the table's, then any two of them."""
    return [*LOSSES, *_schedules()]


def __getattr__(name: str) -> Any:
    """The class of a schedule by its own name, for pickle."""
    for first, second in _schedules().values():
        if name == _class_name(first, second):
            return _schedule_class(first, second)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _schedules() -> dict[str, tuple[str, str]]:
    return {f"{first}_to_{second}": (first, second) for first, second in permutations(LOSSES, 2)}


@cache
def _schedule_class(first: str, second: str) -> type[_Loss]:
    base = resolve_name("monai_surrogates.losses.scheduled.TwoStageLoss")
    doc = f"``{first}``, then ``{second}``; arguments as in :class:`~monai_surrogates.losses.scheduled.TwoStageLoss`."
    own = {"first": first, "second": second, "__module__": __name__, "__doc__": doc}
    return type(_class_name(first, second), (base,), own)


def _class_name(first: str, second: str) -> str:
    words = f"{first}_to_{second}".split("_")
    return "".join("CE" if word == "ce" else word.capitalize() for word in words) + "Loss"
