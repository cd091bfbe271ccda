"""One warning names every argument without a use, under the class and at the line of the user."""

import pytest
import torch

from monai_surrogates.losses import (
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    PlainCELoss,
    SoftDiceCELoss,
    SoftDiceLoss,
    SurrogateCELoss,
    WeightedCELoss,
)
from tests.losses.arguments import SOFTMAX


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


def test_hinge_has_no_use_for_bins():
    with pytest.warns(UserWarning, match="LovaszHingeLoss has no use for bins"):
        LovaszHingeLoss(bins=64)
