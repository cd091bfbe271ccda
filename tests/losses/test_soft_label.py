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
@pytest.mark.parametrize("soft_label", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_masks_that_splines_interpolate_are_scored_as_in_monai_with_one_warning(
    ours, theirs, own, soft_label, activation
):
    x, y = soft_batch((4, 5))
    y[0, 1, 0, :2] = torch.tensor([-0.07, 1.08])
    arguments = {activation: True, "soft_label": soft_label, **own}
    loss = ours(**arguments)
    with pytest.warns(UserWarning, match=r"target holds -0\.07, outside \[0, 1\], used as it is; .*`mode: nearest`"):
        loss(x, y)
    if not soft_label:  # ours is min(p, y), which MONAI's form is inside [0, 1]
        assert_same(loss, theirs(**arguments), x, y)
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\], but holds -0\.07"):
        ours(**arguments, check_labels=True)(x, y)
    y[0, 1, 0, 1] = 1.6
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\], but holds 1\.6"):
        loss(x, y)


@pytest.mark.parametrize("ignored", [-1, 255])
def test_soft_voxels_of_several_classes_are_of_some_class(ignored):
    x, _ = random_batch(0, (4, 5), 3, torch.float64)
    y = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    arguments = {"softmax": True, "soft_label": True}
    assert_same(SoftDiceLoss(**arguments, ignore_index=ignored), SoftDiceLoss(**arguments), x, y)


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
