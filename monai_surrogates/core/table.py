"""Hard counts read as scores: per image, per class, pooled, worst images and fine-grained means, each computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from monai_surrogates.core.overlap import Overlap
from monai_surrogates.core.scores import SCORES, check_empty_rule, check_score_name

WORST = (5, 10)  # per cent of the images


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Every score of some images and classes, read from one count of their voxels under one rule for empty references.

    Dice = 2 IoU/(1 + IoU) holds on every cell. Each property is computed when it is first read, and then kept. Scores are
    Dice, IoU, precision, recall and relative volume error, under the names of :data:`~monai_surrogates.core.SCORES`; they
    are float64, and NaN where they are undefined.

    The fine-grained means of IoU in :attr:`aggregate`, with ``empty="ignore"``: mIoU^D pools the counts of the data set, then
    takes the mean over classes; mIoU^I takes the mean over the classes of an image, then over images; mIoU^C takes for each
    class the mean over the images that contain it, then over classes. Another rule lets the cells that it defines enter, too.

    Args:
        counts: integer counts (images, classes), in voxels; counts of slabs of an image are added up by :meth:`Overlap.plus`.
        labels: a name for each class.
        empty: the score of a cell without reference; see :func:`~monai_surrogates.core.scores.apply_empty_rule`.

    Raises:
        ValueError: an unknown rule, counts of another shape, or another number of labels than of classes.

    References:
        Wang et al., Revisiting Evaluation Metrics for Semantic Segmentation, NeurIPS 2023 (arXiv 2310.19252).

    Examples:
        >>> import torch
        >>> counts = Overlap(*torch.tensor([[[1], [4]], [[2], [4]], [[1], [4]]]))
        >>> table = ScoreTable(counts, ("lesion",))
        >>> table.per_image["iou"].tolist(), table.pooled["iou"].tolist()
        ([[0.5], [1.0]], [0.8333333333333334])
        >>> table.aggregate["miou_i"], table.by_label["lesion"]["recall"], table.worst(10)
        (0.75, 1.0, 0.5)
    """

    counts: Overlap
    labels: tuple[str, ...]
    empty: str = "ignore"

    def __post_init__(self) -> None:
        check_empty_rule(self.empty)
        shapes = [tuple(count.shape) for count in self.counts]
        if len(set(shapes)) > 1 or len(shapes[0]) != 2:
            raise ValueError(
                "counts must have the shape (images, classes), three times the same, but have "
                f"{', '.join(map(str, shapes))}; give one row per image."
            )
        if len(self.labels) != shapes[0][1]:
            raise ValueError(
                f"labels must name the {shapes[0][1]} classes of counts, but are {list(self.labels)}; give one name per class."
            )

    def __eq__(self, other: object) -> bool:
        """The same counts, labels and rule, and so the same scores."""
        if not isinstance(other, ScoreTable):
            return NotImplemented
        same = (self.labels, self.empty) == (other.labels, other.empty)
        return same and all(torch.equal(mine, theirs) for mine, theirs in zip(self.counts, other.counts, strict=True))

    @cached_property
    def per_image(self) -> Mapping[str, Tensor]:
        """Each score of each image and class, (images, classes)."""
        return self._scores_of(self.counts)

    @cached_property
    def image_means(self) -> Mapping[str, Tensor]:
        """Each score's mean over the classes of an image where it is defined, (images,)."""
        return {name: cells.nanmean(1) for name, cells in self.per_image.items()}

    @cached_property
    def per_class(self) -> Mapping[str, Tensor]:
        """Each score's mean over the images where it is defined, (classes,)."""
        return {name: cells.nanmean(0) for name, cells in self.per_image.items()}

    @cached_property
    def defined(self) -> Mapping[str, Tensor]:
        """On how many images each mean of :attr:`per_class` stands, (classes,), int64."""
        return {name: torch.count_nonzero(~cells.isnan(), dim=0) for name, cells in self.per_image.items()}

    @cached_property
    def pooled(self) -> Mapping[str, Tensor]:
        """Each score of the counts summed over all images, as if they were one, (classes,).

        Pooling cannot leave an image without a reference out, so that its false alarms count here under every rule.
        """
        return self._scores_of(Overlap(*(count.sum(0) for count in self.counts)))

    @cached_property
    def by_label(self) -> Mapping[str, Mapping[str, float]]:
        """For each class name its means over images, its ``pooled_`` scores and how many images have it ``defined_``.

        Raises:
            ValueError: two classes of one name.
        """
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must differ to be keys, but are {list(self.labels)}; rename the classes.")
        columns = {
            **self.per_class,
            **{f"pooled_{name}": values for name, values in self.pooled.items()},
            **{f"defined_{name}": values for name, values in self.defined.items()},
        }
        return {
            label: {name: values[number].item() for name, values in columns.items()}
            for number, label in enumerate(self.labels)
        }

    @cached_property
    def aggregate(self) -> Mapping[str, float]:
        """The whole data set in plain numbers, NaN where nothing is defined.

        - ``dice``, ``iou``, ``precision``, ``recall``, ``relative_volume_error``: mean over the classes of an image, then
          over images; ``defined_dice`` and so on: how many images that mean stands on;
        - ``pooled_dice`` and so on: mean over classes of the pooled scores;
        - ``miou_d``, ``miou_i``, ``miou_c``: the three means of IoU;
        - ``worst_5_dice``, ``worst_5_iou``, ``worst_10_dice``, ``worst_10_iou``: see :meth:`worst`.
        """
        images = {name: _defined(means) for name, means in self.image_means.items()}
        return {
            **{name: means.mean().item() for name, means in images.items()},
            **{f"defined_{name}": len(means) for name, means in images.items()},
            **{f"pooled_{name}": values.nanmean().item() for name, values in self.pooled.items()},
            "miou_d": self.pooled["iou"].nanmean().item(),
            "miou_i": images["iou"].mean().item(),
            "miou_c": self.per_class["iou"].nanmean().item(),
            **{f"worst_{q}_{name}": self.worst(q, name) for q in WORST for name in ("dice", "iou")},
        }

    def worst(self, q: float, score: str = "iou") -> float:
        """Mean of the lowest max(1, ⌊qN/100⌋) of the N images that have a score; NaN where none has.

        Args:
            q: per cent, above 0 and up to 100.
            score: its name; an image's is the mean over its classes.

        Raises:
            ValueError: another percentage, or a score that is unknown or best at 0.
        """
        check_score_name(score)
        if score == "relative_volume_error":
            raise ValueError(
                "score must be one whose low values are bad, but relative_volume_error is best at 0; choose another."
            )
        if not 0 < q <= 100:
            raise ValueError(f"q must be a percentage above 0 and up to 100, but is {q}.")
        lowest = _defined(self.image_means[score]).sort().values
        return lowest[: max(1, math.floor(q * len(lowest) / 100))].mean().item()

    def _scores_of(self, counts: Overlap) -> dict[str, Tensor]:
        return {name: score(counts, self.empty) for name, score in SCORES.items()}


def _defined(values: Tensor) -> Tensor:
    """Without NaN."""
    return values[~values.isnan()]
