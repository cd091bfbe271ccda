"""The exact fractions of the papers' definitions, worked out by hand."""

from fractions import Fraction

import pytest
import torch

from monai_surrogates.losses import LovaszHingeLoss, LovaszSoftmaxLoss, SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss

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


@pytest.mark.parametrize(
    ("logits", "y", "expected"), [([1, -1, 2, -0.5], [1, 0, 0, 1], 1.5), ([0, 0, 0, 0], [1, 0, 0, 0], 1.0)]
)
def test_lovasz_hinge(logits, y, expected):
    x = torch.tensor(logits, dtype=torch.float64).view(1, 1, 2, 2)
    assert LovaszHingeLoss()(x, torch.tensor(y).view(1, 1, 2, 2)).item() == pytest.approx(expected, abs=1e-12)


def test_lovasz_hinge_without_reference_is_left_out_or_the_largest_error():
    x, y = torch.tensor([-3.0, -0.5, 0.25]).view(1, 1, 3), torch.zeros(1, 1, 3)
    assert LovaszHingeLoss()(x, y).item() == 0
    assert LovaszHingeLoss(classes="all")(x, y).item() == 1.25


@pytest.mark.parametrize("flag", [{"softmax": True}, {"other_act": torch.tanh}])
def test_lovasz_hinge_refuses_other_activations(flag):
    with pytest.raises(ValueError, match="takes logits of structures"):
        LovaszHingeLoss(**flag)


def test_tversky_is_its_fraction():
    p = torch.tensor([0.9, 0.4, 0.3, 0.1], dtype=torch.float64).view(1, 1, 2, 2)
    y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    hit, alpha, beta = Fraction(13, 10), Fraction(1, 5), Fraction(4, 5)
    expected = 1 - hit / (hit + alpha * Fraction(4, 10) + beta * Fraction(7, 10))
    loss = SoftTverskyLoss(alpha=0.2, beta=0.8, **UNSMOOTHED)
    assert loss(p, y).item() == pytest.approx(float(expected), abs=1e-12)


def test_two_classes_of_a_single_channel():
    x = torch.tensor([0.9, 0.4, 0.3, 0.1], dtype=torch.float64).view(1, 1, 2, 2)
    y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    both = torch.cat([1 - x, x], 1)
    for cls in (SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss, LovaszSoftmaxLoss):
        expected = cls()(both, torch.cat([1 - y, y], 1))
        torch.testing.assert_close(cls(two_class=True)(x, y), expected)
        torch.testing.assert_close(cls(two_class=True, include_background=False)(x, y), cls()(x, y))


@pytest.mark.parametrize("arguments", [{"method": "histogram"}, {"bins": 0}])
def test_impossible_methods_are_refused(arguments):
    with pytest.raises(ValueError, match=r"method must be one of auto, sort, bins|bins must be at least 1"):
        LovaszSoftmaxLoss(**arguments)
    with pytest.raises(ValueError, match=r"which hinge errors are not"):
        LovaszHingeLoss(method="bins")
