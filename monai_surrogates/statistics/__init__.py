"""Statistics of per-image scores: NumPy and SciPy on arrays, no tensors; SciPy comes with the extra ``study``."""

from importlib.util import find_spec as _find_spec

if _find_spec("scipy") is None:
    raise ImportError("monai_surrogates.statistics needs SciPy; install it with: pip install 'monai-surrogates[study]'")

from monai_surrogates.statistics.intervals import RESAMPLES, MeanInterval, mean_interval

__all__ = ["RESAMPLES", "MeanInterval", "mean_interval"]
