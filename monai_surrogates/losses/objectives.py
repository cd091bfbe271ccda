"""The table of objectives."""

from __future__ import annotations

from monai_surrogates.losses.base import SurrogateLoss
from monai_surrogates.losses.compound import SURROGATES
from monai_surrogates.losses.cross_entropy import PlainCELoss, WeightedCELoss

OBJECTIVES: dict[str, type[SurrogateLoss]] = {
    "cross_entropy": PlainCELoss,
    "weighted_cross_entropy": WeightedCELoss,
    **{name: SURROGATES[name] for name in ("soft_dice", "soft_jaccard", "lovasz_softmax")},
}
