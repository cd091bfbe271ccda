"""Where MONAI and torch compute the same thing, value and gradient must be theirs."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from monai.losses import DiceCELoss, DiceLoss, TverskyLoss
from monai.networks import one_hot

from monai_surrogates.losses import (
    PlainCELoss,
    SoftDiceCELoss,
    SoftDiceLoss,
    SoftJaccardCELoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
    WeightedCELoss,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}

shapes = st.one_of(st.tuples(*[st.integers(1, 4)] * 2), st.tuples(*[st.integers(1, 3)] * 3))
flags = st.fixed_dictionaries(
    {
        "include_background": st.booleans(),
        "squared_pred": st.booleans(),
        "batch": st.booleans(),
        "reduction": st.sampled_from(["mean", "sum", "none"]),
        "smooth_nr": st.sampled_from([0.0, 1e-5, 1.0]),
        "smooth_dr": st.sampled_from([1e-5, 1.0]),
        "activation": st.sampled_from(["softmax", "sigmoid"]),
        "weighted": st.booleans(),
        "soft_label": st.booleans(),
    }
)


def random_batch(seed, shape, classes, dtype, items=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(items, classes, *shape, generator=generator, dtype=dtype)
    return x, torch.randint(0, classes, (items, 1, *shape), generator=generator)


def value_and_gradient(loss, x, y):
    x = x.clone().requires_grad_()
    value = loss(x, y)
    value.sum().backward()
    return value.detach(), x.grad


def assert_same(ours, theirs, x, y):
    for mine, reference in zip(value_and_gradient(ours, x, y), value_and_gradient(theirs, x, y), strict=True):
        assert mine.shape == reference.shape
        torch.testing.assert_close(mine, reference, rtol=TOLERANCE[x.dtype], atol=TOLERANCE[x.dtype])


@pytest.mark.parametrize("ours", [SoftDiceLoss, SoftJaccardLoss])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(deadline=None, max_examples=60)
@given(flags=flags, shape=shapes, classes=st.integers(2, 8), seed=st.integers(0, 999))
def test_overlap_losses_are_monai_s_dice_loss(ours, dtype, flags, shape, classes, seed):
    x, y = random_batch(seed, shape, classes, dtype)
    arguments = dict(flags)
    arguments[arguments.pop("activation")] = True
    if arguments.pop("weighted"):
        arguments["weight"] = [0.5 + c for c in range(classes - (not flags["include_background"]))]
    theirs = DiceLoss(jaccard=ours is SoftJaccardLoss, **arguments)
    # MONAI's own one-hot form is float32, and its squared norms of it are then off by 1e-8 in a float64 loss.
    assert_same(ours(to_onehot_y=True, **arguments), lambda x, y: theirs(x, one_hot(y, classes, dtype=dtype)), x, y)


@settings(deadline=None, max_examples=40)
@given(
    shape=shapes,
    classes=st.integers(1, 8),
    seed=st.integers(0, 999),
    weights=st.tuples(*[st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])] * 2).filter(any),
    reduction=st.sampled_from(["mean", "sum"]),
    batch=st.booleans(),
    background=st.booleans(),
    activation=st.sampled_from(["softmax", "sigmoid"]),
    soft_label=st.booleans(),
)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_soft_tversky_is_monai_s(
    dtype, shape, classes, seed, weights, reduction, batch, background, activation, soft_label
):
    x, y = random_batch(seed, shape, classes, dtype)
    if classes == 1:
        y, background, activation = (x > 0).to(dtype), True, "sigmoid"  # the flags that MONAI ignores warn
    arguments = {"alpha": weights[0], "beta": weights[1], "reduction": reduction, "batch": batch, activation: True}
    arguments |= {"include_background": background, "to_onehot_y": classes > 1, "soft_label": soft_label}
    assert_same(SoftTverskyLoss(**arguments), TverskyLoss(**arguments), x, y)


@settings(deadline=None, max_examples=60)
@given(
    shape=shapes,
    classes=st.integers(2, 8),
    seed=st.integers(0, 999),
    flags=st.fixed_dictionaries(
        {
            "include_background": st.booleans(),
            "squared_pred": st.booleans(),
            "batch": st.booleans(),
            "reduction": st.sampled_from(["mean", "sum"]),
            "lambda_dice": st.sampled_from([0.0, 0.5, 1.0]),
            "lambda_ce": st.sampled_from([0.0, 0.3, 1.0]),
            "label_smoothing": st.sampled_from([0.0, 0.1]),
        }
    ),
    weighted=st.booleans(),
)
@pytest.mark.parametrize("ours", [SoftDiceCELoss, SoftJaccardCELoss])
def test_surrogate_and_cross_entropy_are_monai_s_dice_ce(ours, shape, classes, seed, flags, weighted):
    x, y = random_batch(seed, shape, classes, torch.float32)
    arguments = {**flags, "softmax": True, "to_onehot_y": True}
    if weighted:
        arguments["weight"] = torch.arange(1.0, classes + 1)
    assert_same(ours(**arguments), DiceCELoss(jaccard=ours is SoftJaccardCELoss, **arguments), x, y)


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 999))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_single_channel_is_monai_s_dice_ce_with_bce(reduction, shape, seed):
    x, _ = random_batch(seed, shape, 1, torch.float64)
    y = (x + 0.3 > 0).double()
    assert_same(SoftDiceCELoss(sigmoid=True, reduction=reduction), DiceCELoss(sigmoid=True, reduction=reduction), x, y)


@settings(deadline=None, max_examples=40)
@given(shape=shapes, classes=st.integers(2, 8), seed=st.integers(0, 999), smoothing=st.sampled_from([0.0, 0.1]))
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weighted_cross_entropy_is_torch_s(reduction, shape, classes, seed, smoothing):
    x, y = random_batch(seed, shape, classes, torch.float64)
    weight = torch.arange(1.0, classes + 1, dtype=torch.float64)
    ours = WeightedCELoss(softmax=True, to_onehot_y=True, weight=weight, reduction=reduction, label_smoothing=smoothing)
    theirs = torch.nn.CrossEntropyLoss(weight=weight, reduction=reduction, label_smoothing=smoothing)
    assert_same(ours, lambda x, y: theirs(x, y[:, 0]), x, y)


@pytest.mark.parametrize("label_map", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_sigmoid_means_binary_cross_entropy_per_channel(label_map, reduction):
    x, y = random_batch(0, (3, 4), 5, torch.float64)
    one_hot = F.one_hot(y[:, 0], 5).movedim(-1, 1).double()
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    ours = PlainCELoss(sigmoid=True, to_onehot_y=label_map, weight=weight, reduction=reduction)

    def theirs(x, y):
        return F.binary_cross_entropy_with_logits(x, one_hot, pos_weight=weight.view(5, 1, 1), reduction=reduction)

    mine = value_and_gradient(ours, x, y if label_map else one_hot)
    for value, reference in zip(mine, value_and_gradient(theirs, x, y), strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-10, atol=1e-10)


def test_a_single_channel_is_binary_cross_entropy_and_counts_weigh_its_positives():
    x, _ = random_batch(3, (4, 4), 1, torch.float64)
    y = (x + 0.5 > 0).double()
    expected = F.binary_cross_entropy_with_logits(x, y, pos_weight=torch.tensor(9.0, dtype=torch.float64))
    torch.testing.assert_close(WeightedCELoss(sigmoid=True, class_counts=[900, 100])(x, y), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("label_map", [True, False])
def test_label_smoothing_of_binary_cross_entropy_halves_towards_one_half(label_map):
    x, y = random_batch(5, (3, 4), 4, torch.float64)
    one_hot_y = F.one_hot(y[:, 0], 4).movedim(-1, 1).double()
    expected = F.binary_cross_entropy_with_logits(x, 0.8 * one_hot_y + 0.1)
    loss = PlainCELoss(sigmoid=True, to_onehot_y=label_map, label_smoothing=0.2)
    torch.testing.assert_close(loss(x, y if label_map else one_hot_y), expected)


def test_per_image_normalises_each_item_by_its_own_weights():
    x, y = random_batch(6, (5,), 3, torch.float64)
    y[0] = 0
    weight = torch.tensor([0.1, 2.0, 3.0], dtype=torch.float64)
    items = [F.cross_entropy(x[i : i + 1], y[i : i + 1, 0], weight) for i in range(2)]
    flags = {"softmax": True, "to_onehot_y": True, "weight": weight, "per_image": True}
    torch.testing.assert_close(PlainCELoss(**flags)(x, y), sum(items) / 2)
    torch.testing.assert_close(PlainCELoss(**flags, reduction="sum")(x, y), sum(items))


def test_float64_weights_stay_float64():
    x, y = random_batch(7, (6,), 2, torch.float64)
    weight = torch.tensor([0.1, 0.7], dtype=torch.float64)
    torch.testing.assert_close(
        WeightedCELoss(softmax=True, to_onehot_y=True, weight=weight)(x, y),
        F.cross_entropy(x, y[:, 0], weight),
        rtol=1e-12,
        atol=1e-12,
    )
