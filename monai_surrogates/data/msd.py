from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from monai.data import load_decathlon_datalist, partition_dataset, select_cross_validation_folds

from monai_surrogates.data.errors import mismatch
from monai_surrogates.data.nifti import StrPath, check_same_grid, label_values, read_header
from monai_surrogates.data.progress import with_progress


@dataclass(frozen=True)
class MSDTask:
    """A folder in the layout of the Medical Segmentation Decathlon, described by its dataset.json.

    Args:
        root: absolute path of the folder.
        name: the task's name, by default the folder's.
        labels: label value to name, 0 (the background) upwards without gaps.
        channels: names of the image channels, in order.
        training: one {"image", "label"} of absolute paths per training image, in the file's order.
        test: absolute paths of the images without label.
    """

    root: Path
    name: str
    labels: dict[int, str]
    channels: tuple[str, ...]
    training: tuple[dict[str, str], ...]
    test: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.labels)

    @property
    def num_channels(self) -> int:
        """Number of image channels."""
        return len(self.channels)


class Split(NamedTuple):
    """Three disjoint lists of {"image", "label"}: for training, for choosing the checkpoint, for the final scores."""

    train: list[dict[str, str]]
    validation: list[dict[str, str]]
    evaluation: list[dict[str, str]]


def read_task(root: StrPath) -> MSDTask:
    """Reads the dataset.json of a Medical Segmentation Decathlon folder and finds its files.

    Both spellings in use are read: `labels` as {"0": "background"} or, as nnU-Net has it, {"background": 0}, and
    `modality` or `channel_names`. Files named `._...` (made by macOS) are skipped; symbolic links are
    followed. No image is opened; see `check_task`.

    Args:
        root: the folder that holds dataset.json.

    Returns:
        The task, with absolute paths.

    Raises:
        DataError: dataset.json is missing or malformed, or lists a missing file.
    """
    folder = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links, and `..` behind a link differs
    file = folder / "dataset.json"
    document = _read_document(file)
    return MSDTask(
        root=folder,
        name=_task_name(file, document),
        labels=_read_labels(file, document),
        channels=_read_channels(file, document),
        training=_read_training(file, document),
        test=_read_test(file, document),
    )


def _read_document(file: Path) -> dict[str, Any]:
    if not file.is_file():
        found = "no such file" if file.parent.is_dir() else "no such folder"
        cure = "give the folder of a Medical Segmentation Decathlon task"
        raise mismatch(f"{file}", expected="a description of the data set", found=found, cure=cure)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise mismatch(f"{file}", expected="valid JSON", found=f"({error})", cure="correct the file") from error
    return _object(file, "the whole file", document)


def _object(file: Path, field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        cure = "see the format at medicaldecathlon.com"
        raise mismatch(f"{file}, {field}", expected="a JSON object with entries", found=_brief(value), cure=cure)
    return value


def _brief(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _task_name(file: Path, document: dict[str, Any]) -> str:
    name = document.get("name", file.parent.name)
    if not isinstance(name, str):
        raise mismatch(f"{file}, name", expected="a string", found=_brief(name), cure="correct the name")
    return name


def _read_labels(file: Path, document: dict[str, Any]) -> dict[int, str]:
    declared = _object(file, "labels", document.get("labels"))
    if all(_is_index(value) for value in declared.values()):  # nnU-Net: name to label
        declared = {str(value): name for name, value in declared.items()} if _distinct(declared.values()) else {}
    names = _names_by_index(file, "labels", declared)
    if len(names) < 2:
        expected, cure = "the background and at least one structure", "declare every label"
        raise mismatch(f"{file}, labels", expected=expected, found=_brief(document["labels"]), cure=cure)
    return dict(enumerate(names))


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _distinct(values: Iterable[Any]) -> bool:
    values = list(values)
    return len(set(values)) == len(values)


def _read_channels(file: Path, document: dict[str, Any]) -> tuple[str, ...]:
    field = "channel_names" if "channel_names" in document else "modality"
    return _names_by_index(file, field, _object(file, field, document.get(field)))


def _names_by_index(file: Path, field: str, declared: Mapping[str, Any]) -> tuple[str, ...]:
    indices = [str(index) for index in range(len(declared))]
    if set(declared) != set(indices) or not all(isinstance(name, str) for name in declared.values()):
        expected = 'names keyed by "0", "1", "2" and so on without gaps'
        cure = "number the entries from 0"
        raise mismatch(f"{file}, {field}", expected=expected, found=_brief(declared), cure=cure)
    return tuple(declared[index] for index in indices)


def _read_training(file: Path, document: dict[str, Any]) -> tuple[dict[str, str], ...]:
    entries = _list(file, "training", document.get("training"))
    for entry in entries:
        _check_entry(file, "training", entry, ("image", "label"))
    items = [{key: item[key] for key in ("image", "label")} for item in _joined(file, "training")] if entries else []
    items = [item for item in items if not any(_is_apple_double(path) for path in item.values())]
    if not items:
        cure = "list the training images"
        raise mismatch(f"{file}, training", expected="at least one image", found="an empty list", cure=cure)
    _check_files(file, [path for item in items for path in item.values()])
    _check_distinct(file, [item["image"] for item in items])
    return tuple(items)


def _read_test(file: Path, document: dict[str, Any]) -> tuple[str, ...]:
    entries = _list(file, "test", document.get("test", []))
    strings = all(isinstance(entry, str) for entry in entries)
    for entry in entries:
        _check_entry(file, "test", {"image": entry} if strings else entry, ("image",))
    paths = [item["image"] for item in _joined(file, "test")] if entries else []
    paths = [path for path in paths if not _is_apple_double(path)]
    _check_files(file, paths)
    return tuple(paths)


def _list(file: Path, field: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        cure = "see the format at medicaldecathlon.com"
        raise mismatch(f"{file}, {field}", expected="a list of images", found=_brief(value), cure=cure)
    return value


def _check_entry(file: Path, field: str, entry: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) and entry[key] for key in keys):
        expected = f"every entry to be an object with the file names {' and '.join(keys)}"
        raise mismatch(f"{file}, {field}", expected=expected, found=_brief(entry), cure="correct the entry")
    for key in keys:
        _check_inside(file, field, entry[key])


def _check_inside(file: Path, field: str, name: str) -> None:
    path = PureWindowsPath(name)  # knows both separators and drives, so the rule is the same on every system
    if path.anchor or ".." in path.parts:
        expected = "paths inside the folder, relative and without `..`"
        cure = "move the file into the folder, or link to it from there"
        raise mismatch(f"{file}, {field}", expected=expected, found=_brief(name), cure=cure)


def _joined(file: Path, key: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = load_decathlon_datalist(file, is_segmentation=True, data_list_key=key)
    return items


def _is_apple_double(path: str) -> bool:
    return Path(path).name.startswith("._")


def _check_files(file: Path, paths: list[str]) -> None:
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        found = f"{len(missing)} missing, the first {missing[0]}"
        cure = "unpack the data set again, or correct the entries"
        raise mismatch(f"{file}", expected=f"{len(paths)} files on disk", found=found, cure=cure)


def _check_distinct(file: Path, images: list[str]) -> None:
    if not _distinct(images):
        twice = next(image for image in images if images.count(image) > 1)
        expected, cure = "every image once", "remove the second entry"
        raise mismatch(f"{file}, training", expected=expected, found=f"{twice} more than once", cure=cure)
    names = [Path(image).name.lower().removesuffix(".gz").removesuffix(".nii") for image in images]
    if not _distinct(names):  # masks and scores go by the name of the image
        twice = next(name for name in names if names.count(name) > 1)
        expected, cure = "a name of its own for every image", "rename the files"
        raise mismatch(f"{file}, training", expected=expected, found=f"{twice} in several folders", cure=cure)


def check_task(task: MSDTask, progress: bool = True) -> None:
    """Checks every training pair: grids, number of channels, label values.

    All headers are checked before any voxel is read.

    Args:
        task: from `read_task`.
        progress: shows a bar where tqdm is installed.

    Raises:
        DataError: the first file that is unreadable or contradicts its pair or dataset.json.
    """
    for item in with_progress(task.training, "checking headers", progress):
        check_same_grid(item["image"], item["label"])
        _check_channels(task, item["image"])
    for item in with_progress(task.training, "checking labels", progress):
        _check_label_values(task, item["label"])


def _check_channels(task: MSDTask, image: str) -> None:
    shape = read_header(image).shape
    found = shape[3] if len(shape) == 4 else 1
    if found != task.num_channels:
        expected = f"the {task.num_channels} channels that dataset.json declares ({', '.join(task.channels)})"
        raise mismatch(f"image {image}", expected=expected, found=found, cure="correct the file or the declaration")


def _check_label_values(task: MSDTask, label: str) -> None:
    undeclared = sorted(value for value in label_values(label) if value not in task.labels)
    if undeclared:
        expected = "only the declared labels " + ", ".join(f"{value} ({name})" for value, name in task.labels.items())
        found = ", ".join(str(value) for value in undeclared[:5]) + (", ..." if len(undeclared) > 5 else "")
        raise mismatch(f"label {label}", expected=expected, found=found, cure="correct the file or the declaration")


def split(task: MSDTask | StrPath, folds: int = 5, fold: int = 0, seed: int = 0) -> Split:
    """Splits the training images for one fold of a cross-validation.

    The images are shuffled by the seed and dealt into `folds` parts by MONAI's `partition_dataset`. Part `fold` is
    for the final scores. Of the n others, in order from part `fold + 1` round to part `fold - 1`, the first
    max(1, n // folds) are for choosing the checkpoint, and the rest for training.

    Args:
        task: from `read_task`, or the folder for it.
        folds: number of parts, at least 2.
        fold: 0 to folds − 1.
        seed: of the shuffle.

    Returns:
        The three disjoint lists; the same arguments give the same lists on every machine.

    Raises:
        DataError: the folder is no task, folds, fold or seed is out of range, or there are too few images.
    """
    task = task if isinstance(task, MSDTask) else read_task(task)
    _check_folds(task, folds, fold, seed)
    parts = partition_dataset(list(task.training), num_partitions=folds, shuffle=True, seed=seed)
    rest = select_cross_validation_folds(parts, [(fold + step) % folds for step in range(1, folds)])
    chosen = max(1, len(rest) // folds)
    if len(rest) == chosen:
        found = f"{len(task.training)} images in {folds} folds"
        raise mismatch(f"{task.root}", expected="an image left for training", found=found, cure="ask for other folds")
    return Split(train=_copies(rest[chosen:]), validation=_copies(rest[:chosen]), evaluation=_copies(parts[fold]))


def _check_folds(task: MSDTask, folds: int, fold: int, seed: int) -> None:
    if not _is_index(folds) or folds < 2:
        raise mismatch("folds", expected="an integer of at least 2", found=repr(folds), cure="ask for more folds")
    if not _is_index(seed) or not 0 <= seed < 2**32:
        raise mismatch("seed", expected="an integer from 0 to 2**32 - 1", found=repr(seed), cure="choose another seed")
    if not _is_index(fold) or not 0 <= fold < folds:
        expected, cure = f"an integer from 0 to {folds - 1}", "choose one of the folds"
        raise mismatch("fold", expected=expected, found=repr(fold), cure=cure)
    if len(task.training) < folds:
        found, cure = f"{len(task.training)} training images in {task.root}", "ask for fewer folds"
        raise mismatch("folds", expected=f"at least {folds} images for {folds} folds", found=found, cure=cure)


def _copies(items: list[dict[str, str]]) -> list[dict[str, str]]:
    return [dict(item) for item in items]
