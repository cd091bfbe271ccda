from monai_surrogates.data.counts import class_counts, structure_volumes
from monai_surrogates.data.errors import DataError
from monai_surrogates.data.msd import MSDTask, Split, check_task, read_task, split
from monai_surrogates.data.nifti import check_same_grid
from monai_surrogates.data.synthetic import write_synthetic_task

__all__ = [
    "DataError",
    "MSDTask",
    "Split",
    "check_same_grid",
    "check_task",
    "class_counts",
    "read_task",
    "split",
    "structure_volumes",
    "write_synthetic_task",
]
