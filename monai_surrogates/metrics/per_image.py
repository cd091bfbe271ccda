"""Per-image Dice and IoU, read from the same counts with the same rule for empty masks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction
from torch import Tensor

from monai_surrogates.core import Overlap, dice_score, jaccard_score
from monai_surrogates.metrics.base import OverlapMetric


class PerImageMetric(OverlapMetric):
    """One score per image and class, collected over batches; the buffer is (images, classes), float64.

    Args:
        include_background: whether channel 0 is scored; a single channel always is.
        reduction: MONAI's reductions. ``"mean"``: over the classes of an image, then over images; cells that are NaN by
            the empty rule are left out.
        get_not_nans: also return the number of defined cells (for ``"mean"``: images).
        num_classes: as the remaining arguments, see :class:`~monai_surrogates.metrics.OverlapMetric`.
        threshold: see there.
        argmax: see there.
        ignore_index: see there.
        empty: see there.
        ignore_empty: see there.
        class_labels: see there.

    Raises:
        ValueError: an unknown reduction; further errors as in :class:`~monai_surrogates.metrics.OverlapMetric`.
    """

    def __init__(
        self,
        include_background: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
        *,
        num_classes: int | None = None,
        threshold: float | None = None,
        argmax: bool = False,
        ignore_index: int | None = None,
        empty: str | None = None,
        ignore_empty: bool | None = None,
        class_labels: Sequence[str] | Mapping[Any, str] | None = None,
    ) -> None:
        super().__init__(
            include_background=include_background,
            num_classes=num_classes,
            threshold=threshold,
            argmax=argmax,
            ignore_index=ignore_index,
            empty=empty,
            ignore_empty=ignore_empty,
            class_labels=class_labels,
        )
        self.reduction = MetricReduction(reduction)
        self.get_not_nans = get_not_nans

    @abstractmethod
    def score(self, overlap: Overlap) -> Tensor:
        """The score of integer counts, any shape."""

    def cells(self, overlap: Overlap) -> Tensor:
        """The scores."""
        return self.score(overlap)

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Reduce the collected scores; without a defined cell the result is NaN.

        Args:
            reduction: in place of that of the constructor.

        Raises:
            ValueError: nothing was collected.
        """
        score, count = self.aggregate_with_count(reduction)
        return (score, count) if self.get_not_nans else score

    def aggregate_with_count(self, reduction: MetricReduction | str | None = None) -> tuple[Tensor, Tensor]:
        """The reduced score and the number of its defined cells (for ``"mean"``: images)."""
        score, count = do_metric_reduction(self._rows(), reduction or self.reduction)
        return torch.where(count > 0, score, torch.nan), count

    def by_label(self) -> dict[str, float]:
        """The mean over images of each scored class, under its name."""
        means, _ = self.aggregate_with_count(MetricReduction.MEAN_BATCH)
        return dict(zip(self.class_labels, means.tolist(), strict=True))


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
