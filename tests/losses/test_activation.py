"""``other_act`` gets the same input as in MONAI, and promised probabilities are checked."""

import pytest
import torch
from monai.losses import DiceCELoss
from monai.networks import one_hot

from monai_surrogates.losses import LovaszSoftmaxLoss, SoftDiceCELoss, SoftDiceLoss
from tests.losses.arguments import SOFTMAX, assert_equal_value_and_gradient, in_2d_and_3d, of_overlap
from tests.losses.test_against_monai import assert_same, random_batch, value_and_gradient

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
def test_other_act_gets_the_same_input_as_in_monai(ours, theirs, own, shape, act):
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


def test_lovasz_takes_the_distance_to_the_reference_for_any_activation():
    x, y = random_batch(12, (4, 5), 3, torch.float64)
    one_hot_y = one_hot(y, 3, dtype=torch.float64)
    labels, masks = (LovaszSoftmaxLoss(other_act=torch.tanh, to_onehot_y=form) for form in (True, False))
    torch.testing.assert_close(labels(x, y), masks(x, one_hot_y))


def test_other_act_never_gets_the_output_at_ignored_voxels():
    x, y = random_batch(3, (4, 6), 3, torch.float64)
    y[..., 4:], x[..., 4:] = 9, torch.inf
    loss = SoftDiceLoss(to_onehot_y=True, other_act=lambda z: z.softmax(1), ignore_index=9)
    value, grad = value_and_gradient(loss, x, y)
    cropped, grad_cropped = value_and_gradient(SoftDiceLoss(**SOFTMAX), x[..., :4].contiguous(), y[..., :4])
    assert_equal_value_and_gradient((value, grad[..., :4]), (cropped, grad_cropped))
    assert not grad[..., 4:].any()


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
