"""Class names and all digits in the files of MONAI's MetricsSaver, which numbers the classes and writes four decimals."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.handlers import MetricsSaver
from torch import Tensor

Table = list[list[str]]


def complete_files(engine: Engine, metric: str, labels: Sequence[str]) -> None:
    """Complete a metric's files that the engine's MetricsSavers have written; MetricsSaver has no argument for it.

    The scores of the images, and their mean over the classes of an image, get all digits, so that a reader has the numbers of
    ``engine.state.metric_details``, to the last bit. Columns, and rows of the summary, get the names of the classes.

    Args:
        engine: after an epoch.
        metric: the metric's name in ``engine.state.metric_details``.
        labels: one name for each column.
    """
    scores = engine.state.metric_details[metric]
    names = {f"class{number}": label for number, label in enumerate(labels)}
    for saver in _savers(engine):
        writes = metric in (saver.metric_details or ()) or "*" in (saver.metric_details or ())
        if writes and idist.get_rank() == saver.save_rank:
            folder = Path(saver.save_dir)
            of_images = partial(_of_images, names=names, scores=scores, delimiter=saver.deli)
            _rewrite(folder / f"{metric}_raw.csv", saver.deli, of_images)
            _rewrite(folder / f"{metric}_summary.csv", saver.deli, partial(_of_classes, names=names))


def _savers(engine: Engine) -> list[MetricsSaver]:
    # Ignite has no public list of an engine's handlers.
    attached = getattr(engine, "_event_handlers", {}).get(Events.EPOCH_COMPLETED, [])
    return [handler for handler, *_ in attached if isinstance(handler, MetricsSaver)]


def _of_images(table: Table, names: dict[str, str], scores: Tensor, delimiter: str) -> Table:
    """A heading, then a row per image: its file, its scores, their mean."""
    heading, *rows = table
    digits = torch.cat([scores, scores.nanmean(1, keepdim=True)], dim=1).tolist()
    files = [delimiter.join(row[: -len(heading) + 1]) for row in rows]  # MetricsSaver quotes none
    rows = [[file, *map(repr, cells)] for file, cells in zip(files, digits, strict=True)]
    return [[names.get(word, word) for word in heading], *rows]


def _of_classes(table: Table, names: dict[str, str]) -> Table:
    """A heading, then a row per class."""
    heading, *rows = table
    return [heading, *([names.get(first, first), *rest] for first, *rest in rows)]


def _rewrite(file: Path, delimiter: str, change: Callable[[Table], Table]) -> None:
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as stream:
        table = change(list(csv.reader(stream, delimiter=delimiter)))
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(table)
