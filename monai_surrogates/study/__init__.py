"""The study: the same bundle under every objective, scored per image."""

from monai_surrogates.study.plan import Settings, Study, StudyError, StudyRun
from monai_surrogates.study.run import run_study

__all__ = ["Settings", "Study", "StudyError", "StudyRun", "run_study"]
