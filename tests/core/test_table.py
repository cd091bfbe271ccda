"""ScoreTable: every score of hand-made and of random counts, each computed once."""

import dataclasses
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_surrogates.core import EMPTY_RULES, SCORES, Overlap, ScoreTable
from tests import reference

EXACT = {"rtol": 0, "atol": 1e-12}


def table_of(cells: list[list[tuple[int, int, int]]], **arguments) -> ScoreTable:
    """From (intersection, prediction, reference) of each image and class."""
    counts = torch.tensor(cells)
    labels = tuple(f"class{number}" for number in range(counts.shape[1]))
    return ScoreTable(Overlap(*counts.unbind(-1)), **{"labels": labels, **arguments})


def mean(values: np.ndarray) -> float:
    """Of the defined ones."""
    return reference.mean_of_defined(values[None], 1).item()


@st.composite
def counts(draw):
    """Counts (3, images, classes) that masks could have, with many zeros."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    hit, false_positive, false_negative = (
        draw(arrays(np.int64, shape, elements=st.sampled_from([0, 0, 1, 2, 7]))) for _ in range(3)
    )
    return np.stack([hit, hit + false_positive, hit + false_negative])


@pytest.mark.parametrize("empty", EMPTY_RULES)
@settings(max_examples=60, deadline=None)
@given(counts=counts())
def test_every_reading_is_numpy_s(empty, counts):
    table = table_of(np.moveaxis(counts, 0, -1).tolist(), empty=empty)
    cells = reference.scores_of_counts(counts, empty)
    pooled = reference.scores_of_counts(counts.sum(1), empty)
    assert cells.keys() == table.per_image.keys() == SCORES.keys()
    for name, expected in cells.items():
        of_images, of_classes = (reference.mean_of_defined(expected, axis) for axis in (1, 0))
        np.testing.assert_allclose(table.per_image[name], expected, **EXACT)
        np.testing.assert_allclose(table.image_means[name], of_images, **EXACT)
        np.testing.assert_allclose(table.per_class[name], of_classes, **EXACT)
        np.testing.assert_array_equal(table.defined[name], (~np.isnan(expected)).sum(0))
        np.testing.assert_allclose(table.pooled[name], pooled[name], **EXACT)
        found = table.aggregate
        assert found[name] == pytest.approx(mean(of_images), nan_ok=True)
        assert found[f"pooled_{name}"] == pytest.approx(mean(pooled[name]), nan_ok=True)
        assert found[f"defined_{name}"] == (~np.isnan(of_images)).sum()
        for number, label in enumerate(table.labels):
            row = table.by_label[label]
            values = (row[name], row[f"pooled_{name}"], row[f"defined_{name}"])
            expected_row = (of_classes[number], pooled[name][number], (~np.isnan(expected[:, number])).sum())
            assert values == pytest.approx(expected_row, nan_ok=True)
    miou_c = mean(reference.mean_of_defined(cells["iou"], 0))
    assert (found["miou_d"], found["miou_i"], found["miou_c"]) == pytest.approx(
        (found["pooled_iou"], found["iou"], miou_c), nan_ok=True
    )


# IoU of two images and two classes: 1/2 and 1/4 in the first, 1 and nothing in the second
TWO_IMAGES = [[(1, 2, 1), (1, 2, 3)], [(4, 4, 4), (0, 1, 0)]]


def test_the_fine_grained_means_counted_by_hand():
    found = table_of(TWO_IMAGES).aggregate
    assert found["miou_d"] == pytest.approx(float((Fraction(5, 6) + Fraction(1, 5)) / 2))  # 5/6 and 1/(3 + 3 − 1)
    assert found["miou_i"] == pytest.approx(float((Fraction(3, 8) + 1) / 2))
    assert found["miou_c"] == pytest.approx(float((Fraction(3, 4) + Fraction(1, 4)) / 2))


@pytest.mark.parametrize(("q", "images"), [(0.1, 1), (19.9, 1), (20, 1), (39, 1), (40, 2), (99, 4), (100, 5)], ids=str)
def test_the_worst_images_are_the_lowest_whole_number_of_those_with_a_score(q, images):
    hits = [5, 1, 3, 2, 4]
    table = table_of([[(hit, 10, 10)] for hit in hits] + [[(0, 3, 0)]])  # the last one has no reference
    assert table.worst(q, "recall") == pytest.approx(sum(sorted(hits)[:images]) / images / 10)


def test_without_a_reference_everything_is_nan_and_counts_are_0():
    table = table_of([[(0, 3, 0)], [(0, 0, 0)]])
    found = table.aggregate
    assert {name for name, value in found.items() if value == 0} == {f"defined_{name}" for name in SCORES}
    assert all(math.isnan(value) for name, value in found.items() if not name.startswith("defined"))
    assert math.isnan(table.worst(5))


def test_each_score_is_computed_once_however_often_it_is_read(monkeypatch):
    calls = []
    for name, score in SCORES.items():
        monkeypatch.setitem(SCORES, name, lambda *cells, n=name, f=score: (calls.append(n), f(*cells))[1])
    table = table_of(TWO_IMAGES)
    assert calls == []
    for _ in range(3):
        _ = table.per_image, table.image_means, table.per_class, table.defined, table.aggregate, table.by_label
        _ = table.pooled, table.worst(5), table.worst(10, "dice")
    assert sorted(calls) == sorted(2 * [*SCORES])  # the cells, and the pooled counts


def test_counts_of_slabs_give_the_table_of_the_whole():
    whole = table_of(TWO_IMAGES)
    slab = table_of([[(1, 1, 1), (0, 2, 1)], [(0, 0, 4), (0, 1, 0)]]).counts
    rest = Overlap(*(all_of - part for all_of, part in zip(whole.counts, slab, strict=True)))
    assert ScoreTable(slab.plus(rest), whole.labels) == whole


def test_tables_are_equal_by_counts_labels_and_rule():
    table = table_of(TWO_IMAGES)
    assert table == table_of(TWO_IMAGES)
    assert table != table_of(TWO_IMAGES[:1])
    assert table != table_of([[(1, 2, 1), (1, 2, 2)], TWO_IMAGES[1]])
    assert table != table_of(TWO_IMAGES, labels=("a", "b"))
    assert table != table_of(TWO_IMAGES, empty="score")
    assert table != table.counts


def test_a_table_is_frozen_and_travels_between_processes():
    table = table_of(TWO_IMAGES)
    found = table.aggregate
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'empty'"):
        table.empty = "score"
    travelled = pickle.loads(pickle.dumps(table))
    assert travelled == table
    assert travelled.aggregate == pytest.approx(found)


BAD_TABLES = {
    "an unknown rule": ({"empty": "zero"}, "empty must be one of ignore, score, both, but is 'zero'"),
    "too few labels": ({"labels": ("liver",)}, r"labels must name the 2 classes of counts, but are \['liver'\]"),
    "counts of one image": ({"counts": Overlap(*torch.ones(3, 2))}, r"counts must have the shape \(images, classes\)"),
    "counts of different shape": (
        {"counts": Overlap(torch.ones(1, 2), torch.ones(2, 2), torch.ones(2, 2))},
        r"three times the same, but have \(1, 2\), \(2, 2\), \(2, 2\)",
    ),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables_are_refused(arguments, sentence):
    good = {"counts": table_of(TWO_IMAGES).counts, "labels": ("liver", "tumour")}
    with pytest.raises(ValueError, match=sentence):
        ScoreTable(**{**good, **arguments})


def test_classes_of_one_name_cannot_be_keys():
    table = table_of(TWO_IMAGES, labels=("lesion", "lesion"))
    assert table.per_class["iou"].tolist() == [3 / 4, 1 / 4]
    with pytest.raises(ValueError, match=r"labels must differ to be keys, but are \['lesion', 'lesion'\]; rename"):
        _ = table.by_label


def test_wrong_questions_are_refused():
    table = table_of(TWO_IMAGES)
    for q in (0, 101, math.nan):
        with pytest.raises(ValueError, match=f"q must be a percentage above 0 and up to 100, but is {q}"):
            table.worst(q)
    with pytest.raises(ValueError, match=r"score must be one of dice, iou, .*, but is 'hausdorff'"):
        table.worst(5, "hausdorff")
    with pytest.raises(ValueError, match="low values are bad, but relative_volume_error is best at 0"):
        table.worst(5, "relative_volume_error")
