"""Laws that every loss keeps, over the list of all of them."""

import copy
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.losses import DeepSupervisionLoss, MaskedLoss

from monai_surrogates import losses
from monai_surrogates.losses.overlap import OverlapLoss

CLASSES = 3
COUNTS = [700, 200, 100]
SOFTMAX = {"softmax": True, "to_onehot_y": True}
SIGMOID = {"sigmoid": True, "to_onehot_y": True}

# id -> class and the arguments that make it a loss of logits against a label map
LOSSES = {
    "PlainCE": (losses.PlainCELoss, SOFTMAX),
    "PlainCE, binary": (losses.PlainCELoss, SIGMOID),
    "WeightedCE": (losses.WeightedCELoss, {**SOFTMAX, "class_counts": COUNTS}),
    "WeightedCE, per image": (losses.WeightedCELoss, {**SOFTMAX, "class_counts": COUNTS, "per_image": True}),
    "SoftDice": (losses.SoftDiceLoss, SOFTMAX),
    "SoftDice, squared": (losses.SoftDiceLoss, {**SOFTMAX, "squared_pred": True}),
    "SoftDice, batch": (losses.SoftDiceLoss, {**SOFTMAX, "batch": True}),
    "SoftJaccard": (losses.SoftJaccardLoss, SOFTMAX),
    "SoftJaccard, sigmoid": (losses.SoftJaccardLoss, SIGMOID),
    "SoftTversky": (losses.SoftTverskyLoss, {**SOFTMAX, "alpha": 0.3, "beta": 0.7}),
    "LovaszSoftmax": (losses.LovaszSoftmaxLoss, SOFTMAX),
    "LovaszSoftmax, batch": (losses.LovaszSoftmaxLoss, {**SOFTMAX, "batch": True}),
    "LovaszSoftmax, sigmoid": (losses.LovaszSoftmaxLoss, SIGMOID),
    "LovaszSoftmax, bins": (losses.LovaszSoftmaxLoss, {**SOFTMAX, "method": "bins"}),
    "LovaszHinge": (losses.LovaszHingeLoss, {"to_onehot_y": True}),
    "SoftDiceCE": (losses.SoftDiceCELoss, SOFTMAX),
    "SoftJaccardCE": (losses.SoftJaccardCELoss, SOFTMAX),
    "LovaszSoftmaxCE": (losses.LovaszSoftmaxCELoss, {**SOFTMAX, "lambda_ce": 0.5}),
}
SMOOTHED = [name for name, (cls, _) in LOSSES.items() if issubclass(cls, OverlapLoss)]
SCORES = [name for name in LOSSES if "CE" not in name and "Hinge" not in name]

every_loss = pytest.mark.parametrize("name", LOSSES)


def make(name, **arguments):
    cls, own = LOSSES[name]
    return cls(**{**own, **arguments})


def random_batch(seed=0, shape=(4, 5), items=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(items, CLASSES, *shape, generator=generator, dtype=dtype)
    y = torch.randint(0, CLASSES, (items, 1, *shape), generator=generator)
    y.flatten(2)[..., :CLASSES] = torch.arange(CLASSES)  # every class occurs in every item
    return x, y


def gradient(loss, x, y):
    x = x.detach().clone().requires_grad_()
    value = loss(x, y)
    (grad,) = torch.autograd.grad(value.sum(), x)
    return value, grad


@every_loss
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 9999), shape=st.sampled_from([(1, 3), (4, 5), (2, 3, 4)]))
def test_a_loss_is_never_negative_and_a_score_s_loss_never_above_one(name, seed, shape):
    value = make(name)(*random_batch(seed, shape))
    assert value >= 0
    if name in SCORES:
        assert value <= 1


@every_loss
def test_zero_at_a_perfect_prediction(name):
    _, y = random_batch()
    perfect = 1e4 * (2 * torch.nn.functional.one_hot(y[:, 0], CLASSES).movedim(-1, 1).double() - 1)
    value, grad = gradient(make(name), perfect, y)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert grad.abs().max() < 1e-6


@every_loss
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_finite_gradients_at_extreme_logits(name, scale):
    x, y = random_batch(dtype=torch.float32)
    value, grad = gradient(make(name), scale * x.sign(), y)
    assert value.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", [n for n in LOSSES if "bins" not in n])  # of the exact methods
def test_gradcheck_in_float64(name):
    x, y = random_batch(shape=(3, 3))
    assert torch.autograd.gradcheck(lambda x: make(name)(x, y), x.requires_grad_())


@every_loss
@pytest.mark.parametrize("permutation", [[1, 2, 0], [2, 1, 0]])
def test_renaming_the_classes_changes_nothing(name, permutation):
    x, y = random_batch()
    renamed = torch.tensor(permutation).argsort()[y]
    permuted = make(name, class_counts=[COUNTS[c] for c in permutation])(x[:, permutation], renamed)
    torch.testing.assert_close(permuted, make(name)(x, y))


@every_loss
def test_the_order_of_items_changes_nothing(name):
    x, y = random_batch(items=3)
    loss = make(name)
    torch.testing.assert_close(loss(x.flip(0), y.flip(0)), loss(x, y))


@every_loss
@pytest.mark.parametrize("ignored", [-1, 255, 2])
def test_ignored_voxels_are_as_if_cropped_away(name, ignored):
    x, y = random_batch(shape=(4, 6))
    if ignored < CLASSES:
        y[y == ignored] = 0  # the label is used for the voxels to remove alone
    y[..., 4:] = ignored
    x[..., 4:] = torch.nan  # whatever the network says there
    loss = make(name, ignore_index=ignored)
    value, grad = gradient(loss, x, y)
    cropped, grad_cropped = gradient(make(name), x[..., :4], y[..., :4])
    torch.testing.assert_close(value, cropped)
    torch.testing.assert_close(grad[..., :4], grad_cropped)
    assert not grad[..., 4:].any()


SMOOTHING = [{}, {"smooth_nr": 0, "smooth_dr": 0}, {"smooth_nr": 0, "smooth_dr": 1}]


@pytest.mark.parametrize(("name", "smooth"), [(n, s) for n in LOSSES for s in (SMOOTHING if n in SMOOTHED else [{}])])
def test_all_voxels_ignored_is_zero_with_a_zero_gradient(name, smooth):
    x, y = random_batch()
    value, grad = gradient(make(name, ignore_index=9, **smooth), x, torch.full_like(y, 9))
    assert value.item() == 0
    assert not grad.any()


@every_loss
def test_a_label_map_and_its_one_hot_form_agree(name):
    x, y = random_batch()
    one_hot = torch.nn.functional.one_hot(y[:, 0], CLASSES).movedim(-1, 1).double()
    # torch normalises cross-entropy by the voxels' weights for labels, and by their number for class probabilities
    same = {"class_counts": None}
    from_labels, from_masks = (
        gradient(make(name, to_onehot_y=form, **same), x, target) for form, target in ((True, y), (False, one_hot))
    )
    for a, b in zip(from_labels, from_masks, strict=True):
        torch.testing.assert_close(a, b)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close_and_answers_in_its_type(name, dtype):
    x, y = random_batch(shape=(300, 300), dtype=torch.float32)  # more than 65504 voxels: float16 sums overflow
    loss = make(name)
    value, grad = gradient(loss, x.to(dtype), y)
    assert grad.dtype == dtype
    torch.testing.assert_close(value.float(), loss(x, y), rtol=1e-2, atol=1e-2)


@every_loss
def test_autocast_stays_close(name):
    x, y = random_batch(shape=(40, 40), dtype=torch.float32)
    loss = make(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(x, y), loss(x, y).float(), rtol=0, atol=0)
        torch.testing.assert_close(loss(x.bfloat16(), y).float(), loss(x, y).float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", [n for n in LOSSES if "Lovasz" not in n])
def test_soft_labels_that_are_hard_change_nothing(name):
    x, y = random_batch()
    one_hot = torch.nn.functional.one_hot(y[:, 0], CLASSES).movedim(-1, 1).double()
    arguments = {"to_onehot_y": False, "class_counts": None}
    soft, hard = (gradient(make(name, **arguments, soft_label=form), x, one_hot) for form in (True, False))
    for a, b in zip(soft, hard, strict=True):
        torch.testing.assert_close(a, b)


@every_loss
def test_monai_s_masked_loss_wraps_it(name):
    x, y = random_batch()
    mask = (torch.arange(5) < 3).expand(2, 1, 4, 5)
    loss = make(name)
    torch.testing.assert_close(MaskedLoss(loss)(x, y, mask), loss(x * mask, y * mask))


@every_loss
def test_non_contiguous_tensors_and_a_single_voxel(name):
    x, y = random_batch(shape=(5, 4))
    loss = make(name)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    torch.testing.assert_close(loss(strided, y), loss(x, y))
    value, grad = gradient(loss, x[..., :1, :1], y[..., :1, :1])
    assert value.isfinite()
    assert grad.isfinite().all()


@every_loss
def test_meta_tensors_float_labels_and_deep_supervision(name):
    x, y = random_batch(shape=(8, 8))
    loss = make(name)
    expected = loss(x, y)
    meta = loss(MetaTensor(x), MetaTensor(y.float()))
    assert type(meta) is torch.Tensor
    torch.testing.assert_close(meta, expected)
    assert DeepSupervisionLoss(loss)([x, x[..., ::2, ::2]], y.float()).isfinite()


@every_loss
def test_pickle_deepcopy_and_state_dict(name):
    x, y = random_batch()
    loss = make(name, weight=[1.0, 2.0, 3.0])
    expected = loss(x, y)
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        torch.testing.assert_close(twin(x, y), expected)
    weights = [value for key, value in loss.state_dict().items() if key.endswith("class_weight")]
    assert weights
    assert all(weight.tolist() == [1, 2, 3] for weight in weights)


@every_loss
def test_compiles_without_a_graph_break_and_differentiates_functionally(name):
    x, y = random_batch()
    loss = make(name)
    value, grad = gradient(loss, x, y)
    torch.testing.assert_close(torch.func.grad(lambda x: loss(x, y))(x), grad)
    torch._dynamo.reset()  # all losses share one forward, and dynamo keeps eight compiled forms of it
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(x, y), value)


@every_loss
def test_no_move_to_the_device_is_needed(name):
    loss = make(name, weight=[1.0, 2.0, 3.0])
    x, y = random_batch()
    assert loss(x.to("meta"), y.to("meta")).device.type == "meta"


@every_loss
def test_no_host_synchronisation_in_steady_state(name):
    # A tensor on the meta device has no values, so any step that reads one raises.
    loss = make(name, ignore_index=9)
    x, y = (t.to("meta") for t in random_batch())
    value, grad = gradient(loss, x, y)
    assert value.shape == ()
    assert grad.shape == x.shape


FOREIGN = {
    "PlainCE": ["batch", "squared_pred", "lambda_ce", "alpha"],
    "WeightedCE": ["jaccard", "smooth_nr", "classes"],
    "SoftDice": ["jaccard", "lambda_dice", "label_smoothing"],
    "SoftJaccard": ["jaccard", "lambda_ce", "beta"],
    "SoftTversky": ["jaccard", "lambda_ce", "per_image"],
    "LovaszSoftmax": ["squared_pred", "smooth_dr", "soft_label"],
    "LovaszHinge": ["squared_pred", "alpha"],
    "SoftDiceCE": ["jaccard", "alpha"],
    "LovaszSoftmaxCE": ["squared_pred", "smooth_nr"],
}


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n, arguments in FOREIGN.items() for a in arguments])
def test_a_foreign_argument_warns_once_with_its_name(name, argument):
    with pytest.warns(UserWarning, match=argument) as caught:
        loss = make(name, **{argument: 1})
        loss(*random_batch())
        loss(*random_batch())
    assert len(caught) == 1


@every_loss
def test_what_means_something_warns_of_nothing(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = make(name, class_counts=COUNTS)
        loss(*random_batch())


@every_loss
def test_bad_input_gets_a_sentence_with_the_cure(name):
    x, y = random_batch()
    loss = make(name)
    with pytest.raises(TypeError, match="unexpected keyword argument 'to_onehot'; did you mean 'to_onehot_y'"):
        make(name, to_onehot=True)
    with pytest.raises(ValueError, match="more than 1 of"):
        make(name, softmax=True, sigmoid=True)
    with pytest.raises(ValueError, match=r"label 7, but 3 classes allow 0 to 2.*ignore_index=7"):
        loss(x, torch.where(y == 2, 7, y))
    with pytest.raises(ValueError, match=r"whole-number labels, but holds 0\.5"):
        loss(x, y.clamp(max=1) * 0.5)
    with pytest.raises(AssertionError, match=r"target\.unsqueeze\(1\)"):
        loss(x, y[:, 0])
    with pytest.raises(ValueError, match="crop or resample"):
        loss(x, y[..., 1:])
    with pytest.raises(ValueError, match="none below 0"):
        make(name, weight=[1, -1, 1])
    with pytest.raises(ValueError, match="3 values"):
        make(name, weight=[1.0] * 5)(x, y)
    with pytest.raises(ValueError, match="reduction must be"):
        make(name, reduction="median")
