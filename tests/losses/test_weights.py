"""``weight``, and weights from ``class_counts``: against torch and MONAI, of both lengths, as a copy."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.losses import DiceLoss
from monai.networks import one_hot

from monai_surrogates.core import inputs
from monai_surrogates.losses import LovaszSoftmaxLoss, PlainCELoss, SoftDiceCELoss, SoftDiceLoss, WeightedCELoss
from tests.losses.arguments import SIGMOID, SOFTMAX
from tests.losses.test_against_monai import random_batch


@pytest.mark.parametrize("flags", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("cls", [PlainCELoss, WeightedCELoss])
def test_weights_without_a_background_leave_it_the_weight_one_in_cross_entropy(cls, flags):
    x, y = random_batch(7, (4, 5), 3, torch.float64)
    loss = cls(**flags, include_background=False, weight=[2.0, 5.0])
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    if "softmax" in flags:
        expected = F.cross_entropy(x, y[:, 0], weight)
    else:
        masks = one_hot(y, 3, dtype=torch.float64)
        expected = F.binary_cross_entropy_with_logits(x, masks, pos_weight=weight.view(3, 1, 1))
    torch.testing.assert_close(loss(x, y), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("cls", [PlainCELoss, SoftDiceLoss])
def test_too_few_weights_need_include_background_false(cls):
    with pytest.raises(ValueError, match=r"weight must have 3 values.*2 with the background excluded.*has 2"):
        cls(**SOFTMAX, weight=[2.0, 5.0])(*random_batch(7, (4, 5), 3, torch.float64))


@pytest.mark.parametrize("classes", [[2, 1], [1], [0, 2]], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ours", [SoftDiceLoss, LovaszSoftmaxLoss])
def test_weights_of_chosen_classes_are_those_of_their_ids(ours, reduction, classes):
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    y.flatten(2)[..., :3] = torch.arange(3)  # every class occurs in every item
    weight = [2.0, 3.0, 7.0]
    unreduced = {"reduction": "none", **SOFTMAX}
    every_class = DiceLoss(**unreduced) if ours is SoftDiceLoss else LovaszSoftmaxLoss(**unreduced)
    # A single class is not weighed, as in MONAI.
    factors = torch.tensor([weight[c] for c in classes] if len(classes) > 1 else [1.0], dtype=torch.float64)
    expected = every_class(x, y)[:, classes] * factors.view(1, -1, 1, 1)
    reduce = {"mean": torch.mean, "sum": torch.sum, "none": lambda loss: loss}[reduction]
    loss = ours(**SOFTMAX, classes=classes, weight=weight, reduction=reduction)
    torch.testing.assert_close(loss(x, y), reduce(expected), rtol=1e-6, atol=0)  # MONAI's one-hot form is float32


def test_foreground_weights_of_chosen_classes_are_those_of_their_ids():
    x, y = random_batch(8, (4, 5), 4, torch.float64)
    few = SoftDiceLoss(**SOFTMAX, classes=[3, 1], include_background=False, weight=[2.0, 3.0, 7.0])
    full = SoftDiceLoss(**SOFTMAX, classes=[3, 1], include_background=False, weight=[99.0, 2.0, 3.0, 7.0])
    without_flag = SoftDiceLoss(**SOFTMAX, classes=[3, 1], weight=[2.0, 3.0, 7.0])  # the list excludes the background
    losses = SoftDiceLoss(**SOFTMAX, reduction="none")(x, y)[:, :, 0, 0]
    expected = (7 * losses[:, 3] + 2 * losses[:, 1]).mean() / 2
    for loss in (few, full, without_flag):
        torch.testing.assert_close(loss(x, y), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("cls", [SoftDiceLoss, LovaszSoftmaxLoss, PlainCELoss, SoftDiceCELoss])
def test_weights_of_the_wrong_number_are_refused_before_any_arithmetic(cls, monkeypatch):
    def arithmetic(*_, **__):
        raise AssertionError("arithmetic before the check")

    monkeypatch.setattr(inputs, "flatten_voxels", arithmetic)
    with pytest.raises(ValueError, match="weight must have 3 values"):
        cls(**SOFTMAX, weight=[1.0, 2.0])(*random_batch(7, (4, 5), 3, torch.float64))


def test_a_list_of_weights_is_not_rounded_to_float32():
    x, y = random_batch(7, (4, 5), 3, torch.float64)
    expected = F.cross_entropy(x, y[:, 0], torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64))
    loss = WeightedCELoss(**SOFTMAX, weight=[0.1, 0.2, 0.7])
    torch.testing.assert_close(loss(x, y), expected, rtol=1e-14, atol=0)


def test_weights_are_a_copy():
    x, y = random_batch(7, (4, 5), 3, torch.float64)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    loss = SoftDiceLoss(**SOFTMAX, weight=weight)
    expected = loss(x, y)
    weight.zero_()
    torch.testing.assert_close(loss(x, y), expected)


@pytest.mark.parametrize("cls", [SoftDiceLoss, WeightedCELoss])
def test_weights_survive_a_look_at_the_shapes_on_the_meta_device(cls):
    loss = cls(**SOFTMAX, weight=[1.0, 2.0, 3.0])
    x, y = random_batch(7, (4, 5), 3, torch.float64)
    expected = loss(x, y)
    loss(x.to("meta"), y.to("meta"))
    torch.testing.assert_close(loss(x, y), expected)


BINARY_COUNTS = {
    "label map, a channel per class": (3, [700, 200, 100], [3 / 7, 4.0, 9.0]),
    "label map, background without a channel": (2, [700, 200, 100], [4.0, 9.0]),
    "one channel": (1, [900, 100], [9.0]),
    "a class without a voxel": (2, [900, 100, 0], [9.0, 1.0]),
}


@pytest.mark.parametrize(("channels", "counts", "positive"), BINARY_COUNTS.values(), ids=BINARY_COUNTS)
@pytest.mark.parametrize("weighting", ["inverse_frequency", "median_frequency", None])
def test_binary_cross_entropy_weighs_a_class_against_all_others(weighting, channels, counts, positive):
    x, _ = random_batch(14, (4, 5), channels, torch.float64)
    y = (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.7).double()
    pos_weight = torch.tensor(positive, dtype=torch.float64).view(-1, 1, 1)
    expected = F.binary_cross_entropy_with_logits(x, y, pos_weight=pos_weight)
    loss = WeightedCELoss(sigmoid=True, weight=weighting, class_counts=counts)
    torch.testing.assert_close(loss(x, y), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("given", [[1.0], [1.0, 2, 3, 4, 5]])
def test_counts_of_the_wrong_number_are_named(given):
    with pytest.raises(ValueError, match=rf"class_counts must have 3 values.* has {len(given)}"):
        WeightedCELoss(**SIGMOID, class_counts=given)(*random_batch(7, (4, 5), 3, torch.float64))


@pytest.mark.parametrize("weighting", ["inverse_frequency", "median_frequency", "effective_number"])
@pytest.mark.parametrize("flags", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_class_weighting_is_a_weight_by_name(flags, weighting):
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    by_weight, by_context, by_both = (
        WeightedCELoss(**flags, class_counts=[700, 200, 100], **arguments)(x, y)
        for arguments in (
            {"weight": weighting},
            {"class_weighting": weighting},
            {"weight": weighting, "class_weighting": weighting},
        )
    )
    assert by_weight == by_context == by_both


@pytest.mark.parametrize("weight", [[1.0, 2.0, 3.0], "effective_number"], ids=str)
def test_weight_goes_before_class_weighting(weight):
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    context = {"class_counts": [700, 200, 100], "weight": weight}
    given, alone = (WeightedCELoss(**SOFTMAX, **context, class_weighting=c)(x, y) for c in ("median_frequency", None))
    assert given == alone


def test_an_impossible_class_weighting_is_refused():
    with pytest.raises(ValueError, match="class_weighting='median_frequency' needs class_counts"):
        WeightedCELoss(class_weighting="median_frequency")
    for cls in (SoftDiceLoss, LovaszSoftmaxLoss, PlainCELoss, WeightedCELoss, SoftDiceCELoss):
        with pytest.raises(
            ValueError,
            match=r"class_weighting must be one of inverse_frequency, .* but is 'median'\. Did you mean 'median_f",
        ):
            cls(class_weighting="median", class_counts=[1, 2])
