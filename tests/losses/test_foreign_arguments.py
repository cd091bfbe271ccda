"""One warning names every argument without a use, under the class and at the line of the user."""

import inspect
import warnings

import monai.losses
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_surrogates.losses import (
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    PlainCELoss,
    ScheduledLoss,
    SoftDiceCELoss,
    SoftDiceLoss,
    SoftJaccardCELoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
    SurrogateCELoss,
    WeightedCELoss,
    loss_class,
    make_loss,
)
from monai_surrogates.losses.names import LOSSES
from tests.losses.arguments import SOFTMAX
from tests.losses.test_against_monai import random_batch


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
        cls(jaccard=True, class_counts=[9, 1])
    assert {warning.filename for warning in caught} == {__file__}


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
    **{"gamma": 0, "w_type": "square", "lambda_focal": 1.0, "lambda_gdl": 1.0, "weighting_mode": "default", "k": 10},
}
FOR_LOGITS = {"sigmoid": True, "class_counts": [9, 1]}  # what every loss of one structure takes


@pytest.mark.parametrize("name", LOSSES)
def test_harmless_values_are_not_named(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for argument, value in HARMLESS.items():
            loss_class(name)(**{**FOR_LOGITS, argument: value})
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


# Other losses of MONAI: the target alone is exchanged

SEGMENTATION = (
    *("DiceLoss", "DiceCELoss", "TverskyLoss", "FocalLoss", "DiceFocalLoss", "GeneralizedDiceLoss"),
    *(
        "GeneralizedDiceFocalLoss",
        "GeneralizedWassersteinDiceLoss",
        "MaskedDiceLoss",
        "HausdorffDTLoss",
        "BoundaryLoss",
    ),
    *(
        "LogHausdorffDTLoss",
        "MCCLoss",
        "SoftclDiceLoss",
        "SoftDiceclDiceLoss",
        "NACLLoss",
        "AsymmetricUnifiedFocalLoss",
    ),
)
REQUIRED = {"dist_matrix": np.eye(3), "classes": 3, "dim": 2}


def block_of(theirs):
    """Every argument of a loss of MONAI at its default, as a config writes it."""
    parameters = inspect.signature(getattr(monai.losses, theirs)).parameters
    return {name: REQUIRED.get(name, getattr(p.default, "value", p.default)) for name, p in parameters.items()}


@pytest.mark.parametrize("theirs", SEGMENTATION)
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "lovasz_hinge"])
def test_every_argument_of_monai_s_segmentation_losses_is_known(name, theirs):
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    block = {**block_of(theirs), **SOFTMAX, "class_counts": [7, 2, 1]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert loss_class(name)(**block)(x, y).isfinite()
    assert len(caught) <= 1
    assert all("has no use for" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("theirs", SEGMENTATION[:7])
def test_defaults_of_monai_s_blocks_ask_for_nothing(theirs):
    block = {**block_of(theirs), **SOFTMAX}
    block.pop("lambda_ce", None)  # 1 asks for a cross-entropy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SoftJaccardLoss(**block)


def test_a_block_of_a_dice_focal_loss_names_what_is_gone_once():
    block = {**SOFTMAX, "gamma": 3.0, "lambda_focal": 0.5, "alpha": 0.25, "lambda_dice": 1.0, "w_type": "simple"}
    with pytest.warns(
        UserWarning, match="SoftJaccardLoss has no use for alpha, gamma, lambda_focal, w_type: not used"
    ) as caught:
        SoftJaccardLoss(**block)
    assert len(caught) == 1


@pytest.mark.parametrize(("flag", "same"), [(True, {"softmax": True}), (False, {"sigmoid": True})])
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "lovasz_hinge"])
def test_use_softmax_is_read_as_an_activation(name, flag, same):
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    rest = {"to_onehot_y": True, "class_counts": [7, 2, 1]}
    expected = make_loss(name, **rest, **same)(x, y)
    assert torch.equal(make_loss(name, **rest, use_softmax=flag)(x, y), expected)
    assert torch.equal(make_loss(name, **rest, **same, use_softmax=not flag)(x, y), expected)  # the activation wins
    schedule = ScheduledLoss({0: name}, **rest, use_softmax=flag)
    assert torch.equal(schedule(x, y), expected)


OVERRIDE = r"--loss#softmax True\), or sigmoid=True \(--loss#sigmoid True\)"


@pytest.mark.parametrize(
    "telling", [{"gamma": 2.0}, {"dist_matrix": np.eye(3)}, {"weighting_mode": "GDL"}, {"lambda_gdl": 1.0}]
)
@pytest.mark.parametrize(
    "build",
    [
        *(SoftDiceLoss, SoftTverskyLoss, LovaszSoftmaxLoss, SoftDiceCELoss, loss_class("cross_entropy_to_soft_dice")),
        lambda **block: ScheduledLoss({0: "soft_dice"}, **block),
    ],
)
def test_a_block_that_applies_its_own_activation_is_refused_with_the_override(build, telling):
    with pytest.raises(ValueError, match=OVERRIDE):
        build(to_onehot_y=True, **telling)


@pytest.mark.parametrize("cls", [PlainCELoss, LovaszHingeLoss])
def test_losses_on_logits_take_a_block_without_an_activation(cls):
    cls(gamma=2.0)


def test_probabilities_without_a_telling_argument_stay_legitimate():
    SoftDiceLoss(to_onehot_y=True)
    SoftDiceLoss(to_onehot_y=True, gamma=0.5, delta=0.7)  # AsymmetricUnifiedFocalLoss takes probabilities


def test_logits_without_an_activation_name_the_override_at_the_first_call():
    with pytest.raises(ValueError, match=r"for logits set softmax=True, in a bundle by --loss#softmax True"):
        SoftDiceLoss(to_onehot_y=True)(torch.full((1, 2, 4), -3.0), torch.zeros(1, 1, 4))


@pytest.mark.parametrize("cls", [SoftJaccardLoss, SoftJaccardCELoss, loss_class("cross_entropy_to_soft_jaccard")])
@pytest.mark.parametrize("jaccard", [True, False])
def test_jaccard_asks_soft_jaccard_for_what_it_is(cls, jaccard):
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    assert torch.equal(cls(**SOFTMAX, jaccard=jaccard)(x, y), cls(**SOFTMAX)(x, y))


def test_squared_pred_beside_two_weights_of_errors_is_named_and_not_used():
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    weights = {"alpha": 0.3, "beta": 0.7}
    with pytest.warns(UserWarning, match="SoftTverskyLoss has no use for jaccard, squared_pred: not used") as caught:
        loss = SoftTverskyLoss(**SOFTMAX, **weights, squared_pred=True, jaccard=True)
    assert len(caught) == 1
    assert torch.equal(loss(x, y), SoftTverskyLoss(**SOFTMAX, **weights)(x, y))
    with pytest.warns(UserWarning, match="SoftTverskyCELoss has no use for squared_pred: not used"):
        make_loss("soft_tversky_ce", **SOFTMAX, **weights, squared_pred=True)
    SoftTverskyLoss(**SOFTMAX, alpha=0.7, beta=0.7, squared_pred=True)


def test_a_focal_alpha_is_no_weight_of_errors():
    with pytest.warns(UserWarning, match="SoftTverskyLoss has no use for alpha: not used"):
        loss = SoftTverskyLoss(**SOFTMAX, gamma=2.0, alpha=[0.2, 0.3, 0.5])
    assert (loss.alpha, loss.beta) == (0.5, 0.5)


def test_weighted_cross_entropy_without_weights_says_so_once():
    x, y = random_batch(0, (4, 5), 3, torch.float64)
    with pytest.warns(
        UserWarning, match=r"neither weight nor class_counts, .* plain .*\$monai_surrogates\.data\.class_counts"
    ) as caught:
        loss = WeightedCELoss(**SOFTMAX)
        assert torch.equal(loss(x, y), PlainCELoss(**SOFTMAX)(x, y))
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("build", "meant"),
    [
        (lambda: ScheduledLoss(objective={0: "soft_dice"}), "objectives"),
        (lambda: ScheduledLoss({0: "soft_dice"}, rampp=3), "ramp"),
        (lambda: SurrogateCELoss(surogate="soft_dice"), "surrogate"),
        (lambda: loss_class("cross_entropy_to_soft_dice")(swich_epoch=3), "switch_epoch"),
    ],
)
def test_a_misspelt_argument_of_a_loss_alone_is_suggested(build, meant):
    with pytest.raises(TypeError, match=f"unexpected keyword argument .*; did you mean '{meant}'"):
        build()


# The line of a warning

BLOCK = {"_target_": "monai_surrogates.losses.SoftDiceLoss", **SOFTMAX, "jaccard": True}


def test_a_warning_of_a_config_points_at_the_caller_of_monai():
    with pytest.warns(UserWarning, match="no use for jaccard") as caught:
        ConfigParser({"loss": BLOCK}).get_parsed_content("loss")
    assert [warning.filename for warning in caught] == [__file__]


def test_a_warning_of_an_expression_points_at_the_caller_of_monai():
    block = "$monai_surrogates.losses.SoftDiceLoss(softmax=True, jaccard=True)"
    config = {"imports": ["$import monai_surrogates"], "loss": block}
    with pytest.warns(UserWarning, match="no use for jaccard") as caught:
        ConfigParser(config).get_parsed_content("loss")
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_under_torchrun_rank_0_alone_warns(rank, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SoftDiceLoss(jaccard=True)
    assert len(caught) == (rank == "0")
