"""Ignite handlers: per-image scores in an engine's state, objectives by epoch, and trainings that resume."""

from monai_surrogates._messages import missing_name as _missing_name
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


def __getattr__(name: str) -> object:
    """A missing name is an error that suggests the nearest."""
    raise _missing_name(__name__, name)
