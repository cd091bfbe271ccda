"""What the tests of arguments share: flags, the overlap losses beside MONAI's, and how values are compared."""

import pytest
import torch
from monai.losses import DiceLoss, TverskyLoss

from monai_surrogates.losses import SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss
from tests.losses.test_against_monai import random_batch

SHAPES = {"2D": (4, 5), "3D": (2, 3, 4)}
SOFTMAX = {"softmax": True, "to_onehot_y": True}
SIGMOID = {"sigmoid": True, "to_onehot_y": True}

# ours, MONAI's, and the arguments of both
OVERLAP = {
    "Dice": (SoftDiceLoss, DiceLoss, {}),
    "Jaccard": (SoftJaccardLoss, lambda **arguments: DiceLoss(jaccard=True, **arguments), {}),
    "Tversky": (SoftTverskyLoss, TverskyLoss, {"alpha": 0.3, "beta": 0.7}),
}
of_overlap = pytest.mark.parametrize(("ours", "theirs", "own"), OVERLAP.values(), ids=OVERLAP)
in_2d_and_3d = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def assert_equal_value_and_gradient(mine, expected):
    for value, reference in zip(mine, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-10, atol=1e-12)


def soft_batch(shape, classes=3):
    x, _ = random_batch(0, shape, classes, torch.float64)
    other, _ = random_batch(1, shape, classes, torch.float64)
    return x, other.softmax(1)
