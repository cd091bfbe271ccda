"""Surrogate losses and per-image scores for MONAI and PyTorch-Ignite.

Importing the package registers its short names with MONAI's config engine; see the README.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from monai_surrogates._messages import missing_name as _missing_name
from monai_surrogates._version import __version__

__all__ = ["__version__", "core", "data", "handlers", "losses", "metrics"]


def _is_own_command_line() -> bool:
    """Whether Python was started for ``monai-surrogates`` or ``python -m monai_surrogates``.

    There ``--help`` must not wait for MONAI, and no config looks for short names.
    """
    options = sys.orig_argv[1:]
    as_module = sys.argv[:1] == ["-m"] and options[options.index("-m") + 1 :][:1] == [
        __name__
    ]  # sys.argv while runpy imports the package
    return as_module or Path(*sys.argv[:1]).name in ("monai-surrogates", "monai-surrogates.exe")


def __getattr__(name: str) -> Any:
    """A subpackage that the command line has not imported so far; any other name is an error that suggests the nearest."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise _missing_name(__name__, name)


if not _is_own_command_line():
    from monai_surrogates import core, data, handlers, losses, metrics
