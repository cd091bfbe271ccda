"""Bootstrap intervals against SciPy and against how often they hold the mean."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from monai_surrogates.statistics import RESAMPLES, mean_interval


def scipy_interval(values, confidence):
    """Ends of SciPy's BCa interval of a mean, with the seed 3."""
    settings = {"method": "BCa", "confidence_level": confidence, "n_resamples": RESAMPLES}
    return stats.bootstrap((values,), np.mean, **settings, rng=np.random.default_rng(3)).confidence_interval


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_the_interval_is_scipy_s_and_holds_the_mean(confidence):
    values = np.random.default_rng(1).beta(5, 2, 40)
    found = mean_interval(values, confidence, seed=3)
    expected = scipy_interval(values, confidence)
    assert found[1:3] == pytest.approx(tuple(expected))
    assert found.mean == pytest.approx(values.mean())
    assert found.low < found.mean < found.high
    assert found == mean_interval(values, confidence, seed=3)  # the same scores give the same interval


def test_the_interval_covers_the_mean_of_symmetric_scores_about_as_often_as_it_says():
    generator = np.random.default_rng(7)
    found = [mean_interval(generator.uniform(0, 1, 40), seed=seed) for seed in range(60)]
    assert sum(f.low <= 0.5 <= f.high for f in found) >= 52  # 95 % of 60 are 57; fewer than 52 has p < 0.01


@pytest.mark.parametrize("values", [[], [math.nan], [0.7], [0.7, math.nan], [0.7, 0.7, 0.7]], ids=str)
def test_the_ends_of_an_undefined_interval_are_nan(values):
    found = mean_interval(values)
    defined = [value for value in values if not math.isnan(value)]
    assert found.images == len(defined)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.mean == pytest.approx(0.7 if defined else math.nan, nan_ok=True)


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, torch.tensor], ids=["list", "array", "series", "tensor"])
def test_an_interval_is_of_any_numbers_and_leaves_undefined_images_out(kind):
    values = [0.2, math.nan, 0.4, 0.9, 0.7]
    given = kind(values)
    if isinstance(given, np.ndarray):
        given.setflags(write=False)  # as pandas hands its columns out
    found = mean_interval(given)
    assert found.images == 4
    assert found.mean == pytest.approx((0.2 + 0.4 + 0.9 + 0.7) / 4)
    assert found.low < found.mean < found.high


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_a_confidence_outside_0_to_1_is_refused(confidence):
    with pytest.raises(ValueError, match=f"confidence must lie between 0 and 1, but is {confidence}"):
        mean_interval([0.1, 0.2], confidence)
