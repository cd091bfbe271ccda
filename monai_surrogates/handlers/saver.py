"""Per-image scores as CSV files with the names of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine
from monai.handlers import MetricsSaver, write_metrics_reports


class PerImageSaver(MetricsSaver):
    """MONAI's MetricsSaver with named classes: ``filename,liver,tumour,mean`` in place of ``filename,class0,class1,mean``.

    Takes MetricsSaver's arguments and writes its files: ``metrics.csv``, and for each metric ``NAME_raw.csv`` with one row per
    image and, with ``summary_ops``, ``NAME_summary.csv``. What the handlers of this package fill gets its class names, and has
    no column for a background that is not scored and no row for an image that is a repeat; all else is written as MONAI does.

    Examples:
        >>> import tempfile, pathlib, torch
        >>> from ignite.engine import Engine
        >>> from monai_surrogates.handlers import PerImageDice
        >>> folder, engine = tempfile.mkdtemp(), Engine(lambda engine, batch: batch)
        >>> PerImageDice(num_classes=2, include_background=False, class_labels=["lesion"]).attach(engine, "dice")
        >>> PerImageSaver(folder, metric_details="*", batch_transform=lambda batch: []).attach(engine)
        >>> state = engine.run([(torch.tensor([[[[1, 1]]]]), torch.tensor([[[1, 0]]]))])
        >>> print(pathlib.Path(folder, "dice_raw.csv").read_text().strip())
        filename,lesion,mean
        0,0.6667,0.6667
    """

    def __call__(self, engine: Engine) -> None:
        """Write the files of an epoch, on one rank."""
        images = self._filenames
        if idist.get_world_size() > 1:
            images = [image for of_rank in idist.all_gather(images) for image in of_rank]
        if idist.get_rank() != self.save_rank:
            return
        self._write(None, metrics=_chosen(engine.state.metrics, self.metrics))
        rows_of = getattr(engine.state, "metric_rows", {})
        for name, details in _chosen(getattr(engine.state, "metric_details", {}), self.metric_details).items():
            if name in rows_of:
                labels, kept = rows_of[name]
                files = [images[row] for row in kept] if images else None
                self._write(files, metric_details={name: details[kept][:, -len(labels) :]}, class_labels=list(labels))
            else:
                self._write(images or None, metric_details={name: details})

    def _write(self, images: list[str] | None, **tables: Any) -> None:
        given = {"metrics": None, "metric_details": None, **tables}
        write_metrics_reports(
            self.save_dir,
            images,
            **given,
            summary_ops=self.summary_ops,
            deli=self.deli,
            output_type=self.output_type,
        )


def _chosen(table: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """The entries that MetricsSaver's ``metrics`` or ``metric_details`` asks for."""
    return {name: value for name, value in table.items() if names and ("*" in names or name in names)}
