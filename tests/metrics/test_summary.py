"""PerImageScores: every score of one counting pass against NumPy, Ignite, torchmetrics, SciPy and the paper's definitions."""

import math
import sys
from importlib.metadata import requires

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.metrics import ConfusionMatrix, DiceCoefficient, IoU
from ignite.metrics.confusion_matrix import cmPrecision, cmRecall
from torchmetrics.functional.segmentation import dice_score, mean_iou

from monai_surrogates import metrics
from monai_surrogates.core import EMPTY_RULES, SCORES, ScoreTable
from monai_surrogates.metrics import PerImageDiceMetric, PerImageIoUMetric, PerImageScores
from tests import reference
from tests.metrics.test_per_image import as_labels, as_masks, label_maps
from tests.statistics.test_intervals import scipy_interval

random_cases = settings(max_examples=40, deadline=None)
EXACT = {"rtol": 0, "atol": 1e-12}


def scores_of(case, **arguments) -> PerImageScores:
    prediction, target, num_classes = case
    scores = PerImageScores(num_classes=num_classes, **arguments)
    scores(as_labels(prediction), as_labels(target))
    return scores


@pytest.mark.parametrize("empty", EMPTY_RULES)
@pytest.mark.parametrize("include_background", [True, False])
@random_cases
@given(case=label_maps())
def test_every_score_is_that_of_numpy_per_image_per_class_and_pooled(empty, include_background, case):
    prediction, target, num_classes = case
    scores = scores_of(case, empty=empty, include_background=include_background)
    first = 0 if include_background else 1
    masks = [as_masks(x, num_classes).bool().numpy()[:, first:] for x in (prediction, target)]
    cells = reference.scores_of_counts(reference.counts(*masks), empty)
    pooled = reference.scores_of_counts(reference.counts(*masks).sum(1), empty)
    per_image, per_class, defined = scores.per_image(), scores.per_class(), scores.defined()
    assert cells.keys() == per_image.keys() == SCORES.keys()
    for name, expected in cells.items():
        np.testing.assert_allclose(per_image[name], expected, **EXACT)
        np.testing.assert_allclose(scores.pooled()[name], pooled[name], **EXACT)
        np.testing.assert_allclose(per_class[name], reference.mean_of_defined(expected, 0), **EXACT)
        np.testing.assert_array_equal(defined[name], (~np.isnan(expected)).sum(0))
    for metric_class, name in ((PerImageDiceMetric, "dice"), (PerImageIoUMetric, "iou")):
        metric = metric_class(empty=empty, include_background=include_background, num_classes=num_classes)
        torch.testing.assert_close(
            metric(as_labels(prediction), as_labels(target)), per_image[name], rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("empty", EMPTY_RULES)
@random_cases
@given(case=label_maps())
def test_dice_is_two_iou_over_one_plus_iou_per_image_and_pooled(empty, case):
    scores = scores_of(case, empty=empty)
    for cells in (scores.per_image(), scores.pooled()):
        torch.testing.assert_close(cells["dice"], 2 * cells["iou"] / (1 + cells["iou"]), equal_nan=True, **EXACT)
        harmonic = 2 / (1 / cells["precision"] + 1 / cells["recall"])
        both = cells["precision"].isfinite() & cells["recall"].isfinite()
        torch.testing.assert_close(cells["dice"][both], harmonic[both], **EXACT)


@random_cases
@given(case=label_maps())
def test_pooled_scores_are_those_of_ignite_and_torchmetrics(case):
    prediction, target, num_classes = case
    pooled = scores_of(case).pooled()
    matrix = ConfusionMatrix(num_classes)
    of_ignite = {
        "dice": DiceCoefficient(matrix),
        "iou": IoU(matrix),
        "precision": cmPrecision(matrix, average=False),
        "recall": cmRecall(matrix, average=False),
    }
    masks = as_masks(prediction, num_classes), as_masks(target, num_classes)
    matrix.update((masks[0], torch.from_numpy(target)))
    for name, metric in of_ignite.items():
        defined = ~pooled[name].isnan()  # Ignite has 0 where we have NaN
        torch.testing.assert_close(metric.compute()[defined].double(), pooled[name][defined], rtol=0, atol=1e-9)
    theirs = dice_score(*masks, num_classes, average="none", aggregation_level="global")[0].double()
    defined = ~pooled["dice"].isnan()
    torch.testing.assert_close(theirs[defined], pooled["dice"][defined], rtol=1e-6, atol=1e-6)


@random_cases
@given(case=label_maps())
def test_per_image_scores_are_those_of_torchmetrics_where_the_reference_holds_the_class(case):
    prediction, target, num_classes = case
    cells = scores_of(case).per_image()
    masks = [as_masks(x, num_classes).long() for x in (prediction, target)]
    for name, theirs in (
        ("dice", dice_score(*masks, num_classes, average="none")),
        ("iou", mean_iou(*masks, num_classes, per_class=True)),
    ):
        defined = ~cells[name].isnan()
        torch.testing.assert_close(theirs[defined].double(), cells[name][defined], rtol=1e-6, atol=1e-6)


# Fine-grained means (arXiv 2310.19252)


@random_cases
@given(case=label_maps(), q=st.one_of(st.integers(1, 100), st.floats(0.1, 100)))
def test_fine_grained_means_are_the_papers(case, q):
    scores = scores_of(case)
    expected = reference.fine_grained_means(*case)
    found = scores.aggregate()
    for name in ("miou_d", "miou_i", "miou_c"):
        assert found[name] == pytest.approx(expected[name], abs=1e-12, nan_ok=True)
    of_images = reference.mean_of_defined(scores.per_image()["iou"].numpy(), 1)
    lowest = sorted(of_images[~np.isnan(of_images)])
    lowest = lowest[: max(1, math.floor(q * len(lowest) / 100))]
    assert scores.worst(q) == pytest.approx(np.mean(lowest), abs=1e-12)


def row(hit: int, predicted: int, there: int, size: int = 10) -> tuple[list[int], list[int]]:
    """Label maps of one image: class 1 is predicted in so many voxels, is there in so many, and hit in so many."""
    prediction = [1] * predicted + [0] * (size - predicted)
    reference = [1] * hit + [0] * (predicted - hit) + [1] * (there - hit)
    return prediction, reference + [0] * (size - len(reference))


@pytest.fixture
def lesions():
    """Three images: IoU ½, IoU ¼, and a false positive without a lesion."""
    scores = PerImageScores(num_classes=2, include_background=False, class_labels=["background", "lesion"])
    prediction, target = zip(row(2, 4, 2), row(1, 3, 2), row(0, 1, 0), strict=True)
    scores(torch.tensor(prediction).unsqueeze(1), torch.tensor(target).unsqueeze(1))
    return scores


def test_three_images_counted_by_hand(lesions):
    assert lesions.get_buffer().dtype == torch.int64
    assert lesions.get_buffer().tolist() == [[[2, 4, 2]], [[1, 3, 2]], [[0, 1, 0]]]
    numbers = lesions.aggregate()
    assert numbers == pytest.approx(
        {
            "dice": (2 / 3 + 2 / 5) / 2,
            "iou": (1 / 2 + 1 / 4) / 2,
            "precision": (1 / 2 + 1 / 3) / 2,
            "recall": (1 + 1 / 2) / 2,
            "relative_volume_error": (1 + 1 / 2) / 2,
            "defined_dice": 2,
            "defined_iou": 2,
            "defined_precision": 2,
            "defined_recall": 2,
            "defined_relative_volume_error": 2,
            "pooled_dice": 6 / 12,
            "pooled_iou": 3 / 9,
            "pooled_precision": 3 / 8,
            "pooled_recall": 3 / 4,
            "pooled_relative_volume_error": 4 / 4,
            "miou_d": 3 / 9,
            "miou_i": 3 / 8,
            "miou_c": 3 / 8,
            "worst_5_dice": 2 / 5,
            "worst_5_iou": 1 / 4,
            "worst_10_dice": 2 / 5,
            "worst_10_iou": 1 / 4,
        }
    )
    assert all(isinstance(number, float | int) for number in numbers.values())
    assert lesions.worst(100) == pytest.approx(3 / 8)
    by_label = lesions.by_label()
    assert list(by_label) == ["lesion"]
    assert by_label["lesion"]["dice"] == pytest.approx((2 / 3 + 2 / 5) / 2)
    assert by_label["lesion"]["pooled_iou"] == pytest.approx(3 / 9)
    assert by_label["lesion"]["defined_recall"] == 2


READINGS = ("per_image", "per_class", "pooled", "defined", "by_label", "aggregate")


def test_the_scores_of_the_same_counts_are_computed_once(lesions, monkeypatch):
    calls = []
    for name, score in SCORES.items():
        monkeypatch.setitem(SCORES, name, lambda *cells, n=name, f=score: (calls.append(n), f(*cells))[1])

    def read_everything():
        for reading in READINGS:
            getattr(lesions, reading)()
        lesions.worst(5)
        lesions.interval("iou", 0.9)

    read_everything()
    lesions.get_buffer()
    lesions.select([0, 1, 2])  # all of them
    read_everything()
    once = sorted(2 * [*SCORES])  # the cells, and the pooled counts
    assert sorted(calls) == once
    lesions.extend(lesions.get_buffer()[:1])
    read_everything()
    assert sorted(calls) == sorted(2 * once)


def test_the_table_follows_the_images_and_the_selection(lesions):
    assert lesions.table() == ScoreTable(lesions.overlap(), ("lesion",))
    assert lesions.table() is lesions.table()
    lesions.select([1])
    assert lesions.per_image()["iou"].tolist() == [[1 / 4]]
    lesions.select(None)
    assert lesions.aggregate()["iou"] == pytest.approx(3 / 8)
    lesions.append(torch.tensor([[2, 2, 2]]))
    assert lesions.per_class()["iou"].tolist() == pytest.approx([(1 / 2 + 1 / 4 + 1) / 3])
    lesions.reset()
    with pytest.raises(ValueError, match="nothing to aggregate"):
        lesions.table()


@pytest.mark.parametrize("reading", READINGS)
def test_a_caller_may_change_the_scores_that_it_got(lesions, reading):
    expected = getattr(lesions, reading)()
    found = getattr(lesions, reading)()
    for name, values in found.items():
        if isinstance(values, torch.Tensor):
            values.zero_()
        elif isinstance(values, dict):
            values.clear()
        else:
            found[name] = 0
    torch.testing.assert_close(getattr(lesions, reading)(), expected, equal_nan=True)


def test_repeating_the_images_changes_no_mean(lesions):
    once = lesions.aggregate()
    lesions.extend(lesions.get_buffer())
    twice = lesions.aggregate()
    assert twice["defined_dice"] == 4
    assert {k: v for k, v in twice.items() if "defined" not in k} == pytest.approx(
        {k: v for k, v in once.items() if "defined" not in k}
    )


def test_sums_beyond_float32_stay_exact():
    scores = PerImageScores()
    scores(torch.ones(1, 1, 4), torch.ones(1, 1, 4))
    scores.extend(torch.tensor([[[2**40, 2**40 + 1, 2**40 + 2]]]))
    assert [counts.sum().item() for counts in scores.overlap()] == [2**40 + 4, 2**40 + 5, 2**40 + 6]
    assert scores.pooled()["precision"].item() == (2**40 + 4) / (2**40 + 5)


# Nothing to score

EMPTY_CELLS = {
    # (prediction, reference) voxels: under each rule Dice, IoU and recall, precision, the volume error
    (0, 0): {"ignore": (math.nan,) * 3, "score": (1, 1, 0), "both": (math.nan,) * 3},
    (2, 0): {"ignore": (math.nan,) * 3, "score": (0, 0, math.nan), "both": (0, 0, math.nan)},
    (0, 2): dict.fromkeys(EMPTY_RULES, (0, math.nan, -1)),
    (2, 2): dict.fromkeys(EMPTY_RULES, (1, 1, 0)),
}


@pytest.mark.parametrize("empty", EMPTY_RULES)
@pytest.mark.parametrize("voxels", EMPTY_CELLS)
def test_the_four_empty_cases_of_each_rule(voxels, empty):
    scores = PerImageScores(empty=empty)
    scores(*(torch.tensor([[[1] * n + [0] * (3 - n)]]) for n in voxels))
    overlaps, precision, error = EMPTY_CELLS[voxels][empty]
    expected = dict.fromkeys(("dice", "iou", "recall"), overlaps) | {
        "precision": precision,
        "relative_volume_error": error,
    }
    for cells in (scores.per_image(), scores.pooled()):
        assert {name: cell.item() for name, cell in cells.items()} == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("empty", EMPTY_RULES)
def test_everything_ignored_is_a_pair_of_empty_images(empty):
    target = torch.full((2, 1, 3, 3), 255)
    scores = PerImageScores(num_classes=3, ignore_index=255, empty=empty)
    scores(torch.ones_like(target), target)
    assert (scores.get_buffer() == 0).all()
    expected = 1 if empty == "score" else math.nan
    numbers = scores.aggregate()
    for name in ("dice", "pooled_iou", "miou_d", "miou_i", "miou_c", "worst_5_iou"):
        assert numbers[name] == pytest.approx(expected, nan_ok=True)
    assert numbers["defined_dice"] == (2 if empty == "score" else 0)
    interval = scores.interval()
    assert interval.images == numbers["defined_dice"]
    assert math.isnan(interval.low)


def test_a_class_absent_everywhere_touches_no_mean():
    prediction, target = (torch.randint(0, 3, (4, 1, 6, 6), generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    numbers = []
    for num_classes in (3, 5):
        scores = PerImageScores(num_classes=num_classes)
        scores(prediction, target)
        numbers.append(scores.aggregate())
    assert numbers[0] == pytest.approx(numbers[1])
    assert scores.defined()["dice"].tolist() == [4, 4, 4, 0, 0]


# Interval


def test_the_interval_is_scipy_s_over_the_means_of_images():
    prediction, target = torch.randint(0, 3, (2, 30, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    scores = PerImageScores(num_classes=3, include_background=False)
    scores(prediction, target)
    for name in ("dice", "iou"):
        values = scores.per_image()[name].nanmean(1).numpy()
        for confidence in (0.95, 0.5):
            found = scores.interval(name, confidence, seed=3)
            expected = scipy_interval(values, confidence)
            assert found[1:3] == pytest.approx(tuple(expected))
            assert found.mean == pytest.approx(values.mean())
            assert found.images == 30
    wide, narrow = scores.interval("dice"), scores.interval("dice", 0.5)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_without_scipy_there_is_all_but_the_interval_and_the_cure_is_named(monkeypatch, lesions):
    for name in [name for name in sys.modules if name.startswith("monai_surrogates.statistics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("monai_surrogates.statistics")
    monkeypatch.setitem(sys.modules, "scipy", None)  # as if it were not installed
    assert lesions.aggregate()["defined_dice"] == 2
    assert {"mean_interval", "MeanInterval"}.isdisjoint(dir(metrics))  # MONAI reads every name there
    for ask in (lesions.interval, lambda: metrics.mean_interval, lambda: metrics.MeanInterval):
        with pytest.raises(ImportError, match=r"needs SciPy; install it with: pip install 'monai-surrogates\[study\]'"):
            ask()
    assert any(word.startswith("scipy") and "study" in word for word in requires("monai-surrogates"))


# Wrong questions


def test_unknown_scores_percentages_and_confidences_are_refused(lesions):
    with pytest.raises(ValueError, match="q must be a percentage above 0 and up to 100, but is 0"):
        lesions.worst(0)
    for ask in (lesions.interval, lambda score: lesions.worst(5, score)):
        with pytest.raises(ValueError, match=r"score must be one of dice, iou, .*, but is 'hausdorff'"):
            ask("hausdorff")
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, but is 95"):
        lesions.interval(confidence=95)
    for ask in ("aggregate", "per_image", "pooled", "interval", "by_label"):
        with pytest.raises(ValueError, match="nothing to aggregate; call the metric on at least one batch first"):
            getattr(PerImageScores(), ask)()


def test_a_failing_call_leaves_the_counts(lesions):
    before = lesions.get_buffer()
    with pytest.raises(ValueError, match="y holds the label 7"):
        lesions(torch.zeros(2, 1, 4), torch.tensor([[[0, 0, 0, 0]], [[0, 0, 0, 7]]]))
    assert torch.equal(lesions.get_buffer(), before)
