"""Per-image Dice and IoU against NumPy, MONAI and exact fractions."""

import inspect
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from monai.metrics import CumulativeIterationMetric, DiceMetric, MeanIoU

from monai_surrogates.core import EMPTY_RULES, OverlapCounter, ShapeMismatchError, hard_overlap
from monai_surrogates.metrics import PerImageDiceMetric, PerImageIoUMetric, PerImageScores
from tests import reference

METRICS = {"dice": PerImageDiceMetric, "iou": PerImageIoUMetric}
REDUCTIONS = ("none", "mean", "sum", "mean_batch", "sum_batch", "mean_channel", "sum_channel")
FLOAT64, FLOAT32 = {"rtol": 0, "atol": 1e-12}, {"rtol": 1e-6, "atol": 1e-6}
random_cases = settings(max_examples=40, deadline=None)


@st.composite
def label_maps(draw, min_classes=2):
    """(prediction, reference, number of classes): two stacks of small label maps (images, spatial...), 2D or 3D."""
    num_classes = draw(st.integers(min_classes, 4))
    shape = draw(st.tuples(st.integers(1, 3), *[st.integers(1, 4)] * draw(st.sampled_from([2, 3]))))
    # a map uses few of the labels, so that absent classes are common
    prediction, target = (
        draw(
            arrays(
                np.int64,
                shape,
                elements=st.sampled_from(sorted(draw(st.sets(st.integers(0, num_classes - 1), min_size=1)))),
            )
        )
        for _ in range(2)
    )
    return prediction, target, num_classes


def as_labels(stack: np.ndarray) -> torch.Tensor:
    """(B, 1, spatial...)."""
    return torch.from_numpy(stack).unsqueeze(1)


def as_masks(stack: np.ndarray, num_classes: int) -> torch.Tensor:
    """(B, C, spatial...), float, as MONAI's AsDiscrete gives them."""
    return torch.from_numpy(np.stack([stack == c for c in range(num_classes)], axis=1)).float()


def expected_scores(case, empty: str, include_background: bool) -> dict[str, np.ndarray]:
    table = reference.per_image_scores(*case, empty)[:, :, 0 if include_background else 1 :]
    return dict(zip(("dice", "iou"), table, strict=True))


# Values


@pytest.mark.parametrize("empty", EMPTY_RULES)
@pytest.mark.parametrize("include_background", [True, False])
@random_cases
@given(case=label_maps())
def test_label_maps_and_masks_and_lists_agree_with_numpy(empty, include_background, case):
    prediction, target, num_classes = case
    expected = expected_scores(case, empty, include_background)
    for name, metric_class in METRICS.items():
        plain = metric_class(include_background=include_background, empty=empty)
        of_labels = metric_class(include_background=include_background, empty=empty, num_classes=num_classes)
        masks = as_masks(prediction, num_classes), as_masks(target, num_classes)
        labels = as_labels(prediction), as_labels(target)
        for metric, batch in (
            (plain, masks),
            (plain, [mask.bool() for mask in masks]),
            (plain, (masks[0], labels[1])),
            (plain, (list(masks[0]), list(labels[1]))),
            (of_labels, masks),
            (of_labels, labels),
            (of_labels, [label.double() for label in labels]),
            (of_labels, (labels[0], masks[1])),
            (of_labels, (masks[0], labels[1])),
            (of_labels, (list(labels[0]), list(labels[1]))),
        ):
            np.testing.assert_allclose(metric(*batch).numpy(), expected[name], **FLOAT64)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("empty", EMPTY_RULES)
@random_cases
@given(case=label_maps())
def test_every_reduction_agrees_with_numpy(reduction, empty, case):
    prediction, target, num_classes = case
    for name, scores in expected_scores(case, empty, include_background=False).items():
        metric = METRICS[name](
            include_background=False, num_classes=num_classes, empty=empty, reduction=reduction, get_not_nans=True
        )
        metric(as_labels(prediction), as_labels(target))
        value, count = metric.aggregate()
        expected_value, expected_count = reference.reduce_scores(scores, reduction)
        np.testing.assert_allclose(value.squeeze(), np.squeeze(expected_value), **FLOAT32)
        np.testing.assert_array_equal(count.squeeze(), np.squeeze(expected_count))


@pytest.mark.parametrize("ignore_empty", [True, False])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(max_examples=15, deadline=None)
@given(case=label_maps())
def test_monai_dice_and_iou_give_the_same_wherever_a_cell_is_defined(ignore_empty, include_background, reduction, case):
    prediction, target, num_classes = case
    masks = as_masks(prediction, num_classes), as_masks(target, num_classes)
    shared = {"include_background": include_background, "reduction": reduction, "get_not_nans": True}
    empty = "ignore" if ignore_empty else "score"
    for ours, monai, batch in (
        (PerImageDiceMetric(empty=empty, **shared), DiceMetric(ignore_empty=ignore_empty, **shared), masks),
        (PerImageIoUMetric(empty=empty, **shared), MeanIoU(ignore_empty=ignore_empty, **shared), masks),
        (
            PerImageDiceMetric(empty=empty, num_classes=num_classes, **shared),
            DiceMetric(ignore_empty=ignore_empty, num_classes=num_classes, **shared),
            (as_labels(prediction), as_labels(target)),
        ),
        (
            PerImageDiceMetric(empty=empty, **shared),
            DiceMetric(ignore_empty=ignore_empty, **shared),
            (masks[0], as_labels(target)),
        ),
    ):
        torch.testing.assert_close(ours(*batch).float(), monai(*batch).float(), equal_nan=True, **FLOAT32)
        (value, count), (expected_value, expected_count) = ours.aggregate(), monai.aggregate()
        assert torch.equal(count, expected_count)
        assert value.shape == expected_value.shape
        # MONAI reports 0 where nothing is defined; that is the one difference
        assert value[(count == 0).expand(value.shape)].isnan().all()
        expected_value = torch.where(count > 0, expected_value, torch.nan)
        torch.testing.assert_close(value.float(), expected_value.float(), equal_nan=True, **FLOAT32)


@pytest.mark.parametrize("empty", EMPTY_RULES)
@random_cases
@given(case=label_maps())
def test_dice_is_two_iou_over_one_plus_iou_on_every_cell(empty, case):
    prediction, target, num_classes = case
    batch = as_labels(prediction), as_labels(target)
    dice, iou = (m(num_classes=num_classes, empty=empty)(*batch) for m in METRICS.values())
    torch.testing.assert_close(dice, 2 * iou / (1 + iou), equal_nan=True, rtol=0, atol=1e-15)


@pytest.mark.parametrize("include_background", [True, False])
@random_cases
@given(case=label_maps())
def test_a_single_channel_is_always_scored(include_background, case):
    prediction, target = ((stack > 0)[:, None].astype(np.float32) for stack in case[:2])
    for name, metric_class in METRICS.items():
        scores = metric_class(include_background=include_background)(*map(torch.from_numpy, (prediction, target)))
        expected = expected_scores((prediction[:, 0] > 0, target[:, 0] > 0, 2), "ignore", include_background=False)
        np.testing.assert_allclose(scores.numpy(), expected[name], **FLOAT64)


def square(side_rows: int, side_columns: int, size: int) -> torch.Tensor:
    """A label map (1, size, size) with a rectangle of ones in the corner."""
    image = torch.zeros(1, size, size, dtype=torch.int64)
    image[:, :side_rows, :side_columns] = 1
    return image


# a reference of 50 × 50 predicted as 70 × 80: 2·2500/(2500 + 5600) and 2500/5600; a 4 × 4 one predicted as 2 × 4
LESIONS = {"dice": [Fraction(50, 81), Fraction(2, 3)], "iou": [Fraction(25, 56), Fraction(1, 2)]}


@pytest.mark.parametrize("name", METRICS)
def test_images_of_different_size_in_one_list_give_exact_fractions(name):
    metric = METRICS[name](include_background=False, num_classes=2)
    scores = metric([square(70, 80, 1000), square(2, 4, 9)], [square(50, 50, 1000), square(4, 4, 9)])
    assert scores.flatten().tolist() == [float(score) for score in LESIONS[name]]
    assert metric.aggregate().item() == pytest.approx(float(sum(LESIONS[name]) / 2), abs=1e-7)


def test_channels_may_overlap_in_multi_label_masks():
    prediction = torch.tensor([[[1, 1, 1, 0], [0, 1, 1, 0]]])
    target = torch.tensor([[[1, 1, 0, 0], [0, 1, 1, 1]]])
    assert PerImageDiceMetric()(prediction, target).tolist() == [[4 / 5, 4 / 5]]
    assert PerImageIoUMetric()(prediction, target).tolist() == [[2 / 3, 2 / 3]]


# Collecting


@pytest.fixture(params=METRICS)
def metric(request):
    return METRICS[request.param](include_background=False, num_classes=3)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(0, 3, (6, 1, 5, 4), generator=generator) for _ in range(2))


def test_it_is_a_monai_cumulative_metric_with_a_row_per_image(metric, batch):
    assert isinstance(metric, CumulativeIterationMetric)
    scores = metric(*batch)
    assert torch.equal(metric.get_buffer(), scores)
    assert scores.shape == (6, 2)
    assert len(metric) == 6


def test_batches_accumulate_and_reset_forgets_them(metric, batch):
    whole = metric(*batch)
    metric.reset()
    for start in (0, 2, 5):
        metric(*(x[start : {0: 2, 2: 5, 5: 6}[start]] for x in batch))
    assert torch.equal(metric.get_buffer(), whole)
    metric.reset()
    assert metric.get_buffer() is None
    assert torch.equal(metric(*(x[:1] for x in batch)), whole[:1])
    assert torch.equal(metric.get_buffer(), whole[:1])


def test_aggregating_twice_gives_the_same_and_leaves_the_buffer(metric, batch):
    batch[1][batch[1] == 2] = 1  # class 2 is absent from every reference: NaN cells
    scores = metric(*batch)
    assert torch.equal(metric.aggregate(), metric.aggregate())
    torch.testing.assert_close(metric.get_buffer(), scores, equal_nan=True)


def test_a_reduction_at_aggregation_replaces_the_one_given_before(metric, batch):
    scores = metric(*batch)
    torch.testing.assert_close(metric.aggregate("mean_batch"), scores.mean(0).float())
    torch.testing.assert_close(metric.aggregate().squeeze(), scores.mean().float())


def test_meta_tensors_score_as_plain_ones_and_come_back_plain(metric, batch):
    scores = metric(*batch)
    metric.reset()
    from_meta = metric(*(MetaTensor(x) for x in batch))
    assert type(from_meta) is torch.Tensor
    assert type(metric.get_buffer()) is torch.Tensor
    assert torch.equal(from_meta, scores)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float16, torch.float32, torch.float64])
def test_the_number_type_of_masks_and_labels_does_not_matter(dtype):
    prediction, target = torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]])
    of_masks, of_labels = PerImageIoUMetric(), PerImageIoUMetric(num_classes=2)
    assert of_masks(prediction.to(dtype), target.to(dtype)).tolist() == [[0.5]]
    assert of_labels(prediction.to(dtype), target.to(dtype)).tolist() == [[0.5, 0.5]]


def test_predictions_with_a_gradient_are_scored_without_one():
    prediction = torch.ones(1, 1, 3, requires_grad=True)
    assert not PerImageDiceMetric()(prediction, torch.ones(1, 1, 3)).requires_grad


@pytest.mark.parametrize("reduction", [r for r in REDUCTIONS if r != "none"])
@pytest.mark.parametrize("name", METRICS)
def test_without_a_defined_cell_the_score_is_nan_and_the_count_0(name, reduction):
    metric = METRICS[name](include_background=False, num_classes=3, reduction=reduction, get_not_nans=True)
    metric(torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))
    score, count = metric.aggregate()
    assert score.isnan().all()
    assert (count == 0).all()


def test_only_the_undefined_class_is_nan():
    metric = PerImageDiceMetric(num_classes=3, reduction="mean_batch")
    metric(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    assert metric.aggregate().tolist() == pytest.approx([1, math.nan, math.nan], nan_ok=True)


# Bad input: each has its sentence, and the collected scores stay

LABELS, MASKS = {"num_classes": 3}, {}


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


SAME_SHAPE, WHOLE, ZERO_ONE = (
    "must have the same shape",
    "must hold whole-number labels",
    "must hold masks of 0 and 1, but holds",
)
BAD_BATCHES = {
    "other spatial shape": (LABELS, ones(2, 1, 4, 4), ones(2, 1, 4, 5), ShapeMismatchError, SAME_SHAPE),
    "broadcastable batch": (LABELS, ones(2, 1, 4, 4), ones(1, 1, 4, 4), ShapeMismatchError, SAME_SHAPE),
    "broadcastable axis": (LABELS, ones(2, 1, 4, 4), ones(2, 1, 1, 4), ShapeMismatchError, r"and \(2, 1, 1, 4\)"),
    "broadcastable channel": (MASKS, ones(2, 1, 4, 4), ones(2, 3, 4, 4), ShapeMismatchError, "label maps .* with num_classes"),
    "overlapping masks": (MASKS, ones(2, 3, 4, 4), ones(2, 1, 4, 4), ValueError, "y_pred must be one-hot"),
    "missing channel axis": (LABELS, ones(2, 1, 4, 4), ones(2, 4, 4), ShapeMismatchError, SAME_SHAPE),
    "no spatial axis": (MASKS, ones(2, 3), ones(2, 3), ShapeMismatchError, r"y_pred must have the shape \(B, C, spatial"),
    "wrong number of channels": (LABELS, ones(2, 4, 4, 4), ones(2, 4, 4, 4), ShapeMismatchError, "with num_classes=3"),
    "no image": (LABELS, ones(0, 1, 4), ones(0, 1, 4), ShapeMismatchError, r"and channel, but has \(0, 1, 4\)"),
    "label too high": (LABELS, 3 * ones(2, 1, 4), ones(2, 1, 4), ValueError, "y_pred holds the label 3, but 3 classes"),
    "label below zero": (LABELS, ones(2, 1, 4), -ones(2, 1, 4), ValueError, "y holds the label -1, but 3 classes allow 0"),
    "label with a fraction": (LABELS, 1.5 * ones(2, 1, 4), ones(2, 1, 4), ValueError, f"y_pred {WHOLE}, but holds 1.5"),
    "label that is no number": (LABELS, math.nan * ones(2, 1, 4), ones(2, 1, 4), ValueError, f"y_pred {WHOLE}"),
    "probabilities": (MASKS, torch.tensor([[[0, 0.25, 1]]]), ones(1, 1, 3), ValueError, f"{ZERO_ONE} 0.25; give"),
    "labels as a mask": (MASKS, ones(1, 1, 3), 2 * ones(1, 1, 3), ValueError, f"y {ZERO_ONE} 2"),
    "no reference": (MASKS, ones(1, 1, 3), None, ValueError, "y must be given: the reference"),
    "lists of different length": (LABELS, [ones(1, 4)] * 2, [ones(1, 4)] * 3, ShapeMismatchError, "2 and 3 images"),
    "empty lists": (LABELS, [], [], ShapeMismatchError, "at least one image"),
    "bad image in a list": (LABELS, [ones(1, 4)] * 2, [ones(1, 4), ones(1, 5)], ShapeMismatchError, SAME_SHAPE),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BATCHES)
@pytest.mark.parametrize("name", METRICS)
def test_a_bad_batch_is_refused_in_a_sentence_and_the_scores_so_far_stay(name, case):
    settings, prediction, target, error, sentence = BAD_BATCHES[case]
    metric = METRICS[name](**settings)
    good = torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]])
    before = metric(*good)
    with pytest.raises(error, match=sentence):
        metric(prediction, target)
    torch.testing.assert_close(metric.get_buffer(), before, equal_nan=True)
    metric(*good)
    assert len(metric) == 2


@pytest.mark.parametrize("as_batch", [lambda x: x, list], ids=["tensor", "list"])
@pytest.mark.parametrize("name", METRICS)
def test_an_interpolated_reference_is_rounded_with_one_warning(name, as_batch):
    metric, expected = METRICS[name](**LABELS), METRICS[name](**LABELS)
    prediction, whole = torch.tensor([[[0, 1, 2, 2]]] * 2), torch.tensor([[[0, 1, 0, 2]]] * 2)
    given = torch.tensor([[[0.0078, 1, 0.375, 1.625]]] * 2)
    with pytest.warns(UserWarning, match=r"^y holds 0\.0078, read as 0, .*`mode: nearest`.*AsDiscreted") as caught:
        rows = [metric(as_batch(prediction), as_batch(given)) for _ in range(2)]
    assert len(caught) == 1
    for row in rows:
        assert torch.equal(row, expected(prediction, whole))


@pytest.mark.parametrize("as_batch", [lambda x: x, list], ids=["tensor", "list"])
def test_a_batch_with_another_number_of_classes_is_refused_and_the_scores_so_far_stay(as_batch):
    metric = PerImageDiceMetric()
    before = metric(ones(2, 2, 4), ones(2, 2, 4))
    with pytest.raises(ShapeMismatchError, match="3 scored channels, but 2 were scored so far"):
        metric(as_batch(ones(2, 3, 4)), as_batch(ones(2, 3, 4)))
    assert torch.equal(metric.get_buffer(), before)


def test_a_bad_first_batch_leaves_the_metric_as_new():
    metric = PerImageDiceMetric(num_classes=2)
    with pytest.raises(ShapeMismatchError, match="at least one image"):
        metric(ones(0, 1, 4), ones(0, 1, 4))
    assert metric.get_buffer() is None


@pytest.mark.parametrize("name", METRICS)
def test_aggregate_before_any_batch_says_so(name):
    with pytest.raises(ValueError, match="nothing to aggregate; call the metric on at least one batch first"):
        METRICS[name]().aggregate()


@pytest.mark.parametrize("name", METRICS)
def test_bad_settings_are_refused_at_construction(name):
    with pytest.raises(ValueError, match="empty must be one of ignore, score, both, but is 'zero'"):
        METRICS[name](empty="zero")
    with pytest.raises(ValueError, match="num_classes must be at least 1, a whole number, but is 0"):
        METRICS[name](num_classes=0)
    with pytest.raises(ValueError, match="median"):
        METRICS[name](reduction="median")


# Settings


@pytest.mark.parametrize("ignore_empty", [True, False])
@pytest.mark.parametrize("include_background", [True, False])
@settings(max_examples=25, deadline=None)
@given(case=label_maps(), data=st.data())
def test_monai_gives_the_same_with_ignored_labels(ignore_empty, include_background, case, data):
    prediction, target, num_classes = case
    target = np.where(data.draw(arrays(np.bool_, target.shape)), 255, target)
    shared = {"include_background": include_background, "ignore_empty": ignore_empty, "ignore_index": 255}
    masks = as_masks(prediction, num_classes), as_masks(target, num_classes)  # 255 is in none, as MONAI wants it
    for name, theirs in (("dice", DiceMetric(**shared)), ("iou", MeanIoU(**shared))):
        ours = METRICS[name](num_classes=num_classes, **shared)
        scores = ours(as_labels(prediction), as_labels(target))
        torch.testing.assert_close(scores.float(), theirs(*masks).float(), equal_nan=True, **FLOAT32)


@random_cases
@given(case=label_maps(), data=st.data())
def test_ignored_or_masked_voxels_score_as_cropped(case, data):
    prediction, target, num_classes = case
    valid = data.draw(arrays(np.bool_, target.shape))
    marked = np.where(valid, target, 255)
    cells = [
        [reference.dice_and_iou(p[k] == c, r[k] == c) for c in range(num_classes)]
        for p, r, k in zip(prediction, target, valid, strict=True)
    ]
    expected = dict(zip(("dice", "iou"), np.array(cells, dtype=float).transpose(2, 0, 1), strict=True))
    mask = torch.from_numpy(valid).unsqueeze(1)
    for name, metric_class in METRICS.items():
        ignoring = metric_class(num_classes=num_classes, ignore_index=255)
        masked = metric_class(num_classes=num_classes)
        for scores in (
            ignoring(as_labels(prediction), as_labels(marked)),
            ignoring(list(as_labels(prediction)), list(as_labels(marked))),
            ignoring(as_masks(prediction, num_classes), as_labels(marked)),
            masked(as_labels(prediction), as_labels(target), mask=mask),
            masked(list(as_labels(prediction)), list(as_labels(target)), mask=list(mask)),
        ):
            np.testing.assert_allclose(scores.numpy(), expected[name], **FLOAT64)


def test_logits_are_scored_by_argmax_or_threshold():
    logits = torch.tensor([[[2.0, 0.2, 0.1, 3.0], [1.0, 0.4, 0.2, -1.0], [-1.0, 0.3, 4.0, -1.0]]])
    target = torch.tensor([[[0, 1, 2, 2]]])
    assert PerImageDiceMetric(argmax=True)(logits, target).tolist() == [[2 / 3, 1, 2 / 3]]
    masks = torch.cat([target == c for c in range(3)], dim=1)
    assert PerImageIoUMetric(threshold=0.3)(logits, masks).tolist() == [[1 / 2, 1 / 2, 1 / 3]]


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({}, "ignore"),
        ({"ignore_empty": True}, "ignore"),
        ({"ignore_empty": False}, "score"),
        ({"ignore_empty": False, "empty": "score"}, "score"),
        ({"empty": "both"}, "both"),
    ],
)
def test_ignore_empty_is_monais_name_of_the_rule(arguments, rule):
    assert PerImageDiceMetric(**arguments).empty == rule


@pytest.mark.parametrize(
    ("ignore_empty", "empty"), [(True, "score"), (False, "ignore"), (True, "both"), (False, "both")]
)
def test_two_different_rules_are_refused(ignore_empty, empty):
    with pytest.raises(ValueError, match=f"ignore_empty={ignore_empty} means empty=.* but empty='{empty}' is given"):
        PerImageIoUMetric(ignore_empty=ignore_empty, empty=empty)


@pytest.mark.parametrize(
    ("include_background", "names", "scored"),
    [
        (True, ["background", "liver", "tumour"], ("background", "liver", "tumour")),
        (False, ["liver", "tumour"], ("liver", "tumour")),
        (False, ["background", "liver", "tumour"], ("liver", "tumour")),
        (True, None, ("class0", "class1", "class2")),
        (False, None, ("class1", "class2")),
    ],
)
def test_classes_have_names(batch, include_background, names, scored):
    metric = PerImageDiceMetric(include_background=include_background, num_classes=3, class_labels=names)
    scores = metric(*batch)
    assert metric.class_labels == scored
    assert metric.by_label() == pytest.approx(dict(zip(scored, scores.nanmean(0).tolist(), strict=True)))


@pytest.mark.parametrize("names", [{"0": "rest", "1": "liver", "2": "tumour"}, ("rest", "liver", "tumour")], ids=str)
def test_names_come_from_a_mapping_too_and_need_no_image(names):
    metric = PerImageDiceMetric(include_background=False, num_classes=3, class_labels=names)
    assert metric.class_labels == ("liver", "tumour")
    assert PerImageDiceMetric(num_classes=2, class_labels=[0, 1]).class_labels == ("0", "1")
    assert PerImageDiceMetric(class_labels=["liver", "tumour"]).class_labels == ("liver", "tumour")
    assert PerImageDiceMetric().class_labels == ()
    with pytest.raises(TypeError, match="class_labels must be a list of names, but is 'ab'"):
        PerImageDiceMetric(class_labels="ab")


def test_wrong_names_are_refused_as_soon_as_the_number_of_classes_is_known(batch):
    wrong = {"include_background": False, "class_labels": ["liver"]}
    with pytest.raises(
        ValueError, match=r"class_labels must name the 2 scored classes, but holds 1 names: \['liver'\]"
    ):
        PerImageDiceMetric(num_classes=3, **wrong)
    metric = PerImageDiceMetric(**wrong)
    with pytest.raises(ValueError, match="class_labels must name the 2 scored classes"):
        metric(*(torch.cat([x == c for c in range(3)], dim=1) for x in batch))
    assert metric.get_buffer() is None
    with pytest.raises(ValueError, match="class_labels must differ"):
        PerImageDiceMetric(class_labels=["liver", "liver"])


def test_threshold_and_argmax_exclude_each_other_at_construction():
    with pytest.raises(ValueError, match=r"threshold=0.5 and argmax=True exclude each other"):
        PerImageDiceMetric(threshold=0.5, argmax=True)


# MONAI's arguments


@pytest.mark.parametrize(("ours", "monai"), [(PerImageDiceMetric, DiceMetric), (PerImageIoUMetric, MeanIoU)])
def test_the_order_of_arguments_is_monais(ours, monai):
    by_position = [p.name for p in inspect.signature(ours).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_position == list(inspect.signature(monai).parameters)


@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("return_with_label", [False, True, ["rest", "liver", "tumour"]], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "mean_batch", "none"])
def test_return_with_label_gives_what_monai_gives(batch, include_background, return_with_label, reduction):
    if isinstance(return_with_label, list) and not include_background:
        return_with_label = return_with_label[1:]  # MONAI gives the names to the scored classes in turn
    arguments = {"include_background": include_background, "num_classes": 3, "reduction": reduction}
    ours = PerImageDiceMetric(**arguments, get_not_nans=True, return_with_label=return_with_label)
    monai = DiceMetric(**arguments, get_not_nans=True, return_with_label=return_with_label)
    for metric in (ours, monai):
        metric(*batch)
    (found, count), (expected, expected_count) = ours.aggregate(), monai.aggregate()
    assert torch.equal(count, expected_count)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, abs=5.1e-5)  # MONAI's have four decimals
        assert list(found.values()) == ours.aggregate_with_count()[0].tolist()
    else:
        torch.testing.assert_close(found.float(), expected.float(), **FLOAT32)


def test_names_of_return_with_label_are_those_of_the_classes(batch):
    metric = PerImageIoUMetric(include_background=False, return_with_label=["rest", "liver", "tumour"], num_classes=3)
    assert metric.class_labels == ("liver", "tumour")
    assert PerImageIoUMetric(include_background=False, return_with_label=True, num_classes=3).class_labels == (
        "label_1",
        "label_2",
    )
    with pytest.raises(ValueError, match="class_labels and return_with_label must not both name the classes"):
        PerImageIoUMetric(return_with_label=["liver"], class_labels=["liver"])


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["liver"], r"return_with_label must name the 2 scored classes, but holds 1 names: \['liver'\]; give one name"),
        (["liver", "liver"], "return_with_label must differ from each other"),
    ],
)
@pytest.mark.parametrize("num_classes", [3, None])
def test_names_that_monai_takes_and_that_do_not_fit_are_numbers_with_one_warning(batch, names, fault, num_classes):
    masks = [torch.cat([x == c for c in range(3)], dim=1) for x in batch]
    with pytest.warns(UserWarning, match=f"{fault}.* The classes are numbered.") as caught:
        metric = PerImageDiceMetric(False, "mean_batch", num_classes=num_classes, return_with_label=names)
        metric(*masks)
        metric(*masks)
    assert len(caught) == 1
    assert list(metric.aggregate()) == ["label_1", "label_2"]


@pytest.mark.parametrize("metric_class", [PerImageDiceMetric, PerImageIoUMetric, PerImageScores])
def test_components_are_not_scored_and_a_warning_says_so(metric_class):
    with pytest.warns(
        UserWarning, match=f"{metric_class.__name__} has no use for per_component, .* as a whole: not used"
    ):
        metric = metric_class(per_component=True, num_classes=2)
    batch = torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]])
    assert torch.equal(metric(*batch), metric_class(num_classes=2)(*batch))


@pytest.mark.parametrize("metric_class", [PerImageDiceMetric, PerImageIoUMetric, PerImageScores])
def test_a_misspelt_argument_names_the_class_and_the_nearest(metric_class):
    message = f"{metric_class.__name__} got an unexpected keyword argument 'num_class'; did you mean 'num_classes'"
    with pytest.raises(TypeError, match=message):
        metric_class(num_class=2)
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'gamma'\."):
        metric_class(gamma=2)


def test_a_device_is_read_at_the_first_call_alone(monkeypatch):
    good = torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]])
    counted, checks = hard_overlap(*good, num_classes=2), []
    monkeypatch.setattr(OverlapCounter, "__call__", lambda *_, check: checks.append(check) or counted)

    class OnDevice(torch.Tensor):
        device = torch.device("cuda")
        is_cuda = True

    metric = PerImageDiceMetric(num_classes=2)
    for y in (good[1].as_subclass(OnDevice), good[1].as_subclass(OnDevice), good[1], good[1]):
        metric(good[0], y)
    assert checks == [True, False, True, True]
