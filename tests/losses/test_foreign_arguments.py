"""One warning names every argument without a use, under the class and at the line of the user."""

import warnings

import numpy as np
import pytest
import torch

from monai_surrogates.losses import (
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    PlainCELoss,
    ScheduledLoss,
    SoftDiceCELoss,
    SoftDiceLoss,
    SurrogateCELoss,
    WeightedCELoss,
    loss_class,
    make_loss,
)
from monai_surrogates.losses.names import LOSSES
from tests.losses.arguments import SOFTMAX


@pytest.mark.parametrize("weight", [None, [1.0, 2.0]])
def test_one_warning_names_every_argument_without_a_use(weight):
    with pytest.warns(UserWarning, match="PlainCELoss has no use for") as caught:
        PlainCELoss(include_background=False, batch=True, jaccard=True, weight=weight)
    assert len(caught) == 1
    assert ("include_background" in str(caught[0].message)) == (weight is None)


def test_a_compound_warns_for_its_parts():
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


def test_hinge_has_no_use_for_bins():
    with pytest.warns(UserWarning, match="LovaszHingeLoss has no use for bins"):
        LovaszHingeLoss(bins=64)


# arguments of MONAI's blocks at their defaults, and harmless values
HARMLESS = {
    **{"jaccard": False, "squared_pred": False, "smooth_nr": 0, "smooth_dr": 1e-5, "batch": False, "soft_label": False},
    **{
        "alpha": 0.5,
        "beta": 0.5,
        "lambda_dice": 1.0,
        "lambda_ce": 0,
        "label_smoothing": 0.0,
        "include_background": True,
    },
    **{"classes": "all", "two_class": False, "per_image": False, "method": "auto", "bins": 4096, "ramp": 0},
    **{"smoothing": None, "switch_epoch": None, "other_act": None, "weight": None, "class_counts": [9, 1]},
}


@pytest.mark.parametrize("name", LOSSES)
def test_harmless_values_are_not_named(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for argument, value in HARMLESS.items():
            loss_class(name)(**{argument: value})
        ScheduledLoss({0: SoftDiceLoss()}, **HARMLESS)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lambda_ce", 0.5),
        ("lambda_ce", 1.0),  # MONAI's default, but a cross-entropy that is gone
        ("lambda_dice", 0),
        ("alpha", 0),
        ("jaccard", True),
        ("classes", "present"),
        ("classes", [1, 2]),
    ],
)
def test_values_that_ask_for_something_are_named(argument, value):
    cls = PlainCELoss if argument == "classes" else SoftDiceLoss
    with pytest.warns(UserWarning, match=f"{cls.__name__} has no use for {argument}: not used"):
        cls(**{argument: value})


@pytest.mark.parametrize("array", [torch.tensor([0, 1]), np.array([0, 1])], ids=["tensor", "array"])
def test_an_array_without_a_use_is_named_like_any_value(array):
    with pytest.warns(UserWarning, match="PlainCELoss has no use for classes: not used"):
        PlainCELoss(classes=array)


def test_the_outermost_loss_warns_for_all_that_it_builds():
    with pytest.warns(UserWarning, match="^SoftDiceCEToLovaszSoftmaxLoss has no use for alpha, jaccard: not") as caught:
        make_loss("soft_dice_ce_to_lovasz_softmax", **SOFTMAX, alpha=0.3, jaccard=True, lambda_ce=0.5, bins=64)
    assert len(caught) == 1
    assert caught[0].filename == __file__
