"""Where MONAI and torch compute the same thing, value and gradient must be theirs."""

import hypothesis.strategies as st
import numpy as np
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

# MONAI's own float32 sums and gradients are a few 1e-6 off; in float64 both are as good as exact
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "last axis first": lambda t: t.transpose(2, -1).contiguous().transpose(2, -1),
    "every second voxel": lambda t: torch.stack([t, 1 - t], -1).flatten(-2)[..., ::2],
}

in_both_precisions = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
smoothing = {"smooth_nr": st.sampled_from([0.0, 1e-5, 1.0]), "smooth_dr": st.sampled_from([1e-5, 1.0])}
overlap_flags = {
    "include_background": st.booleans(),
    "squared_pred": st.booleans(),
    "batch": st.booleans(),
    **smoothing,
}
any_reduction = st.sampled_from(["mean", "sum", "none"])
activations = st.sampled_from(["softmax", "sigmoid"])
lambdas = st.sampled_from([0.0, 0.3, 1.0])


def batches(at_least_classes=1):
    """Arguments of :func:`random_batch`."""
    return st.fixed_dictionaries(
        {
            "seed": st.integers(0, 999),
            "shape": st.one_of(st.tuples(*[st.integers(1, 4)] * 2), st.tuples(*[st.integers(1, 3)] * 3)),
            "classes": st.integers(at_least_classes, 8),
            "layout": st.sampled_from(list(LAYOUTS)),
        }
    )


def random_batch(seed, shape, classes, dtype, items=2, layout="contiguous"):
    """Logits and a label map; of a single channel a mask."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(items, classes, *shape, generator=generator, dtype=dtype)
    y = torch.randint(0, max(classes, 2), (items, 1, *shape), generator=generator)
    return LAYOUTS[layout](x), LAYOUTS[layout](y if classes > 1 else y.to(dtype))


def masks(x, y):
    """The target with one channel per class, in the input's type: MONAI's own is float32, and its squares are 1e-8 off."""
    return one_hot(y, x.shape[1], dtype=x.dtype) if x.shape[1] > 1 else y


def value_and_gradient(loss, x, y):
    x = x.detach().requires_grad_()  # a clone would be contiguous
    value = loss(x, y)
    (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


def assert_same(ours, theirs, x, y):
    for mine, reference in zip(value_and_gradient(ours, x, y), value_and_gradient(theirs, x, y), strict=True):
        assert mine.shape == reference.shape
        torch.testing.assert_close(mine, reference, rtol=TOLERANCE[x.dtype], atol=TOLERANCE[x.dtype])


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "contiguous"])
def test_layouts_change_the_strides_alone(layout):
    (x, y), (expected_x, expected_y) = (
        random_batch(0, (3, 4), 3, torch.float64, layout=name) for name in (layout, "contiguous")
    )
    assert not x.is_contiguous()
    assert torch.equal(x, expected_x)
    assert torch.equal(y, expected_y)


@pytest.mark.parametrize("ours", [SoftDiceLoss, SoftJaccardLoss])
@in_both_precisions
@settings(deadline=None, max_examples=80)
@given(
    flags=st.fixed_dictionaries({**overlap_flags, "reduction": any_reduction, "soft_label": st.booleans()}),
    drawn=batches(),
    activation=activations,
    weighted=st.booleans(),
)
def test_overlap_losses_are_monai_s_dice_loss(ours, dtype, flags, drawn, activation, weighted):
    x, y = random_batch(**drawn, dtype=dtype)
    several = x.shape[1] > 1
    arguments = {**flags, activation: True} if several else {**flags, "include_background": True, "sigmoid": True}
    if weighted:
        arguments["weight"] = [0.5 + c for c in range(x.shape[1] - (not arguments["include_background"]))]
    theirs = DiceLoss(jaccard=ours is SoftJaccardLoss, **arguments)
    assert_same(ours(to_onehot_y=several, **arguments), lambda x, y: theirs(x, masks(x, y)), x, y)


@in_both_precisions
@settings(deadline=None, max_examples=60)
@given(
    drawn=batches(),
    alpha_beta=st.tuples(*[st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])] * 2).filter(any),
    flags=st.fixed_dictionaries(
        {
            **smoothing,
            "batch": st.booleans(),
            "include_background": st.booleans(),
            "soft_label": st.booleans(),
            "reduction": any_reduction,
        }
    ),
    activation=activations,
)
def test_soft_tversky_is_monai_s(dtype, drawn, alpha_beta, flags, activation):
    x, y = random_batch(**drawn, dtype=dtype)
    arguments = {**flags, "alpha": alpha_beta[0], "beta": alpha_beta[1], "to_onehot_y": True, activation: True}
    if x.shape[1] == 1:  # the flags that MONAI ignores warn
        arguments |= {"include_background": True, "to_onehot_y": False, "sigmoid": True, "softmax": False}
    monai_loss = TverskyLoss(**arguments)

    def theirs(x, y):  # unreduced it has no spatial axes, as MONAI's DiceLoss has
        value = monai_loss(x, y)
        return value[(..., *[None] * (x.ndim - 2))] if flags["reduction"] == "none" else value

    assert_same(SoftTverskyLoss(**arguments), theirs, x, y)


compound_flags = {**overlap_flags, "reduction": st.sampled_from(["mean", "sum"]), "lambda_ce": lambdas}
named_lambda = st.sampled_from(["lambda_dice", "lambda_surrogate"])
with_surrogate = pytest.mark.parametrize("ours", [SoftDiceCELoss, SoftJaccardCELoss])


@with_surrogate
@in_both_precisions
@settings(deadline=None, max_examples=60)
@given(
    drawn=batches(at_least_classes=2),
    flags=st.fixed_dictionaries({**compound_flags, "label_smoothing": st.sampled_from([0.0, 0.1])}),
    name=named_lambda,
    value=lambdas,
    weighted=st.booleans(),
)
def test_surrogate_and_cross_entropy_are_monai_s_dice_ce(ours, dtype, drawn, flags, name, value, weighted):
    x, y = random_batch(**drawn, dtype=dtype)
    weight = torch.arange(1, x.shape[1] + 1, dtype=dtype) if weighted else None
    arguments = {**flags, "softmax": True, "weight": weight}
    monai_loss = DiceCELoss(jaccard=ours is SoftJaccardCELoss, lambda_dice=value, **arguments)

    def theirs(x, y):  # part by part, for a Dice of masks in the input's type and a cross-entropy of labels
        return value * monai_loss.dice(x, masks(x, y)) + flags["lambda_ce"] * monai_loss.ce(x, y)

    if dtype == torch.float32:
        theirs = DiceCELoss(jaccard=ours is SoftJaccardCELoss, lambda_dice=value, to_onehot_y=True, **arguments)
    assert_same(ours(to_onehot_y=True, **{name: value}, **arguments), theirs, x, y)


@with_surrogate
@in_both_precisions
@settings(deadline=None, max_examples=40)
@given(drawn=batches(at_least_classes=2), reduction=st.sampled_from(["mean", "sum"]))
def test_weights_of_the_foreground_are_monai_s_of_dice_and_leave_the_background_of_cross_entropy_at_one(
    ours, dtype, drawn, reduction
):
    x, y = random_batch(**drawn, dtype=dtype)
    weight = torch.arange(2, x.shape[1] + 1, dtype=dtype)  # DiceCELoss refuses C − 1 values, DiceLoss does not
    arguments = {"softmax": True, "include_background": False, "weight": weight, "reduction": reduction}
    dice = DiceLoss(jaccard=ours is SoftJaccardCELoss, **arguments)

    def theirs(x, y):
        ce = F.cross_entropy(x, y[:, 0], torch.cat([weight.new_ones(1), weight]), reduction=reduction)
        return dice(x, masks(x, y)) + ce

    assert_same(ours(to_onehot_y=True, **arguments), theirs, x, y)


@with_surrogate
@in_both_precisions
@settings(deadline=None, max_examples=40)
@given(
    drawn=batches(),
    flags=st.fixed_dictionaries({name: values for name, values in compound_flags.items() if "background" not in name}),
    weighted=st.booleans(),
)
def test_a_single_channel_is_monai_s_dice_ce_with_bce(ours, dtype, drawn, flags, weighted):
    x, y = random_batch(**{**drawn, "classes": 1}, dtype=dtype)
    arguments = {**flags, "sigmoid": True, "weight": torch.tensor([3.0], dtype=dtype) if weighted else None}
    assert_same(ours(**arguments), DiceCELoss(jaccard=ours is SoftJaccardCELoss, **arguments), x, y)


@in_both_precisions
@settings(deadline=None, max_examples=60)
@given(
    drawn=batches(at_least_classes=2),
    reduction=any_reduction,
    label_smoothing=st.sampled_from([0.0, 0.1]),
    weighted=st.booleans(),
    label_map=st.booleans(),
)
def test_weighted_cross_entropy_is_torch_s(dtype, drawn, reduction, label_smoothing, weighted, label_map):
    x, y = random_batch(**drawn, dtype=dtype)
    weight = torch.arange(1, x.shape[1] + 1, dtype=dtype) if weighted else None
    arguments = {"weight": weight, "reduction": reduction, "label_smoothing": label_smoothing}
    cls = WeightedCELoss if weighted else PlainCELoss
    ours = cls(softmax=True, to_onehot_y=label_map, **arguments)
    torch_loss = torch.nn.CrossEntropyLoss(**arguments)
    if label_map:
        assert_same(ours, lambda x, y: torch_loss(x, y[:, 0]), x, y)
    else:
        assert_same(ours, torch_loss, x, masks(x, y))


COUNTS = [[90, 10], [5, 2, 1, 7, 3], [700, 0, 200, 100], [10**9, 10**6, 10**3], [12, 12, 12]]
WEIGHTINGS = {
    "inverse_frequency": lambda n: n.sum() / (len(n) * n),
    "median_frequency": lambda n: np.median(n) / n,
    "effective_number": lambda n: (1 / (1 - 0.9999**n)) / (1 / (1 - 0.9999**n)).mean(),
}


@in_both_precisions
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@settings(deadline=None, max_examples=40)
@given(drawn=batches(), counts=st.sampled_from(COUNTS), reduction=any_reduction)
def test_weights_by_name_are_those_of_their_formula_in_torch_s_cross_entropy(
    dtype, weighting, drawn, counts, reduction
):
    x, y = random_batch(**{**drawn, "classes": len(counts)}, dtype=dtype)
    n = np.array(counts, dtype=float)
    weight = np.zeros_like(n)
    weight[n > 0] = WEIGHTINGS[weighting](
        n[n > 0]
    )  # a class that never occurs has no weight and no part in the others'
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weight, dtype=dtype), reduction=reduction)
    ours = WeightedCELoss(softmax=True, to_onehot_y=True, weight=weighting, class_counts=counts, reduction=reduction)
    expected = value_and_gradient(lambda x, y: theirs(x, y[:, 0]), x, y)
    for mine, reference in zip(value_and_gradient(ours, x, y), expected, strict=True):
        # a batch of classes without weight is 0 here and NaN in torch
        torch.testing.assert_close(mine, reference.nan_to_num(0), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@in_both_precisions
@settings(deadline=None, max_examples=80)
@given(
    drawn=batches(),
    reduction=any_reduction,
    weighted=st.booleans(),
    form=st.sampled_from(["label map", "masks", "fractions"]),
)
def test_sigmoid_means_binary_cross_entropy_per_channel(dtype, drawn, reduction, weighted, form):
    x, y = random_batch(**drawn, dtype=dtype)
    weight = torch.arange(1, x.shape[1] + 1, dtype=dtype) if weighted else None
    label_map = form == "label map" and x.shape[1] > 1
    fractions = random_batch(**{**drawn, "seed": 1000}, dtype=dtype)[0].sigmoid()
    expected_y = {"label map": masks(x, y), "masks": (fractions > 0.5).to(dtype), "fractions": fractions}[form]
    pos_weight = None if weight is None else weight.view(-1, *[1] * (x.ndim - 2))

    def theirs(x, _):
        return F.binary_cross_entropy_with_logits(x, expected_y, pos_weight=pos_weight, reduction=reduction)

    ours = PlainCELoss(sigmoid=True, to_onehot_y=label_map, weight=weight, reduction=reduction)
    assert_same(ours, theirs, x, y if label_map else expected_y)


def test_a_single_channel_is_binary_cross_entropy_and_counts_weigh_its_positives():
    x, _ = random_batch(3, (4, 4), 1, torch.float64)
    y = (x + 0.5 > 0).double()
    expected = F.binary_cross_entropy_with_logits(x, y, pos_weight=torch.tensor(9.0, dtype=torch.float64))
    torch.testing.assert_close(
        WeightedCELoss(sigmoid=True, class_counts=[900, 100])(x, y), expected, rtol=1e-6, atol=0
    )  # torch's softplus is cut off


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
