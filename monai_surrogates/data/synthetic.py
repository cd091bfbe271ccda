"""A segmentation task that needs no download: two-channel 3D images with lesions, written as NIfTI in MSD layout.

The properties that decide between objectives are realistic. The lesion takes half a percent to eight percent of the voxels,
log-uniform over the images, in one to three irregular blobs. The background is correlated texture with a bias field,
bright spots that look like a lesion in one channel only, and voxel noise.

The boundary is ambiguous. The reference is a level set of one random field, while the image shows that of another; they
agree on the sharp side of a lesion and differ by a few voxels on its diffuse side, where the contrast fades as well. No
method can know the reference there, so the best expected Dice is below 1, as between two readers of a real image, and
the objective decides whether a method includes such a region.

The first channel shows the whole lesion with a wide, soft edge; in the second its core is bright and its rim, with
a sharper edge, dark.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt

from monai_surrogates.data.errors import mismatch
from monai_surrogates.data.nifti import StrPath
from monai_surrogates.data.progress import with_progress

Field: TypeAlias = npt.NDArray[np.float64]
Shape: TypeAlias = tuple[int, int, int]

SPACING_MM = (1.0, 1.0, 2.5)
_FRACTION = (0.005, 0.08)  # lesion share of the volume, smallest and largest
_SETS = (("Tr", 0), ("Ts", 1))  # folder suffix, stream of random numbers


def write_synthetic_task(
    root: StrPath,
    seed: int = 0,
    num_training: int = 30,
    num_test: int = 4,
    shape: Shape = (40, 40, 20),
    progress: bool = False,
) -> Path:
    """Writes the embedded task as a Medical Segmentation Decathlon folder.

    imagesTr and imagesTs hold int16 images (H, W, D, 2), labelsTr uint8 label maps (H, W, D): 0 background, 1 lesion.
    labelsTs holds the references of the test images, which dataset.json does not list, as in the Decathlon. The same
    seed gives the same bytes; an image depends on seed and its own number, not on the number of images. The folder
    appears when it is complete.

    Args:
        root: folder to write; it must be empty or absent.
        seed: of all images.
        num_training: images with a label in the training list.
        num_test: images in the test list.
        shape: (H, W, D) in voxels of 1 x 1 x 2.5 mm.
        progress: shows a bar where tqdm is installed.

    Returns:
        The absolute path of the folder.

    Raises:
        DataError: the folder is not empty, or a number is out of range.

    Example:
        >>> import tempfile
        >>> from monai_surrogates.data import read_task
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     task = read_task(write_synthetic_task(folder, num_training=2, num_test=1, shape=(16, 16, 8)))
        >>> task.labels, task.num_channels, len(task.training)
        ({0: 'background', 1: 'lesion'}, 2, 2)
    """
    _check_arguments(seed, num_training, num_test, shape)
    target = _empty_target(Path(root))
    counts = {"Tr": num_training, "Ts": num_test}
    cases = [(suffix, stream, index) for suffix, stream in _SETS for index in range(counts[suffix])]
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder = Path(scratch) / target.name
        _make_folders(folder)
        for suffix, stream, index in with_progress(cases, "writing the task", progress):
            _write_case(folder, suffix, index, np.random.default_rng([seed, stream, index]), shape)
        (folder / "dataset.json").write_text(json.dumps(_description(counts), indent=2) + "\n", encoding="utf-8")
        if target.exists():
            target.rmdir()
        folder.rename(target)
    return target


def _check_arguments(seed: int, num_training: int, num_test: int, shape: Shape) -> None:
    for name, value, least in (("seed", seed, 0), ("num_training", num_training, 1), ("num_test", num_test, 0)):
        if value < least:
            raise mismatch(name, expected=f"an integer of at least {least}", found=value, cure="raise it")
    if len(shape) != 3 or min(shape) < 8:
        raise mismatch("shape", expected="three sizes of at least 8 voxels", found=shape, cure="enlarge the volume")


def _empty_target(root: Path) -> Path:
    target = root.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        found, cure = "something there", "choose another folder, or remove it first"
        raise mismatch(f"folder {root}", expected="an empty or absent folder", found=found, cure=cure)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _make_folders(folder: Path) -> None:
    for suffix, _ in _SETS:
        (folder / f"images{suffix}").mkdir(parents=True)
        (folder / f"labels{suffix}").mkdir()


def _case_name(suffix: str, index: int) -> str:
    return f"lesion_{'test_' if suffix == 'Ts' else ''}{index:03d}.nii.gz"


def _description(counts: dict[str, int]) -> dict[str, Any]:
    train, test = ([_case_name(suffix, index) for index in range(counts[suffix])] for suffix, _ in _SETS)
    return {
        "name": "SyntheticLesions",
        "description": "Lesions with a partly ambiguous boundary, generated from random fields",
        "reference": "monai-surrogates",
        "licence": "Apache-2.0",
        "release": "1.0",
        "tensorImageSize": "4D",
        "modality": {"0": "whole", "1": "core"},
        "labels": {"0": "background", "1": "lesion"},
        "numTraining": counts["Tr"],
        "numTest": counts["Ts"],
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in train],
        "test": [f"./imagesTs/{name}" for name in test],
    }


def _write_case(folder: Path, suffix: str, index: int, rng: np.random.Generator, shape: Shape) -> None:
    affine = _random_affine(rng, shape)
    image, label = _random_case(rng, shape)
    _save(folder / f"images{suffix}" / _case_name(suffix, index), image, affine)
    _save(folder / f"labels{suffix}" / _case_name(suffix, index), label, affine)


def _save(path: Path, voxels: npt.NDArray[Any], affine: Field) -> None:
    nifti = nib.Nifti1Image(voxels, affine)
    nifti.set_sform(affine, code=1)
    nifti.set_qform(affine, code=1)
    nifti.header.set_xyzt_units("mm")
    nib.save(nifti, path)  # nibabel writes gzip without a time stamp: the same voxels give the same bytes


def _random_affine(rng: np.random.Generator, shape: Shape) -> Field:
    """Voxels to millimetres: x and y point backwards (LPS), tilted by some degrees about z, centred near the origin."""
    tilt = np.deg2rad(rng.uniform(-10, 10))
    rotation = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(np.array([-1, -1, 1]) * SPACING_MM)
    affine[:3, 3] = rng.uniform(-5, 5, 3) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _random_case(rng: np.random.Generator, shape: Shape) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """One image (H, W, D, 2) and its label map (H, W, D)."""
    fraction = np.exp(rng.uniform(*np.log(_FRACTION)))
    anatomy = _blobs(rng, shape) + 0.12 * _smooth_noise(rng, shape, 3.0)
    diffuse = _ramp(_smooth_noise(rng, shape, 7.0), 0.4)  # 0 on the sharp sides of a lesion, 1 on the diffuse ones
    depth = _depth(anatomy, fraction)
    visible = depth + 0.18 * diffuse * _smooth_noise(rng, shape, 3.0)
    contrast = 1 - 0.3 * diffuse
    whole = 1.4 * contrast * _ramp(visible, 0.12 + 0.15 * diffuse)
    core = contrast * (1.8 * _ramp(visible - 0.35, 0.1) - 0.6 * _ramp(visible, 0.08 + 0.15 * diffuse))
    image = np.stack([_acquire(rng, whole), _acquire(rng, core)], axis=-1)
    return image, (depth > 0).astype(np.uint8)


def _blobs(rng: np.random.Generator, shape: Shape) -> Field:
    """Distance to the nearest of one to three stretched centres, in units of each blob's size."""
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1) * np.array(SPACING_MM)
    extent = np.array(shape) * np.array(SPACING_MM)
    count = rng.integers(1, 4)
    centres = extent * rng.uniform(0.25, 0.75, (count, 3))
    radii = extent.min() / 4 * rng.uniform(0.6, 1.0, (count, 1)) * rng.uniform(0.75, 1.3, (count, 3))
    distances: Field = np.linalg.norm((grid[..., None, :] - centres) / radii, axis=-1)
    return np.asarray(distances.min(axis=-1))


def _depth(distance: Field, fraction: float) -> Field:
    """Depth inside the level set that encloses the given share of the volume: 0 on its edge, 1 at the deepest voxel."""
    edge = np.quantile(distance, fraction)
    return np.asarray((edge - distance) / (edge - distance.min()))


def _ramp(value: Field, width: float | Field) -> Field:
    return np.asarray(0.5 + 0.5 * np.tanh(value / width))


def _smooth_noise(rng: np.random.Generator, shape: Shape, sigma_mm: float) -> Field:
    """Gaussian random field of mean 0 and variance 1: white noise smoothed over sigma_mm along each axis."""
    smoothers = [_smoother(size, sigma_mm / spacing) for size, spacing in zip(shape, SPACING_MM, strict=True)]
    field: Field = rng.standard_normal([smoother.shape[1] for smoother in smoothers])
    for smoother in smoothers:
        # The smoothed axis becomes the last one; after three the order is restored.
        field = np.tensordot(field, smoother, axes=(0, 1))
    return field


def _smoother(size: int, sigma: float) -> Field:
    """Matrix (size, size + margin) with Gaussians of unit norm on a ring as rows; the margin separates the two ends."""
    ring = size + int(np.ceil(3 * sigma))
    gaps = np.abs(np.arange(size)[:, None] - np.arange(ring))
    rows: Field = np.exp(-((np.minimum(gaps, ring - gaps) / sigma) ** 2))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _acquire(rng: np.random.Generator, signal: Field) -> npt.NDArray[np.int16]:
    """Adds texture, look-alike spots, bias field and noise, and scales to the arbitrary units of a scanner."""
    shape: Shape = signal.shape
    texture = 0.15 * _smooth_noise(rng, shape, 3.0) + 0.10 * _smooth_noise(rng, shape, 8.0)
    spots = 0.8 * _ramp(_smooth_noise(rng, shape, 4.0) - 2.5, 0.3)
    bias = np.exp(0.08 * _smooth_noise(rng, shape, 20.0))
    noisy = bias * (2.0 + signal + texture + spots) + 0.15 * rng.standard_normal(shape)
    return np.clip(np.rint(rng.uniform(120, 280) * noisy), 0, 32767).astype(np.int16)
