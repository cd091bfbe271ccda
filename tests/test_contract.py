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
from monai.networks import one_hot

from monai_surrogates import losses
from monai_surrogates.core.kernels import operators
from monai_surrogates.losses.arguments import ARGUMENTS, CONTEXT
from monai_surrogates.losses.names import LOSSES as NAMES

pytestmark = pytest.mark.usefixtures("small_images_are_tiled")

CLASSES = 3
COUNTS = [700, 200, 100]
VOLUMES = [9.0, 4.0, 3.0]
SOFTMAX = {"softmax": True, "to_onehot_y": True}
SIGMOID = {"sigmoid": True, "to_onehot_y": True}
BY_VOLUME = {"smoothing": "structure_volume", "structure_volumes": VOLUMES}


class ScheduledLossInARamp(losses.ScheduledLoss):
    """Half of one objective and half of the next."""

    def __init__(self, **arguments):
        super().__init__(ramp=1, **arguments)
        self.set_epoch(1)

    @classmethod
    def reads(cls, given):
        """The given arguments that the schedule or one of its objectives reads."""
        classes = [losses.loss_class(name) for name in given["objectives"].values()]
        own = {name: value for name, value in given.items() if name in ("reduction", "ramp")}
        return {**own, **{name: value for one in classes for name, value in one.reads(given).items()}}


def named_losses():
    """Every loss of the table of names, under the stem of its class: all the arguments that it needs to be one of logits."""
    classes = [losses.loss_class(name) for name in NAMES]
    of_structures = {losses.LovaszHingeLoss: {"to_onehot_y": True}}
    context = {**SOFTMAX, "class_counts": COUNTS}
    return {cls.__name__.removesuffix("Loss"): (cls, of_structures.get(cls, context)) for cls in classes}


# id -> class and the arguments that make it a loss of logits, against a label map of three classes ...
SEVERAL_CLASSES = {
    **named_losses(),
    "PlainCE, binary": (losses.PlainCELoss, SIGMOID),
    "WeightedCE, per image": (losses.WeightedCELoss, {**SOFTMAX, "class_counts": COUNTS, "per_image": True}),
    "SoftDice, squared": (losses.SoftDiceLoss, {**SOFTMAX, "squared_pred": True}),
    "SoftDice, batch": (losses.SoftDiceLoss, {**SOFTMAX, "batch": True}),
    "SoftDice, listed classes": (losses.SoftDiceLoss, {**SOFTMAX, "classes": [0, 2]}),
    "SoftDice, by volume": (losses.SoftDiceLoss, {**SOFTMAX, **BY_VOLUME}),
    "SoftJaccard, sigmoid": (losses.SoftJaccardLoss, SIGMOID),
    "SoftJaccard, sigmoid, batch, by volume": (losses.SoftJaccardLoss, {**SIGMOID, **BY_VOLUME, "batch": True}),
    "SoftTversky, uneven": (losses.SoftTverskyLoss, {**SOFTMAX, "alpha": 0.3, "beta": 0.7}),
    "SoftTversky, by volume": (losses.SoftTverskyLoss, {**SOFTMAX, **BY_VOLUME, "alpha": 0.3, "beta": 0.7}),
    "LovaszSoftmax, batch": (losses.LovaszSoftmaxLoss, {**SOFTMAX, "batch": True}),
    "LovaszSoftmax, sigmoid": (losses.LovaszSoftmaxLoss, SIGMOID),
    "LovaszSoftmax, bins": (losses.LovaszSoftmaxLoss, {**SOFTMAX, "method": "bins"}),
    "LovaszSoftmax, all classes": (losses.LovaszSoftmaxLoss, {**SOFTMAX, "classes": "all"}),
    "LovaszSoftmax, listed classes": (losses.LovaszSoftmaxLoss, {**SOFTMAX, "classes": [2, 1]}),
    "SoftDiceCE, sigmoid": (losses.SoftDiceCELoss, SIGMOID),
    "LovaszSoftmaxCE, less of the latter": (losses.LovaszSoftmaxCELoss, {**SOFTMAX, "lambda_ce": 0.5}),
    "TverskyCE": (losses.SurrogateCELoss, {**SOFTMAX, "surrogate": "soft_tversky", "alpha": 0.3, "beta": 0.7}),
    "LovaszHingeCE": (losses.SurrogateCELoss, {**SIGMOID, "surrogate": "lovasz_hinge"}),
    "Scheduled, in a ramp from CE": (
        ScheduledLossInARamp,
        {**SOFTMAX, "objectives": {0: "weighted_cross_entropy", 1: "soft_jaccard"}, "class_counts": COUNTS},
    ),
    "Scheduled, in a ramp between scores": (
        ScheduledLossInARamp,
        {**SIGMOID, "objectives": {0: "soft_dice", 1: "soft_jaccard"}},
    ),
    "Scheduled, in a ramp from CE, by volume": (
        ScheduledLossInARamp,
        {
            **{**SOFTMAX, **BY_VOLUME, "class_counts": COUNTS, "class_weighting": "effective_number"},
            "objectives": {0: "weighted_cross_entropy", 1: "soft_dice"},
        },
    ),
    "Scheduled, in a ramp between scores, by volume": (
        ScheduledLossInARamp,
        {**SIGMOID, **BY_VOLUME, "batch": True, "objectives": {0: "soft_dice", 1: "soft_jaccard"}},
    ),
}
# ... or against a mask
ONE_CHANNEL = {
    "PlainCE, one channel": (losses.PlainCELoss, {}),
    "WeightedCE, one channel": (losses.WeightedCELoss, {"class_counts": COUNTS[:2]}),
    "SoftDice, one channel": (losses.SoftDiceLoss, {"sigmoid": True}),
    "SoftDice, one channel, by volume": (
        losses.SoftDiceLoss,
        {"sigmoid": True, **BY_VOLUME, "structure_volumes": [4.0]},
    ),
    "SoftDice, two classes of one channel": (losses.SoftDiceLoss, {"sigmoid": True, "two_class": True}),
    "SoftJaccard, one channel": (losses.SoftJaccardLoss, {"sigmoid": True}),
    "LovaszSoftmax, one channel": (losses.LovaszSoftmaxLoss, {"sigmoid": True}),
    "LovaszHinge, one channel": (losses.LovaszHingeLoss, {}),
    "SoftDiceCE, one channel": (losses.SoftDiceCELoss, {"sigmoid": True}),
    "Scheduled, one channel, in a ramp from CE": (
        ScheduledLossInARamp,
        {"sigmoid": True, "objectives": {0: "cross_entropy", 1: "soft_dice"}},
    ),
    "Scheduled, one channel, in a ramp from CE, by volume": (
        ScheduledLossInARamp,
        {
            **{"sigmoid": True, **BY_VOLUME, "structure_volumes": [4.0]},
            "objectives": {0: "cross_entropy", 1: "soft_jaccard"},
        },
    ),
}
LOSSES = {**SEVERAL_CLASSES, **ONE_CHANNEL}

# ids of those that a law is not about
NO_SCORES = [name for name in LOSSES if any(word in name for word in ("CE", "Hinge", "Focal"))]
LOVASZ = [name for name in LOSSES if "Lovasz" in name]
BINNED = [name for name in LOSSES if "bins" in name]
BY_CONSTANTS = [n for n, (_, own) in LOSSES.items() if "smoothing" not in own]
SMOOTHED = [n for n in BY_CONSTANTS if "smooth_nr" in LOSSES[n][0].reads({**LOSSES[n][1], "smooth_nr": 0})]
# MONAI's own arithmetic: x − xy in the focal losses, which compute in float32; its Dice losses have no ignore_index there, and
# break the compiler's graph by a tensor's tolist
FOCAL = [name for name in LOSSES if "Focal" in name]
MONAI_DICE = ["MonaiDiceFocal", "MonaiGeneralizedDice"]
NO_WEIGHT = ["MonaiGeneralizedDice"]

every_loss = pytest.mark.parametrize("name", LOSSES)


def every_loss_but(names, reason):
    skip = pytest.mark.skip(reason=reason)
    return pytest.mark.parametrize("name", [pytest.param(n, marks=skip) if n in names else n for n in LOSSES])


def make(name, **arguments):
    cls, own = LOSSES[name]
    return cls(**{**own, **arguments})


def per_class(name, values):
    """As many of three values as the loss has classes, the background of a mask being one where it is scored."""
    two_class = "two_class" in LOSSES[name][1]
    return values[: CLASSES if name in SEVERAL_CLASSES else 1 + two_class]


def random_batch(name, seed=0, shape=(4, 5), items=2, dtype=torch.float64):
    channels, labels = (CLASSES, CLASSES) if name in SEVERAL_CLASSES else (1, 2)
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(items, channels, *shape, generator=generator, dtype=dtype)
    y = torch.randint(0, labels, (items, 1, *shape), generator=generator)
    y.flatten(2)[..., :labels] = torch.arange(labels)  # every class occurs in every item
    return x, y


def masks(name, y):
    return (one_hot(y, CLASSES) if name in SEVERAL_CLASSES else y).double()


def gradient(loss, x, y):
    x = x.detach().clone().requires_grad_()
    value = loss(x, y)
    (grad,) = torch.autograd.grad(value.sum(), x)
    return value, grad


shapes = st.sampled_from([(1, 3), (4, 5), (2, 3, 4)])


@every_loss
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 9999), shape=shapes)
def test_never_negative(name, seed, shape):
    assert make(name)(*random_batch(name, seed, shape)) >= 0


@every_loss_but(NO_SCORES, "not a score, and without a bound")
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 9999), shape=shapes)
def test_a_score_s_loss_is_never_above_one(name, seed, shape):
    assert make(name)(*random_batch(name, seed, shape)) <= 1


@every_loss
def test_zero_at_a_perfect_prediction(name):
    _, y = random_batch(name)
    value, grad = gradient(make(name), 1e4 * (2 * masks(name, y) - 1), y)
    # the tolerance of test_precision, and the smoothing's share: 1e-5 over the few voxels of a class
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert grad.abs().max() < 1e-6


@every_loss
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_finite_gradients_at_extreme_logits(name, scale):
    x, y = random_batch(name, dtype=torch.float32)
    value, grad = gradient(make(name), scale * x.sign(), y)
    assert value.isfinite()
    assert grad.isfinite().all()


SURE = 1e4


@every_loss_but(FOCAL, "inf − inf is NaN")
def test_a_logit_of_minus_infinity_rules_a_class_out(name):
    """And of +inf, where channels stand for themselves, makes it certain: the loss is that of logits far away."""
    x, y = random_batch(name)
    absent = masks(name, y) == 0
    absent[..., ::2] = False
    far, infinite = (torch.where(absent, -value, x) for value in (SURE, torch.inf))
    if name in ONE_CHANNEL:
        present = masks(name, y) == 1
        far, infinite = (torch.where(present, v, z) for v, z in ((SURE, far), (torch.inf, infinite)))
    for a, b in zip(*(gradient(make(name), logits, y) for logits in (infinite, far)), strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b)


@every_loss
def test_batched_and_forward_derivatives_are_those_of_the_backward_pass(name, monkeypatch):
    monkeypatch.setattr(operators, "KERNELS", {})  # the kernels' operators have no such rules
    x, y = random_batch(name, shape=(2, 3))
    loss = make(name)
    _, grad = gradient(loss, x, y)
    along = torch.rand(x.shape, dtype=x.dtype)
    torch.testing.assert_close(torch.func.jvp(lambda x: loss(x, y), (x,), (along,))[1], (grad * along).sum())
    torch.testing.assert_close(torch.func.jacrev(lambda x: loss(x, y))(x), grad)


@every_loss
@pytest.mark.parametrize("excluding", [False, True], ids=["counted", "in a class that is left out"])
def test_a_nan_gives_nan_in_the_loss_and_its_gradient(name, excluding):
    x, y = random_batch(name)
    if excluding:
        if name in ONE_CHANNEL or not hasattr(make(name), "include_background") or "listed" in name:
            pytest.skip("no class can be left out")
        y[0] = 2  # and class 0 is absent too
    weight = {} if name in NO_WEIGHT else {"weight": [1.0, 1.0, 1.0]}
    loss = make(name, **({"include_background": False, **weight} if excluding else {}))
    x[0, 0, 1, 1] = torch.nan
    value, grad = gradient(loss, x, y)
    assert value.isnan() == grad.isnan().any()
    assert value.isnan() or excluding


@every_loss_but([*BINNED, *FOCAL], "binned errors make steps that finite differences see, and so does float32")
def test_gradcheck_in_float64(name):
    x, y = random_batch(name, shape=(3, 3))
    assert torch.autograd.gradcheck(lambda x: make(name)(x, y), x.requires_grad_())


@every_loss_but(ONE_CHANNEL, "a mask has no classes to rename")
@pytest.mark.parametrize("permutation", [[1, 2, 0], [2, 1, 0]])
def test_renaming_the_classes_changes_nothing(name, permutation):
    x, y = random_batch(name)
    new_name = torch.tensor(permutation).argsort()
    arguments = {
        "class_counts": [COUNTS[c] for c in permutation],
        "structure_volumes": [VOLUMES[c] for c in permutation],
    }
    if "listed" in name:
        arguments["classes"] = new_name[LOSSES[name][1]["classes"]].tolist()
    permuted = make(name, **arguments)(x[:, permutation], new_name[y])
    torch.testing.assert_close(permuted, make(name)(x, y))


@every_loss
def test_the_order_of_items_changes_nothing(name):
    x, y = random_batch(name, items=3)
    loss = make(name)
    torch.testing.assert_close(loss(x.flip(0), y.flip(0)), loss(x, y))


@every_loss_but(MONAI_DICE, "MONAI gives it no ignore_index")
@pytest.mark.parametrize("ignored", [-1, 255, 2])
def test_ignored_voxels_are_as_if_cropped_away(name, ignored):
    x, y = random_batch(name, shape=(4, 6))
    if ignored < CLASSES:
        y[y == ignored] = 0  # the label is used for the voxels to remove alone
    y[..., 4:] = ignored
    x[..., 4:] = torch.nan  # whatever the output there
    loss = make(name, ignore_index=ignored)
    value, grad = gradient(loss, x, y)
    cropped, grad_cropped = gradient(make(name), x[..., :4], y[..., :4])
    torch.testing.assert_close(value, cropped)
    torch.testing.assert_close(grad[..., :4], grad_cropped)
    assert not grad[..., 4:].any()


SMOOTHING = [{}, {"smooth_nr": 0, "smooth_dr": 0}, {"smooth_nr": 0, "smooth_dr": 1}]


@pytest.mark.parametrize(
    ("name", "smooth"),
    [(n, s) for n in LOSSES if n not in MONAI_DICE for s in (SMOOTHING if n in SMOOTHED else [{}])],
)
def test_all_voxels_ignored_is_zero_with_a_zero_gradient(name, smooth):
    x, y = random_batch(name)
    value, grad = gradient(make(name, ignore_index=9, **smooth), x, torch.full_like(y, 9))
    assert value.item() == 0
    assert not grad.any()


@every_loss_but(ONE_CHANNEL, "a mask has one form")
def test_a_label_map_and_its_one_hot_form_agree(name):
    x, y = random_batch(name)
    # torch normalises cross-entropy by the voxels' weights for labels, and by their number for class probabilities
    same = {"class_counts": [1, 1, 1]}
    from_labels, from_masks = (
        gradient(make(name, to_onehot_y=form, **same), x, target)
        for form, target in ((True, y), (False, masks(name, y)))
    )
    for a, b in zip(from_labels, from_masks, strict=True):
        torch.testing.assert_close(a, b)


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
SCALE = 2**10  # as torch's GradScaler does, or float16 loses gradients of many voxels


def assert_close_to_float32(dtype, loss, value, grad, x, y):
    """Value and gradient of the rounded logits against those of the same logits in float32."""
    expected, expected_grad = gradient(lambda x, y: SCALE * loss(x, y), x.float(), y)
    torch.testing.assert_close(value.float(), expected, rtol=1e-6, atol=1e-6)
    assert grad.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(grad.float(), expected_grad, rtol=eps, atol=eps * expected_grad.abs().mean().item())


@every_loss
@HALVES
def test_half_precision_stays_close_and_answers_in_its_type(name, dtype):
    x, y = random_batch(name, shape=(300, 300), dtype=torch.float32)  # more than 65504 voxels: float16 sums overflow
    x, loss = x.to(dtype), make(name)
    value, grad = gradient(lambda x, y: SCALE * loss(x, y), x, y)
    assert_close_to_float32(dtype, loss, value, grad, x, y)


@every_loss
@HALVES
def test_a_network_under_autocast_gets_the_loss_and_gradient_of_float32(name, dtype):
    image, y = random_batch(name, shape=(40, 40), dtype=torch.float32)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(image.shape[1], 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, image.shape[1], 1)
    )
    loss = make(name)
    with torch.autocast("cpu", dtype=dtype):
        x = network(image)
        value = SCALE * loss(x, y)
    assert x.dtype == dtype
    (grad,) = torch.autograd.grad(value, x, retain_graph=True)
    assert_close_to_float32(dtype, loss, value, grad, x.detach(), y)
    in_float32 = torch.autograd.grad(SCALE * loss(network(image), y), network.parameters())
    for mine, expected in zip(torch.autograd.grad(value, network.parameters()), in_float32, strict=True):
        assert (mine - expected).norm() <= 20 * torch.finfo(dtype).eps * expected.norm()  # the convolutions round too


@every_loss_but([*LOVASZ, *FOCAL], "Lovász losses refuse soft labels, and MONAI's focal losses do not know them")
def test_soft_labels_that_are_hard_change_nothing(name):
    x, y = random_batch(name)
    arguments = {"to_onehot_y": False, "class_counts": [1, 1, 1] if name in SEVERAL_CLASSES else [1, 1]}
    soft, hard = (gradient(make(name, **arguments, soft_label=form), x, masks(name, y)) for form in (True, False))
    for a, b in zip(soft, hard, strict=True):
        torch.testing.assert_close(a, b)


@every_loss
def test_monai_s_masked_loss_wraps_it(name):
    x, y = random_batch(name)
    mask = (torch.arange(5) < 3).expand(2, 1, 4, 5)
    loss = make(name)
    torch.testing.assert_close(MaskedLoss(loss)(x, y, mask), loss(x * mask, y * mask))


@every_loss
def test_non_contiguous_tensors_and_a_single_voxel(name):
    x, y = random_batch(name, shape=(5, 4))
    loss = make(name)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    torch.testing.assert_close(loss(strided, y), loss(x, y))
    value, grad = gradient(loss, x[..., :1, :1], y[..., :1, :1])
    assert value.isfinite()
    assert grad.isfinite().all()


@every_loss
def test_meta_tensors_float_labels_and_deep_supervision(name):
    x, y = random_batch(name, shape=(8, 8))
    loss = make(name)
    expected = loss(x, y)
    meta = loss(MetaTensor(x), MetaTensor(y.float()))
    assert type(meta) is torch.Tensor
    torch.testing.assert_close(meta, expected)
    assert DeepSupervisionLoss(loss)([x, x[..., ::2, ::2]], y.float()).isfinite()


def weighted(name):
    """Class weights as arguments, if the loss has them."""
    return {} if name in NO_WEIGHT else {"weight": per_class(name, [1.0, 2.0, 3.0])}


@every_loss
def test_pickle_deepcopy_and_state_dict(name):
    x, y = random_batch(name)
    loss = make(name, **weighted(name))
    expected = loss(x, y)
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        torch.testing.assert_close(twin(x, y), expected)
    if name in NO_WEIGHT:
        return
    weight = per_class(name, [1.0, 2.0, 3.0])
    saved = [value.tolist() for key, value in loss.state_dict().items() if key.endswith("class_weight")]
    assert saved
    assert all(values == weight for values in saved)


@every_loss
@pytest.mark.parametrize("weighted_and_ignoring", [False, True], ids=["plain", "weighted and ignoring"])
def test_compiles_without_a_graph_break_and_differentiates_functionally(name, weighted_and_ignoring):
    x, y = random_batch(name)
    loss = make(name)
    if weighted_and_ignoring and name in MONAI_DICE:
        loss = make(name, **weighted(name))
    elif weighted_and_ignoring:
        loss = make(name, **weighted(name), ignore_index=9)
        y[..., 3:] = 9
    value, grad = gradient(loss, x, y)
    assert name in MONAI_DICE or not (weighted_and_ignoring and grad[..., 3:].any())
    torch.testing.assert_close(torch.func.grad(lambda x: loss(x, y))(x), grad)
    torch._dynamo.reset()  # all losses share one forward, and dynamo keeps eight compiled forms of it
    if name in MONAI_DICE:
        pytest.skip("MONAI's Dice losses read a number on the host, which breaks the graph")
    compiled = gradient(torch.compile(loss, fullgraph=True, backend="aot_eager"), x, y)
    for mine, expected in zip(compiled, (value, grad), strict=True):
        torch.testing.assert_close(mine, expected)


@every_loss
def test_no_move_to_the_device_is_needed(name):
    loss = make(name, **weighted(name))
    x, y = random_batch(name)
    assert loss(x.to("meta"), y.to("meta")).device.type == "meta"


@every_loss
def test_no_host_synchronisation_in_steady_state(name):
    # A tensor on the meta device has no values, so any step that reads one raises.
    loss = make(name, **({} if name in MONAI_DICE else {"ignore_index": 9}))
    x, y = (t.to("meta") for t in random_batch(name))
    value, grad = gradient(loss, x, y)
    assert value.shape == ()
    assert grad.shape == x.shape


def foreign_arguments(name):
    """The arguments without a use for the loss, each with a value that asks for something; the context never warns."""
    cls, own = LOSSES[name]
    asking = {argument: 7 for argument in ARGUMENTS if argument not in CONTEXT} | {"include_background": False}
    return {
        argument: value for argument, value in asking.items() if argument not in cls.reads({**own, argument: value})
    }


@every_loss
def test_a_foreign_argument_warns_once_with_its_name(name):
    x, y = random_batch(name)
    for argument, value in [*foreign_arguments(name).items()][::4]:  # test_names constructs with each of them
        with pytest.warns(UserWarning, match=f"no use for {argument}: not used") as caught:
            loss = make(name, **{argument: value})
            loss(x, y)
            loss(x, y)
        assert len(caught) == 1


@every_loss
def test_arguments_with_a_meaning_do_not_warn(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        several = name in SEVERAL_CLASSES
        context = {
            "class_counts": COUNTS if several else COUNTS[:2],
            "class_weighting": "median_frequency",
            "structure_volumes": VOLUMES if several else VOLUMES[: len(per_class(name, VOLUMES))],
        }
        loss = make(name, **context)
        loss(*random_batch(name))
        make(name, **context, smoothing=None, smooth_nr=None)  # None asks for nothing


@every_loss
def test_bad_input_gets_a_sentence_with_the_cure(name):
    x, y = random_batch(name)
    loss = make(name)
    with pytest.raises(TypeError, match="unexpected keyword argument 'to_onehot'; did you mean 'to_onehot_y'"):
        make(name, to_onehot=True)
    with pytest.raises(ValueError, match="more than 1 of"):
        make(name, softmax=True, sigmoid=True)
    with pytest.raises(AssertionError, match=r"target\.unsqueeze\(1\)"):
        loss(x, y[:, 0])
    with pytest.raises(ValueError, match="crop or resample"):
        loss(x, y[..., 1:])
    with pytest.raises(ValueError, match="reduction must be"):
        make(name, reduction="median")
    if name in NO_WEIGHT:
        return
    with pytest.raises(ValueError, match="none below 0"):
        make(name, weight=[1, -1, 1])
    with pytest.raises(ValueError, match=f"{len(per_class(name, [1, 2, 3]))} value"):
        make(name, weight=[1.0] * 5)(x, y)


@every_loss_but(ONE_CHANNEL, "a mask is no label map")
def test_a_bad_label_is_named_with_the_cure(name):
    x, y = random_batch(name)
    loss = make(name)
    with pytest.raises(ValueError, match=r"label 7, but 3 classes allow 0 to 2.*ignore_index=7"):
        loss(x, torch.where(y == 2, 7, y))
    with pytest.raises(ValueError, match=r"label 3, but 3 classes"):  # after rounding
        loss(x, torch.where(y == 2, 2.75, y))


NOISE, FRACTION = 9e-4, 1.1e-3  # a file's slope and intercept move a label by less than 1e-3
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FORMS = pytest.mark.parametrize("form", ["kernels", "plain"])
HARD = [n for n in LOVASZ if not any(word in n for word in ("CE", "Scheduled"))]  # targets of 0 and 1 alone


def noisy(y, dtype):
    """Whole numbers and uniform noise, which the type may round away."""
    noise = torch.rand(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (y + NOISE * (2 * noise - 1)).to(dtype)


def assert_noise_changes_nothing(loss, x, y):
    expected, expected_grad = gradient(loss, x, y)
    for dtype in FLOATS:
        value, grad = gradient(loss, x, noisy(y, dtype))
        assert torch.equal(value, expected)
        assert torch.equal(grad, expected_grad)


@every_loss_but(ONE_CHANNEL, "a mask is no label map")
@FORMS
@pytest.mark.parametrize("ignored", [None, 9], ids=["all voxels", "ignoring"])
def test_noise_changes_nothing_in_a_label_map(name, form, ignored, monkeypatch):
    if form == "plain":
        monkeypatch.setattr(operators, "KERNELS", {})
    x, y = random_batch(name)
    if ignored is not None and name in MONAI_DICE:
        pytest.skip("MONAI gives it no ignore_index")
    if ignored is not None:
        y[..., 3:] = ignored
    assert_noise_changes_nothing(make(name, ignore_index=ignored), x, y)


@pytest.mark.parametrize("name", HARD)
@FORMS
@pytest.mark.parametrize("ignored", [None, 2, 255], ids=["all voxels", "a class", "a mark"])
def test_noise_changes_nothing_in_the_masks_of_a_lovasz_loss(name, form, ignored, monkeypatch):
    if form == "plain":
        monkeypatch.setattr(operators, "KERNELS", {})
    x, y = random_batch(name)
    masks_of_y = masks(name, y)
    if ignored is not None and (name in ONE_CHANNEL or ignored >= CLASSES):
        masks_of_y[..., 3:] = ignored
    assert_noise_changes_nothing(make(name, to_onehot_y=False, ignore_index=ignored), x, masks_of_y)


# fractions in a row of voxels, the first one at 0.0011, and their nearest whole numbers, of two as near the even one
FRACTIONS = torch.tensor([[FRACTION, 0.375, 0.5, 1.5, 1.625], [0.0078, 0.998, 6.75, 2.25, 1]], dtype=torch.float64)
NEAREST = torch.tensor([[0, 0, 0, 2, 2], [0, 1, 7, 2, 1]])


def spoil(y, values):
    y = y.clone()
    y[0, :, 1:3] = values
    return y


def assert_rounded_with_one_warning(loss, expected, x, y, words):
    with pytest.warns(UserWarning, match=words) as caught:
        first = gradient(loss, x, y)
    assert [warning.filename for warning in caught] == [__file__]
    for value, grad in (first, gradient(loss, x, y)):  # the second call is silent
        assert torch.equal(value, expected[0])
        assert torch.equal(grad, expected[1])


@every_loss_but(ONE_CHANNEL, "a mask is no label map")
@FORMS
def test_fractions_in_a_label_map_become_whole_numbers_with_one_warning(name, form, monkeypatch):
    if name in MONAI_DICE:
        pytest.skip("MONAI gives it no ignore_index")
    if form == "plain":
        monkeypatch.setattr(operators, "KERNELS", {})
    x, y = random_batch(name)
    expected = gradient(make(name, ignore_index=7), x, spoil(y, NEAREST))
    for dtype in FLOATS:
        target = spoil(y.to(dtype), FRACTIONS.to(dtype))
        words = f"target holds {target[0, 0, 1, 0].item():.7g}, read as 0, .*`mode: nearest`.*AsDiscreted"
        assert_rounded_with_one_warning(make(name, ignore_index=7), expected, x, target, words)


@pytest.mark.parametrize("name", HARD)
@FORMS
def test_fractions_in_the_masks_of_a_lovasz_loss_become_0_and_1_with_one_warning(name, form, monkeypatch):
    if form == "plain":
        monkeypatch.setattr(operators, "KERNELS", {})
    x, y = random_batch(name)
    of_masks = FRACTIONS.where(NEAREST < 2, 1.375)
    hard = spoil(masks(name, y), of_masks.round())
    ignored = {"to_onehot_y": False, "ignore_index": 7}
    expected = gradient(make(name, **ignored), x, hard)
    for dtype in FLOATS:
        target = spoil(hard.to(dtype), of_masks.to(dtype))
        words = r"target holds [01]\.\d+, read as [01], the nearest .*`mode: nearest`.*SoftJaccardLoss"
        assert_rounded_with_one_warning(make(name, **ignored), expected, x, target, words)


@every_loss_but(ONE_CHANNEL, "a mask is no label map")
@pytest.mark.parametrize("value", [FRACTION, 2.25], ids=["at 0", "at a label"])
def test_check_labels_refuses_a_fraction_in_a_label_map_with_its_value(name, value):
    x, y = random_batch(name)
    for dtype in FLOATS:
        target = y.to(dtype)
        target[0, 0, 0, 3] = value
        with pytest.raises(ValueError, match=rf"whole-number labels, but holds {target[0, 0, 0, 3].item()!r}"):
            make(name, check_labels=True, **({} if name in MONAI_DICE else {"ignore_index": 7}))(x, target)


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("value", [FRACTION, 0.998])
def test_check_labels_refuses_a_fraction_in_a_lovasz_mask_with_its_value(name, value):
    x, y = random_batch(name)
    for dtype in FLOATS:
        target = masks(name, y).to(dtype)
        target[0, 0, 0, 3] = value
        with pytest.raises(
            ValueError, match=rf"but holds {target[0, 0, 0, 3].item():g}; for soft labels use SoftJaccardLoss"
        ):
            make(name, to_onehot_y=False, check_labels=True)(x, target)


@pytest.mark.parametrize("name", LOVASZ)
def test_a_lovasz_loss_refuses_soft_label_and_names_the_loss_for_it(name):
    with pytest.raises(ValueError, match=r"soft_label=True is not for Lovasz.*SoftJaccardLoss\(soft_label=True\)"):
        make(name, soft_label=True)


@every_loss_but(ONE_CHANNEL, "a mask is no label map")
def test_nan_is_no_label(name):
    x, y = random_batch(name)
    y = y.double()
    y[0, 0, 0, 3] = torch.nan
    with pytest.raises(ValueError, match="whole-number labels, but holds nan"):
        make(name)(x, y)


@every_loss_but(SEVERAL_CLASSES, "a label map is no mask")
@pytest.mark.parametrize("value", [7, -1])
def test_a_mask_out_of_range_names_its_value(name, value):
    x, y = random_batch(name)
    with pytest.raises(ValueError, match=rf"target must lie in \[0, 1\], but holds {value}; .*ignore_index"):
        make(name)(x, torch.where(y == 1, value, y))
