"""Cross-entropy of the worst voxels, against a sorted list of the voxels' losses."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_surrogates.losses import PlainCELoss, TopKCELoss
from tests.losses.arguments import SIGMOID, SOFTMAX
from tests.losses.test_against_monai import random_batch

KS = pytest.mark.parametrize("k", [0.1, 10, 29, 50, 100])


def batch(classes=3):
    return random_batch(0, (4, 5), classes, torch.float64)  # 40 voxels


def mean_of_largest(losses, k):
    """The definition, by hand: n = ⌊k·N/100⌋, at least 1."""
    ordered = sorted(losses.flatten().tolist(), reverse=True)
    n = max(1, math.floor(k * len(ordered) / 100))
    return sum(ordered[:n]) / n


@KS
def test_the_mean_is_that_of_the_largest_losses(k):
    x, y = batch()
    assert TopKCELoss(**SOFTMAX, k=k)(x, y).item() == pytest.approx(
        mean_of_largest(F.cross_entropy(x, y[:, 0], reduction="none"), k), rel=1e-12
    )


@KS
def test_of_structures_each_channel_has_voxels_of_its_own(k):
    x, y = batch()
    masks = F.one_hot(y[:, 0], 3).movedim(-1, 1).double()
    losses = F.binary_cross_entropy_with_logits(x, masks, reduction="none")
    assert TopKCELoss(**SIGMOID, k=k)(x, y).item() == pytest.approx(mean_of_largest(losses, k), rel=1e-12)
    assert TopKCELoss(sigmoid=True, k=k)(x, masks).item() == pytest.approx(mean_of_largest(losses, k), rel=1e-12)


def test_weights_multiply_as_in_nnunet():
    x, y = batch()
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    losses = F.cross_entropy(x, y[:, 0], weight, reduction="none")
    assert TopKCELoss(**SOFTMAX, weight=weight)(x, y).item() == pytest.approx(mean_of_largest(losses, 10), rel=1e-12)


@KS
@pytest.mark.parametrize("flags", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_ignored_voxels_are_neither_counted_nor_chosen(k, flags):
    x, y = batch()
    y[0, ..., :3] = 255
    x[0, ..., :3] = torch.nan
    kept = y[:, 0] != 255
    cut = x.movedim(1, -1)[kept].T.unsqueeze(0), y[:, 0][kept].view(1, 1, -1)
    torch.testing.assert_close(TopKCELoss(**flags, k=k, ignore_index=255)(x, y), TopKCELoss(**flags, k=k)(*cut))


def test_per_image_takes_the_worst_voxels_of_each_item():
    x, y = batch()
    items = [TopKCELoss(**SOFTMAX)(x[i : i + 1], y[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(TopKCELoss(**SOFTMAX, per_image=True)(x, y), sum(items) / 2)


def test_all_voxels_are_plain_cross_entropy_and_easy_ones_have_no_gradient():
    x, y = batch()
    torch.testing.assert_close(TopKCELoss(**SOFTMAX, k=100)(x, y), PlainCELoss(**SOFTMAX)(x, y))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(TopKCELoss(**SOFTMAX)(x, y), x)
    assert (gradient.abs().sum(1) > 0).sum() == 4


@pytest.mark.parametrize("k", [0, -1, 101, float("nan")])
def test_a_share_beyond_its_range_is_refused(k):
    with pytest.raises(ValueError, match="k must be a share of the voxels in per cent"):
        TopKCELoss(k=k)


def test_there_is_no_unreduced_form():
    with pytest.raises(ValueError, match='reduction must be "mean" or "sum"'):
        TopKCELoss(reduction="none")


def test_sync_is_named():
    with pytest.warns(UserWarning, match="TopKCELoss has no use for sync: not used"):
        TopKCELoss(**SOFTMAX, sync=True)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)], ids=["no items", "no voxels"])
def test_nothing_has_the_loss_0(shape, per_image):
    x = torch.zeros(shape, requires_grad=True)
    loss = TopKCELoss(softmax=True, to_onehot_y=True, per_image=per_image)(x, torch.zeros(shape[0], 1, shape[2]))
    loss.backward()
    assert loss == 0
