import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monai_surrogates.study.scores import image_name, mean_with_interval, per_image_means, summarise


def test_the_interval_is_scipy_s_and_holds_the_mean():
    values = np.random.default_rng(1).beta(5, 2, 40)
    result = mean_with_interval(values)
    assert result["mean"] == pytest.approx(values.mean())
    expected = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(0))
    assert (result["low"], result["high"]) == pytest.approx(tuple(expected.confidence_interval))
    assert result["low"] < result["mean"] < result["high"]
    assert result == mean_with_interval(values)  # the same scores give the same interval


def test_the_interval_covers_the_mean_of_symmetric_scores_about_as_often_as_it_says():
    generator = np.random.default_rng(7)
    results = [mean_with_interval(generator.uniform(0, 1, 40), seed) for seed in range(60)]
    assert sum(r["low"] <= 0.5 <= r["high"] for r in results) >= 52  # 95 % of 60 are 57; fewer than 52 has p < 0.01


@pytest.mark.parametrize("values", [[], [0.7], [0.7, 0.7, 0.7]])
def test_where_there_is_no_interval_none_is_given(values):
    result = mean_with_interval(np.array(values))
    assert result["images"] == len(values)
    assert result["low"] is result["high"] is None
    assert (result["mean"] is None) if not values else result["mean"] == pytest.approx(0.7)


def test_an_image_is_the_mean_of_its_defined_classes_and_undefined_images_do_not_count():
    rows = [
        ("a", "liver", 0.8),
        ("a", "tumour", math.nan),
        ("b", "liver", 0.6),
        ("b", "tumour", 0.2),
        ("c", "liver", math.nan),
    ]
    table = pd.DataFrame([("x", image, name, dice, dice) for image, name, dice in rows])
    table.columns = ["objective", "image", "class", "dice", "iou"]
    assert per_image_means(table, "dice")["dice"].tolist() == pytest.approx([0.8, 0.4])
    summary = summarise(table, "x", 1.5)
    assert summary["dice"]["mean"] == pytest.approx(0.6)
    assert summary["dice"]["images"] == 2


@pytest.mark.parametrize("path", ["/data/case_01.nii.gz", "case_01.nii", "C:\\data\\case_01.nii.gz"])
def test_names_of_images(path):
    assert image_name(path) == "case_01"
