"""Ignite handlers that put per-image scores into an engine's state, and write them."""

from monai_surrogates.handlers.base import DetailRows, OverlapHandler
from monai_surrogates.handlers.per_image import PerImageDice, PerImageHandler, PerImageIoU, PerImageSummary
from monai_surrogates.handlers.saver import PerImageSaver

__all__ = [
    "DetailRows",
    "OverlapHandler",
    "PerImageDice",
    "PerImageHandler",
    "PerImageIoU",
    "PerImageSaver",
    "PerImageSummary",
]
