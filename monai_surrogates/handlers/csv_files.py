"""Class names in the files of MONAI's MetricsSaver, which always calls the columns class0, class1 and so on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.handlers import MetricsSaver


def name_classes(engine: Engine, metric: str, labels: Sequence[str]) -> None:
    """Replace the column names of a metric in the files that the engine's MetricsSavers have written.

    MetricsSaver has no argument for them.

    Args:
        engine: after an epoch.
        metric: the metric's name in ``engine.state.metric_details``.
        labels: one name for each column.
    """
    for saver in _savers(engine):
        writes = metric in (saver.metric_details or ()) or "*" in (saver.metric_details or ())
        if writes and idist.get_rank() == saver.save_rank:
            folder = Path(saver.save_dir)
            _replace_words(folder / f"{metric}_raw.csv", saver.deli, labels, rows=False)
            _replace_words(folder / f"{metric}_summary.csv", saver.deli, labels, rows=True)


def _savers(engine: Engine) -> list[MetricsSaver]:
    # Ignite has no public list of an engine's handlers.
    attached = getattr(engine, "_event_handlers", {}).get(Events.EPOCH_COMPLETED, [])
    return [handler for handler, *_ in attached if isinstance(handler, MetricsSaver)]


def _replace_words(file: Path, delimiter: str, labels: Sequence[str], rows: bool) -> None:
    """Replace MetricsSaver's class names in the headings of the columns, or of the ``rows``."""
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as stream:
        table = list(csv.reader(stream, delimiter=delimiter))
    names = {f"class{number}": label for number, label in enumerate(labels)}
    if rows:
        table[1:] = [[names.get(first, first), *rest] for first, *rest in table[1:]]
    else:
        table[0] = [names.get(word, word) for word in table[0]]
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(table)
