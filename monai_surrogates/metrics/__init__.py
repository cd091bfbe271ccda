"""Per-image scores as MONAI cumulative metrics."""

import typing as _typing

from monai_surrogates._messages import missing_name as _missing_name
from monai_surrogates.metrics.base import OverlapMetric
from monai_surrogates.metrics.per_image import PerImageDiceMetric, PerImageIoUMetric, PerImageMetric
from monai_surrogates.metrics.summary import PerImageScores

if _typing.TYPE_CHECKING:
    from monai_surrogates.statistics import MeanInterval, mean_interval

__all__ = [
    "MeanInterval",
    "OverlapMetric",
    "PerImageDiceMetric",
    "PerImageIoUMetric",
    "PerImageMetric",
    "PerImageScores",
    "mean_interval",
]


def __getattr__(name: str) -> object:
    """The names that need SciPy, imported on demand. ``dir`` does not list them, or MONAI's scan would import SciPy.

    Any other name is an error that suggests the nearest.
    """
    if name in ("MeanInterval", "mean_interval"):
        from monai_surrogates import statistics

        return getattr(statistics, name)
    raise _missing_name(__name__, name)
