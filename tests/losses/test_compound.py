"""The settings of a compound reach its parts."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_surrogates.losses import PlainCELoss, SoftDiceCELoss, SoftDiceLoss, SurrogateCELoss
from tests.losses.arguments import SOFTMAX
from tests.losses.test_against_monai import random_batch


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
