"""``smoothing`` by structure volumes: values against MONAI's with a constant per class, and bad volumes."""

import copy
import pickle

import pytest
import torch
from monai.losses import DeepSupervisionLoss
from monai.networks import one_hot

from monai_surrogates.core import inputs
from monai_surrogates.losses import (
    PlainCELoss,
    SoftDiceCELoss,
    SoftDiceLoss,
    SoftJaccardCELoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
    check_channels,
)
from tests.losses.arguments import SIGMOID, SOFTMAX, of_overlap, soft_batch
from tests.losses.test_against_monai import random_batch, value_and_gradient

BY_VOLUME = {"smoothing": "structure_volume"}


@of_overlap
@pytest.mark.parametrize("form", ["softmax", "sigmoid", "one-hot", "soft"])
def test_volumes_smooth_each_class_by_its_own(ours, theirs, own, form):
    x, y = random_batch(16, (4, 5), 3, torch.float64)
    volumes, doubled, alpha = [7.0, 2.0, 0.5], 1 if ours is SoftTverskyLoss else 2, own.get("alpha", 0.5)
    alpha = 1.0 if ours is SoftJaccardLoss else alpha
    flags = {"softmax": SOFTMAX, "sigmoid": SIGMOID, "one-hot": {"softmax": True}, "soft": {"softmax": True}}[form]
    target = {"one-hot": one_hot(y, 3, dtype=torch.float64), "soft": soft_batch((4, 5))[1]}.get(form, y)
    arguments = {**flags, **own, "soft_label": form == "soft"}
    mine = value_and_gradient(ours(**arguments, **BY_VOLUME, structure_volumes=volumes), x, target)
    values, gradients = zip(
        *(
            value_and_gradient(
                lambda x, y, c=c, e=doubled * alpha * v: theirs(
                    **arguments, reduction="none", smooth_nr=e, smooth_dr=e
                )(x, y)[:, c].mean(),
                x,
                target,
            )
            for c, v in enumerate(volumes)
        ),
        strict=True,
    )
    torch.testing.assert_close(mine[0], sum(values) / 3, rtol=1e-6, atol=1e-7)  # MONAI's one-hot form is float32
    torch.testing.assert_close(mine[1], sum(gradients) / 3, rtol=1e-5, atol=1e-7)  # likewise


@pytest.mark.parametrize("classes", [[2, 1], [1]], ids=str)
def test_volumes_are_those_of_the_original_ids(classes):
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    by_volume = {**SOFTMAX, **BY_VOLUME, "structure_volumes": [7.0, 2.0, 0.5]}
    table = SoftDiceLoss(**by_volume, reduction="none")(x, y)[:, :, 0, 0]
    torch.testing.assert_close(SoftDiceLoss(**by_volume, classes=classes)(x, y), table[:, classes].mean())
    foreground = SoftDiceLoss(**by_volume, include_background=False)
    torch.testing.assert_close(foreground(x, y), table[:, 1:].mean())


def test_a_background_without_a_channel_is_not_read():
    x, y = random_batch(8, (4, 5), 1, torch.float64)
    y = (x > 0).double()
    one, two = (SoftDiceLoss(sigmoid=True, **BY_VOLUME, structure_volumes=v)(x, y) for v in ([3.0], [99.0, 3.0]))
    assert one == two
    both = SoftDiceLoss(sigmoid=True, two_class=True, **BY_VOLUME, structure_volumes=[9.0, 3.0], reduction="none")(x, y)
    one = SoftDiceLoss(sigmoid=True, **BY_VOLUME, structure_volumes=[3.0], reduction="none")(x, y)
    torch.testing.assert_close(both[:, 1:], one)
    x, y = random_batch(8, (4, 5), 2, torch.float64)
    masks = (x > 0).double()
    two, three = (SoftDiceLoss(sigmoid=True, **BY_VOLUME, structure_volumes=v) for v in ([3.0, 4.0], [99.0, 3.0, 4.0]))
    assert two(x, masks) == three(x, masks)


def test_a_structure_that_never_occurs_has_no_gradient():
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    loss = SoftDiceLoss(to_onehot_y=True, **BY_VOLUME, structure_volumes=[7.0, 2.0, 0.0], reduction="none")
    p = x.softmax(1).requires_grad_()
    value = loss(p, y.clamp(max=1))[:, 2]
    assert value.flatten().tolist() == [1.0, 1.0]
    assert not torch.autograd.grad(value.sum(), p)[0].any()


@pytest.mark.parametrize("given", [[5.0], [5.0, 1.0], [9.0, 5.0, 1.0, 2.0]], ids=len)
@pytest.mark.parametrize("flags", [SOFTMAX, {"to_onehot_y": True}], ids=["softmax", "probabilities"])
def test_volumes_of_the_wrong_number_are_refused_before_any_arithmetic(flags, given, monkeypatch):
    monkeypatch.setattr(inputs, "flatten_voxels", None)
    loss = SoftDiceLoss(**flags, **BY_VOLUME, structure_volumes=given)
    expected = (
        rf"structure_volumes must have 3 values, one per class and the background first, but has {len(given)}; count"
    )
    with pytest.raises(ValueError, match=expected):
        loss(*random_batch(7, (4, 5), 3, torch.float64))
    for wrapped in (loss, DeepSupervisionLoss(loss)):
        with pytest.raises(ValueError, match=expected):
            check_channels(wrapped, 3)


@pytest.mark.parametrize(("channels", "allowed"), [(1, "1 or 2"), (2, "2 or 3")])
def test_volumes_of_structures_may_leave_the_background_out(channels, allowed):
    for given in ([9.0] * (channels + 2), [9.0] * (channels + 3)):
        loss = SoftDiceLoss(sigmoid=True, **BY_VOLUME, structure_volumes=given)
        match = (
            f"must have {allowed} values, one per channel, the background's in front or left out, but has {len(given)}"
        )
        with pytest.raises(ValueError, match=match):
            check_channels(loss, channels)
    for given in ([9.0] * channels, [9.0] * (channels + 1)):
        check_channels(SoftDiceLoss(sigmoid=True, **BY_VOLUME, structure_volumes=given), channels)


def test_two_classes_of_one_channel_have_two_volumes():
    for given in ([5.0], [9.0, 5.0, 1.0]):
        loss = SoftDiceLoss(sigmoid=True, two_class=True, **BY_VOLUME, structure_volumes=given)
        with pytest.raises(ValueError, match=f"structure_volumes must have 2 values, .* but has {len(given)};"):
            check_channels(loss, 1)


@pytest.mark.parametrize(
    ("volumes", "found"),
    [
        (5.0, r"is 5\.0"),
        ([1.0, -1.0], r"is \[1\.0, -1\.0\]"),
        ([1.0, float("nan")], "nan"),
        ([0, 0], r"is \[0\.0, 0\.0\]"),
        ([[1.0, 2.0]], r"is \[\[1\.0, 2\.0\]\]"),
        ("large", "is 'large'"),
        ([], r"is \[\]"),
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftTverskyLoss, SoftDiceCELoss])
def test_impossible_volumes_are_named_at_once(cls, volumes, found):
    with pytest.raises(ValueError, match=rf"structure_volumes must hold one volume per class.* {found}"):
        cls(**SOFTMAX, **BY_VOLUME, structure_volumes=volumes)


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss, SoftJaccardCELoss])
def test_smoothing_by_volume_needs_volumes_and_a_known_name(cls):
    with pytest.raises(
        ValueError, match=r"needs structure_volumes, .*; monai_surrogates\.data\.structure_volumes measures"
    ):
        cls(**SOFTMAX, **BY_VOLUME)
    with pytest.raises(
        ValueError, match="smoothing must be None or \"structure_volume\", but is 'volume'; for constants set smooth_nr"
    ):
        cls(**SOFTMAX, smoothing="volume", structure_volumes=[1, 1])


def test_the_constants_of_an_older_config_give_way_to_the_volumes_and_are_named():
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    by_volume = {**SOFTMAX, **BY_VOLUME, "structure_volumes": [7.0, 2.0, 0.5]}
    with pytest.warns(
        UserWarning, match="SoftDiceLoss has no use for jaccard, smooth_dr, smooth_nr: not used"
    ) as caught:
        loss = SoftDiceLoss(**by_volume, smooth_nr=1, smooth_dr=2, jaccard=True)
    assert len(caught) == 1
    torch.testing.assert_close(loss(x, y), SoftDiceLoss(**by_volume)(x, y), rtol=0, atol=0)


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss, SoftDiceCELoss])
def test_volumes_without_the_smoothing_change_nothing(cls):
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    with_volumes, without = (cls(**SOFTMAX, structure_volumes=v)(x, y) for v in ([1.0, 2.0], None))
    assert torch.equal(with_volumes, without)


def test_volumes_reach_the_surrogate_of_a_compound():
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    by_volume = {**SOFTMAX, **BY_VOLUME, "structure_volumes": [7.0, 2.0, 0.5]}
    torch.testing.assert_close(
        SoftJaccardCELoss(**by_volume)(x, y), SoftJaccardLoss(**by_volume)(x, y) + PlainCELoss(**SOFTMAX)(x, y)
    )


def test_volumes_are_kept_as_a_copy_in_the_state_and_survive_the_meta_device():
    x, y = random_batch(8, (4, 5), 3, torch.float64)
    volumes = torch.tensor([7.0, 2.0, 0.5])
    loss = SoftDiceLoss(**SOFTMAX, **BY_VOLUME, structure_volumes=volumes)
    expected = loss(x, y)
    volumes.zero_()
    assert loss(x.to("meta"), y.to("meta")).is_meta
    for twin in (loss, pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert twin.state_dict()["structure_volumes"].tolist() == [7.0, 2.0, 0.5]
        assert torch.equal(twin(x, y), expected)
