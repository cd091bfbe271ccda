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


def test_lovasz_hinge_without_reference_is_the_largest_error_or_left_out():
    x, y = torch.tensor([-1.0, 0.5, -0.25]).view(1, 1, 3), torch.zeros(1, 1, 3)
    assert LovaszHingeLoss()(x, y).item() == 1.5  # as in Berman's code, kornia and segmentation_models_pytorch
    assert LovaszHingeLoss(classes="present")(x, y).item() == 0


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


# items without a class, S = Σp: arXiv 2207.09521 and its closed forms

EMPTY_P = [Fraction(1, 2), Fraction(1, 4), Fraction(1, 8), Fraction(1, 8)]  # S = 1
VOLUME = Fraction(5, 2)
BY_VOLUME = {"smoothing": "structure_volume", "structure_volumes": [float(VOLUME)]}
MEMBERS = {
    "Dice": (SoftDiceLoss, {}),
    "Jaccard": (SoftJaccardLoss, {}),
    "Tversky, Dice's": (SoftTverskyLoss, {}),
    "Tversky, Jaccard's": (SoftTverskyLoss, {"alpha": 1, "beta": 1}),
    "Tversky, misses": (SoftTverskyLoss, {"alpha": 0.25, "beta": 0.75}),
}
every_member = pytest.mark.parametrize(("cls", "own"), MEMBERS.values(), ids=MEMBERS)


def empty_item(items=1):
    p = torch.tensor([float(p) for p in EMPTY_P], dtype=torch.float64).expand(items, 1, 4).clone()
    return p.requires_grad_(), torch.zeros(items, 1, 4)


def loss_and_slope(loss, items=1):
    """The loss of empty items, and its slope in every probability, which is the same in all."""
    p, y = empty_item(items)
    value = loss(p, y)
    (slope,) = torch.autograd.grad(value, p)
    assert torch.equal(slope, slope[:1, :, :1].expand_as(slope))
    return value.item(), slope[0, 0, 0].item()


@pytest.mark.parametrize("epsilon", [Fraction(5, 2), Fraction(1, 1000)], ids=str)
@pytest.mark.parametrize(("cls", "doubled"), [(SoftDiceLoss, 1), (SoftJaccardLoss, 2)])
def test_empty_item_smoothed_by_a_constant(cls, doubled, epsilon):
    total = sum(EMPTY_P)  # MONAI's Jaccard smooths doubled counts: 2ε there
    mine = loss_and_slope(cls(smooth_nr=float(doubled * epsilon), smooth_dr=float(doubled * epsilon)))
    expected = total / (total + epsilon), epsilon / (total + epsilon) ** 2
    assert mine == pytest.approx([float(e) for e in expected], abs=1e-12)


@every_member
def test_empty_item_smoothed_by_the_structure_s_volume(cls, own):
    total = sum(EMPTY_P)
    expected = total / (total + VOLUME), VOLUME / (total + VOLUME) ** 2  # 2/7 and 10/49
    assert loss_and_slope(cls(**own, **BY_VOLUME)) == pytest.approx([float(e) for e in expected], abs=1e-12)


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss])
def test_empty_item_smoothed_below_alone_is_lost(cls):
    assert loss_and_slope(cls(smooth_nr=0, smooth_dr=1e-5)) == (1, 0)
    assert loss_and_slope(cls(classes="present", **BY_VOLUME)) == (0, 0)


def test_an_empty_item_costs_nothing_if_false_positives_have_weight_0():
    assert loss_and_slope(SoftTverskyLoss(alpha=0, beta=1, **BY_VOLUME)) == (0, 0)


def test_squared_empty_item():
    p, y = empty_item()
    total = sum(p * p for p in EMPTY_P)
    loss = SoftDiceLoss(squared_pred=True, **BY_VOLUME)(p, y)
    assert loss.item() == pytest.approx(float(total / (total + VOLUME)), abs=1e-12)


@every_member
def test_a_batch_of_copies_has_the_loss_of_one_also_when_pooled(cls, own):
    alone, _ = loss_and_slope(cls(**own, **BY_VOLUME))
    pooled, slope = loss_and_slope(cls(**own, **BY_VOLUME, batch=True), items=3)
    assert pooled == pytest.approx(alone, abs=1e-12)
    total = 3 * sum(EMPTY_P)
    assert slope == pytest.approx(float(3 * VOLUME / (total + 3 * VOLUME) ** 2), abs=1e-12)


@pytest.mark.parametrize(("cls", "expected"), [(SoftDiceLoss, "11/57"), (SoftJaccardLoss, "1/4")])
def test_one_structure_of_four_voxels_smoothed_by_its_volume(cls, expected):
    # I = 1.3, Σp = 1.7, Σy = v = 2: 1 − (2.6 + 2)/(3.7 + 2) and 1 − (2.6 + 4)/(4.8 + 4)
    p = torch.tensor([0.9, 0.4, 0.3, 0.1], dtype=torch.float64).view(1, 1, 2, 2)
    y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    loss = cls(smoothing="structure_volume", structure_volumes=[2])
    assert loss(p, y).item() == pytest.approx(float(Fraction(expected)), abs=1e-12)
