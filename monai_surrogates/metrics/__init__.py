"""Per-image scores as MONAI cumulative metrics."""

from monai_surrogates.metrics.per_image import PerImageDiceMetric, PerImageIoUMetric, PerImageMetric

__all__ = ["PerImageDiceMetric", "PerImageIoUMetric", "PerImageMetric"]
