"""Where MONAI and torch compute the same thing, value and gradient must be theirs."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from monai.losses import DiceLoss
from monai.networks import one_hot

from monai_surrogates.losses import PlainCELoss, SoftDiceLoss, SoftJaccardLoss, WeightedCELoss

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
