from __future__ import annotations

import gzip
import shutil
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_surrogates.data import DataError, check_same_grid
from monai_surrogates.data.nifti import corner_shift, iter_slabs, label_values, read_header, value_counts

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
@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("max_voxels", [1, 200, 500, 10**6])
def test_slabs_put_together_are_the_volume(tmp_path, suffix, channels, max_voxels):
    voxels = np.random.default_rng(0).integers(-300, 300, (*SHAPE, *channels)).astype(np.int16)
    slabs = list(iter_slabs(write(tmp_path / f"a{suffix}", voxels), max_voxels))
    assert all(slab.ndim == 3 and slab.dtype == np.int16 for slab in slabs)
    assert max(slab.size for slab in slabs) <= max(200, max_voxels)
    together = np.concatenate(slabs, axis=2)
    expected = voxels if not channels else np.concatenate([voxels[..., channel] for channel in range(3)], axis=2)
    np.testing.assert_array_equal(together, expected)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slope_and_intercept_are_applied(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    image = nib.Nifti1Image(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(path)  # nibabel stores unsigned bytes as they are, beside slope and intercept
    slabs = list(iter_slabs(path, 4))
    assert len(slabs) == 2
    expected = 10 + 0.5 * np.arange(8).reshape(2, 2, 2)
    np.testing.assert_allclose(np.concatenate(slabs, axis=2), expected)


def test_a_compressed_volume_is_read_front_to_back_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.nii.gz", np.zeros((16, 16, 64), np.uint8))
    rewinds = []
    rewind = gzip._GzipReader._rewind
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: (rewinds.append(1), rewind(self))[1])
    assert len(list(iter_slabs(path, 256))) == 64
    assert len(rewinds) <= 2  # not one per slab


def test_memory_is_that_of_a_slab(tmp_path):
    path = write(tmp_path / "a.nii.gz", np.zeros((128, 128, 200), np.uint8))
    list(iter_slabs(path, 2**14))
    tracemalloc.start()
    assert sum(slab.size for slab in iter_slabs(path, 2**14)) == 128 * 128 * 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 128 * 128 * 200 / 4


def test_values_are_counted_as_numpy_counts_them(tmp_path):
    voxels = np.random.default_rng(1).integers(0, 5, (33, 17, 9)).astype(np.uint8)
    counts = value_counts(write(tmp_path / "a.nii.gz", voxels))
    assert [counts[label] for label in range(5)] == np.bincount(voxels.ravel(), minlength=5).tolist()


def test_fractions_negative_values_and_nan_are_reported(tmp_path):
    voxels = np.zeros((4, 4, 4), np.float32)
    voxels[0, 0, :3] = (0.5, -2.0, np.nan)
    values = label_values(write(tmp_path / "a.nii", voxels))
    assert {0.0, 0.5, -2.0} <= values
    assert sum(np.isnan(value) for value in values) == 1


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
