import math

import numpy as np
import pytest
import torch

from monai_surrogates.core import Overlap, ScoreTable
from monai_surrogates.metrics import PerImageScores
from monai_surrogates.study.scores import (
    ScoredCell,
    class_scores,
    dice_of_constant_masks,
    image_means,
    image_name,
    mean_with_interval,
    summarise,
)


@pytest.mark.parametrize("values", [[], [0.7], [0.7, 0.7, 0.7]])
def test_where_there_is_no_interval_none_is_given(values):
    result = mean_with_interval(np.array(values))
    assert result["images"] == len(values)
    assert result["low"] is result["high"] is None
    assert (result["mean"] is None) if not values else result["mean"] == pytest.approx(0.7)


@pytest.fixture
def two_cells():
    """Dice of liver and tumour: 4/5 and none, 3/5 and 1/5 on one fold; none and none on the other."""
    folds = [(("a", "b"), [[(4, 5, 5), (0, 2, 0)], [(3, 5, 5), (1, 5, 5)]]), (("c",), [[(0, 1, 0), (0, 0, 0)]])]
    return [
        ScoredCell("soft_dice", images, ScoreTable(Overlap(*torch.tensor(cells).unbind(-1)), ("liver", "tumour")))
        for images, cells in folds
    ]


def test_every_image_and_class_has_a_row(two_cells):
    assert class_scores(two_cells).to_csv(index=False, float_format="%.3f").split() == [
        "objective,image,class,dice,iou",
        "soft_dice,a,liver,0.800,0.667",
        "soft_dice,a,tumour,,",
        "soft_dice,b,liver,0.600,0.429",
        "soft_dice,b,tumour,0.200,0.111",
        "soft_dice,c,liver,,",
        "soft_dice,c,tumour,,",
    ]
    assert class_scores([]).to_csv(index=False) == "objective,image,class,dice,iou\n"


def test_an_image_is_the_mean_of_its_defined_classes_and_undefined_images_do_not_count(two_cells):
    means = image_means(two_cells)
    assert means["image"].tolist() == ["a", "b", "c"]
    assert means["dice"].tolist() == pytest.approx([0.8, 0.4, math.nan], nan_ok=True)
    summary = summarise(means, "soft_dice", 1.5)
    assert summary["dice"]["mean"] == pytest.approx(0.6)
    assert summary["iou"]["mean"] == pytest.approx((2 / 3 + (3 / 7 + 1 / 9) / 2) / 2)
    assert summary["dice"]["images"] == 2
    assert summary["seconds_per_epoch"] == 1.5


def test_a_study_and_a_metric_give_the_same_interval_of_the_same_masks():
    prediction, reference = torch.randint(0, 4, (2, 12, 1, 3, 4), generator=torch.Generator().manual_seed(0))
    metric = PerImageScores(num_classes=4, include_background=False)
    metric(prediction, reference)
    scored = ScoredCell("soft_dice", tuple("abcdefghijkl"), metric.table())
    summary = summarise(image_means([scored]), "soft_dice", None)
    assert summary["dice"] == metric.interval("dice")._asdict()
    assert summary["iou"] == metric.interval("iou")._asdict()


def test_a_mask_of_one_class_everywhere_scores_that_class_alone():
    # 2|B|/(N + |B|) of the class, 0 for the other one where it is there, N = 10
    volumes = torch.tensor([[5, 5, 0], [4, 2, 4], [10, 0, 0]])
    first, second = (10 / 15 + 4 / 12 / 2) / 2, (0 + 8 / 14 / 2) / 2
    assert first > second
    assert dice_of_constant_masks(volumes) == pytest.approx(first)
    assert dice_of_constant_masks(volumes[:, [0, 2, 1]]) == pytest.approx(first)
    assert dice_of_constant_masks(volumes[2:]) is None


@pytest.mark.parametrize("path", ["/data/case_01.nii.gz", "case_01.nii", "C:\\data\\case_01.nii.gz"])
def test_names_of_images(path):
    assert image_name(path) == "case_01"
