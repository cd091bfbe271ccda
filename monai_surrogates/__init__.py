"""Surrogate losses and per-image scores for MONAI and PyTorch-Ignite.

Importing the package registers its short names with MONAI's config engine; see the README.
"""

from monai_surrogates import core, data, handlers, losses, metrics
from monai_surrogates._version import __version__

__all__ = ["__version__", "core", "data", "handlers", "losses", "metrics"]
