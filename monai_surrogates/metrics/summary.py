"""All scores from one count of the voxels: per image, per class, pooled, fine-grained, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monai_surrogates.core import Overlap, ScoreTable
from monai_surrogates.core.scores import check_score_name
from monai_surrogates.metrics.base import OverlapMetric

if TYPE_CHECKING:
    from monai_surrogates.statistics import MeanInterval


class PerImageScores(OverlapMetric):
    """Dice, IoU, precision, recall and relative volume error from one pass over the voxels.

    The buffer keeps the counts, (images, classes, 3), int64: intersection, prediction, reference, in voxels. All scores are
    computed from them by a :class:`~monai_surrogates.core.ScoreTable`, which defines each of them, the fine-grained means of
    IoU included. Arguments as in :class:`~monai_surrogates.metrics.OverlapMetric`.

    Examples:
        >>> import torch
        >>> scores = PerImageScores(include_background=False, num_classes=2)
        >>> prediction = torch.tensor([[[1, 1, 0, 0]], [[1, 1, 1, 1]]])
        >>> reference = torch.tensor([[[1, 0, 0, 0]], [[1, 1, 1, 1]]])
        >>> scores(prediction, reference).tolist()
        [[[1, 2, 1]], [[4, 4, 4]]]
        >>> scores.per_image()["iou"].tolist(), scores.pooled()["iou"].tolist()
        ([[0.5], [1.0]], [0.8333333333333334])
        >>> scores.aggregate()["miou_i"], scores.worst(10)
        (0.75, 0.5)
    """

    row_ndim = 2
    _table: ScoreTable | None = None

    def cells(self, overlap: Overlap) -> Tensor:
        """The counts."""
        return torch.stack(list(overlap), dim=-1)

    def overlap(self) -> Overlap:
        """The counts of all images so far, (images, classes).

        Raises:
            ValueError: nothing was collected.
        """
        return Overlap(*self._rows().unbind(-1))

    def table(self) -> ScoreTable:
        """The scores of all images so far; the same table for the same counts, so that each score is computed once.

        Raises:
            ValueError: nothing was collected.
        """
        table = ScoreTable(self.overlap(), self.class_labels, self.empty)
        if self._table != table:
            self._table = table
        return self._table

    def per_image(self) -> dict[str, Tensor]:
        """Each score of each image and class, (images, classes), float64; NaN if undefined."""
        return _copied(self.table().per_image)

    def per_class(self) -> dict[str, Tensor]:
        """Each score's mean over the images where it is defined, (classes,)."""
        return _copied(self.table().per_class)

    def pooled(self) -> dict[str, Tensor]:
        """Each score of the counts summed over all images, as if they were one, (classes,)."""
        return _copied(self.table().pooled)

    def defined(self) -> dict[str, Tensor]:
        """The number of images behind each mean of :meth:`per_class`, (classes,), int64."""
        return _copied(self.table().defined)

    def by_label(self) -> dict[str, dict[str, float]]:
        """For each class name its means over images, ``pooled_`` scores and ``defined_`` numbers of images."""
        return {label: dict(values) for label, values in self.table().by_label.items()}

    def aggregate(self) -> dict[str, float]:
        """The scores of the whole data set as numbers, NaN if undefined.

        Returns:
            The numbers that :attr:`ScoreTable.aggregate <monai_surrogates.core.ScoreTable.aggregate>` lists: ``dice``,
            ``defined_dice``, ``pooled_dice``, ``miou_d``, ``worst_5_dice`` and so on.

        Raises:
            ValueError: nothing was collected.
        """
        return dict(self.table().aggregate)

    def worst(self, q: float, score: str = "iou") -> float:
        """Mean of the lowest max(1, ⌊qN/100⌋) of the N images with a defined score; NaN if there is none.

        Args:
            q: per cent, above 0 and up to 100.
            score: its name; an image's is the mean over its classes.

        Raises:
            ValueError: another percentage, a score that is unknown or best at 0, or nothing was collected.
        """
        return self.table().worst(q, score)

    def interval(self, score: str = "dice", confidence: float = 0.95, seed: int = 0) -> MeanInterval:
        """Mean over images with its bootstrap interval (BCa); see :func:`~monai_surrogates.metrics.mean_interval`.

        Args:
            score: its name; an image's is the mean over its classes.
            confidence: between 0 and 1. Below 20 images the interval is too narrow at any confidence.
            seed: of the resampling.

        Raises:
            ImportError: SciPy is missing.
            ValueError: an unknown score, or nothing was collected.
        """
        from monai_surrogates.statistics import mean_interval

        check_score_name(score)
        return mean_interval(self.table().image_means[score].numpy(), confidence, seed)


def _copied(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that the caller may change without changing the table."""
    return {name: values.clone() for name, values in scores.items()}
