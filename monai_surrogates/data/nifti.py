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

from monai_surrogates.data.errors import DataError, mismatch

StrPath: TypeAlias = "str | os.PathLike[str]"

# What nibabel, gzip and numpy raise on files that are not NIfTI, cut short or damaged.
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
_MAX_LABELS = 2**16  # a label map has fewer values than this; a continuous image has more


class VolumeHeader(NamedTuple):
    """What a NIfTI header says about a volume: its shape in voxels and its affine, voxels to millimetres."""

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


def _open_volume(path: StrPath) -> Any:
    with _reading(path):
        image = nib.load(path) if os.fspath(path).lower().endswith((".nii", ".nii.gz")) else None
    if not isinstance(image, nib.Nifti1Image):
        cure = "convert the file to NIfTI"
        raise mismatch(f"file {path}", expected="a NIfTI volume (.nii or .nii.gz)", found="another format", cure=cure)
    _check_header(path, image)
    return image


def _check_header(path: StrPath, image: Any) -> None:
    if len(image.shape) not in (3, 4) or min(image.shape) < 1:
        expected, cure = "3 dimensions, or 4 with the channels last", "rewrite the file as one volume"
        raise mismatch(f"file {path}", expected=expected, found=f"shape {image.shape}", cure=cure)
    if image.get_data_dtype().kind not in "iuf":
        expected, cure = "one real number per voxel", "rewrite the file with one number per voxel"
        raise mismatch(f"file {path}", expected=expected, found=f"type {image.get_data_dtype()}", cure=cure)
    if not _invertible(image.affine):
        expected, cure = "an affine that can be inverted", "repair its sform or qform"
        raise mismatch(f"file {path}", expected=expected, found=np.asarray(image.affine).tolist(), cure=cure)


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
    image = _open_volume(path)
    return VolumeHeader(tuple(int(size) for size in image.shape), np.asarray(image.affine, dtype=np.float64))


def corner_shift(shape: tuple[int, ...], affine: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Largest distance, in voxels, between the corners of one volume under two affines.

    With corner voxels k, the distance is max_k |A⁻¹ B k − k|: a rotation counts where it matters, far from the origin.

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
        DataError: a file is unreadable, the shapes differ, or a corner is further off than the tolerance.
    """
    image, label = read_header(image_path), read_header(label_path)
    where, cure = f"label {label_path}", "resample the label map onto the grid of its image"
    if label.shape not in (image.shape[:3], (*image.shape[:3], 1)):
        expected = f"the shape {image.shape[:3]} of its image {image_path}"
        raise mismatch(where, expected=expected, found=label.shape, cure=cure)
    shift = corner_shift(image.shape[:3], image.affine, label.affine)
    if not shift <= tolerance:
        expected = f"the affine of its image {image_path}"
        raise mismatch(where, expected=expected, found=f"a corner that is {shift:.3g} voxels away", cure=cure)


def iter_slabs(path: StrPath, max_voxels: int = 2**20) -> Iterator[npt.NDArray[Any]]:
    """Streams a volume in slabs along its last spatial axis; never more than one slab is in memory.

    The file is read once, front to back, so a compressed file costs one decompression. A file with channels is streamed
    channel by channel. The header's slope and intercept are applied; without them the slabs keep the file's type.

    Args:
        path: a .nii or .nii.gz file, (H, W, D) or (H, W, D, C).
        max_voxels: voxels per slab, rounded down to whole slices but never below one slice.

    Yields:
        Arrays (H, W, d), d ≤ D.

    Raises:
        DataError: the file is not a readable NIfTI volume.
    """
    kind = type(_open_volume(path))
    # One stream of our own: a .nii.gz is decompressed once, however many slabs are read, and read to its checksum.
    with _reading(path), ImageOpener(os.fspath(path)) as stream:
        data = kind.from_file_map(kind.make_file_map({"image": stream})).dataobj
        for slab in _slab_slices(data.shape, max_voxels):
            yield np.asarray(data[slab])
        while stream.read(2**16):
            pass


def _slab_slices(shape: tuple[int, ...], max_voxels: int) -> list[tuple[slice | int, ...]]:
    height, width, depth = shape[:3]
    step = max(1, max_voxels // (height * width))
    channels: list[tuple[int, ...]] = [()] if len(shape) == 3 else [(channel,) for channel in range(shape[3])]
    starts = range(0, depth, step)
    return [(slice(None), slice(None), slice(i, i + step), *channel) for channel in channels for i in starts]


def value_counts(path: StrPath) -> Counter[float]:
    """Counts how often each value occurs in a label map, slab by slab.

    Args:
        path: a NIfTI label map.

    Returns:
        Voxels per value, exact at any size.

    Raises:
        DataError: the file is unreadable, has several channels, or so many values that it is no label map.
    """
    shape = read_header(path).shape
    if max(shape[3:], default=1) > 1:
        found, cure = f"shape {shape}", "write one label per voxel"
        raise mismatch(f"label {path}", expected="a label map", found=found, cure=cure)
    total: Counter[float] = Counter()
    for slab in iter_slabs(path):
        values, counts = np.unique(slab, return_counts=True)
        total.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(total) > _MAX_LABELS:
            found, cure = f"more than {_MAX_LABELS} different values", "check that image and label are not swapped"
            raise mismatch(f"label {path}", expected="a label map", found=found, cure=cure)
    return total


def label_values(path: StrPath) -> set[float]:
    """Returns the values that occur in a label map, fractions and NaN included.

    Args:
        path: a NIfTI label map.

    Returns:
        The set of values.

    Raises:
        DataError: the file is unreadable, or has so many values that it is no label map.
    """
    return set(value_counts(path))
