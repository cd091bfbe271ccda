"""All scores of one counting pass: per image, per class, pooled, fine-grained, with intervals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_surrogates.core import SCORES, Overlap
from monai_surrogates.metrics.base import OverlapMetric
from monai_surrogates.metrics.intervals import MeanInterval, mean_interval

WORST = (5, 10)  # per cent of the images


class PerImageScores(OverlapMetric):
    """Dice, IoU, precision, recall and relative volume error from one pass over the voxels.

    The buffer keeps the counts, (images, classes, 3), int64: intersection, prediction, reference, in voxels. All scores are
    read from them afterwards, under one rule for empty references, so that Dice = 2 IoU/(1 + IoU) on every cell. Pooled scores
    stand on all images: pooling cannot leave one without a reference out, so that its false alarms count there. Arguments as in
    :class:`~monai_surrogates.metrics.OverlapMetric`.

    The fine-grained means of IoU (arXiv 2310.19252), with ``empty="ignore"``: mIoU^D pools the counts of the data set, then
    takes the mean over classes; mIoU^I takes the mean over the classes of an image, then over images; mIoU^C takes for each
    class the mean over the images that contain it, then over classes. Another rule lets the cells that it defines enter, too.

    References:
        Wang et al., Revisiting Evaluation Metrics for Semantic Segmentation, NeurIPS 2023 (arXiv 2310.19252).

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

    def cells(self, overlap: Overlap) -> Tensor:
        """The buffer keeps the counts."""
        return torch.stack(list(overlap), dim=-1)

    def overlap(self) -> Overlap:
        """The counts of all images so far, (images, classes).

        Raises:
            ValueError: nothing was collected.
        """
        return Overlap(*self._rows().unbind(-1))

    def per_image(self) -> dict[str, Tensor]:
        """Each score of each image and class, (images, classes), float64; NaN where it is undefined."""
        return self._read(self.overlap())

    def per_class(self) -> dict[str, Tensor]:
        """Each score's mean over the images where it is defined, (classes,)."""
        return {name: cells.nanmean(0) for name, cells in self.per_image().items()}

    def pooled(self) -> dict[str, Tensor]:
        """Each score of the counts summed over all images, as if they were one, (classes,)."""
        overlap = self.overlap()
        return self._read(Overlap(*(counts.sum(0) for counts in overlap)))

    def defined(self) -> dict[str, Tensor]:
        """On how many images each mean of :meth:`per_class` stands, (classes,), int64."""
        return {name: torch.count_nonzero(~cells.isnan(), dim=0) for name, cells in self.per_image().items()}

    def by_label(self) -> dict[str, dict[str, float]]:
        """For each class name its means over images, its ``pooled_`` scores and how many images have it ``defined_``."""
        columns = {
            **self.per_class(),
            **{f"pooled_{name}": values for name, values in self.pooled().items()},
            **{f"defined_{name}": values for name, values in self.defined().items()},
        }
        return {
            label: {name: values[number].item() for name, values in columns.items()}
            for number, label in enumerate(self.class_labels)
        }

    def aggregate(self) -> dict[str, float]:
        """The whole data set in plain numbers.

        Returns:
            - ``dice``, ``iou``, ``precision``, ``recall``, ``relative_volume_error``: mean over the classes of an image, then
              over images; ``defined_dice`` and so on: how many images that mean stands on;
            - ``pooled_dice`` and so on: mean over classes of the pooled scores;
            - ``miou_d``, ``miou_i``, ``miou_c``: the three means of IoU;
            - ``worst_5_dice``, ``worst_5_iou``, ``worst_10_dice``, ``worst_10_iou``: see :meth:`worst`.

            NaN where nothing is defined.

        Raises:
            ValueError: nothing was collected.
        """
        images = {name: _image_means(cells) for name, cells in self.per_image().items()}
        pooled, classes = self.pooled(), self.per_class()
        result = {name: values.mean().item() if len(values) else math.nan for name, values in images.items()}
        return {
            **result,
            **{f"defined_{name}": len(values) for name, values in images.items()},
            **{f"pooled_{name}": values.nanmean().item() for name, values in pooled.items()},
            "miou_d": pooled["iou"].nanmean().item(),
            "miou_i": result["iou"],
            "miou_c": classes["iou"].nanmean().item(),
            **{f"worst_{q}_{name}": _mean_of_lowest(images[name], q) for q in WORST for name in ("dice", "iou")},
        }

    def worst(self, q: float, score: str = "iou") -> float:
        """Mean of the lowest max(1, ⌊qN/100⌋) of the N images that have a score; NaN where none has.

        Args:
            q: per cent, above 0 and up to 100.
            score: which score; an image's is the mean over its classes.

        Raises:
            ValueError: another percentage, an unknown score, or nothing was collected.
        """
        if score == "relative_volume_error":
            raise ValueError(
                "score must be one whose low values are bad, but relative_volume_error is best at 0; choose another."
            )
        if not 0 < q <= 100:
            raise ValueError(f"q must be a percentage above 0 and up to 100, but is {q}.")
        return _mean_of_lowest(self._of_images(score), q)

    def interval(self, score: str = "dice", confidence: float = 0.95, seed: int = 0) -> MeanInterval:
        """Mean over images with its bootstrap interval (BCa); see :func:`~monai_surrogates.metrics.mean_interval`.

        Args:
            score: which score; an image's is the mean over its classes.
            confidence: between 0 and 1. Below 20 images the interval is too narrow whatever it is.
            seed: of the resampling.

        Raises:
            ImportError: SciPy is missing.
            ValueError: an unknown score, or nothing was collected.
        """
        return mean_interval(self._of_images(score), confidence, seed)

    def _read(self, overlap: Overlap) -> dict[str, Tensor]:
        return {name: score(overlap, self.empty) for name, score in SCORES.items()}

    def _of_images(self, score: str) -> Tensor:
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, but is {score!r}.")
        return _image_means(SCORES[score](self.overlap(), self.empty))


def _image_means(cells: Tensor) -> Tensor:
    """Mean over the defined classes of each image (images, classes), images without any left out."""
    means = cells.nanmean(1)
    return means[~means.isnan()]


def _mean_of_lowest(values: Tensor, q: float) -> float:
    number = max(1, math.floor(q * len(values) / 100))
    return values.sort().values[:number].mean().item() if len(values) else math.nan
