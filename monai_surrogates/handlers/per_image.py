"""Per-image scores in ``engine.state.metrics``, on MONAI's engines and on a bare Ignite engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from monai.utils import MetricReduction
from torch import Tensor

from monai_surrogates.core.scores import check_score_name
from monai_surrogates.handlers.base import OverlapHandler, class_keys
from monai_surrogates.metrics import PerImageDiceMetric, PerImageIoUMetric, PerImageMetric, PerImageScores


class PerImageHandler(OverlapHandler):
    """One per-image score of an epoch.

    ``engine.state.metrics`` gets ``name``, the reduced score; ``name/defined``, its number of defined cells (for the reduction
    ``"mean"``: images); and for each scored class ``name/label``, its mean over images, with ``name/label/defined``.

    Args:
        metric_fn: a :class:`~monai_surrogates.metrics.PerImageMetric`.
        output_transform: see :class:`OverlapHandler`.
        save_details: see :class:`OverlapHandler`.
        drop_repeats: see :class:`OverlapHandler`.

    Raises:
        NotComputableError: the epoch ended without a single image on any rank.
    """

    metric_fn: PerImageMetric

    def readings(self) -> dict[str, float | Tensor]:
        """The reduced score, and the mean of each class."""
        score, defined = self.metric_fn.aggregate_with_count()
        means, counts = self.metric_fn.aggregate_with_count(MetricReduction.MEAN_BATCH)
        result: dict[str, float | Tensor] = {"": score, "defined": defined}
        for key, mean, count in zip(class_keys(self.metric_fn.class_labels), means, counts, strict=True):
            result |= {key: mean, f"{key}/defined": count}
        return result

    def details(self) -> dict[str, Tensor]:
        """The metric's buffer."""
        return {"": self.metric_fn.get_buffer()}


class _BuiltHandler(PerImageHandler):
    """Takes the arguments of its metric, so that a config can set each of them."""

    metric_class: ClassVar[type[PerImageMetric]]

    def __init__(
        self,
        include_background: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        num_classes: int | None = None,
        output_transform: Callable[[Any], Any] = lambda x: x,
        save_details: bool = True,
        *,
        drop_repeats: bool = True,
        **metric: Any,
    ) -> None:
        if "get_not_nans" in metric:
            raise TypeError(
                "get_not_nans has no use here: the count is always in engine.state.metrics as name/defined; drop it."
            )
        metric_fn = self.metric_class(include_background, reduction, num_classes=num_classes, **metric)
        super().__init__(metric_fn, output_transform, save_details, drop_repeats)


class PerImageDice(_BuiltHandler):
    """Per-image Dice of an epoch.

    ``engine.state.metrics`` gets ``name``, the reduced score; ``name/defined``, its number of defined cells (for the reduction
    ``"mean"``: images); and for each scored class ``name/label``, its mean over images, with ``name/label/defined``.

    Args:
        include_background: whether channel 0 is scored; a single channel always is.
        reduction: MONAI's reductions.
        num_classes: C, needed for label maps unless ``argmax`` is set.
        output_transform: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        save_details: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        drop_repeats: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        **metric: all other arguments of :class:`~monai_surrogates.metrics.PerImageMetric`: ``threshold``, ``argmax``,
            ``ignore_index``, ``empty``, ``ignore_empty``, ``class_labels``.

    Raises:
        NotComputableError: the epoch ended without a single image on any rank.

    Examples:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> engine = Engine(lambda engine, batch: batch)
        >>> PerImageDice(num_classes=2, include_background=False, class_labels=["lesion"]).attach(engine, "dice")
        >>> prediction, reference = torch.tensor([[[[1, 1], [0, 0]]]]), torch.tensor([[[1, 0], [0, 0]]])
        >>> state = engine.run([(prediction, reference)])
        >>> round(state.metrics["dice/lesion"], 4), state.metrics["dice/defined"]
        (0.6667, 1.0)
    """

    metric_class = PerImageDiceMetric


class PerImageIoU(_BuiltHandler):
    """Per-image IoU of an epoch; arguments and results as in :class:`PerImageDice`."""

    metric_class = PerImageIoUMetric


class PerImageSummary(OverlapHandler):
    """All scores of an epoch from one count; see :class:`~monai_surrogates.metrics.PerImageScores`.

    ``engine.state.metrics`` gets ``name``, the mean of ``score`` over the classes of an image, then over images;
    ``name/defined``, its number of images; ``name/dice``, ``name/pooled_dice``, ``name/miou_d``,
    ``name/worst_5_dice`` and all else of :meth:`PerImageScores.aggregate`; and for each class ``name/label/dice`` and
    so on. ``engine.state.metric_details`` gets ``name_dice``, ``name_iou`` and so on.

    Args:
        score: the score under ``name``: ``"dice"``, ``"iou"``, ``"precision"``, ``"recall"`` or
            ``"relative_volume_error"``.
        output_transform: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        save_details: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        drop_repeats: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        **metric: the arguments of :class:`~monai_surrogates.metrics.PerImageScores`.

    Raises:
        NotComputableError: the epoch ended without a single image on any rank.
        ValueError: an unknown score.

    Examples:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> engine = Engine(lambda engine, batch: batch)
        >>> PerImageSummary(num_classes=2, include_background=False).attach(engine, "scores")
        >>> prediction, reference = torch.tensor([[[[1, 1], [0, 0]]]]), torch.tensor([[[1, 0], [0, 0]]])
        >>> engine.run([(prediction, reference)]).metrics["scores/precision"]
        0.5
    """

    metric_fn: PerImageScores

    def __init__(
        self,
        score: str = "dice",
        output_transform: Callable[[Any], Any] = lambda x: x,
        save_details: bool = True,
        drop_repeats: bool = True,
        **metric: Any,
    ) -> None:
        check_score_name(score)
        self.score = score
        super().__init__(PerImageScores(**metric), output_transform, save_details, drop_repeats)

    def readings(self) -> dict[str, float | Tensor]:
        """The summary, and the scores of each class."""
        table = self.metric_fn.table()
        summary = table.aggregate
        of_classes = {
            f"{key}/{name}": value
            for key, values in zip(class_keys(table.labels), table.by_label.values(), strict=True)
            for name, value in values.items()
        }
        return {"": summary[self.score], "defined": summary[f"defined_{self.score}"], **summary, **of_classes}

    def details(self) -> dict[str, Tensor]:
        """Each score of each image."""
        return {f"_{name}": cells for name, cells in self.metric_fn.per_image().items()}
