"""Ignite handlers that put per-image scores into an engine's state."""

from monai_surrogates.handlers.base import OverlapHandler
from monai_surrogates.handlers.per_image import PerImageDice, PerImageHandler, PerImageIoU, PerImageSummary

__all__ = [
    "OverlapHandler",
    "PerImageDice",
    "PerImageHandler",
    "PerImageIoU",
    "PerImageSummary",
]
