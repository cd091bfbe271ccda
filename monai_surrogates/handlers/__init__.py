"""Ignite handlers: per-image scores in an engine's state, objectives by epoch, and trainings that resume."""

from monai_surrogates.handlers.base import OverlapHandler
from monai_surrogates.handlers.objective_schedule import ObjectiveSchedule
from monai_surrogates.handlers.per_image import PerImageDice, PerImageHandler, PerImageIoU, PerImageSummary
from monai_surrogates.handlers.resumable import ResumableTraining

__all__ = [
    "ObjectiveSchedule",
    "OverlapHandler",
    "PerImageDice",
    "PerImageHandler",
    "PerImageIoU",
    "PerImageSummary",
    "ResumableTraining",
]
