"""The tiled kernels are the plain definitions, make no tensor larger than the logits, and see their tiles."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_surrogates.core import (
    lovasz_jaccard,
    lovasz_jaccard_binned,
    soft_overlap,
    softmax_overlap,
    tiled_lovasz_binned,
)
from monai_surrogates.core.activation import precise_softmax
from monai_surrogates.core.inputs import Voxels
from monai_surrogates.core.kernels import operators, tiles
from monai_surrogates.core.lovasz_weights import lovasz_jaccard_weights
from monai_surrogates.losses import LovaszSoftmaxLoss, SoftDiceLoss, SoftJaccardLoss
from tests.inside import InsideOperators

pytestmark = pytest.mark.usefixtures("small_images_are_tiled")

batches = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 999),
        "items": st.integers(1, 3),
        "classes": st.sampled_from([2, 3, 7]),
        "voxels": st.integers(1, 60),
        "ignoring": st.booleans(),
    }
)


def random_logits(seed, items, classes, voxels, ignoring, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(items, classes, voxels, generator=generator, dtype=dtype)
    y = torch.randint(0, classes, (items, voxels), generator=generator)
    valid = torch.rand(items, voxels, generator=generator) > 0.3 if ignoring else None
    return Voxels(x, y if valid is None else torch.where(valid, y, 0), valid)


@pytest.fixture(params=[None, 20], ids=["one tile", "many tiles"])
def tile(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(tiles, "TILE", request.param)
        monkeypatch.setattr(tiles, "ROW", request.param // 3)


def value_and_gradient(function, voxels, seed):
    x = voxels.input.clone().requires_grad_()
    value = function(voxels._replace(input=x))
    slopes = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=value.dtype)
    (value * slopes).sum().backward()
    return value.detach(), x.grad


def assert_same(ours, theirs, voxels, seed):
    for mine, reference in zip(*(value_and_gradient(f, voxels, seed) for f in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("squared", [False, True])
@settings(deadline=None, max_examples=50)
@given(drawn=batches)
def test_overlap_is_that_of_the_softmax(squared, drawn):
    def plain(voxels):
        return torch.stack(list(soft_overlap(voxels._replace(input=voxels.input.softmax(1)), squared=squared)))

    voxels = random_logits(**drawn)
    assert_same(lambda v: torch.stack(list(softmax_overlap(v, squared=squared))), plain, voxels, drawn["seed"])


def errors_of(voxels, batch):
    p = voxels.input.softmax(1)
    is_reference = torch.nn.functional.one_hot(voxels.target, p.shape[1]).movedim(-1, 1).bool()
    counted = torch.ones_like(is_reference) if voxels.valid is None else voxels.valid.unsqueeze(1).expand_as(p)
    rows = (p - is_reference.to(p.dtype)).abs(), is_reference & counted, counted
    return [x.transpose(0, 1).flatten(1).unsqueeze(0) for x in rows] if batch else rows


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("bins", [8, 4096])
@pytest.mark.parametrize("batch", [False, True])
@settings(deadline=None, max_examples=50)
@given(drawn=batches)
def test_binned_lovasz_is_that_of_the_errors(bins, batch, drawn):
    voxels = random_logits(**drawn)
    assert_same(
        lambda v: tiled_lovasz_binned(*v[:3], bins=bins, batch=batch)[0],
        lambda v: lovasz_jaccard_binned(*errors_of(v, batch), bins=bins),
        voxels,
        drawn["seed"],
    )
    volume = tiled_lovasz_binned(*voxels[:3], bins=bins, batch=batch)[1]
    assert torch.equal(volume.long(), errors_of(voxels, batch)[1].sum(-1))


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("offset", [-300.0, 300.0])
@pytest.mark.parametrize("loss", [SoftDiceLoss, SoftJaccardLoss, LovaszSoftmaxLoss])
def test_logits_beyond_the_range_of_exp_are_those_of_their_softmax(loss, offset):
    x, y, *_ = random_logits(1, 2, 3, 80, ignoring=False, dtype=torch.float32)
    x[..., ::2] += offset  # float32's exp ends at 88; a softmax does not see the difference
    assert_close_to_double(loss, x, y)


@pytest.mark.parametrize("other", [-79.0, -95.0, -1e4, -torch.inf])
@pytest.mark.parametrize("loss", [SoftDiceLoss, SoftJaccardLoss, LovaszSoftmaxLoss])
def test_classes_that_are_ruled_out_have_no_probability_and_no_gradient(loss, other):
    x, y, *_ = random_logits(1, 2, 4, 4000, ignoring=False, dtype=torch.float32)
    x[:, 3], y = other, y.clamp_max(2)
    assert_close_to_double(loss, x, y)
    # e^-79 is 5e-35, the other logits lie within ±15, and no slope is above 1
    assert float(x.grad[:, 3].abs().max()) < 1e-25


# What test_precision holds the losses to: float32's 6e-8, a few times. 4096 bins that float32 and float64 draw differ in
# 4096·6e-8 = 2.5e-4 of the errors, whose weights may differ by as much as they are: a relative 0.016 of the norm.
LOSS, GRADIENT, GRADIENT_IN_BINS = 1e-6, 1e-5, 0.016


def assert_close_to_double(loss, x, y):
    """Loss and gradient of float32 logits are those of the same logits in float64."""
    settings, tolerance = ({"method": "bins"}, GRADIENT_IN_BINS) if loss is LovaszSoftmaxLoss else ({}, GRADIENT)
    exact = x.double().requires_grad_()
    expected = loss(to_onehot_y=True, **settings)(precise_softmax(exact), y.unsqueeze(1))  # the plain definition
    expected.backward()
    x.requires_grad_()
    value = loss(to_onehot_y=True, softmax=True, **settings)(x, y.unsqueeze(1))
    value.backward()
    assert value.item() == pytest.approx(expected.item(), abs=LOSS)
    assert float((x.grad.double() - exact.grad).norm()) <= tolerance * float(exact.grad.norm())


@pytest.mark.parametrize("gap", [10.0, 14.0, 17.0, 20.0, 30.0])
@pytest.mark.parametrize("wrong", [0.0, 0.01])
@pytest.mark.parametrize("loss", [SoftDiceLoss, SoftJaccardLoss, LovaszSoftmaxLoss])
def test_networks_that_are_sure(loss, wrong, gap):
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(0, 3, (1, 32**3), generator=generator)
    said = torch.where(torch.rand(y.shape, generator=generator) < wrong, (y + 1) % 3, y)
    x = gap * torch.nn.functional.one_hot(said, 3).movedim(-1, 1).float()
    x += 0.3 * torch.randn(x.shape, generator=generator)
    assert_close_to_double(loss, x.clone(), y)
    (in_bins, volume), exact = (
        tiled_lovasz_binned(x, y, None, bins=4096),
        lovasz_jaccard(*errors_of(Voxels(x, y, None), False)),
    )
    assert torch.equal(volume.long()[0], torch.bincount(y[0]))
    assert ((exact - in_bins >= -LOSS) & (exact - in_bins <= 1 / 4096)).all()  # never above, at most a bin below


@pytest.mark.parametrize("gap", [8.0, 12.0, 16.0])
@pytest.mark.parametrize("rare", [0, 20])
@pytest.mark.parametrize("squared", [False, True])
def test_two_classes_where_the_background_is_rare(squared, rare, gap):
    x = torch.stack([torch.zeros(32**3), torch.full((32**3,), gap)])[None]
    y = torch.ones(1, 32**3, dtype=torch.int64)
    y[0, :rare], x[0, :, : rare // 2] = 0, x[0, :, : rare // 2].flip(0)
    value, exact = (softmax_overlap(Voxels(logits, y, None), squared=squared) for logits in (x, x.double()))
    for mine, right in zip(value, exact, strict=True):
        torch.testing.assert_close(mine, right, rtol=2e-6, atol=1e-12)  # two sums, each right to 1e-6; absent is 0


@settings(deadline=None, max_examples=50)
@given(drawn=batches)
def test_sorting_what_weighs_is_sorting_everything(drawn):
    errors, is_reference, counted = errors_of(random_logits(**drawn), batch=False)
    order = torch.where(counted, errors, -1).argsort(dim=-1, descending=True)
    weights = lovasz_jaccard_weights(is_reference.gather(-1, order), counted.gather(-1, order), errors.dtype)
    expected = (errors.gather(-1, order) * weights).sum(-1)
    torch.testing.assert_close(lovasz_jaccard(errors, is_reference, counted), expected)


@settings(deadline=None, max_examples=50)
@given(drawn=batches)
def test_labels_say_what_masks_say(drawn):
    voxels = random_logits(**drawn)
    errors, is_reference, counted = errors_of(voxels, batch=False)
    labels, valid = voxels.target.unsqueeze(1), None if voxels.valid is None else voxels.valid.unsqueeze(1)
    for loss in (lovasz_jaccard, lovasz_jaccard_binned):
        torch.testing.assert_close(loss(errors, labels, valid), loss(errors, is_reference, counted), rtol=0, atol=0)


@pytest.mark.parametrize("ignoring", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("squared", [False, True])
def test_the_overlap_can_be_differentiated_twice(classes, squared, ignoring):
    x, y, valid, _ = random_logits(0, 2, classes, 6, ignoring)

    def overlap(x):
        return softmax_overlap(Voxels(x, y, valid), squared=squared)[:2]

    assert torch.autograd.gradgradcheck(overlap, x.requires_grad_())


@pytest.mark.parametrize("ignoring", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_binned_lovasz_can_be_differentiated_twice(classes, ignoring):
    voxels = random_logits(0, 2, classes, 6, ignoring)
    second = []
    for loss in (
        lambda x: tiled_lovasz_binned(x, *voxels[1:3], bins=64)[0],
        lambda x: lovasz_jaccard_binned(*errors_of(voxels._replace(input=x), batch=False), bins=64),
    ):
        x = voxels.input.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(x).sum(), x, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(*second)


@pytest.mark.parametrize("classes", [2, 4])
def test_logits_that_are_not_finite_make_the_loss_nan_and_nothing_worse(classes):
    voxels = random_logits(0, 2, classes, 50, ignoring=False)
    voxels.input[0, 0, 3], voxels.input[1, 1, 4] = torch.nan, torch.inf
    loss, _ = tiled_lovasz_binned(*voxels[:3], bins=16)
    assert loss.isnan().any()
    assert softmax_overlap(voxels).prediction.isnan().any()


@pytest.mark.parametrize("labels", [torch.int64, torch.int32, torch.uint8, torch.uint16, torch.float32, torch.float64])
@pytest.mark.parametrize("ignored", [None, 1, 99])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("form", [SoftDiceLoss, "squared", "bins", "sort"])
def test_labels_of_every_type_give_the_same_and_nothing_is_written_to_the_inputs(form, classes, ignored, labels):
    settings = {"squared": {"squared_pred": True}, "bins": {"method": "bins"}, "sort": {"method": "sort"}}.get(form, {})
    loss = (LovaszSoftmaxLoss if "method" in settings else SoftDiceLoss)(
        softmax=True, to_onehot_y=True, ignore_index=ignored, **settings
    )
    x, y, *_ = random_logits(5, 2, classes, 300, ignoring=False, dtype=torch.float32)
    y = y.unsqueeze(1)
    if ignored is not None:
        y[..., :20] = ignored
        x[..., :20] = torch.nan  # where nothing counts, nothing is read
    x.requires_grad_()
    found = []
    for target in (y, y.to(labels), y.to(labels).contiguous()):
        given, version = target.clone(), x.detach().clone()
        value = loss(x, target)
        found.append((value, torch.autograd.grad(value, x)[0]))
        assert torch.equal(target, given)
        torch.testing.assert_close(x.detach(), version, rtol=0, atol=0, equal_nan=True)
    assert found[0][0].isfinite()
    assert found[0][1].isfinite().all()
    for value, gradient in found[1:]:
        assert torch.equal(value, found[0][0]) and torch.equal(gradient, found[0][1])


@pytest.mark.parametrize("classes", [2, 14])
@pytest.mark.parametrize("method", ["overlap", "bins", "sort"])
def test_several_threads_give_what_one_gives_and_the_same_each_time(method, classes):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, classes, 40, 40, 40, generator=generator, requires_grad=True)
    y = torch.randint(0, classes, (2, 1, 40, 40, 40), generator=generator)
    loss = SoftJaccardLoss if method == "overlap" else functools.partial(LovaszSoftmaxLoss, method=method)

    def value_and_gradient_by(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            value = loss(softmax=True, to_onehot_y=True)(x, y)
            return value, torch.autograd.grad(value, x)[0]
        finally:
            torch.set_num_threads(before)

    of_three, again = (value_and_gradient_by(3) for _ in range(2))
    assert all(map(torch.equal, of_three, again))
    torch.testing.assert_close(of_three, value_and_gradient_by(1), rtol=GRADIENT, atol=0)  # sums in another order


def storage_bytes(x):
    """What stands behind it: an expanded tensor is no copy."""
    return x.untyped_storage().nbytes()


class Made(InsideOperators):
    """The storages of all tensors that are made: how many bytes and how many numbers."""

    def __init__(self, *given):
        super().__init__()
        self.given = {x.untyped_storage().data_ptr() for x in given}
        self.storages = {}  # kept alive, so that no two of them have one address

    def see(self, function, args, made):
        for x in made:
            if x.untyped_storage().data_ptr() not in self.given:
                self.storages[x.untyped_storage().data_ptr()] = x

    @property
    def bytes(self):
        """Of the largest one."""
        return max(map(storage_bytes, self.storages.values()))

    def as_large_as(self, x):
        """How many hold as many numbers, be they floats, labels or masks."""
        return sum(storage_bytes(y) // y.element_size() >= x.numel() for y in self.storages.values())


@pytest.mark.parametrize("classes", [2, 5, 14])
@pytest.mark.parametrize(
    "loss",
    [
        SoftDiceLoss(softmax=True, to_onehot_y=True),
        SoftJaccardLoss(softmax=True, to_onehot_y=True, squared_pred=True),
        LovaszSoftmaxLoss(softmax=True, to_onehot_y=True, method="bins"),
        LovaszSoftmaxLoss(softmax=True, to_onehot_y=True, method="bins", batch=True),
        LovaszSoftmaxLoss(softmax=True, to_onehot_y=True, method="sort"),
    ],
    ids=["SoftDice", "SoftJaccard", "LovaszSoftmax", "LovaszSoftmax, batch", "LovaszSoftmax, sort"],
)
def test_no_tensor_larger_than_the_logits_is_made(loss, classes):
    x = torch.randn(2, classes, 56, 56, 56, requires_grad=True)
    y = torch.randint(0, classes, (2, 1, 56, 56, 56))
    with Made(x, y) as made:
        loss(x, y).backward()
    assert x[0].numel() * x.element_size() < made.bytes <= x.numel() * x.element_size()


@pytest.mark.parametrize("labels", [torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize("ignored", [None, 1, 255])
@pytest.mark.parametrize("classes", [5, 14])
@pytest.mark.parametrize("loss", [SoftDiceLoss, SoftJaccardLoss])
def test_the_overlap_makes_nothing_as_large_as_the_logits_but_their_gradient(loss, classes, ignored, labels):
    x = torch.randn(4, classes, 56, 56, 56, requires_grad=True)
    y = torch.randint(0, classes, (4, 1, 56, 56, 56), dtype=torch.uint8)
    if ignored is not None:
        y[:, :, :5] = ignored
    y = y.to(labels)
    with Made(x, y) as made:
        torch.autograd.grad(loss(softmax=True, to_onehot_y=True, ignore_index=ignored)(x, y), x)
    assert made.as_large_as(x) == 1


def test_several_threads_sort_short_rows_as_one_does():
    generator = torch.Generator().manual_seed(5)
    errors = torch.rand(32, 3, 2000, generator=generator)
    labels = torch.randint(0, 3, (32, 1, 2000), generator=generator)

    def weights_by(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return torch.ops.monai_surrogates.lovasz_weights_by_row(errors, labels, None)
        finally:
            torch.set_num_threads(before)

    assert torch.equal(weights_by(3), weights_by(1))


@pytest.mark.parametrize("loss", [SoftDiceLoss, SoftJaccardLoss, LovaszSoftmaxLoss])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("gap", [8.0, 18.0, 40.0])
def test_two_classes_that_change_places_change_the_sign_of_the_gradient_and_no_more(gap, squared, loss):
    x = torch.stack([torch.zeros(1000), torch.linspace(gap, gap + 1, 1000)])[None]  # sure of class 1
    y = torch.ones(1, 1, 1000, dtype=torch.int64)
    y[..., :10] = 0
    settings = {"method": "bins"} if loss is LovaszSoftmaxLoss else {"squared_pred": squared}
    gradients = []
    for logits, labels in ((x, y), (x.flip(1), 1 - y)):
        logits = logits.clone().requires_grad_()
        loss(softmax=True, to_onehot_y=True, **settings)(logits, labels).backward()
        gradients.append(logits.grad)
    assert gradients[0].count_nonzero() > 0
    torch.testing.assert_close(gradients[0], gradients[1].flip(1), rtol=GRADIENT, atol=0)


@pytest.mark.parametrize("ignoring", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("classes", [2, 5])
def test_operators_are_what_they_tell_the_compiler(classes, layout, ignoring):
    x = torch.randn(2, classes, 6, 6).contiguous(memory_format=layout).flatten(2)
    y = torch.randint(0, classes, (2, 36))
    valid = y != 1 if ignoring else None
    ops, slopes = torch.ops.monai_surrogates, torch.rand(2, classes)
    errors, labels = torch.rand(2, classes, 36), y.unsqueeze(1)
    _, kept = ops.softmax_overlap(x, y, valid, False)
    calls = [
        (ops.softmax_overlap, (x, y, valid, False)),
        (ops.softmax_overlap_backward, (x, y, valid, False, kept, torch.rand(3, 2, classes))),
        (ops.lovasz_sorted_weights, (errors, labels, None if valid is None else valid.unsqueeze(1))),
        (ops.lovasz_weights_by_row, (errors, labels, None if valid is None else valid.unsqueeze(1))),
    ]
    binned = ops.lovasz_two_classes if classes == 2 else ops.lovasz_softmax
    backward = ops.lovasz_two_classes_backward if classes == 2 else ops.lovasz_softmax_backward
    arguments = (x, y, valid, 64, False, False)
    calls += [(binned, arguments), (backward, (x, valid, *binned(*arguments)[2:], slopes))]
    for operator, arguments in calls:
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


# the form that runs on a GPU


@pytest.fixture
def untiled(monkeypatch):
    monkeypatch.setattr(operators, "KERNELS", {})


FORMS = {
    "overlap": (SoftJaccardLoss, {}),
    "overlap, squared": (SoftDiceLoss, {"squared_pred": True}),
    "sort": (LovaszSoftmaxLoss, {"method": "sort"}),
    "bins": (LovaszSoftmaxLoss, {"method": "bins"}),
    "bins, batch": (LovaszSoftmaxLoss, {"method": "bins", "batch": True}),
    "auto": (LovaszSoftmaxLoss, {}),
}


@pytest.mark.parametrize("ignored", [None, 1, 255])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_gpu_is_that_of_the_tiles(form, classes, ignored, request):
    loss, settings = FORMS[form]
    x, y, *_ = random_logits(3, 2, classes, 5000, ignoring=False)
    y = y.unsqueeze(1)
    if ignored is not None:
        y[..., :50] = ignored
    loss = loss(softmax=True, to_onehot_y=True, ignore_index=ignored, **settings)

    def value_and_gradient():
        logits = x.clone().requires_grad_()
        value = loss(logits, y)
        return value, torch.autograd.grad(value, logits)[0]

    tiled = value_and_gradient()
    request.getfixturevalue("untiled")
    torch.testing.assert_close(value_and_gradient(), tiled, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan], ids=str)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_logits_that_are_not_finite_mean_the_same_in_every_form(form, classes, value, request):
    """−inf is a class ruled out, +inf and NaN make loss and gradient NaN; of each channel, right or wrong."""
    loss, settings = FORMS[form]
    x, y, *_ = random_logits(3, 2, classes, 200, ignoring=False)
    cases = [(channel, label) for channel in range(classes) for label in range(classes)]

    def values_and_gradients():
        found = []
        for channel, label in cases:
            logits, labels = x.clone(), y.clone()
            logits[0, channel, 7], labels[0, 7] = value, label
            for target in (labels.unsqueeze(1), torch.nn.functional.one_hot(labels, classes).movedim(-1, 1)):
                logits.requires_grad_()
                made = loss(softmax=True, to_onehot_y=target.shape[1] == 1, **settings)(logits, target)
                found += [made, torch.autograd.grad(made, logits)[0]]
        return found

    tiled = values_and_gradients()
    request.getfixturevalue("untiled")
    torch.testing.assert_close(values_and_gradients(), tiled, rtol=1e-9, atol=1e-12, equal_nan=True)
    for made, gradient in zip(tiled[::2], tiled[1::2], strict=True):
        assert made.isfinite() if value == -torch.inf else made.isnan()
        assert gradient.isfinite().all() if value == -torch.inf else gradient[0].isnan().all()


@pytest.mark.usefixtures("untiled")
@pytest.mark.parametrize("ignored", [None, 1])
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_gpu_reads_no_value_on_the_host(form, ignored):
    loss, settings = FORMS[form]
    x = torch.randn(2, 4, 5000, device="meta", requires_grad=True)  # a value that is read has an error here
    y = torch.zeros(2, 1, 5000, dtype=torch.int64, device="meta")
    value = loss(softmax=True, to_onehot_y=True, ignore_index=ignored, **settings)(x, y)
    value.backward()
    assert x.grad.shape == x.shape
