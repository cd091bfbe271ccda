"""Twelve kinds of bundles, after those of MONAI's model zoo: small configs of the same blocks, and data for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser
from PIL import Image
from scipy.ndimage import gaussian_filter

CONFIGS = Path(__file__).parent / "bundles"
LOGGING = CONFIGS.parent.parent / "bundle" / "foreign_bundle" / "configs" / "logging.conf"
CASES = 6
VOLUME, PICTURE, SQUARE = (16, 16, 16), (24, 16), (16, 16)

Write = Callable[[Path, str, np.ndarray, np.ndarray], None]


def nifti(data: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    """A volume, its channels last, and its label map as bytes."""
    for folder, array in (("images", image.astype(np.float32)), ("labels", labels.astype(np.uint8))):
        nib.save(nib.Nifti1Image(array.squeeze(), np.eye(4)), data / folder / f"{name}.nii.gz")


def jpeg(data: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    """A photograph, and a label of 0 and 255; its file holds 1 and 254 beside them."""
    for folder, array in (("images", image.clip(0, 255)), ("labels", 255 * labels)):
        Image.fromarray(array.astype(np.uint8)).save(data / folder / f"{name}.jpg")


def numpy(data: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    """Arrays of bytes, the channels of the image last."""
    for folder, array in (("images", image.clip(0, 255)), ("labels", labels)):
        np.save(data / folder / f"{name}.npy", array.astype(np.uint8))


@dataclass(frozen=True)
class Kind:
    """A kind of bundle: the config over the zoo's layout, its data, and its names where they are not the usual ones."""

    config: str
    labels: tuple[int, ...] = (0, 1)
    channels: int = 1
    write: Write = nifti
    shape: tuple[int, ...] = VOLUME
    has_layout: bool = True
    loss: str = "loss"
    trainer: str = "train#trainer"
    evaluator: str = "validate#evaluator"
    run: str = "run"


FLAT = {"has_layout": False, "loss": "lossfn", "trainer": "trainer", "evaluator": "evaluator"}
KINDS = {
    kind.config: kind
    for kind in (
        Kind("spleen"),
        Kind("brats", labels=(0, 1, 2, 4), channels=4),
        Kind("body", labels=tuple(range(105))),
        Kind("btcv", labels=tuple(range(14))),
        Kind("pancreas", labels=(0, 1, 2)),
        Kind("prostate", labels=(0, 1, 2)),
        Kind("endoscopic", channels=3, write=jpeg, shape=PICTURE),
        Kind("renal", labels=tuple(range(7)), channels=3, run="training"),
        Kind("deepedit", channels=3),
        Kind("nuclick", channels=5, write=numpy, shape=SQUARE),
        Kind("short_axis", labels=(0, 1, 2, 3), shape=PICTURE, run="training", **FLAT),
        Kind("template", labels=(0, 1, 2, 3), **FLAT),
    )
}


def make_bundle(kind: Kind, root: Path) -> Path:
    """Writes a bundle of this kind into the folder root: one config, as the zoo has it, and six cases of data."""
    configs = root / "configs"
    configs.mkdir(parents=True)
    files = [*(["layout"] if kind.has_layout else []), kind.config]
    merged = ConfigParser.load_config_files([CONFIGS / f"{name}.yaml" for name in files])
    ConfigParser.export_config_file(merged, configs / "train.json", indent=2)
    (configs / "logging.conf").write_text(LOGGING.read_text(encoding="utf-8"), encoding="utf-8")
    write_data(kind, root / "data")
    return root


def write_data(kind: Kind, data: Path) -> None:
    """Six images whose grey values follow their labels, with noise."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    cases = [image_and_labels(kind, rng) for _ in range(CASES)]
    if kind.config == "short_axis":
        images, labels = (np.stack([case[part] for case in cases]) for part in (0, 1))
        np.savez(data / "slices.npz", images=images[..., 0], segs=labels)
        return
    for number, (image, labels) in enumerate(cases):
        kind.write(data, f"case_{number:03d}", image, labels)


def image_and_labels(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A label map whose first label fills half of the image, and an image of it with channels at the end."""
    field = gaussian_filter(rng.normal(size=kind.shape), 2)
    levels = np.quantile(field, np.linspace(0.5, 1, len(kind.labels))[:-1])
    ranks = np.searchsorted(levels, field, side="right")
    grey = 200 * ranks[..., None] / len(kind.labels) + 30
    return grey + 10 * rng.normal(size=(*kind.shape, kind.channels)), np.asarray(kind.labels)[ranks]
