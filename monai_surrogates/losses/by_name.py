"""What a config calls by name: an objective, or a schedule of two."""

from __future__ import annotations

from typing import Any

from torch.nn.modules.loss import _Loss

from monai_surrogates.losses.compound import named_entry
from monai_surrogates.losses.objectives import OBJECTIVES
from monai_surrogates.losses.scheduled import SCHEDULES


def loss_class(name: str) -> type[_Loss]:
    """The loss class of an objective, for a config's ``_target_: "$monai_surrogates.losses.loss_class(@objective)"``.

    Args:
        name: one of :data:`OBJECTIVES` or :data:`SCHEDULES`.

    Raises:
        ValueError: unknown name; the message lists the names and suggests the nearest.

    Examples:
        >>> loss_class("soft_dice").__name__
        'SoftDiceLoss'
        >>> loss_class("cross_entropy_to_soft_dice").__name__
        'CrossEntropyToSoftDiceLoss'
    """
    table: dict[str, type[_Loss]] = {**OBJECTIVES, **SCHEDULES}
    return named_entry("objective", name, table)


def make_loss(name: str, **kwargs: Any) -> _Loss:
    """Build the loss of an objective; the same keyword arguments fit every name.

    Args:
        name: one of :data:`OBJECTIVES` or :data:`SCHEDULES`.
        **kwargs: MONAI's arguments, and the context that every loss accepts: ``class_counts`` and ``class_weighting``, which
            ``weighted_cross_entropy`` takes its weights from, and ``structure_volumes``.

    Raises:
        ValueError: unknown name; the message lists the names and suggests the nearest.

    Examples:
        >>> make_loss("weighted_cross_entropy", softmax=True, to_onehot_y=True, class_counts=[90, 10])
        WeightedCELoss()
    """
    return loss_class(name)(**kwargs)
