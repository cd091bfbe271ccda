"""Base class of the score handlers: the metric of an epoch fills an engine's state."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.exceptions import NotComputableError
from ignite.metrics.metric import EpochWise, MetricUsage
from monai.data import MetaTensor, decollate_batch
from monai.handlers import IgniteMetricHandler
from monai.utils import ImageMetaKey
from torch import Tensor

from monai_surrogates._messages import warn_of_data
from monai_surrogates.handlers.csv_files import complete_files
from monai_surrogates.metrics import OverlapMetric

logger = logging.getLogger(__name__)

MANY_CLASSES = 20  # the most scored classes whose scores are shown unasked
MANY_NAMES = 5  # the most classes that a warning lists


class OverlapHandler(IgniteMetricHandler):
    """Collects the images of an epoch and puts the scores of their metric into the engine's state.

    Everything in ``engine.state.metrics`` is finite, because MONAI's checkpoint saver would keep a NaN for ever: a score
    without a defined cell is 0, one warning says so, and its number of defined cells, ``name/defined``, is 0 too.

    ``engine.state.metric_details`` holds the scores of each image and scored class, (images, classes), NaN included. The files
    that MONAI's MetricsSaver writes of it get the class names as headings, and the scores of the images all digits.

    Under torch.distributed the images of all ranks are scored together; a rank may have none. Samplers repeat images to give
    each rank equally many: repeats are dropped if the meta data hold file names, and a log line has their number. The details
    hold repeats too, because MetricsSaver writes a file name beside each row; it needs the default usage, one score per epoch.
    Every rank must call ``compute`` and ``state_dict``.

    Args:
        metric_fn: the metric that collects.
        output_transform: extracts (prediction, reference), or (prediction, reference, mask), from ``engine.state.output``,
            such as ``monai.handlers.from_engine(["pred", "label"])``. A reference (B, spatial...) is read as
            (B, 1, spatial...).
        save_details: fill ``engine.state.metric_details``.
        drop_repeats: score an image only once if several ranks have it: the same file, patch and scores.
        per_class: put the scores of each class into ``engine.state.metrics``; by default up to 20 scored classes, because
            StatsHandler prints them all.

    Raises:
        NotComputableError: the epoch ended without a single image on any rank.
    """

    metric_fn: OverlapMetric

    def __init__(
        self,
        metric_fn: OverlapMetric,
        output_transform: Callable[[Any], Any] = lambda x: x,
        save_details: bool = True,
        drop_repeats: bool = True,
        per_class: bool | None = None,
    ) -> None:
        if not isinstance(metric_fn, OverlapMetric):
            raise TypeError(
                f"metric_fn must be a metric of monai_surrogates.metrics, but is {type(metric_fn).__name__}; "
                "MONAI's own have their handlers in monai.handlers."
            )
        self.drop_repeats, self.per_class = drop_repeats, per_class
        self._images: list[str] = []
        self._readings: dict[str, Any] = {}
        self._details: dict[str, Tensor] = {}
        self._detail_names: set[str] = set()  # the handler's entries in engine.state.metric_details
        self._warned = False
        super().__init__(metric_fn=metric_fn, output_transform=output_transform, save_details=save_details)
        if fault := same_keys(metric_fn.given_labels or ()):
            metric_fn.refuse_labels(fault, "rename the classes")

    @abstractmethod
    def readings(self) -> dict[str, float | Tensor]:
        """The numbers for ``engine.state.metrics``: the score under ``""``, the others under their part after ``name/``."""

    @abstractmethod
    def class_readings(self) -> list[dict[str, float | Tensor]]:
        """The numbers of each scored class: its score under ``""``, the others under their part after ``name/label/``."""

    @abstractmethod
    def details(self) -> dict[str, Tensor]:
        """Scores of the images and classes, (images, classes), under their part after ``name``."""

    def attach(self, engine: Engine, name: str, usage: str | MetricUsage = EpochWise()) -> None:  # noqa: B008 - Ignite's default
        """Score an engine's output.

        Args:
            engine: a MONAI engine or a bare Ignite one.
            name: of the score in ``engine.state.metrics``.
            usage: Ignite's: the events that reset and compute the score; each epoch by default.
        """
        # The lines of MONAI's attach, which does not pass usage on to Ignite's.
        super(IgniteMetricHandler, self).attach(engine, name, usage)
        self._engine, self._name = engine, name
        if self.save_details and not hasattr(engine.state, "metric_details"):
            engine.state.metric_details = {}

    def started(self, engine: Engine) -> None:
        """Begin an epoch. The completion of files is added here, and so runs after every attached MetricsSaver."""
        super().started(engine)
        if self.save_details and not engine.has_event_handler(self._complete_files, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._complete_files)

    def _complete_files(self, engine: Engine) -> None:
        for name in self._detail_names:
            complete_files(engine, name, self.metric_fn.class_labels)

    def iteration_completed(self, engine: Engine) -> None:
        """Score an iteration as one batch: all its images or, on an error, none. Ignite would unroll lists and drop masks."""
        output = self._output_transform(engine.state.output)
        if isinstance(output, Mapping):
            missing = [key for key in ("y_pred", "y") if key not in output]
            if missing:
                raise ValueError(
                    f"output must hold y_pred and y, but has no {' and no '.join(missing)}; rename its keys."
                )
            output = [output[key] for key in ("y_pred", "y", "mask") if key in output]
        if any(isinstance(part, Tensor) or len(part) for part in output):  # not a batch without an image
            self.update(output)

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._images = []

    def update(self, output: Sequence[Any]) -> None:
        """Score one batch: (prediction, reference) or (prediction, reference, mask), tensors or lists of images."""
        if len(output) not in (2, 3):
            raise ValueError(
                f"output must have length 2 or 3, prediction, reference and perhaps a mask, but has {len(output)}; "
                "choose them by output_transform."
            )
        prediction, reference, *mask = output
        reference = _with_channel(reference, prediction)
        self.metric_fn(prediction, reference, **({"mask": mask[0]} if mask else {}))
        self._is_reduced = False
        self._images += image_names(prediction, reference)

    def compute(self) -> float | Tensor | dict[str, float]:
        """The score of all images so far on all ranks, 0 if undefined."""
        # Every rank gathers, even without an image, or the others would wait for ever.
        rows = self.metric_fn.get_buffer()
        if rows is None or len(rows) == 0:
            raise NotComputableError(f"{type(self).__name__} has no image yet; it must see one before it is computed.")
        self.metric_fn.select(None)  # the details hold repeats
        self._details = self.details()
        self.metric_fn.select(self._first_of_each(rows))
        of_classes = dict(zip(class_keys(self.metric_fn.class_labels), self.class_readings(), strict=True))
        shown = self.per_class if self.per_class is not None else len(of_classes) <= MANY_CLASSES
        readings = self.readings() | (_under_keys(of_classes) if shown else {})
        if not self._warned:
            self._warn_of_undefined(readings, of_classes)
        self._readings = {reading: _plain(torch.as_tensor(value).nan_to_num(0)) for reading, value in readings.items()}
        self._is_reduced = True
        score: float | Tensor = self._readings[""]
        return score

    def completed(self, engine: Engine, name: str) -> None:
        """Fill ``engine.state.metrics`` and ``engine.state.metric_details``."""
        super().completed(engine, name)
        engine.state.metrics.update(
            {f"{name}/{reading}": value for reading, value in self._readings.items() if reading}
        )
        if self.save_details:
            filled = {name + part: cells for part, cells in self._details.items()}
            engine.state.metric_details.update(filled)
            self._detail_names |= filled.keys()

    def state_dict(self) -> OrderedDict[str, Any]:
        """The images so far, for each rank. A resumed engine begins its epoch again, as with Ignite's metrics."""
        own = {"rows": self.metric_fn.collected(), "images": self._images}
        return OrderedDict(per_rank=idist.all_gather(own) if idist.get_world_size() > 1 else [own])

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state of :meth:`state_dict`, on as many ranks.

        Raises:
            ValueError: the state of another number of ranks, or of another kind of handler; nothing is changed.
        """
        per_rank = state_dict["per_rank"]
        if len(per_rank) != idist.get_world_size():
            raise ValueError(
                f"state_dict must be of {idist.get_world_size()} processes, as there are now, but is of {len(per_rank)}; "
                "resume with as many."
            )
        own = per_rank[idist.get_rank()]
        rows, images = own["rows"], list(own["images"])
        if len(images) != (0 if rows is None else len(rows)) or (
            rows is not None and rows.ndim != self.metric_fn.row_ndim + 1
        ):
            raise ValueError(
                f"state_dict must hold rows of {type(self.metric_fn).__name__} and a name for each, but holds "
                f"{None if rows is None else tuple(rows.shape)} and {len(images)} names; load the state of the same handler."
            )
        self.reset()
        if rows is not None:
            self.metric_fn.extend(rows)
        self._images = images

    def _first_of_each(self, rows: Tensor) -> list[int]:
        """The rows without repeats, which only several ranks have."""
        every = list(range(len(rows)))
        if not self.drop_repeats or idist.get_world_size() == 1:
            return every
        images = [key for keys in idist.all_gather(_numbered(self._images)) for key in keys]
        # MONAI's meta data may be the same for different items of a file, such as slices; their scores differ.
        keys = [(*image, str(cells.tolist())) for image, cells in zip(images, rows, strict=True)]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        distinct = [row for row, key in enumerate(keys) if not key[0] or first[key] == row]
        if len(distinct) < len(rows) and idist.get_rank() == 0:
            name = self._name or type(self).__name__
            logger.info("%s: dropped %d repeats among %d images.", name, len(rows) - len(distinct), len(rows))
        return distinct

    def _warn_of_undefined(
        self, readings: Mapping[str, float | Tensor], of_classes: Mapping[str, Mapping[str, float | Tensor]]
    ) -> None:
        """Say that numbers or classes have no defined cell; a few classes are named, many are counted."""
        absent = [key for key, values in of_classes.items() if any(map(_holds_nan, values.values()))]
        reported = any(map(_holds_nan, readings.values()))
        if not absent and not reported:
            return
        self._warned = True
        none = bool(torch.as_tensor(readings[""]).isnan().all())
        found = "no image has a defined score" if none else "some of the scores are undefined"
        classes = absent if len(absent) <= MANY_NAMES else [f"{len(absent)} of {len(of_classes)} classes"]
        reason = ", ".join([*([] if none else classes), "empty masks", f"empty={self.metric_fn.empty!r}"])
        outcome = "reported as 0" if reported else "left out of the mean"
        warn_of_data(f"{self._name or type(self).__name__}: {found} ({reason}); {outcome}.")


def class_keys(labels: Sequence[str]) -> list[str]:
    """The key of each class in ``engine.state.metrics``: its name, with ``_`` for characters that MLflow refuses."""
    return [re.sub(r"^\.+$|[^\w.\- :]", "_", label) for label in labels]


def same_keys(labels: Sequence[str]) -> str:
    """The fault of labels of which two keys of the handler would be the same, ``""`` without one."""
    keys = class_keys(labels)
    every = ["", "defined", *keys, *(f"{key}/defined" for key in keys)]
    twice = sorted({key for key in every if every.count(key) > 1})
    return f"give every class a key of its own, but {', '.join(twice)} would stand for two things" if twice else ""


def image_names(*sides: Tensor | Sequence[Tensor]) -> list[str]:
    """File and patch of each image of a batch, from the first side with such meta data; ``""`` if there is none."""
    of_sides = [[_name(meta) for meta in _metas(side)] for side in sides]
    return [next(filter(None, names), "") for names in zip(*of_sides, strict=True)]


def _with_channel(reference: Any, prediction: Any) -> Any:
    """A reference (B, spatial...) as (B, 1, spatial...); likewise the images of a list."""
    if isinstance(reference, Tensor) and isinstance(prediction, Tensor):
        return reference.unsqueeze(1) if reference.ndim == prediction.ndim - 1 else reference
    if (
        isinstance(reference, list | tuple)
        and isinstance(prediction, list | tuple)
        and len(reference) == len(prediction)
    ):
        return [r[None] if r.ndim == p.ndim - 1 else r for r, p in zip(reference, prediction, strict=True)]
    return reference


def _numbered(names: list[str]) -> list[tuple[str, int]]:
    """Each name with the number of its earlier occurrences: samplers repeat images between ranks, never within one."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        numbered.append((name, seen[name]))
        seen[name] += 1
    return numbered


def _metas(images: Tensor | Sequence[Tensor]) -> list[Mapping[str, Any]]:
    if isinstance(images, MetaTensor) and images.is_batch:
        images = decollate_batch(images)
    elif isinstance(images, MetaTensor) and len(images) == 1:  # Ignite has unrolled a list
        return [images.meta]
    elif isinstance(images, Tensor):
        return [{}] * len(images)
    return [image.meta if isinstance(image, MetaTensor) else {} for image in images]


def _name(meta: Mapping[str, Any]) -> str:
    file = meta.get(ImageMetaKey.FILENAME_OR_OBJ)
    return f"{file}, patch {meta.get(ImageMetaKey.PATCH_INDEX)}" if isinstance(file, str) and file else ""


def _under_keys(of_classes: Mapping[str, Mapping[str, float | Tensor]]) -> dict[str, float | Tensor]:
    """The numbers of each class under ``label`` and ``label/part``."""
    return {
        f"{key}/{part}" if part else key: value for key, values in of_classes.items() for part, value in values.items()
    }


def _holds_nan(value: float | Tensor) -> bool:
    return bool(torch.as_tensor(value).isnan().any())


def _plain(value: Tensor) -> float | Tensor:
    value = value.squeeze().cpu()
    return value.item() if value.ndim == 0 else value
