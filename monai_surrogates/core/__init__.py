"""The mathematics: pure functions on tensors, each next to its equation."""

from monai_surrogates.core.counting import OverlapCounter, hard_overlap
from monai_surrogates.core.inputs import ShapeMismatchError
from monai_surrogates.core.kernels import lovasz_cpu as _lovasz_cpu  # noqa: F401 - kernels register themselves
from monai_surrogates.core.kernels import overlap_cpu as _overlap_cpu  # noqa: F401
from monai_surrogates.core.kernels import sorting_cpu as _sorting_cpu  # noqa: F401
from monai_surrogates.core.kernels.lovasz import tiled_lovasz_binned
from monai_surrogates.core.lovasz import lovasz_jaccard, lovasz_jaccard_binned
from monai_surrogates.core.lovasz_weights import lovasz_jaccard_weights
from monai_surrogates.core.overlap import Overlap, soft_overlap, softmax_overlap
from monai_surrogates.core.scores import (
    EMPTY_RULES,
    SCORES,
    dice_score,
    jaccard_score,
    precision_score,
    recall_score,
    relative_volume_error,
    structure_smoothing,
    tversky_index,
)
from monai_surrogates.core.table import ScoreTable
from monai_surrogates.core.weights import WEIGHTINGS, class_weights, positive_weights

__all__ = [
    "EMPTY_RULES",
    "SCORES",
    "WEIGHTINGS",
    "Overlap",
    "OverlapCounter",
    "ScoreTable",
    "ShapeMismatchError",
    "class_weights",
    "dice_score",
    "hard_overlap",
    "jaccard_score",
    "lovasz_jaccard",
    "lovasz_jaccard_binned",
    "lovasz_jaccard_weights",
    "positive_weights",
    "precision_score",
    "recall_score",
    "relative_volume_error",
    "soft_overlap",
    "softmax_overlap",
    "structure_smoothing",
    "tiled_lovasz_binned",
    "tversky_index",
]
