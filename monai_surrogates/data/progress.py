from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from monai.utils import optional_import

_tqdm, _has_tqdm = optional_import("tqdm", name="tqdm")
_Item = TypeVar("_Item")


def with_progress(items: Sequence[_Item], description: str, show: bool = True) -> Iterable[_Item]:
    """Iterates over the items, with a progress bar if tqdm is installed and the output is a terminal.

    Args:
        items: any sequence.
        description: label of the bar.
        show: False for no bar.

    Returns:
        An iterable over the same items in the same order.

    Example:
        >>> list(with_progress([1, 2], "counting", show=False))
        [1, 2]
    """
    if not (show and _has_tqdm):
        return items
    bar: Iterable[_Item] = _tqdm(items, desc=description, leave=False, disable=None)
    return bar
