"""hard_overlap against counting voxel by voxel in NumPy: every form, number type and way of leaving voxels out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_dice
from torch.utils._python_dispatch import TorchDispatchMode

from monai_surrogates.core import Overlap, ShapeMismatchError, counting, dice_score, hard_overlap
from monai_surrogates.losses import SoftDiceLoss
from tests import reference

random_cases = settings(max_examples=60, deadline=None)
DTYPES = [
    torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
]  # fmt: skip


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(counting, "TILE", 7)  # so that the smallest image has several, and a last one that is shorter


@st.composite
def label_maps(draw, max_classes=5):
    """(prediction, reference, C): two stacks of label maps (images, spatial...), 2D or 3D."""
    num_classes = draw(st.integers(2, max_classes))
    shape = draw(st.tuples(st.integers(1, 3), *[st.integers(1, 4)] * draw(st.sampled_from([2, 3]))))
    labels = st.integers(0, num_classes - 1)
    return draw(arrays(np.int64, shape, elements=labels)), draw(arrays(np.int64, shape, elements=labels)), num_classes


def labels_of(stack: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(stack).unsqueeze(1)


def masks_of(stack: np.ndarray, num_classes: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([stack == c for c in range(num_classes)], axis=1))


def assert_counts(overlap: Overlap, expected: np.ndarray) -> None:
    assert [counts.dtype for counts in overlap] == [torch.int64] * 3
    np.testing.assert_array_equal(torch.stack(list(overlap)).numpy(), expected)


@random_cases
@given(case=label_maps(), dtype=st.sampled_from(DTYPES))
def test_every_form_of_the_same_labels_gives_the_counts_of_numpy(case, dtype):
    prediction, target, num_classes = case
    expected = reference.counts(masks_of(prediction, num_classes).numpy(), masks_of(target, num_classes).numpy())
    labels = [labels_of(x).to(dtype) for x in case[:2]]
    masks = [masks_of(x, num_classes).to(dtype) for x in case[:2]]
    logits = 3 * masks[0].double() - 1
    for p, r, arguments in (
        (*labels, {"num_classes": num_classes}),
        (*masks, {"num_classes": num_classes}),
        (*masks, {}),
        (labels[0], masks[1], {"num_classes": num_classes}),
        (masks[0], labels[1], {"num_classes": num_classes}),
        (masks[0].bool(), labels[1], {"num_classes": num_classes}),
        (logits, labels[1], {"argmax": True}),
        (logits, masks[1], {"argmax": True, "num_classes": num_classes}),
        (logits, masks[1], {"threshold": 0}),
        (
            logits,
            labels[1],
            {"threshold": 2, "num_classes": num_classes},
        ),  # logits are 2 and −1: the threshold is included
        (list(labels[0]), tuple(labels[1]), {"num_classes": num_classes}),
        (labels[0].transpose(-1, -2), labels[1].transpose(-1, -2), {"num_classes": num_classes}),
    ):
        assert_counts(hard_overlap(p, r, **arguments), expected)
        if not isinstance(p, list):
            assert_counts(hard_overlap(p, r, **arguments, check=False), expected)


@random_cases
@given(data=st.data())
def test_structures_may_overlap(data):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9)))
    prediction, target = (data.draw(arrays(np.bool_, shape)) for _ in range(2))
    overlap = hard_overlap(torch.from_numpy(prediction), torch.from_numpy(target))
    assert_counts(overlap, reference.counts(prediction, target))


# Leaving voxels out is cropping them away


@random_cases
@given(case=label_maps(), data=st.data())
def test_what_is_ignored_or_masked_counts_as_cropped(case, data):
    prediction, target, num_classes = case
    ignored = data.draw(st.sampled_from([-1, 255, 70000, *range(num_classes)]))
    if ignored not in range(num_classes):
        target = np.where(data.draw(arrays(np.bool_, target.shape)), ignored, target)
        prediction = np.where(target == ignored, data.draw(st.sampled_from([0, -5, 255])), prediction)
    mask = data.draw(arrays(np.bool_, target.shape))
    for keeps, arguments in (
        (target != ignored, {"ignore_index": ignored}),
        ((target != ignored) & mask, {"ignore_index": ignored, "mask": torch.from_numpy(mask).unsqueeze(1)}),
    ):
        expected = np.stack(
            [
                reference.counts(*(masks_of(x[k][None], num_classes).numpy() for x in (p, r)))[:, 0]
                for p, r, k in zip(prediction, target, keeps, strict=True)
            ],
            axis=1,
        )
        masks = masks_of(target, num_classes).long()
        if ignored not in range(num_classes):
            masks[:, -1:][labels_of(target) == ignored] = ignored
        predicted = masks_of(prediction, num_classes)
        for p, r, classes in (
            (labels_of(prediction), labels_of(target), num_classes),
            (labels_of(prediction).double(), labels_of(target).double(), num_classes),
            (labels_of(prediction), masks, num_classes),
            (predicted, masks, None),
            (predicted, labels_of(target), num_classes),
            (predicted.float(), labels_of(target), num_classes),
        ):
            for check in (True, False):
                assert_counts(hard_overlap(p, r, classes, **arguments, check=check), expected)


def test_a_mask_may_be_of_any_number_type_and_lists_have_their_own():
    prediction, target = torch.tensor([[[1, 1, 0]]]), torch.tensor([[[1, 0, 0]]])
    for dtype in (torch.bool, torch.uint8, torch.float32):
        mask = torch.tensor([[[1, 0, 1]]]).to(dtype)
        for images in ((prediction, target, mask), (list(prediction), list(target), list(mask))):
            overlap = hard_overlap(*images[:2], 2, mask=images[2])
            assert torch.stack(list(overlap)).flatten(1).tolist() == [[1, 1], [1, 1], [1, 1]]


@pytest.mark.parametrize("ignored", [-1, 256, 300])
def test_an_ignored_label_that_the_number_type_cannot_hold_ignores_nothing(ignored):
    target = torch.tensor([[[0, 1, 255 % 2]]], dtype=torch.uint8)
    assert hard_overlap(target, target, 2, ignore_index=ignored).reference.tolist() == [[1, 2]]
    target = torch.tensor([[[255, 0]]], dtype=torch.uint8)  # 255 is what −1 wraps around to
    with pytest.raises(ValueError, match="reference holds the label 255"):
        hard_overlap(torch.zeros_like(target), target, 2, ignore_index=-1)


def test_a_single_mask_ignores_by_value():
    prediction, target = torch.tensor([[[1, 1, 0, 1]]]), torch.tensor([[[1, 0, 255, 255]]])
    assert [c.item() for c in hard_overlap(prediction, target, ignore_index=255)] == [1, 2, 1]


def test_everything_ignored_leaves_zeros():
    target = torch.full((2, 1, 3, 3), 255)
    for prediction in (torch.ones_like(target), torch.full_like(target, 255)):
        for num_classes in (2, 4):
            overlap = hard_overlap(prediction, target, num_classes, ignore_index=255)
            assert_counts(overlap, np.zeros((3, 2, num_classes)))


def test_a_voxel_of_no_class_counts_on_the_other_side_alone():
    masks = torch.tensor([[[1, 0, 0], [0, 1, 0]]])  # the third voxel has none
    labels = torch.tensor([[[0, 1, 1]]])
    overlap = hard_overlap(labels, masks, 2)
    assert_counts(overlap, np.array([[[1, 1]], [[1, 2]], [[1, 1]]]))


def test_ties_go_to_the_first_channel_as_in_torch():
    logits = torch.tensor([[[1.0, 2, 0, -torch.inf], [1, 2, 3, -torch.inf], [0, 2, 3, -torch.inf]]])
    overlap = hard_overlap(logits, torch.zeros(1, 1, 4), argmax=True)
    assert overlap.prediction.tolist() == torch.bincount(logits.argmax(1)[0], minlength=3).unsqueeze(0).tolist()


@pytest.mark.parametrize("num_classes", [2, 105, 180, 181, 182, 300, 1000])
def test_any_number_of_classes(num_classes):
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randint(0, num_classes, (2, 1, 1, 3000), generator=generator)
    target[..., :2000] = prediction[..., :2000]
    target[..., -1], prediction[..., -1] = num_classes - 1, num_classes - 1
    expected = reference.counts(*(masks_of(x[:, 0].numpy(), num_classes).numpy() for x in (prediction, target)))
    for check in (True, False):
        assert_counts(hard_overlap(prediction, target, num_classes, check=check), expected)
    assert_counts(hard_overlap(prediction, masks_of(target[:, 0].numpy(), num_classes), num_classes), expected)


def test_counts_of_a_large_image_are_exact_where_float32_is_not(monkeypatch):
    monkeypatch.undo()  # tiles of the real size
    n = 2**24 + 1  # the first integer that float32 cannot hold
    labels = torch.ones(1, 1, n, dtype=torch.uint8)
    for arguments in ({"num_classes": 2}, {"num_classes": 3}, {}):
        overlap = hard_overlap(labels, labels, **arguments)
        assert overlap.intersection[0, -1 if not arguments else 1] == overlap.reference.max() == n


@pytest.mark.parametrize("num_classes", [2, 3, 19, 105, 300])
def test_many_small_images_are_counted_as_each_alone(num_classes, monkeypatch):
    monkeypatch.undo()  # tiles of the real size
    generator = torch.Generator().manual_seed(1)
    prediction, target = torch.randint(0, num_classes, (2, 70, 1, 12, 11), generator=generator)
    target[3], target[5, :, :2] = 255, 255
    together = hard_overlap(prediction, target, num_classes, ignore_index=255)
    alone = hard_overlap(list(prediction), list(target), num_classes, ignore_index=255)
    assert_counts(together, torch.stack(list(alone)))


class Copies(TorchDispatchMode):
    """How many numbers are copied into another layout."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.clone.default, torch.ops.aten._reshape_copy.default):
            self.numbers += made.numel()
        return made


def test_an_image_in_another_layout_is_copied_once():
    labels = torch.randint(0, 2, (2, 1, 9, 8, 7)).transpose(2, 4)
    with Copies() as copies:
        hard_overlap(labels, labels.contiguous(), 2)
    assert copies.numbers == 2 * labels.numel()  # contiguous() above is the other one


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("num_classes", [120, 128, 256, 300, 600])
def test_more_classes_than_the_number_type_can_hold(dtype, num_classes):
    labels = torch.tensor([[[0, 1, 100, 119]]], dtype=dtype)
    for check in (True, False):
        overlap = hard_overlap(labels, labels, num_classes, check=check)
        assert overlap.intersection.nonzero()[:, 1].tolist() == [0, 1, 100, 119]


# On a GPU nothing waits for the host. Meta tensors hold no values, so that reading one is an error.


class ReadsOfTheHost(TorchDispatchMode):
    """Collects the operations that would make a GPU wait."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(word in str(func) for word in ("_local_scalar_dense", "nonzero.default", "bincount", "equal.default")):
            self.found.append(str(func))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("num_classes", [2, 5, 300])
@pytest.mark.parametrize("leaving_out", [{}, {"ignore_index": 255}])
def test_without_checks_no_value_is_read_on_a_device(num_classes, leaving_out):
    labels = torch.zeros(2, 1, 4, 4, dtype=torch.int64, device="meta")
    masks = torch.zeros(2, num_classes, 4, 4, device="meta")
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool, device="meta")
    with ReadsOfTheHost() as reads:
        for p, r, arguments in (
            (labels, labels, {"num_classes": num_classes}),
            (labels, labels, {"num_classes": num_classes, "mask": mask}),
            (masks, masks, {}),
            (masks, labels, {"num_classes": num_classes}),
            (masks, labels, {"argmax": True}),
            (masks, masks, {"threshold": 0.5}),
        ):
            overlap = hard_overlap(p, r, **arguments, **leaving_out, check=False)
            assert overlap.reference.shape == (2, num_classes)
    assert reads.found == []


@random_cases
@given(case=label_maps())
def test_the_histogram_of_a_device_is_that_of_the_cpu(case):
    prediction, target, num_classes = case
    expected = hard_overlap(labels_of(prediction), labels_of(target), num_classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_histogram", counting.scattered_histogram)
        assert_counts(hard_overlap(labels_of(prediction), labels_of(target), num_classes), torch.stack(list(expected)))


def test_without_checks_a_label_out_of_range_belongs_to_no_class():
    prediction, target = torch.tensor([[[0, 7, -3, 1]]]), torch.tensor([[[0, 1, 1, 300]]])
    for num_classes in (2, 3, 200):
        overlap = hard_overlap(prediction, target, num_classes, check=False)
        assert [counts[0, :2].tolist() for counts in overlap] == [[1, 0], [1, 1], [1, 2]]


# Noise: a file's slope and intercept move a label by less than 1e-3


FLOATS = [dtype for dtype in DTYPES if dtype.is_floating_point]
checked_or_not = pytest.mark.parametrize("check", [True, False], ids=["checked", "unchecked"])


def noisy(x: torch.Tensor, seed: int, dtype: torch.dtype) -> torch.Tensor:
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x + 9e-4 * (2 * noise - 1)).to(dtype)


@checked_or_not
@random_cases
@given(case=label_maps(), dtype=st.sampled_from(FLOATS), ignored=st.sampled_from([None, 1, 255]))
def test_noise_below_a_thousandth_counts_as_the_nearest_whole_number(check, case, dtype, ignored):
    prediction, target, num_classes = case
    labels = [labels_of(x) for x in (prediction, target)]
    masks = [masks_of(x, num_classes).double() for x in (prediction, target)]
    if ignored == 255:
        labels[1][..., :1] = masks[1][..., :1] = 255
    inside = (torch.arange(prediction.shape[-1]) > 0).double().expand(labels[0].shape)
    arguments = {"ignore_index": ignored, "mask": inside, "check": check}
    for p, r, classes in ((*labels, num_classes), (*masks, None)):
        expected = hard_overlap(p, r, classes, **arguments)
        arguments_with_noise = {**arguments, "mask": noisy(inside, 2, dtype)}
        overlap = hard_overlap(noisy(p, 0, dtype), noisy(r, 1, dtype), classes, **arguments_with_noise)
        assert_counts(overlap, torch.stack(list(expected)).numpy())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("num_classes", [2, 3, None])
def test_a_fraction_from_a_thousandth_on_is_refused(dtype, num_classes):
    bad = torch.tensor([[[0, 1.1e-3, 1]]], dtype=dtype)
    with pytest.raises(ValueError, match=f"prediction must hold .* but holds {bad[0, 0, 1].item():g}"):
        hard_overlap(bad, torch.tensor([[[0, 1, 1]]]), num_classes)


# a label map and a mask that were interpolated, and their nearest whole numbers, of two as near the even one
INTERPOLATED = {
    3: ([1.1e-3, 0.0078, 0.375, 0.5, 1.5, 1.625, 254.75], [0, 0, 0, 0, 2, 2, 255]),
    None: ([1.1e-3, 0.0078, 0.375, 0.5, 0.625, 1.25, 254.75], [0, 0, 0, 0, 1, 1, 255]),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("num_classes", INTERPOLATED)
def test_fractions_of_the_reference_count_as_the_nearest_whole_number_with_one_warning(num_classes, dtype):
    given, whole = (values(*numbers) for numbers in INTERPOLATED[num_classes])
    prediction, given = values(0, 1, 0, 1, 0, 1, 0), given.to(dtype)
    if dtype == torch.bfloat16:  # it has no 254.75
        given[..., -1] = 255
    expected = torch.stack(list(hard_overlap(prediction, whole, num_classes, ignore_index=255))).numpy()
    words = f"reference holds {given[0, 0, 0].item():.7g}, read as 0, the nearest whole number; .*`mode: nearest`"
    with pytest.warns(UserWarning, match=words) as caught:
        overlap = hard_overlap(prediction, given, num_classes, ignore_index=255)
    assert len(caught) == 1  # of several tiles
    assert_counts(overlap, expected)
    assert_counts(hard_overlap(prediction, given, num_classes, ignore_index=255, check=False), expected)


def test_a_counter_warns_once():
    count, reference = counting.OverlapCounter(2), values(0, 0.375)
    with pytest.warns(UserWarning, match=r"reference holds 0\.375, read as 0") as caught:
        counts = [count(values(0, 1), reference) for _ in range(2)]
    assert len(caught) == 1
    assert torch.equal(counts[0].reference, counts[1].reference)


def test_a_label_that_is_out_of_range_once_rounded_is_named():
    with pytest.raises(ValueError, match="reference holds the label 2, but 2 classes allow 0 to 1"):
        hard_overlap(values(0, 1), values(0, 1.625), 2)
    with pytest.raises(ValueError, match="reference must hold masks of 0 and 1, but holds 2"):
        hard_overlap(values(0, 1), values(0, 1.625))


# Bad input: argument, expected, found, cure


def values(*numbers) -> torch.Tensor:
    return torch.tensor([[numbers]])


TWO_ACTIVE = torch.tensor([[[1, 1, 0], [0, 1, 0], [0, 0, 1]]])
BAD = {
    "fraction": (
        values(0, 0.5),
        values(0.0, 1),
        {"num_classes": 2},
        "prediction must hold whole-number labels, but holds 0.5; give threshold= .* argmax=",
    ),
    "no number in the reference": (
        values(0.0, 1),
        values(0, torch.nan),
        {"num_classes": 3},
        "reference must hold whole-number labels, but holds nan; interpolate labels with mode='nearest'",
    ),
    "probabilities as masks": (
        values(0.25, 1),
        values(0.0, 1),
        {},
        "prediction must hold masks of 0 and 1, but holds 0.25; give threshold=",
    ),
    "labels as masks": (
        values(0, 1),
        values(0, 2),
        {},
        "reference must hold masks of 0 and 1, but holds 2; give num_classes for label maps",
    ),
    "no number": (
        values(0, torch.nan),
        values(0.0, 1),
        {"num_classes": 2},
        "prediction must hold whole-number labels, but holds nan",
    ),
    "infinite": (
        values(0, torch.inf),
        values(0.0, 1),
        {"num_classes": 2},
        "prediction holds the label inf, but 2 classes",
    ),
    "negative": (
        values(0, 1),
        values(0, -1),
        {"num_classes": 2},
        "reference holds the label -1, but 2 classes allow 0 to 1.* with ignore_index=-1",
    ),
    "too high": (
        values(0, 9),
        values(0, 1),
        {"num_classes": 3},
        "prediction holds the label 9, but 3 classes allow 0 to 2.* raise num_classes",
    ),
    "too high by a wrap": (values(0, 65536 * 3), values(0, 1), {"num_classes": 3}, "prediction holds the label 196608"),
    "too high beside ignored": (
        values(9, 9),
        values(255, 1),
        {"num_classes": 3, "ignore_index": 255},
        "prediction holds the label 9",
    ),
    "two active classes": (
        values(0, 1, 2),
        TWO_ACTIVE,
        {"num_classes": 3},
        "reference must be one-hot .* but has 2 active classes in one voxel; give masks on both sides",
    ),
    "logits that are NaN": (
        torch.full((1, 2, 3), torch.nan),
        values(0, 1, 1),
        {"argmax": True},
        "prediction must hold numbers, but holds NaN",
    ),
    "mask": (
        values(0, 1),
        values(0, 1),
        {"num_classes": 2, "mask": values(0.5, 1)},
        "mask must hold masks of 0 and 1, but holds 0.5; mark",
    ),
    "threshold and argmax": (
        values(0, 1),
        values(0, 1),
        {"threshold": 0.5, "argmax": True},
        "threshold=0.5 and argmax=True exclude each other; keep",
    ),
    "no class": (
        values(0, 1),
        values(0, 1),
        {"num_classes": 0},
        "num_classes must be at least 1, a whole number, but is 0",
    ),
    "empty lists": ([], [], {}, "must hold the same images, at least one image each, but hold 0 and 0"),
    "second image": (
        [values(0, 1)[0], values(0, 3)[0]],
        [values(0, 1)[0]] * 2,
        {"num_classes": 2},
        "holds the label 3, .* This is image 1 of the list",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused_in_a_sentence(case):
    prediction, target, arguments, sentence = BAD[case]
    with pytest.raises(ValueError, match=sentence):
        hard_overlap(prediction, target, **arguments)


ones = torch.ones
BAD_SHAPES = {
    "batch": (
        ones(2, 1, 4),
        ones(1, 1, 4),
        {"num_classes": 2},
        r"must have the same shape.*\(2, 1, 4\) and \(1, 1, 4\).*crop",
    ),
    "space": (ones(2, 1, 4, 4), ones(2, 1, 4, 1), {"num_classes": 2}, "must have the same shape"),
    "channels": (
        ones(2, 1, 4),
        ones(2, 3, 4),
        {},
        "label maps .* with num_classes, .* num_classes=None; give num_classes",
    ),
    "classes": (ones(2, 3, 4), ones(2, 1, 4), {"num_classes": 4}, "with num_classes=4"),
    "classes of argmax": (ones(2, 3, 4), ones(2, 1, 4), {"num_classes": 4, "argmax": True}, "with num_classes=4"),
    "axes": (ones(4, 4), ones(4, 4), {}, r"prediction must have the shape \(B, C, spatial...\)"),
    "no image": (ones(0, 1, 4), ones(0, 1, 4), {}, "at least one image and channel"),
    "no channel": (ones(1, 0, 4), ones(1, 0, 4), {}, "at least one image and channel"),
    "argmax of one": (
        ones(1, 1, 4),
        ones(1, 1, 4),
        {"argmax": True},
        "one channel per class for argmax=True.*use threshold=",
    ),
    "threshold of one": (
        ones(1, 1, 4),
        ones(1, 1, 4),
        {"threshold": 0.5, "num_classes": 3},
        "must have 3 channels for threshold=",
    ),
    "mask": (ones(2, 1, 4), ones(2, 1, 4), {"mask": ones(1, 1, 4)}, r"mask must have the shape \(2, 1, 4\)"),
    "mask without channel": (ones(2, 1, 4), ones(2, 1, 4), {"mask": ones(2, 4)}, "add the missing axes"),
    "classes of a list": ([ones(2, 4), ones(3, 4)], [ones(2, 4), ones(3, 4)], {}, "same classes in every image"),
    "length of lists": ([ones(1, 4)] * 2, [ones(1, 4)], {}, "but hold 2 and 1 images"),
    "length of masks": ([ones(1, 4)], [ones(1, 4)], {"mask": [ones(1, 4)] * 2}, "but hold 1 and 1 and 2 images"),
}


@pytest.mark.parametrize("case", BAD_SHAPES)
def test_bad_shapes_are_refused_in_a_sentence(case):
    prediction, target, arguments, sentence = BAD_SHAPES[case]
    with pytest.raises(ShapeMismatchError, match=sentence):
        hard_overlap(prediction, target, **arguments)


def test_arrays_are_refused_by_name():
    with pytest.raises(TypeError, match="reference must be a tensor or a list of tensors, but is ndarray"):
        hard_overlap(torch.ones(1, 1, 2), np.ones((1, 1, 2)))


def test_an_image_without_a_voxel_has_counts_of_zero():
    assert_counts(hard_overlap(ones(1, 1, 0), ones(1, 1, 0), 3), np.zeros((3, 1, 3)))
    assert_counts(hard_overlap(ones(1, 2, 0), ones(1, 2, 0)), np.zeros((3, 1, 2)))


@pytest.mark.parametrize("settings", [{"argmax": True}, {"threshold": 0.5}])
def test_removed_voxels_may_hold_nan(settings):
    logits = torch.tensor([[[2.0, -1, torch.nan], [-2, 1, 0]]])
    reference = torch.tensor([[[0, 1, 255]]])
    counts = hard_overlap(logits, reference, 2, ignore_index=255, **settings)
    assert counts.intersection.tolist() == [[1, 1]]
    masked = hard_overlap(logits, reference.clamp(max=1), 2, mask=torch.tensor([[[1, 1, 0]]]), **settings)
    assert masked.intersection.tolist() == [[1, 1]]


@pytest.mark.parametrize("wrong", [3.0, "3", 0])
def test_the_number_of_classes_is_a_whole_number(wrong):
    with pytest.raises(ValueError, match="num_classes must be at least 1, a whole number"):
        hard_overlap(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), wrong)


# One-hot voxels without a class, the last of three here

WITHOUT_A_CLASS = torch.tensor([[[1, 0, 1], [0, 1, 0]]]), torch.tensor([[[1, 0, 0], [0, 1, 0]]])
CLASSES = {
    "num_classes": (lambda p: p, {"num_classes": 2}),
    "argmax": (lambda p: p, {"argmax": True}),
    "label map": (lambda p: p.argmax(1, keepdim=True), {"num_classes": 2}),
}


@pytest.mark.parametrize("form", CLASSES)
def test_voxels_of_no_class_are_removed_by_a_label_beyond_the_classes_as_in_monai(form):
    prediction, reference = WITHOUT_A_CLASS
    of_form, arguments = CLASSES[form]
    for check in (True, False):
        overlap = hard_overlap(of_form(prediction), reference, **arguments, ignore_index=255, check=check)
        assert overlap.prediction.tolist() == [[1, 1]]
    theirs = compute_dice(prediction, reference.float(), ignore_index=255)
    torch.testing.assert_close(dice_score(overlap).float(), theirs)
    assert hard_overlap(of_form(prediction), reference, **arguments).prediction.tolist() == [[2, 1]]


@pytest.mark.parametrize("arguments", [{}, {"threshold": 0.5}, {"threshold": 0.5, "num_classes": 2}], ids=str)
def test_voxels_of_no_structure_are_background_and_stay(arguments):
    prediction, reference = WITHOUT_A_CLASS
    assert hard_overlap(prediction, reference, **arguments, ignore_index=255).prediction.tolist() == [[2, 1]]


@random_cases
@given(case=label_maps(), data=st.data())
def test_losses_and_scores_leave_out_the_same_voxels(case, data):
    _, target, num_classes = case
    reference = masks_of(target, num_classes).double()
    reference *= torch.from_numpy(data.draw(arrays(np.bool_, target.shape))).unsqueeze(1)  # some voxels of no class
    ignored = data.draw(st.sampled_from([-1, 255, *range(num_classes)]))
    voxels = SoftDiceLoss(ignore_index=ignored).check(reference, reference)
    counts = hard_overlap(reference, reference, num_classes, ignore_index=ignored)
    torch.testing.assert_close(voxels.target.sum(-1).long(), counts.reference)
    everywhere = hard_overlap(torch.ones_like(reference), reference, num_classes, ignore_index=ignored)
    assert torch.equal(everywhere.prediction[:, 0], voxels.valid.sum(-1))
