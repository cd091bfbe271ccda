"""The mathematics: pure functions on tensors, each next to its equation."""

from monai_surrogates.core.inputs import ShapeMismatchError
from monai_surrogates.core.lovasz import lovasz_jaccard, lovasz_jaccard_binned, lovasz_jaccard_weights
from monai_surrogates.core.overlap import Overlap, hard_overlap, soft_overlap
from monai_surrogates.core.scores import EMPTY_RULES, dice_score, jaccard_score, tversky_index
from monai_surrogates.core.weights import WEIGHTINGS, class_weights, positive_weights

__all__ = [
    "EMPTY_RULES",
    "WEIGHTINGS",
    "Overlap",
    "ShapeMismatchError",
    "class_weights",
    "dice_score",
    "hard_overlap",
    "jaccard_score",
    "lovasz_jaccard",
    "lovasz_jaccard_binned",
    "lovasz_jaccard_weights",
    "positive_weights",
    "soft_overlap",
    "tversky_index",
]
