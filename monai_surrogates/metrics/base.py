"""Base class of the metrics: counts of predictions and references, in buffers that are gathered over ranks."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import ignite.distributed as idist
import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import evenly_divisible_all_gather
from torch import Tensor

from monai_surrogates._messages import unknown_argument, warn_user
from monai_surrogates.core import Overlap, OverlapCounter, ShapeMismatchError
from monai_surrogates.core.scores import choose_empty_rule


class OverlapMetric(CumulativeIterationMetric):
    """Counts the overlap of every image and collects the values of :meth:`cells`, one row per image.

    Call it with a prediction and a reference, and ``mask=`` for the valid voxels, in any form that
    :func:`~monai_surrogates.core.hard_overlap` takes: label maps (B, 1, spatial...) with ``num_classes``, masks
    (B, C, spatial...), probabilities or logits with ``argmax`` or ``threshold``, or lists of images (1 or C, spatial...) of any
    size. It returns the rows of the batch. A call that fails changes nothing.

    A reference is read as its nearest whole numbers, as by the losses: fractions of an interpolated label map give one warning
    per metric (on a GPU at its first call). Fractions in a prediction are an error.

    Under torch.distributed, ``aggregate``, ``get_buffer`` and ``len`` gather the rows of all ranks, so that every rank must
    call them, and equally often between two resets; ranks may have any number of images, none included.

    Args:
        include_background: whether channel 0 is scored; a single channel always is.
        num_classes: C, needed for label maps, unless the prediction has one channel per class.
        threshold: predicted values of at least this are 1, the others 0.
        argmax: each voxel gets the class of the largest channel of the prediction.
        ignore_index: label of the voxels to leave out; see :func:`~monai_surrogates.core.hard_overlap`.
        empty: the score of a class without reference: ``"ignore"`` (the default), ``"score"`` or ``"both"``; see
            :func:`~monai_surrogates.core.scores.apply_empty_rule`.
        ignore_empty: ``empty`` under MONAI's name: True is ``"ignore"``, False is ``"score"``.
        class_labels: a name for each scored class; C names also fit without the background. A mapping of labels to names, as
            in a dataset.json, is accepted.
        return_with_label: MONAI's name of ``class_labels``; True for ``label_0``, ``label_1`` and so on. A list that does not
            fit, which MONAI cuts off, gives numbers and a warning.
        per_component: of MONAI's DiceMetric. An image is scored as a whole here, and a warning says so.

    Raises:
        TypeError: an unknown argument; the message suggests the nearest.
        ValueError: settings that contradict each other; then, at a call, labels out of range, masks of other values than 0 and
            1, a prediction with fractions, two classes in one voxel.
        ShapeMismatchError: prediction and reference of different shape, or another number of classes than before.
    """

    row_ndim: ClassVar[int] = 1  # axes of an image's row
    _synced: bool
    _synced_tensors: list[Tensor] | None
    _selected: list[int] | None

    def __init__(
        self,
        *,
        include_background: bool = True,
        num_classes: int | None = None,
        threshold: float | None = None,
        argmax: bool = False,
        ignore_index: int | None = None,
        empty: str | None = None,
        ignore_empty: bool | None = None,
        class_labels: Sequence[str] | Mapping[Any, str] | None = None,
        return_with_label: bool | Sequence[str] = False,
        per_component: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if unknown:
            raise unknown_argument(owner, next(iter(unknown)), arguments_of(type(self)))
        if per_component:
            warn_of_components(owner)
        self._count = OverlapCounter(num_classes, threshold, argmax, ignore_index, names=("y_pred", "y"))
        self._checked = False
        self.include_background = include_background
        self.num_classes = num_classes
        self.empty = choose_empty_rule(empty, ignore_empty)
        self.return_with_label = bool(return_with_label)
        self._labels_argument = "class_labels"
        if return_with_label and not isinstance(return_with_label, bool):
            if class_labels is not None:
                raise ValueError(
                    "class_labels and return_with_label must not both name the classes; keep class_labels."
                )
            self._labels_argument, class_labels = "return_with_label", return_with_label
        self.given_labels = None if class_labels is None else _names(class_labels)
        if self.given_labels is not None and len(set(self.given_labels)) < len(self.given_labels):
            self.refuse_labels(f"differ from each other, but are {list(self.given_labels)}", "rename the classes")
        if num_classes is not None:
            self._labels_of(self._scored(num_classes))

    @abstractmethod
    def cells(self, overlap: Overlap) -> Tensor:
        """The values to collect from the counts (images, classes): (images, classes, ...)."""

    @property
    def class_labels(self) -> tuple[str, ...]:
        """The names of the scored classes; by default ``class1`` and so on, ``label_1`` with ``return_with_label``."""
        if self.num_classes is not None:
            return self._labels_of(self._scored(self.num_classes))
        seen = self._synced_tensors[0] if self._synced_tensors else self.collected()
        return self._labels_of(len(self.given_labels or ()) if seen is None else seen.shape[1])

    @property
    def first_class(self) -> int:
        """The id of the first scored class; a single channel without background is class 1."""
        return int(not self.include_background)

    def collected(self) -> Tensor | None:
        """The rows of this process alone, None without an image."""
        return None if self._buffers is None else torch.stack(self._buffers[0])

    def select(self, rows: Sequence[int] | None) -> None:
        """Score only these rows of the gathered buffer (None: all), until the next image or :meth:`reset`."""
        self._selected = None if rows is None else list(rows)

    def refuse_labels(self, fault: str, cure: str) -> None:
        """Refuse the given names; those of ``return_with_label``, of which MONAI takes any, become numbers.

        Args:
            fault: what was expected of them and found.
            cure: what to do.

        Raises:
            ValueError: they were given as ``class_labels``.
        """
        message = f"{self._labels_argument} must {fault}; {cure}."
        if self._labels_argument == "class_labels":
            raise ValueError(message)
        self.given_labels = None
        warn_user(f"{message} The classes are numbered.")

    def extend(self, *data: Tensor) -> None:
        """Collect the rows of a batch."""
        super().extend(*data)
        self._selected = None

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._selected = None

    def _scored(self, num_classes: int) -> int:
        return num_classes if self.include_background else max(num_classes - 1, 1)

    def _labels_of(self, scored: int) -> tuple[str, ...]:
        """The names of the scored classes, given their number."""
        if self.given_labels is not None and len(self.given_labels) not in (scored, scored + self.first_class):
            found = f"{len(self.given_labels)} names: {list(self.given_labels)}"
            self.refuse_labels(f"name the {scored} scored classes, but holds {found}", "give one name per class")
        if self.given_labels is None:
            word = "label_" if self.return_with_label else "class"
            return tuple(f"{word}{self.first_class + number}" for number in range(scored))
        return self.given_labels[-scored:]

    def _compute_list(
        self, y_pred: Sequence[Tensor], y: Sequence[Tensor] | None = None, mask: Sequence[Tensor] | None = None
    ) -> Tensor:
        return self._compute(y_pred, y, mask)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self._compute(y_pred, y, mask)

    def _compute(
        self,
        y_pred: Tensor | Sequence[Tensor],
        y: Tensor | Sequence[Tensor] | None,
        mask: Tensor | Sequence[Tensor] | None,
    ) -> Tensor:
        if y is None:
            raise ValueError("y must be given: the reference, as a tensor or a list of tensors.")
        overlap = self._count(y_pred, y, mask, check=self._checks(y))
        if not self.include_background and overlap.reference.shape[1] > 1:
            overlap = Overlap(*(counts[:, 1:] for counts in overlap))
        scored = overlap.reference.shape[1]
        self._labels_of(scored)
        if self._buffers is not None and scored != len(self._buffers[0][0]):
            raise ShapeMismatchError(
                f"y_pred and y have {scored} scored channels, but {len(self._buffers[0][0])} were scored so far; "
                "use one metric per number of classes, or reset this one."
            )
        self._checked = self._checked or any(_is_on_gpu(x) for x in (y if isinstance(y, list | tuple) else [y]))
        return self.cells(overlap)

    def _checks(self, y: Tensor | Sequence[Tensor]) -> bool:
        """Whether to check values: on the CPU always, on a GPU at the first call, on the meta device never."""
        devices = {x.device.type for x in (y if isinstance(y, list | tuple) else [y]) if isinstance(x, Tensor)}
        return "meta" not in devices and (devices <= {"cpu"} or not self._checked)

    def _rows(self) -> Tensor:
        rows = self.get_buffer()
        if not isinstance(rows, Tensor):
            raise ValueError("there is nothing to aggregate; call the metric on at least one batch first.")
        return (rows if self._selected is None else rows[self._selected]).cpu()  # later reads are of single numbers

    def _sync(self) -> None:
        """Gather the rows of all ranks; a rank without an image takes part, or the others would wait for ever.

        Raises:
            ShapeMismatchError: ranks that scored different numbers of classes.
        """
        if self._synced or idist.get_world_size() == 1:
            super()._sync()
            return
        own = None if self._buffers is None else len(self._buffers[0][0])
        scored = set(idist.all_gather(own or 0)) - {0}
        if len(scored) > 1:
            raise ShapeMismatchError(
                f"the ranks must score the same classes, but scored {sorted(scored)} of them; give num_classes."
            )
        if own is None and scored:
            empty = torch.zeros(0, scored.pop(), dtype=torch.int64)
            rows = self.cells(Overlap(empty, empty, empty))
            self._synced_tensors, self._synced = [evenly_divisible_all_gather(rows)], True
            return
        super()._sync()


def arguments_of(component: type) -> set[str]:
    """The named arguments of a class's constructor and of the inherited constructors to which it hands on the others."""
    constructors = [vars(base)["__init__"] for base in component.__mro__[:-1] if "__init__" in vars(base)]
    parameters = [p for constructor in constructors for p in inspect.signature(constructor).parameters.values()]
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}


def warn_of_components(owner: str) -> None:
    """Say that MONAI's ``per_component`` is not used; ``owner`` is the class that the user wrote."""
    warn_user(f"{owner} has no use for per_component, because it scores an image as a whole: not used.")


def _names(class_labels: Sequence[str] | Mapping[Any, str]) -> tuple[str, ...]:
    if isinstance(class_labels, str):
        raise TypeError(f"class_labels must be a list of names, but is {class_labels!r}; put it into a list.")
    names = class_labels.values() if isinstance(class_labels, Mapping) else class_labels
    return tuple(str(name) for name in names)


def _is_on_gpu(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_cuda
