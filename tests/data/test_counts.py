from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_surrogates.data import DataError, class_counts, counts, structure_volumes


def write(path: Path, voxels: np.ndarray) -> dict[str, str]:
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return {"image": "not read", "label": str(path)}


@pytest.fixture
def labels() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 4, shape).astype(dtype) for shape, dtype in [((9, 8, 7), "u1"), ((5, 6, 40), "f4")]]


@pytest.fixture
def items(tmp_path, labels) -> list[dict[str, str]]:
    return [write(tmp_path / f"{index}.nii.gz", voxels) for index, voxels in enumerate(labels)]


def never(*_):
    raise AssertionError("counted anew")


def test_counts_are_those_of_numpy(items, labels):
    together = np.concatenate([voxels.ravel() for voxels in labels]).astype(np.int64)
    assert class_counts(items, 5) == np.bincount(together, minlength=5).tolist()
    assert sum(class_counts(items, 4, progress=False)) == 9 * 8 * 7 + 5 * 6 * 40


def test_counts_are_exact_beyond_32_bits(monkeypatch):
    monkeypatch.setattr(counts, "_fingerprint", lambda paths, num_classes: {})
    monkeypatch.setattr(counts, "_count_image", lambda path, num_classes, ignore_index: [2**53 + 1, 2**31])
    assert class_counts([{"label": "a"}] * 3, 2, progress=False) == [3 * (2**53 + 1), 3 * 2**31]


def test_ignored_voxels_belong_to_no_class(tmp_path, labels):
    marked = labels[0].copy()
    marked[:, :2] = 255
    items, cache = [write(tmp_path / "marked.nii.gz", marked)], tmp_path / "counts.json"
    expected = np.bincount(labels[0][:, 2:].ravel(), minlength=4).tolist()
    assert class_counts(items, 4, ignore_index=255, cache=cache) == expected
    assert class_counts(items, 4, ignore_index=255, cache=cache) == expected
    assert class_counts([write(tmp_path / "all.nii.gz", labels[0])], 4, ignore_index=2)[2] == 0
    with pytest.raises(DataError, match=r"found 255; .*ignore_index"):
        class_counts(items, 4, cache=cache)


def test_masks_with_a_channel_per_structure_are_no_label_map(tmp_path):
    items = [write(tmp_path / "masks.nii.gz", np.zeros((4, 4, 4, 3), np.uint8))]
    with pytest.raises(DataError, match=r"expected a label map, found shape \(4, 4, 4, 3\); write one label per voxel"):
        class_counts(items, 2)


def test_key_names_the_entry(items):
    renamed = [{"seg": item["label"]} for item in items]
    assert class_counts(renamed, 4, key="seg") == class_counts(items, 4)
    with pytest.raises(DataError, match="items: expected every item to hold a path under 'label'"):
        class_counts(renamed, 4)


def test_a_config_expression_can_count(items):
    config = {"imports": ["$import monai_surrogates"], "items": items}
    parser = ConfigParser({**config, "counts": "$monai_surrogates.data.class_counts(@items, 4)"})
    parser.parse()
    assert parser.get_parsed_content("counts") == class_counts(items, 4)


def test_the_cache_is_read_while_nothing_changes(tmp_path, items, monkeypatch):
    cache = tmp_path / "deep" / "folder" / "counts.json"
    first = class_counts(items, 4, cache=cache)
    assert [path.name for path in cache.parent.iterdir()] == ["counts.json"]
    monkeypatch.setattr(counts, "_count_image", never)
    assert class_counts(items, 4, cache=str(cache)) == first
    rows = json.loads(cache.read_text())["class_counts"]
    assert np.sum(rows, axis=0).tolist() == first
    assert len(rows) == len(items)


@pytest.mark.parametrize("change", ["time", "content", "list", "order", "classes"])
def test_the_cache_is_not_read_after_a_change(tmp_path, items, monkeypatch, change):
    cache, num_classes = tmp_path / "counts.json", 4
    class_counts(items, num_classes, cache=cache)
    if change == "time":
        os.utime(items[0]["label"], ns=(1, 1))
    elif change == "content":
        write(Path(items[0]["label"]), np.zeros((3, 3, 3), np.uint8))
    elif change == "list":
        items = items[:1]
    elif change == "order":
        items = items[::-1]
    else:
        num_classes = 5
    assert class_counts(items, num_classes, cache=cache) == class_counts(items, num_classes)
    monkeypatch.setattr(counts, "_count_image", never)
    class_counts(items, num_classes, cache=cache)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "{",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "{}",
        lambda text: text.replace('"class_counts": [', '"class_counts": [[1, 2], '),
        lambda text: text[: text.index('"class_counts"')] + '"class_counts": [["a"]]}',
        lambda text: text[: text.index('"class_counts"')] + '"class_counts": [[-1, 1, 1, 1], [1, 1, 1, 1]]}',
    ],
)
def test_a_damaged_cache_is_replaced(tmp_path, items, damage, monkeypatch):
    cache = tmp_path / "counts.json"
    first = class_counts(items, 4, cache=cache)
    cache.write_text(damage(cache.read_text()))
    assert class_counts(items, 4, cache=cache) == first
    monkeypatch.setattr(counts, "_count_image", never)
    assert class_counts(items, 4, cache=cache) == first


@pytest.mark.parametrize(
    "value, said",
    [
        (4, "whole labels from 0 to 3, found 4"),
        (-1, "whole labels from 0 to 3, found -1"),
        (0.5, "whole numbers as labels, found 0.5"),
        (np.nan, "whole numbers as labels, found nan"),
        (np.inf, "whole numbers as labels, found inf"),
    ],
)
def test_labels_outside_are_named(tmp_path, value, said):
    voxels = np.zeros((3, 3, 3), np.float32)
    voxels[1, 1, 1] = value
    item = write(tmp_path / "wrong.nii.gz", voxels)
    with pytest.raises(DataError, match=rf"wrong.nii.gz: expected {said};"):
        class_counts([item], 4, cache=tmp_path / "counts.json")
    assert not (tmp_path / "counts.json").exists()


def test_empty_lists_and_class_numbers_are_refused(items):
    with pytest.raises(DataError, match="items: expected at least one image, found an empty list"):
        class_counts([], 2)
    with pytest.raises(DataError, match="num_classes: expected at least 1, found 0"):
        class_counts(items, 0)


def test_a_missing_label_map_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.nii.gz: expected a label map, found \(No such file"):
        class_counts([{"label": tmp_path / "nowhere.nii.gz"}], 2)


# mean volumes


@pytest.fixture
def lesions(tmp_path) -> list[dict[str, str]]:
    """Three images of 60 voxels: class 1 has 6, 12 and no voxels, class 2 has 0, 1 and 0, class 3 none at all."""
    volumes = [{1: 6}, {1: 12, 2: 1}, {}]
    written = []
    for number, of_class in enumerate(volumes):
        voxels = np.zeros(60, np.uint8)
        labels = [label for label, count in of_class.items() for _ in range(count)]
        voxels[: len(labels)] = labels
        written.append(write(tmp_path / f"lesion{number}.nii.gz", voxels.reshape(3, 4, 5)))
    return written


def test_a_volume_is_the_mean_over_the_images_that_hold_the_structure(lesions):
    assert structure_volumes(lesions, 4, progress=False) == [(54 + 47 + 60) / 3, (6 + 12) / 2, 1.0, 0.0]


@pytest.mark.parametrize(
    ("patch_size", "background", "lesion"),
    [
        ([3, 4, 5], 161 / 3, 9.0),
        ((2, 5, 1), 10.0, 8.0),
        (2, 8.0, 7.0),
        ([2, 5, -1], 161 / 3, 9.0),
        (None, 161 / 3, 9.0),
    ],
    ids=str,
)
def test_a_patch_holds_no_more_of_a_structure_than_its_voxels(lesions, patch_size, background, lesion):
    assert structure_volumes(lesions, 4, patch_size=patch_size)[:2] == [background, lesion]


@pytest.mark.parametrize("patch_size", ["64", [4.0, 4.0, 4.0], [None, 3]], ids=str)
def test_an_impossible_patch_size_is_named(lesions, patch_size):
    with pytest.raises(DataError, match=r"patch_size: expected whole numbers, one per axis, found .*; give the size"):
        structure_volumes(lesions, 4, patch_size=patch_size)


def test_voxels_to_ignore_belong_to_no_structure(lesions):
    assert structure_volumes(lesions, 4, ignore_index=1) == [161 / 3, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("order", [(class_counts, structure_volumes), (structure_volumes, class_counts)])
def test_counts_and_volumes_come_from_one_pass(tmp_path, lesions, monkeypatch, order):
    expected = [function(lesions, 4) for function in order]
    opened, count = [], counts._count_image
    monkeypatch.setattr(counts, "_count_image", lambda *arguments: opened.append(arguments) or count(*arguments))
    assert [function(lesions, 4, cache=tmp_path / "counts.json") for function in order] == expected
    assert len(opened) == len(lesions)


@pytest.mark.parametrize("wrong", [{"items": []}, {"num_classes": 2}], ids=str)
def test_volumes_refuse_the_same_input_as_counts(lesions, wrong):
    with pytest.raises(DataError) as of_counts:
        class_counts(**{"items": lesions, "num_classes": 4, **wrong})
    with pytest.raises(DataError) as of_volumes:
        structure_volumes(**{"items": lesions, "num_classes": 4, **wrong})
    assert str(of_volumes.value) == str(of_counts.value)
