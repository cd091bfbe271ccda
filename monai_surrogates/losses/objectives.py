"""The table of objectives: what a config calls by name."""

from __future__ import annotations

from typing import Any

from monai_surrogates.losses.base import SurrogateLoss
from monai_surrogates.losses.compound import SURROGATES, named_entry
from monai_surrogates.losses.cross_entropy import PlainCELoss, WeightedCELoss

OBJECTIVES: dict[str, type[SurrogateLoss]] = {
    "cross_entropy": PlainCELoss,
    "weighted_cross_entropy": WeightedCELoss,
    **{name: SURROGATES[name] for name in ("soft_dice", "soft_jaccard", "lovasz_softmax")},
}


def loss_class(name: str) -> type[SurrogateLoss]:
    """The loss class of an objective, for a config's ``_target_: "$monai_surrogates.losses.loss_class(@objective)"``.

    Args:
        name: one of :data:`OBJECTIVES`.

    Raises:
        ValueError: unknown name; the message lists the names and suggests the nearest.

    Examples:
        >>> loss_class("soft_dice").__name__
        'SoftDiceLoss'
    """
    return named_entry("objective", name, OBJECTIVES)


def make_loss(name: str, **kwargs: Any) -> SurrogateLoss:
    """Build the loss of an objective; the same keyword arguments fit every name.

    Args:
        name: one of :data:`OBJECTIVES`.
        **kwargs: MONAI's arguments, and the context that every loss accepts: ``class_counts`` and ``class_weighting``, which
            ``weighted_cross_entropy`` takes its weights from, and ``structure_volumes``.

    Raises:
        ValueError: unknown name; the message lists the names and suggests the nearest.

    Examples:
        >>> make_loss("weighted_cross_entropy", softmax=True, to_onehot_y=True, class_counts=[90, 10])
        WeightedCELoss()
    """
    return loss_class(name)(**kwargs)
