"""The bootstrap interval of a mean, the same for a study and for metrics."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

RESAMPLES = 9999


class MeanInterval(NamedTuple):
    """A mean over images and its bootstrap interval; NaN if undefined.

    Attributes:
        mean: over the images with a score.
        low: lower end.
        high: upper end.
        images: number of images with a score.
    """

    mean: float
    low: float
    high: float
    images: int


def mean_interval(values: ArrayLike, confidence: float = 0.95, seed: int = 0) -> MeanInterval:
    """Mean over images with its BCa bootstrap interval.

    Below 20 images the interval is too narrow: on skewed Dice scores a nominal 95 % covers 82 % at n = 10 and 88 % at n = 20.

    Args:
        values: one score per image, (n,); images without one, NaN, are left out.
        confidence: between 0 and 1.
        seed: of the resampling; the same scores and seed give the same interval.

    Returns:
        The interval; its ends are NaN for a single image and for constant scores.

    Raises:
        ValueError: a confidence not between 0 and 1.

    References:
        Efron, Better bootstrap confidence intervals, JASA 1987.

    Examples:
        >>> mean, low, high, images = mean_interval([0.5, 0.75, math.nan, 1.0])
        >>> mean, low < mean < high, images
        (0.75, True, 3)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, but is {confidence}.")
    scores = np.asarray(values, dtype=np.float64)
    scores = scores[~np.isnan(scores)]
    if len(scores) == 0:
        return MeanInterval(math.nan, math.nan, math.nan, 0)
    mean, low, high = float(scores.mean()), math.nan, math.nan
    if len(scores) > 1 and scores.max() > scores.min():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (scores,), np.mean, method="BCa", confidence_level=confidence, n_resamples=RESAMPLES, rng=seed
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            low, high = float(found.low), float(found.high)
    return MeanInterval(mean, low, high, len(scores))
