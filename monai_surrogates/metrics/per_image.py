"""Per-image Dice and IoU, read from the same counts with the same rule for empty masks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction
from torch import Tensor

from monai_surrogates.core import Overlap, dice_score, jaccard_score
from monai_surrogates.metrics.base import OverlapMetric


class PerImageMetric(OverlapMetric):
    """One score per image and class, collected over batches; the buffer is (images, classes), float64.

    Arguments and their order are those of MONAI's DiceMetric; further ones go by name.

    Args:
        include_background: whether channel 0 is scored; a single channel always is.
        reduction: MONAI's reductions. ``"mean"``: over the classes of an image, then over images; cells that are NaN by
            the empty rule are left out.
        get_not_nans: also return the number of defined cells (for ``"mean"``: images).
        ignore_empty: as the arguments below, see :class:`~monai_surrogates.metrics.OverlapMetric`.
        num_classes: see there.
        return_with_label: see there. :meth:`aggregate` returns the means of the reduction ``"mean_batch"`` under their names.
        per_component: see there.
        ignore_index: see there.
        **counting: see there: ``threshold``, ``argmax``, ``empty``, ``class_labels``.

    Raises:
        ValueError: an unknown reduction; further errors as in :class:`~monai_surrogates.metrics.OverlapMetric`.
    """

    def __init__(
        self,
        include_background: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
        ignore_empty: bool | None = None,
        num_classes: int | None = None,
        return_with_label: bool | Sequence[str] = False,
        per_component: bool = False,
        ignore_index: int | None = None,
        **counting: Any,
    ) -> None:
        super().__init__(
            include_background=include_background,
            ignore_empty=ignore_empty,
            num_classes=num_classes,
            return_with_label=return_with_label,
            per_component=per_component,
            ignore_index=ignore_index,
            **counting,
        )
        self.reduction = MetricReduction(reduction)
        self.get_not_nans = get_not_nans

    @abstractmethod
    def score(self, overlap: Overlap) -> Tensor:
        """The score of integer counts, any shape."""

    def cells(self, overlap: Overlap) -> Tensor:
        """The scores."""
        return self.score(overlap)

    def aggregate(
        self, reduction: MetricReduction | str | None = None
    ) -> Tensor | dict[str, float] | tuple[Tensor | dict[str, float], Tensor]:
        """Reduce the collected scores; without a defined cell the result is NaN.

        Args:
            reduction: in place of that of the constructor.

        Returns:
            The score; with ``return_with_label`` and ``"mean_batch"`` a dictionary, as of :meth:`by_label`; with
            ``get_not_nans`` the number of defined cells beside it.

        Raises:
            ValueError: nothing was collected.
        """
        score, count = self.aggregate_with_count(reduction)
        result = self.by_label() if self.names_means(reduction) else score
        return (result, count) if self.get_not_nans else result

    def names_means(self, reduction: MetricReduction | str | None = None) -> bool:
        """Whether :meth:`aggregate` returns the mean of each class under its name."""
        return self.return_with_label and MetricReduction(reduction or self.reduction) == MetricReduction.MEAN_BATCH

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
    """IoU (Jaccard) per image and class, J = |A ∩ B|/|A ∪ B|.

    Args:
        include_background: as all arguments, see :class:`PerImageMetric`; the order is that of MONAI's MeanIoU.
        reduction: see there.
        get_not_nans: see there.
        ignore_empty: see there.
        ignore_index: see there.
        **further: see there.

    Examples:
        >>> import torch
        >>> metric = PerImageIoUMetric(include_background=False, num_classes=2)
        >>> metric(torch.tensor([[[[1, 1], [0, 0]]]]), torch.tensor([[[[1, 0], [0, 0]]]]))
        tensor([[0.5000]], dtype=torch.float64)
    """

    def __init__(
        self,
        include_background: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
        ignore_empty: bool | None = None,
        ignore_index: int | None = None,
        **further: Any,
    ) -> None:
        super().__init__(
            include_background, reduction, get_not_nans, ignore_empty, ignore_index=ignore_index, **further
        )

    def score(self, overlap: Overlap) -> Tensor:
        """IoU of integer counts."""
        return jaccard_score(overlap, self.empty)
