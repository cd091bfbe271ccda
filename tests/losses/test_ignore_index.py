"""``ignore_index``: the result is that of the voxels left, of every form of target, batch and type of labels."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.losses import DiceLoss
from monai.networks import one_hot

from monai_surrogates.core.inputs import flatten_voxels
from monai_surrogates.losses import (
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    PlainCELoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
)
from tests.losses.arguments import SIGMOID, SOFTMAX, assert_equal_value_and_gradient, in_2d_and_3d
from tests.losses.test_against_monai import assert_same, random_batch, value_and_gradient


def labels_and_crop(classes=3):
    """A batch whose last two columns are to be removed: logits, all its labels, and the valid ones."""
    x, y = random_batch(3, (4, 6), classes, torch.float64)
    return x, y, y[..., :4]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("form", ["labels", "one-hot, sentinel", "one-hot, class", "single channel"])
def test_binary_cross_entropy_without_ignored_voxels_is_that_of_the_crop(form, per_image, reduction):
    x, y, y_left = labels_and_crop()
    ignored, masks = 255, one_hot(y, 3, dtype=torch.float64)
    if form == "labels":
        y[..., 4:], target, left = ignored, y, y_left
    elif form == "one-hot, sentinel":
        masks[..., 4:], target, left = ignored, masks, masks[..., :4]
    elif form == "one-hot, class":  # class 2 is of the removed voxels alone
        ignored, y = 2, y.clamp(max=1)
        y[..., 4:] = 2
        target = one_hot(y, 3, dtype=torch.float64)
        left = target[..., :4]
    else:
        x, target = x[:, :1], (y > 0).double()
        left = target[..., :4].clone()
        target[..., 4:] = ignored
    # For a single channel no entry of to_onehot_y, which would warn.
    arguments = {"sigmoid": True, "to_onehot_y": form == "labels", "reduction": reduction, "per_image": per_image}
    x_left = x[..., :4].contiguous()
    value, grad = value_and_gradient(PlainCELoss(ignore_index=ignored, **arguments), x, target)
    expected = value_and_gradient(PlainCELoss(**arguments), x_left, left)
    if reduction == "none":
        assert not value[..., 4:].any()
        value = value[..., :4]
    assert_equal_value_and_gradient((value, grad[..., :4]), expected)
    assert not grad[..., 4:].any()


def test_binary_cross_entropy_of_the_valid_voxels_is_torch_s():
    x, y, y_left = labels_and_crop()
    y[..., 4:] = 255
    expected = F.binary_cross_entropy_with_logits(x[..., :4], one_hot(y_left, 3, dtype=torch.float64))
    torch.testing.assert_close(PlainCELoss(**SIGMOID, ignore_index=255)(x, y), expected)


@pytest.mark.parametrize("ignored", [-1, 1, 7])
@in_2d_and_3d
def test_one_hot_targets_name_the_voxels_to_remove_as_in_monai(ignored, shape):
    x, y = random_batch(4, shape, 3, torch.float64)
    masks = one_hot(y, 3, dtype=torch.float64)
    if ignored != 1:
        masks[:, :, 0] = 0  # of no class
    arguments = {"softmax": True, "ignore_index": ignored}
    assert_same(SoftDiceLoss(**arguments), DiceLoss(**arguments), x, masks)


def test_a_class_id_removes_the_voxels_of_that_class_from_one_hot_targets():
    y = one_hot(torch.tensor([[[0, 2, 1, 2, 0]]]), 3)
    voxels = flatten_voxels(torch.ones(1, 3, 5), y, label_map=False, ignore_index=2).zeroed()
    assert voxels.valid.tolist() == [[True, False, True, False, True]]
    assert voxels.input[0].tolist() == [[1, 0, 1, 0, 1]] * 3
    assert voxels.target[0].tolist() == [[1, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("sentinel", [-1, 3, 255])
def test_a_sentinel_removes_the_voxels_of_no_class_from_one_hot_targets(sentinel):
    y = one_hot(torch.tensor([[[0, 2, 1, 2, 0]]]), 3)
    y[..., 1] = 0
    y[..., 3] = sentinel  # the sentinel itself, in every channel
    voxels = flatten_voxels(torch.ones(1, 3, 5), y, label_map=False, ignore_index=sentinel).zeroed()
    assert voxels.valid.tolist() == [[True, False, True, False, True]]
    assert voxels.input[0].tolist() == [[1, 0, 1, 0, 1]] * 3
    assert voxels.target[0].tolist() == [[1, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]


POOLED = {
    "SoftDice": (SoftDiceLoss, SOFTMAX),
    "SoftJaccard, sigmoid": (SoftJaccardLoss, SIGMOID),
    "SoftDice, no smoothing": (SoftDiceLoss, {**SOFTMAX, "smooth_nr": 0, "smooth_dr": 0}),
    "SoftDice, lower smoothing alone": (SoftDiceLoss, {**SOFTMAX, "smooth_nr": 0, "smooth_dr": 1}),
    "Lovász-softmax": (LovaszSoftmaxLoss, SOFTMAX),
    "Lovász-softmax, all classes": (LovaszSoftmaxLoss, {**SOFTMAX, "classes": "all"}),
    "Lovász-softmax, bins": (LovaszSoftmaxLoss, {**SOFTMAX, "method": "bins"}),
    "Lovász hinge": (LovaszHingeLoss, {"to_onehot_y": True, "classes": "all"}),
}

of_a_batch = pytest.mark.parametrize(("cls", "arguments"), POOLED.values(), ids=POOLED)


@of_a_batch
@pytest.mark.parametrize("removed", [(2, 0), (1, 4), (6, 2)], ids=str)
def test_a_batch_without_ignored_voxels_is_one_image_of_those_left(cls, arguments, removed):
    x, y = random_batch(5, (6,), 3, torch.float64)
    y[:, 0, :3] = torch.tensor([[0, 1, 2], [2, 0, 1]])
    labels = y.clone()
    for item, count in enumerate(removed):  # another number of voxels from each item
        labels[item, :, 6 - count :] = 9

    def of_those_left(x, y):
        rows = [range(6 - count) for count in removed]
        one_x, one_y = (torch.cat([t[i, :, [*row]] for i, row in enumerate(rows)], dim=-1)[None] for t in (x, y))
        return cls(**arguments)(one_x, one_y)

    mine = value_and_gradient(cls(**arguments, batch=True, ignore_index=9), x, labels)
    assert_equal_value_and_gradient(mine, value_and_gradient(of_those_left, x, y))


@of_a_batch
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_batch_of_ignored_voxels_alone_is_zero_with_a_zero_gradient(cls, arguments, reduction):
    x, y = random_batch(6, (4, 5), 3, torch.float64)
    loss = cls(**arguments, batch=True, ignore_index=9, reduction=reduction)
    value, grad = value_and_gradient(loss, x, torch.full_like(y, 9))
    assert not value.any()
    assert not grad.any()


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss, LovaszSoftmaxLoss])
@pytest.mark.parametrize("classes", ["all", "present"])
def test_two_classes_of_a_channel_with_ignored_voxels_are_those_of_the_crop(cls, classes):
    p = torch.rand(2, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([[[1.0, 1, 1, 1, 9, 9, 9, 9]], [[0.0, 1, 0, 0, 9, 9, 9, 9]]], dtype=torch.float64)
    loss = cls(two_class=True, ignore_index=9, classes=classes, reduction="none")
    cropped = cls(two_class=True, classes=classes, reduction="none")(p[..., :4], y[..., :4])
    torch.testing.assert_close(loss(p, y), cropped)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int8, torch.int32, torch.bool])
@pytest.mark.parametrize("cls", [SoftDiceLoss, LovaszSoftmaxLoss, PlainCELoss])
def test_integer_types_of_labels_neither_crash_nor_wrap_around(cls, dtype):
    x, y = random_batch(11, (4, 5), 3, torch.float64)
    y = y.clamp(max=1) if dtype == torch.bool else y
    expected = cls(**SOFTMAX)(x, y)
    for ignored in (-100, 255, 256):  # labels that do not occur
        torch.testing.assert_close(cls(**SOFTMAX, ignore_index=ignored)(x, y.to(dtype)), expected)
    if dtype == torch.uint8:
        wrapped = y.clone()
        wrapped[0, 0, 0, 0] = 156  # -100 in uint8
        with pytest.raises(ValueError, match="label 156"):
            cls(**SOFTMAX, ignore_index=-100)(x, wrapped.to(dtype))


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, LovaszSoftmaxLoss, LovaszHingeLoss, PlainCELoss])
def test_background_of_overlapping_structures_is_not_ignored(cls):
    # MONAI removes every voxel that belongs to no structure here, and false alarms cost nothing; ours is as if cropped.
    x, _ = random_batch(13, (4, 6), 3, torch.float64)
    y = (torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(1)) > 0.7).double()
    assert (y.sum(1) == 0).any()
    y[..., 4:] = 255
    flags = {} if cls is LovaszHingeLoss else {"sigmoid": True}
    torch.testing.assert_close(cls(**flags, ignore_index=255)(x, y), cls(**flags)(x[..., :4], y[..., :4]))


def test_a_label_in_a_single_channel_suggests_to_leave_it_out():
    with pytest.raises(ValueError, match=r"holds 255.*ignore_index"):
        SoftDiceLoss(sigmoid=True)(torch.zeros(1, 1, 4), torch.tensor([[[0.0, 1, 255, 0]]]))
