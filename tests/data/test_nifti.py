from __future__ import annotations

import gzip
import shutil
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_surrogates.data import DataError, check_same_grid
from monai_surrogates.data.nifti import (
    corner_shift,
    iter_label_pairs,
    iter_labels,
    label_values,
    read_header,
    read_label_header,
    read_labels,
    value_counts,
)

SHAPE = (20, 10, 5)
AFFINE = np.diag([-1.0, -1.0, 2.5, 1.0])
AFFINE[:3, 3] = (90.0, 120.0, -70.0)


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def pair(folder: Path, affine: np.ndarray, image_shape=SHAPE, label_shape=SHAPE) -> tuple[Path, Path]:
    image = write(folder / "image.nii.gz", np.zeros(image_shape, np.float32))
    return image, write(folder / "label.nii", np.zeros(label_shape, np.uint8), affine)


def shifted(voxels: float, axis: int) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += voxels * AFFINE[:3, axis]
    return affine


def turned(radians: float) -> np.ndarray:
    """AFFINE after a turn of the voxel grid about the axis through voxel (0, 0, z)."""
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]]
    return AFFINE @ turn


@pytest.mark.parametrize("image_shape", [SHAPE, (*SHAPE, 3)])
@pytest.mark.parametrize("label_shape", [SHAPE, (*SHAPE, 1)])
def test_same_grid_passes_with_and_without_channels(tmp_path, image_shape, label_shape):
    check_same_grid(*pair(tmp_path, AFFINE, image_shape, label_shape))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_percent_of_a_voxel_is_the_limit_along_every_axis(tmp_path, axis):
    check_same_grid(*pair(tmp_path, shifted(0.005, axis)))
    with pytest.raises(DataError, match=r"label.nii: expected the affine of its image .*a corner that is 0.02 voxels"):
        check_same_grid(*pair(tmp_path, shifted(0.02, axis)))


def test_tolerance_is_an_argument(tmp_path):
    check_same_grid(*pair(tmp_path, shifted(0.02, 0)), tolerance=0.03)
    with pytest.raises(DataError, match="expected the affine"):
        check_same_grid(*pair(tmp_path, shifted(0.005, 0)), tolerance=0.001)


def test_a_turn_that_keeps_the_first_voxel_is_found_at_the_far_corner(tmp_path):
    # The far corner (19, 9) turns on a circle of radius √(19² + 9²) voxels: chord 2 r sin(φ/2).
    angle = 1e-3
    chord = 2 * np.hypot(19, 9) * np.sin(angle / 2)
    assert corner_shift(SHAPE, AFFINE, turned(angle)) == pytest.approx(chord, rel=1e-9)
    assert chord > 0.02
    with pytest.raises(DataError, match=r"a corner that is 0.021 voxels away"):
        check_same_grid(*pair(tmp_path, turned(angle)))
    check_same_grid(*pair(tmp_path, turned(angle / 3)))


def test_a_flip_is_as_far_as_the_volume_is_wide():
    flip = AFFINE @ np.array([[-1, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert corner_shift(SHAPE, AFFINE, flip) == pytest.approx(19)


def test_displacements_that_cancel_in_a_sum_are_found(tmp_path):
    affine = shifted(0.5, 0)
    affine[:3, 3] -= 0.2 * AFFINE[:3, 2]
    assert (affine - AFFINE).sum() == pytest.approx(-1.0)
    assert corner_shift(SHAPE, AFFINE, affine) == pytest.approx(np.hypot(0.5, 0.2))


@pytest.mark.parametrize("label_shape", [(10, 20, 5), (20, 10, 6), (*SHAPE, 2)])
def test_another_shape_is_refused(tmp_path, label_shape):
    with pytest.raises(DataError, match=r"expected the shape \(20, 10, 5\) of its image .*resample the label map"):
        check_same_grid(*pair(tmp_path, AFFINE, label_shape=label_shape))


def test_headers_suffice(tmp_path):
    image, label = pair(tmp_path, AFFINE)
    label.write_bytes(label.read_bytes()[:352])
    check_same_grid(image, label)
    assert read_header(label).shape == SHAPE
    np.testing.assert_array_equal(read_header(label).affine, AFFINE)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("max_voxels", [1, 200, 500, 10**6])
def test_slabs_put_together_are_the_volume(tmp_path, suffix, max_voxels):
    voxels = np.random.default_rng(0).integers(-300, 300, SHAPE).astype(np.int16)
    slabs = list(iter_labels(write(tmp_path / f"a{suffix}", voxels), max_voxels))
    assert all(slab.ndim == 3 and slab.dtype == np.int16 for slab in slabs)
    assert max(slab.size for slab in slabs) <= max(200, max_voxels)
    np.testing.assert_array_equal(np.concatenate(slabs, axis=2), voxels)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slope_and_intercept_are_applied(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    image = nib.Nifti1Image(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(2, 10)
    image.to_filename(path)  # nibabel stores unsigned bytes as they are, beside slope and intercept
    slabs = list(iter_labels(path, 4))
    assert len(slabs) == 2
    np.testing.assert_array_equal(np.concatenate(slabs, axis=2), 10 + 2 * np.arange(8).reshape(2, 2, 2))


def test_a_compressed_volume_is_read_front_to_back_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.nii.gz", np.zeros((16, 16, 64), np.uint8))
    rewinds = []
    rewind = gzip._GzipReader._rewind
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: (rewinds.append(1), rewind(self))[1])
    assert len(list(iter_labels(path, 256))) == 64
    assert len(rewinds) <= 2  # not one per slab


def test_memory_is_that_of_a_slab(tmp_path):
    path = write(tmp_path / "a.nii.gz", np.zeros((128, 128, 200), np.uint8))
    list(iter_labels(path, 2**14))
    tracemalloc.start()
    assert sum(slab.size for slab in iter_labels(path, 2**14)) == 128 * 128 * 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 128 * 128 * 200 / 4


def test_values_are_counted_as_numpy_counts_them(tmp_path):
    voxels = np.random.default_rng(1).integers(0, 5, (33, 17, 9)).astype(np.uint8)
    counts = value_counts(write(tmp_path / "a.nii.gz", voxels))
    assert [counts[label] for label in range(5)] == np.bincount(voxels.ravel(), minlength=5).tolist()


@pytest.mark.parametrize("near", [0.9999, 1.0009, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_near_a_whole_number_is_that_label(tmp_path, near, dtype):
    voxels = np.zeros((4, 4, 4), dtype)
    voxels[0, 0, :3] = (near, near + 1, near - 3)
    assert value_counts(write(tmp_path / "a.nii", voxels)) == {0: 61, 1: 1, 2: 1, -2: 1}


@pytest.mark.parametrize("levels", [255, 1000, 65535])
def test_labels_stored_with_a_slope_are_whole_numbers(tmp_path, levels):
    image = nib.Nifti1Image(np.array([[[0, levels, levels]]], np.uint16), np.eye(4))
    image.header.set_slope_inter(1 / levels, 0)
    image.to_filename(tmp_path / "a.nii.gz")
    (slab,) = iter_labels(tmp_path / "a.nii.gz")
    assert slab.dtype.kind == "i"
    assert slab.tolist() == [[[0, 1, 1]]]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0.5, "0.5"),
        (-1.25, "-1.25"),
        (1.0011, "1.0011"),
        (0.998, "0.998"),
        (np.nan, "nan"),
        (np.inf, "inf"),
        (-np.inf, "-inf"),
        (1e30, r"1e\+30"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_other_than_labels_are_refused_with_file_and_value(tmp_path, value, found, dtype):
    voxels = np.zeros((4, 4, 4), dtype)
    voxels[3, 3, 3] = value
    path = write(tmp_path / "a.nii", voxels)
    words = (
        rf"label .*a\.nii: expected whole numbers as labels, found {found}; resample label maps by nearest neighbour"
    )
    for read in (label_values, value_counts, read_labels):
        with pytest.raises(ValueError, match=words):
            read(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_whole_numbers_keep_the_type_of_the_file(tmp_path, dtype):
    voxels = np.random.default_rng(0).integers(0, 5, SHAPE).astype(dtype)
    labels = read_labels(write(tmp_path / "a.nii.gz", voxels))
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, voxels)


@pytest.mark.parametrize(
    ("shape", "read"), [((6, 5), (6, 5, 1)), ((6, 5, 4, 1), (6, 5, 4)), ((6, 5, 4, 1, 1), (6, 5, 4)), ((6,), (6, 1, 1))]
)
def test_axes_of_length_1_at_the_end_do_not_matter(tmp_path, shape, read):
    voxels = np.random.default_rng(0).integers(0, 5, shape).astype(np.uint8)
    path = write(tmp_path / "a.nii.gz", voxels)
    assert read_label_header(path).shape == read
    np.testing.assert_array_equal(read_labels(path), voxels.reshape(read))


def test_pairs_are_slabs_of_the_same_voxels(tmp_path):
    rng = np.random.default_rng(0)
    prediction, reference = (rng.integers(0, 3, SHAPE).astype(np.uint8) for _ in range(2))
    paths = write(tmp_path / "p.nii.gz", prediction[..., None]), write(tmp_path / "r.nii", reference.astype(np.float32))
    pairs = list(iter_label_pairs(*paths, max_voxels=400))
    assert [p.shape for p, _ in pairs] == [r.shape for _, r in pairs] == [(20, 10, 2), (20, 10, 2), (20, 10, 1)]
    for side, expected in enumerate((prediction, reference)):
        np.testing.assert_array_equal(np.concatenate([pair[side] for pair in pairs], axis=2), expected)


def test_pairs_of_another_grid_are_refused_before_a_voxel_is_read(tmp_path):
    reference = write(tmp_path / "r.nii", np.zeros((6, 5, 4), np.uint8))
    turned = write(tmp_path / "p.nii", np.zeros((5, 6, 4), np.uint8))
    words = (
        r"prediction .*p\.nii: expected the shape \(6, 5, 4\) of its reference .*r\.nii, found \(5, 6, 4\); resample"
    )
    with pytest.raises(DataError, match=words):
        iter_label_pairs(turned, reference)
    moved = write(tmp_path / "m.nii", np.zeros((6, 5, 4), np.uint8), shifted(0.5, 0))
    with pytest.raises(
        DataError, match=r"m\.nii: expected the affine of its reference .*r\.nii, found a corner that is 0.5"
    ):
        iter_label_pairs(moved, reference)


def test_pairs_need_the_memory_of_a_slab(tmp_path):
    paths = [write(tmp_path / name, np.zeros((128, 128, 200), np.uint8)) for name in ("p.nii.gz", "r.nii.gz")]
    list(iter_label_pairs(*paths, 2**14))
    tracemalloc.start()
    assert sum(p.size for p, _ in iter_label_pairs(*paths, 2**14)) == 128 * 128 * 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 128 * 128 * 200 / 4


def test_a_continuous_image_is_no_label_map(tmp_path):
    path = write(tmp_path / "a.nii", np.arange(70_000, dtype=np.float32).reshape(70, 100, 10))
    with pytest.raises(DataError, match="expected a label map, found more than 65536 different values"):
        label_values(path)


def damage(path: Path, how: str) -> None:
    raw = path.read_bytes()
    contents = {"empty": b"", "text": b"this is no volume" * 50, "cut": raw[: len(raw) // 2], "header": raw[:100]}
    path.write_bytes(contents[how])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("how", ["empty", "text", "cut", "header"])
def test_a_damaged_file_is_named(tmp_path, suffix, how):
    path = write(tmp_path / f"broken{suffix}", np.random.default_rng(0).integers(0, 9, (30, 30, 30)).astype(np.uint8))
    damage(path, how)
    with pytest.raises(
        DataError, match=rf"broken{suffix}: expected a readable NIfTI volume, found .*copy the file again"
    ):
        label_values(path)


def test_a_bad_checksum_is_found(tmp_path):
    path = write(tmp_path / "broken.nii.gz", np.random.default_rng(0).integers(0, 9, (30, 30, 30)).astype(np.uint8))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"broken.nii.gz: expected a readable NIfTI volume"):
        label_values(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.nii.gz: expected a readable NIfTI volume"):
        read_header(tmp_path / "nowhere.nii.gz")


def test_other_formats_are_refused(tmp_path):
    path = tmp_path / "image.mgz"
    nib.save(nib.MGHImage(np.zeros(SHAPE, np.uint8), np.eye(4)), path)
    with pytest.raises(DataError, match=r"expected a NIfTI volume \(.nii or .nii.gz\), found another format"):
        read_header(path)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 1, 2)])
def test_only_three_and_four_dimensions_are_read(tmp_path, shape):
    with pytest.raises(DataError, match="expected 3 dimensions, or 4 with the channels last"):
        read_header(write(tmp_path / "a.nii", np.zeros(shape, np.uint8)))


def test_complex_voxels_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected one real number per voxel, found type complex64"):
        read_header(write(tmp_path / "a.nii", np.zeros(SHAPE, np.complex64)))


@pytest.mark.parametrize("entry", [0.0, np.nan])
def test_an_affine_without_inverse_is_refused(tmp_path, entry):
    path = write(tmp_path / "a.nii", np.zeros(SHAPE, np.uint8))
    raw = bytearray(path.read_bytes())
    raw[280:296] = np.array([entry] * 4, "<f4").tobytes()  # srow_x: NIfTI-1, bytes 280 to 295
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match="expected an affine that can be inverted"):
        read_header(path)


def test_upper_case_suffixes_are_read(tmp_path):
    path = write(tmp_path / "a.nii.gz", np.ones(SHAPE, np.uint8))
    shutil.move(path, tmp_path / "B.NII.GZ")
    assert label_values(tmp_path / "B.NII.GZ") == {1}
