from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_surrogates.data.errors import mismatch
from monai_surrogates.data.files import write_atomically
from monai_surrogates.data.nifti import StrPath, value_counts
from monai_surrogates.data.progress import with_progress

_FORMAT = 1


def class_counts(
    items: Sequence[Mapping[str, Any]],
    num_classes: int,
    cache: StrPath | None = None,
    progress: bool = True,
    key: str = "label",
    ignore_index: int | None = None,
) -> list[int]:
    """Counts the voxels of every class over the label maps of a data list.

    For a bundle's config, as the source of the class weights of a cross-entropy:
    `class_counts: "$monai_surrogates.data.class_counts(@train_items, 2, cache=@output_dir + '/class_counts.json')"`.

    Args:
        items: data list, one mapping per image.
        num_classes: C, the background included.
        cache: JSON file for the counts of every image; it is read only if num_classes, ignore_index and the paths, sizes and
            modification times of all label maps are unchanged. None counts without a cache.
        progress: shows a bar where tqdm is installed.
        key: entry of an item that holds the path of its NIfTI label map.
        ignore_index: label of removed voxels, which belong to no class.

    Returns:
        C counts in voxels, exact at any size.

    Raises:
        DataError: no items, an item without the key, an unreadable file, a file with several channels, a fraction, or a label
            outside 0 to C − 1.
    """
    per_image = _counts_per_image(items, num_classes, cache, progress, key, ignore_index)
    return [sum(of_class) for of_class in zip(*per_image, strict=True)]


def structure_volumes(
    items: Sequence[Mapping[str, Any]],
    num_classes: int,
    cache: StrPath | None = None,
    progress: bool = True,
    key: str = "label",
    ignore_index: int | None = None,
    patch_size: Sequence[int] | int | None = None,
) -> list[float]:
    """Measures the mean volume of every structure over the label maps of a data list.

    For a bundle's config, as the smoothing of an overlap loss (`smoothing="structure_volume"`). The cache is that of
    `class_counts`; the first call of either function fills it for both.

    The mean of a class is over the images that hold it: the size of the structure, not its frequency. The volumes are in
    voxels of the files; a training that resamples its images multiplies them by the product of the factors per axis.

    Args:
        items: data list, one mapping per image.
        num_classes: C, the background included.
        cache: JSON file for the counts of every image; see `class_counts`.
        progress: shows a bar where tqdm is installed.
        key: entry of an item that holds the path of its NIfTI label map.
        ignore_index: label of removed voxels, which belong to no class.
        patch_size: shape in voxels of the training patches: each image's volumes are cut off at their number of voxels. One
            number is that of all three axes; MONAI's -1 (the whole axis) and None cut off nothing.

    Returns:
        C volumes in voxels; 0 for a class that no image holds.

    Raises:
        DataError: as `class_counts`, or a patch_size other than whole numbers.
    """
    most = _voxels_of(patch_size)
    per_image = _counts_per_image(items, num_classes, cache, progress, key, ignore_index)
    present = [[min(count, most) for count in of_class if count] for of_class in zip(*per_image, strict=True)]
    return [sum(volumes) / max(len(volumes), 1) for volumes in present]


def _voxels_of(patch_size: Sequence[int] | int | None) -> float:
    if patch_size is None:
        return math.inf
    try:
        sizes = [
            operator.index(size) for size in (patch_size if isinstance(patch_size, Iterable) else [patch_size] * 3)
        ]
    except TypeError as error:
        expected, cure = "whole numbers, one per axis", "give the size of the training patches in voxels"
        raise mismatch("patch_size", expected=expected, found=repr(patch_size), cure=cure) from error
    return math.prod(sizes) if min(sizes, default=0) > 0 else math.inf


def _counts_per_image(
    items: Sequence[Mapping[str, Any]],
    num_classes: int,
    cache: StrPath | None,
    progress: bool,
    key: str,
    ignore_index: int | None,
) -> list[list[int]]:
    paths = _label_paths(items, key)
    if num_classes < 1:
        raise mismatch("num_classes", expected="at least 1", found=num_classes, cure="count the background too")
    fingerprint = {**_fingerprint(paths, num_classes), "ignore_index": ignore_index}
    per_image = _load_counts(cache, fingerprint)
    if per_image is None:
        per_image = [
            _count_image(path, num_classes, ignore_index) for path in with_progress(paths, "counting voxels", progress)
        ]
        _save_counts(cache, fingerprint, per_image)
    return per_image


def _label_paths(items: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    if not items:
        raise mismatch("items", expected="at least one image", found="an empty list", cure="check the data list")
    for item in items:
        if not isinstance(item, Mapping) or not isinstance(item.get(key), (str, os.PathLike)):
            expected = f"every item to hold a path under {key!r}"
            raise mismatch("items", expected=expected, found=repr(item), cure="check the data list or `key`")
    return [str(Path(item[key]).absolute()) for item in items]


def _count_image(path: str, num_classes: int, ignore_index: int | None) -> list[int]:
    found = {value: voxels for value, voxels in value_counts(path).items() if value != ignore_index}
    wrong = sorted(value for value in found if value not in range(num_classes))
    if wrong:
        listed = ", ".join(str(value) for value in wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        expected = f"whole labels from 0 to {num_classes - 1}"
        raise mismatch(
            f"label {path}",
            expected=expected,
            found=listed,
            cure="correct the file or num_classes, or set ignore_index",
        )
    return [found.get(label, 0) for label in range(num_classes)]


def _fingerprint(paths: list[str], num_classes: int) -> dict[str, Any]:
    return {"format": _FORMAT, "num_classes": num_classes, "files": [_file_state(path) for path in paths]}


def _file_state(path: str) -> list[Any]:
    try:
        state = Path(path).stat()
    except OSError as error:
        cure = "check the data list"
        raise mismatch(f"file {path}", expected="a label map", found=f"({error.strerror})", cure=cure) from error
    return [path, state.st_size, state.st_mtime_ns]


def _load_counts(cache: StrPath | None, fingerprint: dict[str, Any]) -> list[list[int]] | None:
    if cache is None:
        return None
    try:
        stored = json.loads(Path(cache).read_text(encoding="utf-8"))
        counts = _as_counts(stored["class_counts"], len(fingerprint["files"]), fingerprint["num_classes"])
        return counts if stored["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):  # absent or damaged: count again
        return None


def _as_counts(stored: Any, images: int, classes: int) -> list[list[int]]:
    counts: npt.NDArray[np.int64] = np.array(stored, dtype=np.int64)
    if counts.shape != (images, classes) or counts.min() < 0:
        raise ValueError("damaged cache")
    return [[int(count) for count in row] for row in counts]


def _save_counts(cache: StrPath | None, fingerprint: dict[str, Any], per_image: list[list[int]]) -> None:
    # One row per image: their sum gives the class counts, their mean over images with the class the structure volumes.
    if cache is not None:
        write_atomically(cache, json.dumps({"fingerprint": fingerprint, "class_counts": per_image}, indent=1))
