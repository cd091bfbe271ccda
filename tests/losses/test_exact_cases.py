"""The exact fractions of the papers' definitions, worked out by hand."""

from fractions import Fraction

import pytest
import torch

from monai_surrogates.losses import LovaszSoftmaxLoss, SoftDiceLoss, SoftJaccardLoss

UNSMOOTHED = {"smooth_nr": 0, "smooth_dr": 0}

TWO_CLASSES = [[3 / 4, 1 / 4], [1 / 2, 1 / 2], [1 / 4, 3 / 4], [1 / 8, 7 / 8]], [0, 1, 1, 0]
THREE_CLASSES = (
    [[1 / 2, 1 / 4, 1 / 4], [1 / 8, 3 / 4, 1 / 8], [1 / 4, 1 / 4, 1 / 2], [5 / 8, 1 / 4, 1 / 8]],
    [0, 1, 2, 1],
)
HARD = [[float(c == label) for c in range(3)] for label in (0, 1, 1, 2, 2, 0)], [0, 1, 2, 2, 2, 1]


def batch(rows, labels):
    """Rows of class probabilities per voxel, as (1, C, N, 1) float64, and labels as (1, 1, N, 1)."""
    return torch.tensor(rows, dtype=torch.float64).T[None, :, :, None], torch.tensor(labels)[None, None, :, None]


@pytest.mark.parametrize(
    ("case", "loss", "classes"),
    [
        (TWO_CLASSES, "55/96", ["29/48", "13/24"]),
        (THREE_CLASSES, "25/48", ["9/16", "1/2", "1/2"]),
        (HARD, "1/2", ["1/2", "2/3", "1/3"]),
    ],
    ids=["two classes", "three classes", "hard predictions: 1 - IoU"],
)
def test_lovasz_softmax(case, loss, classes):
    p, y = batch(*case)
    assert LovaszSoftmaxLoss(to_onehot_y=True)(p, y).item() == pytest.approx(float(Fraction(loss)), abs=1e-12)
    per_class = LovaszSoftmaxLoss(to_onehot_y=True, reduction="none")(p, y)
    assert per_class.shape == (1, len(classes), 1, 1)
    assert per_class.flatten().tolist() == pytest.approx([float(Fraction(c)) for c in classes], abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SoftDiceLoss(**UNSMOOTHED), "11/37"),
        (SoftJaccardLoss(**UNSMOOTHED), "11/24"),
        (LovaszSoftmaxLoss(), "23/60"),
        (SoftDiceLoss(squared_pred=True, **UNSMOOTHED), "47/307"),
    ],
)
def test_one_structure_of_four_voxels(loss, expected):
    p = torch.tensor([0.9, 0.4, 0.3, 0.1], dtype=torch.float64).view(1, 1, 2, 2)
    y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert loss(p, y).item() == pytest.approx(float(Fraction(expected)), abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SoftDiceLoss(sigmoid=True, smooth_nr=1e-6, smooth_dr=1e-6), 0.307576),
        (SoftDiceLoss(sigmoid=True, squared_pred=True, smooth_nr=1e-6, smooth_dr=1e-6), 0.178337),
        (SoftJaccardLoss(sigmoid=True), 0.470451),
    ],
)
def test_the_values_of_monai_s_own_test_suite(loss, expected):
    x = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
    y = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    assert loss(x, y).item() == pytest.approx(expected, abs=2e-6)  # given to six digits
