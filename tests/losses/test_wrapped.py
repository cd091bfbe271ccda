"""MONAI's losses under this package's arguments have MONAI's values and gradients."""

import warnings
from itertools import permutations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.losses import DiceFocalLoss, FocalLoss, GeneralizedDiceLoss

from monai_surrogates.losses import (
    MonaiDiceFocalLoss,
    MonaiFocalLoss,
    MonaiGeneralizedDiceLoss,
    ScheduledLoss,
    loss_class,
    make_loss,
)
from tests.losses.arguments import SIGMOID, SOFTMAX
from tests.losses.test_against_monai import random_batch

NAMES = ("focal", "dice_focal", "generalized_dice")
SHAPES = pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 3, 4)], ids=str)
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
BACKGROUND = pytest.mark.parametrize("include_background", [True, False])
DTYPE = torch.float32  # in which MONAI's FocalLoss computes


def value_and_gradient(loss, x, y):
    x = x.clone().requires_grad_()
    value = loss(x, y)
    return value, torch.autograd.grad(value.sum(), x)[0]


def assert_same(ours, theirs, x, y):
    for mine, expected in zip(value_and_gradient(ours, x, y), value_and_gradient(theirs, x, y), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


@SHAPES
@REDUCTIONS
@BACKGROUND
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("own", [{}, {"gamma": 0.5, "alpha": 0.3}, {"weight": [1.0, 2.0]}], ids=str)
def test_focal_is_monai_s(shape, reduction, include_background, softmax, own):
    own = {**own, "reduction": reduction, "include_background": include_background}
    if own.get("weight") and include_background:
        own["weight"] = [3.0, 1.0, 2.0]
    if softmax and not include_background and "alpha" in own:
        own["alpha"] = [0.3, 0.6]
    ours = MonaiFocalLoss(to_onehot_y=True, softmax=softmax, sigmoid=not softmax, **own)
    theirs = FocalLoss(to_onehot_y=True, use_softmax=softmax, **own)
    assert_same(ours, theirs, *random_batch(0, shape, 3, DTYPE))


@SHAPES
@REDUCTIONS
@BACKGROUND
@pytest.mark.parametrize("flags", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"gamma": 1.0, "alpha": 0.3, "lambda_dice": 0.5, "lambda_focal": 2.0, "batch": True},
        {"jaccard": True, "squared_pred": True, "smooth_nr": 0, "smooth_dr": 1e-3, "weight": [1.0, 2.0]},
    ],
    ids=["defaults", "batch", "squared"],
)
def test_dice_focal_is_monai_s(shape, reduction, include_background, flags, own):
    own = {**own, "reduction": reduction, "include_background": include_background}
    if own.get("weight") and include_background:
        own["weight"] = [3.0, 1.0, 2.0]
    assert_same(MonaiDiceFocalLoss(**flags, **own), DiceFocalLoss(**flags, **own), *random_batch(0, shape, 3, DTYPE))


@SHAPES
@REDUCTIONS
@BACKGROUND
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("w_type", ["square", "simple", "uniform"])
def test_generalized_dice_is_monai_s(shape, reduction, include_background, batch, w_type):
    own = {"reduction": reduction, "include_background": include_background, "batch": batch, "w_type": w_type}
    ours, theirs = MonaiGeneralizedDiceLoss(**SOFTMAX, **own), GeneralizedDiceLoss(**SOFTMAX, **own)
    assert_same(ours, theirs, *random_batch(0, shape, 3, DTYPE))


@pytest.mark.parametrize(
    ("name", "theirs", "flags"),
    [
        ("focal", FocalLoss(), {}),
        ("dice_focal", DiceFocalLoss(sigmoid=True), {"sigmoid": True}),
        ("generalized_dice", GeneralizedDiceLoss(sigmoid=True), {"sigmoid": True}),
    ],
)
def test_a_single_channel_is_monai_s_and_warns_once_of_its_flags(name, theirs, flags):
    x, y = random_batch(0, (4, 5), 1, DTYPE)
    assert_same(make_loss(name, **flags), theirs, x, y)
    loss = make_loss(name, **flags, to_onehot_y=True, include_background=False)
    with pytest.warns(UserWarning, match="`to_onehot_y=True, include_background=False` ignored") as caught:
        value = loss(x, y)
        loss(x, y)
    assert len(caught) == 1
    torch.testing.assert_close(value, theirs(x, y))


@pytest.mark.parametrize("weight", [[9.0, 1.0, 2.0], [1.0, 2.0]], ids=str)
@pytest.mark.parametrize("name", ["focal", "dice_focal"])
def test_weights_of_both_lengths_without_the_background(name, weight):
    x, y = random_batch(0, (4, 5), 3, DTYPE)
    cls = {"focal": lambda **own: FocalLoss(to_onehot_y=True, use_softmax=True, **own)}.get(
        name, lambda **own: DiceFocalLoss(**SOFTMAX, **own)
    )
    ours = make_loss(name, **SOFTMAX, include_background=False, weight=weight)
    assert_same(ours, cls(include_background=False, weight=[1.0, 2.0]), x, y)


@pytest.mark.parametrize("weight", [None, [2.0], [1.0, 2.0]], ids=str)
def test_focal_of_two_classes_keeps_the_background_that_its_softmax_needs(weight):
    x, y = random_batch(0, (4, 5), 2, DTYPE)
    ours = MonaiFocalLoss(**SOFTMAX, include_background=False, weight=weight)
    theirs = FocalLoss(to_onehot_y=True, use_softmax=True, weight=None if weight is None else [1.0, 2.0])
    assert_same(ours, theirs, x, y)


@pytest.mark.parametrize("name", ["dice_focal", "generalized_dice"])
def test_ignore_index_is_refused_where_monai_has_none(name):
    with pytest.raises(ValueError, match=r"because MONAI's \w+Loss has none, but is 255; drop it, or take"):
        make_loss(name, **SOFTMAX, ignore_index=255)
    with pytest.raises(ValueError, match="ignore_index must be None"):
        ScheduledLoss({0: "soft_dice", 5: name}, **SOFTMAX, ignore_index=255)


def test_the_mean_of_a_focal_loss_is_over_valid_voxels():
    x, y = random_batch(0, (4, 6), 3, DTYPE)
    y[0, ..., :2] = 255  # another number of voxels in each item
    loss = MonaiFocalLoss(**SOFTMAX, ignore_index=255)
    cut = x.movedim(1, -1)[y[:, 0] != 255].T.unsqueeze(0), y[y != 255].view(1, 1, -1)
    torch.testing.assert_close(loss(x, y), FocalLoss(to_onehot_y=True, use_softmax=True)(*cut))


def test_block_arguments_without_a_use_are_named_once():
    block = {
        **SOFTMAX,
        "squared_pred": True,
        "lambda_ce": 0.5,
        "sync": True,
        "smoothing": None,
        "class_counts": [7, 2, 1],
    }
    with pytest.warns(UserWarning, match="MonaiFocalLoss has no use for lambda_ce, squared_pred, sync: not") as caught:
        make_loss("focal", **block)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="MonaiFocalLoss has no use for alpha: not used"):  # MONAI warns at each call
        make_loss("focal", **SOFTMAX, include_background=False, alpha=0.25)
    with pytest.warns(UserWarning, match="MonaiGeneralizedDiceLoss has no use for weight: not used"):
        make_loss("generalized_dice", **SOFTMAX, weight=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", ["dice_focal", "generalized_dice"])
def test_logits_without_an_activation_are_refused(name):
    with pytest.raises(ValueError, match="for logits set softmax=True"):
        make_loss(name, to_onehot_y=True)(torch.full((1, 2, 4), -3.0), torch.zeros(1, 1, 4))


@pytest.mark.parametrize(("first", "second"), [*permutations(["cross_entropy", *NAMES, "top_k_cross_entropy"], 2)])
def test_they_stand_in_schedules(first, second):
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    own = {name: loss_class(name).reads({"gamma": 1.0, "k": 20}) for name in (first, second)}
    loss = make_loss(f"{first}_to_{second}", **SOFTMAX, switch_epoch=1, **{**own[first], **own[second]})
    for epoch, name in enumerate((first, second)):
        loss.set_epoch(epoch)
        assert torch.equal(loss(x, y), make_loss(name, **SOFTMAX, **own[name])(x, y))


@pytest.mark.parametrize("name", [*NAMES, "top_k_cross_entropy"])
def test_a_config_builds_them_by_path(name):
    block = {"_target_": f"monai_surrogates.losses.{loss_class(name).__name__}", **SOFTMAX, "class_counts": [7, 2, 1]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(ConfigParser({"loss": block}).get_parsed_content("loss")) is loss_class(name)


def test_the_repr_shows_settings():
    assert repr(MonaiFocalLoss(softmax=True, gamma=3.0)) == "MonaiFocalLoss(softmax=True, gamma=3.0)"
