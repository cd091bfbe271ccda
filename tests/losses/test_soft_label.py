"""``soft_label``: fractions of a target are scored as in MONAI, and a prediction equal to them is free."""

import pytest
import torch
from monai.networks import one_hot

from monai_surrogates.losses import LovaszSoftmaxLoss, SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss
from tests.losses.arguments import assert_equal_value_and_gradient, in_2d_and_3d, of_overlap, soft_batch
from tests.losses.test_against_monai import assert_same, random_batch, value_and_gradient


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


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss])
def test_a_perfect_soft_prediction_stays_where_it_is(cls):
    x, _ = random_batch(15, (4, 5), 3, torch.float64)
    _, gradient = value_and_gradient(cls(sigmoid=True, soft_label=True), x, x.sigmoid())
    assert gradient.abs().max() < 1e-6  # the smoothing's share


@pytest.mark.parametrize("soft_label", [False, True])
@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, LovaszSoftmaxLoss])
def test_at_a_perfect_prediction_both_forms_of_the_reference_have_the_same_gradient(cls, soft_label):
    _, y = random_batch(15, (4, 5), 3, torch.float64)
    masks = one_hot(y, 3, dtype=torch.float64)
    arguments = {} if cls is LovaszSoftmaxLoss else {"soft_label": soft_label}
    of_labels = value_and_gradient(cls(to_onehot_y=True, **arguments), masks, y)
    assert_equal_value_and_gradient(value_and_gradient(cls(**arguments), masks, masks), of_labels)
