"""Ignite handlers for MONAI's and for bare Ignite engines."""

from monai_surrogates.handlers.per_image import PerImageDice, PerImageHandler, PerImageIoU

__all__ = ["PerImageDice", "PerImageHandler", "PerImageIoU"]
