"""Per-image scores as MONAI cumulative metrics."""

from monai_surrogates.metrics.base import OverlapMetric
from monai_surrogates.metrics.intervals import MeanInterval, mean_interval
from monai_surrogates.metrics.per_image import PerImageDiceMetric, PerImageIoUMetric, PerImageMetric
from monai_surrogates.metrics.scores import PerImageScores

__all__ = [
    "MeanInterval",
    "OverlapMetric",
    "PerImageDiceMetric",
    "PerImageIoUMetric",
    "PerImageMetric",
    "PerImageScores",
    "mean_interval",
]
