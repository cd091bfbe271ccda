"""``classes``: the mean over all, the present or the listed ones, and ids of any sequence."""

import numpy as np
import pytest
import torch

from monai_surrogates.losses import LovaszSoftmaxLoss, SoftDiceLoss, SoftJaccardLoss
from tests.losses.arguments import SOFTMAX
from tests.losses.test_against_monai import random_batch


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, LovaszSoftmaxLoss])
def test_classes_choose_the_terms_of_the_mean(cls):
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([[[0, 0, 1, 1, 3, 0]], [[0, 0, 0, 0, 0, 0]]])
    flags = {"softmax": True, "to_onehot_y": True}
    table = cls(**flags, classes="all", reduction="none")(x, y)[..., 0]
    assert table.shape == (2, 4)
    torch.testing.assert_close(cls(**flags, classes="all")(x, y), table.mean())
    torch.testing.assert_close(cls(**flags, classes=[3, 1])(x, y), table[:, [3, 1]].mean())
    present = (table[0, [0, 1, 3]].mean() + table[1, 0]) / 2
    torch.testing.assert_close(cls(**flags, classes="present")(x, y), present)
    foreground = cls(**flags, classes="present", include_background=False)(x, y)
    torch.testing.assert_close(foreground, table[0, [1, 3]].mean() / 2)  # the empty item adds a 0
    none_kept = cls(**flags, classes="present", reduction="none")(x, y)[..., 0]
    torch.testing.assert_close(none_kept, table.where(torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0]]) > 0, 0))
    with pytest.raises(ValueError, match="classes holds 0, but include_background=False"):
        cls(classes=[0, 1], include_background=False)
    with pytest.raises(ValueError, match="classes must lie in 0 to 3"):
        cls(**flags, classes=[4])(x, y)


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
