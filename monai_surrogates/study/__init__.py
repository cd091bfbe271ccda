"""The study: the same bundle under every objective, scored per image."""

from monai_surrogates.study.plan import Settings, Study, StudyCell, StudyError
from monai_surrogates.study.run import run_study

__all__ = ["Settings", "Study", "StudyCell", "StudyError", "run_study"]
