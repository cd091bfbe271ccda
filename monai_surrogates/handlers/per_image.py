"""Per-image Dice and IoU in ``engine.state.metrics``, on MONAI's engines and on a bare Ignite engine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.handlers import IgniteMetricHandler
from monai.utils import MetricReduction
from torch import Tensor

from monai_surrogates.metrics import PerImageDiceMetric, PerImageIoUMetric, PerImageMetric


class PerImageHandler(IgniteMetricHandler):
    """Collects a per-image score over an epoch.

    ``engine.state.metrics[name]`` is always finite, because MONAI's checkpoint saver would keep a NaN for ever: with no
    defined cell it is 0, one warning says so, and ``engine.state.metrics[name + "/defined"]`` holds how many cells (for the
    reduction ``"mean"``: images) the value stands on. ``engine.state.metric_details[name]`` holds the scores themselves,
    (images, classes), NaN included.

    Args:
        include_background: whether channel 0 is scored; a single channel always is.
        reduction: MONAI's reductions.
        num_classes: C, needed for label maps.
        output_transform: extracts (prediction, reference) from ``engine.state.output``, such as
            ``monai.handlers.from_engine(["pred", "label"])``. References (B, spatial...) are read as (B, 1, spatial...).
        save_details: fill ``engine.state.metric_details``, which MONAI's MetricsSaver writes per image.
        empty: the rule for a class that the reference lacks, ``"ignore"``, ``"score"`` or ``"both"``.

    Raises:
        NotComputableError: the epoch ended without a single image.

    Examples:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> engine = Engine(lambda engine, batch: batch)
        >>> PerImageDice(num_classes=2, include_background=False).attach(engine, "dice")
        >>> prediction, reference = torch.tensor([[[[1, 1], [0, 0]]]]), torch.tensor([[[1, 0], [0, 0]]])
        >>> round(engine.run([(prediction, reference)]).metrics["dice"], 4)
        0.6667
    """

    metric_class: ClassVar[type[PerImageMetric]]

    def __init__(
        self,
        include_background: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        num_classes: int | None = None,
        output_transform: Callable[[Any], Any] = lambda x: x,
        save_details: bool = True,
        empty: str = "ignore",
    ) -> None:
        metric = self.metric_class(
            include_background=include_background, reduction=reduction, num_classes=num_classes, empty=empty
        )
        self._defined: float | Tensor = 0
        self._warned = False
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=save_details)

    def update(self, output: Sequence[Any]) -> None:
        """Score one batch: (prediction, reference), tensors or lists of images without the batch axis."""
        if len(output) == 2 and all(isinstance(part, Tensor) for part in output):
            prediction, reference = output
            if reference.ndim == prediction.ndim - 1:
                output = (prediction, reference.unsqueeze(1))
        super().update(output)

    def compute(self) -> float | Tensor:
        """The reduced score of all images so far, NaN replaced by 0."""
        if self.metric_fn.get_buffer() is None:
            raise NotComputableError(f"{type(self).__name__} has no image yet; it must see one before it is computed.")
        score, count = self.metric_fn.aggregate_with_count()
        self._defined = _plain(count)
        self._is_reduced = True
        return _plain(self._finite(score))

    def completed(self, engine: Engine, name: str) -> None:
        """Put the score and the number of cells that it stands on into ``engine.state.metrics``, and the details beside it."""
        super().completed(engine, name)
        engine.state.metrics[f"{name}/defined"] = self._defined
        if self.save_details:
            engine.state.metric_details[name] = self.metric_fn.get_buffer()

    def _finite(self, score: Tensor) -> Tensor:
        undefined = score.isnan()
        if not self._warned and bool(undefined.any()):
            self._warned = True
            what = "no image has a defined score" if bool(undefined.all()) else "some of the scores are undefined"
            warnings.warn(
                f"{self._name or type(self).__name__}: {what} (empty references, "
                f"empty={self.metric_fn.empty!r}); reported as 0.",
                stacklevel=2,
            )
        return torch.where(undefined, 0, score)


class PerImageDice(PerImageHandler):
    """Per-image Dice; arguments as in :class:`PerImageHandler`."""

    metric_class = PerImageDiceMetric


class PerImageIoU(PerImageHandler):
    """Per-image IoU; arguments as in :class:`PerImageHandler`."""

    metric_class = PerImageIoUMetric


def _plain(value: Tensor) -> float | Tensor:
    value = value.squeeze().cpu()
    return value.item() if value.ndim == 0 else value
