"""What is refused and when, and the loss of a batch without items."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.losses import DiceLoss
from monai.networks import one_hot

from monai_surrogates.core.inputs import flatten_voxels
from monai_surrogates.losses import (
    LovaszSoftmaxLoss,
    PlainCELoss,
    SoftDiceCELoss,
    SoftDiceLoss,
    SoftTverskyLoss,
    WeightedCELoss,
    check_channels,
)
from tests.losses.arguments import SOFTMAX
from tests.losses.test_against_monai import random_batch


def test_arguments_that_contradict_each_other_are_refused():
    x, y = random_batch(7, (4, 5), 3, torch.float64)
    with pytest.raises(ValueError, match="two_class=True scores a single channel, but the input has 3"):
        SoftDiceLoss(**SOFTMAX, two_class=True)(x, y)
    with pytest.raises(ValueError, match="takes one weight"):
        SoftDiceCELoss(sigmoid=True, two_class=True, weight=[1.0, 2.0])
    with pytest.raises(ValueError, match='sync=True sums over all ranks, but reduction="none"'):
        PlainCELoss(**SOFTMAX, sync=True, reduction="none")
    with pytest.raises(ValueError, match=r"alpha and beta must not be below 0, but are -1 and 0\.7"):
        SoftTverskyLoss(**SOFTMAX, alpha=-1, beta=0.7)
    with pytest.raises(ValueError, match="different ids"):
        SoftDiceLoss(**SOFTMAX, classes=[1, 1])


@pytest.mark.parametrize("argument", ["smooth_nr", "smooth_dr", "alpha", "beta"])
def test_nan_is_no_setting(argument):
    with pytest.raises(ValueError, match=r"must not be below 0, but are .*nan"):
        SoftTverskyLoss(**{argument: float("nan")})


def test_the_number_of_items_is_named_apart_from_the_size():
    x, y = random_batch(7, (4, 5), 3, torch.float64)
    with pytest.raises(ValueError, match="the same number of items"):
        SoftDiceLoss(**SOFTMAX)(x, y[:1])
    with pytest.raises(ValueError, match="one output channel per class"):
        SoftDiceLoss(softmax=True)(x, one_hot(y, 4))


def test_arrays_are_refused_with_the_cure():
    with pytest.raises(
        TypeError, match=r"target must be a torch\.Tensor, but is ndarray; convert it by torch\.as_tensor"
    ):
        SoftDiceLoss(**SOFTMAX)(torch.rand(1, 2, 4), np.zeros((1, 1, 4)))


def test_float_labels_become_the_nearest_whole_number_where_no_check_reads_them(monkeypatch):
    monkeypatch.setattr(SoftDiceLoss, "_checks_now", lambda *_: False)  # as at a later call on a GPU
    given = torch.tensor([[[0.9999, 1.0000100135803223, -0.0005, 0.75, 254.75, torch.nan]]])
    voxels = SoftDiceLoss(**SOFTMAX, ignore_index=255).check(torch.zeros(1, 2, 6), given)
    torch.testing.assert_close(
        voxels.target, torch.tensor([[1, 1, 0, 1, 0, torch.nan]]), rtol=0, atol=0, equal_nan=True
    )
    assert voxels.valid.tolist() == [[True, True, True, True, False, True]]
    assert given[0, 0, 0] == torch.tensor(0.9999)  # the user's own tensor stays


def test_the_masks_of_a_lovasz_loss_become_0_and_1_where_no_check_reads_them(monkeypatch):
    monkeypatch.setattr(LovaszSoftmaxLoss, "_checks_now", lambda *_: False)
    given = torch.tensor([[[0.9999, 0.0078, -0.25, 0.75, 0.5, 254.75]]])
    voxels = LovaszSoftmaxLoss(sigmoid=True, ignore_index=255).check(torch.zeros(1, 1, 6), given)
    assert voxels.target.tolist() == [[[1, 0, 0, 1, 0, 0]]]
    assert voxels.valid.tolist() == [[True, True, True, True, True, False]]


def test_integer_labels_are_not_copied():
    labels = torch.tensor([[[0, 1, 1]]])
    voxels = flatten_voxels(torch.zeros(1, 2, 3), labels, label_map=True, ignore_index=None)
    assert voxels.target.data_ptr() == labels.data_ptr()


@pytest.mark.parametrize("cls", [SoftDiceLoss, LovaszSoftmaxLoss, PlainCELoss, SoftDiceCELoss])
def test_a_batch_without_items_is_zero(cls):
    for shape in ((0, 3, 4, 5), (0, 3, 65, 65), (0, 2, 65, 65), (1, 3, 0)):
        x, y = torch.zeros(shape, requires_grad=True), torch.zeros(shape[0], 1, *shape[2:])
        for batch in ({}, cls.reads({"batch": True})):
            loss = cls(**SOFTMAX, **batch)(x, y)
            loss.backward()
            assert loss.item() == 0
            assert not x.grad.any()


def test_check_labels_checks_at_every_call_on_any_device():
    on_a_gpu = SimpleNamespace(
        is_cuda=False, is_meta=False, device=torch.device("cuda"), shape=(2, 3, 4, 5)
    )  # as far as checks can see
    first_alone, always = SoftDiceLoss(**SOFTMAX), SoftDiceLoss(**SOFTMAX, check_labels=True)
    assert [first_alone._checks_now(on_a_gpu) for _ in range(3)] == [True, False, False]
    assert [always._checks_now(on_a_gpu) for _ in range(3)] == [True, True, True]
    x, y = random_batch(10, (4, 5), 3, torch.float64)
    assert [first_alone._checks_now(x) for _ in range(2)] == [True, True]  # on a CPU reading costs nothing
    # A tensor on the meta device has no values, so a check is where reading one fails.
    assert first_alone(x.to("meta"), y.to("meta")).shape == ()
    with pytest.raises(RuntimeError, match="meta"):
        always(x.to("meta"), y.to("meta"))


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (
            SoftDiceLoss(**SOFTMAX, weight=[1.0, 2.0]),
            "weight must have 3 .*; give as many as the network has channels, or one",
        ),
        (WeightedCELoss(**SOFTMAX, class_counts=[1, 2]), "class_counts must have 3 values"),
        (LovaszSoftmaxLoss(**SOFTMAX, classes=[3]), "classes must lie in 0 to 2, .*; drop those for which"),
        (SoftDiceCELoss(**SOFTMAX, weight=[1.0, 2.0]), "weight must have 3 values"),
    ],
    ids=["weight", "counts", "classes", "compound"],
)
def test_arguments_that_do_not_fit_the_network_are_found_without_a_batch(loss, match):
    with pytest.raises(ValueError, match=match):
        check_channels(loss, 3)


@pytest.mark.parametrize("loss", [DiceLoss(), F.cross_entropy, SoftDiceLoss(**SOFTMAX, weight=[1.0, 2.0, 3.0])])
def test_losses_that_fit_or_are_of_others_pass(loss):
    check_channels(loss, 3)


@pytest.mark.parametrize("check_labels", [False, True])
def test_a_fraction_in_a_removed_voxel_is_cropped_away(check_labels):
    x, y = torch.zeros(1, 2, 4), torch.tensor([[[0.0, 1.0, 1.0, 254.6]]])
    settings = {"softmax": True, "to_onehot_y": True, "ignore_index": 255, "check_labels": check_labels}
    for cls in (SoftDiceLoss, LovaszSoftmaxLoss):  # warnings are errors
        torch.testing.assert_close(cls(**settings)(x, y), cls(**settings)(x[..., :3], y[..., :3]))
