"""Per-image Dice and IoU, read from the same counts with the same rule for empty masks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction
from torch import Tensor

from monai_surrogates.core import Overlap, dice_score, hard_overlap, jaccard_score
from monai_surrogates.core.inputs import ShapeMismatchError, check_labels, plain_tensor
from monai_surrogates.core.scores import check_empty_rule


class PerImageMetric(CumulativeIterationMetric):
    """A score per image and class, collected over batches; the buffer is (images, classes).

    Prediction and reference are label maps (B, 1, spatial...) with ``num_classes``, or masks (B, C, spatial...) of zeros and
    ones, one channel per class; lists of single images without the batch axis work too.

    Args:
        include_background: whether channel 0 is scored; a single channel always is.
        reduction: MONAI's reductions. ``"mean"``: over the classes of an image, then over images; cells that are NaN by
            the empty rule do not count.
        get_not_nans: also return how many cells (for ``"mean"``: images) were defined.
        num_classes: C, needed for label maps.
        empty: what a class scores that the reference lacks: ``"ignore"``, ``"score"`` or ``"both"``; see
            :func:`~monai_surrogates.core.scores.apply_empty_rule`.

    Raises:
        ValueError: labels out of range, masks with other values than 0 and 1, an unknown rule.
        ShapeMismatchError: prediction and reference of different shape.
    """

    def __init__(
        self,
        include_background: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
        num_classes: int | None = None,
        empty: str = "ignore",
    ) -> None:
        super().__init__()
        check_empty_rule(empty)
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, but is {num_classes}.")
        self.include_background = include_background
        self.reduction = MetricReduction(reduction)
        self.get_not_nans = get_not_nans
        self.num_classes = num_classes
        self.empty = empty

    @abstractmethod
    def score(self, overlap: Overlap) -> Tensor:
        """The score of integer counts, any shape."""

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Reduce the collected scores; where no cell is defined the result is NaN.

        Args:
            reduction: in place of the one given at construction.

        Raises:
            ValueError: nothing was collected.
        """
        score, count = self.aggregate_with_count(reduction)
        return (score, count) if self.get_not_nans else score

    def aggregate_with_count(self, reduction: MetricReduction | str | None = None) -> tuple[Tensor, Tensor]:
        """The reduced score and how many cells it stands on."""
        scores = self.get_buffer()
        if not isinstance(scores, Tensor):
            raise ValueError("there is nothing to aggregate; call the metric on at least one batch first.")
        score, count = do_metric_reduction(scores, reduction or self.reduction)
        return torch.where(count > 0, score, torch.nan), count

    def _compute_list(self, y_pred: Sequence[Tensor], y: Sequence[Tensor] | None = None, **kwargs: object) -> Tensor:
        if y is not None and (len(y_pred) != len(y) or len(y) == 0):
            raise ShapeMismatchError(
                f"y_pred and y must hold the same images, at least one image each, but hold {len(y_pred)} and {len(y)} images."
            )
        scores: Tensor = super()._compute_list(y_pred, y, **kwargs)
        return scores

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: object) -> Tensor:
        if y is None:
            raise ValueError("y, the reference, must be given.")
        scores = self.score(self._overlap(plain_tensor(y_pred), plain_tensor(y)))
        scores = scores[:, 1:] if not self.include_background and scores.shape[1] > 1 else scores
        if self._buffers is not None and scores.shape[1] != len(self._buffers[0][0]):
            raise ShapeMismatchError(
                f"y_pred and y have {scores.shape[1]} scored channels, but {len(self._buffers[0][0])} were scored so far; "
                "use one metric per number of classes, or reset this one."
            )
        return scores

    def _overlap(self, prediction: Tensor, reference: Tensor) -> Overlap:
        self._check_shapes(prediction, reference)
        if self._is_label_map(prediction) and self._is_label_map(reference):
            return hard_overlap(
                self._labels(prediction, "y_pred"), self._labels(reference, "y"), num_classes=self.num_classes
            )
        return hard_overlap(self._masks(prediction, "y_pred"), self._masks(reference, "y"))

    def _check_shapes(self, prediction: Tensor, reference: Tensor) -> None:
        for name, x in (("y_pred", prediction), ("y", reference)):
            if x.ndim < 3 or x.shape[0] == 0:
                raise ShapeMismatchError(
                    f"{name} must have the shape (B, C, spatial...) with at least one image, but has {tuple(x.shape)}."
                )
        same_space = prediction.shape[0] == reference.shape[0] and prediction.shape[2:] == reference.shape[2:]
        channels = {x.shape[1] for x in (prediction, reference) if not self._is_label_map(x)}
        if self.num_classes is not None:
            channels.add(self.num_classes)
        if not same_space or len(channels) > 1:
            raise ShapeMismatchError(
                f"y_pred and y must have the same shape, or be label maps (B, 1, spatial...) with num_classes, "
                f"but are {tuple(prediction.shape)} and {tuple(reference.shape)} with num_classes={self.num_classes}."
            )

    def _is_label_map(self, x: Tensor) -> bool:
        return self.num_classes is not None and self.num_classes > 1 and x.shape[1] == 1

    def _labels(self, x: Tensor, name: str) -> Tensor:
        labels = x.flatten(2)[:, 0]
        check_labels(labels, self.num_classes or 0, name)
        return labels.long()

    def _masks(self, x: Tensor, name: str) -> Tensor:
        if self._is_label_map(x):
            labels = self._labels(x, name)
            return torch.stack([labels == c for c in range(self.num_classes or 0)], dim=1)
        masks = x.flatten(2)
        if masks.dtype == torch.bool:
            return masks
        soft = (masks != 0) & (masks != 1)
        if bool(soft.any()):
            raise ValueError(
                f"{name} must hold masks of 0 and 1, one channel per class, but holds {masks[soft][0].item():g}; "
                "take the argmax or a threshold first, and give num_classes for label maps."
            )
        return masks.bool()


class PerImageDiceMetric(PerImageMetric):
    """Dice per image and class, D = 2|A ∩ B|/(|A| + |B|); arguments as in :class:`PerImageMetric`.

    Examples:
        >>> import torch
        >>> metric = PerImageDiceMetric(include_background=False, num_classes=2)
        >>> metric(torch.tensor([[[[1, 1], [0, 0]]]]), torch.tensor([[[[1, 0], [0, 0]]]]))
        tensor([[0.6667]], dtype=torch.float64)
        >>> metric.aggregate()
        tensor([0.6667])
    """

    def score(self, overlap: Overlap) -> Tensor:
        """Dice of integer counts."""
        return dice_score(overlap, self.empty)


class PerImageIoUMetric(PerImageMetric):
    """IoU (Jaccard) per image and class, J = |A ∩ B|/|A ∪ B|; arguments as in :class:`PerImageMetric`.

    Examples:
        >>> import torch
        >>> metric = PerImageIoUMetric(include_background=False, num_classes=2)
        >>> metric(torch.tensor([[[[1, 1], [0, 0]]]]), torch.tensor([[[[1, 0], [0, 0]]]]))
        tensor([[0.5000]], dtype=torch.float64)
    """

    def score(self, overlap: Overlap) -> Tensor:
        """IoU of integer counts."""
        return jaccard_score(overlap, self.empty)
