"""Sums over voxels are exact on every processor, and no BLAS takes them."""

import numpy as np
import pytest
import torch

from monai_surrogates import losses
from monai_surrogates.core import sums
from monai_surrogates.core.sums import BLOCK, class_sum, voxel_sum
from monai_surrogates.metrics import PerImageScores
from tests.inside import InsideOperators

# torch adds up a block of 1024 float32 numbers in at least 32 partial sums (4 vectors of 8) of 32 numbers. The k-th addition
# rounds by at most 6e-8 of a sum that is k/32 of the last one: 6e-8·Σk/32 = 1e-6 at the very worst.
EXACT = 1e-6


@pytest.mark.parametrize("value", [0.1, 1 / 3, 4.5e-5, 0.7654321, 1 - 2**-24])
@pytest.mark.parametrize("voxels", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 128**3 + 17])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_many_equal_numbers_do_not_drift(layout, value, voxels):
    x = torch.full((2, voxels) if layout == "contiguous" else (voxels, 2), value)
    x = x if layout == "contiguous" else x.T
    expected = voxels * float(x.new_tensor(value))
    assert voxel_sum(x).tolist() == pytest.approx([expected] * 2, rel=EXACT)
    assert voxel_sum(x[:, None].expand(2, 3, voxels)).shape == (2, 3)


def test_half_precision_numbers_are_added_up_in_float32():
    assert voxel_sum(torch.full((4 * BLOCK,), 100.0, dtype=torch.float16)).item() == 400 * BLOCK


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_any_layout_gives_what_numpy_gives_in_float64(layout):
    x = torch.rand(2, 5, 3 * BLOCK + 70, generator=torch.Generator().manual_seed(0))
    if layout == "channels last":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    np.testing.assert_allclose(voxel_sum(x), x.numpy().astype(np.float64).sum(-1), rtol=EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_class_sums_are_those_of_numpy(dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(2, 5000, generator=generator)
    values, labels = (
        (values > 0.5 if dtype == torch.bool else values),
        torch.randint(0, 4, (2, 5000), generator=generator),
    )
    expected = [np.bincount(y, weights=v, minlength=5) for y, v in zip(labels.numpy(), values.numpy(), strict=True)]
    np.testing.assert_allclose(class_sum(values, labels, 5), expected, rtol=1e-12)  # float64 sums of the same numbers


def test_sums_are_differentiable(monkeypatch):
    monkeypatch.setattr(sums, "BLOCK", 4)
    x = torch.rand(2, 9, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, x.shape)
    for function in (voxel_sum, lambda x: class_sum(x, labels, 3)):
        assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
        (grad,) = torch.autograd.grad(function(x.float()).sum(), x)
        assert torch.equal(grad, torch.ones_like(x))


# what a BLAS does, and along which axis of which argument it adds up
BLAS = {"mm": 1, "addmm": -1, "mv": 1, "addmv": -1, "dot": 0, "vdot": 0, "bmm": 2, "baddbmm": -1, "linalg_vecdot": -1}


class LongestProduct(InsideOperators):
    """How many products any call of the BLAS adds up."""

    length = 0

    def see(self, function, args, made):
        name = function._opname.rstrip("_")
        if name in BLAS:
            matrix = args[1] if name.startswith(("add", "badd")) else args[0]
            self.length = max(self.length, matrix.shape[BLAS[name]])


LOSSES = {
    "SoftDice": losses.SoftDiceLoss(softmax=True, to_onehot_y=True),
    "SoftDice, sure": losses.SoftDiceLoss(softmax=True, to_onehot_y=True),
    "SoftJaccard, squared": losses.SoftJaccardLoss(softmax=True, to_onehot_y=True, squared_pred=True),
    "SoftDice, ignoring": losses.SoftDiceLoss(softmax=True, to_onehot_y=True, ignore_index=1),
    "SoftTversky, sigmoid": losses.SoftTverskyLoss(sigmoid=True, to_onehot_y=True),
    "LovaszSoftmax, bins": losses.LovaszSoftmaxLoss(softmax=True, to_onehot_y=True, method="bins"),
    "LovaszSoftmax, sort": losses.LovaszSoftmaxLoss(softmax=True, to_onehot_y=True, method="sort"),
    "LovaszSoftmax, sigmoid": losses.LovaszSoftmaxLoss(sigmoid=True, to_onehot_y=True, method="bins"),
    "LovaszHinge": losses.LovaszHingeLoss(to_onehot_y=True),
    "PlainCE": losses.PlainCELoss(softmax=True, to_onehot_y=True),
    "WeightedCE": losses.WeightedCELoss(softmax=True, to_onehot_y=True, class_counts=None, weight=2.0),
    "SoftDiceCE, masks": losses.SoftDiceCELoss(sigmoid=True, to_onehot_y=True),
}


@pytest.mark.parametrize("side", [12, 41], ids=["small image", "large image"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_no_blas_adds_up_more_than_a_block(name, classes, side):
    x = torch.randn(2, classes, side, side, side) * (20 if "sure" in name else 1)
    y = torch.randint(0, classes, (2, 1, side, side, side))
    loss = LOSSES[name]
    x.requires_grad_()
    with LongestProduct() as products:
        loss(x, y).backward()
    assert products.length <= BLOCK


def test_no_blas_counts():
    prediction = torch.randint(0, 3, (2, 1, 40, 40, 40))
    scores = PerImageScores(num_classes=3)
    with LongestProduct() as products:
        scores(prediction, prediction.roll(1))
    assert products.length <= BLOCK


def test_the_watch_sees_a_blas():
    with LongestProduct() as products:
        torch.dot(torch.rand(5000), torch.rand(5000))
        torch.rand(3, 4) @ torch.rand(4)
    assert products.length == 5000
