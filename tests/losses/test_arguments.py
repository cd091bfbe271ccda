"""Every argument does what it says: values and gradients against MONAI, torch, or a law."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceLoss, TverskyLoss
from monai.networks import one_hot

from monai_surrogates.core import inputs
from monai_surrogates.core.inputs import flatten_voxels
from monai_surrogates.losses import (
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    PlainCELoss,
    SoftDiceCELoss,
    SoftDiceLoss,
    SoftJaccardCELoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
    SurrogateCELoss,
    WeightedCELoss,
    check_channels,
)
from monai_surrogates.losses.arguments import accepted_arguments
from tests.losses.test_against_monai import assert_same, random_batch, value_and_gradient

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


# soft_label


@of_overlap
@in_2d_and_3d
@pytest.mark.parametrize("soft_label", [True, False])
@pytest.mark.parametrize("batch", [True, False])
def test_soft_targets_are_scored_as_in_monai(ours, theirs, own, shape, soft_label, batch):
    arguments = {"softmax": True, "soft_label": soft_label, "batch": batch, **own}
    assert_same(ours(**arguments), theirs(**arguments), *soft_batch(shape))


@of_overlap
@in_2d_and_3d
def test_soft_label_makes_a_perfect_soft_prediction_free(ours, theirs, own, shape):
    _, y = soft_batch(shape)
    assert ours(soft_label=True, **own)(y, y).item() == pytest.approx(0, abs=1e-12)
    assert ours(**own)(y, y).item() > 0.1


# other_act

ACTIVATIONS = {
    "softmax": lambda z: z.softmax(1),
    "tanh": torch.tanh,
    "scaled tanh": lambda z: (1 + z.tanh()) / 2,
    "over a spatial axis": lambda z: z.softmax(2),
    "over the third axis from the end": lambda z: z.softmax(-3),  # of a volume a spatial one
    "over the last axis": lambda z: z.softmax(-1),
    "by the largest of the image": lambda z: z.exp() / z.exp().amax(dim=tuple(range(2, z.ndim)), keepdim=True),
}
with_every_activation = pytest.mark.parametrize("act", ACTIVATIONS.values(), ids=ACTIVATIONS)


@of_overlap
@in_2d_and_3d
@with_every_activation
def test_other_act_sees_what_it_sees_in_monai(ours, theirs, own, shape, act):
    arguments = {"to_onehot_y": True, "other_act": act, **own}
    assert_same(ours(**arguments), theirs(**arguments), *random_batch(2, shape, 3, torch.float64))


@in_2d_and_3d
@with_every_activation
def test_other_act_is_of_the_surrogate_alone_and_cross_entropy_keeps_the_logits(shape, act):
    arguments = {"to_onehot_y": True, "other_act": act}
    x, y = random_batch(2, shape, 3, torch.float64)
    assert_same(SoftDiceCELoss(**arguments), DiceCELoss(**arguments), x, y)


@in_2d_and_3d
@pytest.mark.parametrize("act", [act for name, act in ACTIVATIONS.items() if name != "tanh"])
def test_other_act_of_lovasz_softmax_makes_its_probabilities(shape, act):
    x, y = random_batch(2, shape, 3, torch.float64)
    of_probabilities = LovaszSoftmaxLoss(to_onehot_y=True)
    mine = value_and_gradient(LovaszSoftmaxLoss(to_onehot_y=True, other_act=act), x, y)
    assert_equal_value_and_gradient(mine, value_and_gradient(lambda x, y: of_probabilities(act(x), y), x, y))


# ignore_index


def labels_and_crop(classes=3):
    """A batch whose last two columns are to be removed: logits, labels of all of it, and the labels that stay."""
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


def test_binary_cross_entropy_of_what_is_left_is_torch_s():
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


# batch

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


# weight and classes


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


@pytest.mark.parametrize("classes", [range(1, 3), torch.tensor([1, 2]), np.array([1, 2]), (1, 2)], ids=str)
def test_class_ids_are_any_sequence_of_whole_numbers(classes):
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    torch.testing.assert_close(
        SoftDiceLoss(**SOFTMAX, classes=classes)(x, y), SoftDiceLoss(**SOFTMAX, include_background=False)(x, y)
    )


@pytest.mark.parametrize("classes", [[1.5], ["1"], 1, [1.0, 2.0]], ids=str)
def test_class_ids_that_are_no_whole_numbers_are_refused(classes):
    with pytest.raises(ValueError, match=r"classes must be .* a list of class ids"):
        SoftDiceLoss(**SOFTMAX, classes=classes)


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


# warnings


@pytest.mark.parametrize("weight", [None, [1.0, 2.0]])
def test_one_warning_names_every_argument_without_a_use(weight):
    with pytest.warns(UserWarning, match="PlainCELoss has no use for") as caught:
        PlainCELoss(include_background=False, batch=True, jaccard=True, weight=weight)
    assert len(caught) == 1
    assert ("include_background" in str(caught[0].message)) == (weight is None)


def test_a_compound_speaks_for_its_parts():
    with pytest.warns(UserWarning, match="SoftDiceCELoss has no use for alpha, jaccard: not used") as caught:
        SoftDiceCELoss(**SOFTMAX, include_background=False, alpha=1, jaccard=True)
    assert len(caught) == 1
    with pytest.raises(TypeError, match="SoftDiceCELoss got an unexpected keyword argument 'smooth'"):
        SoftDiceCELoss(**SOFTMAX, smooth=1)


@pytest.mark.parametrize("cls", [SoftDiceLoss, PlainCELoss, SoftDiceCELoss, LovaszSoftmaxLoss])
def test_one_channel_warns_once_of_the_flags_it_ignores(cls):
    x = torch.rand(2, 1, 4, 5)
    with pytest.warns(UserWarning, match="`softmax=True, to_onehot_y=True") as caught:
        loss = cls(**SOFTMAX, **({} if cls is PlainCELoss else {"include_background": False}))
        loss(x, (x > 0.5).float())
        loss(x, (x > 0.5).float())
    assert len(caught) == 1


@pytest.mark.parametrize("cls", [SoftDiceLoss, PlainCELoss, WeightedCELoss, LovaszHingeLoss, SurrogateCELoss])
def test_a_warning_points_at_the_line_of_the_user(cls):
    with pytest.warns(UserWarning, match="no use for jaccard") as caught:
        cls(jaccard=True)
    assert caught[0].filename == __file__


# the settings of a compound reach its parts


def test_a_compound_without_a_name_is_dice_ce():
    x, y = random_batch(7, (4, 5), 3, torch.float64)
    torch.testing.assert_close(SurrogateCELoss(**SOFTMAX)(x, y), SoftDiceCELoss(**SOFTMAX)(x, y))


def test_per_image_reaches_the_cross_entropy_of_a_compound():
    x, y = random_batch(7, (4, 5), 3, torch.float64)
    y[0, :, :3] = 9  # another number of voxels in each item
    compound = SoftDiceCELoss(**SOFTMAX, ignore_index=9, per_image=True, lambda_dice=0)
    plain = PlainCELoss(**SOFTMAX, ignore_index=9)
    items = [plain(x[i : i + 1], y[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(compound(x, y), sum(items) / 2)


def test_two_classes_of_one_channel_in_a_compound():
    x, _ = random_batch(7, (4, 5), 1, torch.float64)
    y = (x > 0.5).double()
    expected = SoftDiceLoss(sigmoid=True, two_class=True)(x, y) + F.binary_cross_entropy_with_logits(x, y)
    torch.testing.assert_close(SoftDiceCELoss(sigmoid=True, two_class=True)(x, y), expected)


@pytest.mark.parametrize("ignore_index", [None, 255])
def test_the_hinge_goes_with_binary_cross_entropy(ignore_index):
    x, _ = random_batch(7, (4, 5), 3, torch.float64)
    y = (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.7).double()
    compound = SurrogateCELoss("lovasz_hinge", lambda_surrogate=0, ignore_index=ignore_index)
    torch.testing.assert_close(compound(x, y), F.binary_cross_entropy_with_logits(x, y))


# method


def lovasz(images, *names, **arguments):
    """The loss by each method, under a softmax unless told otherwise."""
    return [LovaszSoftmaxLoss(**{**SOFTMAX, **arguments}, method=name)(*images).item() for name in names]


def test_auto_sorts_small_images_and_bins_large_ones():
    small, large = (random_batch(7, shape, 3, torch.float64) for shape in ((64, 128), (64, 129)))
    sort, bins, auto = lovasz(small, "sort", "bins", "auto")
    assert auto == sort != bins
    sort, bins, auto = lovasz(large, "sort", "bins", "auto")
    assert auto == bins != sort
    assert 0 < sort - bins <= 1 / 4096
    sort, bins, auto = lovasz(small, "sort", "bins", "auto", batch=True)  # two items
    assert auto == bins != sort
    sort, auto = lovasz(large, "sort", "auto", softmax=False, other_act=lambda x: x.softmax(1))
    assert auto == sort
    sort, auto = lovasz(small, "sort", "auto", softmax=False, sigmoid=True)
    assert auto == sort


def test_small_images_are_sorted_and_bins_are_as_many_as_asked_for():
    x, y = random_batch(7, (9, 9), 3, torch.float64)
    exact, auto, few, many = (
        LovaszSoftmaxLoss(**SOFTMAX, **arguments)(x, y)
        for arguments in ({"method": "sort"}, {}, {"method": "bins", "bins": 4}, {"method": "bins"})
    )
    torch.testing.assert_close(auto, exact, rtol=0, atol=0)
    assert 1e-4 < exact - few <= 1 / 4
    assert 0 <= exact - many <= 1 / 4096
    for bins in (0, 1.5, "64"):
        with pytest.raises(ValueError, match="bins must be at least 1, a whole number"):
            LovaszSoftmaxLoss(bins=bins)


def test_hinge_has_no_use_for_bins():
    with pytest.warns(UserWarning, match="LovaszHingeLoss has no use for bins"):
        LovaszHingeLoss(bins=64)


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss])
def test_a_perfect_soft_prediction_stays_where_it_is(cls):
    x, _ = random_batch(15, (4, 5), 3, torch.float64)
    _, gradient = value_and_gradient(cls(sigmoid=True, soft_label=True), x, x.sigmoid())
    assert gradient.abs().max() < 1e-6  # the smoothing's share


# what is refused, and what an empty batch is


def test_arguments_that_contradict_each_other_are_refused():
    x, y = random_batch(7, (4, 5), 3, torch.float64)
    with pytest.raises(ValueError, match="two_class=True scores a single channel, but the input has 3"):
        SoftDiceLoss(**SOFTMAX, two_class=True)(x, y)
    with pytest.raises(ValueError, match="takes one weight"):
        SoftDiceCELoss(sigmoid=True, two_class=True, weight=[1.0, 2.0])
    with pytest.raises(ValueError, match='sync=True sums over all ranks, but reduction="none"'):
        PlainCELoss(**SOFTMAX, sync=True, reduction="none")
    with pytest.raises(ValueError, match=r"squared_pred=True needs alpha = beta, but they are 0\.3 and 0\.7"):
        SoftTverskyLoss(**SOFTMAX, squared_pred=True, alpha=0.3, beta=0.7)
    with pytest.raises(ValueError, match="different ids"):
        SoftDiceLoss(**SOFTMAX, classes=[1, 1])


def test_other_act_must_keep_the_shape():
    loss = SoftDiceLoss(to_onehot_y=True, other_act=lambda z: z.sum(1, keepdim=True))
    with pytest.raises(
        ValueError, match=r"the result of other_act must keep the shape \(2, 3, 4, 5\), but has \(2, 1, 4, 5\)"
    ):
        loss(*random_batch(7, (4, 5), 3, torch.float64))


def test_probabilities_may_be_rounded_but_not_wrong():
    _, y = random_batch(7, (4, 5), 3, torch.float64)
    p = one_hot(y, 3, dtype=torch.float64)
    SoftDiceLoss(to_onehot_y=True)(1.0005 * p, y)
    for wrong, found in ((1.01 * p, "1.01"), (p * torch.nan, "NaN")):
        with pytest.raises(ValueError, match=f"input without an activation .* holds {found}"):
            SoftDiceLoss(to_onehot_y=True)(wrong, y)


def test_the_number_of_items_is_named_apart_from_the_size():
    x, y = random_batch(7, (4, 5), 3, torch.float64)
    with pytest.raises(ValueError, match="the same number of items"):
        SoftDiceLoss(**SOFTMAX)(x, y[:1])
    with pytest.raises(ValueError, match="one output channel per class"):
        SoftDiceLoss(softmax=True)(x, one_hot(y, 4))


@pytest.mark.parametrize("argument", ["smooth_nr", "smooth_dr", "alpha", "beta"])
def test_nan_is_no_setting(argument):
    with pytest.raises(ValueError, match=r"must not be below 0, but are .*nan"):
        SoftTverskyLoss(**{argument: float("nan")})


def test_arrays_are_refused_with_the_cure():
    with pytest.raises(
        TypeError, match=r"target must be a torch\.Tensor, but is ndarray; convert it by torch\.as_tensor"
    ):
        SoftDiceLoss(**SOFTMAX)(torch.rand(1, 2, 4), np.zeros((1, 1, 4)))


@pytest.mark.parametrize("cls", [SoftDiceLoss, LovaszSoftmaxLoss, PlainCELoss, SoftDiceCELoss])
def test_a_batch_without_items_is_zero(cls):
    for shape in ((0, 3, 4, 5), (0, 3, 65, 65), (0, 2, 65, 65), (1, 3, 0)):
        x, y = torch.zeros(shape, requires_grad=True), torch.zeros(shape[0], 1, *shape[2:])
        for batch in ({}, {"batch": True}) if "batch" in accepted_arguments(cls) else ({},):
            loss = cls(**SOFTMAX, **batch)(x, y)
            loss.backward()
            assert loss.item() == 0
            assert not x.grad.any()


def test_a_label_in_a_single_channel_suggests_to_leave_it_out():
    with pytest.raises(ValueError, match=r"holds 255.*ignore_index"):
        SoftDiceLoss(sigmoid=True)(torch.zeros(1, 1, 4), torch.tensor([[[0.0, 1, 255, 0]]]))


def test_other_act_never_sees_what_the_network_says_of_ignored_voxels():
    x, y = random_batch(3, (4, 6), 3, torch.float64)
    y[..., 4:], x[..., 4:] = 9, torch.inf
    loss = SoftDiceLoss(to_onehot_y=True, other_act=lambda z: z.softmax(1), ignore_index=9)
    value, grad = value_and_gradient(loss, x, y)
    cropped, grad_cropped = value_and_gradient(SoftDiceLoss(**SOFTMAX), x[..., :4].contiguous(), y[..., :4])
    assert_equal_value_and_gradient((value, grad[..., :4]), (cropped, grad_cropped))
    assert not grad[..., 4:].any()


@pytest.mark.parametrize("soft_label", [False, True])
@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, LovaszSoftmaxLoss])
def test_at_a_perfect_prediction_both_forms_of_the_reference_have_the_same_gradient(cls, soft_label):
    _, y = random_batch(15, (4, 5), 3, torch.float64)
    masks = one_hot(y, 3, dtype=torch.float64)
    arguments = {} if cls is LovaszSoftmaxLoss else {"soft_label": soft_label}
    of_labels = value_and_gradient(cls(to_onehot_y=True, **arguments), masks, y)
    assert_equal_value_and_gradient(value_and_gradient(cls(**arguments), masks, masks), of_labels)


# counts in float32


@pytest.mark.parametrize("ignored", [None, 2])
def test_float32_counts_of_a_volume_are_those_of_float64(ignored):
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(1, 2, 96, 96, 96, generator=generator)
    y = torch.randint(0, 2 if ignored is None else 3, (1, 1, 96, 96, 96), generator=generator)
    loss = SoftDiceLoss(**SOFTMAX, ignore_index=ignored, reduction="none")
    difference = loss(x, y).double() - loss(x.double(), y)
    assert difference.abs().max() <= 1e-6  # what test_precision holds losses to


# check_labels


def test_check_labels_checks_at_every_call_on_any_device():
    on_a_gpu = SimpleNamespace(
        is_cuda=False, is_meta=False, device=torch.device("cuda"), shape=(2, 3, 4, 5)
    )  # as far as checks can see
    first_alone, always = SoftDiceLoss(**SOFTMAX), SoftDiceLoss(**SOFTMAX, check_labels=True)
    assert [first_alone._checks_now(on_a_gpu) for _ in range(3)] == [True, False, False]
    assert [always._checks_now(on_a_gpu) for _ in range(3)] == [True, True, True]
    x, y = random_batch(10, (4, 5), 3, torch.float64)
    assert [first_alone._checks_now(x) for _ in range(2)] == [True, True]  # on a CPU reading costs nothing
    # A tensor on the meta device has no values, so a check is where reading one fails.
    assert first_alone(x.to("meta"), y.to("meta")).shape == ()
    with pytest.raises(RuntimeError, match="meta"):
        always(x.to("meta"), y.to("meta"))


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss, LovaszSoftmaxLoss])
@pytest.mark.parametrize("classes", ["all", "present"])
def test_two_classes_of_a_channel_with_ignored_voxels_are_those_of_the_crop(cls, classes):
    p = torch.rand(2, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([[[1.0, 1, 1, 1, 9, 9, 9, 9]], [[0.0, 1, 0, 0, 9, 9, 9, 9]]], dtype=torch.float64)
    loss = cls(two_class=True, ignore_index=9, classes=classes, reduction="none")
    cropped = cls(two_class=True, classes=classes, reduction="none")(p[..., :4], y[..., :4])
    torch.testing.assert_close(loss(p, y), cropped)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int8, torch.int32, torch.bool])
@pytest.mark.parametrize("cls", [SoftDiceLoss, LovaszSoftmaxLoss, WeightedCELoss])
def test_integer_types_of_labels_neither_crash_nor_wrap_around(cls, dtype):
    x, y = random_batch(11, (4, 5), 3, torch.float64)
    y = y.clamp(max=1) if dtype == torch.bool else y
    expected = cls(**SOFTMAX)(x, y)
    for ignored in (-100, 255, 256):  # labels that do not occur
        torch.testing.assert_close(cls(**SOFTMAX, ignore_index=ignored)(x, y.to(dtype)), expected)
    if dtype == torch.uint8:
        wrapped = y.clone()
        wrapped[0, 0, 0, 0] = 156  # what -100 is in uint8
        with pytest.raises(ValueError, match="label 156"):
            cls(**SOFTMAX, ignore_index=-100)(x, wrapped.to(dtype))


def test_binary_cross_entropy_is_torch_s_at_large_logits():
    x = torch.linspace(-60, 60, 240, dtype=torch.float64).view(1, 2, 120).requires_grad_()
    y = (torch.arange(240) % 3 == 0).double().view(1, 2, 120)
    for ours, theirs in (
        (PlainCELoss(sigmoid=True)(x, y), F.binary_cross_entropy_with_logits(x, y)),
        (
            PlainCELoss(sigmoid=True, weight=3.0)(x, y),
            F.binary_cross_entropy_with_logits(x, y, pos_weight=torch.tensor(3.0, dtype=torch.float64)),
        ),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)


def test_lovasz_takes_the_distance_to_the_reference_for_any_activation():
    x, y = random_batch(12, (4, 5), 3, torch.float64)
    one_hot_y = one_hot(y, 3, dtype=torch.float64)
    labels, masks = (LovaszSoftmaxLoss(other_act=torch.tanh, to_onehot_y=form) for form in (True, False))
    torch.testing.assert_close(labels(x, y), masks(x, one_hot_y))


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, LovaszSoftmaxLoss, LovaszHingeLoss, PlainCELoss])
def test_background_of_overlapping_structures_is_not_ignored(cls):
    # MONAI removes every voxel that belongs to no structure here, and false alarms cost nothing; ours is as if cropped.
    x, _ = random_batch(13, (4, 6), 3, torch.float64)
    y = (torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(1)) > 0.7).double()
    assert (y.sum(1) == 0).any()
    y[..., 4:] = 255
    flags = {} if cls is LovaszHingeLoss else {"sigmoid": True}
    torch.testing.assert_close(cls(**flags, ignore_index=255)(x, y), cls(**flags)(x[..., :4], y[..., :4]))


# smoothing by structure volumes

BY_VOLUME = {"smoothing": "structure_volume"}


@of_overlap
@pytest.mark.parametrize("form", ["softmax", "sigmoid", "one-hot", "soft"])
def test_volumes_smooth_each_class_by_its_own(ours, theirs, own, form):
    x, y = random_batch(16, (4, 5), 3, torch.float64)
    volumes, doubled, alpha = [7.0, 2.0, 0.5], 1 if ours is SoftTverskyLoss else 2, own.get("alpha", 0.5)
    alpha = 1.0 if ours is SoftJaccardLoss else alpha
    flags = {"softmax": SOFTMAX, "sigmoid": SIGMOID, "one-hot": {"softmax": True}, "soft": {"softmax": True}}[form]
    target = {"one-hot": one_hot(y, 3, dtype=torch.float64), "soft": soft_batch((4, 5))[1]}.get(form, y)
    arguments = {**flags, **own, "soft_label": form == "soft"}
    mine = value_and_gradient(ours(**arguments, **BY_VOLUME, structure_volumes=volumes), x, target)
    values, gradients = zip(
        *(
            value_and_gradient(
                lambda x, y, c=c, e=doubled * alpha * v: theirs(
                    **arguments, reduction="none", smooth_nr=e, smooth_dr=e
                )(x, y)[:, c].mean(),
                x,
                target,
            )
            for c, v in enumerate(volumes)
        ),
        strict=True,
    )
    torch.testing.assert_close(mine[0], sum(values) / 3, rtol=1e-6, atol=1e-7)  # MONAI's one-hot form is float32
    torch.testing.assert_close(mine[1], sum(gradients) / 3, rtol=1e-5, atol=1e-7)  # likewise


@pytest.mark.parametrize("classes", [[2, 1], [1]], ids=str)
def test_volumes_are_those_of_the_original_ids(classes):
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    by_volume = {**SOFTMAX, **BY_VOLUME, "structure_volumes": [7.0, 2.0, 0.5]}
    table = SoftDiceLoss(**by_volume, reduction="none")(x, y)[:, :, 0, 0]
    torch.testing.assert_close(SoftDiceLoss(**by_volume, classes=classes)(x, y), table[:, classes].mean())
    foreground = SoftDiceLoss(**by_volume, include_background=False)
    torch.testing.assert_close(foreground(x, y), table[:, 1:].mean())


def test_a_background_without_a_channel_is_not_read():
    x, y = random_batch(8, (4, 5), 1, torch.float64)
    y = (x > 0).double()
    one, two = (SoftDiceLoss(sigmoid=True, **BY_VOLUME, structure_volumes=v)(x, y) for v in ([3.0], [99.0, 3.0]))
    assert one == two
    both = SoftDiceLoss(sigmoid=True, two_class=True, **BY_VOLUME, structure_volumes=[9.0, 3.0], reduction="none")(x, y)
    one = SoftDiceLoss(sigmoid=True, **BY_VOLUME, structure_volumes=[3.0], reduction="none")(x, y)
    torch.testing.assert_close(both[:, 1:], one)
    x, y = random_batch(8, (4, 5), 2, torch.float64)
    masks = (x > 0).double()
    two, three = (SoftDiceLoss(sigmoid=True, **BY_VOLUME, structure_volumes=v) for v in ([3.0, 4.0], [99.0, 3.0, 4.0]))
    assert two(x, masks) == three(x, masks)


def test_a_structure_that_never_occurs_teaches_nothing():
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    loss = SoftDiceLoss(to_onehot_y=True, **BY_VOLUME, structure_volumes=[7.0, 2.0, 0.0], reduction="none")
    p = x.softmax(1).requires_grad_()
    value = loss(p, y.clamp(max=1))[:, 2]
    assert value.flatten().tolist() == [1.0, 1.0]
    assert not torch.autograd.grad(value.sum(), p)[0].any()


@pytest.mark.parametrize("given", [[5.0], [5.0, 1.0], [9.0, 5.0, 1.0, 2.0]], ids=len)
@pytest.mark.parametrize("flags", [SOFTMAX, {"to_onehot_y": True}], ids=["softmax", "probabilities"])
def test_volumes_of_the_wrong_number_are_refused_before_any_arithmetic(flags, given, monkeypatch):
    monkeypatch.setattr(inputs, "flatten_voxels", None)
    loss = SoftDiceLoss(**flags, **BY_VOLUME, structure_volumes=given)
    expected = (
        rf"structure_volumes must have 3 values, one per class and the background first, but has {len(given)}; count"
    )
    with pytest.raises(ValueError, match=expected):
        loss(*random_batch(7, (4, 5), 3, torch.float64))
    for wrapped in (loss, DeepSupervisionLoss(loss)):
        with pytest.raises(ValueError, match=expected):
            check_channels(wrapped, 3)


@pytest.mark.parametrize(("channels", "allowed"), [(1, "1 or 2"), (2, "2 or 3")])
def test_volumes_of_structures_may_leave_the_background_out(channels, allowed):
    for given in ([9.0] * (channels + 2), [9.0] * (channels + 3)):
        loss = SoftDiceLoss(sigmoid=True, **BY_VOLUME, structure_volumes=given)
        match = (
            f"must have {allowed} values, one per channel, the background's in front or left out, but has {len(given)}"
        )
        with pytest.raises(ValueError, match=match):
            check_channels(loss, channels)
    for given in ([9.0] * channels, [9.0] * (channels + 1)):
        check_channels(SoftDiceLoss(sigmoid=True, **BY_VOLUME, structure_volumes=given), channels)


def test_two_classes_of_one_channel_have_two_volumes():
    for given in ([5.0], [9.0, 5.0, 1.0]):
        loss = SoftDiceLoss(sigmoid=True, two_class=True, **BY_VOLUME, structure_volumes=given)
        with pytest.raises(ValueError, match=f"structure_volumes must have 2 values, .* but has {len(given)};"):
            check_channels(loss, 1)


@pytest.mark.parametrize(
    ("volumes", "found"),
    [
        (5.0, r"is 5\.0"),
        ([1.0, -1.0], r"is \[1\.0, -1\.0\]"),
        ([1.0, float("nan")], "nan"),
        ([0, 0], r"is \[0\.0, 0\.0\]"),
        ([[1.0, 2.0]], r"is \[\[1\.0, 2\.0\]\]"),
        ("large", "is 'large'"),
        ([], r"is \[\]"),
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftTverskyLoss, SoftDiceCELoss])
def test_impossible_volumes_are_named_at_once(cls, volumes, found):
    with pytest.raises(ValueError, match=rf"structure_volumes must hold one volume per class.* {found}"):
        cls(**SOFTMAX, **BY_VOLUME, structure_volumes=volumes)


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss, SoftJaccardCELoss])
def test_smoothing_by_volume_needs_volumes_and_a_known_name(cls):
    with pytest.raises(
        ValueError, match=r"needs structure_volumes, .*; monai_surrogates\.data\.structure_volumes measures"
    ):
        cls(**SOFTMAX, **BY_VOLUME)
    with pytest.raises(
        ValueError, match="smoothing must be None or \"structure_volume\", but is 'volume'; for constants set smooth_nr"
    ):
        cls(**SOFTMAX, smoothing="volume", structure_volumes=[1, 1])


def test_the_constants_of_an_older_config_give_way_to_the_volumes_and_are_named():
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    by_volume = {**SOFTMAX, **BY_VOLUME, "structure_volumes": [7.0, 2.0, 0.5]}
    with pytest.warns(
        UserWarning, match="SoftDiceLoss has no use for jaccard, smooth_dr, smooth_nr: not used"
    ) as caught:
        loss = SoftDiceLoss(**by_volume, smooth_nr=0, smooth_dr=1e-5, jaccard=True)
    assert len(caught) == 1
    torch.testing.assert_close(loss(x, y), SoftDiceLoss(**by_volume)(x, y), rtol=0, atol=0)


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss, SoftDiceCELoss])
def test_volumes_without_the_smoothing_change_nothing(cls):
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    with_volumes, without = (cls(**SOFTMAX, structure_volumes=v)(x, y) for v in ([1.0, 2.0], None))
    assert torch.equal(with_volumes, without)


def test_volumes_reach_the_surrogate_of_a_compound():
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    by_volume = {**SOFTMAX, **BY_VOLUME, "structure_volumes": [7.0, 2.0, 0.5]}
    torch.testing.assert_close(
        SoftJaccardCELoss(**by_volume)(x, y), SoftJaccardLoss(**by_volume)(x, y) + PlainCELoss(**SOFTMAX)(x, y)
    )


def test_volumes_are_kept_as_a_copy_in_the_state_and_survive_the_meta_device():
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    volumes = torch.tensor([7.0, 2.0, 0.5])
    loss = SoftDiceLoss(**SOFTMAX, **BY_VOLUME, structure_volumes=volumes)
    expected = loss(x, y)
    volumes.zero_()
    assert loss(x.to("meta"), y.to("meta")).is_meta
    for twin in (loss, pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert twin.state_dict()["structure_volumes"].tolist() == [7.0, 2.0, 0.5]
        assert torch.equal(twin(x, y), expected)


# class weights from counts


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


def test_class_weighting_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="class_weighting='median_frequency' needs class_counts"):
        WeightedCELoss(class_weighting="median_frequency")
    for cls in (SoftDiceLoss, LovaszSoftmaxLoss, PlainCELoss, WeightedCELoss, SoftDiceCELoss):
        with pytest.raises(
            ValueError,
            match=r"class_weighting must be one of inverse_frequency, .* but is 'median'\. Did you mean 'median_f",
        ):
            cls(class_weighting="median", class_counts=[1, 2])


# check_channels


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (
            SoftDiceLoss(**SOFTMAX, weight=[1.0, 2.0]),
            "weight must have 3 .*; give as many as the network has channels, or one",
        ),
        (WeightedCELoss(**SOFTMAX, class_counts=[1, 2]), "class_counts must have 3 values"),
        (LovaszSoftmaxLoss(**SOFTMAX, classes=[3]), "classes must lie in 0 to 2, .*; drop those for which"),
        (SoftDiceCELoss(**SOFTMAX, weight=[1.0, 2.0]), "weight must have 3 values"),
    ],
    ids=["weight", "counts", "classes", "compound"],
)
def test_what_does_not_fit_the_network_is_found_without_a_batch(loss, match):
    with pytest.raises(ValueError, match=match):
        check_channels(loss, 3)


@pytest.mark.parametrize("loss", [DiceLoss(), F.cross_entropy, SoftDiceLoss(**SOFTMAX, weight=[1.0, 2.0, 3.0])])
def test_losses_that_fit_or_are_of_others_pass(loss):
    check_channels(loss, 3)
