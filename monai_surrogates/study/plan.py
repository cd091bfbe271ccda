"""The plan of a study: objectives, data, settings, and its output folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from monai_surrogates import data
from monai_surrogates._names import check_compared, objective_names
from monai_surrogates._version import __version__
from monai_surrogates.data.files import write_atomically
from monai_surrogates.losses import make_loss

MANIFEST = "study.json"
LOCK = ".lock"
STAGES = ("train", "evaluate")


class StudyError(ValueError):
    """A study cannot start as asked; the message has the argument, the expected and the found value, and the cure."""


@dataclass(frozen=True)
class Settings:
    """The settings that all objectives of a study share.

    Attributes:
        folds: number of parts of the training list.
        run_folds: number of folds to train and score, from the first on.
        epochs: epochs of training.
        val_interval: epochs between two validations, which choose the checkpoint.
        patch_size: voxels per axis of a training patch.
        patches_per_image: patches per image and epoch.
        batch_size: images per step.
        num_res_units: residual units per level of the U-Net.
        learning_rate: of AdamW, falling with a cosine.
        num_workers: processes that load data.
        seed: of the network's weights, the order of the data, and the division into parts.
        num_images: training images of the embedded task; not used for other data.
    """

    folds: int = 5
    run_folds: int = 5
    epochs: int = 100
    val_interval: int = 5
    patch_size: tuple[int, int, int] = (64, 64, 32)
    patches_per_image: int = 2
    batch_size: int = 2
    num_res_units: int = 2
    learning_rate: float = 1e-3
    num_workers: int = 2
    seed: int = 0
    num_images: int = 100


QUICK = Settings(
    folds=3,
    run_folds=1,
    epochs=20,
    val_interval=5,
    patch_size=(32, 32, 16),
    patches_per_image=1,
    num_res_units=0,
    learning_rate=5e-3,
    num_workers=0,
    num_images=36,
)


@dataclass(frozen=True)
class StudyRun:
    """One objective on one fold, with a folder of its own."""

    objective: str
    fold: int
    folder: Path

    @property
    def prediction_dir(self) -> Path:
        """The folder of the masks that evaluation writes."""
        return self.folder / "eval" / "predictions"

    def log(self, stage: str) -> Path:
        """The file of the stage's output."""
        return self.folder / f"{stage}.log"

    def marker(self, stage: str) -> Path:
        """The JSON file written when the stage is finished: its duration and the files that it left."""
        return self.folder / f"{stage}.done.json"

    def finish(self, stage: str, seconds: float, jobs: int, seconds_per_epoch: float | None = None) -> None:
        """Write the marker of a finished stage: its duration and the files that it left."""
        results = self.folder / ("models" if stage == "train" else "eval/predictions")
        left = sorted(str(path.relative_to(self.folder)) for path in results.glob("*") if path.is_file())
        noted = {"seconds": round(seconds, 1), "seconds_per_epoch": seconds_per_epoch, "jobs": jobs, "left": left}
        write_atomically(self.marker(stage), json.dumps(noted) + "\n")

    def noted(self, stage: str) -> dict[str, Any]:
        """The content of the marker, whether or not the files it lists are still there; empty if the stage is not finished."""
        try:
            noted = json.loads(self.marker(stage).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def record(self, stage: str) -> dict[str, Any]:
        """The content of the marker; empty if the stage is not finished, or a file that it left is gone."""
        noted = self.noted(stage)
        try:
            return noted if all((self.folder / name).is_file() for name in noted["left"]) else {}
        except (KeyError, TypeError):
            return {}

    def todo(self) -> list[str]:
        """The stages still to run: an evaluated run needs nothing, not even its checkpoint."""
        if self.record("evaluate"):
            return []
        return ["evaluate"] if self.record("train") else list(STAGES)


@dataclass(frozen=True)
class Study:
    """A checked study, bound to its output folder.

    Attributes:
        out: the output folder.
        objectives: names, in the order of running and reporting.
        settings: shared by all objectives.
        data_dir: a folder in the layout of the Medical Segmentation Decathlon; None for the embedded task.
    """

    out: Path
    objectives: tuple[str, ...]
    settings: Settings
    data_dir: Path | None = None

    @classmethod
    def prepare(
        cls,
        out: Path,
        objectives: Sequence[str],
        settings: Settings,
        data_dir: Path | None = None,
        progress: bool = True,
    ) -> Study:
        """Check all arguments and the data before anything is written.

        Args:
            out: output folder: new, empty, or of the same study, which is then resumed.
            objectives: names, as of :func:`monai_surrogates.losses.loss_class`.
            settings: shared by all objectives.
            data_dir: a Decathlon folder; None for the embedded task.
            progress: show a bar while the data is checked.

        Raises:
            StudyError: an unknown objective, impossible settings, or an output folder of something else.
            DataError: the data contradicts its dataset.json, or has too few images.
        """
        study = cls(_absolute(out), tuple(objectives), settings, None if data_dir is None else _absolute(data_dir))
        study._check_arguments()
        study._check_out()
        if study.data_dir is not None:
            task = data.read_task(study.data_dir)
            data.split(task, folds=settings.folds, fold=0, seed=settings.seed)
            data.check_task(task, progress=progress)
        return study

    @property
    def task_dir(self) -> Path:
        """The folder of the data: the one given, or the embedded task inside the output folder."""
        return self.data_dir or self.out / "task"

    @property
    def runs(self) -> list[StudyRun]:
        """One run per objective and fold: all objectives on the first fold, then on the next."""
        return [
            StudyRun(name, fold, self.out / "cells" / name / f"fold{fold}")
            for fold in range(self.settings.run_folds)
            for name in self.objectives
        ]

    def with_earlier_objectives(self) -> Study:
        """The same study, with the further objectives already finished in its folder, in the order of the table of names."""
        begun = tuple(name for name in objective_names() if (self.out / "cells" / name).is_dir())
        everything = replace(self, objectives=begun)
        done = {run.objective for run in everything.runs if not run.todo()}
        earlier = [name for name in everything.objectives if name in done and name not in self.objectives]
        return replace(self, objectives=(*self.objectives, *earlier))

    def manifest(self) -> dict[str, Any]:
        """The identity of a study, as JSON; without the objectives, so that one can be added to a finished study."""
        source: dict[str, Any] = {"data": "embedded"}
        if self.data_dir is not None:
            listing = (self.data_dir / "dataset.json").read_bytes()
            source = {"data": str(self.data_dir), "dataset.json": hashlib.sha256(listing).hexdigest()}
        settings = json.loads(json.dumps(asdict(self.settings)))
        return {"monai_surrogates": __version__, **source, **settings}

    def open(self) -> None:
        """Write the manifest into the output folder, and the embedded task if that is the data.

        Raises:
            StudyError: another study has taken the folder since :meth:`prepare`.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self._check_out()
        write_atomically(self.out / MANIFEST, json.dumps(self.manifest(), indent=2) + "\n")
        if self.data_dir is None and not self.task_dir.exists():
            data.write_synthetic_task(self.task_dir, seed=self.settings.seed, num_training=self.settings.num_images)

    def _check_arguments(self) -> None:
        try:
            check_compared(self.objectives)
            for name in self.objectives:
                make_loss(name, softmax=True, to_onehot_y=True, class_counts=[1, 1])  # as the bundle does
        except ValueError as error:
            raise StudyError(str(error)) from None
        settings = self.settings
        for name in ("epochs", "val_interval", "patches_per_image", "batch_size"):
            if getattr(settings, name) < 1:
                raise StudyError(f"{name} must be at least 1, but is {getattr(settings, name)}.")
        if settings.val_interval > settings.epochs:
            raise StudyError(
                f"val_interval must not exceed the {settings.epochs} epochs, but is {settings.val_interval}; "
                "without a validation there is no checkpoint."
            )
        if self.data_dir is None and settings.folds > settings.num_images:
            raise StudyError(
                f"folds must not exceed the {settings.num_images} images of the embedded task, but is {settings.folds}."
            )
        if settings.folds < 2:
            raise StudyError(f"folds must be at least 2, but is {settings.folds}; one part is kept for the scores.")
        if not 1 <= settings.run_folds <= settings.folds:
            raise StudyError(f"run_folds must lie in 1 to {settings.folds}, but is {settings.run_folds}.")
        if self.data_dir is None and settings.num_images < 3:
            raise StudyError(
                f"num_images must be at least 3, but is {settings.num_images}; one image is left to train."
            )
        if not 0 <= settings.seed < 2**32:
            raise StudyError(f"seed must lie in 0 to 2**32 - 1, but is {settings.seed}.")
        for name, path in (("--out", self.out), ("--data", self.task_dir)):
            if "#" in str(path) or "::" in str(path):
                raise StudyError(
                    f"{name} must not hold '#' or '::', which MONAI's configs read as keys, but is {path}."
                )

    def _check_out(self) -> None:
        file = self.out / MANIFEST
        in_the_way = next((p for p in (self.out, *self.out.parents) if p.exists() and not p.is_dir()), None)
        if in_the_way is not None:
            raise StudyError(f"--out must be a folder, but {in_the_way} is a file; choose another.")
        parent = next(p for p in (self.out, *self.out.parents) if p.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise StudyError(f"--out must be a folder that can be written, but {parent} cannot; choose another.")
        begun = [] if not self.out.exists() else [p.name for p in self.out.iterdir() if p.name != LOCK]
        if all(name.startswith(f".{MANIFEST}") for name in begun):  # killed before it was a study
            return
        if not file.is_file():
            raise StudyError(
                f"--out must be new or hold a study, but {self.out} holds other files; choose another folder."
            )
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise StudyError(f"{file} is damaged; choose another folder with --out.")
        asked = self.manifest() if self.data_dir is None or (self.data_dir / "dataset.json").is_file() else {}
        known_first = sorted(asked, key=lambda key: key not in found)
        differing = [
            f"{key}={found.get(key)} instead of {asked[key]}" for key in known_first if found.get(key) != asked[key]
        ]
        if differing:
            more = f"; and {len(differing) - 3} more, as with or without --quick" if len(differing) > 3 else ""
            raise StudyError(
                f"{self.out} holds another run ({'; '.join(differing[:3])}{more}); choose another folder with --out, "
                "or repeat the arguments of that run to resume it."
            )


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
