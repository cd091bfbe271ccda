from __future__ import annotations

import itertools
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from monai_surrogates.core.inputs import NOISE
from monai_surrogates.data.errors import DataError, mismatch

StrPath: TypeAlias = "str | os.PathLike[str]"

# Errors of nibabel, gzip and NumPy for files that are not NIfTI, cut short or damaged.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)
_MAX_LABELS = 2**16  # most values of a label map; a continuous image has more


class VolumeHeader(NamedTuple):
    """Shape in voxels and affine, voxels to millimetres, of a NIfTI volume."""

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]


@contextmanager
def _reading(path: StrPath) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        cure = "check the path, or copy the file again"
        raise mismatch(f"file {path}", expected="a readable NIfTI volume", found=f"({reason})", cure=cure) from error


def _open_nifti(path: StrPath) -> Any:
    with _reading(path):
        image = nib.load(path) if os.fspath(path).lower().endswith((".nii", ".nii.gz")) else None
    if not isinstance(image, nib.Nifti1Image):
        cure = "convert the file to NIfTI"
        raise mismatch(f"file {path}", expected="a NIfTI volume (.nii or .nii.gz)", found="another format", cure=cure)
    if min(image.shape, default=0) < 1:
        expected, cure = "at least one voxel", "copy the file again"
        raise mismatch(f"file {path}", expected=expected, found=f"shape {image.shape}", cure=cure)
    if image.get_data_dtype().kind not in "iuf":
        expected, cure = "one real number per voxel", "rewrite the file with one number per voxel"
        raise mismatch(f"file {path}", expected=expected, found=f"type {image.get_data_dtype()}", cure=cure)
    if not _invertible(image.affine):
        expected, cure = "an affine that can be inverted", "repair its sform or qform"
        raise mismatch(f"file {path}", expected=expected, found=np.asarray(image.affine).tolist(), cure=cure)
    return image


def _invertible(affine: npt.NDArray[np.float64]) -> bool:
    return bool(np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]) != 0)


def read_header(path: StrPath) -> VolumeHeader:
    """Reads shape and affine of a NIfTI file; no voxel is read.

    Args:
        path: a .nii or .nii.gz file with 3 dimensions, or 4 with the channels last.

    Returns:
        Shape in voxels and the 4 x 4 affine from voxel indices to millimetres.

    Raises:
        DataError: the file is not a readable NIfTI volume.
    """
    image = _open_nifti(path)
    if len(image.shape) not in (3, 4):
        expected, cure = "3 dimensions, or 4 with the channels last", "rewrite the file as one volume"
        raise mismatch(f"file {path}", expected=expected, found=f"shape {image.shape}", cure=cure)
    return VolumeHeader(_ints(image.shape), np.asarray(image.affine, dtype=np.float64))


def read_label_header(path: StrPath) -> VolumeHeader:
    """Reads shape and affine of a label map; no voxel is read.

    Args:
        path: a .nii or .nii.gz file with one label per voxel. Last axes of length 1 may be missing or added: a slice may
            be stored as (H, W), a volume as (H, W, D, 1).

    Returns:
        The shape (H, W, D) and the 4 x 4 affine from voxel indices to millimetres.

    Raises:
        DataError: the file is not a readable NIfTI volume, or has several channels.
    """
    image = _open_nifti(path)
    if max(image.shape[3:], default=1) > 1:
        found, cure = f"shape {image.shape}", "write one label per voxel"
        raise mismatch(f"label {path}", expected="a label map", found=found, cure=cure)
    return VolumeHeader(_ints((*image.shape, 1, 1)[:3]), np.asarray(image.affine, dtype=np.float64))


def _ints(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(int(size) for size in shape)


def corner_shift(shape: tuple[int, ...], affine: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Largest distance, in voxels, between the corners of one volume under two affines.

    With corner voxels k, the distance is max_k |A⁻¹ B k − k|, so that it includes the effect of a rotation far from the origin.

    Args:
        shape: spatial shape in voxels.
        affine: A, 4 x 4, voxels to millimetres; its voxels are the unit of the result.
        other: B, 4 x 4, voxels to millimetres.

    Returns:
        The distance in voxels of the first affine.

    Example:
        >>> import numpy as np
        >>> other = np.eye(4)
        >>> other[0, 3] = 0.5
        >>> corner_shift((4, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]), np.diag([2.0, 2.0, 2.0, 1.0]) + other - np.eye(4))
        0.25
    """
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*((0.0, size - 1.0) for size in shape))])
    moved = corners @ np.linalg.solve(np.asarray(affine, np.float64), np.asarray(other, np.float64)).T
    return float(np.linalg.norm((moved - corners)[:, :3], axis=1).max())


def check_same_grid(image_path: StrPath, label_path: StrPath, tolerance: float = 0.01) -> None:
    """Checks from the headers that a label map lies on the voxels of its image.

    Args:
        image_path: NIfTI image, (H, W, D) or (H, W, D, C).
        label_path: NIfTI label map, (H, W, D) or (H, W, D, 1).
        tolerance: largest distance between the two places of a corner voxel, in voxels of the image.

    Raises:
        DataError: a file is unreadable, the shapes differ, or a corner is further away than the tolerance.
    """
    image, label = read_header(image_path), read_header(label_path)
    of, cure = f"its image {image_path}", "resample the label map onto the grid of its image"
    _check_grid(f"label {label_path}", label, of, image, cure, tolerance)


def _check_grid(
    where: str, found: VolumeHeader, of: str, expected: VolumeHeader, cure: str, tolerance: float = 0.01
) -> None:
    shape = expected.shape[:3]
    if found.shape not in (shape, (*shape, 1)):
        raise mismatch(where, expected=f"the shape {shape} of {of}", found=found.shape, cure=cure)
    shift = corner_shift(shape, expected.affine, found.affine)
    if not shift <= tolerance:
        away = f"a corner that is {shift:.3g} voxels away"
        raise mismatch(where, expected=f"the affine of {of}", found=away, cure=cure)


def _slabs(path: StrPath, shape: tuple[int, ...], max_voxels: int) -> Iterator[npt.NDArray[Any]]:
    kind = type(_open_nifti(path))
    # One stream for all slabs: a .nii.gz is decompressed once, and read up to its checksum.
    with _reading(path), ImageOpener(os.fspath(path)) as stream:
        data = kind.from_file_map(kind.make_file_map({"image": stream})).dataobj.reshape(shape)
        step = max(1, max_voxels // (shape[0] * shape[1]))
        for start in range(0, shape[2], step):
            yield np.asarray(data[:, :, start : start + step])
        while stream.read(2**16):
            pass


def iter_labels(path: StrPath, max_voxels: int = 2**20) -> Iterator[npt.NDArray[np.integer[Any]]]:
    """Streams a label map in slabs along its last axis, as whole numbers; one slab at a time is in memory.

    The file is read once, front to back, so a compressed file is decompressed once. Whole numbers keep the file's type.
    Values within 0.001 of a whole number become that number, such as 0.9999 after a header's slope.

    Args:
        path: a label map; see `read_label_header`.
        max_voxels: voxels per slab, rounded down to whole slices but never below one slice.

    Yields:
        Integer arrays (H, W, d), d ≤ D.

    Raises:
        DataError: the file is unreadable, has several channels, or holds a fraction, a NaN or an infinity.
    """
    for slab in _slabs(path, read_label_header(path).shape, max_voxels):
        yield slab if slab.dtype.kind in "iu" else _nearest_labels(path, slab)


def _nearest_labels(path: StrPath, slab: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    nearest = np.rint(slab)
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, and no label
        is_label = (np.abs(slab - nearest) < NOISE) & (np.abs(nearest) < 2**53)
    if not is_label.all():
        expected, cure = "whole numbers as labels", "resample label maps by nearest neighbour, or correct the file"
        raise mismatch(f"label {path}", expected=expected, found=str(slab[~is_label][0]), cure=cure)
    labels: npt.NDArray[np.int64] = nearest.astype(np.int64)
    return labels


def iter_label_pairs(
    prediction_path: StrPath, reference_path: StrPath, max_voxels: int = 2**20
) -> Iterator[tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.integer[Any]]]]:
    """Streams a predicted label map beside its reference, slab by slab; the headers are compared before a voxel is read.

    Args:
        prediction_path: a label map; see `read_label_header`.
        reference_path: a label map of the same voxels.
        max_voxels: voxels per slab; see `iter_labels`.

    Returns:
        Pairs of integer arrays (H, W, d), prediction and reference; the iteration raises the errors of `iter_labels`.

    Raises:
        DataError: a header is unreadable, the shapes differ, or a corner is further away than 1 % of a voxel.
    """
    prediction, reference = read_label_header(prediction_path), read_label_header(reference_path)
    of, cure = f"its reference {reference_path}", "resample the prediction onto the grid of its reference"
    _check_grid(f"prediction {prediction_path}", prediction, of, reference, cure)
    return zip(iter_labels(prediction_path, max_voxels), iter_labels(reference_path, max_voxels), strict=True)


def read_labels(path: StrPath) -> npt.NDArray[np.integer[Any]]:
    """Reads a whole label map.

    Args:
        path: a label map; see `read_label_header`.

    Returns:
        Whole numbers (H, W, D).

    Raises:
        DataError: as `iter_labels`.
    """
    return np.concatenate(list(iter_labels(path)), axis=2)


def value_counts(path: StrPath) -> Counter[int]:
    """Counts the voxels of each label in a label map, slab by slab.

    Args:
        path: a label map; see `read_label_header`.

    Returns:
        Voxels per label, exact at any size.

    Raises:
        DataError: as `iter_labels`, or too many values for a label map.
    """
    total: Counter[int] = Counter()
    for slab in iter_labels(path):
        values, counts = np.unique(slab, return_counts=True)
        total.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(total) > _MAX_LABELS:
            found, cure = f"more than {_MAX_LABELS} different values", "check that image and label are not swapped"
            raise mismatch(f"label {path}", expected="a label map", found=found, cure=cure)
    return total


def label_values(path: StrPath) -> set[int]:
    """Returns the labels in a label map.

    Args:
        path: a label map; see `read_label_header`.

    Returns:
        The set of labels.

    Raises:
        DataError: as `value_counts`.
    """
    return set(value_counts(path))
