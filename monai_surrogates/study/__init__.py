"""The study: the same bundle under every objective, scored per image."""

from monai_surrogates.study.plan import Cell, Settings, Study, StudyError
from monai_surrogates.study.run import run_study

__all__ = ["Cell", "Settings", "Study", "StudyError", "run_study"]
