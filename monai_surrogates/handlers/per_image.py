"""Per-image scores in ``engine.state.metrics``, on MONAI's engines and on a bare Ignite engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from monai.utils import MetricReduction
from torch import Tensor

from monai_surrogates._messages import unknown_argument, warn_user
from monai_surrogates.core.scores import check_score_name
from monai_surrogates.handlers.base import OverlapHandler
from monai_surrogates.metrics import (
    OverlapMetric,
    PerImageDiceMetric,
    PerImageIoUMetric,
    PerImageMetric,
    PerImageScores,
)
from monai_surrogates.metrics.base import arguments_of, warn_of_components

Metric = TypeVar("Metric", bound=OverlapMetric)


class PerImageHandler(OverlapHandler):
    """One per-image score of an epoch.

    ``engine.state.metrics`` gets ``name``, the reduced score; ``name/defined``, its number of defined cells (for the reduction
    ``"mean"``: images); and for each scored class ``name/label``, its mean over images, with ``name/label/defined``
    (``per_class``).

    Args:
        metric_fn: a :class:`~monai_surrogates.metrics.PerImageMetric`.
        output_transform: see :class:`OverlapHandler`.
        save_details: see :class:`OverlapHandler`.
        drop_repeats: see :class:`OverlapHandler`.
        per_class: see :class:`OverlapHandler`.

    Raises:
        NotComputableError: the epoch ended without a single image on any rank.
    """

    metric_fn: PerImageMetric

    def readings(self) -> dict[str, float | Tensor]:
        """The reduced score and its number of defined cells."""
        score, defined = self.metric_fn.aggregate_with_count()
        return {"": score, "defined": defined}

    def class_readings(self) -> list[dict[str, float | Tensor]]:
        """The mean of each class and its number of images."""
        means, counts = self.metric_fn.aggregate_with_count(MetricReduction.MEAN_BATCH)
        return [{"": mean, "defined": count} for mean, count in zip(means, counts, strict=True)]

    def details(self) -> dict[str, Tensor]:
        """The metric's buffer."""
        return {"": self.metric_fn.get_buffer()}

    def compute(self) -> float | Tensor | dict[str, float]:
        """The score of all images so far on all ranks, 0 if undefined; as a dictionary where MONAI's MeanDice has one."""
        score = super().compute()
        if not self.metric_fn.names_means():
            return score
        return dict(zip(self.metric_fn.class_labels, torch.as_tensor(score).reshape(-1).tolist(), strict=True))


class PerImageDice(PerImageHandler):
    """Per-image Dice of an epoch, in the place of MONAI's MeanDice.

    ``engine.state.metrics`` gets ``name``, the reduced score; ``name/defined``, its number of defined cells (for the reduction
    ``"mean"``: images); and for each scored class ``name/label``, its mean over images, with ``name/label/defined``
    (``per_class``).

    Args:
        include_background: whether channel 0 is scored; a single channel always is.
        reduction: MONAI's reductions.
        num_classes: C, needed for label maps, unless the prediction has one channel per class.
        output_transform: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        save_details: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        return_with_label: True, or a list of names: with the reduction ``"mean_batch"`` the score is a dictionary of the means
            of the classes, which are in ``engine.state.metrics`` under their names, too, as with MONAI's MeanDice.
        drop_repeats: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        per_class: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        **metric: all other arguments of :class:`~monai_surrogates.metrics.PerImageMetric`: ``threshold``, ``argmax``,
            ``ignore_index``, ``empty``, ``ignore_empty``, ``class_labels``. The count of ``get_not_nans`` is always there, as
            ``name/defined``.

    Raises:
        NotComputableError: the epoch ended without a single image on any rank.
        TypeError: an unknown argument; the message suggests the nearest.

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

    def __init__(
        self,
        include_background: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        num_classes: int | None = None,
        output_transform: Callable[[Any], Any] = lambda x: x,
        save_details: bool = True,
        return_with_label: bool | Sequence[str] = False,
        *,
        drop_repeats: bool = True,
        per_class: bool | None = None,
        **metric: Any,
    ) -> None:
        metric |= {"include_background": include_background, "reduction": reduction, "num_classes": num_classes}
        metric |= {"return_with_label": return_with_label}
        metric_fn = _metric_of(type(self), PerImageDiceMetric, metric)
        super().__init__(metric_fn, output_transform, save_details, drop_repeats, per_class)


class PerImageIoU(PerImageHandler):
    """Per-image IoU of an epoch, in the place of MONAI's MeanIoUHandler; results as in :class:`PerImageDice`.

    Args:
        include_background: as all arguments, see :class:`PerImageDice`; the order is that of MONAI's MeanIoUHandler.
        reduction: see there.
        output_transform: see there.
        save_details: see there.
        drop_repeats: see there.
        per_class: see there.
        **metric: see there; ``num_classes`` and ``return_with_label`` too.
    """

    def __init__(
        self,
        include_background: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        output_transform: Callable[[Any], Any] = lambda x: x,
        save_details: bool = True,
        *,
        drop_repeats: bool = True,
        per_class: bool | None = None,
        **metric: Any,
    ) -> None:
        metric |= {"include_background": include_background, "reduction": reduction}
        metric_fn = _metric_of(type(self), PerImageIoUMetric, metric)
        super().__init__(metric_fn, output_transform, save_details, drop_repeats, per_class)


class PerImageSummary(OverlapHandler):
    """All scores of an epoch from one count; see :class:`~monai_surrogates.metrics.PerImageScores`.

    ``engine.state.metrics`` gets ``name``, the mean of ``score`` over the classes of an image, then over images;
    ``name/defined``, its number of images; ``name/dice``, ``name/pooled_dice``, ``name/miou_d``,
    ``name/worst_5_dice`` and all else of :meth:`PerImageScores.aggregate`; and for each class ``name/label/dice`` and
    so on (``per_class``). ``engine.state.metric_details`` gets ``name``, ``name_dice``, ``name_iou`` and so on.

    Args:
        score: the score under ``name``: ``"dice"``, ``"iou"``, ``"precision"``, ``"recall"`` or
            ``"relative_volume_error"``.
        output_transform: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        save_details: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        drop_repeats: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        per_class: see :class:`~monai_surrogates.handlers.OverlapHandler`.
        reduction: of MONAI's MeanDice. All means are there at once; another than ``"mean"`` is named in a warning.
        get_not_nans: of MONAI's DiceMetric; the counts are always there.
        **metric: the arguments of :class:`~monai_surrogates.metrics.PerImageScores`.

    Raises:
        NotComputableError: the epoch ended without a single image on any rank.
        TypeError: an unknown argument; the message suggests the nearest.
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
        *,
        per_class: bool | None = None,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
        **metric: Any,
    ) -> None:
        check_score_name(score)
        self.score = score
        if MetricReduction(reduction) != MetricReduction.MEAN:
            warn_user(f"{type(self).__name__} has no use for reduction, because it gives every mean: not used.")
        metric_fn = _metric_of(type(self), PerImageScores, metric)
        super().__init__(metric_fn, output_transform, save_details, drop_repeats, per_class)

    def readings(self) -> dict[str, float | Tensor]:
        """The summary."""
        summary = self.metric_fn.table().aggregate
        return {"": summary[self.score], "defined": summary[f"defined_{self.score}"], **summary}

    def class_readings(self) -> list[dict[str, float | Tensor]]:
        """The scores of each class."""
        return [dict(values) for values in self.metric_fn.table().by_label.values()]

    def details(self) -> dict[str, Tensor]:
        """The chosen score of each image, as MONAI's handlers give it, and every score."""
        scores = self.metric_fn.per_image()
        return {"": scores[self.score], **{f"_{name}": cells for name, cells in scores.items()}}


def _metric_of(handler: type[OverlapHandler], metric_class: type[Metric], arguments: dict[str, Any]) -> Metric:
    """The metric of a handler's arguments, about which messages name the handler."""
    known = arguments_of(metric_class)
    if unknown := [name for name in arguments if name not in known]:
        raise unknown_argument(handler.__name__, unknown[0], known | arguments_of(handler))
    if arguments.pop("per_component", False):
        warn_of_components(handler.__name__)
    return metric_class(**arguments)
