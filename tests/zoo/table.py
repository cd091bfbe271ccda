"""The table at the end of the suite: bundles x objectives x handlers."""

from __future__ import annotations

from collections.abc import Mapping

WORDS = {"passed": "ok", "skipped": "n/a"}


def rows_of(cells: Mapping[tuple[str, str, str], str]) -> list[str]:
    """A line for each objective and set of handlers, a column for each kind of bundle.

    Args:
        cells: outcome of each kind, objective and set of handlers.
    """
    kinds = sorted({kind for kind, _, _ in cells})
    pairs = sorted({(objective, handlers) for _, objective, handlers in cells})
    lines = [("objective", "handlers", *kinds)]
    for pair in pairs:
        outcomes = [cells.get((kind, *pair)) for kind in kinds]
        lines.append((*pair, *("" if outcome is None else WORDS.get(outcome, "FAILED") for outcome in outcomes)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
