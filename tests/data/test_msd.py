from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_surrogates.data import DataError, MSDTask, Split, check_task, msd, progress, read_task, split

SHAPE = (6, 5, 4)


def document(count: int = 3) -> dict[str, Any]:
    """As Task01_BrainTumour of the Decathlon has it, with two channels and one structure."""
    return {
        "name": "BRATS",
        "description": "Gliomas segmentation tumour and oedema in on brain images",
        "reference": "https://www.med.upenn.edu/sbia/brats2017.html",
        "licence": "CC-BY-SA 4.0",
        "release": "2.0 04/05/2018",
        "tensorImageSize": "4D",
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema"},
        "numTraining": 484,
        "numTest": 266,
        "training": [
            {"image": f"./imagesTr/BRATS_{i}.nii.gz", "label": f"./labelsTr/BRATS_{i}.nii.gz"} for i in range(count)
        ],
        "test": ["./imagesTs/BRATS_900.nii.gz"],
    }


def volume(path: Path, shape: tuple[int, ...], value: float = 1, affine: Any = None, dtype: str = "u1") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros(shape, dtype)
    voxels[0, 0, 0] = value
    nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 2.5, 1]) if affine is None else affine), path)


def make(root: Path, count: int = 3) -> Path:
    for i in range(count):
        volume(root / f"imagesTr/BRATS_{i}.nii.gz", (*SHAPE, 2))
        volume(root / f"labelsTr/BRATS_{i}.nii.gz", SHAPE)
        (root / f"imagesTr/._BRATS_{i}.nii.gz").write_bytes(b"AppleDouble")
    volume(root / "imagesTs/BRATS_900.nii.gz", (*SHAPE, 2))
    return describe(root, document(count))


def describe(root: Path, content: Any) -> Path:
    (root / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return make(tmp_path)


def changed(root: Path, **entries: Any) -> Path:
    """The folder with some entries of dataset.json replaced; None removes one."""
    content = {**document(), **entries}
    return describe(root, {key: value for key, value in content.items() if value is not None})


def test_a_decathlon_folder_is_read(root):
    task = read_task(str(root))
    assert (task.root, task.name) == (root, "BRATS")
    assert task.labels == {0: "background", 1: "edema"}
    assert task.channels == ("FLAIR", "T1w")
    assert (task.num_classes, task.num_channels) == (2, 2)
    assert task.training[1] == {
        "image": str(root / "imagesTr" / "BRATS_1.nii.gz"),
        "label": str(root / "labelsTr" / "BRATS_1.nii.gz"),
    }
    assert task.test == (str(root / "imagesTs" / "BRATS_900.nii.gz"),)
    check_task(task)


def test_paths_are_absolute_for_a_relative_root(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    assert read_task(root.name) == read_task(root)


def test_a_task_is_frozen(root):
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_task(root).name = "other"


def test_the_folder_names_a_task_without_name(root):
    assert read_task(changed(root, name=None)).name == root.name


def test_the_spelling_of_nnunet_is_read(root):
    labels = {"edema": 1, "background": 0, "core": 2}
    task = read_task(changed(root, labels=labels, modality=None, channel_names={"1": "T1w", "0": "FLAIR"}))
    assert task.labels == {0: "background", 1: "edema", 2: "core"}
    assert list(task.labels) == [0, 1, 2]
    assert task.channels == ("FLAIR", "T1w")


@pytest.mark.parametrize("test", [None, [], [{"image": "imagesTs/BRATS_900.nii.gz"}], ["imagesTs/BRATS_900.nii.gz"]])
def test_the_test_list_is_strings_objects_or_absent(root, test):
    expected = (str(root / "imagesTs" / "BRATS_900.nii.gz"),) if test else ()
    assert read_task(changed(root, test=test)).test == expected


def test_ten_labels_are_in_order_of_number_not_of_text(root):
    names = {str(value): f"organ {value}" for value in reversed(range(12))}
    assert list(read_task(changed(root, labels=names)).labels) == list(range(12))


def test_apple_double_entries_are_skipped(root):
    junk = {"image": "./imagesTr/._BRATS_0.nii.gz", "label": "./labelsTr/._BRATS_0.nii.gz"}
    content = changed(root, training=[junk, *document()["training"]], test=["./imagesTs/._BRATS_900.nii.gz"])
    assert len(read_task(content).training) == 3
    assert read_task(content).test == ()


def test_extra_keys_of_an_entry_are_left_out(root):
    entries = [{**entry, "fold": 0} for entry in document()["training"]]
    assert set(read_task(changed(root, training=entries)).training[0]) == {"image", "label"}


def test_links_out_of_the_folder_are_followed(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "scan.nii.gz"
    link = root / "imagesTr" / "BRATS_0.nii.gz"
    link.rename(elsewhere)
    link.symlink_to(elsewhere)
    check_task(read_task(root))
    elsewhere.unlink()
    with pytest.raises(DataError, match=r"1 missing, the first .*BRATS_0.nii.gz"):
        read_task(root)


def first(image: Any = "./imagesTr/BRATS_0.nii.gz", label: Any = "./labelsTr/BRATS_0.nii.gz") -> dict[str, Any]:
    return {"training": [{"image": image, "label": label}]}


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"training": None}, "dataset.json, training: expected a list of images, found null"),
    ({"training": {}}, "dataset.json, training: expected a list of images, found {}"),
    ({"training": []}, "dataset.json, training: expected at least one image, found an empty list"),
    ({"training": ["a.nii.gz"]}, 'training: expected every entry to be an object .* image and label, found "a.nii.gz"'),
    ({"training": [{"image": "a.nii.gz"}]}, "training: expected every entry to be an object"),
    ({"training": [None]}, "training: expected every entry to be an object .* found null"),
    (first(image=["a.nii.gz", "b.nii.gz"]), "training: expected every entry to be an object"),
    (first(image=3), "training: expected every entry to be an object"),
    (first(image=""), "training: expected every entry to be an object"),
    (first(image="/data/scan.nii.gz"), 'expected paths inside the folder.* found "/data/scan.nii.gz"'),
    (first(label="../scan.nii.gz"), "expected paths inside the folder, relative and without `..`"),
    (first(label="labelsTr/../../scan.nii.gz"), "expected paths inside the folder"),
    (first(label="C:\\data\\scan.nii.gz"), "expected paths inside the folder"),
    (first(label="labelsTr\\..\\scan.nii.gz"), "expected paths inside the folder"),
    (first(image="./imagesTr/BRATS_77.nii.gz"), "expected 2 files on disk, found 1 missing, .*BRATS_77.nii.gz"),
    (first(image="./imagesTr/BRATS_0"), "1 missing, the first .*BRATS_0;"),
    (first(image="./imagesTr"), "1 missing, the first .*imagesTr;"),
    ({"training": [*first()["training"], *first(image="imagesTr/BRATS_0.nii.gz")["training"]]}, "every image once"),
    (first("imagesTr/._BRATS_0.nii.gz", "labelsTr/._BRATS_0.nii.gz"), "expected at least one image"),
    ({"test": "imagesTs"}, 'dataset.json, test: expected a list of images, found "imagesTs"'),
    ({"test": [3]}, "test: expected every entry to be an object"),
    ({"test": ["imagesTs/BRATS_900.nii.gz", {"image": "a"}]}, "test: expected every entry to be an object"),
    ({"test": ["/data/scan.nii.gz"]}, "test: expected paths inside the folder"),
    ({"test": ["imagesTs/BRATS_901.nii.gz"]}, "1 missing, the first .*BRATS_901.nii.gz"),
    ({"labels": None}, "dataset.json, labels: expected a JSON object with entries, found null"),
    ({"labels": ["background", "edema"]}, "labels: expected a JSON object"),
    ({"labels": {}}, "labels: expected a JSON object with entries, found {}"),
    ({"labels": {"0": "background"}}, "labels: expected the background and at least one structure"),
    ({"labels": {"0": "background", "2": "edema"}}, 'labels: expected names keyed by "0", "1", "2"'),
    ({"labels": {"1": "edema", "2": "core"}}, "labels: expected names keyed by"),
    ({"labels": {"0": "background", "one": "edema"}}, "labels: expected names keyed by"),
    ({"labels": {"0": "background", "01": "edema"}}, "labels: expected names keyed by"),
    ({"labels": {"0": "background", "1": None}}, "labels: expected names keyed by"),
    ({"labels": {"background": 0, "edema": 2}}, "labels: expected names keyed by"),
    ({"labels": {"background": 0, "edema": 0}}, "labels: expected the background and at least one structure"),
    ({"labels": {"background": 0, "whole": [1, 2]}}, "labels: expected names keyed by"),
    ({"labels": {"background": False, "edema": True}}, "labels: expected names keyed by"),
    ({"modality": None}, "dataset.json, modality: expected a JSON object with entries, found null"),
    ({"modality": "MRI"}, 'modality: expected a JSON object with entries, found "MRI"'),
    ({"modality": {"1": "FLAIR"}}, "modality: expected names keyed by"),
    ({"channel_names": {"0": 1}}, "channel_names: expected names keyed by"),
    ({"name": 7}, "dataset.json, name: expected a string, found 7"),
]


@pytest.mark.parametrize("entries, words", MALFORMED)
def test_a_malformed_description_gives_one_clear_sentence(root, entries, words):
    with pytest.raises(DataError, match=words) as caught:
        read_task(changed(root, **entries))
    assert "\n" not in str(caught.value)
    assert str(root / "dataset.json") in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "{'a': 1}", "\x00", "[" * 100_000])
def test_broken_json_is_refused(root, content):
    with pytest.raises(DataError, match=r"dataset.json: expected valid JSON"):
        read_task(describe(root, content))


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "{}"])
def test_json_that_is_no_object_is_refused(root, content):
    with pytest.raises(DataError, match=r"dataset.json, the whole file: expected a JSON object with entries"):
        read_task(describe(root, content))


def test_bytes_that_are_no_text_are_refused(root):
    (root / "dataset.json").write_bytes(b'{"name": "\xff\xfe"}')
    with pytest.raises(DataError, match=r"dataset.json: expected valid JSON"):
        read_task(root)


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere/dataset.json: .* found no such folder"):
        read_task(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"dataset.json: .* found no such file"):
        read_task(tmp_path)


def test_label_values_outside_the_declared_ones_are_named(root):
    volume(root / "labelsTr/BRATS_1.nii.gz", SHAPE, value=2)
    with pytest.raises(DataError, match=r"BRATS_1.nii.gz: .*labels 0 \(background\), 1 \(edema\), found 2;"):
        check_task(read_task(root), progress=False)


@pytest.mark.parametrize("value, found", [(0.5, "0.5"), (-1, "-1"), (np.nan, "nan")])
def test_fractions_and_negative_labels_are_named(root, value, found):
    volume(root / "labelsTr/BRATS_2.nii.gz", SHAPE, value=value, dtype="f4")
    with pytest.raises(DataError, match=rf"BRATS_2.nii.gz: .* found {found};"):
        check_task(read_task(root))


def test_float_files_with_whole_labels_pass(root):
    volume(root / "labelsTr/BRATS_2.nii.gz", SHAPE, value=1, dtype="f4")
    check_task(read_task(root))


def test_many_wrong_labels_are_shortened(root):
    path = root / "labelsTr/BRATS_0.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(120, dtype="u1").reshape(SHAPE), np.diag([1, 1, 2.5, 1])), path)
    with pytest.raises(DataError, match=r"found 2, 3, 4, 5, 6, \.\.\.;"):
        check_task(read_task(root))


@pytest.mark.parametrize("shape, found", [(SHAPE, 1), ((*SHAPE, 1), 1), ((*SHAPE, 3), 3)])
def test_the_number_of_channels_is_the_declared_one(root, shape, found):
    volume(root / "imagesTr/BRATS_1.nii.gz", shape)
    with pytest.raises(DataError, match=rf"BRATS_1.nii.gz: expected the 2 channels .*\(FLAIR, T1w\), found {found};"):
        check_task(read_task(root))


@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 1)])
def test_images_of_one_channel_are_3d_or_4d(root, shape):
    for i in range(3):
        volume(root / f"imagesTr/BRATS_{i}.nii.gz", shape)
    check_task(read_task(changed(root, modality={"0": "CT"})))


def test_image_and_label_of_different_grid_are_refused(root):
    volume(root / "labelsTr/BRATS_1.nii.gz", SHAPE, affine=np.diag([1, 1, 2.6, 1]))
    with pytest.raises(DataError, match=r"BRATS_1.nii.gz: expected the affine of its image"):
        check_task(read_task(root))


def test_all_headers_are_checked_before_any_voxel(root, monkeypatch):
    def never(path):
        raise AssertionError("a volume was read")

    volume(root / "labelsTr/BRATS_2.nii.gz", (3, 3, 3))
    monkeypatch.setattr(msd, "label_values", never)
    with pytest.raises(DataError, match=r"BRATS_2.nii.gz: expected the shape"):
        check_task(read_task(root))


@pytest.fixture
def task_of() -> Callable[[int], MSDTask]:
    """A task that exists in name only: splitting opens no file."""

    def build(count: int) -> MSDTask:
        items = tuple({"image": f"/data/i{i}.nii.gz", "label": f"/data/l{i}.nii.gz"} for i in range(count))
        return MSDTask(Path("/data"), "t", {0: "background", 1: "edema"}, ("FLAIR",), items, ())

    return build


def names(items: list[dict[str, str]]) -> list[str]:
    return [item["image"] for item in items]


@pytest.mark.parametrize("count, folds", [(3, 3), (5, 5), (7, 3), (30, 5), (31, 4), (484, 5), (3, 2)])
def test_the_three_sets_are_disjoint_and_complete(task_of, count, folds):
    task = task_of(count)
    for fold in range(folds):
        if (count, folds, fold) == (3, 2, 0):
            continue  # two of three images score, one chooses: none is left
        parts = split(task, folds, fold)
        together = names(parts.train) + names(parts.validation) + names(parts.evaluation)
        assert sorted(together) == sorted(names(task.training))
        rest = count - len(parts.evaluation)
        assert len(parts.evaluation) in (count // folds, -(-count // folds))
        assert len(parts.validation) == max(1, rest // folds)


@pytest.mark.parametrize("count, folds", [(30, 5), (31, 4)])
def test_every_image_is_scored_once_over_the_folds(task_of, count, folds):
    scored = [name for fold in range(folds) for name in names(split(task_of(count), folds, fold).evaluation)]
    assert sorted(scored) == sorted(names(task_of(count).training))


def test_the_folds_choose_their_checkpoints_on_different_images(task_of):
    chosen = [name for fold in range(5) for name in names(split(task_of(30), 5, fold).validation)]
    assert len(set(chosen)) == len(chosen) == 20


def test_the_seed_decides(task_of):
    task = task_of(30)
    assert split(task, seed=1) == split(task, seed=1)
    assert split(task, seed=1) != split(task, seed=2)
    assert split(task) == split(task, folds=5, fold=0, seed=0)


def test_the_split_is_the_same_on_every_machine(task_of):
    # numpy.random.RandomState(0).shuffle of 0..9, a stream that NumPy has frozen, dealt to five: fold 0 is 2, 9.
    parts = split(task_of(10), folds=5, fold=0, seed=0)
    order = [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
    assert names(parts.evaluation) == [f"/data/i{order[i]}.nii.gz" for i in (0, 5)]
    assert names(parts.validation) == [f"/data/i{order[1]}.nii.gz"]
    assert names(parts.train) == [f"/data/i{order[i]}.nii.gz" for i in (6, 2, 7, 3, 8, 4, 9)]


def test_a_folder_can_be_split_directly(root):
    assert split(root, folds=3) == split(read_task(root), folds=3)
    assert isinstance(split(str(root), folds=3), Split)


def test_the_lists_can_be_changed_without_changing_the_task(task_of):
    task = task_of(5)
    split(task).train[0]["image"] = "changed"
    assert "changed" not in names(list(task.training))


@pytest.mark.parametrize(
    "count, folds, fold, words",
    [
        (9, 1, 0, "folds: expected an integer of at least 2, found 1"),
        (9, 2.0, 0, "folds: expected an integer of at least 2, found 2.0"),
        (9, 3, 3, "fold: expected an integer from 0 to 2, found 3"),
        (9, 3, -1, "fold: expected an integer from 0 to 2, found -1"),
        (4, 5, 0, "folds: expected at least 5 images for 5 folds, found 4 training images in /data"),
        (2, 2, 0, "expected an image left for training, found 2 images in 2 folds"),
    ],
)
def test_impossible_splits_are_refused(task_of, count, folds, fold, words):
    with pytest.raises(DataError, match=words):
        split(task_of(count), folds, fold)


def test_the_error_is_a_value_error():
    assert issubclass(DataError, ValueError)


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("show", [True, False])
def test_progress_bars_need_tqdm_and_consent(root, monkeypatch, capsys, installed, show):
    monkeypatch.setattr(progress, "_has_tqdm", installed and progress._has_tqdm)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # a bar is for a terminal alone
    check_task(read_task(root), progress=show)
    assert ("checking" in capsys.readouterr().err) == (show and progress._has_tqdm)
