from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_surrogates.data import DataError, check_task, class_counts, read_task, synthetic, write_synthetic_task

SMALL = (24, 24, 12)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_synthetic_task(tmp_path_factory.mktemp("task") / "lesions", num_training=12, num_test=2)


def test_the_reader_accepts_it(root):
    task = read_task(root)
    check_task(task, progress=False)
    assert (task.num_classes, task.num_channels, len(task.training), len(task.test)) == (2, 2, 12, 2)
    assert sum(class_counts(task.training, 2)) == 12 * 40 * 40 * 20


def test_the_description_is_that_of_the_decathlon(root):
    document = json.loads((root / "dataset.json").read_text())
    keys = (
        "name description reference licence release tensorImageSize modality labels numTraining numTest training test"
    )
    assert set(document) == set(keys.split())
    assert (document["numTraining"], document["numTest"]) == (12, 2)
    assert document["training"][0] == {
        "image": "./imagesTr/lesion_000.nii.gz",
        "label": "./labelsTr/lesion_000.nii.gz",
    }
    assert document["test"] == ["./imagesTs/lesion_test_000.nii.gz", "./imagesTs/lesion_test_001.nii.gz"]
    assert sorted(path.name for path in root.iterdir()) == [
        "dataset.json",
        "imagesTr",
        "imagesTs",
        "labelsTr",
        "labelsTs",
    ]


def test_images_and_labels_are_nifti_as_the_decathlon_has_them(root):
    for item in read_task(root).training:
        image, label = nib.load(item["image"]), nib.load(item["label"])
        assert (image.shape, image.get_data_dtype()) == ((40, 40, 20, 2), np.int16)
        assert (label.shape, label.get_data_dtype()) == ((40, 40, 20), np.uint8)
        for volume in (image, label):
            assert (int(volume.header["qform_code"]), int(volume.header["sform_code"])) == (1, 1)
            np.testing.assert_allclose(volume.get_qform(), volume.get_sform(), atol=1e-4)
            np.testing.assert_allclose(nib.affines.voxel_sizes(volume.affine), [1, 1, 2.5], rtol=1e-5)
            assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")
            assert abs(volume.affine[0, 1]) > 0 or abs(volume.affine[1, 0]) > 0
            assert volume.header.get_xyzt_units()[0] == "mm"


def test_foreground_varies_from_half_a_percent_to_eight(root):
    fractions = np.array([np.mean(nib.load(item["label"]).dataobj) for item in read_task(root).training])
    assert fractions.min() >= 0.0045
    assert fractions.max() <= 0.0805
    assert fractions.max() > 3 * fractions.min()


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first, second, other = (
        contents(write_synthetic_task(tmp_path / name, seed=seed, num_training=2, num_test=1, shape=SMALL))
        for name, seed in [("a", 3), ("b", 3), ("c", 4)]
    )
    assert first == second
    assert len(first) == 7
    assert not {data for data in first.values() if data[:2] == b"\x1f\x8b"} & set(other.values())


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    few = contents(write_synthetic_task(tmp_path / "few", num_training=1, num_test=1, shape=SMALL))
    many = contents(write_synthetic_task(tmp_path / "many", num_training=3, num_test=2, shape=SMALL))
    few.pop("dataset.json")
    assert few.items() <= many.items()
    assert len({data for name, data in many.items() if "images" in name}) == 5


def test_shape_is_an_argument(tmp_path):
    task = read_task(write_synthetic_task(tmp_path / "a", num_training=1, num_test=0, shape=(16, 24, 8)))
    assert nib.load(task.training[0]["image"]).shape == (16, 24, 8, 2)
    assert task.test == ()


def test_the_lesion_can_be_seen_but_not_by_brightness_alone(root):
    separations, overlaps = [], []
    for item in read_task(root).training:
        image, lesion = (
            np.asarray(nib.load(item["image"]).dataobj)[..., 0],
            np.asarray(nib.load(item["label"]).dataobj) > 0,
        )
        separations.append((image[lesion].mean() - image[~lesion].mean()) / image[~lesion].std())
        brightest = image >= np.quantile(image, 1 - lesion.mean())  # a threshold that knows the volume
        overlaps.append((brightest & lesion).sum() / lesion.sum())
    assert np.mean(separations) > 1.5
    assert 0.4 < np.mean(overlaps) < 0.85


def test_smooth_noise_has_unit_variance_and_the_correlation_that_it_names():
    field = synthetic._smooth_noise(np.random.default_rng(0), (200, 60, 40), 3.0)
    assert field.shape == (200, 60, 40)
    assert field.std() == pytest.approx(1, abs=0.1)
    # White noise under exp(−x²/σ²) has the autocorrelation exp(−d²/2σ²): e^(−1/2) at d = σ = 3 voxels of 1 mm.
    assert np.mean(field[3:] * field[:-3]) / field.var() == pytest.approx(np.exp(-0.5), abs=0.05)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_is_overwritten(tmp_path, kind):
    target = tmp_path / "task"
    if kind == "folder":
        target.mkdir()
        (target / "precious.txt").write_text("mine")
    else:
        target.write_text("mine")
    with pytest.raises(DataError, match="task: expected an empty or absent folder, found something there"):
        write_synthetic_task(target, num_training=1, num_test=0, shape=SMALL)
    assert list(contents(tmp_path).values()) == [b"mine"]


def test_parents_are_made_and_an_empty_folder_is_filled(tmp_path):
    write_synthetic_task(tmp_path / "a" / "b", num_training=1, num_test=0, shape=SMALL)
    (tmp_path / "c").mkdir()
    assert write_synthetic_task(tmp_path / "c", num_training=1, num_test=0, shape=SMALL) == tmp_path / "c"
    assert contents(tmp_path / "c") == contents(tmp_path / "a" / "b")


def test_an_interruption_leaves_no_half_task(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_description", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic_task(tmp_path / "task", num_training=1, num_test=0, shape=SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argument, words",
    [
        ({"seed": -1}, "seed: expected an integer of at least 0, found -1"),
        ({"num_training": 0}, "num_training: expected an integer of at least 1, found 0"),
        ({"num_test": -1}, "num_test: expected an integer of at least 0, found -1"),
        ({"shape": (40, 40)}, "shape: expected three sizes of at least 8 voxels"),
        ({"shape": (40, 40, 4)}, "shape: expected three sizes of at least 8 voxels"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, argument, words):
    with pytest.raises(DataError, match=words):
        write_synthetic_task(tmp_path / "task", **argument)
    assert list(tmp_path.iterdir()) == []
